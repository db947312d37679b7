"""A new file for a sink, never one that holds something already."""

import os
import stat
from pathlib import Path

from edge.atomic import refused
from edge.errors import SinkError


def open_new(path: Path, *, empty: bool = False) -> int:
    """Create a file and its folder; returns the descriptor, open for reading and writing.

    empty: take a file that exists and holds nothing, or a character device such as a terminal. Raises SinkError for any other
    file that exists, which stays as it is, and where nothing can be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not empty or not path.exists():
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if path.is_file() and path.stat().st_size == 0:
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if stat.S_ISCHR(path.stat().st_mode):
            return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if isinstance(error, FileExistsError) and path.exists():
            raise _taken(path) from error
        raise refused(path, error) from error
    raise _taken(path)


def write_whole(descriptor: int, content: bytes | memoryview) -> None:
    """Write all of it, in one call where the system takes it in one. Raises OSError."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _taken(path: Path) -> SinkError:
    if path.is_dir():
        return SinkError(f"{path}: is a folder; name a file")
    return SinkError(f"{path}: exists already and is not written over; name another file")
