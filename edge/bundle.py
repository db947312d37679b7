"""The bundle: the folder that crosses from workstation to device. Written atomically, read strictly.

Its `manifest.json` (`edge.manifest`) says what is in it; a file with another hash than it says is an error.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from edge.atomic import new_folder, write_text
from edge.bundle_file import BundleFile
from edge.choice import first_working
from edge.engines import is_installed
from edge.errors import BundleError, IntegrityError
from edge.manifest import MANIFEST, Artifact, Manifest

_DATA: Final = Path(__file__).parent / "data"
BUILTIN: Final = {name: _DATA / f"{name}-int8" for name in ("emtnet", "emtnet-s")}
"""The INT8 bundles that come with the package, by network."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Read and check the manifest; files are checked when used. Raises BundleError."""
        folder = Path(path)
        try:
            content = (folder / MANIFEST).read_bytes()
        except OSError as error:
            raise BundleError(
                f"{folder}: not a bundle (no readable {MANIFEST}); make one with edgekit export"
            ) from error
        return cls(folder, Manifest.from_json(content, folder / MANIFEST))

    @classmethod
    def open_or_builtin(cls, path: Path | str | None, *, network: str = "emtnet") -> Self:
        """Open `path`, or for None the built-in INT8 bundle of `network`, a name in `BUILTIN`. Raises BundleError."""
        return cls.open(BUILTIN[network] if path is None else path)

    def choose(self, *, engine: str = "auto", precision: str = "auto") -> Artifact:
        """The artifact for an engine and precision, by the name of the engine that runs it (`Artifact.run_by`).

        auto: INT8 where there is one, the first engine that is installed and works here; an EngineWarning says why another one
        is passed over (`edge.choice`). Raises BundleError, EngineError where no installed engine works.
        """
        candidates = [
            artifact.run_by(runner)
            for artifact in self.manifest.artifacts
            for runner in artifact.runners
            if engine in ("auto", runner) and precision in ("auto", artifact.precision)
        ]
        if not candidates:
            have = ", ".join(f"{a.engine} {a.precision}" for a in self.manifest.artifacts)
            raise BundleError(f"{self.path}: no artifact for engine {engine}, precision {precision}; it has {have}")
        return first_working(candidates, weight_range=self.manifest.weight_range)

    def runs(self, engines: Sequence[str] = ()) -> list[Artifact]:
        """Every artifact, by the name of each engine that runs it: of `engines`, where there are any.

        With none named an artifact comes under its own name, and again for each other engine that runs it and is installed.
        """
        return [
            artifact.run_by(runner)
            for artifact in self.manifest.artifacts
            for runner in artifact.runners
            if (runner in engines if engines else runner == artifact.engine or is_installed(runner))
        ]

    def verified_paths(self, artifact: Artifact) -> list[Path]:
        """Paths of an artifact's files after their hashes were checked. Raises IntegrityError."""
        for file in artifact.files:
            self.read(file)
        return [self.path / file.path for file in artifact.files]

    def read(self, file: BundleFile) -> bytes:
        """The content of a file after its hash was checked. Raises IntegrityError."""
        path = self.path / file.path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise IntegrityError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from error
        if len(content) != file.size_bytes or hashlib.sha256(content).hexdigest() != file.sha256:
            raise IntegrityError(f"{path}: not the file its manifest describes; copy the bundle again")
        return content

    def copy_to(self, folder: Path) -> None:
        """Copy manifest and files, each checked as it is read, to an empty folder. Raises IntegrityError, OSError."""
        for file in self.files():
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self.read(file))
        (folder / MANIFEST).write_bytes((self.path / MANIFEST).read_bytes())

    def files(self) -> tuple[BundleFile, ...]:
        """Every file beside the manifest, each once."""
        parts = [file for artifact in self.manifest.artifacts for file in artifact.files]
        golden = self.manifest.golden.files() if self.manifest.golden else ()
        return tuple(dict.fromkeys((*parts, *golden)))


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
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def record_drift(bundle: Bundle, summary: dict[str, Any]) -> None:
    """Keep the figures of a drift check in the manifest. Raises SinkError."""
    write_text(bundle.path / MANIFEST, replace(bundle.manifest, drift=summary).to_json())
