"""The follower: predictions become findings in the frame's coordinates, the call made again from the smoothed values."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.dataset import Dataset
from edge.findings import Finding
from edge.follow import Follower
from edge.frame import GreyImage
from edge.interpretation import NO_LESION, Interpretation
from edge.manifest import OutputSpec
from edge.phantom import phantom_case
from edge.predictor import Estimate, Predictor
from edge.presence import Presence

SIZE = (200, 280)
MASK = (50, 70)
INTERPRETATION = Interpretation(
    input_size=(100, 140),
    resize="stretch",
    mask=OutputSpec("mask", "mask", "sigmoid", (1, 1, *MASK)),
    classes=OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
    labels=("benign", "malignant"),
    positive="malignant",
    threshold=0.5,
)
CASE = phantom_case(3, label="malignant", size=(320, 440))


def window(x: int, y: int) -> tuple[GreyImage, np.ndarray]:
    """A part of the phantom and of its mask."""
    part = slice(60 - y, 60 - y + SIZE[0]), slice(80 - x, 80 - x + SIZE[1])
    return np.ascontiguousarray(CASE.pixels[part]), CASE.mask[part]


def said(mask: np.ndarray, malignancy: float = 0.8, presence: float | None = None) -> Estimate:
    small = np.asarray(cv2.resize(mask.astype(np.float32), MASK[::-1], interpolation=cv2.INTER_AREA), np.float32)
    labels = {"benign": 1 - malignancy, "malignant": malignancy}
    return Estimate(small, labels, presence, {}, 0, 0, 0)


def test_findings_lie_in_the_frame_and_measure_the_lesion() -> None:
    grey, mask = window(0, 0)
    finding = Follower(INTERPRETATION).update(said(mask), grey, time_s=0.0, spacing_mm=(0.1, 0.1), origin=(300, 40))
    (lesion,) = finding.lesions
    drawn = np.zeros((400, 700), np.uint8)
    cv2.fillPoly(drawn, [np.array(lesion.contour)], (1,))
    true = np.zeros((400, 700), np.bool_)
    true[40 : 40 + SIZE[0], 300 : 300 + SIZE[1]] = mask
    assert 2 * (drawn.astype(bool) & true).sum() / (drawn.sum() + true.sum()) > 0.95
    assert lesion.area_mm2 == pytest.approx(mask.sum() / 100, rel=0.06)
    assert finding.decision == "malignant"
    assert finding.malignancy == pytest.approx(0.8)
    assert lesion.certainty is not None and lesion.certainty > 0.9


def test_a_lesion_keeps_its_number_and_shape_through_a_sweep() -> None:
    follower = Follower(INTERPRETATION)
    for index in range(10):
        grey, mask = window(4 * index, -2 * index)
        finding = follower.update(said(mask), grey, time_s=index / 20)
        assert [lesion.track for lesion in finding.lesions] == [1]
        assert finding.lesions[0].area_px == pytest.approx(mask.sum(), rel=0.06)
        if index:
            assert finding.shift_px == pytest.approx((4.0, -2.0), abs=1.0)


def test_a_flicker_of_the_mask_is_held_and_a_raw_follower_shows_it() -> None:
    grey, mask = window(0, 0)
    lost = np.zeros_like(mask)
    for smooth, kept in ((True, 1), (False, 0)):
        follower = Follower(INTERPRETATION, smooth=smooth)
        for index in range(6):
            follower.update(said(mask), grey, time_s=index / 20)
        assert len(follower.update(said(lost), grey, time_s=0.3).lesions) == kept
        back = follower.update(said(mask), grey, time_s=0.35)
        assert [lesion.track for lesion in back.lesions] == [1]


def test_the_call_follows_the_smoothed_probability() -> None:
    grey, mask = window(0, 0)
    follower = Follower(INTERPRETATION)
    calls = [
        follower.update(said(mask, malignancy), grey, time_s=index / 20).decision
        for index, malignancy in enumerate((0.8, 0.8, 0.8, 0.4, 0.8, 0.05, 0.05, 0.05, 0.05, 0.05))
    ]
    assert calls[:5] == ["malignant"] * 5
    assert calls[-1] == "benign"


def test_where_the_answer_is_no_lesion_nothing_is_outlined() -> None:
    grey, mask = window(0, 0)
    how = replace(INTERPRETATION, presence=Presence(1.0, 0.0, 0.5, "a test"))
    follower = Follower(how)
    assert follower.update(said(mask, presence=0.9), grey, time_s=0.0).lesions
    finding = follower.update(said(mask, presence=0.001), grey, time_s=5.0)
    assert (finding.decision, finding.lesions) == (NO_LESION, ())


def test_a_mask_of_specks_is_no_lesion() -> None:
    grey, mask = window(0, 0)
    speck = np.zeros_like(mask)
    speck[:5, :5] = True
    assert Follower(INTERPRETATION).update(said(speck), grey, time_s=0.0).decision == NO_LESION


def test_another_picture_and_a_reset_leave_nothing_of_the_past() -> None:
    grey, mask = window(0, 0)
    other = phantom_case(8, size=SIZE).pixels
    empty = np.zeros_like(mask)
    for forget in (False, True):
        follower = Follower(INTERPRETATION)
        for index in range(4):
            follower.update(said(mask, 0.9), grey, time_s=index / 20)
        if forget:
            follower.reset()
        finding = follower.update(said(empty, 0.1), grey if forget else other, time_s=0.2)
        assert finding.decision == NO_LESION
        assert finding.probabilities["malignant"] == pytest.approx(0.1)
        (lesion,) = follower.update(said(mask), grey, time_s=0.25 if forget else 5.0).lesions
        assert lesion.track == 2


def test_without_a_mask_the_class_is_smoothed() -> None:
    how = replace(INTERPRETATION, mask=None)
    grey, _ = window(0, 0)
    bare = Estimate(None, {"benign": 0.2, "malignant": 0.8}, None, {}, 0, 0, 0)
    finding = Follower(how).update(bare, grey, time_s=0.0)
    assert (finding.decision, finding.lesions) == ("malignant", ())


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    pytest.importorskip("openvino")
    with Predictor.open(engine="openvino", threads=1) as opened:
        yield opened


def test_a_real_still_under_fresh_speckle_flickers_less_than_raw(shared: Path, predictor: Predictor) -> None:
    """Stills with noise of their own stand for a cine: no public breast cine has outlines."""
    rng = np.random.default_rng(0)
    cases = [case for case in Dataset.open([shared / "data/busbra"], folds=(5,)) if case.label == "malignant"]
    change: dict[bool, list[float]] = {True: [], False: []}
    for case in random.Random(1).sample(cases, 3):
        still = case.read().pixels
        followers = {smooth: Follower(predictor.interpretation, smooth=smooth) for smooth in (True, False)}
        before: dict[bool, Finding] = {}
        for index in range(8):
            grain = cv2.GaussianBlur(rng.standard_normal(still.shape, dtype=np.float32), (0, 0), 1.2)
            grey = np.clip(still * (1 + 0.15 * grain / grain.std()), 0, 255).astype(np.uint8)
            answer = predictor.estimate(grey)
            for smooth, follower in followers.items():
                finding = follower.update(answer, grey, time_s=index / 20)
                if smooth in before:
                    areas = [sum(lesion.area_px for lesion in each.lesions) for each in (before[smooth], finding)]
                    change[smooth].append(abs(areas[1] - areas[0]) / still.size)
                before[smooth] = finding
    assert np.mean(change[True]) < 0.6 * np.mean(change[False])
