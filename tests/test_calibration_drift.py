"""Drift, the arithmetic: flips, limits, frames that may not be used."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import Dataset, Label
from calibration.drift import Limits, count_flips, exceeded, require_unused
from calibration.metrics import CaseResult
from edge.errors import DataError

NO_FLIPS = {"malignant_to_benign": 0, "benign_to_malignant": 0}


CALLS = {"m": "malignant", "b": "benign", "-": "no lesion"}


def results(calls: str, *, label: Label = "malignant", probability: float | None = 0.5) -> list[CaseResult]:
    """A case for each letter: called malignant, benign, or no lesion."""
    return [
        CaseResult("x.png", label, probability, None, None, 0.0, None, None, decision=CALLS[call]) for call in calls
    ]


def test_flips_are_losses_of_a_right_call_by_true_class() -> None:
    """A tumour that is no longer found is lost too; corrected mistakes and normals are no flips."""
    reference = results("mmmbm-m") + results("bbbm-", label="benign") + results("-b", label="normal")
    target = results("bm-mm-m") + results("mb-bm", label="benign") + results("mm", label="normal")
    assert count_flips(reference, target) == {"malignant_to_benign": 2, "benign_to_malignant": 2}


def test_the_same_answers_flip_nothing() -> None:
    same = results("mb-") + results("mb-", label="benign")
    assert count_flips(same, same) == NO_FLIPS


def test_decisions_are_compared_and_not_probabilities() -> None:
    """Each network has a threshold of its own."""
    before, after = results("m", probability=0.5), results("m", probability=0.4)
    assert count_flips(before, after) == NO_FLIPS
    assert count_flips(before, results("b", probability=0.5))["malignant_to_benign"] == 1


def test_networks_without_a_class_flip_nothing() -> None:
    found, lost = ([replace(results("m")[0], probability=None, decision=call)] for call in ("lesion", "no lesion"))
    assert count_flips(found, lost) == count_flips(lost, found) == NO_FLIPS
    assert exceeded({}, {}, malignant=10, limits=Limits()) == []


def test_flips_of_unequal_lists_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        count_flips(results("mm"), results("m"))


def test_losses_right_at_their_limits_pass() -> None:
    delta = {"dice_mean": 0.795 - 0.8, "sensitivity": 0.93 - 0.94, "auc": 0.9 - 0.905}
    assert exceeded(delta, NO_FLIPS | {"malignant_to_benign": 1}, malignant=100, limits=Limits()) == []


@pytest.mark.parametrize(("key", "name"), [("dice_mean", "Dice"), ("sensitivity", "sensitivity"), ("auc", "AUC")])
def test_a_loss_beyond_its_limit_is_named_alone(key: str, name: str) -> None:
    delta = {"dice_mean": 0.0, "sensitivity": 0.0, "auc": 0.0} | {key: -0.0101}
    reasons = exceeded(delta, NO_FLIPS, malignant=100, limits=Limits())
    assert len(reasons) == 1
    assert reasons[0].startswith(f"{name} -0.0101 is beyond −")


def test_too_many_flips_are_named_with_their_share() -> None:
    flips = {"malignant_to_benign": 2, "benign_to_malignant": 50}
    assert exceeded({}, flips, malignant=100, limits=Limits()) == [
        "2 of 100 malignant cases turned benign (2.0%, more than 1.0%)"
    ]


def test_gains_pass_and_figures_without_a_limit_are_ignored() -> None:
    delta = {"dice_mean": 0.1, "sensitivity": 0.2, "auc": 0.3, "specificity": -0.5, "accuracy": -0.4}
    assert exceeded(delta, NO_FLIPS, malignant=0, limits=Limits()) == []


@given(st.sampled_from(["dice", "sensitivity", "auc"]), st.integers(0, 100), st.integers(1, 100))
def test_a_limit_divides_passing_from_failing(name: str, limit: int, beyond: int) -> None:
    limits = replace(Limits(), **{name: limit / 1000})
    key = "dice_mean" if name == "dice" else name
    assert exceeded({key: -limit / 1000}, NO_FLIPS, malignant=10, limits=limits) == []
    assert len(exceeded({key: -(limit + beyond) / 1000}, NO_FLIPS, malignant=10, limits=limits)) == 1


@pytest.mark.parametrize("name", ["dice", "sensitivity", "auc", "malignant_to_benign"])
@pytest.mark.parametrize("value", [-0.001, float("nan")])
def test_a_limit_that_is_no_magnitude_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match="magnitudes"):
        Limits(**{name: value})
    Limits(**{name: 0.0})


def test_frames_that_were_used_are_refused_and_counted_by_use(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    first, second, third, _ = dataset.fingerprints()
    forbidden = {first: "trained on", second: "calibrated on", third: "trained on", "0" * 64: "tuned on"}
    with pytest.raises(DataError, match=r"3 of 4 frames were used before \(1 calibrated on, 2 trained on\)"):
        require_unused(dataset, forbidden, allow=False)
    assert require_unused(dataset, forbidden, allow=True) == 3


def test_unused_frames_pass(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    elsewhere = dict.fromkeys(Dataset.open([small_dataset], folds=(2,)).fingerprints(), "trained on")
    assert require_unused(dataset, elsewhere, allow=False) == 0
    assert require_unused(dataset, {}, allow=False) == 0
