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
from quantize.onnx_graph import INPUT_NAME, plain_session


def match_score_means(
    quantised: onnx.ModelProto, reference: onnx.ModelProto, frames: Sequence[GreyImage]
) -> onnx.ModelProto:
    """Return a copy of `quantised` whose one-value outputs have the mean of `reference`'s over `frames`.

    frames: preprocessed (height, width) uint8. Outputs whose last layer has no constant bias stay as they are.
    """
    result = onnx.ModelProto()
    result.CopyFrom(quantised)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    producers = {name: node for node in result.graph.node for name in node.output}
    biases = {}
    for output in result.graph.output:
        head = producers[output.name]
        bias = constants.get(head.input[2]) if head.op_type in ("Gemm", "Conv") and len(head.input) > 2 else None
        values = np.prod([dim.dim_value for dim in output.type.tensor_type.shape.dim])
        if bias is not None and values == 1:
            biases[output.name] = bias
    if not biases:
        return result
    names = list(biases)
    shifts = _mean_outputs(reference, names, frames) - _mean_outputs(quantised, names, frames)
    for bias, shift in zip(biases.values(), shifts, strict=True):
        bias.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(bias) + shift).astype(np.float32), bias.name))
    return result


def _mean_outputs(model: onnx.ModelProto, names: list[str], frames: Sequence[GreyImage]) -> NDArray[np.float64]:
    session = plain_session(model)  # fused kernels round otherwise: enough to move the mean by 1e-3
    totals = np.zeros(len(names))
    for frame in frames:
        totals += [float(value.item()) for value in session.run(names, {INPUT_NAME: frame[None, None]})]
    return totals / len(frames)
