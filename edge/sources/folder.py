"""A folder of images, or one image, as a source."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edge.errors import DataError, SourceError
from edge.frame import IMAGE_SUFFIXES, read_image
from edge.sources import Picture
from edge.sources.opening import SourceOptions

DEFAULT_FPS: Final = 10.0


def open_folder(path: str | Path, options: SourceOptions | None = None) -> "ImageFolder":
    """Open a folder of images, or one image file, at `options.fps` pictures a second. Raises SourceError."""
    return ImageFolder(Path(path), fps=(options.fps if options else None) or DEFAULT_FPS)


class ImageFolder:
    """The images of a folder, grey, in natural order of their names (2 before 10); hidden files and folders are passed over.

    fps: pictures a second. Raises SourceError for a folder without images; the iteration raises it for an image that cannot be
    read.
    """

    live = False

    def __init__(self, path: Path, *, fps: float = DEFAULT_FPS) -> None:
        self.name = str(path)
        self._fps = fps
        self._closed = threading.Event()
        try:
            self._images = sorted(_images(path), key=_natural) if path.is_dir() else [path]
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
        if not self._images:
            raise SourceError(f"{path}: no image in this folder ({', '.join(sorted(IMAGE_SUFFIXES))})")

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[Picture]:
        for index, image in enumerate(self._images):
            if self._closed.is_set():
                return
            try:
                pixels = read_image(image)
            except DataError as error:
                raise SourceError(str(error)) from error
            yield Picture(pixels, index / self._fps)

    def close(self) -> None:
        self._closed.set()


def _images(folder: Path) -> list[Path]:
    return [
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".") and entry.is_file()
    ]


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Numbers in a name count as numbers; the name itself decides between 1 and 01."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.name.casefold())
    return [(int(number), "") if number else (-1, text) for number, text in parts], path.name
