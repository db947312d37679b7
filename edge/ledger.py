"""The ledger: what became of every frame. Its counters add up to the frames captured, always.

Latency runs from capture to delivery, over processed frames. Jitter is the mean change of latency from one processed frame to
the next (the difference D of RFC 3550, section 6.4.1, unsmoothed). A ledger keeps the newest samples only, in memory taken once,
so that a run of days needs no more of it than one of seconds.
"""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SAMPLES: Final = 36_000
"""Frames that percentiles are taken over: ten minutes at 60 frames a second."""
REASONS: Final = 32
"""Different reasons that are told apart for an outcome; later ones are counted together."""
OTHER: Final = "other reasons"
STAGES: Final = ("wait", "preprocess", "infer", "deliver")


class Outcome(StrEnum):
    """How a frame ended."""

    PROCESSED = "processed"
    DROPPED = "dropped"
    REJECTED = "rejected"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class FrameRecord:
    """A frame's way, in nanoseconds of the run's monotonic clock; None for what it did not reach.

    number: of the frame, counted from 0. reason: why it was not processed, empty where it was. preprocessed_ns: when it was
    ready for the engine. delivered_ns: when its result was handed to the sinks.
    """

    number: int
    outcome: Outcome
    captured_ns: int
    reason: str = ""
    dequeued_ns: int | None = None
    preprocessed_ns: int | None = None
    inferred_ns: int | None = None
    delivered_ns: int | None = None

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.PROCESSED) == bool(self.reason):
            raise ValueError(
                f"frame {self.number} {self.outcome}: a reason belongs to what was not processed, and only there"
            )

    @property
    def latency_ms(self) -> float | None:
        """From capture to delivery; None for a frame that was not delivered."""
        return None if self.delivered_ns is None else (self.delivered_ns - self.captured_ns) / 1e6

    @property
    def stages_ms(self) -> tuple[float, ...] | None:
        """Waiting, preprocessing, inference and delivery; None unless the frame went all the way."""
        times = (self.captured_ns, self.dequeued_ns, self.preprocessed_ns, self.inferred_ns, self.delivered_ns)
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return None
        return tuple((after - before) / 1e6 for before, after in pairwise(known))


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """Counts, and milliseconds over the newest processed frames; None where there is none.

    reasons: frames by outcome and reason. in_flight: captured and not ended yet. lost: pictures that the source says it missed
    before they could be captured; they are no part of `captured`. stages_ms: mean time in each of `STAGES`.
    """

    captured: int
    in_flight: int
    lost: int
    counts: Mapping[Outcome, int]
    reasons: Mapping[Outcome, Mapping[str, int]]
    latency_p50_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    jitter_ms: float | None
    stages_ms: Mapping[str, float] | None

    @property
    def drop_rate(self) -> float:
        """Share of the captured frames that were dropped; 0 without frames."""
        return self.counts[Outcome.DROPPED] / self.captured if self.captured else 0.0

    @property
    def stage_shares(self) -> Mapping[str, float] | None:
        """What part of the latency each stage takes."""
        if self.stages_ms is None:
            return None
        total = sum(self.stages_ms.values())
        return {stage: value / total if total else 0.0 for stage, value in self.stages_ms.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "captured": self.captured,
            "in_flight": self.in_flight,
            "lost_before_capture": self.lost,
            **{outcome.value: self.counts[outcome] for outcome in Outcome},
            "reasons": {outcome.value: dict(found) for outcome, found in self.reasons.items() if found},
            "drop_rate": self.drop_rate,
            "latency_ms": {"p50": self.latency_p50_ms, "p90": self.latency_p90_ms, "p99": self.latency_p99_ms},
            "jitter_ms": self.jitter_ms,
            "stages_ms": None if self.stages_ms is None else dict(self.stages_ms),
        }


class Ledger:
    """Counts frames from any thread."""

    def __init__(self, *, samples: int = SAMPLES) -> None:
        self._lock = threading.Lock()
        self._captured = 0
        self._lost = 0
        self._ended: dict[Outcome, Counter[str]] = {outcome: Counter() for outcome in Outcome}
        self._samples: NDArray[np.float32] = np.zeros((samples, 1 + len(STAGES)), np.float32)
        self._taken = 0

    def capture(self, *, lost: int = 0) -> int:
        """Count a frame that was captured; returns its number. lost: how many the source missed just before it."""
        with self._lock:
            number, self._captured = self._captured, self._captured + 1
            self._lost += lost
            return number

    def end(self, record: FrameRecord) -> None:
        """Write down how a captured frame ended. Once for each frame: ValueError when more would end than were captured."""
        with self._lock:
            if self._in_flight() < 1:
                raise ValueError(f"frame {record.number}: more frames end than were captured")
            found = self._ended[record.outcome]
            found[record.reason if record.reason in found or len(found) < REASONS else OTHER] += 1
            if record.outcome is Outcome.PROCESSED and record.stages_ms is not None:
                self._samples[self._taken % len(self._samples)] = (record.latency_ms, *record.stages_ms)
                self._taken += 1

    def summary(self) -> LedgerSummary:
        """What is known now."""
        with self._lock:
            captured, in_flight, lost, taken = self._captured, self._in_flight(), self._lost, self._taken
            reasons = {outcome: {why: n for why, n in found.items() if why} for outcome, found in self._ended.items()}
            counts = {outcome: found.total() for outcome, found in self._ended.items()}
            samples = self._samples[: min(taken, len(self._samples))].copy()
        samples = np.roll(samples, -(taken % len(samples)), axis=0) if taken > len(samples) else samples
        p50 = p90 = p99 = jitter = stages = None
        if len(samples):
            p50, p90, p99 = (float(value) for value in np.percentile(samples[:, 0], (50, 90, 99)))
            stages = dict(zip(STAGES, (float(mean) for mean in samples[:, 1:].mean(axis=0)), strict=True))
        if len(samples) > 1:
            jitter = float(np.abs(np.diff(samples[:, 0])).mean())
        return LedgerSummary(captured, in_flight, lost, counts, reasons, p50, p90, p99, jitter, stages)

    def _in_flight(self) -> int:
        return self._captured - sum(found.total() for found in self._ended.values())
