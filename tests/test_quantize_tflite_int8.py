"""Quantised layers, pools and moves against ONNX Runtime: one step of the output's grid apart at most, and in INT8."""

from typing import Any

import numpy as np
import onnx
import pytest
from lowering_checks import Grid, Shape, X, Y, check_int8, quantised, values, weights
from onnx import helper
from test_quantize_support import Attributes, Constants, build, qdq

IMAGE = {"x": (1, 6, 9, 8)}
LOW = (0.0413, -128)  # holds nothing below 0
OTHER = (0.0619, 11)
FINE = (0.0217, -40)  # the grid of means


def integers(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


# Layers.

CONVS: dict[str, tuple[Shape, Attributes, list[str]]] = {
    "pointwise": ((5, 6, 1, 1), {}, ["CONV_2D"]),
    "SAME": ((5, 6, 3, 3), {"pads": [1, 1, 1, 1]}, ["CONV_2D"]),
    "stride 2": ((5, 6, 3, 3), {"pads": [1, 2, 1, 1], "strides": [2, 2]}, ["PAD", "CONV_2D"]),
    "odd pads": ((5, 6, 3, 3), {"pads": [0, 2, 1, 0]}, ["PAD", "CONV_2D"]),
    "dilated": ((5, 6, 3, 3), {"dilations": [2, 2]}, ["CONV_2D"]),
    "grouped": ((4, 3, 3, 3), {"group": 2}, ["CONV_2D"]),
    "grouped, padded, stride 2": (
        (9, 2, 3, 3),
        {"group": 3, "pads": [1, 0, 0, 1], "strides": [2, 2]},
        ["PAD", "CONV_2D"],
    ),
    "depthwise": ((6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}, ["DEPTHWISE_CONV_2D"]),
    "depthwise, two filters a channel": ((12, 1, 3, 3), {"group": 6}, ["DEPTHWISE_CONV_2D"]),
    "depthwise, dilated": ((12, 1, 3, 3), {"group": 6, "dilations": [2, 2]}, ["DEPTHWISE_CONV_2D"]),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("axis", [0, None], ids=["a scale a channel", "one scale"])
def test_conv(name: str, bias: bool, axis: int | None) -> None:
    kernel, attributes, codes = CONVS[name]
    constants = {"w": weights(*kernel) * 1.5} | ({"b": values(kernel[0], low=-3.0, high=3.0)} if bias else {})
    file = check_int8(quantised("Conv", IMAGE, constants, stored={"w": axis}, **attributes), *codes)
    layer = file.operators[-2]
    assert [str(file.dtype(index)) for index in layer.inputs] == ["int8", "int8", "int32"]
    assert np.array_equal(file.scale(layer.inputs[2]), np.float32(X[0]) * file.scale(layer.inputs[1]))


TRANSPOSED: dict[str, tuple[Attributes, list[str]]] = {
    "stride 1": ({}, ["TRANSPOSE_CONV"]),
    "stride 2": ({"strides": [2, 2]}, ["TRANSPOSE_CONV"]),
    "output_padding": ({"strides": [2, 2], "output_padding": [1, 1]}, ["TRANSPOSE_CONV"]),
    "dilated": ({"dilations": [2, 3]}, ["TRANSPOSE_CONV"]),
    "odd pads": ({"strides": [2, 1], "pads": [1, 0, 1, 2]}, ["TRANSPOSE_CONV", "SLICE"]),
    "SAME": ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, ["TRANSPOSE_CONV"]),
}


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axis", [1, None], ids=["a scale a channel", "one scale"])
def test_conv_transpose(name: str, groups: int, axis: int | None) -> None:
    attributes, codes = TRANSPOSED[name]
    constants = {"w": weights(6, 4 // groups, 3, 3) * 1.5, "b": values(4, low=-3.0, high=3.0)}
    check_int8(quantised("ConvTranspose", IMAGE, constants, stored={"w": axis}, group=groups, **attributes), *codes)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("attributes", [{}, {"alpha": 1.7}, {"alpha": 0.5, "beta": 3.0}], ids=str)
def test_gemm(transposed: int, attributes: Attributes) -> None:
    kernel = weights(30, 40) * 2 if transposed else weights(30, 40).T.copy() * 2
    constants = {"w": kernel, "b": values(30, low=-3.0, high=3.0)}
    stored = {"w": 1 - transposed}
    model = quantised("Gemm", {"x": (2, 40)}, constants, stored=stored, transB=transposed, **attributes)
    check_int8(model, "FULLY_CONNECTED")


def test_gemm_of_a_transposed_input() -> None:
    model = quantised("Gemm", {"x": (40, 2)}, {"w": weights(40, 30) * 9}, stored={"w": 1}, transA=1)
    check_int8(model, "TRANSPOSE", "FULLY_CONNECTED")


def test_gemm_with_a_negative_factor_runs_in_float() -> None:
    """No quantiser has a negative scale."""
    model = quantised("Gemm", {"x": (2, 40)}, {"w": weights(40, 30) * 9}, stored={"w": 1}, alpha=-1.0)
    check_int8(model, "DEQUANTIZE", "FULLY_CONNECTED float", "QUANTIZE")


@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 40)], ids=str)
def test_matmul(shape: Shape) -> None:
    model = quantised("MatMul", {"x": shape}, {"w": weights(40, 30) * 9}, stored={"w": 1})
    check_int8(model, "FULLY_CONNECTED")


# Pools and reductions.

POOLS: dict[str, tuple[Attributes, list[str]]] = {
    "VALID": ({"kernel_shape": [3, 3]}, []),
    "uneven": ({"kernel_shape": [3, 2], "strides": [1, 2]}, []),
    "large": ({"kernel_shape": [9, 3]}, []),
    "SAME": ({"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, []),
    "odd pads": ({"kernel_shape": [3, 3], "pads": [1, 0, 0, 1]}, ["pad"]),
    "ResNet": ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 0]}, ["pad"]),
    "ceil_mode": ({"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 0, 0, 0], "ceil_mode": 1}, ["pad"]),
}


@pytest.mark.parametrize("name", sorted(POOLS.keys() - {"large"}))
@pytest.mark.parametrize("grid, pad", [(X, "PADV2"), (LOW, "PAD")], ids=["zero point -28", "zero point -128"])
def test_max_pool(name: str, grid: Grid, pad: str) -> None:
    """Padded with −128, which is the zero point where nothing lies below 0."""
    attributes, pads = POOLS[name]
    model = quantised("MaxPool", IMAGE, grids=[grid], after=grid, **attributes)
    check_int8(model, *[pad] * len(pads), "MAX_POOL_2D", equal=1.0, built_in=1.0)


@pytest.mark.parametrize("name", ["VALID", "uneven", "large", "SAME"])
@pytest.mark.parametrize("grid", [X, LOW], ids=str)
def test_average_pool(name: str, grid: Grid) -> None:
    check_int8(quantised("AveragePool", IMAGE, grids=[grid], after=grid, **POOLS[name][0]))


@pytest.mark.parametrize("name", ["VALID", "SAME", "odd pads", "ResNet"])
def test_average_pool_that_counts_pads(name: str) -> None:
    model = quantised("AveragePool", IMAGE, after=X, count_include_pad=1, **POOLS[name][0])
    check_int8(model)


def test_average_pool_of_windows_of_unequal_size_runs_in_float() -> None:
    model = quantised("AveragePool", IMAGE, after=X, **POOLS["odd pads"][0])
    check_int8(model, floats=["PAD", "AVERAGE_POOL_2D", "MUL"])


def test_global_max_pool() -> None:
    check_int8(quantised("GlobalMaxPool", {"x": (1, 64, 2, 1)}, after=X), equal=1.0, built_in=1.0)


def test_global_average_pool() -> None:
    check_int8(quantised("GlobalAveragePool", {"x": (1, 32, 6, 6)}, after=FINE))


@pytest.mark.parametrize(
    "op, after", [("ReduceMean", FINE), ("ReduceSum", (0.4, -40)), ("ReduceMax", X), ("ReduceMin", X)]
)
@pytest.mark.parametrize("axes, keep", [([2, 3], 1), ([2, 3], 0), ([-1], 1), ([1], 0)], ids=str)
def test_reduction(op: str, after: Grid, axes: list[int], keep: int) -> None:
    shape = (1, 32, 3, 2) if 1 not in axes else (1, 4, 12, 9)
    grid = Y if op in ("ReduceMean",) and 1 in axes else after
    model = quantised(op, {"x": shape}, {"axes": integers(*axes)}, stored={}, after=grid, keepdims=keep)
    check_int8(model, built_in=0.6)


# Moves.


@pytest.mark.parametrize("axis", [1, 2, -1])
def test_concat_on_one_grid(axis: int) -> None:
    shapes = [list(IMAGE["x"]), list(IMAGE["x"])]
    shapes[1][axis] = 3
    inputs = dict(zip("xz", map(tuple, shapes), strict=True))
    check_int8(quantised("Concat", inputs, after=X, axis=axis), equal=1.0, built_in=1.0)


def test_concat_of_two_grids() -> None:
    model = quantised("Concat", {"x": (1, 6, 9, 8), "z": (1, 3, 9, 8)}, grids=[X, OTHER], after=Y, axis=1)
    check_int8(model, equal=0.8)


def test_concat_with_a_constant_runs_in_float() -> None:
    model = quantised("Concat", IMAGE, {"c": values(1, 2, 9, 8)}, after=X, axis=1)
    check_int8(model, floats=["CONCATENATION", "TRANSPOSE"])


@pytest.mark.parametrize("rule", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_resize(rule: str, mode: str) -> None:
    """Quarters and sixteenths tie often, and every kernel rounds ties its own way."""
    constants: Constants = {"": None, "scales": np.array([1, 1, 2, 2], np.float32)}
    model = quantised("Resize", IMAGE, constants, after=X, mode=mode, coordinate_transformation_mode=rule)
    check_int8(model, equal=0.8 if mode == "linear" else 1.0)


ARRANGEMENTS: dict[str, tuple[str, Shape, Constants, Attributes]] = {
    "zeros": ("Pad", IMAGE["x"], {"p": integers(0, 0, 1, 2, 0, 1, 3, 0)}, {}),
    "a value": ("Pad", IMAGE["x"], {"p": integers(0, 0, 1, 2, 0, 0, 3, 0), "v": np.float32(1.5)}, {}),
    "a value off the grid": ("Pad", IMAGE["x"], {"p": integers(0, 0, 1, 2, 0, 0, 3, 0), "v": np.float32(-1e9)}, {}),
    "reflected": ("Pad", IMAGE["x"], {"p": integers(0, 0, 1, 2, 0, 0, 3, 0)}, {"mode": "reflect"}),
    "much reflected": ("Pad", IMAGE["x"], {"p": integers(0, 1, 7, 2, 0, 0, 8, 7)}, {"mode": "reflect"}),
    "edges": ("Pad", IMAGE["x"], {"p": integers(0, 0, 1, 2, 0, 0, 0, 1)}, {"mode": "edge"}),
    "negative pads": ("Pad", IMAGE["x"], {"p": integers(0, 0, -1, 2, 0, 0, 1, -3)}, {}),
    "slice": ("Slice", IMAGE["x"], {"s": integers(1, 2), "e": integers(5, 7), "a": integers(1, 3)}, {}),
    "slice with steps": (
        "Slice",
        IMAGE["x"],
        {"s": integers(1, 7), "e": integers(9, -99), "a": integers(2, 3), "t": integers(2, -3)},
        {},
    ),
    "depth to space, DCR": ("DepthToSpace", (1, 8, 4, 5), {}, {"blocksize": 2}),
    "depth to space, CRD": ("DepthToSpace", (1, 8, 4, 5), {}, {"blocksize": 2, "mode": "CRD"}),
    "space to depth": ("SpaceToDepth", (1, 3, 8, 6), {}, {"blocksize": 2}),
    "flatten": ("Flatten", IMAGE["x"], {}, {}),
    "reshape": ("Reshape", (2, 60), {"s": integers(4, 5, 6)}, {}),
    "transpose": ("Transpose", (1, 4, 5, 6), {}, {"perm": [0, 3, 1, 2]}),
    "repeated rows": (
        "Resize",
        IMAGE["x"],
        {"": None, "scales": np.array([1, 1, 3, 1], np.float32)},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    "nearest, corners aligned": (
        "Resize",
        IMAGE["x"],
        {"": None, "scales": np.array([1, 1, 3, 3], np.float32)},
        {"mode": "nearest", "coordinate_transformation_mode": "align_corners"},
    ),
    "every second column": (
        "Resize",
        IMAGE["x"],
        {"": None, "scales": np.array([1, 1, 1, 0.5], np.float32)},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
}


@pytest.mark.parametrize("name", ARRANGEMENTS)
def test_a_move_on_one_grid_is_exact(name: str) -> None:
    op, shape, constants, attributes = ARRANGEMENTS[name]
    turned = ["TRANSPOSE"] if name == "transpose" else []  # behind the DEQUANTIZE of an output
    model = quantised(op, {"x": shape}, constants, after=X, **attributes)
    check_int8(model, floats=turned, equal=1.0, built_in=1.0)


@pytest.mark.parametrize("name", sorted(ARRANGEMENTS.keys() - {"transpose"}))
def test_a_move_to_another_grid_is_requantised(name: str) -> None:
    """A padded value is rounded to the output's grid alone: nothing is told of another."""
    op, shape, constants, attributes = ARRANGEMENTS[name]
    check_int8(quantised(op, {"x": shape}, constants, **attributes), equal=0.75)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("name", ["VALID", "SAME"])
def test_a_pool_to_another_grid_is_requantised(op: str, name: str) -> None:
    check_int8(quantised(op, IMAGE, **POOLS[name][0]), equal=0.75)


def test_split() -> None:
    """One part on the grid of its source, one on another."""
    pair, held = qdq("x", *X)
    one, more = qdq("a", *X)
    two, most = qdq("b", *Y)
    node = helper.make_node("Split", ["x_dq"], ["a", "b"], axis=1, num_outputs=2)
    model: onnx.ModelProto = build([*pair, node, *one, *two], IMAGE, ["a_dq", "b_dq"], held | more | most)
    check_int8(model, equal=0.75)
