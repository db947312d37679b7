"""Capped exponential back-off."""

import time
from collections.abc import Callable


class Backoff:
    """How long to wait before the next try: doubled after every failure up to `most_s`, from `first_s`.

    clock: seconds, monotonic.
    """

    def __init__(
        self, *, first_s: float = 0.5, most_s: float = 8.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not 0.0 < first_s <= most_s:
            raise ValueError(f"a back-off goes from above 0 s up, not from {first_s} to {most_s}")
        self._first_s, self._most_s, self._clock = first_s, most_s, clock
        self._failures = 0
        self._next_s = -float("inf")

    @property
    def wait_s(self) -> float:
        """Seconds until the next try is due."""
        return max(0.0, self._next_s - self._clock())

    def due(self) -> bool:
        return self.wait_s == 0.0

    def failed(self) -> None:
        """A try failed."""
        delay = min(self._most_s, self._first_s * 2.0 ** min(self._failures, 60))
        self._failures += 1
        self._next_s = self._clock() + delay

    def reset(self) -> None:
        """It works again."""
        self._failures = 0
        self._next_s = -float("inf")
