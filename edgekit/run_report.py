"""What `edgekit run` says: how a run goes, and how it went."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge.errors import EdgekitError, SinkError, SourceError
from edgekit.console import notice, number, say, table, write_json
from edgekit.journal import in_service

if TYPE_CHECKING:
    from edge.ledger import LedgerSummary
    from edge.stream import StreamStatus
    from edge.watchdog import Watchdog


def conclude(status: "StreamStatus", error: Exception | None, json: Path | None, *, awaits: bool = False) -> None:
    """Write and print how the run went. Raises what ended it, SourceError where the source was away at the end or sent nothing
    and is not one that the run `awaits`, else SinkError where a sink failed.
    """
    failed = [str(sink) for sink in status.sinks if sink.failures]
    try:
        write_json(json, _record(status))
    except SinkError as fault:
        failed.append(str(fault))
    if in_service():
        say(one_line(status))
    else:
        report(status)
    if error is None and status.trouble is not None and not awaits:
        error = SourceError(f"the source was away at the end: {status.trouble}")
    if error is None and not status.ledger.captured and not awaits:
        error = SourceError("no picture came from the source; see that it sends")
    for line in (str(sink) for sink in status.sinks if sink.lost and not sink.failures):
        notice(line)
    if error is None and failed:
        raise SinkError("; ".join(failed))
    for line in failed:
        notice(line)
    if isinstance(error, EdgekitError):
        raise error
    if error is not None:
        raise SourceError(f"the run broke off: {status.error}") from error


class News:
    """Tells how a run goes: on a line that is shown anew, and of each fault, as it comes and goes, in a line that stays; and the
    service manager's watchdog.
    """

    def __init__(
        self, show: Callable[["StreamStatus", str], None], say: Callable[[str], None], watchdog: "Watchdog"
    ) -> None:
        self._show, self._say, self._watchdog = show, say, watchdog
        self._stuck: str | None = None
        self._told: dict[str, str] = {}
        self._failures: dict[str, int] = {}

    def tell(self, status: "StreamStatus") -> None:
        """Called now and then: what failed and recovered in between is told too."""
        line = one_line(status)
        self._show(status, line)
        stuck = self._watchdog.tick(status, line)
        if stuck != self._stuck:
            self._say("the run goes on" if stuck is None else f"no progress: {stuck}")
            self._stuck = stuck
        self._of("the source", status.reconnects, status.trouble, status.fault)
        for sink in status.sinks:
            self._of(sink.name, sink.failures, sink.error, sink.fault)

    def _of(self, who: str, failures: int, trouble: str | None, fault: str | None) -> None:
        again = failures > self._failures.get(who, 0)
        if again and fault is not None and fault != self._told.get(who):
            self._say(f"{who} failed: {fault}")
            self._told[who] = fault
        if trouble is None and self._told.pop(who, None) is not None:
            self._say(f"{who} works again")
        self._failures[who] = failures


def _record(status: "StreamStatus") -> dict[str, object]:
    return {
        "status": status.source.value,
        "error": status.error,
        "fault": status.fault,
        "away_at_end": status.trouble,
        "reconnects": status.reconnects,
        **status.ledger.to_json(),
        "sinks": [sink.to_json() for sink in status.sinks],
    }


def one_line(status: "StreamStatus") -> str:
    ledger = status.ledger
    percentiles = (ledger.latency_p50_ms, ledger.latency_p90_ms, ledger.latency_p99_ms)
    latency = "/".join(number(value, 0) for value in percentiles)
    counts = ", ".join(f"{count} {outcome.value}" for outcome, count in ledger.counts.items() if count)
    missed = f", {ledger.lost} missed by the source" if ledger.lost else ""
    trouble = f" – {status.trouble}" if status.trouble else ""
    return (
        f"{status.source.value}: {ledger.captured} frames ({counts or 'none yet'}){missed}, drop rate {ledger.drop_rate:.0%}, "
        f"latency p50/p90/p99 {latency} ms, jitter {number(ledger.jitter_ms, 0)} ms{trouble}"
    )


def report(status: "StreamStatus") -> None:
    ledger = status.ledger
    rows: list[tuple[str, object]] = [("frames captured", ledger.captured)]
    rows += [(outcome.value, count) for outcome, count in ledger.counts.items()]
    rows.append(("drop rate", f"{ledger.drop_rate:.1%}"))
    if ledger.lost:
        rows.append(("missed by the source", ledger.lost))
    table("Frames", ("", "frames"), rows)
    if any(ledger.reasons.values()):
        reasons = [
            (outcome.value, why, count) for outcome, found in ledger.reasons.items() for why, count in found.items()
        ]
        table("Not processed", ("outcome", "reason", "frames"), reasons)
    figures = [
        ("latency p50", number(ledger.latency_p50_ms, 1)),
        ("latency p90", number(ledger.latency_p90_ms, 1)),
        ("latency p99", number(ledger.latency_p99_ms, 1)),
        ("jitter", number(ledger.jitter_ms, 1)),
        *_stage_rows(ledger),
    ]
    table("Capture to result", ("", "ms"), figures)
    if status.sinks:
        table(
            "Sinks",
            ("sink", "taken", "superseded", "lost", "failures"),
            [(sink.name, sink.written, sink.superseded, sink.lost, sink.failures) for sink in status.sinks],
        )


def _stage_rows(ledger: "LedgerSummary") -> list[tuple[str, str]]:
    if ledger.stages_ms is None or ledger.stage_shares is None:
        return []
    return [(f"  {stage}", f"{ms:.1f} ({ledger.stage_shares[stage]:.0%})") for stage, ms in ledger.stages_ms.items()]
