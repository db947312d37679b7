"""The simulated probe: known motion, known lesion, its own pace, the same pixels from the same text."""

import hashlib
import threading
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_parts import Note, Notes

import edge.sources.phantom
from edge.capture import Frame
from edge.errors import SourceError
from edge.ledger import Outcome
from edge.phantom import PhantomCase
from edge.preprocess import Box
from edge.sources.phantom import SWEEP_S, PhantomSource, open_phantom
from edge.stream import Policy, Stream

SIZE = (96, 128)
WHOLE_SWEEP = round(SWEEP_S * 30)


@pytest.fixture(scope="module")
def probe() -> PhantomSource:
    return PhantomSource(30.0, seed=4, size=SIZE)


def test_the_picture_moves_as_it_is_said_to(probe: PhantomSource) -> None:
    """The shift that fits best, of all from -6 to 6, is the one that is told."""
    for index in (1, WHOLE_SWEEP // 2, WHOLE_SWEEP // 2 + 1, WHOLE_SWEEP + WHOLE_SWEEP // 2, 2 * WHOLE_SWEEP + 70):
        before, after = probe.frame(index - 1).astype(int), probe.frame(index).astype(int)
        inner = slice(8, -8)
        errors = {
            shift: np.abs(np.roll(before, shift, axis=1)[:, inner] - after[:, inner]).mean() for shift in range(-6, 7)
        }
        assert (min(errors, key=lambda shift: errors[shift]), 0) == probe.shift_px(index)


def test_the_true_mask_moves_with_the_picture_and_lies_on_what_is_dark(probe: PhantomSource) -> None:
    middle = WHOLE_SWEEP // 2
    assert probe.truth(middle).any()
    x, _ = probe.shift_px(middle)
    assert x != 0
    assert (np.roll(probe.truth(middle - 1), x, axis=1)[:, 8:-8] == probe.truth(middle)[:, 8:-8]).all()
    rows = probe.truth(middle).any(axis=1)
    frame, mask = probe.frame(middle)[rows], probe.truth(middle)[rows]
    assert frame[mask].mean() < 0.8 * frame[~mask].mean()


def test_the_motion_is_smooth_and_comes_back(probe: PhantomSource) -> None:
    shifts = [probe.shift_px(index)[0] for index in range(1, 2 * WHOLE_SWEEP + 1)]
    assert sum(shifts) == 0
    assert sum(shifts[:WHOLE_SWEEP]) == -SIZE[1] // 2
    assert max(map(abs, shifts)) <= 2
    assert all(abs(after - before) <= 1 for before, after in pairwise(shifts))
    assert probe.shift_px(0) == (0, 0)


def test_no_two_frames_are_equal_also_where_the_probe_rests(probe: PhantomSource) -> None:
    assert probe.shift_px(1) == (0, 0)
    frames = {probe.frame(index).tobytes() for index in range(12)}
    assert len(frames) == 12
    change = np.abs(probe.frame(0).astype(int) - probe.frame(1).astype(int))
    assert 0.5 < change.mean() < 10.0


def test_the_same_text_has_the_same_pixels_and_another_seed_others(probe: PhantomSource) -> None:
    edge.sources.phantom._tissue.cache_clear()
    again = PhantomSource(30.0, seed=4, size=SIZE)
    assert (again.frame(77) == probe.frame(77)).all()
    assert (PhantomSource(30.0, seed=5, size=SIZE).frame(77) != probe.frame(77)).any()


def test_motion_and_noise_are_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over tissue that is given, the bytes are known: no float arithmetic takes part."""
    wide = (np.add.outer(np.arange(96) * 3, np.arange(192) * 5) % 256).astype(np.uint8)
    case = PhantomCase(wide, wide > 200, "malignant", 4)
    monkeypatch.setattr(edge.sources.phantom, "_tissue", lambda *_: case)
    source = PhantomSource(30.0, seed=4, size=SIZE)
    digest = hashlib.sha256(b"".join(source.frame(index).tobytes() for index in (0, 50, 333))).hexdigest()
    assert digest == "41e6bb5e2ab154dcf506bb9eb7dcd444faccfc592a1adb9aac0e30d60de3a983"


def test_with_seconds_it_is_a_recording_that_gives_every_frame_and_ends() -> None:
    source = open_phantom("phantom:20?seed=4&size=128x96&seconds=1.5")
    assert not source.live
    pictures = list(source)
    assert len(pictures) == source.frames == 30
    assert [picture.time_s for picture in pictures] == pytest.approx([index / 20 for index in range(30)])
    assert not any(picture.lost for picture in pictures)
    assert pictures[0].region == Box(0, 0, *SIZE)
    assert (pictures[7].pixels == source.frame(7)).all()


def test_a_live_probe_keeps_its_pace() -> None:
    source = PhantomSource(40.0, size=(64, 64))
    assert source.live
    pictures = iter(source)
    started_s = time.monotonic()
    last = [next(pictures) for _ in range(11)][-1]
    took_s = time.monotonic() - started_s
    assert last.time_s is not None
    assert took_s > 0.2
    assert last.time_s <= took_s
    source.close()


def test_a_late_reader_gets_the_picture_of_now_and_is_told_what_it_missed() -> None:
    source = PhantomSource(240.0, size=(64, 64))
    pictures = iter(source)
    shown = [next(pictures)]
    time.sleep(0.2)
    shown += [next(pictures) for _ in range(3)]
    source.close()
    assert shown[1].lost >= 40
    assert shown[-1].time_s == pytest.approx((sum(1 + picture.lost for picture in shown) - 1) / 240)
    index = round(240 * (shown[-1].time_s or 0.0))
    assert (shown[-1].pixels == source.frame(index)).all()


def test_closing_ends_a_probe_of_one_frame_in_a_hundred_seconds_at_once() -> None:
    source = PhantomSource(0.01, size=(64, 64))
    timer = threading.Timer(0.2, source.close)
    timer.start()
    started_s = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - started_s < 60.0
    timer.join()


def stream(text: str, policy: Policy, then: Callable[[Frame], None] = lambda frame: None) -> Stream[Note]:
    def slow(frame: Frame) -> None:
        time.sleep(0.01)
        then(frame)

    return Stream(lambda: open_phantom(text), Notes(slow), policy=policy)


@pytest.mark.parametrize(("rate", "count"), [(1, 2), (240, 48)])
@pytest.mark.parametrize("policy", ["all", "newest"])
def test_a_run_with_seconds_ends_by_itself_and_its_ledger_adds_up(rate: int, count: int, policy: Policy) -> None:
    status = stream(f"phantom:{rate}?size=64x64&seconds={count / rate}", policy).run(duration_s=120.0)
    assert status.sound
    assert status.source == "ended"
    assert status.reconnects == 0
    ledger = status.ledger
    assert (ledger.captured, ledger.in_flight) == (count, 0)
    assert sum(ledger.counts.values()) == count
    if policy == "all" or rate == 1:
        assert ledger.counts[Outcome.PROCESSED] == count
    else:
        assert ledger.counts[Outcome.DROPPED] > 0


@pytest.mark.parametrize("rate", [1, 240])
def test_a_live_run_of_a_slow_and_of_a_fast_probe_ends_when_it_is_told_to(rate: int) -> None:
    last = 1 if rate == 1 else 100

    def stop(frame: Frame) -> None:
        if frame.number >= last:
            running.stop()

    running = stream(f"phantom:{rate}?size=64x64", "newest", stop)
    started_s = time.monotonic()
    status = running.run(duration_s=120.0)
    took_s = time.monotonic() - started_s
    assert status.sound
    ledger = status.ledger
    assert ledger.in_flight == 0
    assert sum(ledger.counts.values()) == ledger.captured
    assert last < ledger.captured + ledger.lost <= rate * took_s + 1


@pytest.mark.parametrize(
    "text",
    [
        "phantom:fast",
        "phantom:0",
        "phantom:-3",
        "phantom:nan",
        "phantom:1e9",
        "phantom:30?size=640",
        "phantom:30?size=9x9",
        "phantom:30?size=99999x99999",
        "phantom:30?seed=-1",
        "phantom:30?seed=x",
        "phantom:30?seconds=0",
        "phantom:30?seconds=inf",
        "phantom:30?label=cat",
        "phantom:30?sed=3",
        "phantom:30?seed",
    ],
)
def test_a_text_that_is_not_understood_is_answered_with_how_to_write_it(text: str) -> None:
    with pytest.raises(SourceError, match=r"write it like phantom:30\?seed=3"):
        open_phantom(text)


@settings(max_examples=30)
@given(rate=st.sampled_from([0.2, 1.0, 7.5, 30.0, 240.0]), index=st.integers(0, 10**9))
def test_the_window_stays_on_the_tissue_for_days(rate: float, index: int) -> None:
    source = PhantomSource(rate, size=(64, 64))
    assert source.frame(index).shape == source.truth(index).shape == (64, 64)
