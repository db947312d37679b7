"""Soaks, on a clock that is set by hand and a machine that gets warm as it is told."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.machine import State
from benchmarks.soak import Interval, Soak, Window, median_ms, soak
from edge.device import Throttled

CALM = State(None, None, None)


class Machine:
    """Calls that take what `latency_ms` says at that second, and a state that `state` gives."""

    def __init__(self, latency_ms: Callable[[float], float], state: Callable[[float], State] = lambda at: CALM) -> None:
        self.now_ns, self.calls = 10**9, 0
        self.latency_ms, self._state = latency_ms, state

    @property
    def at_s(self) -> float:
        return (self.now_ns - 10**9) / 1e9

    def clock(self) -> int:
        return self.now_ns

    def step(self) -> None:
        self.calls += 1
        self.now_ns += int(self.latency_ms(self.at_s) * 1e6)

    def read(self) -> State:
        self.now_ns += 3_000_000  # a vcgencmd
        return self._state(self.at_s)

    def soak(self, seconds: float, **options: object) -> Soak:
        made = soak(self.step, "litert int8", seconds=seconds, clock=self.clock, read=self.read, **options)  # type: ignore[arg-type]
        assert made is not None
        return made


def window(start_s: float, p50_ms: float = 5.0, **given: object) -> Window:
    plain = Window(start_s, start_s + 1, 100, p50_ms, 2 * p50_ms, 3 * p50_ms, None, None, ())
    return replace(plain, **given)  # type: ignore[arg-type]


def test_windows_cover_the_soak_and_reading_the_state_is_in_no_latency() -> None:
    machine = Machine(lambda at: 10.0)
    made = machine.soak(30)
    assert made.duration_s == pytest.approx(30, abs=0.02)
    assert sum(w.count for w in made.windows) == machine.calls
    assert {(w.p50_ms, w.p99_ms, w.max_ms) for w in made.windows} == {(10.0, 10.0, 10.0)}
    assert all(later.start_s - before.end_s < 0.01 for before, later in itertools.pairwise(made.windows))
    assert not made.interrupted


def test_cold_and_steady_are_apart() -> None:
    made = Machine(lambda at: 5.0 if at < 60 else 8.0).soak(300)
    assert (median_ms(made.cold), median_ms(made.steady)) == (5.0, 8.0)
    assert made.slowdown == pytest.approx(1.6)
    assert made.cold[-1].end_s <= 11.1
    assert made.steady[0].start_s >= 198
    short = Machine(lambda at: 5.0 if at < 1 else 8.0).soak(4)
    assert median_ms(short.cold) == 5.0  # a quarter at most


def test_the_slope_is_that_of_the_steady_part_and_spikes_do_not_bend_it() -> None:
    """One per cent of 10 ms a minute from the second minute on."""

    def latency(at: float) -> float:
        return 40.0 if int(at) % 20 == 0 else 10.0 + max(0.0, at - 120) / 60 * 0.1

    slope = Machine(latency).soak(600).slope_percent_per_min
    assert slope == pytest.approx(0.1 / 10.67 * 100, rel=0.03)
    assert Machine(lambda at: 10.0).soak(30).slope_percent_per_min is None  # too short to have one


def test_throttled_stretches_are_named() -> None:
    def state(at: float) -> State:
        bits = 0b1000 if 40 <= at < 60 else 0b0101 if 60 <= at < 70 else 0
        return State(80.0, 1500.0 if at < 90 else 1000.0, Throttled(bits))

    made = Machine(lambda at: 10.0, state).soak(100)
    reasons = [found.reasons for found in made.intervals]
    assert reasons == [("soft temperature limit",), ("under-voltage", "throttled"), ("clock slowed",)]
    assert [found.start_s for found in made.intervals] == pytest.approx([40, 60, 90], abs=1.5)
    assert made.intervals[-1].end_s == made.duration_s
    assert made.hottest_c == 80.0


def test_a_machine_that_tells_nothing_is_not_called_throttled() -> None:
    made = Machine(lambda at: 10.0).soak(20)
    assert made.intervals == ()
    assert made.hottest_c is None


def test_a_clock_that_comes_and_goes_gives_separate_stretches() -> None:
    clocks = [2000.0] * 12 + [1000.0, 1000.0, 2000.0, None, 1000.0]
    made = Soak("x", 17, False, tuple(window(i, clock_mhz=mhz) for i, mhz in enumerate(clocks)))
    assert made.intervals == (Interval(12, 14, ("clock slowed",)), Interval(16, 17, ("clock slowed",)))


def test_ctrl_c_keeps_what_there_is() -> None:
    machine = Machine(lambda at: 10.0)

    def latency(at: float) -> float:
        if at > 12.5:
            raise KeyboardInterrupt
        return 10.0

    machine.latency_ms = latency
    made = machine.soak(600)
    assert made.interrupted
    assert made.duration_s == pytest.approx(12.5, abs=0.05)
    assert sum(w.count for w in made.windows) == machine.calls - 1
    assert made.to_json()["interrupted"] is True


def test_ctrl_c_before_the_first_result_gives_nothing() -> None:
    def refuse() -> None:
        raise KeyboardInterrupt

    assert soak(refuse, "x", seconds=5, read=lambda: CALM) is None


def test_a_failing_engine_is_not_swallowed() -> None:
    def fail() -> None:
        raise RuntimeError("broken engine")

    with pytest.raises(RuntimeError, match="broken engine"):
        soak(fail, "x", seconds=5, read=lambda: CALM)


def test_every_window_is_told_as_it_ends() -> None:
    told: list[Window] = []
    made = Machine(lambda at: 10.0).soak(10, tell=told.append)
    assert told == list(made.windows[: len(told)])
    assert len(told) >= len(made.windows) - 1


def test_a_call_that_takes_longer_than_the_soak_still_counts() -> None:
    made = Machine(lambda at: 5000.0).soak(1)
    assert [w.p50_ms for w in made.windows] == [5000.0]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_time_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="takes some time"):
        soak(lambda: None, "x", seconds=seconds)
