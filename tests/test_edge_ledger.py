"""The ledger: its counters add up whatever happens, and its figures are those of the frames."""

import json
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.ledger import OTHER, REASONS, STAGES, FrameRecord, Ledger, Outcome


def processed(number: int, captured_ms: float, *stages_ms: float) -> FrameRecord:
    times = np.cumsum([captured_ms, *stages_ms]) * 1e6
    return FrameRecord(number, Outcome.PROCESSED, int(times[0]), "", *(int(time) for time in times[1:]))


def ended(number: int, outcome: Outcome, reason: str = "why") -> FrameRecord:
    return FrameRecord(number, outcome, 0, "" if outcome is Outcome.PROCESSED else reason)


@given(st.lists(st.one_of(st.none(), st.sampled_from(Outcome)), max_size=60))
def test_the_counters_add_up_after_every_step(steps: list[Outcome | None]) -> None:
    ledger = Ledger()
    waiting: list[int] = []
    for step in steps:
        if step is None:
            waiting.append(ledger.capture())
        elif waiting:
            ledger.end(ended(waiting.pop(), step))
        summary = ledger.summary()
        assert summary.captured == summary.in_flight + sum(summary.counts.values())
        assert summary.in_flight == len(waiting)
        for outcome in (Outcome.DROPPED, Outcome.REJECTED, Outcome.FAILED):
            assert sum(summary.reasons[outcome].values()) == summary.counts[outcome]


def test_frames_are_numbered_from_0_whoever_counts() -> None:
    ledger = Ledger()
    numbers: list[int] = []

    def count() -> None:
        for _ in range(500):
            numbers.append(ledger.capture())
            ledger.end(ended(numbers[-1], Outcome.PROCESSED))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(2000))
    assert ledger.summary().counts[Outcome.PROCESSED] == 2000


def test_reasons_are_counted_each() -> None:
    ledger = Ledger()
    for outcome, reason in (
        (Outcome.DROPPED, "newer"),
        (Outcome.DROPPED, "newer"),
        (Outcome.DROPPED, "stopped"),
        (Outcome.REJECTED, "no contact"),
    ):
        ledger.end(ended(ledger.capture(lost=1), outcome, reason))
    summary = ledger.summary()
    assert summary.reasons[Outcome.DROPPED] == {"newer": 2, "stopped": 1}
    assert summary.reasons[Outcome.REJECTED] == {"no contact": 1}
    assert summary.drop_rate == 0.75
    assert summary.lost == 4
    assert summary.to_json()["reasons"] == {"dropped": {"newer": 2, "stopped": 1}, "rejected": {"no contact": 1}}


def test_a_run_of_days_has_room_for_every_reason() -> None:
    ledger = Ledger()
    for number in range(1000):
        ledger.end(ended(ledger.capture(), Outcome.FAILED, f"frame {number} is odd"))
    reasons = ledger.summary().reasons[Outcome.FAILED]
    assert len(reasons) == REASONS + 1
    assert reasons["frame 3 is odd"] == 1
    assert reasons[OTHER] == 1000 - REASONS


def test_latency_jitter_and_stages_are_those_of_the_frames() -> None:
    ledger = Ledger()
    for number, wait_ms in enumerate((1.0, 4.0, 2.0)):
        ledger.end(processed(ledger.capture(), 100.0 * number, wait_ms, 2.0, 5.0, 0.5))
    summary = ledger.summary()
    assert summary.latency_p50_ms == pytest.approx(9.5)
    assert summary.latency_p99_ms == pytest.approx(np.percentile([8.5, 11.5, 9.5], 99))
    assert summary.jitter_ms == pytest.approx((3.0 + 2.0) / 2)
    assert summary.stages_ms == pytest.approx(dict(zip(STAGES, (7 / 3, 2.0, 5.0, 0.5), strict=True)))
    assert summary.stage_shares is not None
    assert sum(summary.stage_shares.values()) == pytest.approx(1.0)
    assert summary.stage_shares["infer"] == pytest.approx(5.0 / (7 / 3 + 7.5))
    json.dumps(summary.to_json())


def test_only_processed_frames_have_a_part_in_the_latency() -> None:
    ledger = Ledger()
    ledger.end(FrameRecord(ledger.capture(), Outcome.REJECTED, 0, "frozen", 1, 2, 3, 10**9))
    assert ledger.summary().latency_p50_ms is None
    assert ledger.summary().stages_ms is None
    assert ledger.summary().jitter_ms is None


@given(st.lists(st.floats(0.1, 1000.0), min_size=1, max_size=30), st.integers(1, 10))
def test_percentiles_are_of_the_newest_frames_in_their_order(latencies: list[float], kept: int) -> None:
    ledger = Ledger(samples=kept)
    for latency in latencies:
        ledger.end(processed(ledger.capture(), 0.0, latency, 0.0, 0.0, 0.0))
    summary, newest = ledger.summary(), latencies[-kept:]
    assert summary.latency_p50_ms == pytest.approx(np.median(newest), rel=1e-3, abs=1e-3)
    if len(newest) > 1:
        assert summary.jitter_ms == pytest.approx(np.abs(np.diff(newest)).mean(), rel=1e-2, abs=1e-3)
    assert summary.counts[Outcome.PROCESSED] == len(latencies)


def test_an_empty_ledger_has_no_figures() -> None:
    summary = Ledger().summary()
    assert (summary.captured, summary.in_flight, summary.drop_rate, summary.latency_p90_ms) == (0, 0, 0.0, None)


def test_a_frame_cannot_end_twice() -> None:
    ledger = Ledger()
    record = ended(ledger.capture(), Outcome.DROPPED)
    ledger.end(record)
    with pytest.raises(ValueError, match="more frames end"):
        ledger.end(record)


@pytest.mark.parametrize(
    ("outcome", "reason"), [(Outcome.PROCESSED, "late"), (Outcome.DROPPED, ""), (Outcome.FAILED, "")]
)
def test_a_reason_belongs_to_what_was_not_processed(outcome: Outcome, reason: str) -> None:
    with pytest.raises(ValueError, match="reason"):
        FrameRecord(0, outcome, 0, reason)
