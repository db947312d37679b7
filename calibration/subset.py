"""The calibration subset: a few hundred frames that stand for the data set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from calibration.dataset import Case, Dataset, Label
from calibration.evaluation import Progress
from edge.errors import CalibrationError
from edge.frame import GreyImage, fingerprint, read_image
from edge.phantom import phantom_case

DEFAULT_COUNT: Final = 300
BRIGHTNESS_BINS: Final = 3


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationFrames:
    """Frames to calibrate on, native size. source: "phantom" or the data sets' names. sha256: one a frame. groups: one a frame,
    as its patient; empty where every frame is its own.
    """

    source: str
    frames: tuple[GreyImage, ...]
    sha256: tuple[str, ...]
    groups: tuple[str, ...] = ()


class _Stratified(Protocol):
    @property
    def label(self) -> Label | None: ...

    @property
    def device(self) -> str: ...


def calibration_frames(
    dataset: Dataset, *, count: int = DEFAULT_COUNT, seed: int = 0, progress: Progress = iter
) -> CalibrationFrames:
    """Choose and read `count` frames, stratified over label, device and brightness, seeded; all of them when there are fewer.

    Raises CalibrationError when there is none, DataError when one cannot be read.
    """
    cases = list(dataset)
    if not cases:
        raise CalibrationError("the calibration data set is empty")
    brightness = [float(read_image(case.image).mean()) for case in progress(cases)]
    return _read([cases[index] for index in stratified(cases, brightness, count=count, seed=seed)])


def every_frame(dataset: Dataset, *, progress: Progress = iter) -> CalibrationFrames:
    """Read all frames: rare ones and common ones as often as they are. Raises DataError when one cannot be read."""
    return _read(list(dataset), progress)


def stratified(cases: Sequence[_Stratified], brightness: Sequence[float], *, count: int, seed: int) -> list[int]:
    """Indices of `count` cases, in order: strata of label × device × brightness third take turns, each shuffled by the seed.

    Taking turns favours rare strata over common ones: a range must hold for the rare scanner too.
    """
    edges = np.quantile(brightness, np.linspace(0, 1, BRIGHTNESS_BINS + 1)[1:-1])
    strata: dict[tuple[str, str, int], list[int]] = {}
    for index in np.random.default_rng(seed).permutation(len(cases)):
        case = cases[index]
        third = int(np.searchsorted(edges, brightness[index], "right"))
        strata.setdefault((case.label or "", case.device, third), []).append(int(index))
    queues = [strata[key] for key in sorted(strata)]
    chosen: list[int] = []
    while queues and len(chosen) < count:
        for queue in queues:
            if len(chosen) < count:
                chosen.append(queue.pop())
        queues = [queue for queue in queues if queue]
    return sorted(chosen)


def phantom_frames(
    *, count: int = DEFAULT_COUNT, seed: int = 0, progress: "PhantomProgress" = iter
) -> CalibrationFrames:
    """Synthetic frames, for when there is no data set. A bundle calibrated on them says so."""
    frames = tuple(phantom_case(seed * 100_003 + index).pixels for index in progress(range(count)))
    return CalibrationFrames("phantom", frames, tuple(fingerprint(frame) for frame in frames))


class PhantomProgress(Protocol):
    def __call__(self, seeds: Iterable[int], /) -> Iterable[int]: ...


def _read(cases: Sequence[Case], progress: Progress = iter) -> CalibrationFrames:
    frames = tuple(read_image(case.image) for case in progress(cases))
    source = ", ".join(sorted({case.origin for case in cases}))
    return CalibrationFrames(
        source, frames, tuple(fingerprint(frame) for frame in frames), tuple(case.subject for case in cases)
    )
