"""Confidence intervals by a bootstrap over patients: frames of one patient resemble each other, so they are drawn together.

Source: the cluster bootstrap of Field & Welsh, "Bootstrapping clustered data", J. R. Statist. Soc. B 69 (2007) 369-390, with
percentile intervals (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.metrics import (
    MALIGNANT,
    PAPER_SENSITIVITY,
    SPECIFICITY_AT,
    CaseResult,
    has_score,
    per_case,
    scored,
)

Interval = tuple[float, float]


def interval(
    statistic: Callable[[NDArray[np.intp]], float | None],
    groups: Sequence[str],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of a statistic of cases.

    statistic: of (M,) indices into the cases, with repeats. groups: the patient of every case; a case without one ("") is a group
    of its own. Resamples without a value are left out; None where that is more than half of them, or where there are fewer than
    two groups to draw from. Raises ValueError for a level outside 0..1 or without resamples.
    """
    group_of = _numbered(groups)
    members = [np.flatnonzero(group_of == group) for group in range(int(group_of.max(initial=-1)) + 1)]
    values = [
        statistic(np.concatenate([members[group] for group in drawn]))
        for drawn in _draws(len(members), resamples=resamples, seed=seed)
    ]
    return _percentiles(np.array(values, np.float64), level=level)  # None becomes NaN


def metric_intervals(
    results: Sequence[CaseResult],
    groups: Sequence[str],
    *,
    threshold: float | None,
    positive: str | None = MALIGNANT,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """`interval` of every figure of `calibration.metrics.summarise`, by its public name; figures without one are left out.

    A resample is kept as the number of times that every case was drawn, so that a figure over all resamples is a matrix product.
    Raises ValueError as `interval` does, and unless there is one group for every result.
    """
    if len(results) != len(groups):
        raise ValueError(f"every result has a group, got {len(results)} results and {len(groups)} groups")
    group_of = _numbered(groups)
    count = int(group_of.max(initial=-1)) + 1
    drawn = _draws(count, resamples=resamples, seed=seed)
    times = np.array([np.bincount(row, minlength=count) for row in drawn], np.float64).reshape(len(drawn), count)
    weights = times[:, group_of]

    judged = positive == MALIGNANT and threshold is not None
    cases = np.array([judged and has_score(result) for result in results], np.bool_)
    ranked = [result for result, counts in zip(results, cases, strict=True) if counts]
    figures = {"auc": _auc(*scored(ranked), weights[:, cases])}
    figures[SPECIFICITY_AT] = _specificity_at(*scored(ranked, gated=True), weights[:, cases])
    for name, values in per_case(results, threshold=threshold, positive=positive).items():
        known = ~np.isnan(values)
        figures[name] = _ratio(weights[:, known] @ values[known], weights[:, known].sum(1))
    found = {name: _percentiles(values, level=level) for name, values in figures.items()}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def _numbered(groups: Sequence[str]) -> NDArray[np.intp]:
    """(N,) number of every case's group, in order of appearance."""
    numbers: dict[str | int, int] = {}
    return np.array([numbers.setdefault(group or index, len(numbers)) for index, group in enumerate(groups)], np.intp)


def _draws(groups: int, *, resamples: int, seed: int) -> NDArray[np.intp]:
    """(resamples, groups) group numbers drawn with replacement; no resamples where there is nothing to draw from."""
    if resamples < 1:
        raise ValueError(f"a bootstrap needs resamples, got {resamples}")
    if groups < 2:  # one patient always gives the same figure, which is no interval of width 0
        return np.empty((0, groups), np.intp)
    return np.random.default_rng(seed).integers(groups, size=(resamples, groups), dtype=np.intp)


def _percentiles(values: NDArray[np.float64], *, level: float) -> Interval | None:
    if not 0.0 < level < 1.0:
        raise ValueError(f"a level lies between 0 and 1, got {level}")
    known = values[~np.isnan(values)]
    if not known.size or 2 * known.size < values.size:
        return None
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _levels(
    score: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight of positives and of negatives at every distinct score, ascending: two (resamples, levels)."""
    order = np.argsort(score, kind="stable")
    starts = np.unique(score[order], return_index=True)[1]
    ranked, flags = weights[:, order], positive[order]
    return np.add.reduceat(ranked * flags, starts, axis=1), np.add.reduceat(ranked * ~flags, starts, axis=1)


def _auc(score: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """`calibration.metrics.auc` of every resample."""
    if not score.size:
        return np.full(len(weights), np.nan)
    positives, negatives = _levels(score, positive, weights)
    below = np.cumsum(negatives, axis=1) - 0.5 * negatives
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def _specificity_at(
    score: NDArray[np.float64], positive: NDArray[np.bool_], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`calibration.metrics.specificity_at` of every resample, at the paper's sensitivity."""
    if not score.size:
        return np.full(len(weights), np.nan)
    positives, negatives = _levels(score, positive, weights)
    called = np.cumsum(positives[:, ::-1], axis=1)[:, ::-1]
    total = called[:, :1]
    needed = np.maximum(np.ceil(PAPER_SENSITIVITY * total - 1e-9), 1.0)
    threshold = np.maximum((called >= needed).sum(1) - 1, 0)
    below = (np.cumsum(negatives, axis=1) - negatives)[np.arange(len(weights)), threshold]
    return np.where(total[:, 0] > 0, _ratio(below, negatives.sum(1)), np.nan)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
