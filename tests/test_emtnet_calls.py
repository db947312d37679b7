"""Calls: what is fitted to out-of-fold answers, and what an answer becomes at it."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_answers import BLANK, answers

from calibration.metrics import LESIONS, PAPER_SENSITIVITY
from calibration.operating_point import choose_presence_threshold, fit_temperature
from edge.errors import DataError
from edge.interpretation import NO_LESION
from edge.manifest import OperatingPoint
from edge.presence import Presence
from emtnet.answers import Answer
from emtnet.calls import NO_CALLS, REPORT_KEY, Calls, called, fit_calls, is_seen, read_calls, store_calls
from emtnet.engine import UNSET
from emtnet.network import EmtNet
from emtnet.recipe import Recipe
from emtnet.weights import SCHEMA, CheckpointInfo, load_checkpoint, save_checkpoint

CALLS = Calls(
    OperatingPoint(0.4, "malignant", "answers", 2.0), Presence(1.5, -0.5, 0.7, "answers"), ("a" * 64, "b" * 64)
)


def sensitivity(cases: list[Answer], calls: Calls) -> float:
    """A malignant case that is not seen is missed."""
    found = [called(case, calls).decision == "malignant" for case in cases if case.label == "malignant"]
    return float(np.mean(found))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.8, PAPER_SENSITIVITY, 1.0]), st.booleans())
def test_the_threshold_is_the_highest_that_reaches_the_sensitivity(seed: int, wanted: float, normals: bool) -> None:
    cases = answers(seed=seed, normals=normals)
    calls = fit_calls(cases, sensitivity=wanted)
    threshold = calls.operating_point.threshold
    reachable = np.mean([is_seen(case, calls.presence) for case in cases if case.label == "malignant"])
    if reachable < wanted:
        assert threshold == 0.001
    elif 0.001 < threshold < 0.999:
        assert sensitivity(cases, calls) >= wanted
        higher = replace(calls.operating_point, threshold=float(np.nextafter(threshold, 1.0)))
        assert sensitivity(cases, replace(calls, operating_point=higher)) < wanted


def test_a_malignant_case_that_is_not_seen_is_made_up_for_elsewhere() -> None:
    """Half of the malignant cases would do if all were seen; with one unseen another one has to be called."""
    malignant = [replace(BLANK, label="malignant", logit=float(level), sha256=str(level)) for level in range(1, 5)]
    cases = [*malignant, *(replace(BLANK, logit=level) for level in (-1.0, 1.5, 2.5))]
    point = fit_calls(cases, sensitivity=0.5).operating_point
    cases[3] = replace(cases[3], presence_logit=-0.1)
    lower = fit_calls(cases, sensitivity=0.5).operating_point
    assert point.temperature == lower.temperature
    assert point.threshold == pytest.approx(1 / (1 + math.exp(-3 / point.temperature)))
    assert lower.threshold == pytest.approx(1 / (1 + math.exp(-2 / point.temperature)))


def test_the_temperature_is_that_of_the_lesions() -> None:
    cases = answers()
    lesions = [case for case in cases if case.label in LESIONS]
    logits = np.array([case.logit for case in lesions])
    calls = fit_calls(cases)
    wanted = fit_temperature(logits, np.array([case.label == "malignant" for case in lesions]))
    assert calls.operating_point.temperature == wanted
    hotter = fit_calls([replace(case, logit=3.0 * case.logit) for case in cases]).operating_point
    assert hotter.temperature == pytest.approx(3.0 * wanted, rel=1e-3)
    assert hotter.threshold == pytest.approx(calls.operating_point.threshold, abs=1e-4)


def test_presence_divides_lesions_from_normals() -> None:
    cases = answers(each=120)
    presence = fit_calls(cases).presence
    assert presence is not None
    seen = {label: np.mean([is_seen(c, presence) for c in cases if c.label == label]) for label in ("benign", "normal")}
    assert seen["normal"] < 0.6 < seen["benign"]
    found = {
        lesion: np.array([presence.probability(c.presence_logit) for c in cases if (c.label in LESIONS) == lesion])
        for lesion in (True, False)
    }
    assert presence.threshold == pytest.approx(choose_presence_threshold(found[True], found[False]))


def test_without_normal_cases_a_mask_that_reaches_one_half_is_a_lesion() -> None:
    calls = fit_calls(answers(normals=False))
    assert calls.presence is None
    assert is_seen(replace(BLANK, presence_logit=0.0), None)
    assert not is_seen(replace(BLANK, presence_logit=-0.001), None)
    assert called(BLANK, calls).presence is None


def test_it_says_what_it_was_fitted_on() -> None:
    cases = answers()
    calls = fit_calls(cases)
    assert calls.fitted_on == tuple(case.sha256 for case in cases)
    assert calls.operating_point.positive == "malignant"
    assert calls.operating_point.chosen_on == "72 out-of-fold answers, for a sensitivity of 94.1%"
    assert calls.presence is not None
    assert calls.presence.chosen_on == "72 out-of-fold answers, 12 of them without a lesion"


def test_one_class_alone_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_calls([case for case in answers() if case.label != "malignant"])


def at(logit: float, *, presence_logit: float = 5.0, **change: Any) -> Answer:
    return replace(BLANK, logit=logit, presence_logit=presence_logit, **change)


@pytest.mark.parametrize(("logit", "decision"), [(-0.9, "benign"), (-0.7, "malignant"), (4.0, "malignant")])
def test_a_lesion_is_called_by_its_tempered_probability(logit: float, decision: str) -> None:
    """logit(0.4) is −0.405, times the temperature −0.811."""
    result = called(at(logit), CALLS)
    assert result.decision == decision
    assert result.probability == pytest.approx(1 / (1 + math.exp(-logit / 2)))
    assert (result.dice, result.iou, result.hd95, result.lesion_share) == (0.8, 0.7, 5.0, 0.1)
    assert (result.image, result.label) == ("x.png", "benign")


def test_at_the_threshold_itself_a_lesion_is_malignant() -> None:
    probability = called(at(0.3), CALLS).probability
    assert probability is not None
    exact = replace(CALLS, operating_point=replace(CALLS.operating_point, threshold=probability))
    assert called(at(0.3), exact).decision == "malignant"


def test_what_is_not_seen_is_no_lesion_and_has_no_mask() -> None:
    """The mask that the network drew counts as not drawn, however sure the class is."""
    result = called(at(9.0, presence_logit=0.0), CALLS)
    assert result.decision == NO_LESION
    assert (result.dice, result.iou, result.hd95, result.lesion_share) == (0.0, 0.0, None, 0.0)
    assert result.presence == pytest.approx(1 / (1 + math.exp(0.5)))
    assert result.probability is not None


@pytest.mark.parametrize("presence_logit", [0.0, 5.0])
def test_where_nobody_drew_a_mask_there_is_no_overlap(presence_logit: float) -> None:
    undrawn = at(1.0, presence_logit=presence_logit, label="normal", dice=None, iou=None, hd95=None)
    result = called(undrawn, CALLS)
    assert (result.dice, result.iou, result.hd95) == (None, None, None)
    assert result.lesion_share == (0.1 if presence_logit else 0.0)


def test_no_calls_are_one_half_each() -> None:
    assert called(at(0.1, presence_logit=0.1), NO_CALLS).decision == "malignant"
    assert called(at(-0.1), NO_CALLS).decision == "benign"
    assert called(at(5.0, presence_logit=-0.1), NO_CALLS).decision == NO_LESION


def test_extreme_logits_have_probabilities() -> None:
    assert called(at(1e4), CALLS).probability == 1.0
    assert called(at(-1e4), CALLS).probability == 0.0


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "emtnet-s.safetensors"
    info = CheckpointInfo(SCHEMA, "emtnet-s", True, UNSET, None, ("c" * 64,), ("a" * 64,), (), {"x": 1}, {}, {})
    torch.manual_seed(0)
    save_checkpoint(path, EmtNet("emtnet-s"), info)
    return path


@pytest.mark.parametrize("calls", [CALLS, replace(CALLS, presence=None)])
def test_calls_are_stored_and_the_weights_stay(checkpoint: Path, calls: Calls) -> None:
    network, before = load_checkpoint(checkpoint)
    store_calls(checkpoint, calls)
    again, info = load_checkpoint(checkpoint)
    tuned_on = ("a" * 64, "b" * 64)
    point = calls.operating_point
    assert info == replace(before, operating_point=point, presence=calls.presence, tuned_on=tuned_on)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


def test_calls_that_are_there_are_not_written_again(checkpoint: Path) -> None:
    store_calls(checkpoint, CALLS)
    written = checkpoint.stat().st_mtime_ns
    store_calls(checkpoint, CALLS)
    assert checkpoint.stat().st_mtime_ns == written


RECIPE = Recipe()
OF_EMTNET = {"recipe": asdict(RECIPE)}


def write(path: Path, record: object) -> Path:
    path.write_text(record if isinstance(record, str) else json.dumps(record))
    return path


@pytest.mark.parametrize("calls", [CALLS, replace(CALLS, presence=None), NO_CALLS, fit_calls(answers())])
def test_a_report_gives_back_its_calls(tmp_path: Path, calls: Calls) -> None:
    record = {"other": 1, REPORT_KEY: calls.to_json()} | OF_EMTNET
    path = write(tmp_path / "report.json", record)
    assert read_calls(path, RECIPE) == calls
    assert read_calls(path, replace(RECIPE, seed=7)) == calls
    with pytest.raises(
        DataError, match=r"report\.json: is the report of another recipe \(balance, network\); name that"
    ):
        read_calls(path, replace(RECIPE, network="emtnet-s", balance=0.9))


POINT = CALLS.to_json()["operating_point"]


@pytest.mark.parametrize(
    "record",
    [
        "",
        "{",
        [],
        {},
        {REPORT_KEY: None},
        {REPORT_KEY: {}},
        {REPORT_KEY: {"operating_point": POINT, "presence": None}},
        {REPORT_KEY: {"operating_point": POINT, "presence": None, "fitted_on": None}},
        {REPORT_KEY: CALLS.to_json() | {"operating_point": None}},
        {REPORT_KEY: CALLS.to_json() | {"operating_point": POINT | {"surprise": 1}}},
        {REPORT_KEY: CALLS.to_json() | {"operating_point": POINT | {"threshold": 1.0}}},
        {REPORT_KEY: CALLS.to_json() | {"operating_point": POINT | {"threshold": "0.5"}}},
        {REPORT_KEY: CALLS.to_json() | {"presence": {"scale": 1.0}}},
    ],
)
def test_anything_else_is_no_report(tmp_path: Path, record: object) -> None:
    if isinstance(record, dict):
        record = record | OF_EMTNET
    with pytest.raises(DataError, match=r"report\.json: not the report of a cross-validation with --runs folds"):
        read_calls(write(tmp_path / "report.json", record), RECIPE)


def test_a_missing_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: not the report"):
        read_calls(tmp_path / "none.json", RECIPE)
