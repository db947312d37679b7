"""Quantised arithmetic and functions against ONNX Runtime: one step of the output's grid apart at most, and in INT8."""

import numpy as np
import onnx
import pytest
from lowering_checks import KERNELS, UNIT, Grid, Shape, X, Y, check_int8, feeds_of, quantised, values, weights
from onnx import helper
from test_quantize_support import Attributes, Constants, build, initializers, qdq, run_referee, run_tflite

from quantize.tflite.lower import to_tflite

IMAGE: Shape = (1, 6, 9, 8)
OTHER = (0.0619, 11)
PROBABILITY, TANGENT = (1 / 256, -128), (1 / 128, 0)  # the grids that TFLite fixes
SIXTH = 1 / 6

# Two tensors.


@pytest.mark.parametrize("op, after", [("Add", (0.0787, 5)), ("Sub", (0.0787, 5)), ("Mul", (0.211, -20))])
@pytest.mark.parametrize("other", [IMAGE, (1, 6, 1, 1), (6, 1, 1), (9, 8)], ids=str)
def test_arithmetic_with_a_grid_each(op: str, after: Grid, other: Shape) -> None:
    model = quantised(op, {"x": IMAGE, "z": other}, grids=[X, OTHER], after=after)
    check_int8(model)


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("number", [2.5, -1.7, 1e-3, 0.0, 1e-30])
@pytest.mark.parametrize("shape", [(), (1, 1, 1, 1)], ids=str)
def test_a_sum_with_one_number(op: str, number: float, shape: Shape) -> None:
    """It needs no quantiser: on a grid of its own it is exact."""
    check_int8(quantised(op, {"x": IMAGE}, {"c": np.full(shape, number, np.float32)}))


@pytest.mark.parametrize("number", [2.5, -1.7, 1e-3, 1000.0])
def test_a_product_with_one_number(number: float) -> None:
    after = (abs(number) * 0.05, 5)
    check_int8(quantised("Mul", {"x": IMAGE}, {"c": np.float32(number)}, after=after))


@pytest.mark.parametrize("op", ["Sub", "Mul"])
def test_one_number_on_the_left(op: str) -> None:
    pair, held = qdq("x", *X)
    after, more = qdq("out", 0.1, 5)
    nodes = [*pair, helper.make_node(op, ["c", "x_dq"], ["out"]), *after]
    check_int8(build(nodes, {"x": IMAGE}, ["out_dq"], held | more | {"c": np.float32(1.8)}))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (6, 1, 1), (8,), (9, 1), IMAGE], ids=str)
def test_arithmetic_with_a_constant_of_one_scale(op: str, shape: Shape) -> None:
    constants = {"c": values(*shape, low=-3.0, high=3.0)}
    check_int8(quantised(op, {"x": IMAGE}, constants, stored={"c": None}, after=(0.12, 13)))


@pytest.mark.parametrize("stored", [{}, {"c": 0}], ids=["float", "a scale a channel"])
def test_arithmetic_with_another_constant_runs_in_float(stored: dict[str, int | None]) -> None:
    constants = {"c": values(6, 1, 1, low=-3.0, high=3.0)}
    model = quantised("Mul", {"x": IMAGE}, constants, stored=stored, after=(0.12, 13))
    check_int8(model, floats=["MUL"])


def test_division_runs_in_float() -> None:
    check_int8(quantised("Div", {"x": IMAGE}, {"c": np.float32(3.7)}, after=(0.011, 3)), floats=["DIV"])


# Max and Min.


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("other", [IMAGE, (1, 6, 1, 1)], ids=str)
def test_extremes_of_two_grids(op: str, other: Shape) -> None:
    """Every input is brought to the output's grid."""
    model = quantised(op, {"x": IMAGE, "z": other}, grids=[X, OTHER])
    check_int8(model, equal=0.75)


@pytest.mark.parametrize("op", ["Max", "Min"])
@pytest.mark.parametrize("shape", [(), (6, 1, 1), (8,)], ids=str)
def test_extremes_with_a_constant(op: str, shape: Shape) -> None:
    """Rounded to the output's grid, as its quantiser would: the constant needs none."""
    constant = values(*shape, low=-1.0, high=3.0) if shape else np.float32(0.77)
    check_int8(quantised(op, {"x": IMAGE}, {"c": constant}, after=X), equal=1.0, built_in=1.0)


def test_the_largest_of_three() -> None:
    inputs = {"x": IMAGE, "z": IMAGE, "v": (1, 1, 9, 8)}
    model = quantised("Max", inputs, grids=[X, OTHER, Y])
    check_int8(model, equal=0.75)


# Clamps.

CLIPS: list[tuple[float | None, float | None]] = [
    (0.0, 6.0),
    (0.0, None),
    (-1.0, 1.0),
    (0.0, 1.0),
    (-1.33, 2.71),
    (None, 3.3),
    (-2.2, None),
]


def clipped(low: float | None, high: float | None, before: Grid, after: Grid) -> onnx.ModelProto:
    pair, held = qdq("x", *before)
    behind, more = qdq("out", *after)
    names = ["l" if low is not None else "", "h" if high is not None else ""]
    held |= {name: np.float32(bound) for name, bound in (("l", low), ("h", high)) if bound is not None}
    nodes = [*pair, helper.make_node("Clip", ["x_dq", *names], ["out"]), *behind]
    return build(nodes, {"x": IMAGE}, ["out_dq"], held | more)


@pytest.mark.parametrize("low, high", CLIPS)
@pytest.mark.parametrize("after", [X, (0.03, -10), (0.02, 10)], ids=str)
def test_clip(low: float | None, high: float | None, after: Grid) -> None:
    check_int8(clipped(low, high, X, after), equal=0.7)


def test_clip_from_a_coarse_grid_to_a_fine_one() -> None:
    """Bounds between two steps of the coarse grid hold on the fine one."""
    check_int8(clipped(-1.33, 2.71, (0.33, 0), (0.02, 0)), equal=0.6)


# Functions of one tensor.


@pytest.mark.parametrize("alpha", [0.01, 0.1, -0.3, 1.7])
def test_leaky_relu(alpha: float) -> None:
    check_int8(quantised("LeakyRelu", {"x": IMAGE}, alpha=alpha), equal=0.8)


@pytest.mark.parametrize("slope", [(6, 1, 1), (1, 6, 1, 1), (8,), (6, 9, 8), (1,)], ids=str)
@pytest.mark.parametrize("lowest, highest", [(0.1, 0.9), (-0.5, 0.9), (0.2, 1.8)])
def test_prelu(slope: Shape, lowest: float, highest: float) -> None:
    constants = {"s": values(*slope, low=lowest, high=highest)}
    check_int8(quantised("PRelu", {"x": IMAGE}, constants, stored={"s": None}), equal=0.75)


@pytest.mark.parametrize("stored", [{}, {"s": 0}], ids=["float", "a scale a channel"])
@pytest.mark.parametrize("slope", [(6, 1, 1), (8,)], ids=str)
@pytest.mark.parametrize("lowest, highest", [(0.1, 0.9), (-0.5, 0.9), (0.2, 1.8)])
def test_prelu_with_slopes_without_one_scale(
    stored: dict[str, int | None], slope: Shape, lowest: float, highest: float
) -> None:
    """In INT8 where no quantiser is needed for it, else in float: the same values."""
    constants = {"s": values(*slope, low=lowest, high=highest)}
    check_int8(quantised("PRelu", {"x": IMAGE}, constants, stored=stored), floats=None, equal=0.75)


@pytest.mark.parametrize("slope", [(6,), (6, 1), (6, 1, 1)], ids=str)
def test_slopes_by_column_by_row_and_by_channel_are_told_apart(slope: Shape) -> None:
    """Where there are six of each."""
    constants = {"s": values(*slope, low=0.1, high=0.9)}
    check_int8(quantised("PRelu", {"x": (1, 6, 6, 6)}, constants, stored={}), floats=None, equal=0.75)


@pytest.mark.parametrize("after", [Y, (2.0, 0), (0.004, 0)], ids=str)
@pytest.mark.parametrize("ratio", [0.3, 1.1])
def test_prelu_of_a_channel_that_is_cut_off(after: Grid, ratio: float) -> None:
    """Slopes of exactly and of almost 0."""
    slope = np.array([0.0, 0.2, 1e-12, 0.9, 0.4, 0.0], np.float32).reshape(6, 1, 1)
    span = 100 * ratio * after[0]
    model = quantised("PRelu", {"x": IMAGE}, {"s": slope}, grids=[(ratio * after[0], 0)], after=after)
    check_int8(model, floats=None, equal=0.6, built_in=0.6, low=-span, high=span)


@pytest.mark.parametrize("after", [X, (0.05, -128), (0.01, 100)], ids=str)
def test_relu(after: Grid) -> None:
    check_int8(quantised("Relu", {"x": IMAGE}, after=after), equal=0.8)


# HardSigmoid and HardSwish.


@pytest.mark.parametrize("shape", [IMAGE, (4, 50)], ids=str)
@pytest.mark.parametrize("attributes", [{}, {"alpha": SIXTH}, {"alpha": 0.4, "beta": 0.1}], ids=str)
def test_hard_sigmoid(shape: Shape, attributes: Attributes) -> None:
    """Clamped by a grid that holds 0 to 1."""
    check_int8(quantised("HardSigmoid", {"x": shape}, after=UNIT, **attributes))


@pytest.mark.parametrize(
    "shape, attributes, after",
    [
        (IMAGE, {"alpha": SIXTH}, (1.3 / 255, -128)),  # a grid beyond 1 does not clamp
        (IMAGE, {"alpha": SIXTH}, (1 / 255, -120)),
        ((2, 3, 50), {"alpha": SIXTH}, UNIT),  # no image
        (IMAGE, {"alpha": -SIXTH}, UNIT),
    ],
    ids=str,
)
def test_hard_sigmoid_otherwise_runs_in_float(shape: Shape, attributes: Attributes, after: Grid) -> None:
    check_int8(quantised("HardSigmoid", {"x": shape}, after=after, **attributes), floats=["ADD", "MUL"])


@pytest.mark.parametrize("scale", [1e-4, 1e-7, 1e-9, 1e-15])
@pytest.mark.parametrize("op", ["HardSigmoid", "HardSwish", "PRelu", "AveragePool"])
def test_an_input_that_is_all_but_nothing(op: str, scale: float) -> None:
    """A dead layer, on whose grid an offset of one half does not fit INT32, and weights round to 0."""
    after = (scale, -28) if op == "HardSwish" else UNIT
    constants: Constants = {"s": np.full((6, 1, 1), 0.3, np.float32)} if op == "PRelu" else {}
    attributes: Attributes = {"kernel_shape": [2, 2]} if op == "AveragePool" else {}
    model = quantised(op, {"x": IMAGE}, constants, grids=[(scale, 0)], after=after, **attributes)
    feeds = feeds_of(model, low=-100 * scale, high=100 * scale)
    wanted = run_referee(model, feeds)["out_dq"]
    for delegate in KERNELS.values():
        got = run_tflite(to_tflite(model), feeds, delegate=delegate)["out_dq"]
        assert np.abs(got - wanted).max() <= 1.01 * after[0]


@pytest.mark.parametrize("shape", [IMAGE, (4, 50), (2, 3, 50)], ids=str)
@pytest.mark.parametrize("grid, reach", [(X, 6.5), ((0.3, 0), 40.0)], ids=["around the bend", "mostly beyond it"])
def test_hard_swish(shape: Shape, grid: Grid, reach: float) -> None:
    check_int8(quantised("HardSwish", {"x": shape}, grids=[grid], after=(reach / 240, -110)), low=-reach, high=reach)


# Sigmoid, Tanh and Softmax on the grid that TFLite fixes, and on others.

FIXED: dict[str, tuple[str, Grid, Grid]] = {
    "Sigmoid": ("LOGISTIC", PROBABILITY, UNIT),
    "Tanh": ("TANH", TANGENT, (1 / 127, 0)),
    "Softmax": ("SOFTMAX", PROBABILITY, UNIT),
}


@pytest.mark.parametrize("op", FIXED)
@pytest.mark.parametrize("shape", [IMAGE, (4, 9), (2, 3, 10)], ids=str)
def test_a_function_on_the_grid_that_tflite_fixes(op: str, shape: Shape) -> None:
    _, grid, _ = FIXED[op]
    attributes: Attributes = {"axis": 1} if len(shape) == 4 and op == "Softmax" else {}
    check_int8(quantised(op, {"x": shape}, after=grid, **attributes))


@pytest.mark.parametrize("op", FIXED)
@pytest.mark.parametrize("which", ["scale", "zero point"])
def test_a_function_on_another_grid_runs_in_float(op: str, which: str) -> None:
    code, fixed, other = FIXED[op]
    after = other if which == "scale" else (fixed[0], fixed[1] + 7)
    check_int8(quantised(op, {"x": (4, 9)}, after=after), floats=[code])


@pytest.mark.parametrize("op, code", [("Abs", "ABS"), ("Neg", "NEG"), ("Elu", "ELU"), ("Exp", "EXP")])
def test_other_functions_run_in_float(op: str, code: str) -> None:
    model = quantised(op, {"x": IMAGE}, after=(0.05, 0) if op != "Exp" else (3.0, -128))
    check_int8(model, floats=[code])


def test_batch_normalisation_runs_in_float() -> None:
    constants: Constants = {name: values(6, low=0.2, seed=place) for place, name in enumerate(("s", "b", "m", "v"))}
    model = quantised("BatchNormalization", {"x": IMAGE}, constants, after=(0.3, -50))
    check_int8(model, floats=["MUL", "ADD"])


def test_a_function_between_quantised_layers() -> None:
    """Where two INT8 layers meet on a function that has no INT8 form, only that one runs in float."""
    conv = quantised("Conv", {"x": IMAGE}, {"w": weights(6, 6, 3, 3)})
    middle, held = qdq("mid", 0.05, 3)
    last, more = qdq("end", 0.05, 3)
    nodes = [
        *conv.graph.node,
        helper.make_node("Elu", ["out_dq"], ["mid"]),
        *middle,
        helper.make_node("MaxPool", ["mid_dq"], ["end"], kernel_shape=[2, 2]),
        *last,
    ]
    model = build(nodes, {"x": IMAGE}, ["end_dq"], initializers(conv) | held | more)
    check_int8(model, "CONV_2D", "DEQUANTIZE", "ELU float", "QUANTIZE", "MAX_POOL_2D", equal=0.9)
