"""The uint8 image: its normalisation, or its DequantizeLinear, becomes the quantiser of the file's input."""

import numpy as np
import onnx
import pytest
from lowering_checks import KERNELS, Shape, X, Y, check, check_int8, refusal, weights
from onnx import TensorProto, helper
from test_quantize_support import (
    Constants,
    build,
    interpreter,
    qdq,
    read_tflite,
    run_referee,
    run_tflite,
    weight_dq,
)

from benchmarks.layers_litert import layers_of
from quantize.tflite.lower import to_tflite

EVERY_PIXEL = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
PIXELS: Shape = (1, 1, 16, 16)


def pixels(
    offset: float, divisor: float, scale: float | None = None, *, cast_scale: float | None = None
) -> onnx.ModelProto:
    """image → (p − offset) / divisor (→ Q/DQ) → y; cast_scale: of another pair in front of it."""
    nodes = [helper.make_node("Cast", ["image"], ["p"], to=TensorProto.FLOAT)]
    held: Constants = {"offset": np.float32(offset), "divisor": np.float32(divisor), "one": np.float32(1)}
    if cast_scale is not None:
        pair, parameters = qdq("p", cast_scale, -128)
        nodes, held = nodes + pair, held | parameters
    nodes += [
        helper.make_node("Sub", ["p" if cast_scale is None else "p_dq", "offset"], ["m"]),
        helper.make_node("Div", ["m", "divisor"], ["n"]),
    ]
    if scale is not None:
        pair, parameters = qdq("n", scale)
        nodes, held = nodes + pair, held | parameters
    nodes.append(helper.make_node("Mul", ["n" if scale is None else "n_dq", "one"], ["y"]))
    return build(nodes, {"image": PIXELS}, ["y"], held, dtype=TensorProto.UINT8)


# (p − c) / s.


@pytest.mark.parametrize("scale", [None, 1 / 128], ids=["fp32", "int8"])
@pytest.mark.parametrize("delegate", KERNELS.values(), ids=KERNELS)
def test_every_pixel_value_arrives_exactly(scale: float | None, delegate: bool) -> None:
    model = pixels(128, 128, scale)
    exact = (EVERY_PIXEL.astype(np.float32) - 128) / 128
    assert np.array_equal(run_referee(model, {"image": EVERY_PIXEL})["y"], exact)
    assert np.array_equal(run_tflite(to_tflite(model), {"image": EVERY_PIXEL}, delegate=delegate)["y"], exact)
    file = read_tflite(to_tflite(model))
    assert file.counts == ({"DEQUANTIZE": 1, "MUL": 1} if scale is None else {"QUANTIZE": 1, "DEQUANTIZE": 2, "MUL": 1})
    assert all(layer.kernel == "XNNPACK" for layer in layers_of(interpreter(to_tflite(model), delegate=True)))


def test_the_input_is_uint8_nhwc_on_the_pixel_grid() -> None:
    detail = interpreter(to_tflite(pixels(128, 128, 1 / 128))).get_input_details()[0]
    assert detail["dtype"] == np.uint8
    assert detail["shape"].tolist() == [1, 16, 16, 1]
    assert detail["quantization"] == (1 / 128, 128)


def test_another_normalisation_keeps_its_offset_and_scale() -> None:
    file = check(pixels(100, 64), "DEQUANTIZE", "MUL")
    (image,) = file.graph.inputs
    assert (file.scale(image).item(), file.zero_point(image).item()) == (1 / 64, 100)


def test_a_coarser_quantiser_of_the_image_rounds() -> None:
    model = pixels(128, 128, 1 / 64)
    got = run_tflite(to_tflite(model), {"image": EVERY_PIXEL})["y"]
    np.testing.assert_allclose(got, run_referee(model, {"image": EVERY_PIXEL})["y"], atol=1 / 64 + 1e-6)
    assert len(np.unique(got)) in (128, 129)


@pytest.mark.parametrize("offset, divisor", [(127.5, 127.5), (300, 128), (-1, 128), (128, -128)])
def test_a_normalisation_that_is_no_uint8_quantiser_is_computed(offset: float, divisor: float) -> None:
    assert not {"SUB", "DIV"} - check(pixels(offset, divisor)).counts.keys()


def test_a_normalisation_by_channel_is_computed() -> None:
    nodes = [
        helper.make_node("Cast", ["image"], ["p"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["p", "mean"], ["m"]),
        helper.make_node("Div", ["m", "deviation"], ["y"]),
    ]
    held: Constants = {
        "mean": np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1),
        "deviation": np.array([58.4, 57.1, 57.4], np.float32).reshape(1, 3, 1, 1),
    }
    check(build(nodes, {"image": (1, 3, 16, 16)}, ["y"], held, dtype=TensorProto.UINT8))


def test_a_quantiser_within_the_normalisation_counts() -> None:
    """Every second pixel value is rounded away."""
    assert "QUANTIZE" in check(pixels(128, 128, cast_scale=2.0)).counts


# Integers as input, read by a DequantizeLinear.


def dequantised(dtype: int, zero_point: int, *, then: list[onnx.NodeProto], held: Constants) -> onnx.ModelProto:
    """image → DequantizeLinear → image_dq → `then`, which writes out_dq."""
    storage = helper.tensor_dtype_to_np_dtype(dtype)
    held = held | {"image_scale": np.float32(X[0]), "image_zero": np.asarray(zero_point, storage)}
    read = helper.make_node("DequantizeLinear", ["image", "image_scale", "image_zero"], ["image_dq"], name="reader")
    return build([read, *then], {"image": (1, 3, 9, 8)}, ["out_dq"], held, dtype=dtype)


@pytest.mark.parametrize(
    "dtype, zero_point, codes",
    [(TensorProto.UINT8, 100, ["CONV_2D"]), (TensorProto.INT8, -28, ["CONV_2D"]), (TensorProto.UINT8, 0, ["CONV_2D"])],
)
def test_a_quantised_input(dtype: int, zero_point: int, codes: list[str]) -> None:
    """A pair behind it on the same grid; a uint8 image is moved to it by DEQUANTIZE and QUANTIZE, which change no value."""
    stored = zero_point - (128 if dtype == TensorProto.UINT8 else 0)
    pair, held = qdq("image_dq", X[0], stored)
    dequantise, kernel = weight_dq("w", weights(5, 3, 3, 3))
    after, more = qdq("out", *Y)
    conv = helper.make_node("Conv", ["image_dq_dq", "w_dq"], ["out"])
    model = dequantised(dtype, zero_point, then=[*pair, dequantise, conv, *after], held=held | kernel | more)
    file = check_int8(model, *codes)
    assert file.counts["QUANTIZE"] == (dtype == TensorProto.UINT8)
    assert file.dtype(file.graph.inputs[0]) == helper.tensor_dtype_to_np_dtype(dtype)


@pytest.mark.parametrize("dtype, zero_point", [(TensorProto.UINT8, 100), (TensorProto.INT8, -28)])
def test_a_quantised_input_of_a_float_network(dtype: int, zero_point: int) -> None:
    model = dequantised(dtype, zero_point, then=[helper.make_node("Relu", ["image_dq"], ["out_dq"])], held={})
    file = check(model, "DEQUANTIZE", "RELU")
    assert file.zero_point(file.graph.inputs[0]) == zero_point


def second_reader(scale: float) -> onnx.ModelProto:
    then = [
        helper.make_node("DequantizeLinear", ["image", "other", "image_zero"], ["again"], name="second"),
        helper.make_node("Mul", ["image_dq", "again"], ["out_dq"]),
    ]
    return dequantised(TensorProto.UINT8, 100, then=then, held={"other": np.float32(scale)})


def test_two_readers_of_one_input() -> None:
    check(second_reader(X[0]), "DEQUANTIZE", "DEQUANTIZE", "MUL")
    assert "node 'second' (DequantizeLinear) reads input 'image' with a second scale" in refusal(second_reader(0.5))


def test_an_input_of_other_integers_is_refused() -> None:
    then = [helper.make_node("Relu", ["image_dq"], ["out_dq"])]
    message = refusal(dequantised(TensorProto.INT32, 0, then=then, held={}))
    assert "node 'reader' (DequantizeLinear) reads input 'image' as int32 with 1 scales" in message
    assert "give int8 or uint8 and one scale" in message


def test_an_input_with_a_scale_a_channel_is_refused() -> None:
    read = helper.make_node("DequantizeLinear", ["image", "s", "z"], ["y"], name="reader", axis=1)
    held: Constants = {"s": np.ones(3, np.float32), "z": np.zeros(3, np.uint8)}
    message = refusal(build([read], {"image": (1, 3, 9, 8)}, ["y"], held, dtype=TensorProto.UINT8))
    assert "reads input 'image' as uint8 with 3 scales; give int8 or uint8 and one scale" in message


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_an_input_of_another_type_is_refused_even_when_nothing_reads_it(dtype: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3]),
            helper.make_tensor_value_info("idle", dtype, [1, 3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    assert f"input 'idle' is {kind}; export the network in float32" in refusal(model)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_arithmetic_in_another_type_is_refused(dtype: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="it")],
        "graph",
        [helper.make_tensor_value_info("x", dtype, [1, 3])],
        [helper.make_tensor_value_info("y", dtype, [1, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    assert f"Relu 'it': computes in {kind}; export the network in float32" in refusal(model)
