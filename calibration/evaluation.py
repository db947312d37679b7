"""A predictor over a data set: per-case results and the summary."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.dataset import Case, Dataset, Sample
from calibration.metrics import CaseResult, Metrics, hausdorff_95, overlap, summarise
from edge.predictor import Prediction, Predictor

Progress = Callable[[Iterable[Case]], Iterable[Case]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of one network on one data set."""

    results: tuple[CaseResult, ...]
    metrics: Metrics

    def to_json(self) -> dict[str, Any]:
        """The figures, and `cases` with the fields of `calibration.metrics.CaseResult`."""
        return {**self.metrics.to_json(), "cases": [case_json(result) for result in self.results]}


def case_json(result: CaseResult) -> dict[str, Any]:
    """One case as the JSON reports show it."""
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def score(case: Case, sample: Sample, prediction: Prediction) -> CaseResult:
    """Compare a prediction with its case, at the frame's own size; its mask is empty where it found no lesion."""
    mask = prediction.mask
    dice = iou = share = distance = None
    if mask is not None:
        share = float(np.mean(mask))
        if sample.mask is not None and case.label != "normal":
            dice, iou = overlap(mask, sample.mask)
            distance = hausdorff_95(mask, sample.mask)
    return CaseResult(
        image=case.name,
        label=case.label,
        probability=prediction.malignancy,
        dice=dice,
        iou=iou,
        lesion_share=share,
        hd95=distance,
        presence=prediction.presence,
        decision=prediction.decision,
    )


def evaluate(predictor: Predictor, dataset: Dataset, *, progress: Progress = iter) -> Evaluation:
    """Predict every case of `dataset`. Raises DataError, EngineError."""
    results = []
    for case in progress(dataset):
        sample = case.read()
        results.append(score(case, sample, predictor.predict(sample.pixels)))
    how = predictor.interpretation
    return Evaluation(tuple(results), summarise(results, threshold=how.threshold, positive=how.positive))
