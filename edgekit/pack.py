"""The pack: one archive with all that a device needs, which installs it without network."""

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final
from zipfile import ZipFile

from edge.atomic import check_place, refused
from edge.bundle import Bundle
from edge.cache import user_cache
from edge.errors import BundleError, require
from edge.targets import Target
from edgekit.own_wheel import NAME, own_wheel
from edgekit.pip import Say
from edgekit.wheels import Platform, Wheel, check_python, gather

EXTRAS: Final = ("dicom", "record", "web")
"""What `edgekit run` can use beside its engine; a minimal pack leaves it out."""
_FILES: Final = Path(__file__).parent / "pack_files"
_UNITS: Final = Path(__file__).resolve().parents[1] / "edge" / "systemd"
_COMPILED: Final = 1.4
"""What an installation takes on the disk, as a multiple of what is in its wheels: compiled modules, whole blocks."""
_ROOM_BYTES: Final = 32 << 20
_EPOCH: Final = 315532800
"""1980-01-01: the same content makes the same archive, whenever it is made."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A written pack. needed_bytes: what must be free on the device."""

    path: Path
    size_bytes: int
    wheels: tuple[str, ...]
    needed_bytes: int
    seconds: float


def cache_of_wheels(target: Target, python: str) -> Path:
    """Where downloaded wheels of a target are kept: $XDG_CACHE_HOME or ~/.cache."""
    return user_cache() / "wheels" / f"{target.machine}-{python}"


def write_pack(
    bundle: Bundle,
    target: Target,
    out: Path,
    *,
    python: str = "3.11",
    minimal: bool = False,
    cache: Path | None = None,
    say: Say = lambda line: None,
) -> Pack:
    """Write a .tar.gz for a target: wheels, bundle, install script, systemd units and their hashes.

    python: version there. minimal: the engine only, without the page, recordings and DICOM. cache: folder of downloads, None:
    `cache_of_wheels`. Raises BundleError, IntegrityError where the bundle does not do, EdgekitError where a wheel cannot be had,
    SinkError.
    """
    started = time.monotonic()
    require("packaging", extra="export")
    check_python(python)
    _check_bundle(bundle, target)
    check_place(out)
    platform = Platform(target.machine, python, target.platforms)
    extras = (target.engine, *(() if minimal else EXTRAS))
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
            folder = Path(work) / folder_name(bundle, target, python)
            (folder / "wheels").mkdir(parents=True)
            bundle.copy_to(folder / "bundle")  # first, as that finds a damaged one
            own = Path(work) / "own"
            own.mkdir()
            say("making the wheel of edgekit")
            ours = own_wheel(own)
            wheels = gather(
                ours, extras, platform, folder / "wheels", cache or cache_of_wheels(target, python), say=say
            )
            say("writing the archive")
            shutil.copytree(_UNITS, folder / "systemd")
            needed = _needed(wheels, bundle)
            _describe(folder, target, python, wheels, needed)
            archive = Path(work) / "archive"
            _archive(folder, archive)
            archive.chmod(0o644)
            archive.replace(out)
    except OSError as error:
        raise refused(out, error) from error
    names = tuple(f"{wheel.name} {wheel.version}" for wheel in wheels)
    return Pack(out, out.stat().st_size, names, needed, time.monotonic() - started)


def folder_name(bundle: Bundle, target: Target, python: str) -> str:
    """Name of a pack, without .tar.gz: its network, target and Python."""
    network = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in bundle.manifest.network)
    return f"edgekit-{network}-{target.name}-py{python.replace('.', '')}"


def _check_bundle(bundle: Bundle, target: Target) -> None:
    """Raise BundleError where the target's engine would find nothing."""
    if not any(target.engine in artifact.runners for artifact in bundle.manifest.artifacts):
        have = ", ".join(sorted({artifact.engine for artifact in bundle.manifest.artifacts}))
        raise BundleError(
            f"{bundle.path}: has no {target.engine} artifact for {target.title}, only {have}; export again"
        )
    if bundle.manifest.predicts and bundle.manifest.golden is None:
        raise BundleError(f"{bundle.path}: has no golden frames for the device's self-test; export again")


def _needed(wheels: Iterable[Wheel], bundle: Bundle) -> int:
    unpacked = 0
    for wheel in wheels:
        with ZipFile(wheel.path) as archive:
            unpacked += sum(entry.file_size for entry in archive.infolist())
    return round(_COMPILED * unpacked) + sum(file.size_bytes for file in bundle.files()) + _ROOM_BYTES


def _describe(folder: Path, target: Target, python: str, wheels: Iterable[Wheel], needed: int) -> None:
    """Write what stands beside wheels and bundle: script, settings, requirements, hashes."""
    shutil.copy(_FILES / "install.sh", folder / "install.sh")
    (folder / "install.sh").chmod(0o755)
    text = (_FILES / "README.txt").read_text(encoding="utf-8")
    for key, value in {"TITLE": target.title, "PYTHON": python, "FOLDER": folder.name}.items():
        text = text.replace(f"@{key}@", value)
    (folder / "README.txt").write_text(text, encoding="utf-8")
    settings = {
        "PACK_TARGET": target.name,
        "PACK_MACHINE": target.machine,
        "PACK_PYTHON": python,
        "PACK_VERSION": version(NAME),
        "PACK_NEEDED_KIB": str(needed // 1024),
    }
    (folder / "pack.env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
    lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{_sha256(wheel.path)}\n" for wheel in wheels]
    (folder / "requirements.txt").write_text("".join(lines), encoding="utf-8")
    files = sorted(item for item in folder.rglob("*") if item.is_file())
    sums = [f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def _archive(folder: Path, out: Path) -> None:
    """The same archive for the same content: sorted, without owners and times. Wheels are compressed already: level 1."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = _EPOCH
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with (
        out.open("wb") as stream,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=stream, mtime=_EPOCH) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for item in (folder, *sorted(folder.rglob("*"))):
            archive.add(item, str(item.relative_to(folder.parent)), recursive=False, filter=plain)
    with out.open("rb") as written:
        os.fsync(written.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
