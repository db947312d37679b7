"""A network on its way through the pipeline."""

from dataclasses import dataclass

import onnx

from edge.manifest import InputSpec, OperatingPoint, OutputSpec, Training
from edge.presence import Presence

_UNKNOWN = Training((), (), ())


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network ready for quantisation, with what its manifest will say.

    model: one uint8 input (1, 1, H, W). quantised: it came with quantisers, which stay as they are. presence: None where any
    pixel of the mask is a lesion. guesses: what was not said and had to be assumed, for the user to read. channels_last: the
    original took (N, H, W, C). turned: outputs that it gave so. feature_parts: channels of each part of the features output.
    """

    name: str
    source_sha256: str
    model: onnx.ModelProto
    quantised: bool
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    labels: tuple[str, ...]
    operating_point: OperatingPoint | None
    presence: Presence | None = None
    guesses: tuple[str, ...] = ()
    training: Training = _UNKNOWN
    channels_last: bool = False
    turned: tuple[str, ...] = ()
    feature_parts: tuple[int, ...] = ()
