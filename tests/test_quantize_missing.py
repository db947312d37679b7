"""Quantisers that NNCF leaves out: where they go, which ranges they span, and that the layers between become INT8."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import Array, Constants, array, images, weights
from onnx import TensorProto, helper
from test_quantize_support import build, initializers, intermediate, nodes_of, producers, qdq, readers, weight_dq

from quantize.missing import Range, measure, missing_tensors, parameters_of, quantise_missing
from quantize.onnx_edit import GraphEditor

SIZE = (12, 14)
FRAMES = images(6, SIZE)


def graph(
    *nodes: onnx.NodeProto, outputs: Sequence[str] = ("y",), constants: Constants | None = None, quantised: str = ""
) -> onnx.ModelProto:
    """image → (p − 128) / 128 → pair → "n_dq" (1, 1, 12, 14), then `nodes`. quantised: tensors that have a pair already."""
    first, held = qdq("n", 1 / 128)
    made = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "middle"], ["m"]),
        helper.make_node("Div", ["m", "middle"], ["n"]),
        *first,
    ]
    held = held | (constants or {}) | {"middle": np.float32(128)}
    for node in nodes:
        made.append(node)
        for name in (name for name in node.output if name in quantised.split()):
            pair, more = qdq(name, 0.03, -20)
            made += pair
            held |= more
    return build(made, {"image": (1, 1, *SIZE)}, outputs, held, dtype=TensorProto.UINT8)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def int8_conv(
    source: str, output: str, channels: tuple[int, int] = (1, 4), **attributes: Any
) -> tuple[list[onnx.NodeProto], Constants]:
    """A convolution with INT8 weights."""
    made, held = weight_dq(f"{output}_w", weights(channels[1], channels[0], 3, 3))
    return [made, node("Conv", f"{source} {output}_w_dq", output, pads=[1, 1, 1, 1], **attributes)], held


def after_conv(
    *nodes: onnx.NodeProto, constants: Constants | None = None, quantised: str = "a", outputs: Sequence[str] = ("y",)
) -> onnx.ModelProto:
    """n → INT8 convolution → "c" (1, 4, 12, 14) → nodes → "a", quantised → INT8 convolution → y."""
    first, held = int8_conv("n_dq", "c")
    last, more = int8_conv("a_dq", "y", (4, 2))
    return graph(*first, *nodes, *last, constants=held | more | (constants or {}), quantised=quantised, outputs=outputs)


def missing(model: onnx.ModelProto) -> list[str]:
    return missing_tensors(GraphEditor(model.graph))


def span(model: onnx.ModelProto, tensor: str) -> tuple[float, float]:
    """What the quantiser of a tensor holds."""
    (quantiser,) = [each for each in readers(model, tensor) if each.op_type == "QuantizeLinear"]
    scale, zero_point = (initializers(model)[name] for name in quantiser.input[1:3])
    assert zero_point.dtype == np.uint8
    return float(scale * (0.0 - zero_point)), float(scale * (255.0 - zero_point))


SLOPES: Constants = {"slope": array(np.linspace(0.05, 0.4, 4)).reshape(4, 1, 1)}


# Where they go.


@pytest.mark.parametrize(
    "nodes",
    [
        [node("HardSwish", "c", "a")],
        [node("LeakyRelu", "c", "a", alpha=0.1)],
        [node("Sigmoid", "c", "a")],
        [node("Tanh", "c", "a")],
        [node("HardSigmoid", "c", "a")],
        [node("PRelu", "c slope", "a")],
        [node("GlobalAveragePool", "c", "g"), node("HardSwish", "g", "a")],
    ],
    ids=lambda nodes: " ".join(each.op_type for each in nodes),
)
def test_what_lies_between_a_layer_and_its_activation_is_quantised(nodes: list[onnx.NodeProto]) -> None:
    model = after_conv(*nodes, constants=SLOPES)
    wanted = [each.input[0] for each in nodes]
    assert missing(model) == wanted
    result = quantise_missing(model, FRAMES)
    onnx.checker.check_model(result, full_check=True)
    for tensor, reader in zip(wanted, nodes, strict=True):
        assert [each.op_type for each in readers(result, tensor)] == ["QuantizeLinear"]
        assert producers(result)[producers(result)[reader.output[0]].input[0]].op_type == "DequantizeLinear"
    assert missing(result) == []


def test_both_tensors_of_a_silu_are_quantised_once_for_both_readers() -> None:
    model = after_conv(node("Sigmoid", "c", "s"), node("Mul", "c s", "a"))
    assert missing(model) == ["c", "s"]
    result = quantise_missing(model, FRAMES)
    (sigmoid,), (product,) = nodes_of(result, "Sigmoid"), nodes_of(result, "Mul")
    assert sigmoid.input[0] == product.input[0] == "c_dequantised"
    assert len([each for each in readers(result, "c") if each.op_type == "QuantizeLinear"]) == 1


@pytest.mark.parametrize(("op", "more"), [("Relu", ""), ("Clip", " zero six")])
def test_a_clamp_that_is_fused_needs_none_before_it(op: str, more: str) -> None:
    constants: Constants = {"zero": np.float32(0), "six": np.float32(6)}
    assert missing(after_conv(node(op, f"c{more}", "a"), constants=constants)) == []


def test_a_clamp_that_cannot_be_fused_needs_one_before_it() -> None:
    model = after_conv(node("Relu", "c", "r"), node("Sigmoid", "c", "s"), node("Mul", "r s", "a"))
    assert missing(model) == ["c", "r", "s"]


def test_what_only_moves_takes_the_quantiser_it_has() -> None:
    first, held = int8_conv("n_dq", "c")
    model = graph(
        *first,
        node("MaxPool", "c_dq", "p", kernel_shape=[2, 2]),
        node("HardSwish", "p", "a"),
        node("Relu", "a_dq", "y"),
        constants=held,
        quantised="c a",
    )
    assert missing(model) == []


def test_heads_and_what_leads_to_them_stay_float() -> None:
    first, held = int8_conv("n_dq", "c")
    last, more = int8_conv("c_dq", "h", (4, 2))
    model = graph(*first, *last, node("Sigmoid", "h", "y"), constants=held | more, quantised="c")
    assert missing(model) == []
    assert quantise_missing(model, FRAMES).SerializeToString() == model.SerializeToString()


def test_an_output_that_is_read_on_stays_float() -> None:
    model = after_conv(node("HardSwish", "c", "a"), outputs=("y", "c"))
    assert missing(model) == []


def test_what_a_float_operator_writes_stays_float_and_the_layer_before_it_is_int8() -> None:
    model = after_conv(node("Exp", "c", "e"), node("HardSwish", "e", "a"))
    assert missing(model) == ["c"]


# Ranges.


def extremes(model: onnx.ModelProto, tensor: str) -> Array:
    """Smallest and largest value on each frame."""
    values = [intermediate(model, [tensor], {"image": frame[None, None]})[0] for frame in FRAMES]
    return np.array([(value.min(), value.max()) for value in values], np.float64)


def test_a_range_is_the_mean_of_the_extremes_over_the_frames() -> None:
    model = after_conv(node("LeakyRelu", "c", "a", alpha=0.1))
    low, high = extremes(model, "c").mean(axis=0)
    found = measure(model, ["c"], FRAMES)["c"]
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-5)
    step = (high - low) / 255
    assert span(quantise_missing(model, FRAMES), "c") == pytest.approx((low, high), abs=step)


def test_extremes_are_those_of_all_frames_together() -> None:
    model = after_conv(node("LeakyRelu", "c", "a", alpha=0.1))
    found = measure(model, ["c"], FRAMES, extremes=True)["c"]
    all_of_them = extremes(model, "c")
    assert (found.low, found.high) == pytest.approx((all_of_them.min(), all_of_them.max()), rel=1e-5)
    assert found.high > measure(model, ["c"], FRAMES)["c"].high


@pytest.mark.parametrize(
    ("op", "limits"), [("HardSwish", (-3.0, np.inf)), ("HardSigmoid", (-2.5, 2.5)), ("Sigmoid", (-8.0, 8.0))]
)
def test_a_range_ends_where_the_function_is_constant(op: str, limits: tuple[float, float]) -> None:
    first, held = int8_conv("n_dq", "c")
    model = graph(
        *first,
        node("Mul", "c_dq ten", "w"),
        node(op, "w", "a"),
        node("Relu", "a_dq", "y"),
        constants=held | {"ten": np.float32(30)},
        quantised="c a",
    )
    low, high = extremes(model, "w").mean(axis=0)
    assert low < -8
    assert high > 8
    wanted = max(low, limits[0]), min(high, limits[1])
    assert span(quantise_missing(model, FRAMES), "w") == pytest.approx(wanted, abs=(wanted[1] - wanted[0]) / 255)


def test_a_range_that_something_else_reads_is_kept_whole() -> None:
    first, held = int8_conv("n_dq", "c")
    nodes = [
        node("Mul", "c_dq ten", "w"),
        node("Sigmoid", "w", "s"),
        node("Mul", "w s", "a"),
        node("Relu", "a_dq", "y"),
    ]
    model = graph(*first, *nodes, constants=held | {"ten": np.float32(30)}, quantised="c s a")
    low, high = extremes(model, "w").mean(axis=0)
    assert low < -8
    assert span(quantise_missing(model, FRAMES), "w") == pytest.approx((low, high), abs=(high - low) / 255)


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(-1.0, 1.55, (0.01, 100)), (0.5, 2.55, (0.01, 0)), (-2.55, -0.5, (0.01, 255)), (0.0, 0.0, (1e-12, 0))],
)
def test_a_grid_holds_zero_exactly_and_spans_the_range(low: float, high: float, wanted: tuple[float, int]) -> None:
    assert parameters_of(Range(low, high)) == pytest.approx(wanted)


# Layers that were left in float.


def layer_case(op: str) -> tuple[onnx.ModelProto, Array, int]:
    """A float layer between two quantised tensors, its weights, and the axis of their output channels."""
    first, held = int8_conv("n_dq", "c")
    kernel = {
        "Conv": weights(3, 4, 1, 1),
        "ConvTranspose": weights(4, 3, 2, 2),
        "Gemm": weights(4, 3),
        "Gemm T": weights(3, 4),
    }[op]
    attributes = {"transB": 1} if op == "Gemm T" else {}
    between = [node("GlobalAveragePool", "c_dq", "g"), node("Flatten", "g_dq", "flat")] if op.startswith("Gemm") else []
    source = "flat_dq" if between else "c_dq"
    layer = node(op.removesuffix(" T"), f"{source} kernel", "l", **attributes)
    model = graph(
        *first,
        *between,
        layer,
        node("Relu", "l", "a"),
        node("Tanh", "a_dq", "y"),
        constants=held | {"kernel": kernel},
        quantised="c g flat a",
    )
    return model, kernel, {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "Gemm T": 0}[op]


@pytest.mark.parametrize("largest", [127, 63])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm", "Gemm T"])
def test_a_layer_between_quantised_tensors_gets_int8_weights_a_channel(op: str, largest: int) -> None:
    model, kernel, axis = layer_case(op)
    result = quantise_missing(model, FRAMES, largest_weight=largest)
    onnx.checker.check_model(result, full_check=True)
    (layer,) = [each for each in result.graph.node if each.name == "l"]
    made = producers(result)[layer.input[1]]
    assert made.op_type == "DequantizeLinear"
    integers, scale, zero = (initializers(result)[name] for name in made.input)
    assert integers.dtype == np.int8
    assert not zero.any()
    others = tuple(place for place in range(kernel.ndim) if place != axis)
    assert scale == pytest.approx(np.abs(kernel).max(axis=others) / largest)
    assert (np.abs(integers).max(axis=others) == largest).all()
    (got,) = intermediate(result, [layer.input[1]], {"image": FRAMES[0][None, None]})
    assert np.abs(got - kernel).max() <= scale.max() * 0.5001


def test_a_layer_that_ends_in_float_keeps_its_weights() -> None:
    first, held = int8_conv("n_dq", "c")
    model = graph(
        *first, node("Conv", "c_dq kernel", "y"), constants=held | {"kernel": weights(3, 4, 1, 1)}, quantised="c"
    )
    result = quantise_missing(model, FRAMES)
    assert nodes_of(result, "Conv")[-1].input[1] == "kernel"
