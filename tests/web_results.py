"""Results for the web page: phantoms with findings that their own masks give."""

import time
from functools import cache
from typing import Any

import cv2
import numpy as np

from edge.analysis import Analysis
from edge.errors import SinkError
from edge.findings import Finding, Lesion
from edge.ledger import FrameRecord, Outcome
from edge.phantom import PhantomCase, phantom_case
from edge.preprocess import Box
from edge.stream import Result


@cache
def case(seed: int = 3, label: str = "malignant", size: tuple[int, int] = (240, 320)) -> PhantomCase:
    return phantom_case(seed, label=label, size=size)


def finding(of: PhantomCase, *, left: int = 0, top: int = 0) -> Finding:
    """The answer that a perfect network would give."""
    contours, _ = cv2.findContours(of.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    lesions = []
    for track, contour in enumerate(sorted(contours, key=cv2.contourArea, reverse=True)[:1], 1):
        points = contour[:, 0, :]
        gaps = np.linalg.norm(points[:, None] - points[None], axis=2)
        first, second = np.unravel_index(gaps.argmax(), gaps.shape)
        outline = tuple((int(x) + left, int(y) + top) for x, y in points)
        longest, area = float(gaps.max()) + 1, int(of.mask.sum())
        ends = outline[int(first)], outline[int(second)]
        lesions.append(Lesion(track, outline, area, ends, longest, area * 0.01, longest * 0.1))
    malignant = {"malignant": 0.87, "benign": 0.12, "normal": 0.05}[of.label]
    normal = of.label == "normal"
    return Finding(
        decision="no lesion" if normal else of.label,
        presence=0.03 if normal else 0.96,
        probabilities={"benign": 1 - malignant, "malignant": malignant},
        positive="malignant",
        threshold=0.42,
        lesions=tuple(lesions),
    )


def result(
    number: int = 0,
    *,
    of: PhantomCase | None = None,
    reason: str = "",
    frozen_s: float | None = None,
    age_s: float = 0.02,
    margin: int = 0,
    pixels: np.ndarray[Any, np.dtype[np.uint8]] | None = None,
) -> Result[Analysis]:
    """A result whose picture was captured `age_s` ago.

    reason: rejected for it. frozen_s: rejected, and the finding so old. margin: black pixels around the region. pixels: to
    show instead.
    """
    of = of or case()
    height, width = of.pixels.shape
    shown = np.pad(of.pixels, margin) if pixels is None else pixels
    found = None if reason and frozen_s is None else finding(of, left=margin, top=margin)
    now_ns = time.monotonic_ns()
    captured_ns = now_ns - int(age_s * 1e9)
    outcome = Outcome.REJECTED if reason else Outcome.PROCESSED
    record = FrameRecord(number, outcome, captured_ns, reason, captured_ns, captured_ns, now_ns, now_ns)
    analysis = Analysis(
        number, captured_ns, None, shown, of.pixels, Box(margin, margin, height, width), found, reason,
        0.0 if frozen_s is None else frozen_s, (0.1, 0.1),
    )  # fmt: skip
    return Result(record, analysis)


def failure(number: int = 0, reason: str = "the engine refused the frame") -> Result[Analysis]:
    return Result(FrameRecord(number, Outcome.FAILED, time.monotonic_ns(), reason), None)


class Recorder:
    """A recorder whose disk can be full."""

    def __init__(self) -> None:
        self.recording = False
        self.full = False

    def start(self) -> None:
        if self.full:
            raise SinkError("clip.mkv: the disk is full; make room")
        self.recording = True

    def stop(self) -> None:
        self.recording = False
