"""Small packs for tests of the install script: a stand-in for edgekit in them, or a stand-in for Python beside them."""

import ensurepip
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from edge.targets import TARGETS
from edgekit import pack
from edgekit.wheels import Wheel

STUB = """
import pathlib, sys
def main():
    _, verb, bundle, to, place, restart = sys.argv
    assert (verb, to, restart) == ("install", "--to", "--no-restart")
    name = pathlib.Path(bundle, "manifest.json").read_text().strip()
    if name == "bad":
        sys.exit("error: no engine passes the self-test")
    folder = pathlib.Path(place, "bundles", name)
    folder.mkdir(parents=True, exist_ok=True)
    link = pathlib.Path(place, "bundle")
    link.unlink(missing_ok=True)
    link.symlink_to(f"bundles/{name}")
"""


def stub_wheel(folder: Path) -> Path:
    """A wheel by our name with a command `edgekit` that installs anything but the bundle "bad"."""
    path = folder / "edgekit_ultrasound-0.1.0-py3-none-any.whl"
    info = "edgekit_ultrasound-0.1.0.dist-info"
    with ZipFile(path, "w") as wheel:
        wheel.writestr("edgekit_stub.py", STUB)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: edgekit-ultrasound\nVersion: 0.1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nedgekit = edgekit_stub:main\n")
        wheel.writestr(f"{info}/RECORD", "edgekit_stub.py,,\n")
    return path


def small_pack(folder: Path, bundle: str) -> Path:
    """An unpacked pack for this machine whose bundle is no more than a name."""
    folder.mkdir(parents=True)
    (folder / "wheels").mkdir()
    (folder / "bundle").mkdir()
    (folder / "bundle" / "manifest.json").write_text(bundle)
    (folder / "systemd").mkdir()
    (folder / "systemd" / "edgekit.service").write_text(f"# {bundle}\n")
    (folder / "systemd" / "edgekit.env").write_text("EDGEKIT_SOURCE=\n")
    bundled = list((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
    if not bundled:
        pytest.skip("needs the pip wheel of Python's own ensurepip, which this Python does not have")
    shutil.copy(bundled[0], folder)
    wheel = Wheel.read(stub_wheel(folder / "wheels"))
    pack._describe(folder, TARGETS["nuc"], f"3.{sys.version_info[1]}", [wheel], 1 << 20)
    return folder


def install(folder: Path, root: Path, *options: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a pack's script under `root`."""
    return subprocess.run(
        [str(folder / "install.sh"), "--root", str(root), *options],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
        start_new_session=True,
    )


def script(path: Path, *lines: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


def python_that_says(path: Path, answer: str) -> Path:
    """A Python that says this of itself: bits, machine, version."""
    return script(path, f'echo "{answer}"')


def quick_python(path: Path) -> Path:
    """A Python whose environments and installations are there at once: what they do is in the tests of a real one."""
    edgekit = "\\n".join(
        (
            "#!/bin/sh",
            'name=$(cat \\"$2/manifest.json\\")',
            '[ \\"$name\\" != bad ] || { echo \\"error: no engine passes the self-test\\" >&2; exit 1; }',
            'mkdir -p \\"$4/bundles/$name\\"',
            'ln -sfn \\"bundles/$name\\" \\"$4/bundle\\"',
            "",
        )
    )
    return script(
        path,
        f'if [ "$1" = -Ic ]; then exec "{sys.executable}" "$@"; fi',
        'for last in "$@"; do :; done',
        'mkdir -p "$last/bin"',
        'printf "#!/bin/sh\\nexit 0\\n" > "$last/bin/python"',
        f"printf '{edgekit}' > \"$last/bin/edgekit\"".replace('\\"', '"'),
        'chmod 755 "$last/bin/python" "$last/bin/edgekit"',
    )


def shims(folder: Path, count: Path, kill_at: int) -> Path:
    """Commands that touch the disk, counted in a file; before the kill_at-th the script and all it started is killed."""
    for name in ("mkdir", "rm", "ln", "mv", "cp", "sync", "sha256sum", "chmod"):
        real = shutil.which(name)
        script(
            folder / name,
            f'echo x >> "{count}"',
            f'if [ "$(wc -l < "{count}")" -eq {kill_at} ]; then kill -9 0; fi',
            f'exec "{real}" "$@"',
        )
    return folder
