"""Every FP32 lowering against ONNX Runtime, on XNNPACK and on the built-in kernels."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper
from test_quantize_support import (
    Array,
    Attributes,
    Constants,
    FlatFile,
    build,
    copy_of,
    read_tflite,
    run_referee,
    run_tflite,
)

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

RNG = np.random.default_rng(7)


def values(*shape: int, low: float = -2.0, high: float = 8.0) -> Array:
    """Uniform values on both sides of 0 and of 6."""
    return RNG.uniform(low, high, shape).astype(np.float32)


def weights(*shape: int) -> Array:
    return RNG.normal(0.0, 1.0 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


def check(model: onnx.ModelProto, *, atol: float = 1e-5) -> FlatFile:
    """Lower, run both and compare; return the file."""
    feeds = {
        value.name: values(*(dim.dim_value for dim in value.type.tensor_type.shape.dim)) for value in model.graph.input
    }
    content = to_tflite(model)
    wanted = run_referee(model, feeds)
    for delegate in (True, False):
        got = run_tflite(content, feeds, delegate=delegate)
        assert got.keys() == wanted.keys()
        for name, array in wanted.items():
            assert got[name].shape == array.shape
            assert np.ptp(array) > 0 or array.size == 1, "nothing to compare"
            np.testing.assert_allclose(got[name], array, rtol=1e-5, atol=atol)
    return read_tflite(content)


def one_op(op: str, shape: tuple[int, ...], constants: Constants | None = None, **attributes: Any) -> onnx.ModelProto:
    """x → op(x, *constants) → y."""
    constants = constants or {}
    return build(
        [helper.make_node(op, ["x", *constants], ["y"], name="it", **attributes)], {"x": shape}, ["y"], constants
    )


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(ConversionError) as caught:
        to_tflite(model)
    return str(caught.value)


# Convolutions.

CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Attributes, list[str]]] = {
    # name: image, kernel, attributes, the operators expected
    "no pads": ((1, 3, 9, 8), (4, 3, 3, 3), {}, ["CONV_2D"]),
    "pointwise": ((1, 5, 4, 6), (7, 5, 1, 1), {}, ["CONV_2D"]),
    "symmetric pads": ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, ["CONV_2D"]),
    "even kernel, SAME": ((1, 3, 9, 8), (4, 3, 2, 4), {"pads": [0, 1, 1, 2]}, ["CONV_2D"]),
    "stride 2, SAME at the end": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}, ["CONV_2D"]),
    "stride 2, symmetric": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["PAD", "CONV_2D"]),
    "stride 2, odd size": ((1, 3, 9, 9), (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["CONV_2D"]),
    "odd pads": ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [2, 0, 1, 3]}, ["PAD", "CONV_2D"]),
    "uneven strides": ((1, 2, 9, 10), (3, 2, 3, 3), {"strides": [1, 2]}, ["CONV_2D"]),
    "dilation": ((1, 3, 12, 11), (4, 3, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, ["CONV_2D"]),
    "uneven dilation": ((1, 3, 12, 11), (4, 3, 3, 3), {"dilations": [3, 1]}, ["CONV_2D"]),
    "VALID by name": ((1, 3, 9, 8), (4, 3, 3, 3), {"auto_pad": "VALID"}, ["CONV_2D"]),
    "one channel": ((1, 1, 9, 8), (4, 1, 3, 3), {}, ["CONV_2D"]),
    "depthwise": ((1, 6, 9, 8), (6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}, ["DEPTHWISE_CONV_2D"]),
    "depthwise, two filters a channel": ((1, 3, 9, 8), (6, 1, 3, 3), {"group": 3}, ["DEPTHWISE_CONV_2D"]),
    "depthwise, stride 2": (
        (1, 6, 8, 8),
        (6, 1, 3, 3),
        {"group": 6, "pads": [0, 0, 1, 1], "strides": [2, 2]},
        ["DEPTHWISE_CONV_2D"],
    ),
    "depthwise, odd pads": (
        (1, 4, 8, 8),
        (4, 1, 3, 3),
        {"group": 4, "pads": [1, 0, 1, 0]},
        ["PAD", "DEPTHWISE_CONV_2D"],
    ),
    "depthwise, dilation": ((1, 4, 9, 9), (4, 1, 3, 3), {"group": 4, "dilations": [2, 2]}, ["DEPTHWISE_CONV_2D"]),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_conv(name: str, bias: bool) -> None:
    image, kernel, attributes, codes = CONVS[name]
    constants = {"w": weights(*kernel)} | ({"b": values(kernel[0])} if bias else {})
    file = check(one_op("Conv", image, constants, **attributes))
    assert [operator.code for operator in file.operators] == codes


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_conv_of_any_geometry(data: st.DataObject) -> None:

    def pair(low: int, high: int) -> list[int]:
        return [data.draw(st.integers(low, high)) for _ in range(2)]

    size, kernel, strides, dilations = pair(3, 12), pair(1, 4), pair(1, 3), pair(1, 2)
    pads = [data.draw(st.integers(0, 3)) for _ in range(4)]
    depthwise, channels, multiplier = (
        data.draw(st.booleans()),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 3)),
    )
    for axis in range(2):
        assume((kernel[axis] - 1) * dilations[axis] + 1 <= size[axis] + pads[axis] + pads[axis + 2])
    shape = (channels * multiplier, 1, *kernel) if depthwise else (multiplier, channels, *kernel)
    model = one_op(
        "Conv",
        (1, channels, *size),
        {"w": weights(*shape), "b": values(shape[0])},
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=channels if depthwise else 1,
    )
    check(model, atol=2e-5)


def test_grouped_conv_is_refused() -> None:
    message = refusal(one_op("Conv", (1, 6, 5, 5), {"w": weights(6, 3, 3, 3)}, group=2))
    assert "'it' (Conv)" in message
    assert "2 groups of 3 channels" in message


def test_conv_of_another_rank_is_refused() -> None:
    assert "1-D convolution" in refusal(one_op("Conv", (1, 3, 9), {"w": weights(4, 3, 3)}))


def test_auto_pad_is_refused() -> None:
    message = refusal(one_op("Conv", (1, 3, 9, 9), {"w": weights(4, 3, 3, 3)}, auto_pad="SAME_UPPER"))
    assert "SAME_UPPER" in message


def test_conv_with_computed_weights_is_refused() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], name="it")
    assert "must be a constant" in refusal(build([conv], {"x": (1, 2, 5, 5), "w": (3, 2, 3, 3)}, ["y"]))


# Gemm and arithmetic.


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), None], ids=str)
def test_gemm(transposed: int, bias: tuple[int, ...] | None) -> None:
    constants = {"w": weights(5, 7) if transposed else weights(5, 7).T.copy()}
    constants |= {} if bias is None else {"b": values(*bias)}
    file = check(one_op("Gemm", (1, 7), constants, transB=transposed))
    assert [operator.code for operator in file.operators] == ["FULLY_CONNECTED"]


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}], ids=str)
def test_gemm_with_factors_is_refused(attributes: Attributes) -> None:
    shape = (7, 1) if "transA" in attributes else (1, 7)
    message = refusal(one_op("Gemm", shape, {"w": weights(7, 5), "b": values(5)}, **attributes))
    assert "alpha = beta = 1" in message


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("other", [(1, 3, 4, 5), (1, 3, 1, 1), (1, 1, 4, 5), (1, 1, 1, 1)], ids=str)
def test_arithmetic_of_two_tensors(op: str, other: tuple[int, ...]) -> None:
    model = build([helper.make_node(op, ["a", "b"], ["y"], name="it")], {"a": (1, 3, 4, 5), "b": other}, ["y"])
    assert check(model).counts == {op.upper(): 1}


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 3, 1, 1), (1, 1, 4, 5), (1, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["x op c", "c op x"])
def test_arithmetic_with_a_constant(op: str, shape: tuple[int, ...], first: bool) -> None:
    names = ["c", "x"] if first else ["x", "c"]
    check(build([helper.make_node(op, names, ["y"])], {"x": (1, 3, 4, 5)}, ["y"], {"c": values(*shape)}))


@pytest.mark.parametrize("shape", [(7,), (1, 7)], ids=str)
def test_arithmetic_of_vectors(shape: tuple[int, ...]) -> None:
    check(one_op("Add", (1, 7), {"c": values(*shape)}))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (4, 1), (3, 1, 1)], ids=str)
def test_a_constant_that_broadcasts_across_layouts_is_refused(shape: tuple[int, ...]) -> None:
    assert "give it rank 4" in refusal(one_op("Mul", (1, 3, 4, 5), {"c": values(*shape)}))


def test_a_vector_is_not_taken_for_channels() -> None:
    """ONNX aligns (5,) with the columns, TFLite with the channels; where both are 5 nothing would notice."""
    assert "give it rank 4" in refusal(one_op("Add", (1, 5, 4, 5), {"c": values(5)}))
    two = build([helper.make_node("Add", ["a", "b"], ["y"], name="it")], {"a": (1, 5, 4, 5), "b": (5,)}, ["y"])
    assert "give it rank 4" in refusal(two)


# Concat and activations.


@pytest.mark.parametrize("axis", [1, -3, 2, 3])
def test_concat(axis: int) -> None:
    shapes = [[1, 3, 4, 5], [1, 3, 4, 5], [1, 3, 4, 5]]
    shapes[1][axis] = 2
    inputs = dict(zip("abc", map(tuple, shapes), strict=True))
    file = check(build([helper.make_node("Concat", list(inputs), ["y"], axis=axis)], inputs, ["y"]))
    assert file.counts == {"CONCATENATION": 1}


def test_concat_of_vectors() -> None:
    check(build([helper.make_node("Concat", ["a", "b"], ["y"], axis=1)], {"a": (1, 3), "b": (1, 2)}, ["y"]))


LIMITS: Constants = {"low": np.float32(0), "high": np.float32(6)}
ACTIVATIONS: dict[str, tuple[str, list[str], str]] = {
    "Relu": ("Relu", [], "RELU"),
    "Clip(0, 6)": ("Clip", ["low", "high"], "RELU6"),
    "Clip(0, ∞)": ("Clip", ["low"], "RELU"),
    "Clip(0, left out)": ("Clip", ["low", ""], "RELU"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_alone(name: str) -> None:
    op, bounds, code = ACTIVATIONS[name]
    constants = {bound: LIMITS[bound] for bound in bounds if bound}
    file = check(build([helper.make_node(op, ["x", *bounds], ["y"])], {"x": (1, 3, 4, 5)}, ["y"], constants))
    assert file.counts == {code: 1}


BEFORE: dict[str, tuple[list[str], Constants, Attributes]] = {
    "Conv": (["w"], {"w": weights(4, 3, 3, 3) * 3}, {}),
    "Add": (["x"], {}, {}),
    "Mul": (["x"], {}, {}),
    "Sub": (["c"], {"c": values(1, 3, 1, 1)}, {}),
    "MaxPool": ([], {}, {"kernel_shape": [2, 2]}),
    "AveragePool": ([], {}, {"kernel_shape": [2, 2]}),
    "Concat": (["x"], {}, {"axis": 1}),
    "GlobalAveragePool": ([], {}, {}),
}


@pytest.mark.parametrize("op", BEFORE)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_behind_another_operator(op: str, name: str) -> None:
    inputs, constants, attributes = BEFORE[op]
    activation, bounds, code = ACTIVATIONS[name]
    nodes = [
        helper.make_node(op, ["x", *inputs], ["between"], **attributes),
        helper.make_node(activation, ["between", *bounds], ["y"]),
    ]
    limits = {bound: LIMITS[bound] for bound in bounds if bound}
    file = check(build(nodes, {"x": (1, 3, 6, 6)}, ["y"], constants | limits))
    fuses = op not in ("Concat", "GlobalAveragePool")  # TFLite has no activation in CONCATENATION and MEAN
    assert len(file.operators) == (1 if fuses else 2)
    assert (code in file.counts) != fuses


def test_gemm_fuses_its_activation() -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["between"], transB=1), helper.make_node("Relu", ["between"], ["y"])]
    assert check(build(nodes, {"x": (1, 7)}, ["y"], {"w": weights(9, 7)})).counts == {"FULLY_CONNECTED": 1}


def test_an_activation_is_not_fused_when_something_else_reads_before_it() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["between"]),
        helper.make_node("Relu", ["between"], ["active"]),
        helper.make_node("Add", ["active", "between"], ["y"]),
    ]
    file = check(build(nodes, {"x": (1, 3, 6, 6)}, ["y"], {"w": weights(4, 3, 3, 3)}))
    assert file.counts == {"CONV_2D": 1, "RELU": 1, "ADD": 1}


def test_an_activation_is_not_fused_into_an_output() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["raw"]), helper.make_node("Relu", ["raw"], ["active"])]
    check(build(nodes, {"x": (1, 3, 6, 6)}, ["raw", "active"], {"w": weights(4, 3, 3, 3)}))


def test_two_activations_in_a_row_both_count() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["raw"]),
        helper.make_node("Relu", ["raw"], ["one"]),
        helper.make_node("Clip", ["one", "low", "high"], ["y"]),
    ]
    file = check(build(nodes, {"x": (1, 3, 6, 6)}, ["y"], {"w": weights(4, 3, 3, 3) * 5, **LIMITS}))
    assert file.counts == {"CONV_2D": 1, "RELU6": 1}


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 1.0), (-1.0, 6.0), (None, 6.0)])
def test_another_clip_is_refused(low: float | None, high: float) -> None:
    constants = {"high": np.float32(high)} | ({} if low is None else {"low": np.float32(low)})
    node = helper.make_node("Clip", ["x", "low" if low is not None else "", "high"], ["y"], name="it")
    assert "only Clip(0, 6)" in refusal(build([node], {"x": (1, 3, 4, 5)}, ["y"], constants))


def test_a_clip_at_a_computed_bound_is_refused() -> None:
    """A bound that the graph computes is not "no bound"."""
    node = helper.make_node("Clip", ["x", "low", "high"], ["y"], name="it")
    model = build([node], {"x": (1, 3, 4, 5), "high": ()}, ["y"], {"low": np.float32(0)})
    assert "only Clip(0, 6)" in refusal(model)


def test_sigmoid() -> None:
    assert check(one_op("Sigmoid", (1, 3, 4, 5))).counts == {"LOGISTIC": 1}


# Pooling and means.

SAME = [0, 0, 1, 1]


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        {"kernel_shape": [3, 2]},
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": SAME},
        {"kernel_shape": [2, 2], "pads": SAME},
        {"kernel_shape": [2, 2], "auto_pad": "VALID"},
    ],
    ids=str,
)
def test_pool(op: str, attributes: Attributes) -> None:
    code = {"MaxPool": "MAX_POOL_2D", "AveragePool": "AVERAGE_POOL_2D"}[op]
    assert check(one_op(op, (1, 3, 8, 8), **attributes)).counts == {code: 1}


def test_average_that_counts_pads_is_refused_and_without_pads_it_is_not() -> None:
    kernel: Attributes = {"kernel_shape": [3, 3], "count_include_pad": 1}
    assert "count_include_pad" in refusal(one_op("AveragePool", (1, 3, 8, 8), pads=[1, 1, 1, 1], **kernel))
    check(one_op("AveragePool", (1, 3, 8, 8), **kernel))


@pytest.mark.parametrize(
    "attributes, reason",
    [
        ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, "TFLite's SAME"),
        ({"kernel_shape": [3, 3], "auto_pad": "SAME_LOWER"}, "TFLite's SAME"),
        ({"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, "floor rounding"),
        ({"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilated"),
    ],
    ids=str,
)
def test_other_pools_are_refused(attributes: Attributes, reason: str) -> None:
    assert reason in refusal(one_op("MaxPool", (1, 3, 8, 8), **attributes))


def test_pool_of_another_rank_is_refused() -> None:
    assert "2-D pooling" in refusal(one_op("MaxPool", (1, 3, 8), kernel_shape=[2]))


def test_global_average_pool() -> None:
    assert check(one_op("GlobalAveragePool", (1, 3, 4, 5))).counts == {"MEAN": 1}


@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2]], ids=str)
def test_mean_over_height_and_width(keep: int, axes: list[int]) -> None:
    file = check(one_op("ReduceMean", (1, 3, 4, 5), {"axes": np.array(axes, np.int64)}, keepdims=keep))
    assert file.counts == {"MEAN": 1}


@pytest.mark.parametrize("axes", [[1], [2], [3], [1, 2, 3]], ids=str)
def test_mean_over_other_axes_that_stay(axes: list[int]) -> None:
    check(one_op("ReduceMean", (1, 3, 4, 5), {"axes": np.array(axes, np.int64)}, keepdims=1))


def test_mean_over_everything() -> None:
    check(one_op("ReduceMean", (1, 3, 4, 5), keepdims=1))


def test_mean_that_drops_other_axes_is_refused() -> None:
    model = one_op("ReduceMean", (1, 3, 4, 5), {"axes": np.array([1], np.int64)}, keepdims=0)
    assert "over height and width" in refusal(model)


# Resize and reshape.


def resized(
    shape: tuple[int, ...], *, scales: list[float] | None = None, sizes: list[int] | None = None, **attributes: Any
) -> onnx.ModelProto:
    constants: Constants = {}
    if scales is not None:
        constants["scales"] = np.array(scales, np.float32)
    if sizes is not None:
        constants["sizes"] = np.array(sizes, np.int64)
    names = ["x", "", "scales" if scales is not None else "", "sizes" if sizes is not None else ""]
    node = helper.make_node("Resize", [*names[:3], *filter(None, names[3:])], ["y"], name="it", **attributes)
    return build([node], {"x": shape}, ["y"], constants)


@pytest.mark.parametrize("rule", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("size", [(8, 10), (7, 13), (3, 2)], ids=str)
def test_bilinear_resize(rule: str, size: tuple[int, int]) -> None:
    model = resized((1, 3, 4, 5), sizes=[1, 3, *size], mode="linear", coordinate_transformation_mode=rule)
    assert check(model).counts == {"RESIZE_BILINEAR": 1}


@pytest.mark.parametrize("scales", [(2, 3), (1.5, 1.6), (0.5, 0.2)], ids=str)
def test_bilinear_resize_by_scales(scales: tuple[float, float]) -> None:
    check(resized((1, 3, 4, 5), scales=[1, 1, *scales], mode="linear"))


def test_bilinear_resize_by_scales_of_named_axes() -> None:
    check(resized((1, 3, 4, 5), scales=[2, 3], axes=[2, 3], mode="linear"))


@pytest.mark.parametrize("factor", [2, 3])
def test_nearest_resize(factor: int) -> None:
    model = resized(
        (1, 3, 4, 5),
        scales=[1, 1, factor, factor],
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    assert check(model).counts == {"RESIZE_NEAREST_NEIGHBOR": 1}


@pytest.mark.parametrize(
    "attributes",
    [
        {"mode": "cubic"},
        {"mode": "nearest"},
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric"},
        {"mode": "nearest", "coordinate_transformation_mode": "half_pixel", "nearest_mode": "floor"},
        {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
        {"mode": "linear", "antialias": 1},
    ],
    ids=str,
)
def test_other_resizes_are_refused(attributes: Attributes) -> None:
    assert "TFLite" in refusal(resized((1, 3, 4, 5), scales=[1, 1, 2, 2], **attributes))


def test_resize_of_channels_is_refused() -> None:
    assert "height and width" in refusal(resized((1, 3, 4, 5), scales=[1, 2, 1, 1], mode="linear"))


def test_a_scale_that_does_not_meet_the_size_is_refused() -> None:
    """ONNX samples by the scale it is given; TFLite by the ratio of the sizes, here 11 / 5 for a scale of 2.3."""
    assert "2.3" in refusal(resized((1, 3, 5, 5), scales=[1, 1, 2.3, 2.3], mode="linear"))


@pytest.mark.parametrize("op", ["Flatten", "Reshape"])
@pytest.mark.parametrize(
    "shape, turned",
    [((1, 3, 4, 5), True), ((1, 3, 1, 1), False), ((1, 1, 4, 5), False)],
    ids=["image", "one pixel", "one channel"],
)
def test_an_image_becomes_a_vector_in_onnx_order(op: str, shape: tuple[int, ...], turned: bool) -> None:
    constants = {"shape": np.array([1, -1], np.int64)} if op == "Reshape" else {}
    file = check(one_op(op, shape, constants))
    assert file.counts == ({"TRANSPOSE": 1} if turned else {}) | {"RESHAPE": 1}


def test_squeeze_and_unsqueeze_of_one_pixel() -> None:
    check(one_op("Squeeze", (1, 3, 1, 1), {"axes": np.array([2, 3], np.int64)}))
    check(one_op("Unsqueeze", (1, 3), {"axes": np.array([2, 3], np.int64)}))


def test_an_image_made_from_a_vector_is_refused() -> None:
    assert "image layout" in refusal(one_op("Reshape", (1, 60), {"shape": np.array([1, 3, 4, 5], np.int64)}))


@pytest.mark.parametrize("shape", [(1, 6, 2, 5), (1, 5, 4, 3)], ids=str)
def test_an_image_made_from_another_image_is_refused(shape: tuple[int, ...]) -> None:
    """The same numbers in NHWC would be in another order."""
    assert "image layout" in refusal(one_op("Reshape", (1, 3, 4, 5), {"shape": np.array(shape, np.int64)}))


def test_a_reshape_to_the_same_shape_and_to_one_pixel_work() -> None:
    check(one_op("Reshape", (1, 3, 4, 5), {"shape": np.array([1, 3, 4, 5], np.int64)}))
    check(one_op("Reshape", (1, 3, 4, 5), {"shape": np.array([1, 60, 1, 1], np.int64)}))


# A graph as a whole.


def test_constants_in_constant_nodes_and_identities_are_read_through() -> None:
    nodes = [
        helper.make_node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(weights(4, 3, 3, 3), "w")),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Conv", ["same", "w"], ["y"]),
    ]
    assert check(build(nodes, {"x": (1, 3, 6, 6)}, ["y"])).counts == {"CONV_2D": 1}


def test_two_outputs_keep_their_names_and_order() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["second"]), helper.make_node("Sigmoid", ["x"], ["first"])]
    file = check(build(nodes, {"x": (1, 3, 6, 6)}, ["first", "second"]))
    assert [file.name(index) for index in file.graph.outputs] == ["first", "second"]


def test_the_comparison_would_notice() -> None:
    """A file of other weights does not pass `check`."""
    model = one_op("Conv", (1, 3, 6, 6), {"w": weights(4, 3, 3, 3)})
    other = copy_of(model)
    other.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(model.graph.initializer[0]) * np.float32(1.001), "w")
    )
    feeds = {"x": values(1, 3, 6, 6)}
    wanted, got = run_referee(model, feeds)["y"], run_tflite(to_tflite(other), feeds)["y"]
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
