"""One text names any source: `open_source` finds out what is meant and opens it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Final, cast

from edge.errors import SourceError
from edge.frame import IMAGE_SUFFIXES
from edge.sources import FrameSource, Picture

SOURCES: Final = {
    "camera": "edge.sources.camera:open_camera",
    "network": "edge.sources.network:open_network",
    "igtl": "edge.sources.igtl:open_igtl",
    "phantom": "edge.sources.phantom:open_phantom",
    "folder": "edge.sources.folder:open_folder",
    "dicom": "edge.sources.dicom:open_dicom",
    "video": "edge.sources.video:open_video",
}
"""Who opens which kind: a function of the text, or the path, and the options."""

POSSIBLE: Final = (
    "a camera (0 or /dev/video0), rtsp://, rtsps://, http:// or https://, igtl://HOST:PORT, phantom:, "
    "a video, an image, a DICOM file, or a folder of images or DICOM files"
)

_SCHEMES: Final = {
    **dict.fromkeys(("rtsp", "rtsps", "http", "https"), "network"),
    "igtl": "igtl",
}
_LIVE: Final = frozenset({"camera", "network", "igtl"})
_DICOM_MAGIC_AT: Final = 128
_SEARCHED: Final = 10_000
"""Entries below a folder that are looked at for a DICOM file."""


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How a source is opened.

    width, height, fps: asked of a camera; fps is also the rate of a folder of images, 10/s where it is None. spacing_mm:
    millimetres a pixel, both ways, for every picture, whatever the source says itself. open_timeout_s, read_timeout_s: of cameras
    and network streams; how long opening may take, and how long no picture may come. Raises ValueError unless all are above 0.
    """

    width: int | None = None
    height: int | None = None
    fps: float | None = None
    spacing_mm: float | None = None
    open_timeout_s: float = 10.0
    read_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{name} is above 0, not {value}")


def open_source(text: str, options: SourceOptions | None = None) -> FrameSource:
    """Open the source that `text` names (see `POSSIBLE`).

    Digits are a camera, also where a file has that name; "./0" is the file. Raises SourceError.
    """
    options = options or SourceOptions()
    kind, argument = _understood(text)
    module, _, function = SOURCES[kind].partition(":")
    opener = cast(Callable[[str | Path, SourceOptions], FrameSource], getattr(import_module(module), function))
    source = opener(argument, options)
    return source if options.spacing_mm is None else _Spaced(source, options.spacing_mm)


def is_synthetic(text: str) -> bool:
    """Whether the source that `text` names makes its pictures up; they are unlike those of a scanner."""
    return text == "phantom" or text.startswith("phantom:")


def is_live(text: str) -> bool:
    """Whether the source that `text` names is a device or a sender, which can be away and come back. Raises SourceError."""
    return _understood(text)[0] in _LIVE


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its suffix, or by DICM after the preamble (DICOM PS3.10, section 7.1)."""
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            file.seek(_DICOM_MAGIC_AT)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def _understood(text: str) -> tuple[str, str | Path]:
    """The kind of source, and what its opener takes."""
    if re.fullmatch(r"[0-9]+|/dev/video[0-9]+", text):
        return "camera", text
    if is_synthetic(text):
        return "phantom", text
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if scheme:
        kind = _SCHEMES.get(scheme[1].lower())
        if kind is None:
            raise SourceError(f"{scheme[1]}://: no source of this kind; a source is {POSSIBLE}")
        return kind, text
    if typo := re.match(rf"({'|'.join(_SCHEMES)}):", text, re.IGNORECASE):  # not shown: it may hold a password
        raise SourceError(f"{typo[1]}: an address is written {typo[1]}://HOST")
    if not text or "\0" in text:
        raise SourceError(f"a source without a name; it is {POSSIBLE}")
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _kind_of_folder(path), path
        if path.is_file():
            return _kind_of_file(path), path
        there = path.exists()
    except OSError as error:
        raise SourceError(f"{text}: cannot be read ({error.strerror}); check the path and its permissions") from error
    if there:
        raise SourceError(f"{text}: neither a file nor a folder; a source is {POSSIBLE}")
    raise SourceError(f"{text}: no such file or folder; a source is {POSSIBLE}")


def _kind_of_file(path: Path) -> str:
    if is_dicom(path):
        return "dicom"
    return "folder" if path.suffix.lower() in IMAGE_SUFFIXES else "video"


def _kind_of_folder(path: Path) -> str:
    """A folder is of images or of DICOM files, the latter also below it; one of both is not guessed at."""
    files = [entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_file()]
    others = [entry for entry in files if entry.suffix.lower() not in IMAGE_SUFFIXES]
    if len(others) < len(files):
        if any(map(is_dicom, others)):
            raise SourceError(f"{path}: holds images and DICOM files; keep one kind in a folder, or name one file")
        return "folder"
    below = islice(path.rglob("*"), _SEARCHED)
    return "dicom" if any(map(is_dicom, others)) or any(e.is_file() and is_dicom(e) for e in below) else "folder"


class _Spaced:
    """A source whose spacing the user knows."""

    def __init__(self, source: FrameSource, spacing_mm: float) -> None:
        self._source, self._spacing_mm = source, (spacing_mm, spacing_mm)
        self.name, self.live = source.name, source.live

    def __iter__(self) -> Iterator[Picture]:
        for picture in self._source:
            yield replace(picture, spacing_mm=self._spacing_mm)

    def close(self) -> None:
        self._source.close()
