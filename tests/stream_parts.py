"""Small parts to build streams from: sources that do as they are told, an analyser and sinks that take notes."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge.capture import Frame
from edge.sources import Picture
from edge.stream import Result

PIXELS = np.zeros((16, 16), np.uint8)


def picture(time_s: float | None = None, *, lost: int = 0) -> Picture:
    return Picture(PIXELS, time_s=time_s, lost=lost)


class ListSource:
    """Gives its steps in order: a picture, an error to raise, or a function to call. Closing ends it."""

    def __init__(
        self, steps: Sequence[Picture | Exception | Callable[[], object]], *, live: bool = False, name: str = "list"
    ) -> None:
        self.name, self.live = name, live
        self._steps = steps
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        for step in self._steps:
            if self.closed.is_set():
                return
            if isinstance(step, Exception):
                raise step
            if callable(step):
                step()
            else:
                yield step

    def wait(self) -> None:
        """A step that waits until the source is closed."""
        self.closed.wait(60.0)

    def close(self) -> None:
        self.closed.set()


@dataclass(frozen=True, slots=True)
class Note:
    """What `Notes` finds in a frame."""

    number: int
    session: int
    reason: str = ""
    preprocessed_ns: int | None = 0
    inferred_ns: int | None = 0


@dataclass(eq=False)
class Notes:
    """An analyser: `then` is called with every frame, and may raise, wait, or give a reason to reject it."""

    then: Callable[[Frame], str | None] = lambda frame: None
    closed: bool = False

    def analyse(self, frame: Frame) -> Note:
        reason = self.then(frame) or ""
        now = time.monotonic_ns()
        return Note(frame.number, frame.session, reason, now, now)

    def close(self) -> None:
        self.closed = True


@dataclass(eq=False)
class Shelf:
    """A sink that keeps what it is given; `then` is called first, and may raise or wait."""

    then: Callable[[Result[Note]], object] = lambda result: None
    kept: list[Result[Note]] = field(default_factory=list)
    closed: int = 0

    def write(self, result: Result[Note]) -> None:
        self.then(result)
        self.kept.append(result)

    def close(self) -> None:
        self.closed += 1

    @property
    def numbers(self) -> list[int]:
        return [result.record.number for result in self.kept]
