"""How fast this machine moves memory: a copy by all threads, in working sets from a core's own cache to main memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

WORKING_SETS: Final = tuple(2**power for power in range(18, 27, 2))
"""Bytes that are read and written, of all threads together: 256 KiB to 64 MiB."""
_MOVED_BYTES: Final = 2**24
"""Least to move for one sample, so that starting the threads does not count."""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second, read and written, of a copy whose source and target are `working_set_bytes` together."""

    working_set_bytes: int
    bytes_per_s: float

    def __post_init__(self) -> None:
        if self.working_set_bytes <= 0 or not self.bytes_per_s > 0:
            raise ValueError(f"{self.bytes_per_s} bytes a second over {self.working_set_bytes} bytes is no bandwidth")


@contextmanager
def copies(threads: int) -> Iterator[dict[int, Callable[[], None]]]:
    """A copy by working set, on `threads` threads that each have their share; each moves `moved_bytes` of it."""
    with ThreadPoolExecutor(threads) as pool:
        yield {size: _copier(size, threads, pool) for size in WORKING_SETS}


def moved_bytes(working_set: int) -> int:
    """Bytes that one call of a copier reads and writes."""
    return working_set * max(1, _MOVED_BYTES // working_set)


def _copier(working_set: int, threads: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    share = working_set // (2 * threads)
    pairs: list[tuple[Any, Any]] = [(np.ones(share, np.uint8), np.zeros(share, np.uint8)) for _ in range(threads)]
    repeats = moved_bytes(working_set) // working_set

    def copy(index: int) -> None:
        source, target = pairs[index]
        for _ in range(repeats):
            np.copyto(target, source)  # numpy lets go of the interpreter meanwhile

    def run() -> None:
        for _ in pool.map(copy, range(threads)):
            pass

    return run


def bandwidth_for(size_bytes: int, measured: Sequence[Bandwidth]) -> float:
    """Bytes a second that a layer which moves so much can count on: the fastest copy of as much or more.

    Of more than was measured, the copy of the largest working set.
    """
    fitting = [found.bytes_per_s for found in measured if found.working_set_bytes >= size_bytes]
    largest = max(measured, key=lambda found: found.working_set_bytes)
    return max(fitting, default=largest.bytes_per_s)
