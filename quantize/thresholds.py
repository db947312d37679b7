"""Move the thresholds of a network to where its INT8 scores are, without labels.

INT8 shifts a score by different amounts along its range, so the probability that divides the cases in FP32 divides them elsewhere
in INT8. The threshold moves with the scores: to where it leaves the same share of the calibration frames above it.
"""

from dataclasses import replace

from calibration.operating_point import matched_threshold
from edge.manifest import Manifest
from quantize.answers import Answers


def with_int8_thresholds(manifest: Manifest, fp32: Answers, int8: Answers) -> Manifest:
    """Return `manifest` with an int8_threshold in its operating point and its presence, as far as it has them.

    fp32, int8: what the graph of each precision says of the same calibration frames.
    """
    point, presence = manifest.operating_point, manifest.presence
    if point is not None:
        point = replace(point, int8_threshold=matched_threshold(point.threshold, fp32.positive, int8.positive))
    if presence is not None:
        moved = matched_threshold(presence.threshold, fp32.presence, int8.presence)
        presence = replace(presence, int8_threshold=moved)
    return replace(manifest, operating_point=point, presence=presence)
