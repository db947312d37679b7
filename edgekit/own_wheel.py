"""The wheel of edgekit itself, as it is installed here."""

import base64
import hashlib
import shutil
import tempfile
import tomllib
from importlib.metadata import Distribution, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from edge.errors import EdgekitError
from edgekit.pip import last_error, run_pip

NAME: Final = "edgekit-ultrasound"
_CHECKOUT: Final = ("pyproject.toml", "README.md", "LICENSE")
_EPOCH: Final = "315532800"
"""1980-01-01, the first day that a zip file knows: the same files make the same wheel."""
_ADDED: Final = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
"""What an installer adds to a wheel's metadata."""


def own_wheel(folder: Path) -> Path:
    """Write our own wheel into `folder`: built from the checkout of an editable installation, else from the installed files.

    Raises EdgekitError.
    """
    installed = distribution(NAME)
    checkout = _checkout(installed)
    return _built(checkout, folder) if checkout else _reassembled(installed, folder)


def _checkout(installed: Distribution) -> Path | None:
    """The folder of an editable installation; its record, if it has one, does not list our files."""
    root = Path(__file__).resolve().parents[1]
    recorded = "edgekit/own_wheel.py," in (installed.read_text("RECORD") or "")
    return None if recorded or not (root / "pyproject.toml").is_file() else root


def _built(checkout: Path, folder: Path) -> Path:
    """Build from a copy of the packages, so that the checkout stays as it is."""
    told = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))
    packages = sorted({name.partition(".")[0] for name in told["tool"]["setuptools"]["packages"]})
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work)
        for name in _CHECKOUT:
            shutil.copy(checkout / name, copy / name)
        for name in packages:
            shutil.copytree(checkout / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        isolation = [] if find_spec("setuptools") is None else ["--no-build-isolation"]
        arguments = ("wheel", "--no-deps", *isolation, "--wheel-dir", str(folder), str(copy))
        failed = run_pip(arguments, {"SOURCE_DATE_EPOCH": _EPOCH})
        if failed is not None:
            raise EdgekitError(f"{checkout}: no wheel can be built of it: {last_error(failed)}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _reassembled(installed: Distribution, folder: Path) -> Path:
    """The wheel that an installation came from, but for what the installer added."""
    files = sorted((file for file in installed.files or () if _from_wheel(str(file))), key=str)
    info = next(file.parts[0] for file in files if file.name == "METADATA")
    path = folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl"
    record = []
    with ZipFile(path, "w") as archive:
        for file in files:
            content = Path(file.locate()).read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{file},sha256={digest},{len(content)}")
            _store(archive, str(file), content)
        record.append(f"{info}/RECORD,,")
        _store(archive, f"{info}/RECORD", ("\n".join(record) + "\n").encode())
    return path


def _from_wheel(name: str) -> bool:
    added = tuple(f".dist-info/{file}" for file in _ADDED)
    return not name.startswith("..") and "__pycache__" not in name and not name.endswith(added)


def _store(archive: ZipFile, name: str, content: bytes) -> None:
    entry = ZipInfo(name)  # of 1980, whenever it is made
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content, ZIP_DEFLATED)
