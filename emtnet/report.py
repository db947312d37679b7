"""What a validation found, with intervals, as one JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from calibration.bootstrap import Interval, metric_intervals
from calibration.metrics import LESIONS, MALIGNANT, CaseResult, Metrics, summarise
from calibration.reliability import Reliability, reliability_bins
from edge.preprocess import sigmoid
from edge.versions import versions
from emtnet.answers import Answer
from emtnet.calls import NO_CALLS, REPORT_KEY, Calls, called, fit_calls
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.train import PACKAGES

POOLED = "all"


@dataclass(frozen=True, slots=True)
class Row:
    """Figures of one set of held-out cases. intervals: 95 %, by the metric's public name."""

    kind: str
    cases: str
    lesions: int
    normals: int
    metrics: Metrics
    intervals: dict[str, Interval]


@dataclass(frozen=True, slots=True, eq=False)
class ValidationReport:
    """Figures by kind of run.

    calls: the operating point that all folds' answers ask for; fold_calls: what those on the other folds ask for, by the name of
    the run. uncalibrated, calibrated: reliability over the folds at fold_calls. None and empty where the folds were not run.
    """

    recipe: Recipe
    rows: tuple[Row, ...]
    calls: Calls | None
    fold_calls: dict[str, Calls]
    uncalibrated: Reliability | None
    calibrated: Reliability | None
    runs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "recipe": asdict(self.recipe),
            "runs": list(self.runs),
            "figures": [
                {
                    "kind": row.kind,
                    "cases": row.cases,
                    "lesions": row.lesions,
                    "normals": row.normals,
                    "metrics": row.metrics.to_json(),
                    "intervals": {name: list(bounds) for name, bounds in row.intervals.items()},
                }
                for row in self.rows
            ],
            "expected_calibration_error": {
                "before": self.uncalibrated.error if self.uncalibrated else None,
                "after": self.calibrated.error if self.calibrated else None,
            },
            REPORT_KEY: self.calls.to_json() if self.calls else None,
            "versions": versions(PACKAGES),
        }


def summarise_validation(
    runs: Sequence[Run], answers: Mapping[str, Sequence[Answer]], recipe: Recipe
) -> ValidationReport:
    """Sum up the answers of `emtnet.validation.validate`.

    folds: the operating point of each fold is fitted to the answers on the other folds; figures are over all folds, for each
    source and for all cases. sources, scanners: at the operating point that the folds' answers on the same training cases ask
    for. Those answers are of networks that have seen the data left out here, so calls there are not quite blind; AUC, Dice and
    distances do not depend on them. Where the folds were not run, or had no normal case, the mask's top at one half is a lesion,
    and 0.5 is malignant where nothing was fitted. Intervals are drawn by patient.
    """
    folds = {run.name: answers[run.name] for run in runs if run.kind == "folds"}
    every = [answer for part in folds.values() for answer in part]
    rows, before, after = [], None, None
    fold_calls = {
        name: fit_calls([answer for other, part in folds.items() if other != name for answer in part]) for name in folds
    }
    if folds:
        judged = [(answer, called(answer, fold_calls[name])) for name, part in folds.items() for answer in part]
        for source in (POOLED, *sorted({answer.source for answer in every})):
            own = [pair for pair in judged if source in (POOLED, pair[0].source)]
            rows.append(_row("folds", source, own))
        lesions = [(answer, result) for answer, result in judged if answer.label in LESIONS]
        malignant = np.array([answer.label == MALIGNANT for answer, _ in lesions], np.bool_)
        raw = np.array([answer.logit for answer, _ in lesions], np.float64)
        before = reliability_bins(sigmoid(raw), malignant)
        after = reliability_bins(np.array([result.probability for _, result in lesions], np.float64), malignant)
    for run in runs:
        if run.kind != "folds":
            trained = {(case.source, case.name) for case in run.training}
            known = [answer for answer in every if (answer.source, answer.image) in trained]
            fitted = fit_calls(known) if known else NO_CALLS
            rows.append(
                _row(run.kind, run.held_out, [(answer, called(answer, fitted)) for answer in answers[run.name]])
            )
    calls = fit_calls(every) if folds else None
    names = tuple(run.name for run in runs)
    return ValidationReport(recipe, tuple(rows), calls, fold_calls, before, after, names)


def _row(kind: str, cases: str, judged: Sequence[tuple[Answer, CaseResult]]) -> Row:
    results = [result for _, result in judged]
    groups = [answer.group for answer, _ in judged]
    # The calls are made already, each at its own operating point, so there is no one threshold to tell.
    metrics = replace(summarise(results, threshold=0.5), threshold=None)
    return Row(
        kind,
        cases,
        sum(result.label in LESIONS for result in results),
        sum(result.label == "normal" for result in results),
        metrics,
        metric_intervals(results, groups, threshold=0.5),
    )
