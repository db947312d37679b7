"""DICOM ultrasound files as a source: a clip, a still, or a folder of them. Needs pydicom (extra "dicom").

`dicom_header` reads what a file says of itself, `dicom_pixels` decodes its frames. A frame is decoded when it is asked for, so
that a long clip is never in memory as a whole.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import SourceError, require
from edge.sources import Picture
from edge.sources.dicom_header import Clip, NotUltrasoundError, describe, reading
from edge.sources.dicom_pixels import decode

if TYPE_CHECKING:
    from edge.sources.opening import SourceOptions


@dataclass(frozen=True, slots=True)
class DicomOrigin:
    """The image a picture was taken from. sop_instance_uid: "" where the file has none. frame: its number, from 1 to `frames`."""

    path: Path
    sop_instance_uid: str
    frame: int
    frames: int

    def __post_init__(self) -> None:
        if not 1 <= self.frame <= self.frames:
            raise ValueError(f"frame {self.frame} of {self.frames}; frames are counted from 1")


def open_dicom(path: Path | str, options: "SourceOptions | None" = None) -> "DicomSource":
    """Open a DICOM file, or every ultrasound image in a folder and below it. Raises SourceError, MissingDependencyError.

    options: `fps` is used where a file names no frame rate (without it 25); the rest has no meaning here.
    """
    return DicomSource(path, options)


class DicomSource:
    """Pictures of one or more files; those of a folder in order of study, series and instance number, their times running on."""

    def __init__(self, path: Path | str, options: "SourceOptions | None" = None) -> None:
        require("pydicom", extra="dicom")
        path = Path(path)
        self.name, self.live = str(path), False
        self._fps = None if options is None else options.fps
        self._closed = threading.Event()
        self._paths = self._ordered(path) if path.is_dir() else [describe(path, self._fps).path]

    def __iter__(self) -> Iterator[Picture]:
        start_s = 0.0
        for path in self._paths:
            clip = describe(path, self._fps)
            yield from self._pictures(clip, start_s)
            start_s += clip.time_s(clip.frames - 1) + clip.period_s

    def close(self) -> None:
        self._closed.set()

    def _pictures(self, clip: Clip, start_s: float) -> Iterator[Picture]:
        frames = decode(clip)
        for number in range(1, clip.frames + 1):
            if self._closed.is_set():
                return
            with reading(clip.path, f"frame {number} of {clip.frames} cannot be decoded"):
                pixels = next(frames, None)
            if pixels is None:
                raise SourceError(f"{clip.path}: truncated before frame {number} of {clip.frames}; copy the file again")
            origin = DicomOrigin(clip.path, clip.sop_instance_uid, number, clip.frames)
            yield Picture(pixels, start_s + clip.time_s(number - 1), clip.spacing_mm, clip.region, origin=origin)

    def _ordered(self, folder: Path) -> list[Path]:
        """A folder may hold other objects of the study as well; an ultrasound image that cannot be read is an error."""
        found = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                try:
                    found.append((describe(path, self._fps).order, path))
                except NotUltrasoundError:
                    continue
        if not found:
            raise SourceError(f"{folder}: no ultrasound DICOM image in this folder; check the path")
        return [path for _, path in sorted(found)]
