"""Back-off: each failure doubles the wait up to a cap, a success ends it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.backoff import Backoff


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_waits_double_up_to_the_cap_and_start_again_after_a_success() -> None:
    clock = Clock()
    backoff = Backoff(first_s=0.5, most_s=3.0, clock=clock)
    assert backoff.due()
    waits = []
    for _ in range(5):
        backoff.failed()
        waits.append(backoff.wait_s)
    assert waits == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert not backoff.due()
    clock.now_s += 2.0
    assert backoff.wait_s == 1.0
    clock.now_s += 1.0
    assert backoff.due()
    backoff.reset()
    backoff.failed()
    assert backoff.wait_s == 0.5


@given(st.integers(1, 3000), st.floats(0.01, 2.0), st.floats(2.0, 100.0))
def test_no_number_of_failures_waits_longer_than_the_cap(failures: int, first_s: float, most_s: float) -> None:
    backoff = Backoff(first_s=first_s, most_s=most_s, clock=Clock())
    for _ in range(failures):
        backoff.failed()
        assert 0.0 < backoff.wait_s <= most_s * (1 + 1e-9)


@pytest.mark.parametrize(("first_s", "most_s"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_a_back_off_that_makes_no_sense_is_refused(first_s: float, most_s: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(first_s=first_s, most_s=most_s)
