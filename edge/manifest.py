"""What `manifest.json` holds: the network, its artifacts with their sha256, the operating point, what it was calibrated and
trained on, and the tools.

Unknown or missing keys or another schema is an error. The records check themselves when they are made and raise ValueError; read
from a file that is a BundleError.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from edge.bundle_file import BundleFile
from edge.decode import decode
from edge.errors import BundleError
from edge.golden_answers import Golden
from edge.interpretation import Interpretation
from edge.ood import Familiarity, FeatureReference
from edge.preprocess import Resize
from edge.presence import Presence

SCHEMA: Final = 5
MANIFEST: Final = "manifest.json"
ENGINE_ORDER: Final = ("openvino", "litert", "onnx", "tflite-runtime")
ARTIFACTS_OF: Final = {"openvino": "openvino", "litert": "litert", "onnx": "onnx", "tflite-runtime": "litert"}
"""The engine whose name the artifacts that an engine runs have in a bundle: tflite-runtime opens LiteRT's files."""
PRECISIONS: Final = ("int8", "fp32")
PHANTOM: Final = "phantom"

Kind = Literal["mask", "class", "features", "other"]
Activation = Literal["sigmoid", "softmax", "none"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A network in the format of one engine. The first file is the one to open.

    engine: in a manifest the one that the format is of; from `Bundle.choose` and `Bundle.runs` the one that runs it (`run_by`).

    int8_convolutions: of a LiteRT INT8 artifact, how many convolutions and fully connected layers run in INT8, and how many
    there are. referee_delta: largest over the outputs of mean |Δ| to the referee as a share of that output's range; None
    where it was not measured at export.
    """

    engine: str
    precision: str
    files: tuple[BundleFile, ...]
    int8_convolutions: tuple[int, int] | None = None
    referee_delta: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in ARTIFACTS_OF or self.precision not in PRECISIONS or not self.files:
            raise ValueError(f"unknown artifact {self.engine} {self.precision}")
        if self.int8_convolutions is not None:
            int8, every = self.int8_convolutions
            if (ARTIFACTS_OF[self.engine], self.precision) != ("litert", "int8") or not 0 <= int8 <= every:
                raise ValueError(
                    f"{int8} of {every} convolutions in INT8 cannot be said of {self.engine} {self.precision}"
                )
        if self.referee_delta is not None and not 0.0 <= self.referee_delta < math.inf:
            raise ValueError(f"a referee_delta of {self.referee_delta} is no distance")

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def runners(self) -> tuple[str, ...]:
        """Engines that run these files, the one that the format is of first."""
        kind = ARTIFACTS_OF[self.engine]
        return tuple(engine for engine, runs in ARTIFACTS_OF.items() if runs == kind)

    def run_by(self, engine: str) -> Self:
        """The same files under the name of an engine that runs them. Raises ValueError when it does not."""
        if engine not in self.runners:
            raise ValueError(f"{engine} does not run artifacts of {self.engine}")
        return replace(self, engine=engine)


@dataclass(frozen=True, slots=True)
class Missing:
    """An artifact that could not be made, and why."""

    engine: str
    precision: str
    reason: str


@dataclass(frozen=True, slots=True)
class InputSpec:
    """The network's input. Artifacts take one grey uint8 image, (1, 1, height, width).

    The network inside sees `channels` of it: pixel p is (p − offset[c]) / scale[c] in channel c. resize: how a frame becomes the
    image (`edge.preprocess`).
    """

    name: str
    height: int
    width: int
    channels: int
    offset: tuple[float, ...]
    scale: tuple[float, ...]
    resize: Resize

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.channels < 1:
            raise ValueError(f"input {self.name!r}: {self.channels}×{self.height}×{self.width} is no image")
        if not len(self.offset) == len(self.scale) == self.channels:
            raise ValueError(
                f"input {self.name!r}: offset and scale need one number for each of {self.channels} channels"
            )
        if not all(map(math.isfinite, (*self.offset, *self.scale))) or 0.0 in self.scale:
            raise ValueError(
                f"input {self.name!r}: offset {self.offset} and scale {self.scale} must be finite, no scale 0"
            )
        if self.resize not in get_args(Resize):
            raise ValueError(f"input {self.name!r}: resize {self.resize!r} is none of {', '.join(get_args(Resize))}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """A float32 output. shape: ONNX order, batch of one first, images as NCHW.

    kind: "mask", (1, C, h, w): with one channel that of lesion, with more channel 0 is background; "class", (1, K): with one
    value that of the second of two labels; "features", (1, C): what the guard tells unfamiliar pictures by (`edge.ood`); or
    "other", which is not read. activation: what the runtime applies to get probabilities, softmax over axis 1; "none" where they
    are probabilities already, and for features and others.
    """

    name: str
    kind: Kind
    activation: Activation
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        what = f"output {self.name!r} of shape {self.shape}"
        if self.kind not in get_args(Kind) or self.activation not in get_args(Activation):
            raise ValueError(f"{what}: kind {self.kind!r} with activation {self.activation!r} is not known")
        if any(side < 1 for side in self.shape):
            raise ValueError(f"{what}: every axis has at least one value")
        if self.kind in ("features", "other") and self.activation != "none":
            raise ValueError(f"{what}: an output of kind {self.kind} is no probability and has activation none")
        if self.kind == "other":
            return
        wanted = {"mask": "(1, C, h, w)", "class": "(1, K)", "features": "(1, C)"}[self.kind]
        if len(self.shape) != wanted.count(",") + 1 or self.shape[0] != 1:
            raise ValueError(f"{what}: a {self.kind} output has the shape {wanted}")
        if self.activation == "softmax" and self.channels == 1:
            raise ValueError(f"{what}: a softmax over one channel is always 1; use sigmoid")

    @property
    def channels(self) -> int:
        """C of a mask or of features, K of a class output."""
        return self.shape[1]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where a probability becomes a call: that of label `positive`, at or above `threshold`. chosen_on: in words.

    temperature: what class logits are divided by before they become probabilities. int8_threshold: the threshold in INT8, moved
    there after quantisation; None where it has none of its own. Raises ValueError.
    """

    threshold: float
    positive: str
    chosen_on: str
    temperature: float = 1.0
    int8_threshold: float | None = None

    def __post_init__(self) -> None:
        for threshold in (self.threshold, self.int8_threshold):
            if threshold is not None and not 0.0 < threshold < 1.0:
                raise ValueError(f"threshold {threshold} lies outside 0..1")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} is not positive and finite")

    def at(self, precision: str) -> Self:
        """The record for one precision, its `threshold` that of "fp32" or "int8" and no other left in it."""
        if precision == "int8" and self.int8_threshold is not None:
            return replace(self, threshold=self.int8_threshold, int8_threshold=None)
        return replace(self, int8_threshold=None)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The frames that INT8 ranges were taken from. source: "phantom", or what they were. frames: sha256 of each."""

    source: str
    count: int
    frames: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Training:
    """The frames the weights were fitted on (`trained_on`) and chosen on (`tuned_on`), by sha256; data sets with terms."""

    data: tuple[str, ...]
    trained_on: tuple[str, ...]
    tuned_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What `manifest.json` holds.

    source_sha256: of the checkpoint or ONNX file it was made from. outputs: at most one mask, one class and one features output;
    labels and operating_point belong to the class, presence to the mask (None: any pixel of it is a lesion), features to the
    features (None: any picture is familiar). weight_range: "full", or "half" for x86 without VNNI. guesses: what the export
    guessed and was not told. calibration: None for FP32. golden: frames and answers for a device's self-test, None where it has
    none to give (it makes no prediction, or was written by hand).
    """

    schema: int
    network: str
    source_sha256: str
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    labels: tuple[str, ...]
    operating_point: OperatingPoint | None
    presence: Presence | None
    weight_range: str
    artifacts: tuple[Artifact, ...]
    missing: tuple[Missing, ...]
    guesses: tuple[str, ...]
    drift: dict[str, Any] | None
    versions: dict[str, str]
    calibration: Calibration | None
    training: Training = field(default_factory=lambda: Training((), (), ()))
    features: Familiarity | None = None
    golden: Golden | None = None

    def __post_init__(self) -> None:
        for engine in (artifact.engine for artifact in self.artifacts):
            if ARTIFACTS_OF[engine] != engine:
                raise ValueError(f"an artifact for {engine} is written as one of {ARTIFACTS_OF[engine]}")
        names = [output.name for output in self.outputs]
        kinds = [output.kind for output in self.outputs]
        if len(set(names)) < len(names) or any(kinds.count(kind) > 1 for kind in ("mask", "class", "features")):
            raise ValueError(
                f"outputs {', '.join(names)}: names are unique, and one at most is the mask, one the class, one the features"
            )
        if self.predicts:
            self.interpretation()
        elif self.operating_point is not None:
            raise ValueError("an operating point needs a class output")
        elif self.presence is not None:
            raise ValueError("presence needs a mask output")
        if self.golden is not None:
            kinds_read = {output.kind: output for output in self.outputs}
            labels = len(self.labels) if "class" in kinds_read else 0
            self.golden.check({a.precision for a in self.artifacts}, labels, mask="mask" in kinds_read)
        if self.features is not None:
            given = self.features_output
            if given is None:
                raise ValueError("a feature reference needs a features output")
            if given.channels != self.features.channels:
                raise ValueError(
                    f"output {given.name!r} has {given.channels} channels, its feature reference {self.features.channels}"
                )

    @property
    def predicts(self) -> bool:
        """True when there is a mask or a class output, so that `interpretation` has something to say."""
        return any(output.kind in ("mask", "class") for output in self.outputs)

    @property
    def features_output(self) -> OutputSpec | None:
        """The output that `features` is of."""
        return next((output for output in self.outputs if output.kind == "features"), None)

    def feature_reference(self, precision: str) -> FeatureReference | None:
        """What features of an artifact of this precision, "fp32" or "int8", are held against; None where there is nothing."""
        return None if self.features is None else self.features.at(precision)

    def interpretation(self, precision: str = "fp32") -> Interpretation:
        """How to read the outputs of an artifact of this precision, "fp32" or "int8".

        Raises BundleError when there is neither a mask nor a class output, ValueError for another precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
        if not self.predicts:
            raise BundleError(
                f"{self.network}: edgekit predict needs to know which output is the mask or the class; "
                "export again with --mask-output or --class-output"
            )
        read = {output.kind: output for output in self.outputs}
        point = None if self.operating_point is None else self.operating_point.at(precision)
        return Interpretation(
            input_size=self.input.size,
            resize=self.input.resize,
            mask=read.get("mask"),
            classes=read.get("class"),
            labels=self.labels,
            positive=None if point is None else point.positive,
            threshold=None if point is None else point.threshold,
            temperature=1.0 if point is None else point.temperature,
            presence=None if self.presence is None else self.presence.at(precision),
            features=self.features_output,
        )

    @property
    def phantom_calibrated(self) -> bool:
        """True when INT8 ranges come from synthetic images."""
        return self.calibration is not None and self.calibration.source == PHANTOM

    def forbidden_frames(self) -> Mapping[str, str]:
        """Sha256 of every frame that nothing may be reported on, with what it was used for."""
        used = dict.fromkeys(self.features.frames if self.features else (), "calibrated on")
        used |= dict.fromkeys(self.calibration.frames if self.calibration else (), "calibrated on")
        used |= dict.fromkeys(self.training.tuned_on, "tuned on")
        used |= dict.fromkeys(self.training.trained_on, "trained on")
        return used

    @classmethod
    def from_json(cls, content: bytes, where: Path) -> Self:
        """Read a manifest; `where` is the file that errors name. Raises BundleError."""
        try:
            raw = json.loads(content.decode("utf-8"))
        except ValueError as error:
            raise BundleError(f"{where}: not valid JSON ({error})") from error
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if type(schema) is int and schema != SCHEMA:
            story = "is newer than this edgekit reads; upgrade edgekit"
            if schema < SCHEMA:
                story = "was made by an older edgekit; export again"
            raise BundleError(f"{where}: schema {schema} {story} (this one reads {SCHEMA})")
        manifest: Self = decode(cls, raw, where, "manifest")
        return manifest

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
