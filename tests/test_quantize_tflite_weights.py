"""Weights and biases of quantised layers as they are stored: which keep their integers, and which run in float."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from lowering_checks import X, Y, check, check_int8, quantised, replaced, shifted, values, weights
from onnx import TensorProto, helper
from test_quantize_support import Constants, build, initializers, qdq, weight_dq

from quantize.onnx_graph import OPSET
from quantize.tflite.lower import to_tflite

IMAGE = (1, 6, 9, 8)


def node(op: str, *inputs: str, to: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [to], name=f"{to}_node", **attributes)


# Weights.


def with_weights(nodes: Sequence[onnx.NodeProto], constants: Constants, *, opset: int = OPSET) -> onnx.ModelProto:
    """x → Q/DQ → Conv with what `nodes` writes as "w_dq" → Q/DQ → out_dq."""
    pair, held = qdq("x", *X)
    after, more = qdq("out", *Y)
    every = [*pair, *nodes, node("Conv", "x_dq", "w_dq", to="out"), *after]
    return build(every, {"x": IMAGE}, ["out_dq"], held | more | constants, opset=opset)


FLOAT_CONV = ["DEQUANTIZE", "CONV_2D float", "QUANTIZE"]
KERNEL = weights(5, 6, 3, 3)
SCALE = np.asarray(np.abs(KERNEL).max() / 120, np.float32)
SCALES = np.asarray(np.abs(KERNEL).max(axis=(1, 2, 3)) / 120, np.float32)


def test_weights_of_one_scale() -> None:
    dequantise, held = weight_dq("w", KERNEL, axis=None)
    file = check_int8(with_weights([dequantise], held), "CONV_2D")
    assert len(file.scale(file.operators[1].inputs[1])) == 5  # written out: one a channel, all the same


@pytest.mark.parametrize("clipped", [False, True])
def test_weights_stored_as_float(clipped: bool) -> None:
    """float → Q (→ Clip) → DQ, as QAT tools write it: rounded here, half to even, and saturated."""
    held: Constants = {"w": KERNEL, "s": SCALES, "z": np.zeros(5, np.int8), "low": np.int8(-90), "high": np.int8(100)}
    nodes = [
        node("QuantizeLinear", "w", "s", "z", to="w_q", axis=0),
        *([node("Clip", "w_q", "low", "high", to="w_c")] if clipped else []),
        node("DequantizeLinear", "w_c" if clipped else "w_q", "s", "z", to="w_dq", axis=0),
    ]
    file = check_int8(with_weights(nodes, held), "CONV_2D")
    stored = file.data(file.operators[1].inputs[1])
    wanted = np.clip(np.rint(KERNEL / SCALES.reshape(-1, 1, 1, 1)), *((-90, 100) if clipped else (-128, 127)))
    assert np.array_equal(stored, wanted.transpose(0, 2, 3, 1))


def test_weights_that_are_quantised_twice() -> None:
    """A coarser pair behind the first: both round."""
    dequantise, held = weight_dq("w", KERNEL)
    dequantise.output[0] = "once"
    nodes = [
        dequantise,
        node("QuantizeLinear", "once", "s", "z", to="w_q"),
        node("DequantizeLinear", "w_q", "s", "z", to="w_dq"),
    ]
    held |= {"s": np.asarray(SCALE * 12, np.float32), "z": np.int8(0)}
    file = check_int8(with_weights(nodes, held), "CONV_2D")
    assert np.abs(file.data(file.operators[1].inputs[1])).max() == 10


def test_uint8_weights_around_128_are_int8_weights() -> None:
    signed = quantised("Conv", {"x": IMAGE}, {"w": KERNEL, "b": values(5)})
    held = initializers(signed)
    unsigned = replaced(signed, w=shifted(held["w"]), w_zero=shifted(held["w_zero"]))
    assert to_tflite(unsigned) == to_tflite(signed)
    check_int8(unsigned, "CONV_2D")


@pytest.mark.parametrize("zero_point", [np.uint8(117), np.uint8(0), np.int8(-5)])
def test_weights_around_another_zero_point_run_in_float(zero_point: np.int8) -> None:
    """TFLite has symmetric weights only."""
    limits = np.iinfo(zero_point.dtype)
    integers = np.clip(np.rint(KERNEL / SCALE) + int(zero_point), limits.min, limits.max).astype(zero_point.dtype)
    held: Constants = {"w": integers, "s": SCALE, "z": zero_point}
    nodes = [node("DequantizeLinear", "w", "s", "z", to="w_dq")]
    check_int8(with_weights(nodes, held), *FLOAT_CONV, low=-2.0, high=2.0)


def test_weights_scaled_along_another_axis_run_in_float() -> None:
    """A square kernel would hide it: as many input channels as output channels."""
    dequantise, held = weight_dq("w", weights(6, 6, 3, 3), axis=1)
    check_int8(with_weights([dequantise], held), *FLOAT_CONV)


def test_weights_in_float_run_in_float() -> None:
    check_int8(with_weights([node("Identity", "w", to="w_dq")], {"w": KERNEL}), *FLOAT_CONV)


@pytest.mark.parametrize(
    "storage, middle, span",
    [("INT4", 0, 7), ("UINT4", 8, 7), ("INT16", 0, 2**15 - 1), ("UINT16", 2**15, 2**15 - 1)],
)
def test_weights_of_other_widths_keep_their_values(storage: str, middle: int, span: int) -> None:
    """Symmetric four bits fit INT8; the others run in float."""
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, storage))
    step = np.asarray(np.abs(KERNEL).max() / span, np.float32)
    integers = np.rint(KERNEL / step).astype(np.int32) + middle
    held: Constants = {"w": integers.astype(dtype), "s": step, "z": np.asarray(middle).astype(dtype)}
    model = with_weights([node("DequantizeLinear", "w", "s", "z", to="w_dq")], held, opset=21)
    check_int8(model, *(["CONV_2D"] if storage == "INT4" else FLOAT_CONV))


def test_transposed_weights_keep_their_axis() -> None:
    dequantise, held = weight_dq("w", KERNEL.transpose(1, 2, 3, 0).copy(), axis=3)
    dequantise.output[0] = "turned"
    nodes = [dequantise, node("Transpose", "turned", to="w_dq", perm=[3, 0, 1, 2])]
    check_int8(with_weights(nodes, held), "CONV_2D")


# Biases.


def test_an_int32_bias() -> None:
    """On the accumulator's grid, as every quantiser stores it."""
    dequantise, held = weight_dq("w", KERNEL)
    scale = np.asarray(np.float32(X[0]) * held["w_scale"])
    integers = np.rint(values(5) / scale).astype(np.int32)
    held |= {"b": integers, "b_scale": scale, "b_zero": np.zeros(5, np.int32)}
    pair, more = qdq("x", *X)
    after, most = qdq("out", *Y)
    bias = node("DequantizeLinear", "b", "b_scale", "b_zero", to="b_dq", axis=0)
    nodes = [*pair, dequantise, bias, node("Conv", "x_dq", "w_dq", "b_dq", to="out"), *after]
    file = check_int8(build(nodes, {"x": IMAGE}, ["out_dq"], held | more | most), "CONV_2D")
    assert np.array_equal(file.data(file.operators[1].inputs[2]), integers)


def test_a_bias_of_integers_somewhere_else_is_a_constant() -> None:
    dequantise = node("DequantizeLinear", "b", "s", to="b_dq")
    held: Constants = {"b": np.arange(-3, 5, dtype=np.int32), "s": np.float32(0.5)}
    check(build([dequantise, node("Add", "x", "b_dq", to="y")], {"x": IMAGE}, ["y"], held), "ADD")


@pytest.mark.parametrize("dead", [1e-9, 1e-7])
def test_a_bias_that_does_not_fit_its_grid(dead: float) -> None:
    """A channel whose weights are all but nothing: its scale grows until the bias fits, and the weights round to 0."""
    kernel = KERNEL.copy()
    kernel[2] *= np.float32(dead)
    dequantise, held = weight_dq("w", kernel)
    nodes, more = qdq("x", *X)
    after, most = qdq("out", *Y)
    nodes += [dequantise, node("Conv", "x_dq", "w_dq", "b", to="out"), *after]
    bias = np.array([0, 1, 3, -2, 4], np.float32)
    check_int8(build(nodes, {"x": IMAGE}, ["out_dq"], held | more | most | {"b": bias}), "CONV_2D")
