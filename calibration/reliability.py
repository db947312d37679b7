"""Whether a probability of 0.8 is right eight times of ten: calibration error, and a picture of it."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.atomic import write_bytes
from edge.errors import SinkError, require

# Two colours of Okabe & Ito's set, which stay apart for colour-blind eyes and in grey.
_BEFORE: Final[dict[str, Any]] = {"color": "#D55E00", "marker": "s", "linestyle": "--"}
_AFTER: Final[dict[str, Any]] = {"color": "#0072B2", "marker": "o", "linestyle": "-"}
_STYLE: Final[dict[str, Any]] = {
    "svg.hashsalt": "edgekit",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_UNDATED: Final = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
"""File type, and the metadata that would differ from run to run."""


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Cases by probability, in B bins of equal width.

    confidence: (B,) mean probability; observed: (B,) share of positives; both NaN in an empty bin. count: (B,) cases.
    """

    confidence: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.intp]

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: the gap between confidence and observed share, averaged over cases."""
        filled = self.count > 0
        gap = np.abs(self.confidence[filled] - self.observed[filled])
        return float(np.average(gap, weights=self.count[filled]))


def reliability_bins(probability: NDArray[np.float64], positive: NDArray[np.bool_], *, bins: int = 15) -> Reliability:
    """Sort cases into bins ((b − 1) / B, b / B] of the probability of being positive; 0 belongs to the first.

    probability, positive: (N,). Source: Guo et al. (2017), arXiv 1706.04599, section 2, in the form for two classes: by the
    probability of the positive class rather than of the likelier one, because a threshold stands on the former. Raises ValueError
    without cases, for probabilities outside 0..1, for different shapes and without bins.
    """
    if not probability.size or probability.shape != positive.shape:
        raise ValueError(f"every case has one probability, got {probability.shape} for {positive.shape}")
    if not ((probability >= 0.0) & (probability <= 1.0)).all():
        raise ValueError("probabilities lie in 0..1")
    if bins < 1:
        raise ValueError(f"at least one bin is needed, got {bins}")
    place = np.digitize(probability, np.arange(1, bins) / bins, right=True)
    count = np.bincount(place, minlength=bins)
    return Reliability(_means(probability, place, count), _means(positive, place, count), count)


def expected_calibration_error(
    probability: NDArray[np.float64], positive: NDArray[np.bool_], *, bins: int = 15
) -> float:
    """Expected calibration error of `reliability_bins`, 0..1. Raises ValueError as that does."""
    return reliability_bins(probability, positive, bins=bins).error


def draw_reliability(before: Reliability, after: Reliability, path: Path) -> None:
    """Draw reliability before and after temperature scaling, cases per bin below, as .png or .svg; the same bytes every time.

    Raises SinkError for another suffix or a place that cannot be written; MissingDependencyError without matplotlib; ValueError
    for different numbers of bins.
    """
    metadata = _UNDATED.get(path.suffix.lower())
    if metadata is None:
        raise SinkError(f"{path}: figures are drawn as {' or '.join(_UNDATED)}; name such a file")
    if before.count.shape != after.count.shape:
        raise ValueError(f"both have the same bins, got {before.count.size} and {after.count.size}")
    matplotlib = require("matplotlib", extra="train")
    drawn = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style would change the bytes
        matplotlib.rcParams.update(_STYLE)
        figure = _figure(before, after)
        figure.savefig(drawn, format=path.suffix.lower()[1:], dpi=150, metadata=metadata)
    write_bytes(path, drawn.getvalue())


def _figure(before: Reliability, after: Reliability) -> Any:
    # A Figure of its own needs no window system and leaves pyplot's state alone; saving picks Agg or SVG by the format.
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(4.5, 5.8), layout="constrained")
    curves, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    curves.plot([0, 1], [0, 1], color="#666666", linewidth=1, linestyle=":", label="perfect")
    bins = after.count.size
    middle = (np.arange(bins) + 0.5) / bins
    for side, name, bars, look in ((-1, "before", before, _BEFORE), (1, "after", after, _AFTER)):
        filled = bars.count > 0
        label = f"{name} temperature, ECE {bars.error:.3f}"
        curves.plot(bars.confidence[filled], bars.observed[filled], markersize=4, clip_on=False, label=label, **look)
        histogram.bar(middle + side * 0.2 / bins, bars.count, width=0.4 / bins, color=look["color"])
    curves.set(ylabel="observed share of malignant", xlim=(0, 1), ylim=(0, 1))
    curves.legend(frameon=False, loc="upper left")
    histogram.set(xlabel="probability of malignancy", ylabel="cases")
    return figure


def _means(
    values: NDArray[np.float64] | NDArray[np.bool_], place: NDArray[np.intp], count: NDArray[np.intp]
) -> NDArray[np.float64]:
    total = np.bincount(place, values.astype(np.float64), count.size).astype(np.float64)
    return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))
