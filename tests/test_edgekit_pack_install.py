"""The install script of a pack: checks first, then the old release or the new one, never half."""

import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from packs import install, python_that_says, quick_python, script, shims, small_pack

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("sha256sum") is None, reason="needs x86-64 Linux with coreutils"
)
HERE = f"64 x86_64 3.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("packs")
    return small_pack(folder / "one", "one"), small_pack(folder / "two", "two")


def release(root: Path) -> str:
    """The bundle of the release in use, which is whole: "" where there is none."""
    current = root / "opt/edgekit/current"
    if not current.is_symlink():
        return ""
    assert (current / ".complete").is_file()
    assert (current / "bin/edgekit").is_file()
    assert (current / "bundle").resolve().is_dir()
    return (current / "bundle").resolve().name


def error(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line on stderr of a script that failed."""
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def test_a_pack_installs_without_network_is_updated_and_rolled_back(
    packs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("struct", "platform", "shutil"):  # root runs nothing that lies where the script is started
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of another user')")
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    for pack, name in zip(packs, ("one", "two"), strict=True):
        done = install(
            pack, root, "--python", sys.executable, PIP_INDEX_URL="http://127.0.0.1:9/", PYTHONPATH="/absent"
        )
        assert done.returncode == 0, done.stderr
        assert "nothing was started" in done.stdout
        assert release(root) == name
        assert (root / "etc/systemd/system/edgekit.service").read_text() == f"# {name}\n"
        assert (root / "opt/edgekit/current/bundle").resolve().name == name
    assert (root / "usr/local/bin/edgekit").resolve().name == "edgekit"
    assert (root / "etc/edgekit/edgekit.env").stat().st_mode & 0o777 == 0o600
    (root / "etc/edgekit/edgekit.env").write_text("EDGEKIT_SOURCE=0\n")
    back = install(packs[1], root, "--rollback", "--python", sys.executable)
    assert back.returncode == 0, back.stderr
    assert release(root) == "one"
    assert (root / "etc/systemd/system/edgekit.service").read_text() == "# one\n"
    assert (root / "etc/edgekit/edgekit.env").read_text() == "EDGEKIT_SOURCE=0\n"


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("32 aarch64 3.11", "this system is 32-bit .* install the 64-bit system"),
        (HERE.replace("x86_64", "aarch64"), r"this pack is for nuc \(x86_64\), this machine is aarch64; .* --target"),
        ("64 x86_64 3.9", r"this pack is for Python 3\.\d+, .* is 3.9; pack again with --python 3.9"),
    ],
)
def test_a_device_that_it_does_not_fit_is_told_before_anything_is_changed(
    says: str, told: str, packs: tuple[Path, Path], tmp_path: Path
) -> None:
    done = install(packs[0], tmp_path / "root", "--python", str(python_that_says(tmp_path / "python", says)))
    assert re.search(told, error(done)), done.stderr
    assert not (tmp_path / "root/opt").exists()


def test_a_python_that_does_not_run_is_told(packs: tuple[Path, Path], tmp_path: Path) -> None:
    assert "absent does not run" in error(install(packs[0], tmp_path / "root", "--python", "/absent"))


def test_a_damaged_or_incomplete_pack_is_told(packs: tuple[Path, Path], tmp_path: Path) -> None:
    for number, name in enumerate(("bundle/manifest.json", "requirements.txt", "pack.env", "SHA256SUMS")):
        damaged = tmp_path / f"{number}"
        shutil.copytree(packs[0], damaged)
        (damaged / name).unlink()
        wanted = "unpack the whole archive" if name == "pack.env" else "not the one of SHA256SUMS; copy the pack again"
        assert wanted in error(install(damaged, tmp_path / "root", "--python", sys.executable))
    changed = tmp_path / "changed"
    shutil.copytree(packs[0], changed)
    with (changed / "bundle/manifest.json").open("a") as file:
        file.write(" ")
    assert "copy the pack again" in error(install(changed, tmp_path / "root", "--python", sys.executable))
    assert not (tmp_path / "root/opt").exists()


def test_a_full_disk_is_told_and_the_old_release_stays(packs: tuple[Path, Path], tmp_path: Path) -> None:
    root, python = tmp_path / "root", str(quick_python(tmp_path / "python"))
    assert install(packs[0], root, "--python", python).returncode == 0
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "df").write_text("#!/bin/sh\necho header\necho /dev/x 100 99 1 99% /\n")
    (bin_ / "df").chmod(0o755)
    done = install(packs[1], root, "--python", python, PATH=f"{bin_}{os.pathsep}{os.environ['PATH']}")
    assert "0 MB free, 1 MB are needed; free the disk" in error(done)
    assert release(root) == "one"


def test_a_bundle_that_fails_its_self_test_leaves_the_old_release(packs: tuple[Path, Path], tmp_path: Path) -> None:
    root, python = tmp_path / "root", str(quick_python(tmp_path / "python"))
    assert install(packs[0], root, "--python", python).returncode == 0
    done = install(small_pack(tmp_path / "bad", "bad"), root, "--python", python)
    assert done.returncode == 1
    assert "no engine passes the self-test" in done.stderr
    assert "the bundle was not installed; releases/0.1.0-" in done.stderr
    assert release(root) == "one"
    assert len(list((root / "opt/edgekit/releases").iterdir())) == 1


def test_a_missing_wheel_is_told_by_name(packs: tuple[Path, Path], tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    shutil.copytree(packs[0], pack)
    (pack / "requirements.txt").write_text("edgekit-ultrasound==0.2.0 --hash=sha256:" + "0" * 64 + "\n")
    sums = [line for line in (pack / "SHA256SUMS").read_text().splitlines() if "requirements" not in line]
    digest = hashlib.sha256((pack / "requirements.txt").read_bytes()).hexdigest()
    (pack / "SHA256SUMS").write_text("\n".join((*sums, f"{digest}  requirements.txt", "")))
    assert "edgekit-ultrasound==0.2.0" in error(install(pack, tmp_path / "root", "--python", sys.executable))
    assert not (tmp_path / "root/opt/edgekit/current").exists()


def test_there_is_nothing_to_roll_back_to_at_first(packs: tuple[Path, Path], tmp_path: Path) -> None:
    root, python = tmp_path / "root", str(quick_python(tmp_path / "python"))
    assert "no other release" in error(install(packs[0], root, "--rollback", "--python", python))
    assert install(packs[0], root, "--python", python).returncode == 0
    assert install(packs[0], root, "--python", python).returncode == 0  # again: nothing changes
    assert "no other release" in error(install(packs[0], root, "--rollback", "--python", python))


def test_a_folder_in_the_place_of_the_link_is_told_before_anything_is_made(
    packs: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "opt/edgekit/current").mkdir(parents=True)
    assert "is no symbolic link; move it away" in error(install(packs[0], tmp_path, "--python", sys.executable))
    assert not list((tmp_path / "opt/edgekit/releases").iterdir())


def test_a_place_that_cannot_be_made_is_one_line(packs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "name another --root" in error(install(packs[0], tmp_path / "file" / "root"))


def test_a_disk_that_fills_while_wheels_are_installed_is_told(packs: tuple[Path, Path], tmp_path: Path) -> None:
    pack, root = tmp_path / "pack", tmp_path / "root"
    shutil.copytree(packs[0], pack)
    (pip,) = pack.glob("pip-*.whl")
    with ZipFile(pip, "w") as wheel:
        wheel.writestr("pip/__main__.py", "raise SystemExit('ERROR: [Errno 28] No space left on device')")
    sums = [line for line in (pack / "SHA256SUMS").read_text().splitlines() if pip.name not in line]
    digest = hashlib.sha256(pip.read_bytes()).hexdigest()
    (pack / "SHA256SUMS").write_text("\n".join((*sums, f"{digest}  {pip.name}", "")))
    said = error(install(pack, root, "--python", sys.executable))
    assert said == f"{root}/opt/edgekit: the disk is full; free it; nothing is in use"
    assert not list((root / "opt/edgekit/releases").iterdir())


def test_an_interrupt_says_what_is_in_use(packs: tuple[Path, Path], tmp_path: Path) -> None:
    python = script(tmp_path / "python", "kill -INT 0; exec sleep 10")  # to all of the script's process group
    done = install(packs[0], tmp_path / "root", "--python", str(python))
    assert (done.returncode, done.stderr) == (130, "error: interrupted; nothing is in use\n")


def test_wrong_usage_ends_with_2(packs: tuple[Path, Path], tmp_path: Path) -> None:
    assert install(packs[0], tmp_path / "root", "--unknown").returncode == 2


def test_killed_before_any_step_the_old_release_or_the_new_is_in_use(packs: tuple[Path, Path], tmp_path: Path) -> None:
    python, seen, point = str(quick_python(tmp_path / "python")), set[str](), 0
    first = tmp_path / "first"
    assert install(packs[0], first, "--python", python).returncode == 0
    while True:
        point += 1
        root, count = tmp_path / f"root{point}", tmp_path / f"count{point}"
        shutil.copytree(first, root, symlinks=True)
        path = f"{shims(tmp_path / f'bin{point}', count, point)}{os.pathsep}{os.environ['PATH']}"
        done = install(packs[1], root, "--python", python, PATH=path)
        assert release(root) in ("one", "two"), point
        seen.add(release(root))
        if done.returncode != -signal.SIGKILL:
            break
        if point % 5 == 0:  # and what it left does not stand in the way
            assert install(packs[1], root, "--python", python).returncode == 0
            assert release(root) == "two"
            assert len(list((root / "opt/edgekit/releases").iterdir())) == 2
    assert done.returncode == 0, done.stderr
    assert seen == {"one", "two"}
    assert point > 25
