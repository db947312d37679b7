"""Rewrites of a float network: the same values, in the operators that quantise well, and only where that holds."""

from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import Array, Constants, array, model_of, weights
from onnx import TensorProto, helper
from rewrite_checks import network, node, ops, simplified, values
from test_quantize_support import initializers, nodes_of, run_referee

from edge.errors import ConversionError
from quantize.onnx_graph import checked
from quantize.simplify import cancel_transposes, fold, simplify

NCHW, NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def conv(source: str, output: str, name: str = "w", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", f"{source} {name}", output, pads=[1, 1, 1, 1], **attributes)


KERNEL: Constants = {"w": weights(4, 4, 3, 3)}
NORM: Constants = {
    "gain": array([0.5, -1.5, 2.0, 1.0]),
    "shift": array([0.1, 0.2, -0.3, 0.0]),
    "mean": array([1.0, -1.0, 0.5, 0.0]),
    "variance": array([0.5, 2.0, 1.0, 4.0]),
}


# Batch norms.


def test_a_norm_behind_a_convolution_goes_into_it() -> None:
    nodes = conv("x", "c"), node("BatchNormalization", "c gain shift mean variance", "y", epsilon=0.01)
    assert ops(simplified(network(*nodes, constants=KERNEL | NORM))) == {"Conv": 1}


def test_a_norm_that_nothing_can_take_is_a_depthwise_convolution() -> None:
    nodes = node("Relu", "x", "r"), node("BatchNormalization", "r gain shift mean variance", "y", epsilon=0.01)
    result = simplified(network(*nodes, constants=NORM))
    assert ops(result) == {"Relu": 1, "Conv": 1}
    (layer,) = nodes_of(result, "Conv")
    assert initializers(result)[layer.input[1]].shape == (4, 1, 1, 1)
    assert helper.get_node_attr_value(layer, "group") == 4


def test_a_convolution_that_something_else_reads_keeps_its_values() -> None:
    nodes = conv("x", "z"), node("BatchNormalization", "z gain shift mean variance", "y")
    assert ops(simplified(network(*nodes, constants=KERNEL | NORM, outputs="y z"))) == {"Conv": 2}


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 9)])
def test_a_norm_of_no_image_stays(shape: tuple[int, ...]) -> None:
    nodes = node("Relu", "x", "r"), node("BatchNormalization", "r gain shift mean variance", "y")
    assert ops(simplified(network(*nodes, constants=NORM, shape=shape)))["BatchNormalization"] == 1


def test_a_norm_in_training_stays() -> None:
    """It takes its statistics from the frame."""
    norm = helper.make_node(
        "BatchNormalization", ["x", *NORM], ["z", "mean_now", "variance_now"], name="norm", training_mode=1
    )
    model = network(norm, node("Relu", "z", "y"), constants=NORM)
    assert ops(simplify(checked(model, at_least=18)))["BatchNormalization"] == 1


# Division.


@pytest.mark.parametrize(
    "divisor", [np.float32(6), array([[[2.0]], [[3.0]], [[-5.0]], [[0.7]]])], ids=["scalar", "a channel"]
)
def test_division_by_constants_is_multiplication(divisor: Array) -> None:
    nodes = node("Div", "x d", "z"), node("Relu", "z", "y")
    result = simplified(network(*nodes, constants={"d": divisor}))
    assert ops(result) == {"Mul": 1, "Relu": 1}


@pytest.mark.parametrize("inputs", ["x z", "d x"])
def test_division_by_what_is_computed_stays(inputs: str) -> None:
    nodes = node("Exp", "x", "z"), node("Div", inputs.replace("d x", "d z"), "y")
    assert ops(simplified(network(*nodes, constants={"d": np.float32(2)})))["Div"] == 1


def test_division_by_zero_stays() -> None:
    nodes = node("Div", "x d", "z"), node("Clip", "z low high", "y")
    constants = {"d": np.float32(0), "low": np.float32(-1), "high": np.float32(1)}
    assert ops(simplify(checked(network(*nodes, constants=constants), at_least=18)))["Div"] == 1


def normalised_image(channels: int) -> onnx.ModelProto:
    nodes = node("Cast", "x", "f", to=TensorProto.FLOAT), node("Sub", "f c", "m"), node("Div", "m s", "y")
    constants = {"c": np.float32(127.5), "s": np.float32(127.5)}
    return model_of(nodes, {"x": (1, channels, 6, 7)}, {"y": None}, constants, dtype=TensorProto.UINT8)


@pytest.mark.parametrize("channels, divisions", [(1, 1), (3, 0)])
def test_the_normalisation_of_a_grey_image_stays_a_division(channels: int, divisions: int) -> None:
    """Its quantiser has the scale 1/s."""
    result = simplify(checked(normalised_image(channels), at_least=18))
    assert ops(result)["Div"] == divisions
    assert ops(result)["Mul"] == 1 - divisions


# Linear layers.

MATRIX: Constants = {"m": weights(7, 5), "v": array([0.3, -0.2, 0.1, 0.5, -0.9])}


@pytest.mark.parametrize("inputs", ["p v", "v p"])
@pytest.mark.parametrize("bias", [MATRIX["v"], MATRIX["v"][None], np.float32(0.7)], ids=["vector", "matrix", "scalar"])
def test_matmul_and_add_are_one_layer(inputs: str, bias: Array) -> None:
    nodes = node("MatMul", "x m", "p"), node("Add", inputs, "s"), node("Relu", "s", "y")
    result = simplified(network(*nodes, constants=MATRIX | {"v": bias}, shape=(1, 7)))
    assert ops(result) == {"Gemm": 1, "Relu": 1}
    assert initializers(result)[nodes_of(result, "Gemm")[0].input[2]].shape == (5,)


def test_matmul_alone_is_a_layer() -> None:
    nodes = node("MatMul", "x m", "p"), node("Relu", "p", "y")
    assert ops(simplified(network(*nodes, constants=MATRIX, shape=(1, 7)))) == {"Gemm": 1, "Relu": 1}


@pytest.mark.parametrize("bias", [np.float32(0.7), array([0.7]), array([[0.7]])], ids=["scalar", "vector", "matrix"])
def test_a_layer_of_one_value_takes_any_bias(bias: Array) -> None:
    nodes = node("MatMul", "x m", "p"), node("Add", "p v", "y")
    model = network(*nodes, constants={"m": weights(7, 1), "v": bias}, shape=(1, 7))
    result = simplify(checked(model, at_least=18))
    assert ops(result)["Gemm"] == 1
    feeds = {"x": values((1, 7))}
    np.testing.assert_allclose(run_referee(result, feeds)["y"], run_referee(model, feeds)["y"], rtol=1e-5)


def test_an_add_that_makes_another_shape_is_no_bias() -> None:
    nodes = node("MatMul", "x m", "p"), node("Add", "p v", "s"), node("Relu", "s", "y")
    model = network(*nodes, constants=MATRIX | {"v": MATRIX["v"].reshape(1, 1, 5)}, shape=(1, 7))
    assert ops(simplified(model))["Add"] == 1


def test_an_add_of_what_is_computed_is_no_bias() -> None:
    nodes = node("MatMul", "x m", "p"), node("Relu", "p", "r"), node("Add", "p r", "y")
    assert ops(simplified(network(*nodes, constants=MATRIX, shape=(1, 7))))["Add"] == 1


@pytest.mark.parametrize("outputs", ["y p", "y z"])
def test_a_product_that_is_read_elsewhere_keeps_its_values(outputs: str) -> None:
    nodes = node("MatMul", "x m", "p"), node("Add", "p v", "y"), node("Relu", "p", "z")
    simplified(network(*nodes, constants=MATRIX, shape=(1, 7), outputs=outputs))


def test_a_product_of_more_axes_stays() -> None:
    nodes = node("MatMul", "x m", "p"), node("Add", "p v", "y")
    assert ops(simplified(network(*nodes, constants=MATRIX, shape=(2, 3, 7)))) == {"MatMul": 1, "Add": 1}


# Pixel shuffle.


def shuffle(*between: onnx.NodeProto, last: str = "c", outputs: str = "y", **attributes: Any) -> onnx.ModelProto:
    channels = 4 // attributes.get("group", 1)
    constants: Constants = {
        "w": weights(12, channels, 3, 3),
        "b": np.arange(12, dtype=np.float32) / 4,
        "slope": np.full((12, 1, 1), 0.25, np.float32) + np.arange(12, dtype=np.float32).reshape(12, 1, 1) / 20,
    }
    layer = node("Conv", "x w b", "c", pads=[1, 1, 1, 1], **attributes)
    depth = node("DepthToSpace", last, "y", blocksize=2, mode="CRD")
    return network(layer, *between, depth, constants=constants, outputs=outputs)


def mode_of(model: onnx.ModelProto) -> str:
    (depth,) = nodes_of(model, "DepthToSpace")
    return str(helper.get_node_attr_value(depth, "mode").decode())


@pytest.mark.parametrize(
    "between", [(), (node("Relu", "c", "r"),), (node("LeakyRelu", "c", "r"), node("Tanh", "r", "t"))]
)
def test_a_pixel_shuffle_behind_a_convolution_is_the_order_of_its_channels(between: tuple[onnx.NodeProto, ...]) -> None:
    last = between[-1].output[0] if between else "c"
    assert mode_of(simplified(shuffle(*between, last=last))) == "DCR"


@pytest.mark.parametrize(
    "model",
    [
        shuffle(outputs="y c"),
        shuffle(node("Relu", "c", "r"), last="r", outputs="y c"),
        shuffle(node("Relu", "c", "r"), last="r", outputs="y r"),
        shuffle(node("LeakyRelu", "c", "r"), node("Tanh", "r", "t"), last="t", outputs="y r"),
        shuffle(node("Relu", "c", "r"), node("Tanh", "c", "z"), last="r", outputs="y z"),
        shuffle(node("PRelu", "c slope", "r"), last="r"),
        shuffle(group=2),
        network(node("DepthToSpace", "x", "y", blocksize=2, mode="CRD")),
    ],
    ids=["output", "output behind", "activation", "inner activation", "read twice", "slopes", "groups", "no layer"],
)
def test_a_pixel_shuffle_stays_where_other_channels_would_change(model: onnx.ModelProto) -> None:
    assert mode_of(simplified(model)) == "CRD"


# Transposes.


def test_transposes_that_undo_each_other_go() -> None:
    nodes = [
        node("Transpose", "x", "a", perm=NHWC),
        node("Relu", "a", "b"),
        node("Transpose", "b", "c", perm=NCHW),
        node("Transpose", "c", "d", perm=NHWC),
        node("Tanh", "d", "e"),
        node("Transpose", "e", "f", perm=NCHW),
        node("Exp", "f", "y"),
    ]
    assert ops(simplified(network(*nodes)))["Transpose"] == 2


@pytest.mark.parametrize(("outputs", "left"), [("y", 0), ("y b", 1), ("y a", 2)])
def test_a_transpose_that_writes_an_output_goes_unless_its_source_is_another(outputs: str, left: int) -> None:
    nodes = [node("Relu", "x", "a"), node("Transpose", "a", "b", perm=NHWC), node("Transpose", "b", "y", perm=NCHW)]
    model = network(*nodes, outputs=outputs)
    result = cancel_transposes(model)
    onnx.checker.check_model(result, full_check=True)
    assert ops(result)["Transpose"] == left
    wanted, got = (run_referee(each, {"x": values()}) for each in (model, result))
    assert all(np.array_equal(wanted[name], got[name]) for name in outputs.split())
    simplified(model)


def test_transposes_of_input_and_output_alone_stay_valid() -> None:
    nodes = [node("Transpose", "x", "b", perm=NHWC), node("Transpose", "b", "y", perm=NCHW)]
    simplified(network(*nodes))


def test_transposes_that_turn_twice_stay() -> None:
    nodes = [
        node("Relu", "x", "a"),
        node("Transpose", "a", "b", perm=NHWC),
        node("Transpose", "b", "c", perm=NHWC),
        node("Relu", "c", "y"),
    ]
    assert ops(simplified(network(*nodes)))["Transpose"] >= 1


# Folding.


def test_constants_and_what_nothing_reads_are_gone() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s two", "h"),
        node("Sqrt", "nine", "three"),
        node("Mul", "x three", "y"),
        node("Exp", "x", "unread"),
    ]
    constants: Constants = {"two": np.int64(2), "nine": np.float32(9)}
    result = simplified(network(*nodes, constants=constants))
    assert ops(result) == {"Mul": 1}
    assert len(result.graph.initializer) == 1


def test_a_graph_that_cannot_be_folded_is_a_conversion_error() -> None:
    broken = network(
        node("Add", "two nine", "z"),
        node("Mul", "x z", "y"),
        constants={"two": array([2]), "nine": array([9])},
    )
    broken.graph.initializer[0].raw_data = bytes(3)
    with pytest.raises(ConversionError, match="cannot be folded"):
        fold(broken)


# Biases.


def test_layers_that_share_a_bias_get_one_each() -> None:
    nodes = conv("x", "c"), conv("x", "d", "v"), node("Mul", "c d", "y")
    for layer in nodes[:2]:
        layer.input.append("b")
    constants = KERNEL | {"v": weights(4, 4, 3, 3, seed=1), "b": array([0.1, 0.2, 0.3, 0.4])}
    result = simplified(network(*nodes, constants=constants))
    names = {layer.input[2] for layer in nodes_of(result, "Conv")}
    assert len(names) == 2
    for name in names:
        assert np.array_equal(initializers(result)[name], constants["b"])
