"""Figures of a run: sampled once a second for the page, and in Prometheus' text format."""

import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from edge.errors import require
from edge.ledger import FrameRecord, Outcome
from edge.stream import StreamStatus

if TYPE_CHECKING:
    from prometheus_client import Metric

HISTORY_S: Final = 60
BUCKETS_S: Final = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class Sample:
    """The run at one moment. version: counts samples. rates, latencies_ms: of the last minute, one a second, oldest first; a
    latency is None for a second without a result. failure: of the newest result, empty where it was analysed.
    """

    version: int
    rates: tuple[float, ...]
    latencies_ms: tuple[float | None, ...]
    failure: str
    status: StreamStatus | None
    temperature_c: float | None

    @property
    def error(self) -> str | None:
        """What ended the run."""
        return None if self.status is None else self.status.error

    def to_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "rates": [round(rate, 1) for rate in self.rates],
            "latencies_ms": [None if value is None else round(value, 1) for value in self.latencies_ms],
            "failure": self.failure,
            "temperature_c": self.temperature_c,
        }
        if self.status is not None:
            told |= {
                "source": self.status.source.value,
                "trouble": self.status.trouble,
                "reconnects": self.status.reconnects,
                "error": self.status.error,
                "ledger": self.status.ledger.to_json(),
                "sinks": [
                    {"name": sink.name, "lost": sink.lost, "failures": sink.failures, "error": sink.error}
                    for sink in self.status.sinks
                ],
            }
        return told


class Metrics:
    """Counts results and takes samples. `note` and `text` are for any thread; `take` for one at a time.

    age_s, viewers: asked when a sample or the text is wanted. Raises MissingDependencyError.
    """

    def __init__(
        self,
        *,
        status: Callable[[], StreamStatus] | None,
        temperature: Callable[[], float | None],
        age_s: Callable[[], float | None],
        viewers: Callable[[], int],
    ) -> None:
        prometheus = require("prometheus_client", extra="web")
        self._status, self._temperature = status, temperature
        self._age_s, self._viewers = age_s, viewers
        self._lock = threading.Lock()
        self._counts: Counter[Outcome] = Counter()
        self._failure = ""
        self._recent_ms: list[float] = []
        self._delivered = 0
        self._since_s = time.monotonic()
        self._rates: deque[float] = deque(maxlen=HISTORY_S)
        self._latencies_ms: deque[float | None] = deque(maxlen=HISTORY_S)
        self.sample = Sample(0, (), (), "", None, None)
        self._registry = prometheus.CollectorRegistry()
        self._latency_s = prometheus.Histogram(
            "edgekit_latency_seconds",
            "From capture to delivery of a result.",
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_Collector(self))

    def note(self, record: FrameRecord) -> None:
        """Count a result."""
        latency_ms = record.latency_ms
        with self._lock:
            self._counts[record.outcome] += 1
            self._failure = record.reason if record.outcome is Outcome.FAILED else ""
            if record.outcome is not Outcome.FAILED:
                self._delivered += 1
            if latency_ms is not None:
                self._recent_ms.append(latency_ms)
        if latency_ms is not None:
            self._latency_s.observe(latency_ms / 1000)

    def take(self) -> Sample:
        """Take a sample over the time since the one before."""
        status = None if self._status is None else self._status()
        temperature = self._temperature()
        with self._lock:
            delivered, self._delivered = self._delivered, 0
            recent_ms, self._recent_ms = self._recent_ms, []
            now_s = time.monotonic()
            elapsed_s, self._since_s = now_s - self._since_s, now_s
            self._rates.append(delivered / max(elapsed_s, 1e-3))
            self._latencies_ms.append(statistics.median(recent_ms) if recent_ms else None)
            rates, latencies_ms, failure = tuple(self._rates), tuple(self._latencies_ms), self._failure
        self.sample = Sample(self.sample.version + 1, rates, latencies_ms, failure, status, temperature)
        return self.sample

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        text: bytes = require("prometheus_client", extra="web").generate_latest(self._registry)
        return text

    def collect(self) -> "Iterator[Metric]":
        """What the registry asks for beside the latency."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        sample, status = self.sample, self.sample.status
        with self._lock:
            counts = dict(self._counts) if status is None else dict(status.ledger.counts)
        frames = CounterMetricFamily("edgekit_frames", "Frames by how they ended.", labels=["outcome"])
        for outcome in Outcome:
            frames.add_metric([outcome.value], counts.get(outcome, 0))
        yield frames
        yield GaugeMetricFamily("edgekit_viewers", "Pages that are looked at.", value=self._viewers())
        if (age_s := self._age_s()) is not None:
            yield GaugeMetricFamily("edgekit_result_age_seconds", "Since the newest picture was captured.", value=age_s)
        if sample.temperature_c is not None:
            yield GaugeMetricFamily(
                "edgekit_temperature_celsius", "Of the device's hottest zone.", value=sample.temperature_c
            )
        if status is None:
            return
        yield CounterMetricFamily("edgekit_frames_captured", "Frames captured.", value=status.ledger.captured)
        yield CounterMetricFamily("edgekit_frames_missed", "Pictures that the source missed.", value=status.ledger.lost)
        yield CounterMetricFamily("edgekit_reconnects", "Failures of the source.", value=status.reconnects)
        yield GaugeMetricFamily(
            "edgekit_sound", "1 while source, analysis and sinks did their part.", value=int(status.sound)
        )
        for name, said, field in (
            ("edgekit_sink_written", "Results that a sink took.", "written"),
            ("edgekit_sink_superseded", "Results whose place a newer one took.", "superseded"),
            ("edgekit_sink_lost", "Results that a sink lost.", "lost"),
            ("edgekit_sink_failures", "Failures of a sink.", "failures"),
        ):
            family = CounterMetricFamily(name, said, labels=["sink"])
            for sink in status.sinks:
                family.add_metric([sink.name], getattr(sink, field))
            yield family


class _Collector:
    """Lets the registry ask; it describes nothing, so that registering asks for no figure yet."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> "list[Metric]":
        return []

    def collect(self) -> "Iterator[Metric]":
        return self._metrics.collect()


__all__ = ["Metrics", "Sample"]
