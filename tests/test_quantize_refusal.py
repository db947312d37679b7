"""What TFLite cannot express is refused: the node, its operator, why, what to do about it, and all of it at once."""

import numpy as np
import onnx
import pytest
from lowering_checks import quantised, refusal, replaced
from onnx import TensorProto, helper
from test_quantize_support import Constants, build, initializers, qdq

from quantize.tflite.ops import LOWERINGS, REMEDIES

IMAGES = (1, 3, 4, 5)
SUPPORTED = """
    Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Conv ConvTranspose Cos DepthToSpace Div Dropout Elu Exp
    Flatten Floor Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity LeakyRelu Log MatMul Max MaxPool Min Mul
    Neg PRelu Pad Pow ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Sigmoid Sin Slice Softmax SpaceToDepth Split
    Sqrt Squeeze Sub Swish Tanh Transpose Unsqueeze Upsample
"""


def node(op: str, *inputs: str, to: str, name: str = "it", **attributes: object) -> onnx.NodeProto:
    made: onnx.NodeProto = helper.make_node(op, list(inputs), [to], name=name)
    made.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    return made


# Operators.


def test_the_operators_that_are_lowered() -> None:
    assert LOWERINGS.keys() >= {*SUPPORTED.split()}
    assert not LOWERINGS.keys() & REMEDIES.keys()


def lstm() -> onnx.ModelProto:
    memory = helper.make_node("LSTM", ["x", "w", "r"], ["", "", "y"], name="memory", hidden_size=2)
    constants = {"w": np.zeros((1, 8, 3), np.float32), "r": np.zeros((1, 8, 2), np.float32)}
    return build([memory], {"x": (1, 1, 3)}, ["y"], constants)


def test_an_operator_without_lowering() -> None:
    assert refusal(lstm()) == (
        "TFLite cannot express 1 of 1 nodes. LSTM 'memory': no lowering to TFLite; replace the operator"
    )


def test_every_offender_is_named_in_one_message() -> None:
    """Nodes of one operator with one reason share a line; what lies between them is not blamed."""
    nodes = [
        node("Erf", "x", to="a", name="one"),
        node("Relu", "a", to="b", name="fine"),
        node("Einsum", "b", "b", to="c", name="sum", equation="nchw,nchw->nchw"),
        node("Erf", "c", to="d", name="another"),
        node("Elu", "d", to="e", name="steep", alpha=2.0),
        node("Elu", "e", to="f", name="steeper", alpha=3.0),
        node("MaxPool", "f", to="g", name="holes", kernel_shape=[2, 2], dilations=[2, 2]),
        node("Conv", "g", "w", to="y", name="fine too"),
    ]
    model = build(nodes, {"x": (1, 3, 8, 8)}, ["y"], {"w": np.ones((4, 3, 1, 1), np.float32)})
    assert refusal(model) == (
        "TFLite cannot express 6 of 8 nodes. "
        f"Erf 'one', 'another': {REMEDIES['Erf']}; "
        f"Einsum 'sum': {REMEDIES['Einsum']}; "
        "Elu 'steep': alpha 2.0; TFLite's ELU has 1, use a LeakyRelu; "
        "Elu 'steeper': alpha 3.0; TFLite's ELU has 1, use a LeakyRelu; "
        "MaxPool 'holes': dilated pooling; TFLite has none, use a stride or a dilated convolution"
    )


def test_a_node_without_name_goes_by_its_output() -> None:
    assert "Erf 'y': " in refusal(build([helper.make_node("Erf", ["x"], ["y"])], {"x": (2, 3)}, ["y"]))


@pytest.mark.parametrize("op", ["Erf", "GridSample", "InstanceNormalization", "LayerNormalization"])
def test_a_remedy_says_what_to_do(op: str) -> None:
    constants: Constants = {"scale": np.ones(3, np.float32), "bias": np.zeros(3, np.float32)}
    shape = (1, 3, 4, 3)
    match op:
        case "GridSample":
            model = build([node(op, "x", "g", to="y")], {"x": shape, "g": (1, 4, 5, 2)}, ["y"])
        case "Erf":
            model = build([node(op, "x", to="y")], {"x": shape}, ["y"])
        case _:
            model = build([node(op, "x", "scale", "bias", to="y")], {"x": shape}, ["y"], constants)
    assert refusal(model) == f"TFLite cannot express 1 of 1 nodes. {op} 'it': {REMEDIES[op]}"
    assert "; " in REMEDIES[op]


def test_operators_of_other_vendors_are_named_with_their_domain() -> None:
    graph = helper.make_graph(
        [helper.make_node("FusedGelu", ["x"], ["y"], name="it", domain="com.example")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    message = refusal(helper.make_model(graph, opset_imports=opsets, ir_version=10))
    assert message.startswith("TFLite cannot express 1 of 1 nodes. com.example.FusedGelu 'it': no lowering")


def test_shapes_that_depend_on_data_are_refused_where_they_begin() -> None:
    """One offender, not everything behind it."""
    nodes = [
        node("NonZero", "x", to="places", name="where"),
        helper.make_node("Cast", ["places"], ["f"], name="cast", to=TensorProto.FLOAT),
        node("ReduceMean", "f", to="y", name="mean", keepdims=0),
    ]
    message = refusal(build(nodes, {"x": (2, 3)}, ["y"]))
    assert message == "TFLite cannot express 1 of 3 nodes. NonZero 'where': no lowering to TFLite; replace the operator"


def test_a_known_operator_of_unknown_shape_is_refused() -> None:
    graph = helper.make_graph(
        [node("Reshape", "x", "shape", to="y")],
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6]),
            helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 3])],
    )
    message = refusal(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    assert "Reshape 'it': its shape (rows, 3) is not fixed; fix the shape or replace the operator" in message


# Quantisers.


@pytest.mark.parametrize("scale", [0.0, -0.04, np.nan, np.inf, 1e-45, 1e30])
@pytest.mark.parametrize(
    "name, what", [("x", "x_quantise' (QuantizeLinear)"), ("w", "w_dequantise' (DequantizeLinear)")]
)
def test_scales_that_are_no_positive_number(scale: float, name: str, what: str) -> None:
    model = quantised("Conv", {"x": IMAGES}, {"w": np.ones((4, 3, 1, 1), np.float32)})
    odd = initializers(model)[f"{name}_scale"].copy()
    odd[...] = scale
    message = refusal(replaced(model, **{f"{name}_scale": odd}))
    assert f"node '{what} has a scale that is not a positive number of sensible size; calibrate again" in message


def test_activations_with_a_scale_a_channel() -> None:
    model = quantised("Relu", {"x": IMAGES})
    held = initializers(model)
    model = replaced(model, x_scale=np.full(3, held["x_scale"]), x_zero=np.full(3, held["x_zero"]))
    message = refusal(model)
    assert "node 'x_quantise' (QuantizeLinear) has a scale per channel; quantise activations per tensor" in message


def test_activations_in_sixteen_bits() -> None:
    model = replaced(quantised("Relu", {"x": IMAGES}), x_zero=np.zeros((), np.int16), out_zero=np.zeros((), np.int16))
    model.opset_import[0].version = 21
    message = refusal(model)
    assert "node 'x_quantise' (QuantizeLinear) quantises to int16" in message
    assert "int8 and uint8 are lowered, quantise to one of them" in message


def test_quantisers_in_blocks() -> None:
    held: Constants = {"w": np.ones((4, 4), np.int8), "s": np.ones((2, 4), np.float32), "z": np.zeros((2, 4), np.int8)}
    nodes = [
        node("DequantizeLinear", "w", "s", "z", to="w_dq", name="blocks", axis=0, block_size=2),
        node("MatMul", "x", "w_dq", to="y"),
    ]
    message = refusal(build(nodes, {"x": (1, 4)}, ["y"], held, opset=21))
    assert "node 'blocks' (DequantizeLinear) quantises in blocks; quantise per tensor or per channel" in message


def test_a_computed_scale() -> None:
    nodes = [
        node("ReduceMax", "x", to="s", name="peak", keepdims=0),
        node("QuantizeLinear", "x", "s", "z", to="q", name="dynamic"),
        node("DequantizeLinear", "q", "s", "z", to="y"),
    ]
    message = refusal(build(nodes, {"x": (1, 4)}, ["y"], {"z": np.int8(0)}))
    assert "node 'dynamic' (QuantizeLinear) has a computed scale or zero point; freeze it" in message


def test_a_pair_of_two_scales() -> None:
    nodes, held = qdq("x", 0.04)
    nodes[1].input[1] = "other"
    message = refusal(build(nodes, {"x": (1, 4)}, ["x_dq"], held | {"other": np.float32(0.05)}))
    assert "node 'x_dequantise' (DequantizeLinear) has another scale than its QuantizeLinear; give both one" in message


# Integers.


@pytest.mark.parametrize("op", ["Cast", "Concat", "Clip"])
def test_integers_that_something_else_reads(op: str) -> None:
    nodes, held = qdq("x", 0.04)
    match op:
        case "Cast":
            nodes.append(helper.make_node(op, ["x_q"], ["y"], name="peek", to=TensorProto.FLOAT))
        case "Concat":
            pair = nodes.pop()
            nodes += [node(op, "x_q", "x_q", to="two", name="peek", axis=0), pair]
            pair.input[0], pair.output[0] = "two", "y"
        case _:
            pair = nodes.pop()
            bound = node("QuantizeLinear", "high", "x_scale", "x_zero", to="high_q")
            nodes += [bound, node(op, "x_q", "", "high_q", to="clipped", name="peek"), pair]
            pair.input[0], pair.output[0] = "clipped", "y"
    inputs = {"x": (1, 3), "high": ()} if op == "Clip" else {"x": (1, 3)}
    message = refusal(build(nodes, inputs, ["y"], held))
    assert f"node 'peek' ({op}) reads integers; supported are graphs whose quantisers come in pairs (QDQ)" in message


def test_a_dequantiser_of_computed_integers() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], name="cast", to=TensorProto.INT8),
        node("DequantizeLinear", "i", "s", to="y", name="lonely"),
    ]
    message = refusal(build(nodes, {"x": (1, 3)}, ["y"], {"s": np.float32(1)}))
    assert "node 'lonely' (DequantizeLinear) has no QuantizeLinear before it" in message


def test_an_output_of_integers() -> None:
    nodes, held = qdq("x", 0.04)
    model = build(nodes, {"x": (1, 3)}, ["x_dq"], held)
    model.graph.output.append(helper.make_tensor_value_info("x_q", TensorProto.INT8, [1, 3]))
    assert "output 'x_q' is made of integers; let the network end in a DequantizeLinear" in refusal(model)


def test_a_network_in_the_other_quantised_format() -> None:
    """QLinearConv and its kind: integers throughout."""
    scales: Constants = {name: np.float32(0.04) for name in ("xs", "ws", "ys")} | {"z": np.int8(0)}
    nodes = [
        node("QuantizeLinear", "x", "xs", "z", to="q"),
        node("QLinearConv", "q", "xs", "z", "w", "ws", "z", "ys", "z", to="c", name="integers"),
        node("DequantizeLinear", "c", "ys", "z", to="y"),
    ]
    message = refusal(build(nodes, {"x": IMAGES}, ["y"], scales | {"w": np.ones((4, 3, 1, 1), np.int8)}))
    assert "'integers'" in message
    assert "QDQ" in message


# Files that are no network.


def test_a_tensor_that_nothing_writes() -> None:
    model = build([node("Relu", "x", to="y")], {"x": (2,)}, ["y"])
    model.graph.node[0].input[0] = "gone"
    message = refusal(model)
    assert message.startswith("not a valid ONNX network: ")
    assert "gone" in message
