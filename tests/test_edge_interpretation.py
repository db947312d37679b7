"""From outputs to probabilities and a call, for networks that are not ours."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import EngineError
from edge.interpretation import Interpretation, Outputs
from edge.manifest import Activation, OutputSpec
from edge.presence import Presence, presence_logit

LABELS = ("normal", "benign", "malignant")
PRESENCE = Presence(2.0, 0.5, 0.4, "nothing")


def of(
    *,
    mask: OutputSpec | None = None,
    classes: OutputSpec | None = None,
    labels: tuple[str, ...] = (),
    positive: str = "malignant",
) -> Interpretation:
    point = (positive, 0.5) if classes else (None, None)
    return Interpretation((8, 8), "stretch", mask, classes, labels, *point)


def mask_spec(channels: int, activation: Activation) -> OutputSpec:
    return OutputSpec("mask", "mask", activation, (1, channels, 2, 3))


def class_spec(values: int, activation: Activation) -> OutputSpec:
    return OutputSpec("scores", "class", activation, (1, values))


def given_mask(*channels: Any) -> Outputs:
    """A mask with one value in each channel, everywhere the same."""
    return {"mask": np.stack([np.full((2, 3), value, np.float32) for value in channels])[None]}


def given_scores(*values: float) -> Outputs:
    return {"scores": np.array([values], np.float32)}


# Masks


@pytest.mark.parametrize(
    ("activation", "channels", "expected"),
    [
        ("sigmoid", (2.0,), 1 / (1 + np.exp(-2.0))),
        ("none", (0.25,), 0.25),
        ("softmax", (1.0, 2.0), np.e / (1 + np.e)),
        ("softmax", (1.0, 2.0, 2.0), 2 * np.e / (1 + 2 * np.e)),
        ("sigmoid", (2.0, 7.0), 1 - 1 / (1 + np.exp(-2.0))),
        ("none", (0.7, 0.2, 0.1), 0.3),
    ],
)
def test_lesion_is_the_one_channel_or_all_but_the_background(
    activation: Activation, channels: tuple[float, ...], expected: float
) -> None:
    found = of(mask=mask_spec(len(channels), activation)).lesion_probability(given_mask(*channels))
    assert found is not None
    assert found.shape == (2, 3)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.full((2, 3), expected), abs=1e-6)


def test_a_mask_keeps_its_pixels_in_place() -> None:
    logits = np.zeros((1, 2, 2, 3), np.float32)
    logits[0, 1, 1, 2] = 20.0
    found = of(mask=mask_spec(2, "softmax")).lesion_probability({"mask": logits})
    assert found is not None
    assert np.argwhere(found > 0.9).tolist() == [[1, 2]]
    assert found[0, 0] == pytest.approx(0.5)


def test_what_is_not_there_is_not_read() -> None:
    assert of(mask=mask_spec(1, "sigmoid")).label_probabilities(given_mask(0.0)) == {}
    assert of(classes=class_spec(3, "softmax"), labels=LABELS).lesion_probability(given_scores(0, 0, 0)) is None


# Classes


@pytest.mark.parametrize(
    ("activation", "scores", "expected"),
    [
        ("softmax", (0.0, 1.0, 2.0), np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()),
        ("sigmoid", (0.0, 100.0, -100.0), (0.5, 1.0, 0.0)),
        ("none", (0.2, 0.3, 0.5), (0.2, 0.3, 0.5)),
    ],
)
def test_every_label_gets_its_value(activation: Activation, scores: tuple[float, ...], expected: Any) -> None:
    found = of(classes=class_spec(3, activation), labels=LABELS).label_probabilities(given_scores(*scores))
    assert tuple(found) == LABELS
    assert list(found.values()) == pytest.approx(list(expected), abs=1e-6)


@pytest.mark.parametrize("positive", ["benign", "malignant"])
def test_one_value_is_that_of_the_second_label(positive: str) -> None:
    how = of(classes=class_spec(1, "none"), labels=("benign", "malignant"), positive=positive)
    found = how.label_probabilities(given_scores(0.75))
    assert found == {"benign": 0.25, "malignant": 0.75}
    assert how.decide(found, presence=None, outlined=False) == "malignant"


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3))
def test_softmax_neither_overflows_nor_loses_its_sum(scores: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = of(classes=class_spec(3, "softmax"), labels=LABELS).label_probabilities(given_scores(*scores))
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-5)
    wide = np.clip(np.array(scores, np.float32).astype(np.float64), -1e30, 1e30)
    powers = np.exp(wide - wide.max())
    assert list(found.values()) == pytest.approx(list(powers / powers.sum()), abs=1e-5)


def test_an_infinite_logit_is_certain() -> None:
    how = of(classes=class_spec(3, "softmax"), labels=LABELS)
    assert list(how.label_probabilities(given_scores(0.0, np.inf, -np.inf)).values()) == [0.0, 1.0, 0.0]


# Calls


@pytest.mark.parametrize(
    ("probabilities", "decision"),
    [
        ((0.1, 0.4, 0.5), "malignant"),  # at the threshold
        ((0.1, 0.41, 0.49), "benign"),
        ((0.6, 0.2, 0.2), "normal"),
        ((0.95, 0.97, 0.96), "malignant"),  # labels of their own: positive goes first
        ((0.3, 0.3, 0.4), "normal"),  # a tie goes to the earlier label
    ],
)
@pytest.mark.parametrize("with_mask", [True, False])
def test_a_call_among_many_labels_does_not_ask_the_mask(
    probabilities: tuple[float, ...], decision: str, with_mask: bool
) -> None:
    mask = mask_spec(1, "sigmoid") if with_mask else None
    how = of(mask=mask, classes=class_spec(3, "sigmoid"), labels=LABELS)
    if mask is not None:
        how = replace(how, presence=PRESENCE)
    for outlined in (True, False):
        for presence in (None, 0.0, 1.0):
            found = how.decide(dict(zip(LABELS, probabilities, strict=True)), presence=presence, outlined=outlined)
            assert found == decision


@pytest.mark.parametrize("solid", [0.3, 0.7])
@pytest.mark.parametrize("outlined", [True, False])
def test_two_values_are_two_labels_that_ask_the_mask_first(solid: float, outlined: bool) -> None:
    """No lesion has no class, however sure the class is."""
    how = of(mask=mask_spec(1, "sigmoid"), classes=class_spec(2, "softmax"), labels=("cyst", "solid"), positive="solid")
    wanted = "no lesion" if not outlined else "solid" if solid == 0.7 else "cyst"
    assert how.decide({"cyst": 1 - solid, "solid": solid}, presence=None, outlined=outlined) == wanted


@pytest.mark.parametrize(
    ("presence", "lesion"), [(0.39, False), (float(np.nextafter(0.4, 0)), False), (0.4, True), (0.9, True)]
)
@pytest.mark.parametrize("outlined", [True, False])
def test_presence_decides_in_the_place_of_the_outline(presence: float, lesion: bool, outlined: bool) -> None:
    how = of(mask=mask_spec(1, "sigmoid"), classes=class_spec(1, "sigmoid"), labels=("benign", "malignant"))
    how = replace(how, presence=PRESENCE)
    for malignancy, answer in ((0.9, "malignant"), (0.1, "benign")):
        probabilities = {"benign": 1 - malignancy, "malignant": malignancy}
        found = how.decide(probabilities, presence=presence, outlined=outlined)
        assert found == (answer if lesion else "no lesion")
    alone = replace(of(mask=mask_spec(1, "sigmoid")), presence=PRESENCE)
    assert alone.decide({}, presence=presence, outlined=outlined) == ("lesion" if lesion else "no lesion")


def test_a_network_without_a_mask_always_calls_a_label() -> None:
    how = of(classes=class_spec(1, "sigmoid"), labels=("benign", "malignant"))
    assert how.decide({"benign": 0.9, "malignant": 0.1}, presence=None, outlined=False) == "benign"


def test_presence_is_read_from_the_mask() -> None:
    how = replace(of(mask=mask_spec(2, "softmax")), presence=PRESENCE)
    mask = how.lesion_probability(given_mask(0.0, 1.0))
    assert mask is not None
    assert how.lesion_presence(mask) == pytest.approx(1 / (1 + np.exp(-(2.0 * presence_logit(mask) + 0.5))))
    assert how.lesion_presence(mask) == pytest.approx(1 / (1 + np.exp(-2.5)), abs=1e-6)
    assert replace(how, presence=None).lesion_presence(mask) is None


# Temperature


@pytest.mark.parametrize(
    ("activation", "scores", "expected"),
    [
        ("sigmoid", (0.0, 2.0, -1.0), 1 / (1 + np.exp(-np.array([0.0, 1.0, -0.5])))),
        ("softmax", (0.0, 2.0, 4.0), np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()),
    ],
)
def test_class_logits_are_divided_by_the_temperature(
    activation: Activation, scores: tuple[float, ...], expected: Any
) -> None:
    how = replace(of(classes=class_spec(3, activation), labels=LABELS), temperature=2.0)
    assert list(how.label_probabilities(given_scores(*scores)).values()) == pytest.approx(list(expected), abs=1e-6)


def test_mask_logits_are_not_divided_by_it() -> None:
    how = of(mask=mask_spec(1, "sigmoid"), classes=class_spec(3, "softmax"), labels=LABELS)
    one, other = (item.lesion_probability(given_mask(2.0)) for item in (how, replace(how, temperature=2.0)))
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


# Refusals


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
@pytest.mark.parametrize("place", [0, 2])
def test_not_a_number_is_an_error_wherever_it_stands(activation: Activation, place: int) -> None:
    scores = [0.1, 0.2, 0.3]
    scores[place] = np.nan
    with pytest.raises(EngineError, match="output 'scores' is not a number"):
        of(classes=class_spec(3, activation), labels=LABELS).label_probabilities(given_scores(*scores))
    with pytest.raises(EngineError, match="output 'mask' is not a number"):
        of(mask=mask_spec(3, activation)).lesion_probability(given_mask(*scores))


@pytest.mark.parametrize("value", [-0.2, 1.2, 14.0, np.inf, -np.inf])
def test_logits_that_pass_for_probabilities_are_an_error(value: float) -> None:
    """An uint8 mask made of them would be noise."""
    with pytest.raises(
        EngineError, match=r"output 'mask' holds .* no probabilities; export again and say which activation"
    ):
        of(mask=mask_spec(1, "none")).lesion_probability(given_mask(value))


@pytest.mark.parametrize(("value", "probability"), [(-0.004, 0.0), (1.004, 1.0)])
def test_a_probability_that_int8_rounded_over_the_edge_is_brought_back(value: float, probability: float) -> None:
    found = of(mask=mask_spec(1, "none")).lesion_probability(given_mask(value))
    assert found is not None
    assert np.all(found == probability)


def test_an_output_that_is_missing_or_of_another_shape_is_an_error() -> None:
    how = of(mask=mask_spec(1, "sigmoid"))
    with pytest.raises(EngineError, match="output 'mask' is missing: not the network"):
        how.lesion_probability({"masks": np.zeros((1, 1, 2, 3), np.float32)})
    with pytest.raises(EngineError, match=r"output 'mask' has shape \(1, 1, 3, 2\), not \(1, 1, 2, 3\)"):
        how.lesion_probability({"mask": np.zeros((1, 1, 3, 2), np.float32)})


def test_a_reading_of_nothing_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="needs a mask or a class output"):
        of()
    with pytest.raises(ValueError, match="operating point needs a class output"):
        replace(of(mask=mask_spec(1, "sigmoid")), threshold=0.5)
    with pytest.raises(ValueError, match="presence needs a mask output"):
        replace(of(classes=class_spec(3, "softmax"), labels=LABELS), presence=PRESENCE)
    for without_logits in (of(classes=class_spec(3, "none"), labels=LABELS), of(mask=mask_spec(1, "sigmoid"))):
        assert replace(without_logits, temperature=1.0) == without_logits
        with pytest.raises(ValueError, match=r"temperature of 1.5 needs a class output of logits"):
            replace(without_logits, temperature=1.5)
