"""The stream: capture, analysis and delivery, each in threads of their own, joined by bounded hand-overs.

Newest frame wins: a frame that waits while a newer one comes is dropped, and the ledger says so. Read this module first.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, Protocol, TypeVar

from edge.backoff import Backoff
from edge.capture import AwaySource, Capture, Clock, Frame, SourceState
from edge.delivery import Delivery, SinkPlan, SinkStatus
from edge.errors import EdgekitError, EngineError, SourceError, told
from edge.handover import Closed, Handover
from edge.ledger import FrameRecord, Ledger, LedgerSummary, Outcome
from edge.sources import FrameSource

Policy = Literal["newest", "all"]

QUEUE: Final = 8
"""Frames that may wait under the policy "all"."""
FAILURES: Final = 5
"""Engine failures in a row that end a run."""
STOP_S: Final = 10.0


class Verdict(Protocol):
    """What an analysis says of a frame, as far as the stream needs to know.

    reason: why the frame was rejected, empty where it was processed. preprocessed_ns, inferred_ns: by the run's clock, None where
    the frame did not get that far.
    """

    @property
    def reason(self) -> str: ...
    @property
    def preprocessed_ns(self) -> int | None: ...
    @property
    def inferred_ns(self) -> int | None: ...


Found_co = TypeVar("Found_co", bound=Verdict, covariant=True)
Kind = TypeVar("Kind", bound=Verdict)


class Analyser(Protocol[Found_co]):
    """What is done with a frame; used by one thread."""

    def analyse(self, frame: Frame) -> Found_co:
        """Raises EngineError, DataError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class Result(Generic[Kind]):
    """A frame that reached its end: its record in the ledger, and what was found unless analysis failed."""

    record: FrameRecord
    found: Kind | None


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """The state of a run. age_s: since the newest result that was no failure, None before it. trouble: of the source, None
    while it runs. fault: the same, kept when it runs again. analysing_s: how long the frame in analysis has been there, None
    where none is. opening_s: how long the present try to open the source again takes, None where there is none.
    """

    source: SourceState
    trouble: str | None
    reconnects: int
    age_s: float | None
    ledger: LedgerSummary
    sinks: tuple[SinkStatus, ...]
    error: str | None
    fault: str | None = None
    analysing_s: float | None = None
    opening_s: float | None = None

    @property
    def sound(self) -> bool:
        """The run had no fault: source, analysis and every sink did their part."""
        return self.error is None and all(sink.sound for sink in self.sinks)


class Stream(Generic[Kind]):
    """A run from one source through one analyser to any number of sinks. `run` blocks; `stop` and `status` are for any thread.

    open_source: opens the source, also again after a live one failed. Opened by `run`: the source, then the sinks.
    awaits: a source that is not there when the run begins is a live one that is tried until it comes.
    """

    def __init__(
        self,
        open_source: Callable[[], FrameSource],
        analyser: Analyser[Kind],
        sinks: Sequence[SinkPlan[Result[Kind]]] = (),
        *,
        policy: Policy = "newest",
        awaits: bool = False,
        clock: Clock = time.monotonic_ns,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._open_source, self._analyser, self._plans = open_source, analyser, sinks
        self._policy, self._awaits, self._clock, self._backoff = policy, awaits, clock, backoff
        self._ledger = Ledger()
        self._stop = threading.Event()
        self._capture: Capture | None = None
        self._deliveries: list[Delivery[Result[Kind]]] = []
        self._delivered_ns: int | None = None
        self._analysing_ns: int | None = None
        self._error: Exception | None = None

    def stop(self) -> None:
        """Ask the run to end; returns at once."""
        self._stop.set()

    def status(self) -> StreamStatus:
        capture, delivered_ns, error = self._capture, self._delivered_ns, self._error
        return StreamStatus(
            source=SourceState.WAITING if capture is None else capture.state,
            trouble=None if capture is None else capture.trouble,
            reconnects=0 if capture is None else capture.failures,
            age_s=self._since_s(delivered_ns),
            ledger=self._ledger.summary(),
            sinks=tuple(delivery.status() for delivery in self._deliveries),
            error=None if error is None else told(error),
            fault=None if capture is None else capture.fault,
            analysing_s=self._since_s(self._analysing_ns),
            opening_s=None if capture is None else self._since_s(capture.opening_ns),
        )

    def _since_s(self, moment_ns: int | None) -> float | None:
        return None if moment_ns is None else (self._clock() - moment_ns) / 1e9

    def run(
        self,
        *,
        duration_s: float | None = None,
        tick: Callable[[StreamStatus], None] | None = None,
        tick_s: float = 1.0,
        ending: Callable[[], None] | None = None,
    ) -> StreamStatus:
        """Run until the source ends, `stop`, `duration_s` or a fault of source or analysis, which the status names.

        tick: called every `tick_s` in this thread. ending: called in it when the run begins to end; sinks may take some seconds
        to write what waits, in which there is no tick. Raises SourceError, SinkError when source or sinks cannot be opened.
        """
        source = self._first_source()
        frames: Handover[Frame] = _handover(self._policy, live=source.live)
        self._capture = capture = Capture(
            source, self._open_source, frames, self._ledger,
            paced=self._policy == "newest", clock=self._clock, backoff=self._backoff(),
        )  # fmt: skip
        worker = threading.Thread(target=self._analyse, args=(frames,), name="analysis", daemon=True)
        try:
            for plan in self._plans:
                self._deliveries.append(Delivery(plan, backoff=self._backoff()))
            capture.start()
            worker.start()
            self._watch(worker, duration_s, tick, tick_s)
        finally:
            if ending is not None:
                ending()
            if not capture.stop():
                self._fail(SourceError(f"{source.name}: did not let go of its reader; the rest was stopped"))
            if worker.ident is not None:
                worker.join(STOP_S)
            if worker.is_alive():
                self._fail(EngineError(f"the analysis of a frame did not end within {STOP_S:g} s"))
            for delivery in self._deliveries:
                delivery.close()
        if capture.error is not None:
            self._fail(capture.error)
        return self.status()

    def _first_source(self) -> FrameSource:
        try:
            return self._open_source()
        except SourceError as fault:
            if not self._awaits:
                raise
            return AwaySource(fault)

    def _watch(
        self,
        worker: threading.Thread,
        duration_s: float | None,
        tick: Callable[[StreamStatus], None] | None,
        tick_s: float,
    ) -> None:
        """Wait for the end of the run; short waits, so that the main thread takes signals."""
        end_s = None if duration_s is None else time.monotonic() + duration_s
        next_s = time.monotonic() + tick_s
        while worker.is_alive() and not self._stop.is_set():
            now_s = time.monotonic()
            if end_s is not None and now_s >= end_s:
                break
            if now_s >= next_s:
                next_s = now_s + tick_s
                if tick is not None:
                    tick(self.status())
            waits = [0.2, *(moment - now_s for moment in (end_s, next_s) if moment is not None)]
            self._stop.wait(max(0.0, min(waits)))

    def _analyse(self, frames: Handover[Frame]) -> None:
        failures = 0
        while True:
            self._analysing_ns = None
            try:
                frame = frames.get()
            except Closed:
                return
            self._analysing_ns = dequeued_ns = self._clock()
            try:
                found = self._analyser.analyse(frame)
            except Exception as error:  # counted, told, and at last the end of the run
                failures += 1
                self._deliver(
                    FrameRecord(frame.number, Outcome.FAILED, frame.captured_ns, told(error), dequeued_ns), None
                )
                if failures == FAILURES or not isinstance(error, EdgekitError):
                    self._fail(error)
                    self._stop.set()
                    return
                continue
            failures = 0
            self._delivered_ns = self._clock()
            self._deliver(_record(frame, found, dequeued_ns, self._delivered_ns), found)

    def _deliver(self, record: FrameRecord, found: Kind | None) -> None:
        result = Result(record, found)
        for delivery in self._deliveries:
            delivery.offer(result)
        self._ledger.end(record)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error

    @property
    def error(self) -> Exception | None:
        """What ended the run, None after a good end."""
        return self._error


def _handover(policy: Policy, *, live: bool) -> Handover[Frame]:
    """Newest: one place, the newer frame takes it. All: a queue; a recorded source waits for room, a live one cannot."""
    return Handover(1) if policy == "newest" else Handover(QUEUE, replace=live)


def _record(frame: Frame, found: Verdict, dequeued_ns: int, delivered_ns: int) -> FrameRecord:
    return FrameRecord(
        frame.number,
        Outcome.REJECTED if found.reason else Outcome.PROCESSED,
        frame.captured_ns,
        found.reason,
        dequeued_ns,
        found.preprocessed_ns,
        found.inferred_ns,
        delivered_ns,
    )
