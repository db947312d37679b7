"""Quantiser pairs around every activation of an FP32 graph, on random grids: what a quantiser could have left."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.onnx_graph import plain_session

Array = NDArray[Any]
Grid = tuple[np.float32, Any]  # scale, and a zero point whose type is the storage

QUARTER: Final = "quarter"
_WITH_BIAS: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})


def with_quantisers(
    model: onnx.ModelProto,
    feeds: Mapping[str, Array],
    rng: np.random.Generator,
    *,
    weights: Mapping[str, int | None],
    one_grid: bool = False,
) -> tuple[onnx.ModelProto, dict[str, float]]:
    """`model` as QDQ, and the step of each output.

    Every float activation gets a pair whose grid roughly covers its values on `feeds`; every output gets 0.25 added in
    float behind it. weights: names of constants to store as INT8, with the axis that may have a scale a channel (None: one
    scale). one_grid: all activations share the first one's grid, as operators want that cannot rescale.
    """
    graph = model.graph
    constants = {tensor.name: np.asarray(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    grids = _grids(model, feeds, rng, one_grid=one_grid)
    nodes: list[onnx.NodeProto] = []
    held: dict[str, Array] = {QUARTER: np.asarray(0.25, np.float32)}
    scales: dict[str, Array] = {}
    for name, axis in weights.items():
        dequantise, scales[name] = _weight(name, constants.pop(name), axis, rng, held)
        nodes.append(dequantise)
    for name in feeds:
        nodes += _pair(name, grids, held)
    for node in graph.node:
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        bias = node.input[2] if node.op_type in _WITH_BIAS and len(node.input) > 2 else ""
        if bias in constants and _is_vector(constants[bias]) and node.input[1] in scales and rng.random() < 0.3:
            nodes.append(_bias(bias, constants.pop(bias), grids[node.input[0]][0] * scales[node.input[1]], held))
            copied.input[2] = f"{bias}_dq"
        for index, name in enumerate(copied.input):
            if name in grids or name in weights:
                copied.input[index] = f"{name}_dq"
        nodes.append(copied)
        for name in node.output:
            nodes += _pair(name, grids, held)
    outputs = []
    for value in graph.output:
        source = f"{value.name}_dq" if value.name in grids else value.name
        nodes.append(helper.make_node("Add", [source, QUARTER], [f"{value.name}_out"], name=f"{value.name}_shift"))
        outputs.append(helper.make_tensor_value_info(f"{value.name}_out", TensorProto.FLOAT, _dims(value)))
    tensors = [numpy_helper.from_array(array, name) for name, array in {**constants, **held}.items()]
    made = helper.make_graph(nodes, "graph", graph.input, outputs, tensors)
    steps = {f"{value.name}_out": float(grids[value.name][0]) for value in graph.output}
    return helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version), steps


def activations(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Values of every tensor that a node writes, from ONNX Runtime without optimisations."""
    names = [name for node in model.graph.node for name in node.output if name]
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return dict(zip(names, plain_session(probed).run(names, dict(feeds)), strict=True))


def _grids(
    model: onnx.ModelProto, feeds: Mapping[str, Array], rng: np.random.Generator, *, one_grid: bool
) -> dict[str, Grid]:
    values = {**feeds, **activations(model, feeds)}
    storage = np.uint8 if rng.random() < 0.3 else np.int8
    spread = [array for array in values.values() if array.dtype == np.float32]
    common = _grid(np.concatenate([array.reshape(-1) for array in spread]), storage, rng) if one_grid else None
    return {name: common or _grid(array, storage, rng) for name, array in values.items() if array.dtype == np.float32}


def _grid(values: Array, storage: type[np.int8] | type[np.uint8], rng: np.random.Generator) -> Grid:
    finite = values[np.isfinite(values)]
    low, high = min(0.0, float(finite.min(initial=0.0))), max(0.0, float(finite.max(initial=0.0)))
    scale = np.float32(max(high - low, 1e-3) / 255 * rng.uniform(0.8, 1.4))
    limits = np.iinfo(storage)
    zero_point = np.clip(np.rint(limits.min - low / scale) + rng.integers(-5, 6), limits.min, limits.max)
    return scale, storage(zero_point)


def _pair(name: str, grids: Mapping[str, Grid], held: dict[str, Array]) -> list[onnx.NodeProto]:
    if name not in grids:
        return []
    held[f"{name}_scale"], held[f"{name}_zero"] = (np.asarray(part) for part in grids[name])
    parameters = [f"{name}_scale", f"{name}_zero"]
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}_q"], name=f"{name}_quantise"),
        helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_dq"], name=f"{name}_dequantise"),
    ]


def _weight(
    name: str, values: Array, axis: int | None, rng: np.random.Generator, held: dict[str, Array]
) -> tuple[onnx.NodeProto, Array]:
    """A weight's DequantizeLinear and its scale; symmetric, per channel or per tensor, now and then stored as uint8."""
    per_channel = axis is not None and rng.random() < 0.6
    others = tuple(index for index in range(values.ndim) if index != axis) if per_channel else None
    scale = np.maximum(np.abs(values).max(axis=others, initial=1e-6) / 127, 1e-6).astype(np.float32)
    shape = [-1 if index == axis and per_channel else 1 for index in range(values.ndim)]
    integers = np.clip(np.rint(values / scale.reshape(shape)), -127, 127)
    unsigned = rng.random() < 0.15
    storage: type[np.int8] | type[np.uint8] = np.uint8 if unsigned else np.int8
    held[name] = (integers + 128 * unsigned).astype(storage)
    held[f"{name}_scale"], held[f"{name}_zero"] = scale, np.full(scale.shape, 128 * unsigned, storage)
    attributes: dict[str, Any] = {"axis": axis} if per_channel else {}
    inputs = [name, f"{name}_scale", f"{name}_zero"]
    node = helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], name=f"{name}_dequantise", **attributes)
    return node, scale


def _bias(name: str, values: Array, scale: Array, held: dict[str, Array]) -> onnx.NodeProto:
    """A bias as INT32 on the accumulator's grid, as ONNX Runtime's quantiser stores it."""
    flat = np.broadcast_to(values.reshape(-1), (max(values.size, scale.size),))
    scale = np.tile(scale, flat.size // scale.size) if scale.ndim else scale  # a scale a channel of each group
    held[name] = np.clip(np.rint(flat / scale), -(2**31) + 1, 2**31 - 1).astype(np.int32)
    held[f"{name}_scale"], held[f"{name}_zero"] = scale.astype(np.float32), np.zeros(scale.shape, np.int32)
    inputs = [name, f"{name}_scale", f"{name}_zero"]
    attributes: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dq"], name=f"{name}_dequantise", **attributes)


def _is_vector(values: Array) -> bool:
    return all(size == 1 for size in values.shape[:-1])


def _dims(value: onnx.ValueInfoProto) -> list[int] | None:
    kind = value.type.tensor_type
    return [dim.dim_value for dim in kind.shape.dim] if kind.HasField("shape") else None
