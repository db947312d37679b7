"""Frame sources: one short module each behind one small protocol.

A source gives pictures as they come; it neither queues nor drops them, that is the stream's part (`edge.stream`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.preprocess import Box


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture of a source.

    pixels: (H, W) grey or (H, W, 3) BGR, uint8; nobody writes to it any more. time_s: the source's own time, from its start,
    None where it has none. spacing_mm: (between rows, between columns), None where it is not known. region: where the scan
    lies, where the source says so. lost: pictures that the source knows it missed just before this one. origin: what a sink may
    want to know of where the picture comes from, as of a DICOM file.
    """

    pixels: NDArray[np.uint8]
    time_s: float | None = None
    spacing_mm: tuple[float, float] | None = None
    region: Box | None = None
    lost: int = 0
    origin: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        if self.pixels.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)):
            raise ValueError(f"pixels are (H, W) or (H, W, 3) uint8, not {shape} {self.pixels.dtype}")


class FrameSource(Protocol):
    """Where pictures come from.

    name: as a person would call it. live: the world goes on whether or not it is read; such a source may be opened again when it
    fails, and its pictures are not waited for. One that is not live ends by itself and has `time_s` in every picture.
    """

    name: str
    live: bool

    def __iter__(self) -> Iterator[Picture]:
        """Pictures until the source ends. Raises SourceError when it fails."""
        ...

    def close(self) -> None:
        """Release the source, from any thread; an iteration that waits ends within two seconds. May be called twice."""
        ...
