"""Give the INT8 class score the mean of the FP32 one, without labels.

Rounding errors of a deep network do not average out: the malignancy logit of a quantised network was seen to sit 0.1 lower on
average, enough to move cases across the operating point. The head's bias takes that back, measured on the calibration
frames (empirical bias correction, as in Nagel et al., arXiv 1906.04721, section 4.2, applied to the output). Mask logits
are left alone: their mean is the background's.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge.frame import GreyImage
from quantize.heads import last_layers
from quantize.onnx_graph import plain_session


def match_score_means(
    quantised: onnx.ModelProto, reference: onnx.ModelProto, frames: Sequence[GreyImage]
) -> onnx.ModelProto:
    """Return a copy of `quantised` whose class scores have the mean of `reference`'s over `frames`.

    frames: preprocessed (height, width) uint8. Class scores are outputs of one value for each value of their last layer's bias;
    the others stay as they are.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    biases = {}
    for output in result.graph.output:
        values = np.prod([dim.dim_value for dim in output.type.tensor_type.shape.dim])
        for layer in last_layers(result.graph, output.name):
            bias = constants.get(layer.input[2]) if layer.op_type in ("Gemm", "Conv") and len(layer.input) > 2 else None
            if bias is not None and values == np.prod(bias.dims):
                biases[output.name] = bias
    if not biases:
        return result
    names = list(biases)
    wanted, got = (_mean_outputs(model, names, frames) for model in (reference, quantised))
    for name, bias in biases.items():
        values = np.asarray(numpy_helper.to_array(bias))
        moved = values + (wanted[name] - got[name]).reshape(values.shape)
        bias.CopyFrom(numpy_helper.from_array(moved.astype(np.float32), bias.name))
    return result


def _mean_outputs(
    model: onnx.ModelProto, names: list[str], frames: Sequence[GreyImage]
) -> dict[str, NDArray[np.float64]]:
    session = plain_session(model)  # fused kernels round otherwise: enough to move the mean by 1e-3
    feed = session.get_inputs()[0].name
    totals: dict[str, NDArray[np.float64]] = {}
    for frame in frames:
        for name, value in zip(names, session.run(names, {feed: frame[None, None]}), strict=True):
            totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)
    return {name: total / len(frames) for name, total in totals.items()}
