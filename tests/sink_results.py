"""Results as a run would give them, and places where nothing can be written, for the tests of sinks."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.analysis import Analysis
from edge.findings import Finding, Lesion, Point
from edge.ledger import FrameRecord, Outcome
from edge.preprocess import Box
from edge.stream import Result

Pixels = NDArray[np.uint8]
TESTS = Path(__file__).resolve().parent
CHILD_ENV = {**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}"}
"""For a Python process that imports edgekit and this module."""


def picture(height: int = 120, width: int = 160, *, colour: bool = False, seed: int = 0) -> Pixels:
    """Smooth structure with some speckle, different for each seed."""
    rows, columns = np.mgrid[:height, :width]
    smooth = 90 + 60 * np.sin(rows / 11 + seed / 3) * np.cos(columns / 17)
    noisy = smooth + np.random.default_rng(seed).normal(0, 6, (height, width))
    grey: Pixels = noisy.clip(0, 255).astype(np.uint8)
    if not colour:
        return grey
    return np.stack([grey, np.roll(grey, 9, axis=1), np.full_like(grey, 30 + 5 * (seed % 30))], axis=2)


def lesion(
    track: int = 1, *, centre: Point = (80, 60), radii: Point = (30, 20), spacing_mm: float | None = 0.1
) -> Lesion:
    """An ellipse."""
    (x, y), (wide, tall) = centre, radii
    mask = np.zeros((y + tall + 2, x + wide + 2), np.uint8)
    cv2.ellipse(mask, centre, radii, 0, 0, 360, (1,), -1)
    contour = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0][0][:, 0]
    points = tuple((int(column), int(row)) for column, row in contour)
    area, long = int(mask.sum()), 2.0 * wide + 1
    return Lesion(
        track, points, area, ((x - wide, y), (x + wide, y)), long,
        None if spacing_mm is None else area * spacing_mm**2, None if spacing_mm is None else long * spacing_mm,
    )  # fmt: skip


def finding(*lesions: Lesion, decision: str = "malignant") -> Finding:
    return Finding(decision, 0.97, {"benign": 0.12, "malignant": 0.88}, "malignant", 0.4, lesions)


def result(
    number: int = 0,
    *,
    captured_ns: int | None = None,
    pixels: Pixels | None = None,
    found: Finding | None = None,
    reason: str = "",
    age_s: float = 0.0,
    **analysis: Any,
) -> Result[Analysis]:
    """A frame every 40 ms. reason: makes it a rejected one."""
    at = 1_000_000_000 + number * 40_000_000 if captured_ns is None else captured_ns
    shown = picture(seed=number) if pixels is None else pixels
    height, width = shown.shape[:2]
    made = Analysis(
        number, at, number * 0.04, shown, shown if shown.ndim == 2 else shown[:, :, 0],
        analysis.pop("region", Box(0, 0, height, width)), found, reason, age_s, **analysis,
    )  # fmt: skip
    outcome = Outcome.REJECTED if reason else Outcome.PROCESSED
    return Result(
        FrameRecord(number, outcome, at, reason, at + 1, at + 2_000_000, at + 9_000_000, at + 9_500_000), made
    )


def failed(number: int = 0) -> Result[Analysis]:
    at = 1_000_000_000 + number * 40_000_000
    return Result(FrameRecord(number, Outcome.FAILED, at, "the engine gave nothing", at + 1), None)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """Files of this process grow no further: writing beyond fails, as on a full disk, for any user."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small file system of its own; skips the test where this user may not mount one."""
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("this user cannot mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
