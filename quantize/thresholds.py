"""Move the thresholds of a network to where its INT8 scores are, without labels.

INT8 shifts a score by different amounts along its range, so the probability that divides the cases in FP32 divides them elsewhere
in INT8. The threshold moves with the scores: to where it leaves the same share of the calibration frames above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.operating_point import matched_threshold
from edge.frame import GreyImage
from edge.interpretation import Interpretation
from edge.manifest import Manifest
from quantize.onnx_graph import plain_session


@dataclass(slots=True, eq=False)
class _Scores:
    """Of each frame the probability of the positive label, and that there is a lesion; empty where the network has none."""

    positive: list[float] = field(default_factory=list)
    presence: list[float] = field(default_factory=list)


def with_int8_thresholds(
    manifest: Manifest, reference: onnx.ModelProto, quantised: onnx.ModelProto, images: Sequence[GreyImage]
) -> Manifest:
    """Return `manifest` with an int8_threshold in its operating point and its presence, as far as it has them.

    reference, quantised: the FP32 and the INT8 graph; each runs once on every image. images: network inputs, (height, width)
    uint8. Raises BundleError without a mask and a class output, EngineError when an output is no probability.
    """
    point, presence = manifest.operating_point, manifest.presence
    how = manifest.interpretation()
    fp32, int8 = (_scores(model, how, images) for model in (reference, quantised))
    if point is not None:
        moved = matched_threshold(point.threshold, _array(fp32.positive), _array(int8.positive))
        point = replace(point, int8_threshold=moved)
    if presence is not None:
        moved = matched_threshold(presence.threshold, _array(fp32.presence), _array(int8.presence))
        presence = replace(presence, int8_threshold=moved)
    return replace(manifest, operating_point=point, presence=presence)


def _scores(model: onnx.ModelProto, how: Interpretation, images: Sequence[GreyImage]) -> _Scores:
    session = plain_session(model)
    feed = session.get_inputs()[0].name
    names = [spec.name for spec in (how.mask, how.classes) if spec is not None]
    found = _Scores()
    for image in images:
        outputs = dict(zip(names, session.run(names, {feed: image[None, None]}), strict=True))
        if how.positive is not None:
            found.positive.append(how.label_probabilities(outputs)[how.positive])
        mask = how.lesion_probability(outputs) if how.presence is not None else None
        presence = None if mask is None else how.lesion_presence(mask)
        if presence is not None:
            found.presence.append(presence)
    return found


def _array(scores: Sequence[float]) -> NDArray[np.float64]:
    return np.array(scores, np.float64)
