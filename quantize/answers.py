"""What a finished graph says of the calibration frames: for the INT8 thresholds, and for the feature reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from edge.frame import GreyImage
from edge.interpretation import Interpretation
from quantize.onnx_graph import fused_session, plain_session


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Of N frames, in order; empty where the network has no such output.

    positive, presence: (N,) float64, probability of the positive label, and that there is a lesion.
    """

    positive: NDArray[np.float64]
    presence: NDArray[np.float64]


def answers_of(model: onnx.ModelProto, how: Interpretation, images: Sequence[GreyImage]) -> Answers:
    """Run `model` once on every image, a network input, (height, width) uint8. how: of its manifest, at any precision.

    Raises EngineError when an output is not the one that `how` describes, or no probability.
    """
    session = plain_session(model)
    feed = session.get_inputs()[0].name
    names = [spec.name for spec in (how.mask, how.classes) if spec is not None]
    positive: list[float] = []
    presence: list[float] = []
    for image in images:
        outputs = dict(zip(names, session.run(names, {feed: image[None, None]}), strict=True))
        if how.positive is not None:
            positive.append(how.label_probabilities(outputs)[how.positive])
        mask = how.lesion_probability(outputs) if how.presence is not None else None
        present = None if mask is None else how.lesion_presence(mask)
        if present is not None:
            presence.append(present)
    return Answers(np.array(positive, np.float64), np.array(presence, np.float64))


def features_of(model: onnx.ModelProto, name: str, images: Sequence[GreyImage]) -> NDArray[np.float32]:
    """The output `name`, (1, C), of `model` on every image, a network input, (height, width) uint8; (N, C) float32."""
    session = fused_session(model)
    feed = session.get_inputs()[0].name
    return np.concatenate([session.run([name], {feed: image[None, None]})[0] for image in images])
