"""The bundle: the folder that crosses from workstation to device. Written atomically, read strictly.

`manifest.json` describes the network, its artifacts with their sha256, the operating point, what it was calibrated and
trained on, and the tools. Unknown or missing keys, a wrong hash or another schema is an error. The records below check
themselves when they are made and raise ValueError; read from a file that is a BundleError.
"""

import hashlib
import json
import math
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Self, get_args, get_origin

from edge.atomic import new_folder, write_text
from edge.engines import is_installed
from edge.errors import BundleError, IntegrityError
from edge.interpretation import Interpretation
from edge.preprocess import Resize
from edge.presence import Presence

SCHEMA: Final = 3
MANIFEST: Final = "manifest.json"
_DATA: Final = Path(__file__).parent / "data"
BUILTIN: Final = {name: _DATA / f"{name}-int8" for name in ("emtnet", "emtnet-s")}
"""The INT8 bundles that come with the package, by network."""
ENGINE_ORDER: Final = ("openvino", "litert", "onnx")
PRECISIONS: Final = ("int8", "fp32")
PHANTOM: Final = "phantom"

Kind = Literal["mask", "class", "other"]
Activation = Literal["sigmoid", "softmax", "none"]


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of the bundle, by its path relative to the manifest."""

    path: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if Path(self.path).is_absolute() or ".." in Path(self.path).parts:
            raise ValueError(f"file {self.path!r} lies outside the bundle")


@dataclass(frozen=True, slots=True)
class Artifact:
    """A network in the format of one engine. The first file is the one to open.

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
        if self.engine not in ENGINE_ORDER or self.precision not in PRECISIONS or not self.files:
            raise ValueError(f"unknown artifact {self.engine} {self.precision}")
        if self.int8_convolutions is not None:
            int8, every = self.int8_convolutions
            if (self.engine, self.precision) != ("litert", "int8") or not 0 <= int8 <= every:
                raise ValueError(
                    f"{int8} of {every} convolutions in INT8 cannot be said of {self.engine} {self.precision}"
                )
        if self.referee_delta is not None and not 0.0 <= self.referee_delta < math.inf:
            raise ValueError(f"a referee_delta of {self.referee_delta} is no distance")

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


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
    value that of the second of two labels; or "other", which is not read. activation: what the runtime applies to get
    probabilities, softmax over axis 1; "none" where they are probabilities already.
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
        if self.kind == "other":
            if self.activation != "none":
                raise ValueError(f"{what}: an output of kind other is not read and has activation none")
            return
        rank = {"mask": 4, "class": 2}[self.kind]
        if len(self.shape) != rank or self.shape[0] != 1:
            wanted = {"mask": "(1, C, h, w)", "class": "(1, K)"}[self.kind]
            raise ValueError(f"{what}: a {self.kind} output has the shape {wanted}")
        if self.activation == "softmax" and self.channels == 1:
            raise ValueError(f"{what}: a softmax over one channel is always 1; use sigmoid")

    @property
    def channels(self) -> int:
        """C of a mask, K of a class output."""
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
    """The frames the INT8 ranges were taken from. source: "phantom", or what they were. frames: sha256 of each."""

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

    source_sha256: of the checkpoint or ONNX file it was made from. outputs: at most one mask and one class output; labels and
    operating_point belong to the latter, presence to the mask (None: any pixel of it is a lesion). weight_range: "full", or
    "half" for x86 without VNNI. guesses: what the export guessed and was not told. calibration: None for FP32 only.
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

    def __post_init__(self) -> None:
        names = [output.name for output in self.outputs]
        kinds = [output.kind for output in self.outputs]
        if len(set(names)) < len(names) or kinds.count("mask") > 1 or kinds.count("class") > 1:
            raise ValueError(
                f"outputs {', '.join(names)}: names are unique, and one at most is the mask, one the class"
            )
        if self.predicts:
            self.interpretation()
        elif self.operating_point is not None:
            raise ValueError("an operating point needs a class output")
        elif self.presence is not None:
            raise ValueError("presence needs a mask output")

    @property
    def predicts(self) -> bool:
        """True when there is a mask or a class output, so that `interpretation` has something to say."""
        return any(output.kind != "other" for output in self.outputs)

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
        )

    @property
    def phantom_calibrated(self) -> bool:
        """True when INT8 ranges come from synthetic images."""
        return self.calibration is not None and self.calibration.source == PHANTOM

    def forbidden_frames(self) -> Mapping[str, str]:
        """Sha256 of every frame that nothing may be reported on, with what it was used for."""
        used = dict.fromkeys(self.calibration.frames if self.calibration else (), "calibrated on")
        used |= dict.fromkeys(self.training.tuned_on, "tuned on")
        used |= dict.fromkeys(self.training.trained_on, "trained on")
        return used


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Read and check the manifest; files are checked when used. Raises BundleError."""
        folder = Path(path)
        file = folder / MANIFEST
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(
                f"{folder}: not a bundle (no readable {MANIFEST}); make one with edgekit export"
            ) from error
        except ValueError as error:
            raise BundleError(f"{file}: not valid JSON ({error})") from error
        schema = raw.get("schema") if isinstance(raw, dict) else None
        if type(schema) is int and schema != SCHEMA:
            story = "is newer than this edgekit reads; upgrade edgekit"
            if schema < SCHEMA:
                story = "was made by an older edgekit; export again"
            raise BundleError(f"{file}: schema {schema} {story} (this one reads {SCHEMA})")
        return cls(folder, _decode(Manifest, raw, file, "manifest"))

    @classmethod
    def open_or_builtin(cls, path: Path | str | None, *, network: str = "emtnet") -> Self:
        """Open `path`, or for None the built-in INT8 bundle of `network`, a name in `BUILTIN`. Raises BundleError."""
        return cls.open(BUILTIN[network] if path is None else path)

    def choose(self, *, engine: str = "auto", precision: str = "auto") -> Artifact:
        """The artifact for an engine and precision; auto: INT8 where there is one, the first installed engine.

        Raises BundleError.
        """
        candidates = [
            artifact
            for artifact in self.manifest.artifacts
            if engine in ("auto", artifact.engine) and precision in ("auto", artifact.precision)
        ]
        if not candidates:
            have = ", ".join(f"{a.engine} {a.precision}" for a in self.manifest.artifacts)
            raise BundleError(f"{self.path}: no artifact for engine {engine}, precision {precision}; it has {have}")
        order = engine_order(platform.machine())
        ranked = sorted(candidates, key=lambda a: (PRECISIONS.index(a.precision), order.index(a.engine)))
        usable = [artifact for artifact in ranked if is_installed(artifact.engine)]
        return (usable or ranked)[0]

    def verified_paths(self, artifact: Artifact) -> list[Path]:
        """Paths of an artifact's files after their hashes were checked. Raises IntegrityError."""
        paths = []
        for file in artifact.files:
            path = self.path / file.path
            try:
                content = path.read_bytes()
            except OSError as error:
                raise IntegrityError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from error
            if len(content) != file.size_bytes or hashlib.sha256(content).hexdigest() != file.sha256:
                raise IntegrityError(f"{path}: not the file its manifest describes; copy the bundle again")
            paths.append(path)
        return paths


def engine_order(machine: str) -> tuple[str, ...]:
    """Engines by preference on a processor family: on Arm OpenVINO runs few INT8 layers, LiteRT all of them."""
    if machine.lower() in ("aarch64", "arm64"):
        return ("litert", "openvino", "onnx")
    return ENGINE_ORDER


def describe_file(folder: Path, path: Path) -> BundleFile:
    """Hash a file of a bundle under construction."""
    content = path.read_bytes()
    return BundleFile(str(path.relative_to(folder)), hashlib.sha256(content).hexdigest(), len(content))


@contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the bundle at `path` when the block ends well; else nothing changes.

    Raises BundleError when `path` holds something that is no bundle, SinkError when it cannot be written.
    """
    if path.exists() and not _replaceable(path):
        raise BundleError(f"{path}: exists and is not a bundle; choose another -o")
    with new_folder(path) as folder:
        yield folder


def _replaceable(path: Path) -> bool:
    """True for an empty folder and for a bundle of any version; a manifest.json alone is a common name."""
    if not path.is_dir():
        return False
    try:
        raw = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return not any(path.iterdir())
    return isinstance(raw, dict) and {"schema", "artifacts"} <= raw.keys()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` into a bundle under construction."""
    (folder / MANIFEST).write_text(_dump(asdict(manifest)), encoding="utf-8")


def record_drift(bundle: Bundle, summary: dict[str, Any]) -> None:
    """Keep the figures of a drift check in the manifest. Raises SinkError."""
    raw = asdict(bundle.manifest) | {"drift": summary}
    write_text(bundle.path / MANIFEST, _dump(raw))


def _dump(raw: dict[str, Any]) -> str:
    return json.dumps(raw, indent=1, ensure_ascii=False) + "\n"


def _decode(kind: Any, raw: Any, where: Path, what: str) -> Any:
    """A JSON value as a value of type `kind`, records and tuples made of their parts. Raises BundleError."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is UnionType:  # something or null
        return None if raw is None else _decode(options[0], raw, where, what)
    if is_dataclass(kind):
        return _record(kind, raw, where, what)
    if not _fits(raw, kind):
        raise BundleError(f"{where}: {what} has the wrong type ({type(raw).__name__})")
    if origin is tuple:
        kinds = options[:1] * len(raw) if options[-1] is Ellipsis else options
        return tuple(_decode(part, item, where, f"an item of {what}") for part, item in zip(kinds, raw, strict=True))
    return raw


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be one of type `kind`; the items of a tuple are looked at when they are decoded."""
    origin, options = get_origin(kind), get_args(kind)
    if origin is tuple:
        return isinstance(value, list) and (options[-1] is Ellipsis or len(value) == len(options))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, options[1]) for item in value.values())
    if origin is Literal:
        return isinstance(value, str)  # the record knows which ones there are
    if kind in (str, int, float):
        return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    return True


def _record(kind: Any, raw: Any, where: Path, what: str) -> Any:
    if not isinstance(raw, dict):
        raise BundleError(f"{where}: {what} is not an object")
    types = {item.name: item.type for item in fields(kind)}
    if unknown := raw.keys() - types:
        raise BundleError(f"{where}: unknown keys {sorted(unknown)} in {what}; written by a newer edgekit?")
    if absent := types.keys() - raw:
        raise BundleError(f"{where}: keys {sorted(absent)} are missing in {what}")
    values = {name: _decode(part, raw[name], where, f"{name} of {what}") for name, part in types.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise BundleError(f"{where}: {error}") from error
