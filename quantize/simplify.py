"""Bring a float network into the form that quantises well: equal in every engine, before any quantiser is placed.

Constants are folded by onnxscript; what follows are rewrites that change no result beyond float rounding.
"""

from typing import Any, Final

import numpy as np
import onnx
import onnxscript.optimizer
from onnx import helper

from edge.errors import ConversionError
from quantize.onnx_edit import GraphEditor, attributes_of, copy_of
from quantize.onnx_graph import QUANTISERS

_MOST_FOLDED: Final = 1 << 26
_UNARY: Final = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh"})


def fold(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and drop what is dead. Raises ConversionError when the graph does not allow it."""
    try:
        folded = onnxscript.optimizer.optimize(model, output_size_limit=_MOST_FOLDED)
    except Exception as error:  # whatever a malformed graph makes the optimiser raise
        raise ConversionError(f"the graph cannot be folded: {type(error).__name__}: {error}") from error
    assert isinstance(folded, onnx.ModelProto)
    return folded


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return an equal float network in fewer kinds of operators. A network with quantisers is only folded."""
    result = copy_of(fold(model))
    editor = GraphEditor(result.graph)
    _cancel_transposes(editor)
    if not any(node.op_type in QUANTISERS for node in result.graph.node):
        for rewrite in (
            _divide_by_constants,
            _join_hard_swish,
            _split_swish,
            _join_gemm,
            _write_norms_as_convolutions,
            _reorder_pixel_shuffle,
            _part_biases,
        ):
            rewrite(editor)
    editor.drop_unused()
    result.graph.ClearField("value_info")
    return result


def cancel_transposes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without the Transposes that undo each other."""
    result = copy_of(model)
    editor = GraphEditor(result.graph)
    _cancel_transposes(editor)
    editor.drop_unused()
    result.graph.ClearField("value_info")
    return result


def _cancel_transposes(editor: GraphEditor) -> None:
    """Two Transposes in a row that undo each other, as NHWC networks have them around every layer."""
    for node in [node for node in editor.graph.node if node.op_type == "Transpose"]:
        producers, consumers, outputs = editor.producers(), editor.consumers(), editor.outputs()
        before = producers.get(node.input[0])
        if before is None or before.op_type != "Transpose":
            continue
        first, second = (attributes_of(each).get("perm") for each in (before, node))
        if not first or not second or [first[axis] for axis in second] != list(range(len(first))):
            continue
        source, result = before.input[0], node.output[0]
        if result not in outputs:
            editor.redirect(result, source, consumers.get(result, []))
        elif source in producers and source not in outputs:  # an output keeps its name
            writer = producers[source]
            del editor.graph.node[editor.place_of(node)]
            editor.redirect(source, result, consumers[source])
            writer.output[list(writer.output).index(source)] = result


def _divide_by_constants(editor: GraphEditor) -> None:
    """x / c is x · (1 / c): no INT8 engine divides."""
    for node in list(editor.graph.node):
        divisor = editor.array(node.input[1]) if node.op_type == "Div" else None
        if divisor is None or divisor.dtype != np.float32 or not divisor.all():
            continue
        if divisor.size == 1 and _reads_pixels(editor, node):
            continue
        name = editor.add_constant(
            f"{node.output[0]}_reciprocal", (1.0 / divisor.astype(np.float64)).astype(np.float32)
        )
        editor.replace(node, helper.make_node("Mul", [node.input[0], name], list(node.output), name=node.name))


def _reads_pixels(editor: GraphEditor, node: onnx.NodeProto) -> bool:
    """True for the Div of (p − c) / s behind the Cast of a grey image, which the INT8 graph makes exact (`quantize/qdq.py`)."""
    producers = editor.producers()
    before = producers.get(node.input[0])
    cast = producers.get(before.input[0]) if before is not None and before.op_type == "Sub" else None
    if cast is None or cast.op_type != "Cast":
        return False
    shapes = {value.name: value.type.tensor_type.shape.dim for value in editor.graph.input}
    shape = shapes.get(cast.input[0], ())
    return len(shape) == 4 and shape[1].dim_value == 1


def _join_hard_swish(editor: GraphEditor) -> None:
    """x · HardSigmoid(x; 1/6, 1/2), and the same written with Clip(x + 3, 0, 6), is HardSwish (opset 14)."""
    _join_products(editor)
    _join_hard_sigmoid(editor)
    producers = editor.producers()
    for node in [node for node in editor.graph.node if node.op_type == "Mul"]:
        for x, gate in (tuple(node.input), tuple(reversed(node.input))):
            before = producers.get(gate)
            if before is None or before.op_type != "HardSigmoid" or before.input[0] != x:
                continue
            attributes = attributes_of(before)
            if abs(attributes.get("alpha", 0.2) - 1 / 6) < 1e-6 and abs(attributes.get("beta", 0.5) - 0.5) < 1e-6:
                editor.replace(node, helper.make_node("HardSwish", [x], list(node.output), name=node.name))
                break


def _join_products(editor: GraphEditor) -> None:
    """x · Clip(x + 3, 0, 6) · 1/6, multiplied in any order, is HardSwish."""
    for node in [node for node in editor.graph.node if node.op_type == "Mul"]:
        producers, consumers, outputs = editor.producers(), editor.consumers(), editor.outputs()
        for outer, inner in (tuple(node.input), tuple(reversed(node.input))):
            product = producers.get(inner)
            if product is None or product.op_type != "Mul" or len(consumers[inner]) > 1 or inner in outputs:
                continue
            rest = [name for name in (outer, *product.input) if not _is_sixth(editor, name)]
            clipped = {_clipped_by(editor, name, producers) for name in rest}
            inputs = [name for name in rest if name in clipped]
            if len(rest) == 2 and inputs:
                editor.replace(node, helper.make_node("HardSwish", inputs[:1], list(node.output), name=node.name))
                break


def _join_hard_sigmoid(editor: GraphEditor) -> None:
    """Clip(x + 3, 0, 6) · 1/6 is HardSigmoid."""
    for node in [node for node in editor.graph.node if node.op_type == "Mul"]:
        producers, consumers = editor.producers(), editor.consumers()
        for inner, factor in (tuple(node.input), tuple(reversed(node.input))):
            x = _clipped_by(editor, inner, producers)
            if x is None or len(consumers[inner]) > 1 or not _is_sixth(editor, factor):
                continue
            made = helper.make_node("HardSigmoid", [x], list(node.output), name=node.name, alpha=1 / 6, beta=0.5)
            editor.replace(node, made)
            break


def _is_sixth(editor: GraphEditor, name: str) -> bool:
    value = editor.scalar(name)
    return value is not None and abs(value - 1 / 6) < 1e-6


def _clipped_by(editor: GraphEditor, name: str, producers: dict[str, onnx.NodeProto]) -> str | None:
    """x where `name` is Clip(x + 3, 0, 6)."""
    clip = producers.get(name)
    if clip is None or clip.op_type != "Clip" or len(clip.input) < 3:
        return None
    add = producers.get(clip.input[0])
    if add is None or add.op_type != "Add" or [editor.scalar(bound) for bound in clip.input[1:3]] != [0.0, 6.0]:
        return None
    others = [name for name in add.input if editor.scalar(name) != 3.0]
    return others[0] if len(others) == 1 else None


def _split_swish(editor: GraphEditor) -> None:
    """Swish(x) is x · Sigmoid(x): the two that every engine quantises."""
    for node in list(editor.graph.node):
        if node.op_type != "Swish" or attributes_of(node).get("alpha", 1.0) != 1.0:
            continue
        gate = f"{node.output[0]}_gate"
        editor.replace(
            node,
            helper.make_node("Sigmoid", [node.input[0]], [gate], name=gate),
            helper.make_node("Mul", [node.input[0], gate], list(node.output), name=node.name),
        )


def _join_gemm(editor: GraphEditor) -> None:
    """MatMul with a constant matrix, and the Add of a constant vector behind it, is Gemm."""
    ranks = _ranks(editor)
    for node in list(editor.graph.node):
        if node.op_type != "MatMul" or ranks.get(node.input[0]) != 2:
            continue
        weights = editor.array(node.input[1])
        if weights is None or weights.ndim != 2:
            continue
        readers = editor.consumers().get(node.output[0], [])
        bias, output = None, node.output[0]
        if len(readers) == 1 and readers[0].op_type == "Add" and output not in editor.outputs():
            other = [name for name in readers[0].input if name != output]
            values = editor.array(other[0]) if other else None
            if values is not None and values.shape in ((), (1,), (1, 1), (weights.shape[1],), (1, weights.shape[1])):
                spread = np.array(np.broadcast_to(values.reshape(-1), weights.shape[1:]))
                bias, output = editor.add_constant(f"{output}_bias", spread), readers[0].output[0]
                del editor.graph.node[editor.place_of(readers[0])]
        inputs = [*node.input, *([bias] if bias else [])]
        editor.replace(node, helper.make_node("Gemm", inputs, [output], name=node.name))


def _write_norms_as_convolutions(editor: GraphEditor) -> None:
    """A batch norm that no layer before it can take is a depthwise 1×1 convolution: INT8 everywhere, exact scales."""
    ranks = _ranks(editor)
    for node in list(editor.graph.node):
        parameters = [editor.array(name) for name in node.input[1:5]] if node.op_type == "BatchNormalization" else []
        if len(parameters) != 4 or any(values is None for values in parameters) or ranks.get(node.input[0]) != 4:
            continue
        attributes = attributes_of(node)
        if attributes.get("training_mode", 0) or any(node.output[1:]):
            continue
        scale, bias, mean, variance = (np.asarray(values, np.float64) for values in parameters)
        factor = scale / np.sqrt(variance + attributes.get("epsilon", 1e-5))
        weights = editor.add_constant(f"{node.output[0]}_factor", factor.astype(np.float32).reshape(-1, 1, 1, 1))
        offset = editor.add_constant(f"{node.output[0]}_offset", (bias - mean * factor).astype(np.float32))
        inputs, outputs = [node.input[0], weights, offset], list(node.output[:1])
        editor.replace(
            node, helper.make_node("Conv", inputs, outputs, name=node.name, group=len(factor), kernel_shape=[1, 1])
        )


def _reorder_pixel_shuffle(editor: GraphEditor) -> None:
    """DepthToSpace in CRD order behind a convolution: reorder the convolution's channels, and DCR does."""
    for node in list(editor.graph.node):
        attributes = attributes_of(node)
        if node.op_type != "DepthToSpace" or attributes.get("mode", "DCR") != "CRD":
            continue
        producers, consumers = editor.producers(), editor.consumers()
        between = [node.input[0]]
        while between[-1] in producers and producers[between[-1]].op_type in _UNARY:
            between.append(producers[between[-1]].input[0])
        layer = producers.get(between[-1])
        alone = not editor.outputs() & set(between) and all(len(consumers[name]) == 1 for name in between)
        if layer is None or layer.op_type != "Conv" or not alone or attributes_of(layer).get("group", 1) != 1:
            continue
        arrays = [editor.array(each) for each in layer.input[1:]]
        if any(values is None for values in arrays):
            continue
        block = attributes["blocksize"]
        order = np.arange(len(np.asarray(arrays[0]))).reshape(-1, block, block).transpose(1, 2, 0).reshape(-1)
        for index, values in enumerate(arrays):
            moved = editor.add_constant(f"{layer.output[0]}_shuffled_{index}", np.asarray(values)[order])
            layer.input[index + 1] = moved
        editor.replace(
            node,
            helper.make_node(
                "DepthToSpace", list(node.input), list(node.output), name=node.name, blocksize=block, mode="DCR"
            ),
        )


def _part_biases(editor: GraphEditor) -> None:
    """Layers that share a bias get one each: what quantisation takes from a layer's bias is no other layer's error."""
    consumers = editor.consumers()
    for node in editor.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
            continue
        values = editor.array(node.input[2])
        if values is not None and len(consumers[node.input[2]]) > 1:
            node.input[2] = editor.add_constant(editor.unused(f"{node.output[0]}_bias"), values)


def _ranks(editor: GraphEditor) -> dict[str, int]:
    """Ranks of tensors, as far as shape inference has left them in the graph."""
    values: Any = (*editor.graph.input, *editor.graph.value_info, *editor.graph.output)
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}
