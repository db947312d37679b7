"""What the container of a video says of its own length, to tell a file that was cut from a whole one."""

from pathlib import Path
from typing import BinaryIO, Final

_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT: Final = b"\x18\x53\x80\x67"
_FIRST_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"})
_TEXT: Final = frozenset(range(32, 256)) - {127} | {7, 8, 9, 10, 11, 12, 13, 27}


def missing_bytes(path: Path) -> int:
    """How many bytes a file lacks by its own word: MP4 and QuickTime (ISO/IEC 14496-12, section 4.2), AVI (RIFF), Matroska and
    WebM (RFC 9559). 0 where nothing is missing or nothing is known, as of a recording that was never finished. Raises OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _FIRST_BOXES:
            end = _end_of_boxes(file, size)
        elif head[:4] == b"RIFF" and head[8:] == b"AVI ":
            end = _end_of_riff(file, size)
        elif head[:4] == _EBML:
            end = _end_of_segment(file, size)
        else:
            return 0
    return max(0, end - size)


def is_text(path: Path) -> bool:
    """Whether a file begins like a text: FFmpeg would show one as a video, or follow a playlist's addresses. Raises OSError."""
    with path.open("rb") as file:
        return _TEXT.issuperset(file.read(4096))


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box ends."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1 and len(header) == 16:
            length = int.from_bytes(header[8:], "big")
        if length < 8 or not header[4:8].isascii():  # 0: up to the end of the file; else no box
            return size
        start += length
    return start


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Where the last RIFF ends; a large AVI has several (OpenDML)."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):  # what a writer that was cut off leaves there
            return size
        start += 8 + length + length % 2
    return start


def _end_of_segment(file: BinaryIO, size: int) -> int:
    """Where the segment ends, 0 where it does not say."""
    file.seek(4)
    header = _vint(file)
    if header is None or header > size:  # further than some file systems can seek, in a damaged file
        return 0
    file.seek(header, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """A length of variable size (RFC 8794, section 4); None where it is unknown or no length."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    value = int.from_bytes(first + rest, "big") & ((1 << 7 * width) - 1)
    return None if len(rest) < width - 1 or value == (1 << 7 * width) - 1 else value
