"""The bundle: the folder that crosses from workstation to device. Written atomically, read strictly.

`manifest.json` describes the network, its artifacts with their sha256, the operating point, what it was calibrated and
trained on, and the tools. Unknown or missing keys, a wrong hash or a newer schema is an error.
"""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Self, TypeVar, get_args, get_origin

from edge.atomic import new_folder, write_text
from edge.engines import is_installed
from edge.errors import BundleError, IntegrityError

SCHEMA: Final = 1
MANIFEST: Final = "manifest.json"
BUILTIN: Final = Path(__file__).parent / "data" / "emtnet-int8"
ENGINE_ORDER: Final = ("openvino", "litert", "onnx")
PRECISIONS: Final = ("int8", "fp32")
PHANTOM: Final = "phantom"
RESIZE: Final = "stretch"
OUTPUT_KINDS: Final = {"mask": "mask_logits", "malignancy": "malignancy_logit"}
"""The outputs that `edge.predictor` reads, by name."""


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A file of the bundle, by its path relative to the manifest."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A network in the format of one engine. The first file is the one to open."""

    engine: str
    precision: str
    files: tuple[BundleFile, ...]

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
    """The network's input: one grey uint8 image. The network itself maps pixel p to (p − offset) / scale."""

    name: str
    height: int
    width: int
    offset: float
    scale: float
    resize: str


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """A float32 output. kind: mask_logits or malignancy_logit. shape: ONNX order, batch first."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """Where the probability of malignancy becomes a call."""

    threshold: float
    chosen_on: str


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
    """What `manifest.json` holds. weight_range: "full", or "half" for x86 without VNNI. calibration: None for FP32 only."""

    schema: int
    network: str
    checkpoint_sha256: str
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    labels: tuple[str, ...]
    operating_point: OperatingPoint
    weight_range: str
    artifacts: tuple[Artifact, ...]
    missing: tuple[Missing, ...]
    drift: dict[str, Any] | None
    versions: dict[str, str]
    calibration: Calibration | None
    training: Training = field(default_factory=lambda: Training((), (), ()))

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
        if isinstance(raw, dict) and isinstance(raw.get("schema"), int) and raw["schema"] > SCHEMA:
            raise BundleError(
                f"{file}: schema {raw['schema']} is newer than this edgekit reads ({SCHEMA}); upgrade edgekit"
            )
        try:
            return cls(folder, _manifest(raw, file))
        except (TypeError, ValueError, AttributeError) as error:
            raise BundleError(f"{file}: a value has the wrong type ({error})") from error

    @classmethod
    def open_or_builtin(cls, path: Path | str | None) -> Self:
        """Open `path`, or the INT8 bundle of the shipped network for None."""
        return cls.open(BUILTIN if path is None else path)

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


_Record = TypeVar("_Record")


def _manifest(raw: Any, where: Path) -> Manifest:
    values = _checked(Manifest, raw, where, "manifest")
    for name, kind in (("artifacts", Artifact), ("missing", Missing), ("outputs", OutputSpec)):
        values[name] = tuple(_record(kind, item, where) for item in values[name])
    for name, single in (("input", InputSpec), ("operating_point", OperatingPoint), ("training", Training)):
        values[name] = _record(single, values[name], where)
    if values["calibration"] is not None:
        values["calibration"] = _record(Calibration, values["calibration"], where)
    values["labels"] = tuple(values["labels"])
    manifest = Manifest(**values)
    if manifest.schema != SCHEMA:
        raise BundleError(f"{where}: schema {manifest.schema}; this edgekit reads {SCHEMA}")
    if manifest.input.resize != RESIZE or {output.name: output.kind for output in manifest.outputs} != OUTPUT_KINDS:
        raise BundleError(f"{where}: inputs or outputs that this edgekit does not know; upgrade edgekit")
    if not 0.0 < manifest.operating_point.threshold < 1.0:
        raise BundleError(f"{where}: threshold {manifest.operating_point.threshold} lies outside 0..1")
    for artifact in manifest.artifacts:
        if artifact.engine not in ENGINE_ORDER or artifact.precision not in PRECISIONS or not artifact.files:
            raise BundleError(f"{where}: unknown artifact {artifact.engine} {artifact.precision}")
        for file in artifact.files:
            if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
                raise BundleError(f"{where}: file {file.path!r} lies outside the bundle")
    return manifest


def _record(kind: type[_Record], raw: Any, where: Path) -> _Record:
    values = _checked(kind, raw, where, kind.__name__)
    if kind is Artifact:
        values["files"] = [_record(BundleFile, item, where) for item in values["files"]]
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _checked(kind: type[Any], raw: Any, where: Path, what: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise BundleError(f"{where}: {what} is not an object")
    names = {item.name for item in fields(kind)}
    if unknown := raw.keys() - names:
        raise BundleError(f"{where}: unknown keys {sorted(unknown)} in {what}; written by a newer edgekit?")
    if absent := names - raw.keys():
        raise BundleError(f"{where}: keys {sorted(absent)} are missing in {what}")
    for item in fields(kind):
        if not _fits(raw[item.name], item.type):
            raise BundleError(f"{where}: {item.name} in {what} has the wrong type ({type(raw[item.name]).__name__})")
    return dict(raw)


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value can be a field of type `kind`; records and optional fields are checked where they are read."""
    if kind in (str, int, float):
        return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_fits(item, get_args(kind)[1]) for item in value.values())
    return True
