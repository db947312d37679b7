"""The time of a live source's pictures, which always goes on.

A sender's clock is set, stands still, or starts again with every connection; what reckons with the time of pictures would wait
for hours or take a live picture for a frozen one. From such a leap on, time goes on by the run's own clock.
"""

from typing import Final

SLIP_S: Final = 2.0
"""By how much a step of the sender's clock may differ from the same step of the run's: a network delays, then hurries."""
_LEAST_S: Final = 1e-6


class Timeline:
    """Follows one source through a run, also where it is opened again. Used by one thread."""

    def __init__(self) -> None:
        self._timed: bool | None = None
        self._last: tuple[float, int] | None = None
        self._offset_s = 0.0

    def follow(self, time_s: float | None, captured_ns: int) -> float | None:
        """The time of the next picture, in seconds, later than that of the one before.

        time_s: as the source says it. captured_ns: by the run's clock. None for every picture where the first one had no time.
        """
        if self._timed is None:
            self._timed = time_s is not None
        if not self._timed:
            return None
        if self._last is None:
            assert time_s is not None
            self._last = time_s, captured_ns
            return time_s
        last_s, last_ns = self._last
        run_s = max(_LEAST_S, (captured_ns - last_ns) / 1e9)
        now_s = last_s + run_s
        if time_s is not None:
            own_s = time_s + self._offset_s
            if own_s > last_s and abs(own_s - now_s) <= SLIP_S:
                now_s = own_s
            else:
                self._offset_s = now_s - time_s
        self._last = now_s, captured_ns
        return now_s
