"""The predictor: a frame in, mask, malignancy and call out, in the frame's own coordinates."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import EngineError
from edge.frame import GreyImage
from edge.interpretation import Interpretation
from edge.manifest import OutputSpec
from edge.predictor import Prediction, Predictor
from edge.preprocess import Resize, preprocess, sigmoid
from edge.presence import Presence, presence_logit

SIZE = (48, 64)
INTERPRETATION = Interpretation(
    input_size=SIZE,
    resize="stretch",
    mask=OutputSpec("mask", "mask", "sigmoid", (1, 1, *SIZE)),
    classes=OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
    labels=("benign", "malignant"),
    positive="malignant",
    threshold=0.5,
)
MASK_ONLY = replace(INTERPRETATION, classes=None, labels=(), positive=None, threshold=None)
CLASS_ONLY = replace(INTERPRETATION, mask=None)


class FakeEngine:
    """Takes bright pixels for lesion, and answers one malignancy logit."""

    def __init__(self, malignancy: float = 0.0) -> None:
        self.malignancy = malignancy
        self.seen: list[GreyImage] = []
        self.closed = 0

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        self.seen.append(image)
        mask = np.where(image >= 128, np.float32(10), np.float32(-10))
        return {"mask": mask[None, None], "malignancy": np.array([[self.malignancy]], np.float32)}

    def close(self) -> None:
        self.closed += 1


class BrokenEngine(FakeEngine):
    """An engine whose device went away."""

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        raise EngineError("device lost")


class FixedEngine(FakeEngine):
    """Answers the outputs it was given."""

    def __init__(self, mask: Any, malignancy: Any) -> None:
        super().__init__()
        self.outputs = {
            "mask": np.broadcast_to(np.float32(mask), (1, 1, *SIZE)),
            "malignancy": np.array([[malignancy]], np.float32),
        }

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        return self.outputs


def frame_with_lesion(lesion: bool = True) -> GreyImage:
    pixels = np.full((120, 200), 20, np.uint8)
    if lesion:
        pixels[30:60, 50:150] = 220
    return pixels


def predict(engine: FakeEngine, *, threshold: float = 0.5, lesion: bool = True) -> Prediction:
    return Predictor(engine, replace(INTERPRETATION, threshold=threshold)).predict(frame_with_lesion(lesion))


def mask_of(prediction: Prediction) -> NDArray[np.bool_]:
    assert prediction.mask is not None
    return prediction.mask


def test_the_engine_sees_the_preprocessed_frame() -> None:
    engine = FakeEngine()
    predict(engine)
    (seen,) = engine.seen
    assert np.array_equal(seen, preprocess(frame_with_lesion(), SIZE))


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_the_mask_lies_on_the_lesion_in_the_frame(resize: Resize) -> None:
    engine = FakeEngine()
    prediction = Predictor(engine, replace(INTERPRETATION, resize=resize)).predict(frame_with_lesion())
    assert np.array_equal(engine.seen[0], preprocess(frame_with_lesion(), SIZE, resize=resize))
    mask = mask_of(prediction)
    assert mask.shape == (120, 200)
    assert mask.dtype == np.bool_
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx([30, 59, 50, 149], abs=3)


def test_the_networks_own_mask_and_outputs_are_kept() -> None:
    prediction = predict(FakeEngine(1.0))
    assert prediction.mask_probability is not None
    assert prediction.mask_probability.shape == SIZE
    assert prediction.mask_probability.dtype == np.float32
    np.testing.assert_array_equal(prediction.mask_probability, sigmoid(prediction.outputs["mask"])[0, 0])
    assert prediction.outputs["malignancy"].tolist() == [[1.0]]


def test_an_engine_that_answers_another_shape_is_another_network() -> None:
    class Last(FakeEngine):
        def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
            outputs = super().infer(image)
            return {**outputs, "mask": np.moveaxis(outputs["mask"], 1, 3)}

    with pytest.raises(EngineError, match=r"'mask' has shape \(1, 48, 64, 1\), not \(1, 1, 48, 64\)"):
        predict(Last())


@given(logit=st.floats(-30, 30, width=32))
def test_malignancy_is_the_logits_probability(logit: float) -> None:
    prediction = predict(FakeEngine(logit))
    assert prediction.malignancy == float(sigmoid(np.array([logit], np.float32))[0])
    assert prediction.probabilities == {"benign": 1 - prediction.malignancy, "malignant": prediction.malignancy}


@pytest.mark.parametrize(
    ("logit", "threshold", "lesion", "decision"),
    [
        (0.0, 0.5, True, "malignant"),  # at the operating point
        (0.0, float(np.nextafter(0.5, 1)), True, "benign"),
        (0.0, float(np.nextafter(0.5, 0)), True, "malignant"),
        (-2.0, 0.1, True, "malignant"),
        (2.0, 0.9, True, "benign"),
        (-9.0, 0.5, False, "no lesion"),
        (2.0, 0.9, False, "no lesion"),
        (9.0, 0.5, False, "no lesion"),  # a class is that of a lesion
        (0.0, 0.5, False, "no lesion"),
    ],
)
def test_decision(logit: float, threshold: float, lesion: bool, decision: str) -> None:
    prediction = predict(FakeEngine(logit), threshold=threshold, lesion=lesion)
    assert mask_of(prediction).any() == lesion
    assert prediction.decision == decision
    assert prediction.classified == (decision != "no lesion")
    assert (prediction.presence, prediction.threshold) == (None, threshold)


@pytest.mark.parametrize("lesion", [True, False])
def test_a_network_without_classes_says_lesion_or_none(lesion: bool) -> None:
    prediction = Predictor(FakeEngine(9.0), MASK_ONLY).predict(frame_with_lesion(lesion))
    assert prediction.decision == ("lesion" if lesion else "no lesion")
    assert not prediction.classified
    assert (prediction.malignancy, prediction.positive, prediction.probabilities) == (None, None, {})
    assert mask_of(prediction).any() == lesion


@pytest.mark.parametrize(("logit", "decision"), [(9.0, "malignant"), (-9.0, "benign")])
def test_a_network_without_a_mask_never_says_no_lesion(logit: float, decision: str) -> None:
    prediction = Predictor(FakeEngine(logit), CLASS_ONLY).predict(frame_with_lesion(False))
    assert prediction.decision == decision
    assert (prediction.mask, prediction.mask_level, prediction.mask_probability) == (None, None, None)


@pytest.mark.parametrize(("mask_logit", "level", "decision"), [(0.0, 128, "benign"), (-0.01, 127, "no lesion")])
def test_lesion_begins_at_even_odds(mask_logit: float, level: int, decision: str) -> None:
    prediction = predict(FixedEngine(mask_logit, -5.0))
    assert np.all(prediction.mask_level == level)
    assert mask_of(prediction).all() == (decision == "benign")
    assert prediction.decision == decision


@pytest.mark.parametrize(("mask", "malignancy"), [(np.nan, 0.0), (0.0, np.nan), (np.nan, np.nan)])
def test_a_network_that_answers_nan_is_an_error_and_never_a_normal_frame(mask: float, malignancy: float) -> None:
    with pytest.raises(EngineError, match="not a number"):
        predict(FixedEngine(mask, malignancy))


def test_infinite_logits_are_certain_ones() -> None:
    prediction = predict(FixedEngine(-np.inf, np.inf))
    assert prediction.malignancy == 1.0
    assert prediction.decision == "no lesion"
    assert not mask_of(prediction).any()


# Presence

LOGIT = presence_logit(np.full(SIZE, sigmoid(np.array([2.0], np.float32))[0], np.float32))


@pytest.mark.parametrize(("threshold", "decision"), [(0.7, "malignant"), (0.9, "no lesion")])
def test_where_presence_finds_no_lesion_the_mask_is_empty_and_nothing_else(threshold: float, decision: str) -> None:
    presence = Presence(0.5, 0.2, threshold, "nothing")
    prediction = Predictor(FixedEngine(2.0, 5.0), replace(INTERPRETATION, presence=presence)).predict(
        frame_with_lesion()
    )
    assert prediction.presence == pytest.approx(1 / (1 + np.exp(-(0.5 * LOGIT + 0.2))))
    assert prediction.presence == pytest.approx(0.769, abs=0.001)
    assert prediction.decision == decision
    assert prediction.classified == (decision == "malignant")
    assert mask_of(prediction).shape == (120, 200)
    assert mask_of(prediction).dtype == np.bool_
    assert mask_of(prediction).all() == mask_of(prediction).any() == (decision == "malignant")
    assert prediction.mask_level is not None
    assert prediction.mask_probability is not None
    assert prediction.mask_level.min() > 200
    assert prediction.mask_probability.min() > 0.85
    assert prediction.malignancy == pytest.approx(1 / (1 + np.exp(-5.0)))


def test_a_faint_lesion_that_presence_finds_is_outlined_at_half_its_height() -> None:
    presence = Presence(1.0, 0.0, 0.2, "nothing")
    prediction = Predictor(FixedEngine(-1.0, 5.0), replace(INTERPRETATION, presence=presence)).predict(
        frame_with_lesion()
    )
    assert prediction.decision == "malignant"
    assert prediction.outline_level == round(128 / (1 + np.exp(1.0)))
    assert mask_of(prediction).any()
    without = Predictor(FixedEngine(-1.0, 5.0), INTERPRETATION).predict(frame_with_lesion())
    assert without.outline_level == 128
    assert not mask_of(without).any()


def test_the_temperature_reaches_the_probability_and_the_call() -> None:
    hot = replace(INTERPRETATION, temperature=4.0, threshold=0.6)
    prediction = Predictor(FakeEngine(1.0), hot).predict(frame_with_lesion())
    assert prediction.malignancy == pytest.approx(1 / (1 + np.exp(-0.25)))
    assert prediction.decision == "benign"
    assert predict(FakeEngine(1.0), threshold=0.6).decision == "malignant"


def test_stages_are_timed_by_the_clock() -> None:
    ticks = chain([1_000_000, 3_000_000, 8_500_000, 9_000_000], repeat(0))
    predictor = Predictor(FakeEngine(), INTERPRETATION, clock=lambda: next(ticks))
    timing = predictor.predict(frame_with_lesion()).timing
    assert (timing.preprocess_ms, timing.infer_ms, timing.postprocess_ms) == (2.0, 5.5, 0.5)
    assert timing.total_ms == 8.0


def test_the_engine_is_closed_once_on_leaving() -> None:
    engine = FakeEngine()
    with Predictor(engine, INTERPRETATION) as predictor:
        predictor.predict(frame_with_lesion())
        assert engine.closed == 0
    assert engine.closed == 1


def test_an_engine_error_reaches_the_caller_and_the_engine_is_closed() -> None:
    engine = BrokenEngine()
    with (
        pytest.raises(EngineError, match="device lost"),
        Predictor(engine, INTERPRETATION) as predictor,
    ):
        predictor.predict(frame_with_lesion())
    assert engine.closed == 1


def test_reading_presence_is_part_of_postprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]

    def slow(self: Interpretation, mask: NDArray[np.float32]) -> float:
        now[0] += 7_000_000
        return 0.5

    monkeypatch.setattr(Interpretation, "lesion_presence", slow)
    timing = Predictor(FakeEngine(), INTERPRETATION, clock=lambda: now[0]).predict(frame_with_lesion()).timing
    assert (timing.preprocess_ms, timing.infer_ms, timing.postprocess_ms) == (0.0, 0.0, 7.0)
