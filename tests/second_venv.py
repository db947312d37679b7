"""An environment with tflite-runtime beside this one, made once and kept in the user's cache."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints-tflite-runtime.txt"
_LIMIT_S = 300


def requirements(*extras: str) -> list[str]:
    """What the project's base and these extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(name for extra in extras for name in project["optional-dependencies"][extra])]


def python_with(*extras: str) -> Path:
    """A Python 3.11 with these extras of the project, without the project itself; skips where it cannot be had."""
    python = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if python is None:
        pytest.skip("tflite-runtime has wheels for Python 3.11 at most, and there is no python3.11")
    wanted = requirements(*extras)
    key = hashlib.sha256("\n".join([python, *wanted, CONSTRAINTS.read_text()]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekit-tests"
    kept = cache / key
    if not kept.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            _make(python, Path(made) / "venv", wanted)
            try:
                (Path(made) / "venv").rename(kept)
            except OSError:  # another run was faster
                assert kept.is_dir()
    return kept / "bin/python"


def _make(python: str, folder: Path, wanted: list[str]) -> None:
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=_LIMIT_S)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "bin/python"),
        "install",
        "--quiet",
        "--only-binary=:all:",
    ]
    done = subprocess.run(
        [*pip, "-c", str(CONSTRAINTS), *wanted], capture_output=True, text=True, check=False, timeout=_LIMIT_S
    )
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        pytest.skip(f"the environment of tflite-runtime could not be installed: {(lines or ['pip failed'])[-1]}")


@pytest.fixture(scope="session")
def runtime_python() -> Path:
    """A Python with the extra tflite-runtime and nothing else."""
    return python_with("tflite-runtime")
