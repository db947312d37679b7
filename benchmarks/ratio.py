"""Is one thing slower than another beyond noise? Ratios of median latency with an interval.

Latencies of neighbouring rounds resemble each other (another process comes, a clock goes down), so whole blocks of rounds are
drawn: the circular block bootstrap of Politis & Romano, "A circular block-resampling procedure for stationary data" (1992), with
percentile intervals. Medians, so that a few rounds that were interrupted do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[float] | NDArray[np.float64]
"""Latencies, one a round."""

RESAMPLES: Final = 2000
LEVEL: Final = 0.99
"""A report holds several intervals, and a false alarm costs trust: so 99 %, not 95 %."""
_CHUNK: Final = 2_000_000
"""Most samples that are drawn at once."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio with its interval, low ≤ high."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high:
            raise ValueError(f"{self.low} to {self.high} is no interval of a ratio")

    def above(self, limit: float) -> bool:
        """Whether all of the interval is."""
        return self.low > limit

    def below(self, limit: float) -> bool:
        return self.high < limit


def paired_ratio(numerator: Samples, denominator: Samples, *, seed: int = 0) -> Ratio:
    """Median of one over median of the other, of two candidates that took turns: rounds are drawn for both together.

    Raises ValueError unless there is one positive sample of each in every round.
    """
    drawn = _medians((numerator, denominator), seed=seed)
    return _ratio(np.median(numerator) / np.median(denominator), drawn[:, 0] / drawn[:, 1])


def ratio_between(
    new: Samples,
    old: Samples,
    *,
    new_yardstick: Samples | None = None,
    old_yardstick: Samples | None = None,
    seed: int = 0,
) -> Ratio:
    """Median of a run over that of an earlier one, each drawn by itself.

    The yardsticks, where both are given, took turns with the samples: the ratio is then of multiples of the yardstick, and what
    the whole machine was slower by is out of it. Raises ValueError for no or unequally many samples, or one that is not positive.
    """
    if new_yardstick is None or old_yardstick is None:
        one, other = _medians((new,), seed=seed), _medians((old,), seed=seed + 1)
        return _ratio(np.median(new) / np.median(old), one[:, 0] / other[:, 0])
    one, other = _medians((new, new_yardstick), seed=seed), _medians((old, old_yardstick), seed=seed + 1)
    value = np.median(new) / np.median(new_yardstick) / (np.median(old) / np.median(old_yardstick))
    return _ratio(value, one[:, 0] / one[:, 1] / (other[:, 0] / other[:, 1]))


def _ratio(value: np.floating, drawn: NDArray[np.float64]) -> Ratio:
    low, high = np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Ratio(float(value), float(low), float(high))


def _medians(series: Sequence[Samples], *, seed: int) -> NDArray[np.float64]:
    """(RESAMPLES, series) medians, the same rounds drawn for every series."""
    if len({np.size(one) for one in series}) != 1 or not np.size(series[0]):
        raise ValueError("series that took turns have equally many samples, at least one")
    samples = np.array(series, np.float64)
    if not (samples > 0).all():
        raise ValueError("a latency is positive")
    count = samples.shape[1]
    block = max(1, round(count**0.5))
    blocks = -(-count // block)
    rng = np.random.default_rng(seed)
    parts = []
    chunk = max(1, _CHUNK // count)
    for done in range(0, RESAMPLES, chunk):
        starts = rng.integers(count, size=(min(chunk, RESAMPLES - done), blocks))
        rounds = (starts[:, :, None] + np.arange(block)).reshape(len(starts), -1)[:, :count] % count
        parts.append(np.median(samples[:, rounds], axis=2).T)
    return np.concatenate(parts)
