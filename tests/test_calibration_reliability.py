"""Reliability: counted by hand, against a plain loop, and drawn the same every time."""

import sys
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.reliability import Reliability, draw_reliability, expected_calibration_error, reliability_bins
from edge.errors import MissingDependencyError, SinkError

CASES = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)
PROBABILITY = np.array([0.0, 0.1, 0.5, 0.6, 0.7, 0.95])
POSITIVE = np.array([False, True, False, True, True, True])


def test_error_counted_by_hand() -> None:
    bins = reliability_bins(PROBABILITY, POSITIVE, bins=2)  # 0.5 belongs to the lower bin
    np.testing.assert_array_equal(bins.count, [3, 3])
    np.testing.assert_allclose(bins.confidence, [0.2, 0.75])
    np.testing.assert_allclose(bins.observed, [1 / 3, 1.0])
    error = expected_calibration_error(PROBABILITY, POSITIVE, bins=2)
    assert error == bins.error == pytest.approx((3 * (1 / 3 - 0.2) + 3 * 0.25) / 6)


def test_empty_bins_have_no_say() -> None:
    bins = reliability_bins(np.array([0.05, 0.05]), np.array([False, True]), bins=10)
    assert bins.count.tolist() == [2] + [0] * 9
    assert np.isnan(bins.confidence[1:]).all()
    assert np.isnan(bins.observed[1:]).all()
    assert bins.error == pytest.approx(0.45)


@given(CASES, st.integers(1, 20))
def test_error_is_that_of_a_loop_over_bins(cases: list[tuple[float, bool]], bins: int) -> None:
    probability, positive = np.array([p for p, _ in cases]), np.array([flag for _, flag in cases])
    error = 0.0
    for index in range(bins):
        inside = (probability > index / bins) & (probability <= (index + 1) / bins)
        if index == 0:
            inside |= probability == 0.0
        if inside.any():
            error += inside.mean() * abs(probability[inside].mean() - positive[inside].mean())
    assert expected_calibration_error(probability, positive, bins=bins) == pytest.approx(error, abs=1e-12)
    assert reliability_bins(probability, positive, bins=bins).count.sum() == len(cases)


def test_right_probabilities_have_no_error_and_sure_mistakes_all_of_it() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(50_000)
    assert expected_calibration_error(probability, rng.random(50_000) < probability) < 0.01
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([True, False])) == 1.0


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="one probability"):
        expected_calibration_error(np.empty(0), np.empty(0, np.bool_))
    with pytest.raises(ValueError, match="one probability"):
        expected_calibration_error(PROBABILITY, POSITIVE[1:])
    for probability in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"0\.\.1"):
            expected_calibration_error(np.array([probability]), np.array([True]))
    with pytest.raises(ValueError, match="at least one bin"):
        expected_calibration_error(PROBABILITY, POSITIVE, bins=0)


def pair() -> tuple[Reliability, Reliability]:
    return reliability_bins(PROBABILITY, POSITIVE), reliability_bins(0.25 + PROBABILITY / 2, POSITIVE)


def test_a_png_shows_both_curves_and_is_the_same_every_time_in_any_style(tmp_path: Path) -> None:
    draw_reliability(*pair(), tmp_path / "one.png")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black"}):
        draw_reliability(*pair(), tmp_path / "other.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    image = cv2.imread(str(tmp_path / "one.png"))
    assert image is not None
    for blue, green, red in ((0x00, 0x5E, 0xD5), (0xB2, 0x72, 0x00)):
        assert np.count_nonzero((image == (blue, green, red)).all(2)) > 200


def test_an_svg_is_the_same_every_time_and_undated(tmp_path: Path) -> None:
    for name in ("one.svg", "other.SVG"):
        draw_reliability(*pair(), tmp_path / name)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "other.SVG").read_text()
    assert "<svg" in text
    assert "dc:date" not in text


def test_what_cannot_be_drawn_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = pair()
    with pytest.raises(SinkError, match=r"\.png or \.svg"):
        draw_reliability(before, after, tmp_path / "figure.pdf")
    with pytest.raises(ValueError, match="same bins"):
        draw_reliability(before, reliability_bins(PROBABILITY, POSITIVE, bins=3), tmp_path / "figure.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="train"):
        draw_reliability(before, after, tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
