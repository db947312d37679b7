"""Figures of a multitask network on labelled frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.dataset import Label

PAPER_SENSITIVITY: Final = 0.941
"""The sensitivity that EMT-NET (arXiv 2201.04795) reports; specificity is compared there."""
MALIGNANT: Final = "malignant"
LESIONS: Final = ("benign", MALIGNANT)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What was predicted for one case.

    probability: of the network's positive label, None without a class output. dice and iou: None where there is no true mask, the
    case is normal or the network draws none. lesion_share: predicted lesion area over frame area, None without a mask output.
    """

    image: str
    label: Label | None
    probability: float | None
    dice: float | None
    iou: float | None
    lesion_share: float | None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Classification figures over lesion cases, overlap over lesion cases with a mask; None where nothing to count.

    normal_false_alarm_rate: share of normal cases with a predicted lesion pixel.
    """

    n: int
    auc: float | None
    accuracy: float | None
    sensitivity: float | None
    specificity: float | None
    specificity_at_sensitivity_0_941: float | None
    dice_mean: float | None
    iou_mean: float | None
    normal_false_alarm_rate: float | None
    threshold: float | None

    def to_json(self) -> dict[str, float | int | None]:
        """The figures under their public names."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record["specificity_at_sensitivity_0.941"] = record.pop("specificity_at_sensitivity_0_941")
        return record


def summarise(results: Sequence[CaseResult], *, threshold: float | None, positive: str | None = MALIGNANT) -> Metrics:
    """Summarise results at a decision threshold on the probability of the network's positive label.

    The true labels are benign, malignant and normal, so a network whose positive label is not "malignant" cannot be held against
    them: its AUC, accuracy, sensitivity and specificity are None, as they are without a class output.
    """
    probability, malignant = scored(results if positive == MALIGNANT and threshold is not None else ())
    called = probability >= (threshold or 0.0)
    lesions = [result for result in results if result.label in LESIONS]
    normals = [result.lesion_share for result in results if result.label == "normal"]
    return Metrics(
        n=len(results),
        auc=auc(probability, malignant),
        accuracy=_share(called == malignant),
        sensitivity=_share(called[malignant]),
        specificity=_share(~called[~malignant]),
        specificity_at_sensitivity_0_941=specificity_at(probability, malignant, sensitivity=PAPER_SENSITIVITY),
        dice_mean=_mean([result.dice for result in lesions]),
        iou_mean=_mean([result.iou for result in lesions]),
        normal_false_alarm_rate=_share(np.array([share > 0.0 for share in normals if share is not None], np.bool_)),
        threshold=threshold,
    )


def scored(results: Sequence[CaseResult]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability, and whether it is malignant, of every lesion case that has one."""
    pairs = [
        (result.probability, result.label == MALIGNANT)
        for result in results
        if result.label in LESIONS and result.probability is not None
    ]
    return np.array([pair[0] for pair in pairs], np.float64), np.array([pair[1] for pair in pairs], np.bool_)


def overlap(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice and IoU of two masks of one shape; two empty masks agree fully (1, 1)."""
    both = int(np.count_nonzero(predicted & true))
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    if total == 0:
        return 1.0, 1.0
    return 2.0 * both / total, both / (total - both)


def auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counted half. None with one class only."""
    positives, negatives = score[positive], np.sort(score[~positive])
    if not positives.size or not negatives.size:
        return None
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.sum() / (2.0 * positives.size * negatives.size))


def specificity_at(score: NDArray[np.float64], positive: NDArray[np.bool_], *, sensitivity: float) -> float | None:
    """Best specificity of any threshold whose sensitivity is at least `sensitivity`. None with one class only."""
    threshold = threshold_at(score, positive, sensitivity=sensitivity)
    return None if threshold is None else _share(score[~positive] < threshold)


def threshold_at(score: NDArray[np.float64], positive: NDArray[np.bool_], *, sensitivity: float) -> float | None:
    """Highest threshold (score ≥ threshold is positive) that reaches `sensitivity`. None without positives."""
    positives = np.sort(score[positive])[::-1]
    if not positives.size:
        return None
    needed = int(np.ceil(sensitivity * positives.size - 1e-9))
    return float(positives[max(needed, 1) - 1])


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if flags.size else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
