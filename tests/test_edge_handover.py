"""The hand-over between two threads: bounded, in order, and nobody waits for ever."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.handover import Closed, Handover


def started(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that does `work`, and what came of it."""
    came: list[Any] = []

    def run() -> None:
        try:
            came.append(work())
        except Closed as end:
            came.append(end)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, came


@given(st.lists(st.one_of(st.integers(), st.none())), st.integers(1, 4))
def test_what_goes_in_comes_out_once_or_is_given_back(steps: list[int | None], capacity: int) -> None:
    handover: Handover[int] = Handover(capacity)
    put: list[int] = []
    seen: list[int] = []
    replaced: list[int] = []
    for step in steps:
        if step is not None:
            gave_way = handover.put(step)
            put.append(step)
            replaced += [] if gave_way is None else [gave_way]
        elif len(handover):
            seen.append(handover.get())
        assert len(handover) <= capacity
    left = handover.close(discard=True)
    assert sorted(seen + replaced + left) == sorted(put)
    assert left == put[len(put) - len(left) :], "the newest wait"


def test_the_oldest_gives_way() -> None:
    handover: Handover[str] = Handover(2)
    assert [handover.put(item) for item in "abcd"] == [None, None, "a", "b"]
    assert [handover.get(), handover.get()] == ["c", "d"]


def test_without_replacing_a_full_one_waits_for_room() -> None:
    handover: Handover[str] = Handover(1, replace=False)
    handover.put("a")
    thread, came = started(lambda: handover.put("b"))
    thread.join(0.05)
    assert thread.is_alive()
    assert handover.get(1.0) == "a"
    thread.join(2.0)
    assert came == [None]
    assert handover.get(1.0) == "b"


@pytest.mark.parametrize("replace", [True, False])
def test_closing_wakes_who_waits(replace: bool) -> None:
    empty: Handover[str] = Handover(1, replace=replace)
    reader, read = started(empty.get)
    full: Handover[str] = Handover(1, replace=False)
    full.put("a")
    writer, wrote = started(lambda: full.put("b"))
    for handover in (empty, full):
        handover.close()
    for thread in (reader, writer):
        thread.join(2.0)
        assert not thread.is_alive()
    assert isinstance(read[0], Closed)
    assert isinstance(wrote[0], Closed)


def test_what_waits_at_the_end_can_still_be_taken_and_nothing_more_comes() -> None:
    handover: Handover[str] = Handover(2)
    handover.put("a")
    assert handover.close() == []
    with pytest.raises(Closed):
        handover.put("b")
    assert handover.get() == "a"
    with pytest.raises(Closed):
        handover.get()


def test_waiting_can_be_limited() -> None:
    with pytest.raises(TimeoutError):
        Handover[str](1).get(0.01)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_hand_over_without_room_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="one item or more"):
        Handover[str](capacity)
