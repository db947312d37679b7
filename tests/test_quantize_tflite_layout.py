"""Images are NHWC inside: Transposes and Reshapes that cost nothing, and the few that do."""

from typing import Any

import numpy as np
import onnx
import pytest
from lowering_checks import Shape, check, check_int8, one_op, refusal, values, weights
from onnx import helper
from test_quantize_support import Attributes, Constants, build, qdq, weight_dq

TO_NHWC, TO_NCHW = [0, 2, 3, 1], [0, 3, 1, 2]
IMAGE = (1, 3, 4, 5)


def node(op: str, source: str, *others: str, to: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, [source, *others], [to], **attributes)


def integers(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


# Transposes that vanish.


def test_an_nhwc_network_behind_nchw_borders_moves_nothing() -> None:
    """tf2onnx writes NCHW layers between Transposes; quantize/onnx_import.py adds the outermost ones."""
    nodes = [
        node("Transpose", "x", to="image", perm=TO_NHWC),
        node("Transpose", "image", to="a", perm=TO_NCHW),
        node("Conv", "a", "w", to="b", pads=[1, 1, 1, 1]),
        node("Transpose", "b", to="c", perm=TO_NHWC),
        node("Mul", "c", "scale", to="d"),  # a normalisation in NHWC: one number a channel, along the last axis
        node("Add", "d", "offset", to="e"),
        node("Relu", "e", to="f"),
        node("Transpose", "f", to="g", perm=TO_NCHW),
        node("MaxPool", "g", to="h", kernel_shape=[2, 2]),
        node("Transpose", "h", to="i", perm=TO_NHWC),
        node("Transpose", "i", to="y", perm=TO_NCHW),
    ]
    constants: Constants = {"w": weights(6, 3, 3, 3), "scale": values(6), "offset": values(1, 1, 1, 6)}
    check(build(nodes, {"x": (1, 3, 6, 8)}, ["y"], constants), "CONV_2D", "MUL", "ADD", "MAX_POOL_2D")


def test_the_same_in_int8() -> None:
    nodes, held = qdq("x", 0.04, -28)
    dequantise, kernel = weight_dq("w", weights(6, 3, 3, 3))
    middle, more = qdq("b", 0.05, 3)
    after, most = qdq("out", 0.05, 3)
    nodes += [
        dequantise,
        node("Transpose", "x_dq", to="image", perm=TO_NHWC),
        node("Transpose", "image", to="a", perm=TO_NCHW),
        node("Conv", "a", "w_dq", to="b", pads=[1, 1, 1, 1]),
        *middle,
        node("Transpose", "b_dq", to="c", perm=TO_NHWC),
        node("Transpose", "c", to="d", perm=TO_NCHW),
        node("MaxPool", "d", to="out", kernel_shape=[2, 2]),
        *after,
    ]
    model = build(nodes, {"x": (1, 3, 6, 8)}, ["out_dq"], held | kernel | more | most)
    check_int8(model, "CONV_2D", "MAX_POOL_2D")


def test_a_border_in_nhwc_is_turned_once() -> None:
    """Inputs and outputs of rank 4 are stored as NHWC of ONNX's axes, whatever the network calls them."""
    nodes = [
        node("Transpose", "x", to="a", perm=TO_NCHW),
        node("Conv", "a", "w", to="b"),
        node("Transpose", "b", to="y", perm=TO_NHWC),
    ]
    model = build(nodes, {"x": (1, 6, 8, 3)}, ["y"], {"w": weights(4, 3, 3, 3)})
    check(model, "TRANSPOSE", "CONV_2D", "TRANSPOSE")


@pytest.mark.parametrize("perm", [[0, 1, 2, 3], [0, 2, 3, 1], [3, 1, 0, 2], [0, 1, 3, 2], None], ids=str)
@pytest.mark.parametrize("op", ["Relu", "Sigmoid"])
def test_a_transpose_and_its_opposite_around_a_function_cost_nothing(perm: list[int] | None, op: str) -> None:
    there: Attributes = {} if perm is None else {"perm": perm}
    back = [3, 2, 1, 0] if perm is None else np.argsort(perm).tolist()
    nodes = [
        node("Transpose", "x", to="a", **there),
        node(op, "a", to="b"),
        node("Transpose", "b", to="y", perm=back),
    ]
    assert not check(build(nodes, {"x": (2, 3, 4, 5)}, ["y"])).counts["TRANSPOSE"]


@pytest.mark.parametrize("perm", [[0, 2, 1], [1, 2, 0], [2, 0, 1]], ids=str)
def test_a_chain_of_transposes_is_one(perm: list[int]) -> None:
    nodes = [
        node("Transpose", "x", to="a", perm=[1, 0, 2]),
        node("Relu", "a", to="b"),
        node("Transpose", "b", to="c", perm=perm),
        node("Add", "c", "c", to="y"),
    ]
    assert check(build(nodes, {"x": (2, 3, 4)}, ["y"])).counts["TRANSPOSE"] <= 1


def test_a_transpose_of_axes_of_length_one_is_a_reshape() -> None:
    nodes = [node("Transpose", "x", to="a", perm=[0, 2, 1, 3]), node("Conv", "a", "w", to="y")]
    check(build(nodes, {"x": (2, 3, 1, 1)}, ["y"], {"w": weights(4, 1, 3, 1)}), "RESHAPE", "CONV_2D")


def test_weights_behind_a_transpose_are_turned_beforehand() -> None:
    dequantise, kernel = weight_dq("w", weights(5, 7))
    nodes, held = qdq("x", 0.04, -28)
    after, more = qdq("out", 0.03, 3)
    nodes += [
        dequantise,
        node("Transpose", "w_dq", to="turned", perm=[1, 0]),
        node("MatMul", "x_dq", "turned", to="out"),
        *after,
    ]
    check_int8(build(nodes, {"x": (9, 7)}, ["out_dq"], held | kernel | more), "FULLY_CONNECTED")


def test_two_readers_of_one_turned_tensor_share_the_transpose() -> None:
    nodes = [
        node("Transpose", "x", to="a", perm=[0, 1, 3, 2]),
        node("Conv", "a", "w", to="b"),
        node("Conv", "a", "v", to="c"),
        node("Add", "b", "c", to="d"),
        node("Transpose", "d", to="y", perm=[0, 1, 3, 2]),
    ]
    model = build(nodes, {"x": (1, 3, 5, 6)}, ["y"], {"w": weights(4, 3, 3, 3), "v": weights(4, 3, 3, 3, seed=1)})
    assert check(model).counts["TRANSPOSE"] == 2  # one in, one out


# Transposes that TFLite has to do.


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [0, 1, 3, 2], [1, 0, 2, 3], [3, 2, 1, 0]], ids=str)
def test_a_transpose_alone(perm: list[int]) -> None:
    check(one_op("Transpose", (2, 3, 4, 5), perm=perm), "TRANSPOSE")


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 3, 2, 3, 2), (2, 1, 3, 2, 1, 2)], ids=str)
def test_a_transpose_of_other_ranks(shape: Shape) -> None:
    check(one_op("Transpose", shape), "TRANSPOSE")


def test_two_orders_that_meet_cost_one_transpose() -> None:
    nodes = [node("Transpose", "x", to="a", perm=[0, 1, 3, 2]), node("Add", "x", "a", to="y")]
    check(build(nodes, {"x": (1, 3, 4, 4)}, ["y"]), "TRANSPOSE", "ADD")


def test_channel_shuffle() -> None:
    nodes = [
        node("Reshape", "x", "grouped", to="a"),
        node("Transpose", "a", to="b", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "b", "flat", to="y"),
    ]
    constants: Constants = {"grouped": integers(1, 2, 3, 4, 5), "flat": integers(1, 6, 4, 5)}
    file = check(build(nodes, {"x": (1, 6, 4, 5)}, ["y"], constants))
    assert file.counts["TRANSPOSE"] == 3  # to ONNX's order, the shuffle, back


# Reshapes.


@pytest.mark.parametrize("op", ["Flatten", "Reshape"])
@pytest.mark.parametrize(
    "shape, turned",
    [(IMAGE, True), ((1, 3, 1, 1), False), ((1, 1, 4, 5), False), ((1, 3, 1, 5), True), ((2, 3, 1, 1), False)],
    ids=["image", "one pixel", "one channel", "one row", "two of one pixel"],
)
def test_an_image_becomes_a_vector_in_onnx_order(op: str, shape: Shape, turned: bool) -> None:
    constants: Constants = {"shape": integers(shape[0], -1)} if op == "Reshape" else {}
    check(one_op(op, shape, constants), *(["TRANSPOSE"] if turned else []), "RESHAPE")


def test_an_nhwc_image_becomes_a_vector_for_nothing() -> None:
    """Keras flattens in NHWC: the weights behind it expect that order."""
    nodes = [
        node("Conv", "x", "w", to="a"),
        node("Transpose", "a", to="b", perm=TO_NHWC),
        node("Reshape", "b", "shape", to="c"),
        node("Gemm", "c", "v", to="y"),
    ]
    constants: Constants = {"w": weights(4, 3, 3, 3), "shape": integers(1, -1), "v": weights(24, 7)}
    check(build(nodes, {"x": IMAGE}, ["y"], constants), "CONV_2D", "RESHAPE", "FULLY_CONNECTED")


def test_squeeze_and_excitation() -> None:
    nodes = [
        node("GlobalAveragePool", "x", to="a"),
        node("Squeeze", "a", "axes", to="b"),
        node("Gemm", "b", "w", to="c"),
        node("Sigmoid", "c", to="d"),
        node("Unsqueeze", "d", "axes", to="e"),
        node("Mul", "x", "e", to="y"),
    ]
    model = build(nodes, {"x": IMAGE}, ["y"], {"axes": integers(2, 3), "w": weights(3, 3)})
    check(model, "MEAN", "RESHAPE", "FULLY_CONNECTED", "LOGISTIC", "RESHAPE", "MUL")


@pytest.mark.parametrize("target", [(1, 1, 3, 4, 5), (3, 4, 5), (1, 3, 4, 5, 1)], ids=str)
def test_axes_of_length_one_come_and_go_for_nothing(target: Shape) -> None:
    nodes = [
        node("Conv", "x", "w", to="a"),
        node("Reshape", "a", "there", to="b"),
        node("Relu", "b", to="c"),
        node("Reshape", "c", "back", to="d"),
        node("MaxPool", "d", to="y", kernel_shape=[2, 2]),
    ]
    constants: Constants = {"w": weights(3, 3, 1, 1), "there": integers(*target), "back": integers(*IMAGE)}
    assert not check(build(nodes, {"x": IMAGE}, ["y"], constants)).counts["TRANSPOSE"]


def test_a_reshape_to_the_same_shape_is_nothing() -> None:
    nodes = [node("Reshape", "x", "same", to="a"), node("Relu", "a", to="y")]
    check(build(nodes, {"x": IMAGE}, ["y"], {"same": integers(*IMAGE)}), "RELU")


def test_a_vector_becomes_an_image_and_a_layer_takes_it() -> None:
    nodes = [node("Reshape", "x", "shape", to="a"), node("Conv", "a", "w", to="y")]
    model = build(nodes, {"x": (1, 60)}, ["y"], {"shape": integers(*IMAGE), "w": weights(4, 3, 3, 3)})
    check(model, "RESHAPE", "TRANSPOSE", "CONV_2D")


def test_a_computed_shape_is_refused() -> None:
    """The shape of the output is given; that of the target is not known before the network runs."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="it")],
        "graph",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, IMAGE),
            helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", "columns"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    assert "Reshape 'it': its shape" in refusal(model)


# Operators along an axis find it wherever it is stored.


@pytest.mark.parametrize("perm", [[0, 2, 3, 1], [3, 1, 0, 2]], ids=str)
@pytest.mark.parametrize("op", ["Concat", "Slice", "Pad", "ReduceMean", "Softmax", "PRelu", "BatchNormalization"])
def test_an_axis_is_found_in_a_turned_tensor(op: str, perm: list[int]) -> None:
    shape = [(2, 3, 4, 5)[axis] for axis in perm]
    inputs = ["a"]
    constants: Constants = {}
    attributes: Attributes = {}
    match op:
        case "Concat":
            inputs, attributes = ["a", "a"], {"axis": 1}
        case "Slice":
            constants = {"starts": integers(1), "ends": integers(3), "axes": integers(1)}
        case "Pad":
            constants = {"pads": integers(0, 1, 0, 2, 0, 3, 1, 0)}
        case "ReduceMean":
            constants, attributes = {"axes": integers(1)}, {"keepdims": 0}
        case "Softmax":
            attributes = {"axis": 1}
        case "PRelu":
            constants = {"slope": values(shape[1], 1, 1)}
        case _:
            constants = {name: values(shape[1], low=0.2) for name in ("scale", "bias", "mean", "variance")}
    nodes = [
        node("Transpose", "x", to="a", perm=perm),
        helper.make_node(op, [*inputs, *constants], ["y"], **attributes),
    ]
    check(build(nodes, {"x": (2, 3, 4, 5)}, ["y"], constants))
