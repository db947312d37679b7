"""The stream: nothing is lost without a word, nothing hangs, and a fault in any part surfaces with its cause."""

import threading
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_parts import ListSource, Note, Notes, Shelf, picture

from edge.backoff import Backoff
from edge.capture import REPLACED, STOPPED, Frame, SourceState
from edge.delivery import SinkPlan
from edge.errors import EngineError, SinkError, SourceError
from edge.ledger import Outcome
from edge.stream import FAILURES, Policy, Result, Stream, StreamStatus

SOON = partial(Backoff, first_s=0.001, most_s=0.01)


@pytest.fixture(autouse=True)
def no_thread_stays() -> object:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 60.0
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


def adds_up(status: StreamStatus) -> bool:
    ledger = status.ledger
    return ledger.in_flight == 0 and sum(ledger.counts.values()) == ledger.captured


def stream(
    source: ListSource | Callable[[], ListSource],
    notes: Notes | None = None,
    *sinks: SinkPlan[Result[Note]],
    policy: Policy = "all",
) -> Stream[Note]:
    opening = (lambda: source) if isinstance(source, ListSource) else source
    return Stream(opening, notes or Notes(), sinks, policy=policy, backoff=SOON)


def plan(shelf: Shelf, *, capacity: int = 64, again: bool = True) -> SinkPlan[Result[Note]]:
    return SinkPlan("shelf", lambda: shelf, capacity=capacity, again=again)


def test_every_frame_of_a_recording_reaches_every_sink_in_order() -> None:
    one, other = Shelf(), Shelf()
    source = ListSource([picture(k / 30) for k in range(50)])
    status = stream(source, None, plan(one), plan(other)).run()
    assert one.numbers == other.numbers == list(range(50))
    assert one.closed == other.closed == 1
    assert source.closed.is_set()
    assert status.ledger.counts[Outcome.PROCESSED] == 50
    assert adds_up(status)
    assert status.sound
    assert status.source is SourceState.ENDED
    assert all(result.record.latency_ms is not None for result in one.kept)


def test_the_newest_frame_wins_and_the_others_are_counted() -> None:
    release = threading.Event()
    seen: list[int] = []

    def slow(frame: Frame) -> None:
        seen.append(frame.number)
        assert release.wait(60.0)

    source = ListSource([picture(), *(picture() for _ in range(9)), release.set], live=False)
    status = stream(source, Notes(slow), policy="newest").run()
    assert seen[-1] == 9, "the newest is never the one that is given up"
    assert len(seen) <= 3
    assert status.ledger.reasons[Outcome.DROPPED] == {REPLACED: 10 - len(seen)}
    assert adds_up(status)


def test_an_overloaded_run_drops_frames_at_constant_latency() -> None:
    def frames() -> list[object]:
        return [step for _ in range(200) for step in (picture(), lambda: time.sleep(0.001))]

    def analyse(frame: Frame) -> None:
        started_s = time.monotonic()
        time.sleep(0.02)
        spent_ms.append(1e3 * (time.monotonic() - started_s))

    spent_ms: list[float] = []
    shelf = Shelf()
    source = ListSource(frames(), live=False)  # type: ignore[arg-type]
    status = stream(source, Notes(analyse), plan(shelf), policy="newest").run()
    latencies_ms = [result.record.latency_ms or 0.0 for result in shelf.kept]
    assert status.ledger.drop_rate > 0.5
    assert adds_up(status)
    assert median(latencies_ms) < 5 * median(spent_ms), "nothing queues up"


def test_a_recorded_source_keeps_its_own_time_under_newest() -> None:
    source = ListSource([picture(k * 0.05) for k in range(5)])
    started = time.monotonic()
    status = stream(source, policy="newest").run()
    assert time.monotonic() - started >= 0.2
    assert status.ledger.counts[Outcome.PROCESSED] == 5
    started = time.monotonic()
    stream(ListSource([picture(20.0 * k) for k in range(5)]), policy="all").run()
    assert time.monotonic() - started < 60.0


def test_a_recording_that_waits_for_its_next_frame_is_stopped_at_once() -> None:
    status = stream(ListSource([picture(0.0), picture(3600.0)]), policy="newest").run(duration_s=0.1)
    assert status.error is None
    assert adds_up(status)


@pytest.mark.parametrize(
    ("live", "policy", "waits"), [(False, "all", True), (False, "newest", False), (True, "all", False)]
)
def test_only_a_recording_of_which_every_frame_is_wanted_waits_for_its_analysis(
    live: bool, policy: Policy, waits: bool
) -> None:
    seen: list[bool] = []

    def note(frame: Frame) -> None:
        seen.append(frame.waits)
        running.stop()

    running = stream(ListSource([picture(0.0)], live=live), Notes(note), policy=policy)
    running.run(duration_s=60.0)
    assert seen == [waits]


def test_the_time_of_a_live_source_goes_on_where_its_clock_does_not() -> None:
    times: list[float | None] = []
    source = ListSource([picture(50.0), picture(1.0), picture(7200.0)], live=True)
    running = stream(source, Notes(lambda frame: times.append(frame.picture.time_s)))
    source._steps = [*source._steps, source.wait]
    running.run(tick=lambda status: running.stop() if len(times) == 3 else None, tick_s=0.02, duration_s=60.0)
    assert times[0] == 50.0
    assert all(50.0 < time_s < 60.0 for time_s in times[1:] if time_s is not None)


def test_rejected_frames_have_their_reason_and_are_delivered() -> None:
    shelf = Shelf()
    notes = Notes(lambda frame: "no contact" if frame.number % 2 else None)
    status = stream(ListSource([picture() for _ in range(6)]), notes, plan(shelf)).run()
    assert status.ledger.reasons[Outcome.REJECTED] == {"no contact": 3}
    assert [result.record.reason for result in shelf.kept] == ["", "no contact"] * 3
    assert adds_up(status)


def test_one_failure_of_the_engine_is_told_and_the_run_goes_on() -> None:
    def fail_once(frame: Frame) -> None:
        if frame.number == 2:
            raise EngineError("the engine hiccuped")

    shelf = Shelf()
    status = stream(ListSource([picture() for _ in range(6)]), Notes(fail_once), plan(shelf)).run()
    assert status.ledger.reasons[Outcome.FAILED] == {"the engine hiccuped": 1}
    assert shelf.kept[2].found is None
    assert shelf.numbers == list(range(6))
    assert status.error is None
    assert adds_up(status)


def test_failures_of_the_engine_between_good_frames_do_not_add_up_to_an_end() -> None:
    def fail_every_other(frame: Frame) -> None:
        if frame.number % 2:
            raise EngineError("the engine hiccuped")

    status = stream(ListSource([picture() for _ in range(4 * FAILURES)]), Notes(fail_every_other)).run()
    assert status.ledger.counts[Outcome.FAILED] == 2 * FAILURES
    assert status.error is None


def test_an_engine_that_keeps_failing_ends_the_run_with_its_cause() -> None:
    cause = RuntimeError("out of memory")

    def fail(frame: Frame) -> None:
        raise EngineError("the engine refused the frame") from cause

    shelf = Shelf()
    running = stream(ListSource([picture() for _ in range(100)]), Notes(fail), plan(shelf))
    status = running.run()
    assert status.error == "the engine refused the frame"
    assert running.error is not None
    assert running.error.__cause__ is cause
    assert status.ledger.counts[Outcome.FAILED] == FAILURES
    assert shelf.closed == 1
    assert adds_up(status)
    assert not status.sound


def test_an_error_without_words_ends_the_run_by_its_name() -> None:
    def fail(frame: Frame) -> None:
        raise EngineError

    status = stream(ListSource([picture() for _ in range(100)]), Notes(fail)).run()
    assert (status.error or "").startswith("EngineError")
    assert adds_up(status)


def test_a_mistake_in_the_analysis_ends_the_run_at_once() -> None:
    def fail(frame: Frame) -> None:
        raise KeyError("lesion")

    status = stream(ListSource([picture() for _ in range(100)]), Notes(fail)).run()
    assert status.error == "KeyError: 'lesion'"
    assert status.ledger.counts[Outcome.FAILED] == 1
    assert adds_up(status)


def test_a_recording_that_breaks_off_surfaces_after_its_frames() -> None:
    shelf = Shelf()
    source = ListSource([picture(), picture(), SourceError("cut off after 2 of 9 frames")])
    status = stream(source, None, plan(shelf)).run()
    assert shelf.numbers == [0, 1]
    assert status.error == "cut off after 2 of 9 frames"
    assert adds_up(status)


def test_a_mistake_in_a_source_surfaces_too() -> None:
    status = stream(ListSource([picture(), ZeroDivisionError("fps")], live=True)).run()
    assert status.error == "ZeroDivisionError: fps"


def test_a_live_source_that_fails_is_opened_again() -> None:
    sessions: list[ListSource | SourceError] = [
        ListSource([picture(), SourceError("cable out")], live=True),
        SourceError("still out"),
        SourceError("still out"),
        ListSource(
            [picture(lost=3), picture()], live=True
        ),  # and this one ends, which a live source does not do by itself
        ListSource([picture()], live=True),
    ]
    seen: list[tuple[int, int]] = []
    statuses: list[StreamStatus] = []

    def opening() -> ListSource:
        if not sessions:
            if len(seen) == 4:
                running.stop()
            raise SourceError("gone for good")
        step = sessions.pop(0)
        if isinstance(step, SourceError):
            statuses.append(running.status())
            raise step
        return step

    running = stream(opening, Notes(lambda frame: seen.append((frame.number, frame.session))))
    status = running.run(duration_s=120.0)
    assert seen == [(0, 1), (1, 2), (2, 2), (3, 3)]
    assert status.ledger.lost == 3
    assert status.error is None
    assert adds_up(status)
    assert statuses[0].source is SourceState.RECONNECTING
    assert statuses[0].trouble == "cable out"
    assert statuses[1].trouble == "still out"
    assert status.reconnects >= 5


def test_once_frames_came_the_next_try_to_connect_is_soon_again() -> None:
    failures: list[int] = []

    class Counted(Backoff):
        def failed(self) -> None:
            super().failed()
            failures.append(self._failures)

    sessions = [ListSource([picture(), SourceError("cable out")], live=True) for _ in range(4)]

    def opening() -> ListSource:
        if not sessions:
            running.stop()
            raise SourceError("gone for good")
        return sessions.pop(0)

    running = Stream(opening, Notes(), policy="all", backoff=lambda: Counted(first_s=0.001, most_s=0.01))
    running.run(duration_s=60.0)
    assert failures[:4] == [1, 1, 1, 1]


def test_a_source_that_runs_again_is_in_no_trouble_and_its_fault_is_kept() -> None:
    again = ListSource([], live=True)
    again._steps = [picture(), again.wait]
    sessions = [again, ListSource([picture(), SourceError("cable out")], live=True)]
    statuses: list[StreamStatus] = []

    def look(frame: Frame) -> None:
        if frame.session == 2:
            statuses.append(running.status())
            running.stop()

    running = stream(sessions.pop, Notes(look))
    running.run(duration_s=60.0)
    (status,) = statuses
    assert (status.trouble, status.fault, status.reconnects) == (None, "cable out", 1)


def test_a_source_that_opens_again_only_after_the_stop_is_let_go() -> None:
    sessions, late = [ListSource([picture(), SourceError("cable out")], live=True)], ListSource([picture()], live=True)

    def opening() -> ListSource:
        if sessions:
            return sessions.pop()
        running.stop()
        assert running._capture is not None
        assert running._capture._stopping.wait(60.0)
        time.sleep(0.05)  # what closes the open source has passed
        return late

    running = stream(opening)
    status = running.run(duration_s=60.0)
    assert late.closed.wait(60.0)
    assert status.error is None
    assert adds_up(status)


def test_a_source_that_is_not_there_is_an_error_at_once() -> None:
    def missing() -> ListSource:
        raise SourceError("camera 7: no such device")

    with pytest.raises(SourceError, match="camera 7"):
        stream(missing).run()


def test_a_sink_that_cannot_be_opened_is_an_error_at_once_and_the_source_let_go() -> None:
    source, first = ListSource([picture()]), Shelf()

    def full() -> Shelf:
        raise SinkError("disk full")

    with pytest.raises(SinkError, match="disk full"):
        stream(source, None, plan(first), SinkPlan("file", full)).run()
    assert source.closed.is_set()
    assert first.closed == 1


def test_a_sink_that_dies_holds_nothing_back_and_is_opened_again() -> None:
    healthy, shelves = Shelf(), [Shelf(), Shelf()]

    def die(result: Result[Note]) -> None:
        if result.record.number == 3:
            raise SinkError("disk full")

    shelves[0].then = die
    opened = iter(shelves)
    steps = [step for _ in range(12) for step in (picture(), lambda: time.sleep(0.005))]
    again = SinkPlan("file", lambda: next(opened), capacity=64)
    status = stream(ListSource(steps), None, plan(healthy), again).run()
    assert healthy.numbers == list(range(12))
    assert shelves[0].numbers == [0, 1, 2]
    assert shelves[1].numbers[-1] == 11
    good, bad = status.sinks
    assert good.sound
    assert (bad.failures, bad.error) == (1, None)
    assert bad.written + bad.lost == 12
    assert bad.lost >= 1
    assert not status.sound
    assert status.error is None


def test_a_sink_that_must_not_be_opened_again_stays_dead() -> None:
    shelf = Shelf(lambda result: (_ for _ in ()).throw(SinkError("disk full")))
    status = stream(ListSource([picture() for _ in range(5)]), None, plan(shelf, again=False)).run()
    assert (status.sinks[0].written, status.sinks[0].lost, status.sinks[0].error) == (0, 5, "disk full")
    assert shelf.closed == 1


def test_a_slow_sink_loses_its_oldest_results_and_nobody_waits_for_it() -> None:
    release = threading.Event()
    slow = Shelf(lambda result: release.wait(60.0))
    quick = Shelf(lambda result: release.set() if result.record.number == 19 else None)
    status = stream(ListSource([picture() for _ in range(20)]), None, plan(slow, capacity=3), plan(quick)).run()
    assert quick.numbers == list(range(20))
    assert slow.numbers[-3:] == [17, 18, 19]
    assert status.sinks[0].lost == 20 - len(slow.kept)
    assert status.sinks[0].lost >= 15


def test_a_sink_of_the_newest_result_has_lost_nothing_where_a_newer_one_came() -> None:
    release = threading.Event()
    slow = Shelf(lambda result: release.wait(60.0))
    quick = Shelf(lambda result: release.set() if result.record.number == 19 else None)
    page: SinkPlan[Result[Note]] = SinkPlan("page", lambda: slow, capacity=1, newest=True)
    status = stream(ListSource([picture() for _ in range(20)]), None, page, plan(quick)).run()
    assert slow.numbers[-1] == 19
    assert status.sinks[0].superseded == 20 - len(slow.kept) >= 17
    assert status.sinks[0].sound and status.sinks[0].lost == 0


def test_only_what_a_sink_needs_waits_for_it() -> None:
    shelf = Shelf()
    bare: SinkPlan[Result[Note]] = SinkPlan("shelf", lambda: shelf, kept=lambda result: Result(result.record, None))
    whole = Shelf()
    stream(ListSource([picture() for _ in range(3)]), None, bare, plan(whole)).run()
    assert shelf.numbers == whole.numbers == [0, 1, 2]
    assert [result.found for result in shelf.kept] == [None] * 3
    assert all(result.found is not None for result in whole.kept)


def test_a_sink_that_never_returns_does_not_keep_the_run() -> None:
    release = threading.Event()
    stuck = Shelf(lambda result: release.wait(60.0))
    started = time.monotonic()
    running = stream(ListSource([picture() for _ in range(5)]), None, SinkPlan("stuck", lambda: stuck, drain_s=0.1))
    status = running.run()
    assert time.monotonic() - started < 30.0
    assert "did not finish" in (status.sinks[0].error or "")
    assert status.sinks[0].lost >= 4
    release.set()


def test_stopping_ends_a_run_that_waits_for_its_source() -> None:
    source = ListSource([], live=True)
    source._steps = [picture(), source.wait]
    running = stream(source)
    ticks: list[StreamStatus] = []

    def stop_later(status: StreamStatus) -> None:
        ticks.append(status)
        running.stop()

    started = time.monotonic()
    status = running.run(tick=stop_later, tick_s=0.05)
    assert time.monotonic() - started < 30.0
    assert len(ticks) == 1
    assert ticks[0].source is SourceState.RUNNING
    assert ticks[0].age_s is not None
    assert status.error is None
    assert adds_up(status)


def test_a_run_without_a_tick_waits_and_does_not_spin(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ListSource([], live=True)
    source._steps = [source.wait]
    running = stream(source)
    waits: list[float] = []
    wait = running._stop.wait

    def counted(timeout_s: float) -> bool:
        waits.append(timeout_s)
        return wait(timeout_s)

    monkeypatch.setattr(running._stop, "wait", counted)
    running.run(duration_s=0.5, tick_s=0.1)
    assert len(waits) < 15


def test_a_run_ends_after_its_duration() -> None:
    source = ListSource([], live=True)
    source._steps = [source.wait]
    started = time.monotonic()
    status = stream(source).run(duration_s=0.1)
    assert 0.1 <= time.monotonic() - started < 30.0
    assert status.source is SourceState.ENDED


def test_what_waits_when_the_run_is_stopped_is_dropped_with_that_reason() -> None:
    busy = threading.Event()

    def slow(frame: Frame) -> None:
        busy.set()
        source.closed.wait(60.0)
        time.sleep(0.1)  # what waits is dropped right after

    def stop() -> None:
        running.stop()

    source = ListSource([], live=True)
    source._steps = [*(picture() for _ in range(4)), busy.wait, stop, source.wait]
    running = stream(source, Notes(slow))
    status = running.run()
    assert status.ledger.reasons[Outcome.DROPPED][STOPPED] >= 1
    assert adds_up(status)


def test_a_source_that_does_not_let_go_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.capture.CLOSE_S", 0.05)
    release = threading.Event()
    status = stream(ListSource([picture(), lambda: release.wait(60.0)], name="old grabber")).run(duration_s=0.1)
    assert "old grabber: did not let go" in (status.error or "")
    release.set()


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["frame", "pause", "error", "end"]), max_size=25),
    st.sampled_from(["newest", "all"]),
    st.lists(st.sampled_from(["good", "reject", "fail", "slow"]), min_size=1, max_size=5),
)
def test_the_ledger_adds_up_whatever_happens(steps: list[str], policy: Policy, answers: list[str]) -> None:
    sessions: list[list[str]] = [[]]
    for step in steps:
        sessions[-1].append(step)
        if step in ("error", "end"):
            sessions.append([])

    def opening() -> ListSource:
        if not sessions:
            running.stop()
            raise SourceError("no more")
        makers = {"frame": picture, "pause": lambda: partial(time.sleep, 0.001), "error": partial(SourceError, "fault")}
        return ListSource([makers[step]() for step in sessions.pop(0) if step in makers], live=True)  # type: ignore[operator]

    def answer(frame: Frame) -> str | None:
        kind = answers[frame.number % len(answers)]
        if kind == "fail":
            raise EngineError("fault")
        if kind == "slow":
            time.sleep(0.003)
        return "odd" if kind == "reject" else None

    shelf = Shelf()
    running = stream(opening, Notes(answer), plan(shelf), policy=policy)
    status = running.run(duration_s=60.0)
    assert adds_up(status)
    sink = status.sinks[0]
    ended = status.ledger.captured - status.ledger.counts[Outcome.DROPPED]
    assert sink.written + sink.lost == ended == len(shelf.kept) + sink.lost
