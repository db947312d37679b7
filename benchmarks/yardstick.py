"""A fixed piece of work that takes turns with the networks: it tells a slower machine from a slower network."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final

import numpy as np

SIZE: Final = 1 << 16
"""Values that each thread works on: 256 KiB, so that they stay in a core's own cache."""
PASSES: Final = 16


@contextmanager
def yardstick(threads: int) -> Iterator[Callable[[], None]]:
    """Yield the work: a millisecond or so of numpy on every one of `threads` threads, and the wait for the last of them.

    Like an engine's call it is as slow as the slowest thread. numpy lets go of the interpreter meanwhile.
    """
    values = [np.linspace(0.1, 1.0, SIZE, dtype=np.float32) for _ in range(threads)]
    results = [np.empty_like(one) for one in values]

    def work(index: int) -> None:
        for _ in range(PASSES):
            np.sqrt(values[index], out=results[index])
            np.exp(results[index], out=results[index])

    with ThreadPoolExecutor(threads) as pool:

        def on_every_thread() -> None:
            for _ in pool.map(work, range(threads)):
                pass

        yield on_every_thread
