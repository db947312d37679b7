"""Fit what tells a picture that is unlike those of calibration: the reference of a network's features (`edge.ood`)."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.errors import CalibrationError
from edge.ood import FeatureDistance, FeatureReference, grouped

QUANTILE: Final = 0.99
"""Share of the calibration frames that are within the limit, each judged by a reference that it had no part in."""
FOLDS: Final = 5
MIN_FRAMES: Final = 40
"""Fewer frames say too little of how far a frame may be that they do not hold."""
_LEAST_SCALE: Final = 1e-3
"""Of a group, as a share of the largest: one that hardly speaks says nothing when it does a little."""
_LEAST_SHARE: Final = 1e-4
"""Of the identity in a covariance: without noise in the frames one that has no inverse would be left as it is."""
_DIGITS: Final = 5


def fit_reference(
    features: NDArray[np.float32], *, parts: Sequence[int] = (), groups: Sequence[str] = (), quantile: float = QUANTILE
) -> FeatureReference:
    """Fit to features (N, C) of the calibration frames at one precision.

    The limit is the quantile of the distances of all frames, each to a reference fitted on the folds that it is not in
    (cross-fitting): the reference itself has seen them all and would find them nearer than a new frame. parts: see
    `FeatureReference`, one when empty. groups: of each frame, as its patient, which are not split; without them every frame is
    its own. Raises CalibrationError for too few frames or groups, for features that are not finite and for such that do not vary.
    """
    if features.ndim != 2:
        raise ValueError(f"features are (N, C), not {features.shape}")
    frames, channels = features.shape
    if frames < MIN_FRAMES:
        raise CalibrationError(
            f"{frames} frames are too few for a feature reference; calibrate on at least {MIN_FRAMES}"
        )
    if not np.isfinite(features).all():
        raise CalibrationError("the features of a calibration frame are not finite; the network itself is at fault")
    parts = tuple(parts) or (channels,)
    if sum(parts) != channels:
        raise ValueError(f"features of {channels} channels, the parts {parts} have {sum(parts)}")
    folds = _folds(groups or [str(index) for index in range(frames)])
    distances: list[float] = []
    for fold in range(FOLDS):
        unseen = FeatureDistance(_fitted(features[folds != fold], parts, 1.0))
        distances += [unseen.of(vector) for vector in features[folds == fold]]
    return _fitted(features, parts, _rounded(np.quantile(distances, quantile, keepdims=True))[0])


def shrunk_covariance(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance (G, G) of centred vectors (N, G), drawn towards a multiple of the identity as far as N leaves it uncertain.

    Ledoit and Wolf, Journal of Multivariate Analysis 88(2), 2004: the share of the identity is that of the least expected error.
    """
    frames, groups = centred.shape
    covariance = centred.T @ centred / frames
    identity = np.eye(groups) * np.trace(covariance) / groups
    away = float(((covariance - identity) ** 2).sum())
    noise = (float(((centred**2).sum(axis=1) ** 2).mean()) - float((covariance**2).sum())) / frames
    share = max(_LEAST_SHARE, noise / away) if noise < away else 1.0
    return np.asarray(share * identity + (1.0 - share) * covariance)


def _fitted(features: NDArray[np.float32], parts: tuple[int, ...], limit: float) -> FeatureReference:
    """A reference to features (N, C) with this limit."""
    vectors = grouped(features, parts)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    if float(scale.max()) <= 0.0:
        raise CalibrationError("the features are the same on every calibration frame; calibrate on frames that differ")
    scale = np.maximum(scale, _LEAST_SCALE * scale.max())
    lower = np.linalg.cholesky(shrunk_covariance((vectors - mean) / scale))
    whitening = np.linalg.inv(lower) / scale
    rows = tuple(_rounded(row[: index + 1]) for index, row in enumerate(whitening))
    return FeatureReference(parts, _rounded(mean), rows, limit)


def _folds(groups: Sequence[str]) -> NDArray[np.intp]:
    """The fold of every frame, (N,); a group is in one."""
    names = sorted(set(groups))
    if len(names) < FOLDS:
        raise CalibrationError(f"the calibration frames are of {len(names)} groups; a feature reference needs {FOLDS}")
    order = np.random.default_rng(0).permutation(len(names))
    dealt = {names[place]: index % FOLDS for index, place in enumerate(order)}
    return np.array([dealt[group] for group in groups], np.intp)


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)
