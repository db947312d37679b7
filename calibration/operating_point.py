"""Where scores become probabilities, and probabilities an answer.

Everything here is fitted on cases that nothing is reported on.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from calibration.metrics import PAPER_SENSITIVITY, CaseResult, scored, threshold_at
from edge.errors import require

MISS_COST: Final = 10.0
"""What a missed lesion costs against an outline on a normal frame: nobody looks again at the former."""
TEMPERATURES: Final = (0.05, 20.0)
_MARGIN: Final = 1e-3
_SMALLEST_SCALE: Final = 1e-3
_TINY: Final = 1e-12


def fit_temperature(logits: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Temperature T in 0.05..20 with the least negative log-likelihood of sigmoid(logit / T).

    logits: (N,); positive: (N,). Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), arXiv 1706.04599.
    Raises ValueError with one class only or logits that are not finite; MissingDependencyError without scipy.
    """
    _require_both(logits, positive)
    optimize = require("scipy.optimize", extra="export")
    signed = np.where(positive, -logits, logits)
    # The likelihood is convex in 1/T, so that it has one minimum in log T.
    found = optimize.minimize_scalar(
        lambda log_t: float(np.logaddexp(0.0, signed * np.exp(-log_t)).mean()),
        bounds=np.log(TEMPERATURES),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.clip(np.exp(found.x), *TEMPERATURES))


def fit_presence(logits: NDArray[np.float64], present: NDArray[np.bool_]) -> tuple[float, float]:
    """Scale > 0 and offset of sigmoid(scale · logit + offset), the probability of a lesion: Platt scaling.

    logits: (N,); present: (N,). Plain maximum likelihood, so that the probability follows the share of lesions among these cases;
    the classes are not balanced. The targets are Platt's (N₊ + 1) / (N₊ + 2) and 1 / (N₋ + 2) instead of 1 and 0, which keeps
    the scale finite where the classes are separable. The scale is at least 0.001 per standard deviation of the logits, also where
    they fall with presence. Source: Platt, "Probabilistic outputs for support vector machines and comparisons to regularized
    likelihood methods" (1999). Raises ValueError with one class only or logits that are not finite; MissingDependencyError
    without scipy.
    """
    _require_both(logits, present)
    optimize = require("scipy.optimize", extra="export")
    positives = int(np.count_nonzero(present))
    target = np.where(present, (positives + 1) / (positives + 2), 1 / (present.size - positives + 2))
    mean, deviation = float(logits.mean()), float(logits.std()) if np.ptp(logits) else 1.0
    standard = (logits - mean) / deviation

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        score = parameters[0] * standard + parameters[1]
        # -target · log sigmoid(score) - (1 - target) · log sigmoid(-score)
        excess = np.exp(-np.logaddexp(0.0, -score)) - target
        slope = np.array([(excess * standard).mean(), excess.mean()])
        return float((np.logaddexp(0.0, score) - target * score).mean()), slope

    start = np.array([1.0, np.log(positives / (present.size - positives))])
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(_SMALLEST_SCALE, None), (None, None)],
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 1000},
    )
    scale = float(found.x[0]) / deviation
    return scale, float(found.x[1]) - scale * mean


def choose_threshold(results: Sequence[CaseResult], *, sensitivity: float = PAPER_SENSITIVITY) -> float:
    """Return the highest threshold that reaches `sensitivity` on the lesion cases of `results`.

    It is kept inside 0.001..0.999. Raises ValueError without a malignant case.
    """
    probability, malignant = scored(results)
    return choose_operating_point(probability, malignant, np.ones_like(malignant), sensitivity=sensitivity)


def choose_operating_point(
    probability: NDArray[np.float64],
    malignant: NDArray[np.bool_],
    present: NDArray[np.bool_],
    *,
    sensitivity: float = PAPER_SENSITIVITY,
) -> float:
    """Return the highest threshold at which `sensitivity` of the malignant cases are seen and called malignant.

    probability: (N,) of malignancy; malignant: (N,); present: (N,), whether the presence rule sees a lesion. It is kept inside
    0.001..0.999; where the presence rule alone misses more than the sensitivity allows, it is 0.001. Raises ValueError without a
    malignant case.
    """
    threshold = threshold_at(np.where(present, probability, -np.inf), malignant, sensitivity=sensitivity)
    if threshold is None:
        raise ValueError("an operating point needs malignant cases")
    return _inside(threshold)


def choose_presence_threshold(
    lesions: NDArray[np.float64], normals: NDArray[np.float64], *, miss_cost: float = MISS_COST
) -> float:
    """Return the threshold of least cost: `miss_cost` times the share of lesions missed plus that of normal frames alarmed on.

    lesions, normals: (N,) and (M,) probabilities of a lesion, of frames with and without one. It lies halfway, by logit,
    between the two scores that it divides; of several the lowest is taken, which misses fewer lesions. It is kept inside
    0.001..0.999. At a cost of 1 it has the greatest index of Youden, "Index for rating diagnostic tests", Cancer 3 (1950).
    Raises ValueError without both.
    """
    if not lesions.size or not normals.size:
        raise ValueError("a presence threshold needs frames with and without a lesion")
    scores = np.unique(_logit(np.concatenate([lesions, normals])))
    levels = np.concatenate([scores[:1] - 1.0, (scores[:-1] + scores[1:]) / 2.0, scores[-1:] + 1.0])
    missed, passed = (np.searchsorted(np.sort(_logit(part)), levels, "left") / part.size for part in (lesions, normals))
    cost = np.round(miss_cost * missed - passed, 12)  # ties must not depend on rounding
    return _inside(_probability(levels[int(np.argmin(cost))]))


def matched_threshold(threshold: float, reference: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """The threshold on a target network that calls as many frames positive as `threshold` does on the reference.

    reference, target: (N,) probabilities of the same frames; labels are not needed. Quantile mapping: linear between the sorted
    logits of both networks; beyond the outermost scores the difference at that end. It is kept inside 0.001..0.999. Raises
    ValueError without frames, or for different numbers of them.
    """
    if not reference.size or reference.shape != target.shape:
        raise ValueError(f"the same frames by two networks are matched, got {reference.shape} and {target.shape}")
    before, after = np.sort(reference), np.sort(target)
    first = int(np.searchsorted(before, threshold, "left"))  # the lowest score that is called positive
    if first == before.size:
        moved = _probability(_logit(threshold) + _logit(after[-1]) - _logit(before[-1]))
        return _inside(max(moved, np.nextafter(after[-1], 2.0)))
    if before[first] == threshold:
        return _inside(after[first])
    if first == 0:
        moved = _probability(_logit(threshold) + _logit(after[0]) - _logit(before[0]))
        return _inside(min(moved, after[0]))
    ends = slice(first - 1, first + 1)
    span = float(np.ptp(_logit(before[ends])))
    share = float(_logit(threshold) - _logit(before[first - 1])) / span if span else 1.0
    low, high = _logit(after[ends])
    moved = min(_probability(low + share * (high - low)), after[first])
    # Rounding must not let the frame below the threshold in.
    return _inside(moved if moved > after[first - 1] else after[first])


def _require_both(logits: NDArray[np.float64], positive: NDArray[np.bool_]) -> None:
    if not np.isfinite(logits).all():
        raise ValueError("logits must be finite")
    if not positive.any() or positive.all():
        raise ValueError("a fit needs cases of both classes")


def _inside(threshold: float) -> float:
    return float(np.clip(threshold, _MARGIN, 1.0 - _MARGIN))


def _logit(probability: float | NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(np.asarray(probability, np.float64), _TINY, 1.0 - _TINY)
    return np.log(inside) - np.log1p(-inside)


def _probability(logit: float | NDArray[np.float64]) -> float:
    return float(np.exp(-np.logaddexp(0.0, -logit)))
