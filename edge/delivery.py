"""Delivery: every sink in a thread of its own, so that a slow or dead one holds nothing back."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from edge.backoff import Backoff
from edge.errors import SinkError, told
from edge.handover import Closed, Handover

Result = TypeVar("Result")
Taken_contra = TypeVar("Taken_contra", contravariant=True)


class Sink(Protocol[Taken_contra]):
    """Where results go. Used by one thread."""

    def write(self, result: Taken_contra) -> None:
        """Take one result. Raises SinkError."""
        ...

    def close(self) -> None:
        """Finish what was written. Raises SinkError."""
        ...


@dataclass(frozen=True, slots=True)
class SinkPlan(Generic[Result]):
    """A sink and how to open it, also again after it failed.

    capacity: results that may wait for it; a full sink loses its oldest. again: whether it may be opened anew after a failure; a
    file that would be written over may not. drain_s: how long it may take to write what waits when the run ends. kept: what of
    a result waits, None for all of it; pictures that the sink does not need would fill the memory while it is slow. newest: it
    shows the newest result, so that one whose place a newer one took while it waited is superseded and not lost.
    """

    name: str
    open: Callable[[], Sink[Result]]
    capacity: int = 64
    again: bool = True
    drain_s: float = 5.0
    kept: Callable[[Result], Result] | None = None
    newest: bool = False


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """written, lost, superseded: results, each counted once. error: the newest failure, None while it works. fault: the same,
    kept when it works again.
    """

    name: str
    written: int
    lost: int
    failures: int
    error: str | None
    fault: str | None = None
    superseded: int = 0

    @property
    def sound(self) -> bool:
        """Nothing failed and nothing was lost."""
        return not self.failures and not self.lost

    def __str__(self) -> str:
        """What went wrong, in a line."""
        times = "" if self.failures < 2 else f"failed {self.failures} times, at last: "
        why = "too slow" if self.fault is None else f"{times}{self.fault}"
        lost = f"; {self.lost} of {self.written + self.lost} results were lost" if self.lost else ""
        return f"{self.name}: {why}{lost}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "written": self.written,
            "lost": self.lost,
            "superseded": self.superseded,
            "failures": self.failures,
            "fault": self.fault,
        }


class Delivery(Generic[Result]):
    """The thread of one sink. The sink is opened by the constructor, so that what cannot work is said at once: SinkError."""

    def __init__(self, plan: SinkPlan[Result], *, backoff: Backoff | None = None) -> None:
        self._plan = plan
        self._backoff = backoff or Backoff()
        self._waiting: Handover[Result] = Handover(plan.capacity)
        self._lock = threading.Lock()
        self._written = self._lost = self._superseded = self._failures = 0
        self._error: str | None = None
        self._fault: str | None = None
        self._sink: Sink[Result] | None = plan.open()
        self._thread = threading.Thread(target=self._run, name=f"sink {plan.name}", daemon=True)
        self._thread.start()

    def offer(self, result: Result) -> None:
        """Hand a result over; never waits."""
        if self._plan.kept is not None:
            result = self._plan.kept(result)
        try:
            replaced = self._waiting.put(result)
        except Closed:
            self._lose(1)
            return
        if replaced is None:
            return
        if self._plan.newest:
            with self._lock:
                self._superseded += 1
        else:
            self._lose(1)

    def status(self) -> SinkStatus:
        with self._lock:
            return SinkStatus(
                self._plan.name,
                written=self._written,
                lost=self._lost,
                superseded=self._superseded,
                failures=self._failures,
                error=self._error,
                fault=self._fault,
            )

    def close(self) -> SinkStatus:
        """Let the sink write what waits, for `drain_s` at most, and close it; what it could not take is counted as lost."""
        self._waiting.close()
        self._thread.join(self._plan.drain_s)
        if self._thread.is_alive():
            self._lose(len(self._waiting.close(discard=True)))
            self._note(SinkError(f"{self._plan.name}: did not finish within {self._plan.drain_s:g} s"))
        return self.status()

    def _run(self) -> None:
        while True:
            try:
                result = self._waiting.get()
            except Closed:
                break
            if self._sink is None and not self._reopen():
                self._lose(1)
                continue
            try:
                assert self._sink is not None
                self._sink.write(result)
            except Exception as error:  # a sink's fault must not end the run
                self._lose(1)
                self._note(error)
                self._shut()
            else:
                with self._lock:
                    self._written += 1
                    self._error = None
                self._backoff.reset()
        self._shut()

    def _reopen(self) -> bool:
        if not self._plan.again or not self._backoff.due():
            return False
        try:
            self._sink = self._plan.open()
        except Exception as error:
            self._note(error)
            return False
        return True

    def _shut(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.close()
        except Exception as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        self._backoff.failed()
        with self._lock:
            self._failures += 1
            self._error = self._fault = told(error)

    def _lose(self, count: int) -> None:
        with self._lock:
            self._lost += count
