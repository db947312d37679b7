"""INT8 lowerings of hand-written QDQ graphs against the referee: one step of the output's quantiser apart at most."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_quantize_support import (
    Array,
    Attributes,
    Constants,
    FlatFile,
    build,
    initializers,
    interpreter,
    qdq,
    read_tflite,
    run_referee,
    run_tflite,
    weight_dq,
)

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

RNG = np.random.default_rng(11)
X, Y = (0.0413, -28), (0.0522, 13)  # scale and zero point of inputs and output


def values(*shape: int) -> Array:
    return RNG.uniform(-4.5, 6.5, shape).astype(np.float32)


def weights(*shape: int) -> Array:
    return RNG.normal(0.0, 1.0 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)


def quantised(
    op: str,
    inputs: Mapping[str, Sequence[int]],
    constants: Constants | None = None,
    *,
    grids: Sequence[tuple[float, int]] = (X, X, X),
    after: tuple[float, int] = Y,
    between: Sequence[onnx.NodeProto] = (),
    more: Constants | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """inputs → Q/DQ each → op(*inputs, *constants) → `between` → Q/DQ → + 0.25 → y. INT8 but for the addition.

    `between` reads "raw" and writes "out", with the constants of `more`. A constant named w is given INT8 weights.
    """
    nodes: list[onnx.NodeProto] = []
    held: Constants = {"quarter": np.float32(0.25), **(more or {})}
    for name, (scale, zero_point) in zip(inputs, grids, strict=False):
        pair, parameters = qdq(name, scale, zero_point)
        nodes += pair
        held |= parameters
    names = [f"{name}_dq" for name in inputs]
    for name, array in (constants or {}).items():
        if name == "w":
            node, parameters = weight_dq(name, array)
            nodes.append(node)
            held |= parameters
        else:
            held[name] = array
        names.append("w_dq" if name == "w" else name)
    nodes.append(helper.make_node(op, names, ["raw" if between else "out"], name="it", **attributes))
    pair, parameters = qdq("out", *after)
    nodes += [*between, *pair, helper.make_node("Add", ["out_dq", "quarter"], ["y"], name="last")]
    return build(nodes, inputs, ["y"], held | parameters)


def check(model: onnx.ModelProto, *codes: str, step: float = Y[0], equal: float = 0.95) -> FlatFile:
    """Compare with the referee on both kinds of kernels; `codes` are the INT8 operators expected."""
    feeds = {
        value.name: values(*(dim.dim_value for dim in value.type.tensor_type.shape.dim)) for value in model.graph.input
    }
    content = to_tflite(model)
    wanted = run_referee(model, feeds)["y"]
    assert np.ptp(wanted) > 20 * step, "nothing to compare"
    for delegate in (True, False):
        got = run_tflite(content, feeds, delegate=delegate)["y"]
        steps = np.rint((got - wanted) / step)
        assert np.abs(steps).max() <= 1
        # The built-in kernels round in fixed point, MEAN with a bias of a quarter step.
        assert (steps == 0).mean() >= (equal if delegate else 0.7)
    file = read_tflite(content)
    inside = [
        op for op in file.operators if op.code not in ("QUANTIZE", "DEQUANTIZE") and "y" not in names(file, op.outputs)
    ]
    assert tuple(op.code for op in inside) == codes
    for op in inside:
        assert {str(file.dtype(index)) for index in (op.inputs[0], op.outputs[0])} == {"int8"}
    return file


def names(file: FlatFile, indices: Sequence[int]) -> set[str]:
    return {file.name(index) for index in indices}


def refusal(model: onnx.ModelProto) -> str:
    with pytest.raises(ConversionError) as caught:
        to_tflite(model)
    return str(caught.value)


IMAGE = {"x": (1, 6, 9, 8)}


@pytest.mark.parametrize(
    "kernel, attributes, codes",
    [
        ((5, 6, 1, 1), {}, ["CONV_2D"]),
        ((5, 6, 3, 3), {"pads": [1, 1, 1, 1]}, ["CONV_2D"]),
        ((5, 6, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["PAD", "CONV_2D"]),
        ((5, 6, 3, 3), {"pads": [0, 2, 1, 0]}, ["PAD", "CONV_2D"]),
        ((5, 6, 3, 3), {"dilations": [2, 2]}, ["CONV_2D"]),
        ((6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}, ["DEPTHWISE_CONV_2D"]),
        ((12, 1, 3, 3), {"group": 6}, ["DEPTHWISE_CONV_2D"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_conv(kernel: tuple[int, ...], attributes: Attributes, codes: list[str], bias: bool) -> None:
    constants = {"w": weights(*kernel) * 1.5} | ({"b": values(kernel[0])} if bias else {})
    model = quantised("Conv", IMAGE, constants, **attributes)
    if "PAD" in codes and attributes.get("strides"):
        model = quantised("Conv", {"x": (1, 6, 8, 8)}, constants, **attributes)
    file = check(model, *codes)
    layer = file.operators[-3]
    assert [str(file.dtype(index)) for index in layer.inputs] == ["int8", "int8", "int32"]
    assert np.array_equal(file.scale(layer.inputs[2]), np.float32(X[0]) * file.scale(layer.inputs[1]))


def test_a_conv_with_its_relu6_saturates_at_six() -> None:
    clip = helper.make_node("Clip", ["raw", "low", "high"], ["out"])
    constants = {"w": weights(5, 6, 3, 3) * 4, "b": values(5)}
    bounds: Constants = {"low": np.float32(0), "high": np.float32(6)}
    model = quantised("Conv", IMAGE, constants, between=[clip], more=bounds, after=(8 / 255, -128))
    file = check(model, "CONV_2D", step=8 / 255)
    out = run_tflite(to_tflite(model), {"x": values(1, 6, 9, 8)})["y"] - 0.25
    assert out.min() == 0.0
    assert out.max() == pytest.approx(6.0, abs=8 / 255)  # the quantiser would reach 8
    assert "RELU6" not in file.counts


def test_gemm() -> None:
    check(quantised("Gemm", {"x": (1, 40)}, {"w": weights(30, 40) * 2, "b": values(30)}, transB=1), "FULLY_CONNECTED")


def test_gemm_with_weights_stored_the_other_way_round() -> None:
    pair, parameters = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(30, 40).T.copy() * 2, axis=1)
    after, more = qdq("out", *Y)
    nodes = [
        *pair,
        dequantise,
        helper.make_node("Gemm", ["x_dq", "w_dq"], ["out"]),
        *after,
        helper.make_node("Add", ["out_dq", "quarter"], ["y"]),
    ]
    model = build(nodes, {"x": (1, 40)}, ["y"], {"quarter": np.float32(0.25), **parameters, **kernel, **more})
    check(model, "FULLY_CONNECTED")


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
def test_arithmetic_with_a_grid_each(op: str) -> None:
    shape = (1, 4, 7, 6)
    after = (0.211, -20) if op == "Mul" else (0.0787, 5)
    model = quantised(op, {"x": shape, "z": shape}, grids=[X, (0.0619, 11)], after=after)
    check(model, op.upper(), step=after[0])


def test_concat_on_one_grid() -> None:
    model = quantised("Concat", {"x": (1, 4, 7, 6), "z": (1, 3, 7, 6)}, grids=[X, X], after=X, axis=1)
    check(model, "CONCATENATION", step=X[0], equal=1.0)


def test_resize_on_one_grid() -> None:
    nodes, held = qdq("x", *X)
    after, more = qdq("out", *X)
    nodes += [
        helper.make_node("Resize", ["x_dq", "", "scales"], ["out"], mode="linear"),
        *after,
        helper.make_node("Add", ["out_dq", "quarter"], ["y"]),
    ]
    held |= more | {"scales": np.array([1, 1, 2, 2], np.float32), "quarter": np.float32(0.25)}
    check(build(nodes, {"x": (1, 4, 7, 6)}, ["y"], held), "RESIZE_BILINEAR", step=X[0], equal=0.9)  # sixteenths tie


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool_on_one_grid(op: str) -> None:
    code = {"MaxPool": "MAX_POOL_2D", "AveragePool": "AVERAGE_POOL_2D"}[op]
    model = quantised(op, {"x": (1, 4, 8, 6)}, after=X, kernel_shape=[3, 3])  # ninths do not tie
    check(model, code, step=X[0])


@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMean"])
def test_mean_may_change_its_grid(op: str) -> None:
    after = (0.0217, -40)
    constants = {"axes": np.array([2, 3], np.int64)} if op == "ReduceMean" else {}
    attributes: Attributes = {"keepdims": 0} if op == "ReduceMean" else {}
    model = quantised(op, {"x": (1, 32, 6, 6)}, constants, after=after, **attributes)
    check(model, "MEAN", step=after[0])


def test_flatten_of_an_image() -> None:
    check(quantised("Flatten", {"x": (1, 4, 3, 5)}, after=X), "TRANSPOSE", "RESHAPE", step=X[0], equal=1.0)


def test_relu_alone() -> None:
    check(quantised("Relu", {"x": (1, 4, 3, 5)}, after=(0.03, -128)), "RELU", step=0.03)


@pytest.mark.parametrize(
    "model",
    [
        quantised("Concat", {"x": (1, 4, 7, 6), "z": (1, 3, 7, 6)}, grids=[X, Y], after=X, axis=1),
        quantised("MaxPool", {"x": (1, 4, 8, 6)}, kernel_shape=[2, 2]),
        quantised("Flatten", {"x": (1, 4, 3, 5)}),
    ],
    ids=lambda model: model.graph.node[-4].op_type,
)
def test_what_cannot_rescale_is_refused(model: onnx.ModelProto) -> None:
    assert "scale" in refusal(model)


def test_a_quantised_sigmoid_is_refused() -> None:
    assert "Sigmoid" in refusal(quantised("Sigmoid", {"x": (1, 4)}, after=(1 / 256, -128)))


def test_a_sigmoid_behind_int8_runs_in_float() -> None:
    nodes, held = qdq("x", *X)
    model = build([*nodes, helper.make_node("Sigmoid", ["x_dq"], ["y"])], {"x": (1, 50)}, ["y"], held)
    feeds = {"x": values(1, 50)}
    np.testing.assert_allclose(run_tflite(to_tflite(model), feeds)["y"], run_referee(model, feeds)["y"], atol=1e-6)
    assert [op.code for op in read_tflite(to_tflite(model)).operators] == ["QUANTIZE", "DEQUANTIZE", "LOGISTIC"]


def test_a_layer_that_ends_in_float_uses_the_quantised_weights() -> None:
    """A head: INT8 input and weights, float output."""
    nodes, held = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(3, 4, 1, 1))
    nodes += [dequantise, helper.make_node("Conv", ["x_dq", "w_dq"], ["y"], name="head")]
    model = build(nodes, {"x": (1, 4, 7, 6)}, ["y"], held | kernel)
    feeds = {"x": values(1, 4, 7, 6)}
    np.testing.assert_allclose(run_tflite(to_tflite(model), feeds)["y"], run_referee(model, feeds)["y"], atol=1e-5)
    file = read_tflite(to_tflite(model))
    assert [op.code for op in file.operators] == ["QUANTIZE", "DEQUANTIZE", "CONV_2D"]
    stored = file.data(file.operators[-1].inputs[1])
    restored = kernel["w"].astype(np.float32) * kernel["w_scale"].reshape(-1, 1, 1, 1)
    assert np.array_equal(stored, restored.transpose(0, 2, 3, 1))


def as_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same grids with uint8 activations: zero points 128 higher."""
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.int8 and array.ndim == 0:
            tensor.CopyFrom(onnx.numpy_helper.from_array((array.astype(np.int16) + 128).astype(np.uint8), tensor.name))
    model.graph.ClearField("value_info")
    return model


def test_uint8_activations_are_the_same_grid() -> None:
    constants = {"w": weights(5, 6, 3, 3), "b": values(5)}
    signed = quantised("Conv", IMAGE, constants)
    unsigned = as_uint8(quantised("Conv", IMAGE, constants))
    assert initializers(unsigned)["x_zero"] == X[1] + 128
    assert to_tflite(unsigned) == to_tflite(signed)
    check(unsigned, "CONV_2D")


def test_uint8_weights_are_shifted() -> None:
    model = quantised("Conv", IMAGE, {"w": weights(5, 6, 3, 3)})
    wanted = to_tflite(model)
    for tensor in model.graph.initializer:
        if tensor.name in ("w", "w_zero"):
            array = onnx.numpy_helper.to_array(tensor).astype(np.int16) + 128
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.uint8), tensor.name))
    model.graph.ClearField("value_info")
    assert to_tflite(model) == wanted


def test_a_zero_point_left_out_is_zero_of_the_stored_type() -> None:
    constants = {"w": weights(5, 6, 3, 3), "b": values(5)}
    model = quantised("Conv", IMAGE, constants)
    wanted = to_tflite(model)
    for node in model.graph.node:
        if node.name == "w_dequantise":
            del node.input[2]
    check(model, "CONV_2D")
    assert to_tflite(model) == wanted


def test_weights_scaled_along_another_axis_are_refused() -> None:
    """A square kernel would hide it: as many input channels as output channels."""
    nodes, held = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(6, 6, 3, 3), axis=1)
    after, more = qdq("out", *Y)
    nodes += [
        dequantise,
        helper.make_node("Conv", ["x_dq", "w_dq"], ["out"], name="it"),
        *after,
        helper.make_node("Add", ["out_dq", "out_dq"], ["y"]),
    ]
    message = refusal(build(nodes, IMAGE, ["y"], held | kernel | more))
    assert "'it' (Conv)" in message
    assert "axis 1" in message


def test_weights_with_a_zero_point_are_refused() -> None:
    model = quantised("Conv", IMAGE, {"w": weights(5, 6, 3, 3)})
    for tensor in model.graph.initializer:
        if tensor.name == "w_zero":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(5, 3, np.int8), "w_zero"))
    assert "zero point" in refusal(model)


def test_float_weights_between_int8_activations_are_refused() -> None:
    model = quantised("Conv", IMAGE, {"w_float": weights(5, 6, 3, 3)})
    assert "are float" in refusal(model)


def test_activations_with_a_scale_a_channel_are_refused() -> None:
    model = quantised("Relu", IMAGE, after=X)
    for tensor in model.graph.initializer:
        if tensor.name in ("x_scale", "x_zero"):
            array = np.broadcast_to(onnx.numpy_helper.to_array(tensor), (6,)).copy()
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    assert "per tensor" in refusal(model)


def test_int32_quantisers_are_refused() -> None:
    dequantise = helper.make_node("DequantizeLinear", ["b", "s", "z"], ["b_dq"], name="odd")
    model = build(
        [dequantise, helper.make_node("Add", ["x", "b_dq"], ["y"])],
        {"x": (1, 3)},
        ["y"],
        {"b": np.arange(3, dtype=np.int32), "s": np.float32(1), "z": np.int32(0)},
    )
    message = refusal(model)
    assert "'odd' (DequantizeLinear)" in message
    assert "int32" in message


def test_a_quantised_output_is_refused() -> None:
    nodes, held = qdq("x", *X)
    model = build(nodes, {"x": (1, 3)}, ["x_dq"], held)
    assert "heads must end in float" in refusal(model)


def test_integers_that_something_else_reads_are_refused() -> None:
    nodes, held = qdq("x", *X)
    nodes.append(helper.make_node("Cast", ["x_q"], ["y"], name="peek", to=TensorProto.FLOAT))
    assert "'peek' (Cast) reads integers" in refusal(build(nodes, {"x": (1, 3)}, ["y"], held))


def test_a_dequantiser_of_computed_integers_is_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["i", "s"], ["y"], name="lonely"),
    ]
    assert "'lonely'" in refusal(build(nodes, {"x": (1, 3)}, ["y"], {"s": np.float32(1)}))


def test_a_tensor_read_as_float_and_as_int8_has_both() -> None:
    """conv → (Q/DQ → Relu → Q/DQ) + the unrounded conv."""
    nodes, held = qdq("x", *X)
    dequantise, kernel = weight_dq("w", weights(5, 6, 1, 1))
    middle, more = qdq("mid", *Y)
    nodes += [
        dequantise,
        helper.make_node("Conv", ["x_dq", "w_dq"], ["mid"]),
        *middle,
        helper.make_node("Sub", ["mid", "mid_dq"], ["y"]),
    ]
    model = build(nodes, IMAGE, ["y"], held | kernel | more)
    feeds = {"x": values(1, 6, 9, 8)}
    wanted, got = run_referee(model, feeds)["y"], run_tflite(to_tflite(model), feeds)["y"]
    near_half = np.abs(np.abs(wanted) - Y[0] / 2) < 1e-4  # may round either way
    assert near_half.mean() < 0.05
    np.testing.assert_allclose(got[~near_half], wanted[~near_half], atol=1e-5)
    assert wanted.std() > 0.01  # the rounding error itself: uniform within half a step


def test_a_tensor_with_two_grids_is_requantised() -> None:
    """x → Q/DQ → Q/DQ on a coarser grid → y: the second is a view of the first."""
    nodes, held = qdq("x", *X)
    coarse, more = qdq("x_dq", 0.5, 3)
    model = build(
        [*nodes, *coarse, helper.make_node("Sigmoid", ["x_dq_dq"], ["y"])], {"x": (1, 90)}, ["y"], held | more
    )
    feeds = {"x": values(1, 90)}
    np.testing.assert_allclose(run_tflite(to_tflite(model), feeds)["y"], run_referee(model, feeds)["y"], atol=0.12)
    file = read_tflite(to_tflite(model))
    assert [op.code for op in file.operators] == ["QUANTIZE", "QUANTIZE", "DEQUANTIZE", "LOGISTIC"]
    assert [file.scale(op.outputs[0]).item() for op in file.operators[:2]] == pytest.approx([X[0], 0.5])


# The uint8 image.


def pixels(offset: float, divisor: float, scale: float | None, zero_point: int = 0) -> onnx.ModelProto:
    """image → (p − offset) / divisor (→ Q/DQ) → y."""
    nodes = [
        helper.make_node("Cast", ["image"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["p", "offset"], ["m"]),
        helper.make_node("Div", ["m", "divisor"], ["n"]),
    ]
    held: Constants = {"offset": np.float32(offset), "divisor": np.float32(divisor), "one": np.float32(1)}
    if scale is not None:
        pair, parameters = qdq("n", scale, zero_point)
        nodes += pair
        held |= parameters
    nodes.append(helper.make_node("Mul", ["n" if scale is None else "n_dq", "one"], ["y"]))
    return build(nodes, {"image": (1, 1, 16, 16)}, ["y"], held, dtype=TensorProto.UINT8)


EVERY_PIXEL = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


@pytest.mark.parametrize("scale", [None, 1 / 128], ids=["fp32", "int8"])
@pytest.mark.parametrize("delegate", [True, False])
def test_every_pixel_value_arrives_exactly(scale: float | None, delegate: bool) -> None:
    model = pixels(128, 128, scale)
    exact = (EVERY_PIXEL.astype(np.float32) - 128) / 128
    assert np.array_equal(run_referee(model, {"image": EVERY_PIXEL})["y"], exact)
    assert np.array_equal(run_tflite(to_tflite(model), {"image": EVERY_PIXEL}, delegate=delegate)["y"], exact)
    file = read_tflite(to_tflite(model))
    assert file.counts == ({"DEQUANTIZE": 1, "MUL": 1} if scale is None else {"QUANTIZE": 1, "DEQUANTIZE": 1, "MUL": 1})


def test_the_input_is_uint8_nhwc_on_the_pixel_grid() -> None:
    content = to_tflite(pixels(128, 128, 1 / 128))
    detail = interpreter(content).get_input_details()[0]
    assert detail["dtype"] == np.uint8
    assert detail["shape"].tolist() == [1, 16, 16, 1]
    assert detail["quantization"] == (1 / 128, 128)


def test_another_normalisation_keeps_its_offset_and_scale() -> None:
    model = pixels(100, 64, None)
    got = run_tflite(to_tflite(model), {"image": EVERY_PIXEL})["y"]
    np.testing.assert_allclose(got, (EVERY_PIXEL.astype(np.float32) - 100) / 64, atol=1e-6)


def test_a_coarser_quantiser_of_the_image_rounds() -> None:
    model = pixels(128, 128, 1 / 64)
    got = run_tflite(to_tflite(model), {"image": EVERY_PIXEL})["y"]
    np.testing.assert_allclose(got, run_referee(model, {"image": EVERY_PIXEL})["y"], atol=1 / 64 + 1e-6)
    assert len(np.unique(got)) in (128, 129)


@pytest.mark.parametrize("offset, divisor", [(127.5, 127.5), (300, 128), (-1, 128), (128, -128)])
def test_a_normalisation_that_is_no_uint8_quantiser_is_refused(offset: float, divisor: float) -> None:
    """TFLite has no uint8 → float but DEQUANTIZE."""
    assert "(Cast)" in refusal(pixels(offset, divisor, None))
