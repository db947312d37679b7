"""How quantiser pairs are absorbed: which tensors become INT8, on which grids, with which weights."""

from typing import Any

import numpy as np
import onnx
import pytest
from lowering_checks import (
    KERNELS,
    X,
    Y,
    check,
    check_int8,
    feeds_of,
    kernels,
    quantised,
    replaced,
    shifted,
    values,
    weights,
)
from onnx import TensorProto, helper
from test_quantize_support import (
    Array,
    Constants,
    build,
    initializers,
    qdq,
    read_tflite,
    run_referee,
    run_tflite,
    weight_dq,
)

from quantize.tflite.lower import to_tflite

IMAGE = (1, 6, 9, 8)


def node(op: str, *inputs: str, to: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [to], name=f"{to}_node", **attributes)


def conv(**constants: Array) -> onnx.ModelProto:
    return quantised("Conv", {"x": IMAGE}, {"w": weights(5, 6, 3, 3), "b": values(5)} | constants)


# Activations.


def test_uint8_activations_are_the_same_grid() -> None:
    signed = conv()
    zeros = {name: shifted(array) for name, array in initializers(signed).items() if name in ("x_zero", "out_zero")}
    unsigned = replaced(signed, **zeros)
    assert initializers(unsigned)["x_zero"] == X[1] + 128
    assert to_tflite(unsigned) == to_tflite(signed)
    check_int8(unsigned, "CONV_2D")


def test_one_quantiser_of_two_readers() -> None:
    """Two DequantizeLinear behind one QuantizeLinear, and two pairs of the same numbers on one tensor."""
    pair, held = qdq("x", *X)
    after, more = qdq("out", 0.07, 0)
    again = [
        node("QuantizeLinear", "x", "x_scale", "x_zero", to="again_q"),
        node("DequantizeLinear", "again_q", "x_scale", "x_zero", to="again"),
    ]
    third = node("DequantizeLinear", "x_q", "x_scale", "x_zero", to="third")
    nodes = [*pair, *again, third, node("Add", "x_dq", "again", to="sum"), node("Mul", "sum", "third", to="out")]
    middle, most = qdq("sum", 0.08, -3)
    nodes[-1].input[0] = "sum_dq"
    nodes[-1:-1] = middle
    file = check_int8(build([*nodes, *after], {"x": IMAGE}, ["out_dq"], held | more | most), "ADD", "MUL")
    assert file.counts["QUANTIZE"] == 1


def test_two_quantisers_on_one_computed_tensor() -> None:
    """The convolution stays in float, for no grid holds what both readers see."""
    nodes, held = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(5, 6, 1, 1))
    nodes += [dequantise, node("Conv", "x_dq", "w_dq", to="c")]
    held |= kernel
    for name, grid in (("one", Y), ("two", (0.02, 5))):
        nodes += [
            node("QuantizeLinear", "c", f"{name}_scale", f"{name}_zero", to=f"{name}_q"),
            node("DequantizeLinear", f"{name}_q", f"{name}_scale", f"{name}_zero", to=f"{name}_dq"),
        ]
        held |= {f"{name}_scale": np.float32(grid[0]), f"{name}_zero": np.int8(grid[1])}
    model = build(nodes, {"x": IMAGE}, ["one_dq", "two_dq"], held)
    check_int8(model, "DEQUANTIZE", "CONV_2D float", "QUANTIZE", "QUANTIZE")


def test_a_tensor_read_as_float_and_as_int8_has_both() -> None:
    """conv → (Q/DQ) and the unrounded conv: their difference is the rounding error."""
    nodes, held = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(5, 6, 1, 1))
    middle, more = qdq("mid", *Y)
    nodes += [dequantise, node("Conv", "x_dq", "w_dq", to="mid"), *middle, node("Sub", "mid", "mid_dq", to="y")]
    model = build(nodes, {"x": IMAGE}, ["y"], held | kernel | more)
    feeds = feeds_of(model)
    wanted, got = run_referee(model, feeds)["y"], run_tflite(to_tflite(model), feeds)["y"]
    near_half = np.abs(np.abs(wanted) - Y[0] / 2) < 1e-4  # may round either way
    assert near_half.mean() < 0.05
    np.testing.assert_allclose(got[~near_half], wanted[~near_half], atol=1e-5)
    assert wanted.std() > 0.01  # uniform within half a step


def test_a_tensor_with_two_grids_one_behind_the_other_is_requantised() -> None:
    nodes, held = qdq("x", *X)
    coarse, more = qdq("x_dq", 0.3, 3)
    model = build([*nodes, *coarse], {"x": (1, 90)}, ["x_dq_dq"], held | more)
    file = check_int8(model, "QUANTIZE", low=-4.0, high=6.5)
    assert [file.scale(op.outputs[0]).item() for op in file.operators[:2]] == pytest.approx([X[0], 0.3])


def test_a_pair_behind_a_pair_of_the_same_numbers_is_nothing() -> None:
    nodes, held = qdq("x", *X)
    again, more = qdq("x_dq", *X)
    check_int8(build([*nodes, *again], {"x": (1, 90)}, ["x_dq_dq"], held | more), equal=1.0, built_in=1.0)


@pytest.mark.parametrize("storage", [np.int8, np.uint8])
def test_a_zero_point_left_out_is_zero_of_the_type(storage: type[np.int8]) -> None:
    """QuantizeLinear names the type, or means uint8; DequantizeLinear takes it from its input."""
    zero = ["zero"] if storage is np.int8 else []
    quantise = node("QuantizeLinear", "x", "out_scale", *zero, to="q")
    held: Constants = {"out_scale": np.float32(0.04)} | ({"zero": np.int8(0)} if zero else {})
    nodes = [quantise, node("DequantizeLinear", "q", "out_scale", to="out_dq")]
    check_int8(build(nodes, {"x": IMAGE}, ["out_dq"], held), equal=1.0, built_in=1.0)


def test_the_type_of_a_quantiser_may_be_an_attribute() -> None:
    nodes = [
        node("QuantizeLinear", "x", "out_scale", to="q", output_dtype=TensorProto.INT8),
        node("DequantizeLinear", "q", "out_scale", to="out_dq"),
    ]
    model = build(nodes, {"x": IMAGE}, ["out_dq"], {"out_scale": np.float32(0.04)}, opset=21)
    check_int8(model, equal=1.0, built_in=1.0)


# Outputs.


def test_outputs_that_are_quantised_and_read_back() -> None:
    check_int8(conv(), "CONV_2D")


def test_an_output_that_is_quantised_for_another_reader_stays_in_float() -> None:
    model = conv()
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 5, 7, 6]))
    feeds = feeds_of(model)
    wanted, content = run_referee(model, feeds), to_tflite(model)
    for delegate in KERNELS.values():
        got = run_tflite(content, feeds, delegate=delegate)
        np.testing.assert_allclose(got["out"], wanted["out"], atol=1e-4)
        np.testing.assert_allclose(got["out_dq"], wanted["out_dq"], atol=Y[0] * 1.01)
    assert kernels(read_tflite(content)) == ["DEQUANTIZE", "CONV_2D float", "QUANTIZE"]


def test_two_outputs_of_one_quantised_tensor() -> None:
    nodes, held = qdq("x", *X)
    nodes += [node("Relu", "x_dq", to="r"), node("Identity", "x_dq", to="same")]
    model = build(nodes, {"x": IMAGE}, ["x_dq", "same", "r"], held)
    check(model, "QUANTIZE", "DEQUANTIZE", "RELU", "RESHAPE")


def test_a_layer_that_ends_in_float_uses_the_quantised_weights() -> None:
    """A head: INT8 input and weights, float output."""
    nodes, held = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(3, 6, 1, 1))
    nodes += [dequantise, node("Conv", "x_dq", "w_dq", to="y")]
    file = check(build(nodes, {"x": IMAGE}, ["y"], held | kernel), "QUANTIZE", "DEQUANTIZE", "CONV_2D")
    stored = file.data(file.operators[-1].inputs[1])
    restored = kernel["w"].astype(np.float32) * kernel["w_scale"].reshape(-1, 1, 1, 1)
    assert np.array_equal(stored, restored.transpose(0, 2, 3, 1))


# Integers between QuantizeLinear and DequantizeLinear, as some tools leave them.

MOVES: list[tuple[str, Constants, dict[str, Any], list[str]]] = [
    ("MaxPool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, ["MAX_POOL_2D"]),
    ("Transpose", {}, {"perm": [0, 2, 3, 1]}, ["DEQUANTIZE", "TRANSPOSE float"]),
    ("Reshape", {"shape": np.array([1, 6, 72])}, {}, ["TRANSPOSE", "RESHAPE"]),
    ("Flatten", {}, {"axis": 2}, ["TRANSPOSE", "RESHAPE"]),
    ("Squeeze", {"axes": np.array([0])}, {}, ["RESHAPE", "DEQUANTIZE", "TRANSPOSE float"]),
    ("Unsqueeze", {"axes": np.array([1])}, {}, ["RESHAPE", "DEQUANTIZE", "TRANSPOSE float"]),
    ("Slice", {"starts": np.array([2]), "ends": np.array([7]), "axes": np.array([2])}, {}, ["SLICE"]),
    ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}, ["RESHAPE", "TRANSPOSE", "RESHAPE"]),
    ("SpaceToDepth", {}, {"blocksize": 2}, ["SPACE_TO_DEPTH"]),
]


@pytest.mark.parametrize("op, constants, attributes, codes", MOVES, ids=[move[0] for move in MOVES])
@pytest.mark.parametrize("storage", [np.int8, np.uint8])
def test_an_operator_on_integers(
    op: str, constants: Constants, attributes: dict[str, Any], codes: list[str], storage: type[np.int8]
) -> None:
    shape = (1, 8, 4, 6) if op in ("DepthToSpace", "SpaceToDepth") else IMAGE
    nodes = [
        node("QuantizeLinear", "x", "out_scale", "out_zero", to="q"),
        helper.make_node(op, ["q", *constants], ["moved"], **attributes),
        node("DequantizeLinear", "moved", "out_scale", "out_zero", to="out_dq"),
    ]
    held: Constants = {"out_scale": np.float32(0.04), "out_zero": storage(28)}
    check_int8(build(nodes, {"x": shape}, ["out_dq"], held | constants), *codes, equal=1.0, built_in=1.0)


@pytest.mark.parametrize("storage, low, high", [(np.int8, -100, 90), (np.uint8, 28, 218), (np.int8, None, 90)])
def test_a_narrow_range_of_activations(storage: type[np.int8], low: int | None, high: int) -> None:
    """Brevitas writes a Clip between the two nodes of a pair."""
    nodes = [
        node("QuantizeLinear", "x", "out_scale", "out_zero", to="q"),
        node("Clip", "q", "" if low is None else "low", "high", to="clipped"),
        node("DequantizeLinear", "clipped", "out_scale", "out_zero", to="out_dq"),
    ]
    held: Constants = {"out_scale": np.float32(0.04), "out_zero": storage(28), "high": storage(high)}
    held |= {} if low is None else {"low": storage(low)}
    codes = ["MINIMUM"] if low is None else ["MAXIMUM", "MINIMUM"]
    check_int8(build(nodes, {"x": IMAGE}, ["out_dq"], held), *codes, equal=1.0, built_in=1.0, low=-9.0, high=9.0)
