"""Use the whole quantiser in front of depthwise convolutions.

A depthwise convolution reads each channel on its own, but an INT8 tensor has one scale for all channels: a channel that only
reaches 0.1 of [0, 6] and meets a kernel of weight 30 (batch norm folds to that where a variance was tiny) carries the
whole tensor's rounding error, magnified. So every channel is stretched to the full range and its depthwise kernel shrunk by
the same factor, which costs nothing there: those weights have a scale per channel. Cross-layer equalisation (Nagel et
al., arXiv 1906.04721), kept to the one place where it cannot lose precision elsewhere.

On frames like those it was measured on the network computes the same; a channel that exceeds its measured maximum by more than
`HEADROOM` is clipped at the activation's bound, as its quantiser would have done. The FP32 artifacts do not go through this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge.frame import GreyImage
from quantize.onnx_graph import INPUT_NAME, plain_session

HEADROOM: Final = 1.5
LARGEST_FACTOR: Final = 256.0
MEASURED_FRAMES: Final = 64


@dataclass(frozen=True, slots=True)
class _Pair:
    """Conv → Clip(0, bound) → depthwise Conv, nothing else reading in between."""

    first: onnx.NodeProto
    between: str
    depthwise: onnx.NodeProto
    bound: float


def equalise(model: onnx.ModelProto, frames: Sequence[GreyImage]) -> onnx.ModelProto:
    """Return a copy of the FP32 `model` whose channels in front of depthwise convolutions fill their range.

    frames: preprocessed (height, width) uint8 calibration frames; the first 64 are measured.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    constants = {tensor.name: tensor for tensor in result.graph.initializer}
    pairs = _find_pairs(result.graph, constants)
    if not pairs:
        return result
    largest = _largest(result, [pair.between for pair in pairs], frames[:MEASURED_FRAMES])
    for pair, maximum in zip(pairs, largest, strict=True):
        factor = np.clip(pair.bound / (HEADROOM * np.maximum(maximum, 1e-9)), 1.0, LARGEST_FACTOR)
        factor[maximum <= 0.0] = 1.0  # a channel that is never active stays as it is
        column = factor.astype(np.float32)[:, None, None, None]
        _scale(constants[pair.first.input[1]], column)
        if len(pair.first.input) > 2:
            _scale(constants[pair.first.input[2]], column[:, 0, 0, 0])
        multiplier = numpy_helper.to_array(constants[pair.depthwise.input[1]]).shape[0] // len(factor)
        _scale(constants[pair.depthwise.input[1]], 1.0 / np.repeat(column, multiplier, axis=0))
    return result


def _find_pairs(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> list[_Pair]:
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    pairs = []
    for first in graph.node:
        clips = readers.get(first.output[0], []) if first.op_type == "Conv" else []
        if len(clips) != 1 or clips[0].op_type != "Clip":
            continue
        low, high = (_scalar(constants, name) for name in (*clips[0].input, "", "")[1:3])
        last = readers.get(clips[0].output[0], [])
        if low != 0.0 or high is None or len(last) != 1 or last[0].op_type != "Conv":
            continue
        channels = constants[first.input[1]].dims[0] if first.input[1] in constants else 0
        groups = next((item.i for item in last[0].attribute if item.name == "group"), 1)
        own = all(
            name in constants and len(readers[name]) == 1 for name in (*first.input[1:], *last[0].input[1:2])
        )
        if own and groups == channels and not {first.output[0], clips[0].output[0]} & outputs:
            pairs.append(_Pair(first, clips[0].output[0], last[0], high))
    return pairs


def _largest(model: onnx.ModelProto, names: list[str], frames: Sequence[GreyImage]) -> list[NDArray[np.float64]]:
    """The largest value of every channel of the named activations over the frames."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in names:
        probe.graph.output.append(helper.make_empty_tensor_value_info(name))
    session = plain_session(probe)
    largest: list[Any] = [0.0] * len(names)
    for frame in frames:
        for index, values in enumerate(session.run(names, {INPUT_NAME: frame[None, None]})):
            largest[index] = np.maximum(largest[index], values.max(axis=(0, 2, 3)).astype(np.float64))
    return largest


def _scale(tensor: onnx.TensorProto, factor: NDArray[np.float32]) -> None:
    scaled = (numpy_helper.to_array(tensor) * factor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def _scalar(constants: dict[str, onnx.TensorProto], name: str) -> float | None:
    if name not in constants:
        return None
    array = numpy_helper.to_array(constants[name])
    return float(array.reshape(-1)[0]) if array.size == 1 else None
