"""Where the probability of malignancy becomes a call."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from calibration.metrics import PAPER_SENSITIVITY, CaseResult, threshold_at

_MARGIN: Final = 1e-3


def choose_threshold(results: Sequence[CaseResult], *, sensitivity: float = PAPER_SENSITIVITY) -> float:
    """Return the highest threshold that reaches `sensitivity` on the lesion cases of `results`.

    It is kept inside 0.001..0.999. Choose it on cases that nothing is reported on. Raises ValueError without a malignant
    case.
    """
    lesions = [result for result in results if result.label in ("benign", "malignant")]
    probability = np.array([result.probability for result in lesions])
    malignant = np.array([result.label == "malignant" for result in lesions], np.bool_)
    threshold = threshold_at(probability, malignant, sensitivity=sensitivity)
    if threshold is None:
        raise ValueError("an operating point needs malignant cases")
    return float(np.clip(threshold, _MARGIN, 1.0 - _MARGIN))
