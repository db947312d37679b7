"""How far a frame is from what a network was calibrated on, by features from inside of it.

The distance is that of Mahalanobis (Proceedings of the National Institute of Sciences of India 2, 1936) from the mean of the
calibration frames, in units of their own variation: a brighter, deeper or coarser breast picture differs as they differ among
themselves and stays near, another organ differs otherwise. `calibration.familiarity` fits it, at export.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

GROUPS: Final = 32
"""Most groups of neighbouring channels that each part of the features is averaged into."""


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """What a network's features are on calibration frames, at one precision.

    parts: channels of each part of the feature vector, as one block of the network gives them. mean: of each group of
    neighbouring channels of a part, (G,). whitening: lower triangle of the (G, G) matrix that makes the groups less their mean
    uncorrelated and of variance 1, row by row. limit: the largest distance that is still familiar. Raises ValueError.
    """

    parts: tuple[int, ...]
    mean: tuple[float, ...]
    whitening: tuple[tuple[float, ...], ...]
    limit: float

    def __post_init__(self) -> None:
        if not self.parts or min(self.parts) < 1:
            raise ValueError(f"feature reference: parts of {self.parts} channels")
        groups = len(_starts(self.parts))
        if len(self.mean) != groups or [len(row) for row in self.whitening] != list(range(1, groups + 1)):
            raise ValueError(
                f"feature reference: {self.channels} channels are {groups} groups, each with a mean and a row of the whitening"
            )
        numbers = (*self.mean, self.limit, *itertools.chain(*self.whitening))
        if not all(map(math.isfinite, numbers)) or min(self.limit, *(row[-1] for row in self.whitening)) <= 0.0:
            raise ValueError(
                "feature reference: every number is finite, the limit and the diagonal of the whitening are above 0"
            )

    @property
    def channels(self) -> int:
        """Of the feature vector, all parts together."""
        return sum(self.parts)


@dataclass(frozen=True, slots=True)
class Familiarity:
    """The feature references of a bundle, one for each precision in it, since rounding moves features too.

    frames: sha256 of each frame that they were fitted on. chosen_on: in words. Raises ValueError.
    """

    frames: tuple[str, ...]
    chosen_on: str
    fp32: FeatureReference | None = None
    int8: FeatureReference | None = None

    def __post_init__(self) -> None:
        if len({reference.channels for reference in (self.fp32, self.int8) if reference is not None}) != 1:
            raise ValueError(
                "feature reference: there is one at least, and those of both precisions have the same channels"
            )

    @property
    def channels(self) -> int:
        """Of the feature vector."""
        return next(reference.channels for reference in (self.fp32, self.int8) if reference is not None)

    def at(self, precision: str) -> FeatureReference | None:
        """The reference for "fp32" or "int8"; None where the bundle has no artifact of it."""
        return {"fp32": self.fp32, "int8": self.int8}[precision]


class FeatureDistance:
    """Measures features by a reference."""

    def __init__(self, reference: FeatureReference) -> None:
        self._reference = reference
        self._mean = np.asarray(reference.mean)
        self._whitening = np.zeros((len(reference.mean), len(reference.mean)))
        self._whitening[np.tril_indices(len(reference.mean))] = list(itertools.chain(*reference.whitening))

    def of(self, feature: NDArray[np.float32]) -> float:
        """Mahalanobis distance over the root of G, NaN for a feature that is not finite.

        `feature` has C numbers in any shape. Raises ValueError for another count.
        """
        if feature.size != self._reference.channels:
            raise ValueError(
                f"a feature vector of {feature.size} channels, the reference is for {self._reference.channels}"
            )
        with np.errstate(invalid="ignore"):  # of an infinite feature
            white = self._whitening @ (grouped(feature.reshape(1, -1), self._reference.parts)[0] - self._mean)
            return float(np.sqrt(np.mean(white**2)))

    def familiar(self, feature: NDArray[np.float32]) -> bool:
        """Whether the frame is like those of calibration; NaN and infinity are not. Raises ValueError."""
        return self.of(feature) <= self._reference.limit


def grouped(features: NDArray[np.float32], parts: Sequence[int]) -> NDArray[np.float64]:
    """(N, C) as means of groups of neighbouring channels, (N, G): at most `GROUPS` for each part, the last may be smaller."""
    starts = _starts(parts)
    counts = np.diff([*starts, features.shape[1]])
    return np.asarray(np.add.reduceat(features.astype(np.float64), starts, axis=1) / counts)


def _starts(parts: Sequence[int]) -> list[int]:
    """First channel of every group."""
    starts: list[int] = []
    first = 0
    for channels in parts:
        starts += range(first, first + channels, -(-channels // GROUPS))
        first += channels
    return starts
