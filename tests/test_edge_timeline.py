"""The time of a live source always goes on, at the sender's pace where that can be believed."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.timeline import SLIP_S, Timeline

MOMENT = st.one_of(st.none(), st.floats(-1e6, 1e6))


def followed(moments: list[tuple[float | None, float]]) -> list[float | None]:
    """moments: what the source and what the run's clock says, seconds."""
    timeline = Timeline()
    return [timeline.follow(own_s, round(run_s * 1e9)) for own_s, run_s in moments]


def test_a_clock_that_goes_as_it_should_is_left_as_it_is() -> None:
    own_s = [0.0, 0.04, 0.08, 0.12, 0.5]
    run_s = [100.0, 100.09, 100.1, 101.9, 101.91]  # the network delays, then hurries
    assert followed(list(zip(own_s, run_s, strict=True))) == own_s


def test_a_source_without_a_clock_has_no_time_also_where_it_names_one_later() -> None:
    assert followed([(None, 5.0), (3.0, 5.1), (None, 5.2)]) == [None] * 3


@pytest.mark.parametrize("leap_s", [-3600.0, -0.5, 7200.0, SLIP_S + 0.1])
def test_after_a_leap_time_goes_on_by_the_runs_clock_and_then_at_the_senders_pace(leap_s: float) -> None:
    own_s = [1.0, 1.1, 1.2 + leap_s, 1.31 + leap_s]
    assert followed(list(zip(own_s, [50.0, 50.1, 50.2, 50.3], strict=True))) == pytest.approx([1.0, 1.1, 1.2, 1.31])


def test_a_stamp_that_is_missing_or_stands_still_is_filled_in() -> None:
    assert followed([(2.0, 7.0), (None, 7.2), (2.0, 7.5), (2.3, 7.8)]) == pytest.approx([2.0, 2.2, 2.5, 2.8])


def test_a_source_that_is_opened_again_and_counts_from_0_goes_on() -> None:
    assert followed([(0.0, 10.0), (60.0, 70.0), (0.0, 73.0), (0.1, 73.1)]) == pytest.approx([0.0, 60.0, 63.0, 63.1])


@given(st.lists(st.tuples(MOMENT, st.floats(0.0, 20.0)), max_size=30))
def test_whatever_comes_time_goes_on_and_stays_near_the_runs_clock(steps: list[tuple[float | None, float]]) -> None:
    run_s, moments = 1000.0, []
    for own_s, step_s in steps:
        run_s += step_s
        moments.append((own_s, run_s))
    found = followed(moments)
    if found and found[0] is None:
        assert found == [None] * len(found)
        return
    for (before, after), (_, step_s) in zip(pairwise(found), steps[1:], strict=True):
        assert before is not None and after is not None
        assert 0.0 < after - before <= step_s + SLIP_S + 1e-3
