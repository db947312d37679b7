"""Activations that disappear into the layer before them or into its quantiser, and those that must not."""

import numpy as np
import onnx
import pytest
from lowering_checks import KERNELS, Grid, check, check_int8, feeds_of, kernels, quantised, values, weights
from onnx import helper
from test_quantize_support import Attributes, Constants, build, qdq, read_tflite, run_referee, run_tflite, weight_dq

from quantize.tflite.lower import to_tflite

IMAGE = (1, 3, 6, 6)
LIMITS: Constants = {"low": np.float32(0), "high": np.float32(6), "minus": np.float32(-1), "one": np.float32(1)}
ACTIVATIONS: dict[str, tuple[str, list[str], list[str]]] = {
    # name: operator, bounds, what it is alone
    "Relu": ("Relu", [], ["RELU"]),
    "Clip(0, 6)": ("Clip", ["low", "high"], ["RELU6"]),
    "Clip(0, ∞)": ("Clip", ["low"], ["RELU"]),
    "Clip(0, left out)": ("Clip", ["low", ""], ["RELU"]),
    "Clip(-1, 1)": ("Clip", ["minus", "one"], ["RELU_N1_TO_1"]),
    "Clip(0, 1)": ("Clip", ["low", "one"], ["MAXIMUM", "MINIMUM"]),
}
BEFORE: dict[str, tuple[list[str], Constants, Attributes, bool]] = {
    # operator: further inputs, constants, attributes, whether TFLite has a fused activation there
    "Conv": (["w"], {"w": weights(4, 3, 3, 3) * 3}, {}, True),
    "ConvTranspose": (["w"], {"w": weights(3, 4, 3, 3) * 3}, {}, True),
    "Add": (["x"], {}, {}, True),
    "Mul": (["x"], {}, {}, True),
    "Sub": (["c"], {"c": values(1, 3, 1, 1)}, {}, True),
    "MaxPool": ([], {}, {"kernel_shape": [2, 2]}, True),
    "AveragePool": ([], {}, {"kernel_shape": [2, 2]}, True),
    "Div": (["c"], {"c": values(1, 3, 1, 1, low=0.3)}, {}, False),
    "Concat": (["x"], {}, {"axis": 1}, False),
    "GlobalAveragePool": ([], {}, {}, False),
}


def limits_of(bounds: list[str]) -> Constants:
    return {bound: LIMITS[bound] for bound in bounds if bound}


# FP32.


@pytest.mark.parametrize("op", BEFORE)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_behind_another_operator(op: str, name: str) -> None:
    inputs, constants, attributes, fuses = BEFORE[op]
    activation, bounds, codes = ACTIVATIONS[name]
    nodes = [
        helper.make_node(op, ["x", *inputs], ["between"], **attributes),
        helper.make_node(activation, ["between", *bounds], ["y"]),
    ]
    model = build(nodes, {"x": IMAGE}, ["y"], constants | limits_of(bounds))
    file = check(model, flat=op == "GlobalAveragePool")
    fuses = fuses and len(codes) == 1
    assert [operator.code for operator in file.operators][1:] == ([] if fuses else codes)


def test_gemm_fuses_its_activation() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["between"], transB=1), helper.make_node("Relu", ["between"], ["y"])]
    check(build(nodes, {"x": (1, 7)}, ["y"], {"w": weights(9, 7)}), "FULLY_CONNECTED")


@pytest.mark.parametrize("pads, codes", [([1, 1, 1, 1], []), ([1, 0, 0, 1], ["PAD"])])
def test_the_activation_of_an_average_that_is_put_right_by_a_factor(pads: list[int], codes: list[str]) -> None:
    """The mean of the padded image lies nearer to 0 than the one asked for: clamped too early, it would come out wrong."""
    nodes = [
        helper.make_node("AveragePool", ["x"], ["between"], kernel_shape=[3, 3], pads=pads),
        helper.make_node("Clip", ["between", "low", "high"], ["y"]),
    ]
    file = check(build(nodes, {"x": IMAGE}, ["y"], limits_of(["low", "high"])), low=4.0, high=9.0)
    assert [operator.code for operator in file.operators] == [*codes, "AVERAGE_POOL_2D", *(["MUL"] if codes else [])]


def test_an_activation_is_not_fused_when_something_else_reads_before_it() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["between"]),
        helper.make_node("Relu", ["between"], ["active"]),
        helper.make_node("Add", ["active", "between"], ["y"]),
    ]
    check(build(nodes, {"x": IMAGE}, ["y"], {"w": weights(4, 3, 3, 3)}), "CONV_2D", "RELU", "ADD")


def test_an_activation_is_not_fused_into_an_output() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["raw"]), helper.make_node("Relu", ["raw"], ["active"])]
    check(build(nodes, {"x": IMAGE}, ["raw", "active"], {"w": weights(4, 3, 3, 3)}), "CONV_2D", "RELU")


def test_two_activations_in_a_row_both_count() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["raw"]),
        helper.make_node("Relu", ["raw"], ["one"]),
        helper.make_node("Clip", ["one", "low", "high"], ["y"]),
    ]
    constants = {"w": weights(4, 3, 3, 3) * 5, **limits_of(["low", "high"])}
    check(build(nodes, {"x": IMAGE}, ["y"], constants), "CONV_2D", "RELU6")


# INT8. A grid from 0 to 6, one from 0 to 1, and one that reaches beyond both.

TO_SIX, TO_ONE, WIDE = (6 / 255, -128), (1 / 255, -128), (9 / 255, -28)


@pytest.mark.parametrize(
    "name, grid, codes",
    [
        ("Relu", TO_SIX, ["CONV_2D"]),
        ("Clip(0, 6)", TO_SIX, ["CONV_2D"]),
        ("Clip(0, 1)", TO_ONE, ["CONV_2D"]),
        ("Relu", WIDE, ["CONV_2D"]),
        ("Clip(0, 6)", WIDE, ["CONV_2D"]),
        ("Clip(-1, 1)", WIDE, ["CONV_2D"]),
        ("Clip(0, 1)", TO_SIX, ["CONV_2D", "MAXIMUM", "MINIMUM"]),
    ],
)
def test_a_quantised_conv_and_its_activation(name: str, grid: Grid, codes: list[str]) -> None:
    activation, bounds, _ = ACTIVATIONS[name]
    between = [helper.make_node(activation, ["raw", *bounds], ["out"])]
    constants: Constants = {"w": weights(8, 6, 3, 3) * 2, "b": values(8, low=-0.5, high=3.0)}
    model = quantised("Conv", {"x": (1, 6, 9, 8)}, constants, after=grid, between=between, more=limits_of(bounds))
    check_int8(model, *codes)


def test_what_the_quantiser_clamps_is_clamped() -> None:
    """Bounds of the answers themselves: a saturating quantiser must not let more through than the Clip it replaces."""
    clip = helper.make_node("Clip", ["raw", "low", "one"], ["out"])
    more = limits_of(["low", "one"])
    constants: Constants = {"w": weights(8, 6, 3, 3) * 4}
    for grid, top in ((TO_ONE, 1.0), ((0.5 / 255, -128), 0.5), (TO_SIX, 1.0)):
        model = quantised("Conv", {"x": (1, 6, 9, 8)}, constants, after=grid, between=[clip], more=more)
        feeds = feeds_of(model)
        for delegate in KERNELS.values():
            out = run_tflite(to_tflite(model), feeds, delegate=delegate)["out_dq"]
            assert out.min() == 0.0
            assert out.max() == pytest.approx(top, abs=0.51 * grid[0])


def test_a_conv_with_its_relu6_saturates_at_six() -> None:
    clip = helper.make_node("Clip", ["raw", "low", "high"], ["out"])
    grid = (8 / 255, -128)  # would reach 8
    constants: Constants = {"w": weights(5, 6, 3, 3) * 4, "b": values(5)}
    model = quantised(
        "Conv", {"x": (1, 6, 9, 8)}, constants, after=grid, between=[clip], more=limits_of(["low", "high"])
    )
    check_int8(model, "CONV_2D")
    out = run_tflite(to_tflite(model), feeds_of(model, low=-4.5, high=6.5))["out_dq"]
    assert (out.min(), out.max()) == (0.0, pytest.approx(6.0, abs=grid[0]))


@pytest.mark.parametrize("op", ["Add", "AveragePool", "ConvTranspose"])
@pytest.mark.parametrize("name", ["Clip(0, 6)", "Clip(-1, 1)"])
def test_other_quantised_operators_and_their_activation(op: str, name: str) -> None:
    activation, bounds, _ = ACTIVATIONS[name]
    between = [helper.make_node(activation, ["raw", *bounds], ["out"])]
    inputs = {"x": (1, 6, 9, 8), "z": (1, 6, 9, 8)} if op == "Add" else {"x": (1, 6, 9, 8)}
    constants: Constants = {"w": weights(6, 4, 3, 3) * 2} if op == "ConvTranspose" else {}
    attributes: Attributes = {"kernel_shape": [2, 2]} if op == "AveragePool" else {}
    model = quantised(
        op,
        inputs,
        constants,
        stored={"w": 1},
        after=WIDE,
        between=between,
        more=limits_of(bounds),
        **attributes,
    )
    check_int8(model, equal=0.9)


@pytest.mark.parametrize("op", ["Add", "Mul", "GlobalAveragePool"])
def test_the_quantiser_of_other_operators_saturates_too(op: str) -> None:
    inputs = {"x": (1, 24, 5, 5), "z": (1, 24, 5, 5)} if op != "GlobalAveragePool" else {"x": (1, 24, 5, 5)}
    clip = helper.make_node("Clip", ["raw", "low", "one"], ["out"])
    model = quantised(op, inputs, after=TO_ONE, between=[clip], more=limits_of(["low", "one"]))
    check_int8(model, {"GlobalAveragePool": "MEAN"}.get(op, op.upper()), low=-2.0, high=3.0)


def conv_and_clip(
    *, quantise_between: bool = False, read_twice: bool = False, also_output: bool = False
) -> onnx.ModelProto:
    """x → Q/DQ → Conv → between (→ Q/DQ) → Clip(0, 1) → Q/DQ → out_dq, and what else reads `between`."""
    nodes, held = qdq("x", 0.04, -28)
    dequantise, kernel = weight_dq("w", weights(8, 3, 3, 3))
    nodes += [dequantise, helper.make_node("Conv", ["x_dq", "w_dq"], ["between"])]
    held |= kernel | limits_of(["low", "one"])
    outputs = ["out_dq"]
    source = "between"
    if quantise_between:
        pair, more = qdq("between", 0.03, 3)
        nodes, held, source = nodes + pair, held | more, "between_dq"
    nodes.append(helper.make_node("Clip", [source, "low", "one"], ["out"]))
    pair, more = qdq("out", *TO_ONE)
    nodes, held = nodes + pair, held | more
    if read_twice:
        nodes.append(helper.make_node("Sigmoid", ["between"], ["other"]))
        outputs.append("other")
    if also_output:
        outputs.append("between")
    return build(nodes, {"x": IMAGE}, outputs, held)


def test_alone_the_clip_disappears() -> None:
    check_int8(conv_and_clip(), "CONV_2D")


@pytest.mark.parametrize("reader", ["read_twice", "also_output"])
def test_the_clip_stays_when_something_else_reads_before_it(reader: str) -> None:
    """The quantiser would clamp for that reader too."""
    model = conv_and_clip(**{reader: True})
    feeds = feeds_of(model)
    wanted, content = run_referee(model, feeds), to_tflite(model)
    for delegate in KERNELS.values():
        got = run_tflite(content, feeds, delegate=delegate)
        np.testing.assert_allclose(got["out_dq"], wanted["out_dq"], atol=TO_ONE[0] * 1.01)
        for name in wanted.keys() - {"out_dq"}:
            np.testing.assert_allclose(got[name], wanted[name], atol=1e-5)
    found = kernels(read_tflite(content))
    assert found[:2] == ["DEQUANTIZE", "CONV_2D float"]
    assert "MAXIMUM float" in found and "MINIMUM float" in found


def test_the_clip_stays_when_the_tensor_before_it_is_quantised() -> None:
    """What comes out is rounded twice."""
    assert kernels(check_int8(conv_and_clip(quantise_between=True), equal=0.9))[:2] == ["CONV_2D", "QUANTIZE"]
