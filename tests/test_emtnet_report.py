"""The report: no case is judged at an operating point that its own fold had a say in."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from synthetic_answers import answers, by_fold, dataset, fold_runs

from calibration.metrics import LESIONS, CaseResult
from calibration.reliability import expected_calibration_error
from edge.interpretation import NO_LESION
from emtnet.answers import Answer
from emtnet.calls import NO_CALLS, Calls, called, fit_calls
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.report import POOLED, ValidationReport, summarise_validation

RECIPE = Recipe(network="emtnet-s")
ANSWERS = answers(sources=("New", "Old"), each=12)


def left_out(source: str, answers: Sequence[Answer]) -> Run:
    """The run that tried a data set by networks of the other one."""
    parts = [dataset([a for a in answers if (a.source == source) == held]) for held in (False, True)]
    return Run("sources", f"source-{source.lower()}", source, parts[0], parts[1])


def judged_at(
    answers: Mapping[str, Sequence[Answer]], runs: Sequence[Run], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Calls]:
    """The calls that each answer was judged at, by its fingerprint."""
    used: dict[str, Calls] = {}

    def noted(answer: Answer, calls: Calls) -> CaseResult:
        used[answer.sha256] = calls
        return called(answer, calls)

    monkeypatch.setattr("emtnet.report.called", noted)
    summarise_validation(runs, answers, RECIPE)
    return used


def test_a_fold_is_judged_at_what_the_others_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    folds = by_fold(ANSWERS)
    used = judged_at(folds, fold_runs(ANSWERS), monkeypatch)
    assert used.keys() == {answer.sha256 for answer in ANSWERS}
    for name, part in folds.items():
        others = [answer for other, each in folds.items() if other != name for answer in each]
        for answer in part:
            assert used[answer.sha256] == fit_calls(others)
            assert answer.sha256 not in used[answer.sha256].fitted_on


def test_the_report_tells_each_folds_calls(report: ValidationReport) -> None:
    folds = by_fold(ANSWERS)
    assert report.fold_calls.keys() == folds.keys()
    for name, calls in report.fold_calls.items():
        assert calls == fit_calls([answer for other, each in folds.items() if other != name for answer in each])


def test_a_folds_own_answers_move_the_others_calls_and_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folds, runs = by_fold(ANSWERS), fold_runs(ANSWERS)
    before = judged_at(folds, runs, monkeypatch)
    shifted = [replace(a, logit=a.logit + 5.0, presence_logit=a.presence_logit - 3.0) for a in folds["fold-2"]]
    after = judged_at(folds | {"fold-2": shifted}, runs, monkeypatch)
    for name, part in folds.items():
        for answer in part:
            assert (before[answer.sha256] == after[answer.sha256]) == (name == "fold-2")


@pytest.fixture(scope="module")
def report() -> ValidationReport:
    return summarise_validation(fold_runs(ANSWERS), by_fold(ANSWERS), RECIPE)


def test_the_folds_have_a_row_for_all_cases_and_for_each_source(report: ValidationReport) -> None:
    assert [(row.kind, row.cases, row.lesions, row.normals) for row in report.rows] == [
        ("folds", POOLED, 60, 12),
        ("folds", "New", 30, 6),
        ("folds", "Old", 30, 6),
    ]
    assert [row.metrics.n for row in report.rows] == [72, 36, 36]
    for row in report.rows:
        figures = row.metrics.to_json()
        assert {"auc", "sensitivity", "dice_mean", "hd95_mean", "lesions_missed_rate"} <= row.intervals.keys()
        for name, (low, high) in row.intervals.items():
            value = figures[name]
            assert value is not None
            assert low <= value <= high


def test_the_pooled_figures_are_those_of_every_case_at_its_calls(report: ValidationReport) -> None:
    folds = by_fold(ANSWERS)
    results = []
    for name, part in folds.items():
        calls = fit_calls([answer for other, each in folds.items() if other != name for answer in each])
        results += [called(answer, calls) for answer in part]
    malignant = [result for result in results if result.label == "malignant"]
    lesions = [result for result in results if result.label in LESIONS]
    metrics = report.rows[0].metrics
    assert metrics.sensitivity == pytest.approx(sum(r.decision == "malignant" for r in malignant) / len(malignant))
    assert metrics.lesions_missed_rate == pytest.approx(sum(r.decision == NO_LESION for r in lesions) / len(lesions))
    assert metrics.dice_mean == pytest.approx(sum(r.dice or 0.0 for r in lesions) / len(lesions))
    assert 0.7 < (metrics.auc or 0.0) < 1.0


def test_intervals_are_drawn_by_patient(report: ValidationReport) -> None:
    """As if every case were a patient of its own, they would be other ones."""
    alone = [replace(answer, group=answer.sha256) for answer in ANSWERS]
    other = summarise_validation(fold_runs(alone), by_fold(alone), RECIPE)
    assert other.rows[0].metrics == report.rows[0].metrics
    assert other.rows[0].intervals["auc"] != report.rows[0].intervals["auc"]


def test_the_calls_to_keep_are_fitted_to_all_folds(report: ValidationReport) -> None:
    assert report.calls == fit_calls([answer for part in by_fold(ANSWERS).values() for answer in part])


def test_calibration_is_that_of_held_out_lesions_before_and_after(report: ValidationReport) -> None:
    lesions = [answer for answer in ANSWERS if answer.label in LESIONS]
    malignant = np.array([answer.label == "malignant" for answer in lesions])
    raw = 1.0 / (1.0 + np.exp(-np.array([answer.logit for answer in lesions])))
    assert report.uncalibrated is not None
    assert report.calibrated is not None
    assert report.uncalibrated.error == pytest.approx(expected_calibration_error(raw, malignant))
    assert report.uncalibrated.count.sum() == report.calibrated.count.sum() == 60
    assert report.calibrated.error < report.uncalibrated.error, "the logits were made twice too sure"


def test_a_source_is_judged_at_what_the_other_sources_folds_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_out("New", ANSWERS)
    tried = [replace(answer, sha256=f"tried {answer.sha256}") for answer in ANSWERS if answer.source == "New"]
    used = judged_at(by_fold(ANSWERS) | {run.name: tried}, [*fold_runs(ANSWERS), run], monkeypatch)
    known = [answer for part in by_fold(ANSWERS).values() for answer in part if answer.source == "Old"]
    for answer in tried:
        assert used[answer.sha256] == fit_calls(known)


def test_rows_of_every_kind_stand_in_the_order_of_the_runs() -> None:
    runs = [*fold_runs(ANSWERS), left_out("New", ANSWERS), left_out("Old", ANSWERS)]
    tried = {f"source-{name.lower()}": [a for a in ANSWERS if a.source == name] for name in ("New", "Old")}
    report = summarise_validation(runs, by_fold(ANSWERS) | tried, RECIPE)
    kinds = [(row.kind, row.cases) for row in report.rows]
    assert kinds == [("folds", POOLED), ("folds", "New"), ("folds", "Old"), ("sources", "New"), ("sources", "Old")]
    assert report.runs == tuple(run.name for run in runs)


def test_without_folds_nothing_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    run = left_out("New", ANSWERS)
    tried = {run.name: [answer for answer in ANSWERS if answer.source == "New"]}
    assert set(judged_at(tried, [run], monkeypatch).values()) == {NO_CALLS}
    report = summarise_validation([run], tried, RECIPE)
    assert [(row.kind, row.cases) for row in report.rows] == [("sources", "New")]
    assert (report.calls, report.fold_calls, report.uncalibrated, report.calibrated) == (None, {}, None, None)
    record = report.to_json()
    assert record["calls"] is None
    assert record["expected_calibration_error"] == {"before": None, "after": None}


def test_without_normal_cases_there_are_no_false_alarms() -> None:
    lesions = answers(normals=False, each=12)
    report = summarise_validation(fold_runs(lesions), by_fold(lesions), RECIPE)
    assert report.rows[0].normals == 0
    assert report.rows[0].metrics.normal_false_alarm_rate is None
    assert report.calls is not None
    assert report.calls.presence is None


def test_the_json_holds_every_figure(report: ValidationReport) -> None:
    record = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert record.keys() == {"recipe", "runs", "figures", "expected_calibration_error", "calls", "versions"}
    assert record["recipe"]["network"] == "emtnet-s"
    assert record["runs"] == ["fold-1", "fold-2", "fold-3"]
    for figures, row in zip(record["figures"], report.rows, strict=True):
        assert figures["metrics"] == row.metrics.to_json()
        assert figures["intervals"] == {name: list(bounds) for name, bounds in row.intervals.items()}
        assert (figures["kind"], figures["cases"], figures["lesions"]) == (row.kind, row.cases, row.lesions)
