"""Figures of a multitask network on labelled frames."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.dataset import Label
from edge.interpretation import NO_LESION

PAPER_SENSITIVITY: Final = 0.941
"""The sensitivity that EMT-NET (arXiv 2201.04795) reports; specificity is compared there."""
SPECIFICITY_AT: Final = "specificity_at_sensitivity_0.941"
"""Public name of the specificity at that sensitivity."""
MALIGNANT: Final = "malignant"
LESIONS: Final = ("benign", MALIGNANT)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What was predicted for one case.

    probability: of the network's positive label, None without a class output. dice and iou: None where there is no true mask, the
    case is normal or the network draws none. lesion_share: predicted lesion area over frame area, None without a mask output.
    hd95: `hausdorff_95` in pixels of the frame, None where dice is or where either mask is empty. presence: calibrated
    probability of a lesion. decision: the answer, "no lesion", "benign" or "malignant"; without one the probability is held
    against the threshold.
    """

    image: str
    label: Label | None
    probability: float | None
    dice: float | None
    iou: float | None
    lesion_share: float | None
    hd95: float | None = None
    presence: float | None = None
    decision: str | None = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Classification figures over lesion cases, overlap over lesion cases with a mask; None where nothing to count.

    sensitivity: malignant cases answered malignant; "no lesion" is a false negative. specificity: benign cases not answered
    malignant. accuracy: lesion cases answered by their label, so that a benign one answered "no lesion" is wrong.
    accuracy_at_half: lesion cases of whose label the probability is at least one half, whatever threshold and presence say.
    specificity_at_sensitivity_0_941: at the threshold of that sensitivity, a case answered "no lesion" being benign at each.
    hd95_mean: pixels of the frame. lesions_missed_rate, malignant_missed_rate: share answered "no lesion", of the cases that have
    an answer. positive_predictive_value: share of the lesion cases answered malignant that are. normal_false_alarm_rate: share of
    normal cases with a predicted lesion pixel. normal_malignant_rate: share of them answered malignant.
    """

    n: int
    auc: float | None
    accuracy: float | None
    accuracy_at_half: float | None
    sensitivity: float | None
    specificity: float | None
    positive_predictive_value: float | None
    specificity_at_sensitivity_0_941: float | None
    dice_mean: float | None
    iou_mean: float | None
    hd95_mean: float | None
    lesions_missed_rate: float | None
    malignant_missed_rate: float | None
    normal_false_alarm_rate: float | None
    normal_malignant_rate: float | None
    threshold: float | None

    def to_json(self) -> dict[str, float | int | None]:
        """The figures under their public names."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record[SPECIFICITY_AT] = record.pop("specificity_at_sensitivity_0_941")
        return record


def summarise(results: Sequence[CaseResult], *, threshold: float | None, positive: str | None = MALIGNANT) -> Metrics:
    """Summarise results at a decision threshold on the probability of the network's positive label.

    The true labels are benign, malignant and normal, so a network whose positive label is not "malignant" cannot be held against
    them: its AUC, accuracy, sensitivity and specificity are None, as they are without a class output.
    """
    judged = results if positive == MALIGNANT and threshold is not None else ()
    return Metrics(
        n=len(results),
        auc=auc(*scored(judged)),
        specificity_at_sensitivity_0_941=specificity_at(*scored(judged, gated=True), sensitivity=PAPER_SENSITIVITY),
        threshold=threshold,
        **{
            name: _share(values[~np.isnan(values)])
            for name, values in per_case(results, threshold=threshold, positive=positive).items()
        },
    )


def per_case(
    results: Sequence[CaseResult], *, threshold: float | None, positive: str | None = MALIGNANT
) -> dict[str, NDArray[np.float64]]:
    """The figures of `Metrics` that are means over cases, by name: (N,) values, NaN where a case does not count."""
    answers = [_answer(result, threshold) if positive == MALIGNANT else None for result in results]
    return {
        name: np.array([value(*pair) for pair in zip(results, answers, strict=True)], np.float64)  # None becomes NaN
        for name, value in _MEANS.items()
    }


def _answer(result: CaseResult, threshold: float | None) -> str | None:
    if threshold is None:
        return None
    if result.decision is not None:
        return result.decision
    if result.probability is None:
        return None
    return MALIGNANT if result.probability >= threshold else "benign"


_Figure = Callable[[CaseResult, str | None], float | None]
"""What a case and its answer add to a mean; None where the case does not count."""


def _only(labels: Sequence[str], figure: _Figure) -> _Figure:
    return lambda result, answer: figure(result, answer) if result.label in labels else None


def _answered(right: Callable[[CaseResult, str], bool]) -> _Figure:
    return lambda result, answer: None if answer is None else right(result, answer)


def _rightly_half(result: CaseResult, answer: str | None) -> float | None:
    if answer is None or result.probability is None:
        return None
    return (result.probability >= 0.5) == (result.label == MALIGNANT)


def _missed(result: CaseResult, _: str | None) -> float | None:
    return None if result.decision is None else result.decision == NO_LESION


def _drawn(result: CaseResult, _: str | None) -> float | None:
    return None if result.lesion_share is None else result.lesion_share > 0.0


_MEANS: Final[Mapping[str, _Figure]] = MappingProxyType(
    {
        "accuracy": _only(LESIONS, _answered(lambda result, answer: answer == result.label)),
        "accuracy_at_half": _only(LESIONS, _rightly_half),
        "sensitivity": _only((MALIGNANT,), _answered(lambda _, answer: answer == MALIGNANT)),
        "specificity": _only(("benign",), _answered(lambda _, answer: answer != MALIGNANT)),
        "positive_predictive_value": _only(
            LESIONS, lambda result, answer: result.label == MALIGNANT if answer == MALIGNANT else None
        ),
        "dice_mean": _only(LESIONS, lambda result, _: result.dice),
        "iou_mean": _only(LESIONS, lambda result, _: result.iou),
        "hd95_mean": _only(LESIONS, lambda result, _: result.hd95),
        "lesions_missed_rate": _only(LESIONS, _missed),
        "malignant_missed_rate": _only((MALIGNANT,), _missed),
        "normal_false_alarm_rate": _only(("normal",), _drawn),
        "normal_malignant_rate": _only(("normal",), _answered(lambda _, answer: answer == MALIGNANT)),
    }
)


def scored(results: Sequence[CaseResult], *, gated: bool = False) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Probability, and whether it is malignant, of every lesion case that has one.

    gated: a case answered "no lesion" scores −inf, below every threshold.
    """
    cases = [result for result in results if has_score(result)]
    score = np.array([result.probability for result in cases], np.float64)
    if gated:
        score[[result.decision == NO_LESION for result in cases]] = -np.inf
    return score, np.array([result.label == MALIGNANT for result in cases], np.bool_)


def has_score(result: CaseResult) -> bool:
    """Whether a case is a lesion with a probability: what ROC figures count."""
    return result.label in LESIONS and result.probability is not None


def overlap(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> tuple[float, float]:
    """Dice and IoU of two masks of one shape; two empty masks agree fully (1, 1)."""
    both = int(np.count_nonzero(predicted & true))
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    if total == 0:
        return 1.0, 1.0
    return 2.0 * both / total, both / (total - both)


def hausdorff_95(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float | None:
    """95th percentile Hausdorff distance of two (H, W) masks in pixels; None where either is empty.

    The larger of the two directed 95th percentiles of the Euclidean distances from every contour pixel to the other contour,
    as in MONAI's HausdorffDistanceMetric (medpy pools both directions); percentiles are interpolated linearly. Contour: a mask
    minus its 3x3 erosion, where what lies beyond the frame counts as outside. Raises ValueError for different shapes.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks of one shape are compared, got {predicted.shape} and {true.shape}")
    if not predicted.any() or not true.any():
        return None
    union = predicted | true
    box = tuple(slice(at[0], at[-1] + 1) for at in (np.flatnonzero(union.any(axis)) for axis in (1, 0)))
    one, other = _contour(predicted[box]), _contour(true[box])
    return max(_directed_95(one, other), _directed_95(other, one))


def _contour(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    kernel = np.ones((3, 3), np.uint8)
    # OpenCV's own border value would let a mask that reaches the border go on beyond it.
    inner = cv2.erode(mask.astype(np.uint8), kernel, borderType=cv2.BORDER_CONSTANT, borderValue=(0.0,))
    return mask & ~np.asarray(inner, np.bool_)


def _directed_95(contour: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    distance = np.asarray(cv2.distanceTransform((~other).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    # Its last bit differs from run to run; the square of a distance between pixels is a whole number.
    exact = np.sqrt(np.rint(distance[contour].astype(np.float64) ** 2))
    return float(np.percentile(exact, 95.0))


def auc(score: NDArray[np.float64], positive: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve as the Mann-Whitney statistic, ties counted half. None with one class only."""
    positives, negatives = score[positive], np.sort(score[~positive])
    if not positives.size or not negatives.size:
        return None
    below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float(below.sum() / (2.0 * positives.size * negatives.size))


def specificity_at(score: NDArray[np.float64], positive: NDArray[np.bool_], *, sensitivity: float) -> float | None:
    """Best specificity of any threshold whose sensitivity is at least `sensitivity`: 0 where only −inf reaches it.

    None with one class only.
    """
    threshold = threshold_at(score, positive, sensitivity=sensitivity)
    return None if threshold is None else _share(score[~positive] < threshold)


def threshold_at(score: NDArray[np.float64], positive: NDArray[np.bool_], *, sensitivity: float) -> float | None:
    """Highest threshold (score ≥ threshold is positive) that reaches `sensitivity`. None without positives."""
    positives = np.sort(score[positive])[::-1]
    if not positives.size:
        return None
    needed = int(np.ceil(sensitivity * positives.size - 1e-9))
    return float(positives[max(needed, 1) - 1])


def _share(values: NDArray[np.bool_] | NDArray[np.float64]) -> float | None:
    return float(values.mean()) if values.size else None
