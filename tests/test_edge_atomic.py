"""Files and folders are the old ones or the new ones, never half, whatever breaks and whenever."""

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from edge.atomic import new_folder, refused, write_bytes, write_text
from edge.errors import SinkError

ROOT = Path(__file__).resolve().parents[1]


def disk_full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def fill(folder: Path, content: str) -> None:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "file").write_text(content)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with old content."""
    fill(tmp_path / "place", "old")
    return tmp_path / "place"


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that cannot exchange two folders in one step."""
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())


# Files


def test_a_file_is_written_with_its_parents_readable_by_all(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "report.json"
    write_bytes(file, b"\x00\xff")
    assert file.read_bytes() == b"\x00\xff"
    assert file.stat().st_mode & 0o777 == 0o644
    assert names(file.parent) == ["report.json"]


def test_who_keeps_files_to_himself_has_them_so(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_bytes(tmp_path / "patient.dcm", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "patient.dcm").stat().st_mode & 0o777 == 0o600


def test_text_is_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("something much longer than the new content")
    write_text(file, "≥ 0.9")
    assert file.read_bytes() == b"\xe2\x89\xa5 0.9"


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    write_bytes(file, b"old")
    monkeypatch.setattr(os, broken, disk_full)
    with pytest.raises(SinkError, match=r"report\.json: cannot be written \(No space left on device\)") as caught:
        write_bytes(file, b"new")
    assert isinstance(caught.value.__cause__, OSError)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["report.json"]


def test_a_disk_that_fills_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    write_bytes(file, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(SinkError, match=r"report\.json: cannot be written"):
            write_bytes(file, bytes((1 << 20) + 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["report.json"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> NoReturn:
        raise KeyboardInterrupt

    file = tmp_path / "report.json"
    write_bytes(file, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["report.json"]


@pytest.mark.parametrize(
    ("place", "reason"), [("file/report.json", "cannot be written"), ("folder", "not a regular file")]
)
def test_a_place_that_is_none_is_named(tmp_path: Path, place: str, reason: str) -> None:
    (tmp_path / "file").write_text("a file where a folder is needed")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SinkError, match=f"{place}: {reason}"):
        write_bytes(tmp_path / place, b"new")
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free the disk or name another place"),
        (errno.EACCES, "use sudo or name another place"),
        (errno.EROFS, "name another place"),
    ],
)
def test_what_to_do_fits_what_the_system_said(tmp_path: Path, number: int, advice: str) -> None:
    said = str(refused(tmp_path, OSError(number, os.strerror(number))))
    assert said == f"{tmp_path}: cannot be written ({os.strerror(number)}); {advice}"


# Folders


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    place = tmp_path / "a" / "place"
    with new_folder(place) as folder:
        fill(folder, "new")
        assert not place.exists()
    assert (place / "deep" / "file").read_text() == "new"
    assert place.stat().st_mode & 0o777 == 0o755
    assert names(place.parent) == ["place"]


def test_a_folder_takes_the_place_of_the_old_one(old: Path) -> None:
    (old / "only in the old one").touch()
    with new_folder(old) as folder:
        fill(folder, "new")
    assert (old / "deep" / "file").read_text() == "new"
    assert names(old) == ["deep"]
    assert names(old.parent) == ["place"]


@pytest.mark.usefixtures("no_exchange")
def test_a_folder_takes_the_place_of_the_old_one_in_two_steps(old: Path) -> None:
    with new_folder(old) as folder:
        fill(folder, "new")
    assert (old / "deep" / "file").read_text() == "new"
    assert names(old.parent) == ["place"]


@pytest.mark.usefixtures("no_exchange")
def test_the_old_folder_comes_back_when_the_second_step_fails(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, calls = os.rename, []

    def second_fails(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            disk_full()
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(SinkError, match="No space left"), new_folder(old) as folder:
        fill(folder, "new")
    assert len(calls) == 3
    assert (old / "deep" / "file").read_text() == "old"
    assert names(old.parent) == ["place"]


@pytest.mark.parametrize("moment", ["in the block", "while syncing"])
def test_a_full_disk_leaves_the_old_folder_and_nothing_else(
    old: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(SinkError, match=r"place: cannot .*No space left.*nothing was changed"),
        new_folder(old) as folder,
    ):
        fill(folder, "new")
        if moment == "in the block":
            disk_full()
        monkeypatch.setattr(os, "fsync", disk_full)
    assert (old / "deep" / "file").read_text() == "old"
    assert names(old.parent) == ["place"]


@pytest.mark.parametrize("fault", [ValueError("bug"), KeyboardInterrupt()])
def test_an_exception_in_the_block_leaves_the_old_folder(old: Path, fault: BaseException) -> None:
    with pytest.raises(type(fault)) as caught, new_folder(old) as folder:
        fill(folder, "new")
        raise fault
    assert caught.value is fault
    assert (old / "deep" / "file").read_text() == "old"
    assert names(old.parent) == ["place"]


def test_a_link_to_a_folder_stays_a_link(old: Path) -> None:
    link = old.parent / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(old)
    with new_folder(link) as folder:
        fill(folder, "new")
    assert link.is_symlink()
    assert (old / "deep" / "file").read_text() == "new"
    assert names(link.parent) == ["link"]
    assert names(old.parent) == ["elsewhere", "place"]


# Power cuts: the process kills itself with SIGKILL, so no handler and no `finally` runs.

PRELUDE = """
import os, shutil, signal, sys
from pathlib import Path
from edge.atomic import new_folder, write_bytes
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
place = Path(sys.argv[1])
"""


def killed(script: str, place: Path) -> None:
    """Run a script that must end by SIGKILL."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, place], cwd=ROOT, timeout=60, check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_kill_while_writing_a_file_leaves_the_old_one(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "report.json"
    file.write_bytes(b"old")
    killed(f"os.{broken} = die\nwrite_bytes(place, b'new')", file)
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize("moment", ["die()", "os.fsync = die"])
def test_kill_while_making_a_folder_leaves_the_old_one(old: Path, moment: str) -> None:
    killed(f"with new_folder(place) as folder:\n  (folder / 'file').write_text('new')\n  {moment}", old)
    assert names(old) == ["deep"]
    assert (old / "deep" / "file").read_text() == "old"


def test_kill_after_the_exchange_leaves_the_new_folder_whole(old: Path) -> None:
    killed("with new_folder(place) as folder:\n  (folder / 'file').write_text('new')\n  shutil.rmtree = die", old)
    assert names(old) == ["file"]
    assert (old / "file").read_text() == "new"
