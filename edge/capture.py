"""Capture: reads a source in a thread of its own, opens it again when a live one fails, and counts every picture."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from edge.backoff import Backoff
from edge.errors import EdgekitError, SourceError
from edge.handover import Closed, Handover
from edge.ledger import FrameRecord, Ledger, Outcome
from edge.sources import FrameSource, Picture
from edge.timeline import Timeline

Clock = Callable[[], int]

REPLACED: Final = "a newer frame came"
STOPPED: Final = "the run was stopped"
CLOSE_S: Final = 3.0


class SourceState(StrEnum):
    """What the capture thread is doing."""

    WAITING = "waiting"  # opened, no picture yet
    RUNNING = "running"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


class AwaySource:
    """A live source that could not be opened when the run began: reading it fails with what was said, and it is opened again."""

    def __init__(self, fault: SourceError) -> None:
        self.name, self.live = "the source", True
        self._fault = fault

    def __iter__(self) -> Iterator[Picture]:
        raise self._fault

    def close(self) -> None:
        """There is nothing to close."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A captured picture. number: in the ledger. captured_ns: by the run's clock. session: how often the source was opened.

    The picture's `time_s` goes on from frame to frame, also where the clock of a live source does not (`edge.timeline`).
    waits: nothing is lost while it is analysed, as of a recording of which every frame is wanted.
    """

    number: int
    captured_ns: int
    picture: Picture
    session: int = 1
    waits: bool = True


class Capture:
    """The capture thread.

    opened: the source, already open. reopen: opens it again; called for a live source that failed or ended. paced: pictures of a
    source that is not live are held back to their own time. out: where frames go; it is closed when no more will come.
    """

    def __init__(
        self,
        opened: FrameSource,
        reopen: Callable[[], FrameSource],
        out: Handover[Frame],
        ledger: Ledger,
        *,
        paced: bool,
        clock: Clock,
        backoff: Backoff | None = None,
    ) -> None:
        self._source: FrameSource | None = opened
        self._live = opened.live
        self._reopen, self._out, self._ledger = reopen, out, ledger
        self._paced, self._clock = paced and not opened.live, clock
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._session = 1
        self._timeline = Timeline()
        self.state = SourceState.WAITING
        self.failures = 0
        self.trouble: str | None = None
        """What the source said when it failed last; None while it runs."""
        self.fault: str | None = None
        """The same, kept when it runs again."""
        self.error: Exception | None = None
        """Why capture ended, None after a good end."""
        self.opening_ns: int | None = None
        """Since when the source is being opened again, None while it is not."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> bool:
        """End capture; frames that wait are dropped. False when the source did not let go of its thread in time.

        A try to connect again is not waited for: it ends by its own time-out.
        """
        self._stopping.set()
        with self._lock:
            if self._source is not None:
                self._source.close()
        for frame in self._out.close(discard=True):
            self._drop(frame, STOPPED)
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        return not self._thread.is_alive() or self.state is SourceState.RECONNECTING

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                fault = self._read()
                if self._stopping.is_set() or not (self._live and self._connect_again(fault)):
                    break
        except Closed:
            pass
        except Exception as error:  # surfaces in the run
            self.error = error
        finally:
            self.state = SourceState.ENDED
            self._out.close()

    def _read(self) -> SourceError | None:
        """Read the open source to its end; returns what a live source failed with."""
        source = self._source
        assert source is not None
        try:
            self._hand_over(iter(source))
        except SourceError as error:
            if not self._live:
                raise
            return error
        finally:
            with self._lock:
                self._source = None
            source.close()
        return SourceError(f"{source.name}: the stream ended") if self._live else None

    def _hand_over(self, pictures: Iterator[Picture]) -> None:
        started_ns = self._clock()
        for picture in pictures:
            if self._paced and picture.time_s is not None:
                early_s = picture.time_s - (self._clock() - started_ns) / 1e9
                if early_s > 0.0 and self._stopping.wait(early_s):
                    return
            if self._stopping.is_set():
                return
            captured_ns = self._clock()
            if self._live:
                picture = replace(picture, time_s=self._timeline.follow(picture.time_s, captured_ns))  # noqa: PLW2901
            number = self._ledger.capture(lost=picture.lost)
            frame = Frame(number, captured_ns, picture, self._session, waits=not (self._live or self._paced))
            self.state, self.trouble = SourceState.RUNNING, None
            self._backoff.reset()
            try:
                replaced = self._out.put(frame)
            except Closed:
                self._drop(frame, STOPPED)
                raise
            if replaced is not None:
                self._drop(replaced, REPLACED)

    def _connect_again(self, fault: SourceError | None) -> bool:
        """Open a live source until it works; False when the run is stopped."""
        while True:
            self.failures += 1
            self.state = SourceState.RECONNECTING
            self.trouble = self.fault = str(fault)
            self._backoff.failed()
            if self._stopping.wait(self._backoff.wait_s):
                return False
            self.opening_ns = self._clock()
            try:
                source = self._reopen()
            except EdgekitError as error:
                fault = SourceError(str(error))
                continue
            finally:
                self.opening_ns = None
            with self._lock:
                self._source = source
            if self._stopping.is_set():
                source.close()
                return False
            self._session += 1
            self.state = SourceState.WAITING
            return True

    def _drop(self, frame: Frame, reason: str) -> None:
        self._ledger.end(FrameRecord(frame.number, Outcome.DROPPED, frame.captured_ns, reason))
