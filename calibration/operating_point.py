"""Where the probability of malignancy becomes a call."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from calibration.metrics import PAPER_SENSITIVITY, CaseResult, scored, threshold_at

_MARGIN: Final = 1e-3


def choose_threshold(results: Sequence[CaseResult], *, sensitivity: float = PAPER_SENSITIVITY) -> float:
    """Return the highest threshold that reaches `sensitivity` on the lesion cases of `results`.

    It is kept inside 0.001..0.999. Choose it on cases that nothing is reported on. Raises ValueError without a malignant
    case.
    """
    threshold = threshold_at(*scored(results), sensitivity=sensitivity)
    if threshold is None:
        raise ValueError("an operating point needs malignant cases")
    return float(np.clip(threshold, _MARGIN, 1.0 - _MARGIN))
