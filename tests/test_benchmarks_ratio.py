"""Slower beyond noise: intervals of ratios of medians."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.ratio import Ratio, paired_ratio, ratio_between

LATENCIES = st.lists(st.floats(0.1, 1e3), min_size=1, max_size=40)


def noisy(rng: np.random.Generator, median_ms: float, count: int = 100) -> NDArray[np.float64]:
    """Latencies as a shared machine gives them: a log-normal whose level wanders, and a few calls that were interrupted."""
    wander = np.zeros(count)
    for index in range(1, count):
        wander[index] = 0.9 * wander[index - 1] + rng.normal(0, 0.01)
    samples = median_ms * np.exp(wander + rng.normal(0, 0.02, count))
    samples[rng.random(count) < 0.05] *= 5
    return samples


@given(LATENCIES)
def test_a_thing_is_neither_faster_nor_slower_than_itself(samples: list[float]) -> None:
    ratio = paired_ratio(samples, samples)
    assert (ratio.value, ratio.low, ratio.high) == (1.0, 1.0, 1.0)


@given(LATENCIES, st.floats(0.1, 10))
def test_a_thing_that_takes_so_many_times_as_long_is_found_so(samples: list[float], factor: float) -> None:
    ratio = paired_ratio([factor * ms for ms in samples], samples)
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([factor] * 3)


@given(LATENCIES, LATENCIES)
def test_an_interval_is_of_positive_numbers_in_order(new: list[float], old: list[float]) -> None:
    ratio = ratio_between(new, old)
    assert 0 < ratio.low <= ratio.high
    assert ratio.above(0.99 * ratio.low) and not ratio.above(ratio.low)
    assert ratio.below(1.01 * ratio.high) and not ratio.below(ratio.high)


def test_two_runs_of_the_same_thing_are_rarely_told_apart() -> None:
    """With noise of its own in every call one in a hundred may be; a level that wanders on takes a tolerance as well."""
    rng = np.random.default_rng(0)
    apart = 0
    for turn in range(60):
        ratio = ratio_between(rng.lognormal(1.5, 0.1, 100), rng.lognormal(1.5, 0.1, 100), seed=turn)
        apart += ratio.above(1.0) or ratio.below(1.0)
        assert not ratio_between(noisy(rng, 5.0), noisy(rng, 5.0), seed=turn).above(1.05)
    assert apart <= 3


def test_a_fifth_slower_is_told_apart() -> None:
    rng = np.random.default_rng(1)
    assert all(ratio_between(noisy(rng, 6.0), noisy(rng, 5.0)).above(1.1) for _ in range(20))


def test_the_yardstick_takes_out_what_the_whole_machine_was_slower_by() -> None:
    rng = np.random.default_rng(2)
    slow = np.where(np.arange(100) < 60, 1.5, 1.4)
    new, old = noisy(rng, 5.0) * slow, noisy(rng, 5.0)
    now, then = noisy(rng, 1.0) * slow, noisy(rng, 1.0)
    assert ratio_between(new, old).above(1.2)
    adjusted = ratio_between(new, old, new_yardstick=now, old_yardstick=then)
    assert adjusted.low < 1.05 and adjusted.high > 0.95
    assert ratio_between(new * 1.5, old, new_yardstick=now, old_yardstick=then).above(1.3)


def test_a_few_interrupted_calls_do_not_count() -> None:
    steady = [5.0 + 0.01 * (index % 7) for index in range(100)]
    hit = [ms * (50 if index % 10 == 0 else 1) for index, ms in enumerate(steady)]
    assert ratio_between(hit, steady).high < 1.01


def test_more_samples_give_a_narrower_interval() -> None:
    rng = np.random.default_rng(3)
    widths = []
    for count in (25, 400):
        ratio = ratio_between(rng.lognormal(1, 0.2, count), rng.lognormal(1, 0.2, count))
        widths.append(ratio.high - ratio.low)
    assert widths[1] < widths[0] / 2


@pytest.mark.parametrize("bad", [([1.0, 2.0], [1.0]), ([], []), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_what_is_no_pair_of_latencies_is_refused(bad: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match=r"samples|positive"):
        paired_ratio(*bad)


def test_an_interval_the_wrong_way_round_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="no interval"):
        Ratio(1.0, 1.2, 0.9)
