"""What a device may keep between two starts to start faster: whatever is missing, old or damaged in it is made again."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from edge.atomic import write_bytes
from edge.errors import SinkError

VARIABLE: Final = "EDGEKIT_CACHE"
OFF: Final = "off"
KEEP: Final = 8
"""Files of one kind that are kept, the newest."""
_DIGEST_BYTES: Final = 32


def cache_folder() -> Path | None:
    """$EDGEKIT_CACHE, else edgekit/ in $XDG_CACHE_HOME or ~/.cache; None where EDGEKIT_CACHE is "off" or there is no home.

    The folder need not exist.
    """
    said = os.environ.get(VARIABLE, "")
    if said == OFF:
        return None
    if said:
        return Path(said)
    with suppress(RuntimeError):
        return user_cache()
    return None


def user_cache() -> Path:
    """edgekit/ in $XDG_CACHE_HOME or ~/.cache. Raises RuntimeError where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification has relative ones ignored
        return Path(base) / "edgekit"
    return Path.home() / ".cache" / "edgekit"


def read_cached(kind: str, key: str) -> bytes | None:
    """What was kept under a key; None where there is nothing, where it is damaged, or where it is not this user's own."""
    path = _path(kind, key)
    if path is None:
        return None
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_uid != os.geteuid():
                return None  # what others can write does not run here
            content = stream.read()
    except OSError:
        return None
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return body if digest == _digest(key, body) else None


def write_cached(kind: str, key: str, content: bytes) -> bool:
    """Keep content under a key, all or nothing, and drop the oldest beyond `KEEP`; False where it cannot be written."""
    path = _path(kind, key)
    if path is None:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_bytes(path, _digest(key, content) + content)
    except (OSError, SinkError):
        return False
    with suppress(OSError):  # another process may be dropping the same ones
        kept = sorted(path.parent.glob("*.cached"), key=lambda file: file.stat().st_mtime_ns)
        for old in kept[:-KEEP]:
            old.unlink(missing_ok=True)
    return True


def _path(kind: str, key: str) -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.cached"


def _digest(key: str, content: bytes) -> bytes:
    """Of key and content: a file under another's name is as damaged as one with a flipped bit."""
    return hashlib.sha256(key.encode() + b"\0" + content).digest()
