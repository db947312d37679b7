"""Files and folders that are either the old ones or the new ones, never half."""

import ctypes
import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edge.errors import SinkError

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_SPACE: Final = "free the disk or "
_RIGHTS: Final = "use sudo or "
_ADVICE: Final = {errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE, errno.EACCES: _RIGHTS, errno.EPERM: _RIGHTS}


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file all or nothing. Raises SinkError when the disk is full or the place cannot be written."""
    if path.is_symlink():
        path = path.resolve()  # the link stays, what it points at is replaced
    _require_regular(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)  # less the user's umask
        made = True
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise SinkError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
    finally:
        if made:
            temporary.unlink(missing_ok=True)


def check_place(path: Path) -> None:
    """Raise SinkError where `write_bytes` could not write this file, before there is anything to write; makes its folder."""
    _require_regular(path)
    make_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder where it does not exist, and raise SinkError where no file can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except FileExistsError as error:
        raise SinkError(f"{folder}: is a file; name a folder") from error
    except OSError as error:
        raise refused(folder, error) from error


def refused(path: Path, error: OSError) -> SinkError:
    """What the system said of a file or folder, in one line."""
    advice = _ADVICE.get(error.errno or 0, "")
    return SinkError(f"{path}: cannot be written ({error.strerror or error}); {advice}name another place")


def _require_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise SinkError(f"{path}: not a regular file; name another")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text all or nothing. Raises SinkError."""
    write_bytes(path, text.encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, on any exception it is removed.

    Raises SinkError when the disk is full or the place cannot be written; what was there stays.
    """
    if path.is_symlink():
        path = path.resolve()  # the link stays, what it points at is replaced
    work: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        yield work
        work.chmod(0o755)
        for item in (*work.rglob("*"), work):
            sync(item)
        _swap(work, path)
        sync(path.parent)
    except OSError as error:
        raise SinkError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)


def _swap(new: Path, path: Path) -> None:
    """Put `new` at `path`, in one step where the system can exchange two folders (Linux), else in two."""
    if not path.exists():
        new.rename(path)
        return
    if _exchange(new, path):
        return  # `new` now names the old folder; the caller removes it
    old = new.with_name(f"{new.name}.old")
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """renameat2(2) with RENAME_EXCHANGE; False where the C library or the file system does not have it."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def replace_link(link: Path, target: str) -> None:
    """Point a symbolic link, new or not, at `target` in one step. Raises SinkError, also where a file or folder stands there."""
    if link.exists() and not link.is_symlink():
        raise SinkError(f"{link}: is no symbolic link; move it away or name another place")
    temporary = link.with_name(f".{link.name}.{secrets.token_hex(4)}")
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
        sync(link.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise refused(link, error) from error


def sync(item: Path) -> None:
    """Have a file, or what a folder lists, on the disk before anything after it is: a power cut then leaves no gap."""
    handle = os.open(item, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
