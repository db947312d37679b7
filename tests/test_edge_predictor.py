"""The predictor: a frame in, mask, malignancy and call out, in the frame's own coordinates."""

from collections.abc import Mapping
from itertools import chain, repeat
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import EngineError
from edge.frame import GreyImage
from edge.predictor import Prediction, Predictor
from edge.preprocess import preprocess, sigmoid

SIZE = (48, 64)


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
    return Predictor(engine, input_size=SIZE, threshold=threshold).predict(frame_with_lesion(lesion))


def test_the_engine_sees_the_preprocessed_frame() -> None:
    engine = FakeEngine()
    predict(engine)
    (seen,) = engine.seen
    assert np.array_equal(seen, preprocess(frame_with_lesion(), SIZE))


def test_the_mask_lies_on_the_lesion_in_the_frame() -> None:
    prediction = predict(FakeEngine())
    assert prediction.mask.shape == prediction.mask_level.shape == (120, 200)
    assert prediction.mask.dtype == np.bool_
    rows, columns = (np.flatnonzero(prediction.mask.any(axis=axis)) for axis in (1, 0))
    assert [rows[0], rows[-1], columns[0], columns[-1]] == pytest.approx([30, 59, 50, 149], abs=3)
    assert prediction.mask_logits.shape == SIZE


def test_an_engine_that_answers_channels_last_is_understood() -> None:
    class Last(FakeEngine):
        def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
            outputs = super().infer(image)
            return {**outputs, "mask": np.moveaxis(outputs["mask"], 1, 3)}

    assert np.array_equal(predict(Last()).mask_level, predict(FakeEngine()).mask_level)


@settings(deadline=None)
@given(logit=st.floats(-30, 30, width=32))
def test_malignancy_is_the_logits_probability(logit: float) -> None:
    assert predict(FakeEngine(logit)).malignancy == float(sigmoid(np.array([logit], np.float32))[0])


@pytest.mark.parametrize(
    ("logit", "threshold", "lesion", "decision"),
    [
        (0.0, 0.5, True, "malignant"),  # at the operating point
        (0.0, float(np.nextafter(0.5, 1)), True, "benign"),
        (0.0, float(np.nextafter(0.5, 0)), True, "malignant"),
        (-2.0, 0.1, True, "malignant"),
        (2.0, 0.9, True, "benign"),
        (-9.0, 0.5, False, "normal"),
        (2.0, 0.9, False, "normal"),
        (9.0, 0.5, False, "malignant"),  # no outline is no reason to call a malignancy normal
        (0.0, 0.5, False, "malignant"),
    ],
)
def test_decision(logit: float, threshold: float, lesion: bool, decision: str) -> None:
    prediction = predict(FakeEngine(logit), threshold=threshold, lesion=lesion)
    assert prediction.mask.any() == lesion
    assert prediction.decision == decision


@pytest.mark.parametrize(("mask_logit", "level", "decision"), [(0.0, 128, "benign"), (-0.01, 127, "normal")])
def test_lesion_begins_at_even_odds(mask_logit: float, level: int, decision: str) -> None:
    prediction = predict(FixedEngine(mask_logit, -5.0))
    assert np.all(prediction.mask_level == level)
    assert prediction.mask.all() == (decision == "benign")
    assert prediction.decision == decision


@pytest.mark.parametrize(("mask", "malignancy"), [(np.nan, 0.0), (0.0, np.nan), (np.nan, np.nan)])
def test_a_network_that_answers_nan_is_an_error_and_never_a_normal_frame(mask: float, malignancy: float) -> None:
    with pytest.raises(EngineError, match="not a number"):
        predict(FixedEngine(mask, malignancy))


def test_infinite_logits_are_certain_ones() -> None:
    prediction = predict(FixedEngine(-np.inf, np.inf))
    assert prediction.malignancy == 1.0
    assert prediction.decision == "malignant"
    assert not prediction.mask.any()


def test_stages_are_timed_by_the_clock() -> None:
    ticks = chain([1_000_000, 3_000_000, 8_500_000, 9_000_000], repeat(0))
    predictor = Predictor(FakeEngine(), input_size=SIZE, threshold=0.5, clock=lambda: next(ticks))
    timing = predictor.predict(frame_with_lesion()).timing
    assert (timing.preprocess_ms, timing.infer_ms, timing.postprocess_ms) == (2.0, 5.5, 0.5)
    assert timing.total_ms == 8.0


def test_the_engine_is_closed_once_on_leaving() -> None:
    engine = FakeEngine()
    with Predictor(engine, input_size=SIZE, threshold=0.5) as predictor:
        predictor.predict(frame_with_lesion())
        assert engine.closed == 0
    assert engine.closed == 1


def test_an_engine_error_reaches_the_caller_and_the_engine_is_closed() -> None:
    engine = BrokenEngine()
    with (
        pytest.raises(EngineError, match="device lost"),
        Predictor(engine, input_size=SIZE, threshold=0.5) as predictor,
    ):
        predictor.predict(frame_with_lesion())
    assert engine.closed == 1
