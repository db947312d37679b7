"""The hub: the newest analysis, handed to every viewer that asks; a slow viewer skips pictures and holds nothing back.

Viewers ask for one picture at a time, so that none can wait unseen in a buffer of the network and look newer than it is.
"""

import asyncio
import json
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import cv2

from edge.analysis import Analysis

Clock = Callable[[], int]

VIEWER_S: Final = 3.0
"""A viewer that did not ask for so long is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """An analysis and its key, which no other run of the program uses again."""

    key: str
    analysis: Analysis


@dataclass(frozen=True, slots=True)
class Encoded:
    """A picture as it is sent. told: JSON of what was found, UTF-8. jpeg: the region's pixels."""

    told: bytes
    jpeg: bytes


class Hub:
    """Keeps one analysis. `put`, `newest`, `age_s` and `viewers` are for any thread, the rest for the server's event loop.

    clock: of the run, nanoseconds. limit: viewers at a time. quality: of the JPEG, 1..100.
    """

    def __init__(self, *, clock: Clock = time.monotonic_ns, limit: int = 16, quality: int = 90) -> None:
        self.run = secrets.token_hex(4)
        self.limit = limit
        self._clock, self._quality = clock, quality
        self._lock = threading.Lock()
        self._newest: Shot | None = None
        self._count = 0
        self._waiting = 0
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed: asyncio.Event | None = None
        self._encoding: tuple[str, asyncio.Future[Encoded]] | None = None
        self._seen: dict[str, float] = {}

    def put(self, analysis: Analysis) -> None:
        """Show this analysis from now on. Costs next to nothing while nobody looks."""
        with self._lock:
            self._count += 1
            self._newest = Shot(f"{self.run}-{self._count}", analysis)
            waiting, loop = self._waiting, self._loop
        if waiting and loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._wake)

    def newest(self) -> Shot | None:
        with self._lock:
            return self._newest

    def age_s(self) -> float | None:
        """Since the newest picture was captured; None before the first."""
        shot = self.newest()
        return None if shot is None else self.age_of(shot)

    def age_of(self, shot: Shot) -> float:
        """Seconds since the picture was captured."""
        return (self._clock() - shot.analysis.captured_ns) / 1e9

    def viewers(self) -> int:
        """Viewers that asked within the last three seconds."""
        now_s = time.monotonic()
        with self._lock:
            self._seen = {name: at_s for name, at_s in self._seen.items() if now_s - at_s < VIEWER_S}
            return len(self._seen)

    def admit(self, viewer: str) -> bool:
        """Count a viewer as there; False where there are as many as may be."""
        there = self.viewers()
        with self._lock:
            if viewer not in self._seen and there >= self.limit:
                return False
            self._seen[viewer] = time.monotonic()
            return True

    async def next(self, after: str, wait_s: float) -> Shot | None:
        """The newest analysis once its key is not `after`; None when none came in time."""
        self._loop = asyncio.get_running_loop()
        with self._lock:
            if self._closed or (self._newest is not None and self._newest.key != after):
                return self._newest
            if self._changed is None:
                self._changed = asyncio.Event()
            changed = self._changed
            self._waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await changed.wait()
        except TimeoutError:
            return None
        finally:
            with self._lock:
                self._waiting -= 1
        return self.newest()

    async def encoded(self, shot: Shot) -> Encoded:
        """The picture as it is sent; made once, in a thread, however many viewers ask for it."""
        if self._encoding is None or self._encoding[0] != shot.key:
            made = asyncio.get_running_loop().run_in_executor(None, encode, shot.analysis, self._quality)
            self._encoding = shot.key, made
        return await asyncio.shield(self._encoding[1])  # one viewer that leaves does not take it from the others

    def close(self) -> None:
        """Answer every viewer that waits; no one waits from now on."""
        with self._lock:
            self._closed = True
            loop = self._loop
        if loop is not None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()


def encode(analysis: Analysis, quality: int) -> Encoded:
    """The region's pixels as JPEG, and what was found in coordinates of the whole frame with the region's place in it."""
    pixels = analysis.pixels[analysis.region.pixels]
    _, jpeg = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
    return Encoded(json.dumps(describe(analysis), allow_nan=False).encode(), jpeg.tobytes())


def describe(analysis: Analysis) -> dict[str, Any]:
    """What the page says of a picture. outcome: live, frozen (rejected, with the finding it had before) or rejected."""
    finding, region = analysis.finding, analysis.region
    outcome = "live" if not analysis.reason else "rejected" if finding is None else "frozen"
    told = None if finding is None else {**finding.to_json(), "positive": finding.positive}
    return {
        "number": analysis.number,
        "outcome": outcome,
        "reason": analysis.reason,
        "left": region.left,
        "top": region.top,
        "width": region.width,
        "height": region.height,
        "spacing_mm": analysis.spacing_mm,
        "finding": told,
        "finding_age_ms": 1000.0 * analysis.finding_age_s,
    }


__all__ = ["Encoded", "Hub", "Shot", "describe", "encode"]
