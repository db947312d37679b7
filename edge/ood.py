"""How far a frame is from what a network was calibrated on: the part of its features that the calibration frames' own
variation does not explain.

The distance is the reconstruction error of a principal component analysis (Jackson and Mudholkar, Technometrics 21(3),
1979: the Q statistic), its square root taken per feature group: a brighter, deeper or coarser breast picture moves along
the axes and stays near, another organ leaves them.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

GROUPS: Final = 64
"""Most groups of neighbouring channels that features are averaged into; with eight axes the record is 640 numbers."""
AXES: Final = 8
QUANTILE: Final = 0.995
"""Share of the frames that the limit was chosen on which are within it."""
_DIGITS: Final = 5


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """What a network's features are on calibration frames.

    channels: of the feature vector. mean, scale: of each group of neighbouring channels, (G,). axes: directions of unit
    length of their common variation, (K, G), in units of scale. limit: the largest distance that is still familiar.
    chosen_on: in words. Raises ValueError.
    """

    channels: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]
    limit: float
    chosen_on: str

    def __post_init__(self) -> None:
        groups = len(self.mean)
        if not 0 < groups <= self.channels or len(self.scale) != groups or any(len(a) != groups for a in self.axes):
            raise ValueError(f"features of {self.channels} channels: mean, scale and axes are not of one length")
        numbers = (*self.mean, *self.scale, self.limit, *(part for axis in self.axes for part in axis))
        if not all(map(math.isfinite, numbers)) or min(self.scale) <= 0.0 or self.limit <= 0.0:
            raise ValueError("feature reference: every number is finite, scales and the limit are above 0")

    @classmethod
    def fit(
        cls,
        features: NDArray[np.float32],
        held_out: NDArray[np.float32],
        *,
        chosen_on: str,
        axes: int = AXES,
        quantile: float = QUANTILE,
    ) -> Self:
        """Fit to `features` (N, C); the limit is the quantile of the distances of `held_out` (M, C), which none of them is in.

        Raises ValueError on too few frames or channels for the axes, features that are all the same, or widths that differ.
        """
        if features.ndim != 2 or held_out.ndim != 2 or features.shape[1] != held_out.shape[1]:
            raise ValueError(f"features are (N, C) and (M, C), not {features.shape} and {held_out.shape}")
        if len(features) <= axes or not len(held_out):
            raise ValueError(f"{len(features)} and {len(held_out)} frames are too few for {axes} axes and a limit")
        grouped = _grouped(features)
        if axes >= grouped.shape[1]:
            raise ValueError(f"{axes} axes leave nothing of {grouped.shape[1]} groups of channels; take fewer")
        mean, scale = grouped.mean(axis=0), grouped.std(axis=0)
        if float(scale.max()) <= 0.0:
            raise ValueError("the features are the same on every frame; take other frames or another tensor")
        scale = np.maximum(scale, 1e-3 * scale.max())  # a channel that never speaks says nothing when it does a little
        _, _, directions = np.linalg.svd((grouped - mean) / scale, full_matrices=False)
        whole = cls(
            features.shape[1],
            _rounded(mean),
            _rounded(scale),
            tuple(_rounded(d) for d in directions[:axes]),
            1.0,
            chosen_on,
        )
        limit = float(np.quantile([whole.distance(feature) for feature in held_out], quantile))
        return cls(whole.channels, whole.mean, whole.scale, whole.axes, float(f"{limit:.{_DIGITS}g}"), chosen_on)

    def distance(self, feature: NDArray[np.float32]) -> float:
        """Root mean square of what the axes leave, in units of scale; `feature` has C numbers in any shape. Raises ValueError."""
        flat = feature.reshape(1, -1)
        if flat.shape[1] != self.channels:
            raise ValueError(f"a feature vector of {flat.shape[1]} channels, the reference is for {self.channels}")
        offset = (_grouped(flat)[0] - np.asarray(self.mean)) / np.asarray(self.scale)
        axes = np.asarray(self.axes).reshape(-1, len(self.mean))
        rest = offset - axes.T @ (axes @ offset)
        return float(np.sqrt(np.mean(rest**2)))

    def familiar(self, feature: NDArray[np.float32]) -> bool:
        """Whether the frame is like those of calibration; NaN and infinity are not. Raises ValueError."""
        return self.distance(feature) <= self.limit

    def to_record(self) -> dict[str, Any]:
        """JSON-able; `edge.decode.decode` and `from_record` read it back."""
        return (
            asdict(self)
            | {name: list(getattr(self, name)) for name in ("mean", "scale")}
            | {"axes": [list(axis) for axis in self.axes]}
        )

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Self:
        """Read what `to_record` gave. Raises ValueError."""
        try:
            axes = tuple(tuple(map(float, axis)) for axis in record["axes"])
            mean, scale = (tuple(map(float, record[name])) for name in ("mean", "scale"))
            return cls(int(record["channels"]), mean, scale, axes, float(record["limit"]), str(record["chosen_on"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"feature reference: cannot be read ({error})") from error


def _grouped(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, C) as means of at most `GROUPS` groups of neighbouring channels, (N, G); the last group may be smaller."""
    wide = -(-features.shape[1] // GROUPS)
    starts = np.arange(0, features.shape[1], wide)
    counts = np.diff(np.append(starts, features.shape[1]))
    return np.asarray(np.add.reduceat(features.astype(np.float64), starts, axis=1) / counts)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
