"""The wheels that go into the root: our own, built here, and all that it needs for aarch64, from the index or a cache."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from roots import RootUnavailableError

from arm64.record import GateError
from edge.targets import TARGETS
from edgekit.own_wheel import own_wheel

REPOSITORY: Final = Path(__file__).resolve().parents[2]
TESTING: Final = ("pytest", "hypothesis")
_LIMIT_S: Final = 600


def gather(folder: Path, cache: Path) -> Path:
    """Fill `folder` with wheels for edgekit with its `litert` extra, for pip and for the tests; our own is returned.

    cache: used before the index is, and kept. Raises GateError where a wheel for aarch64 is missing, RootUnavailableError where
    the index cannot be reached.
    """
    own_folder = folder / "own"
    own_folder.mkdir(parents=True)
    own = own_wheel(own_folder)
    cache.mkdir(parents=True, exist_ok=True)
    wanted = [f"{own}[litert]", "pip", *TESTING]
    failed = _download(wanted, folder, ["--no-index", "--find-links", str(cache)])
    if failed is not None:
        failed = _download(wanted, folder, ["--find-links", str(cache)])
    if failed is not None:
        if "Retrying (Retry" in failed:
            raise RootUnavailableError("the package index cannot be reached, and not all wheels are in the cache")
        errors = [line for line in failed.splitlines() if line.startswith("ERROR: ")]
        raise GateError(f"no wheel for aarch64: {(errors or failed.splitlines() or ['pip failed'])[-1]}")
    for wheel in folder.glob("*.whl"):
        if wheel.name != own.name:
            shutil.copy(wheel, cache / wheel.name)
    shutil.copy(own, folder / own.name)
    return own


def _download(wanted: Sequence[str], folder: Path, where: Sequence[str]) -> str | None:
    """Run pip; None when all went well, else what it said."""
    tags = [part for tag in TARGETS["pi4"].platforms for part in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.11", *tags]
    command += ["-c", str(REPOSITORY / "constraints.txt"), "--dest", str(folder), *where, *wanted]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    return None if done.returncode == 0 else done.stderr
