"""Interleaved timing, with a clock that is set by hand."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.latency import WARMUP, Latency, measure


class Bench:
    """Steps that take a known time on a clock of their own."""

    def __init__(self) -> None:
        self.now_ns = 5_000
        self.calls: list[str] = []

    def clock(self) -> int:
        return self.now_ns

    def step(self, name: str, *durations_ms: float) -> None:
        """One call of a step; the durations are used in turn, the last one for the rest."""
        index = min(self.calls.count(name), len(durations_ms) - 1)
        self.calls.append(name)
        self.now_ns += int(durations_ms[index] * 1e6)


def test_samples_are_what_the_clock_showed() -> None:
    bench = Bench()
    steps = {"a": lambda: bench.step("a", 1.5, 2.5, 4.0), "b": lambda: bench.step("b", 0.25)}
    found = measure(steps, rounds=3, warmup=0, clock=bench.clock)
    assert found == {"a": Latency((1.5, 2.5, 4.0)), "b": Latency((0.25, 0.25, 0.25))}


def test_the_order_rotates_from_round_to_round() -> None:
    bench = Bench()
    steps = {name: (lambda name=name: bench.step(name, 1.0)) for name in "abc"}
    measure(steps, rounds=4, warmup=0, clock=bench.clock)
    assert "".join(bench.calls) == "abcbcacababc"


def test_the_warm_up_runs_and_does_not_count() -> None:
    bench = Bench()
    found = measure({"a": lambda: bench.step("a", 100.0, 100.0, 3.0)}, rounds=2, warmup=2, clock=bench.clock)
    assert bench.calls == ["a"] * 4
    assert found["a"].samples_ms == (3.0, 3.0)
    measure({"b": lambda: bench.step("b", 1.0)}, rounds=1, clock=bench.clock)
    assert bench.calls.count("b") == WARMUP + 1


def test_progress_follows_the_rounds_outside_the_timed_part() -> None:
    bench = Bench()
    seen: list[int] = []

    def slow_bar(rounds: Iterable[int]) -> Iterable[int]:
        for turn in rounds:
            seen.append(turn)
            yield turn
            bench.now_ns += 10**9

    found = measure({"a": lambda: bench.step("a", 2.0)}, rounds=3, warmup=1, clock=bench.clock, progress=slow_bar)
    assert seen == [0, 1, 2]
    assert found["a"].samples_ms == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_rounds_are_refused_before_anything_runs(rounds: int) -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="rounds"):
        measure({"a": lambda: bench.step("a", 1.0)}, rounds=rounds, clock=bench.clock)
    assert bench.calls == []


def test_a_failing_step_is_not_swallowed() -> None:
    def fail() -> None:
        raise RuntimeError("broken engine")

    with pytest.raises(RuntimeError, match="broken engine"):
        measure({"a": fail}, rounds=1, warmup=0)


def test_percentiles_of_known_samples() -> None:
    latency = Latency(tuple(float(value) for value in range(100, -1, -1)))
    assert (latency.p50_ms, latency.p90_ms, latency.p99_ms) == (50.0, 90.0, 99.0)
    assert latency.percentile(25) == 25.0
    assert latency.fps == 20.0
    assert Latency((4.0,)).p99_ms == 4.0


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=50))
def test_percentiles_lie_in_order_among_the_samples(samples: list[float]) -> None:
    latency = Latency(tuple(samples))
    slack = 1e-9 * max(samples)
    in_order = [min(samples), latency.p50_ms, latency.p90_ms, latency.p99_ms, max(samples)]
    assert all(low <= high + slack for low, high in pairwise(in_order))


def test_a_latency_without_samples_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Latency(())
