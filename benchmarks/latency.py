"""Interleaved latency: every candidate once a round, so that a noisy machine hurts all alike."""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

Clock = Callable[[], int]
Key = TypeVar("Key", bound=Hashable)
WARMUP: Final = 10
FAST: Final = 10.0
"""The percentile that stands for a round that other processes left alone."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Raw samples of one candidate, milliseconds; percentiles are derived."""

    samples_ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.samples_ms:
            raise ValueError("a latency needs at least one sample")

    @property
    def p50_ms(self) -> float:
        return self.percentile(50)

    @property
    def p90_ms(self) -> float:
        return self.percentile(90)

    @property
    def p99_ms(self) -> float:
        return self.percentile(99)

    @property
    def fast_ms(self) -> float:
        """Latency of an undisturbed round (`FAST`); on an idle machine that is about the median."""
        return self.percentile(FAST)

    @property
    def fps(self) -> float:
        """Frames a second at the median latency."""
        return 1000.0 / self.p50_ms

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))


def measure(
    steps: Mapping[Key, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = WARMUP,
    clock: Clock = time.perf_counter_ns,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> dict[Key, Latency]:
    """Time every step once a round, the order rotating from round to round, after `warmup` untimed rounds.

    clock: nanoseconds, monotonic. Raises ValueError when rounds < 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    keys = list(steps)
    for _ in range(warmup):
        for key in keys:
            steps[key]()
    samples: dict[Key, list[float]] = {key: [] for key in keys}
    for turn in progress(range(rounds)):
        first = turn % len(keys)
        for key in (*keys[first:], *keys[:first]):
            started = clock()
            steps[key]()
            samples[key].append((clock() - started) / 1e6)
    return {key: Latency(tuple(values)) for key, values in samples.items()}
