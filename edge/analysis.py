"""Analysis of one frame: region of interest, guard, network, findings. What leaves here has nothing outside the region."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.findings import Finding
from edge.preprocess import Box


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What is known of a frame.

    number, captured_ns, time_s: of the frame. pixels: (H, W) or (H, W, 3) BGR uint8, black outside `region`. grey: (h, w) uint8,
    the region's own pixels, what the network saw. finding: None where the frame was rejected, but for a frozen picture, which
    keeps the last one. reason: why the frame was rejected, empty where it was not. finding_age_s: of a kept finding, 0 for a
    new one. spacing_mm: (between rows, between columns). origin: of the source's picture (see `edge.sources.Picture`).
    """

    number: int
    captured_ns: int
    time_s: float | None
    pixels: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    region: Box
    finding: Finding | None
    reason: str = ""
    finding_age_s: float = 0.0
    spacing_mm: tuple[float, float] | None = None
    origin: object = None
    preprocessed_ns: int | None = None
    inferred_ns: int | None = None
