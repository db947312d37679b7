"""FP32 layers with weights against ONNX Runtime: Conv, ConvTranspose, Gemm, MatMul."""

import numpy as np
import onnx
import pytest
from lowering_checks import Shape, check, one_op, refusal, values, weights
from onnx import helper
from test_quantize_support import Attributes, Constants, build, copy_of, run_referee, run_tflite

from quantize.tflite.lower import to_tflite

# Conv.

CONVS: dict[str, tuple[Shape, Shape, Attributes, list[str]]] = {
    # name: image, kernel, attributes, the operators expected
    "no pads": ((1, 3, 9, 8), (4, 3, 3, 3), {}, ["CONV_2D"]),
    "pointwise": ((1, 5, 4, 6), (7, 5, 1, 1), {}, ["CONV_2D"]),
    "symmetric pads": ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1]}, ["CONV_2D"]),
    "even kernel, SAME": ((1, 3, 9, 8), (4, 3, 2, 4), {"pads": [0, 1, 1, 2]}, ["CONV_2D"]),
    "stride 2, SAME at the end": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [0, 0, 1, 1], "strides": [2, 2]}, ["CONV_2D"]),
    "stride 2, symmetric": ((1, 3, 8, 8), (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["PAD", "CONV_2D"]),
    "stride 2, odd size": ((1, 3, 9, 9), (4, 3, 3, 3), {"pads": [1, 1, 1, 1], "strides": [2, 2]}, ["CONV_2D"]),
    "stride beyond the kernel": ((1, 3, 9, 9), (4, 3, 2, 2), {"strides": [3, 3]}, ["CONV_2D"]),
    "odd pads": ((1, 3, 9, 8), (4, 3, 3, 3), {"pads": [2, 0, 1, 3]}, ["PAD", "CONV_2D"]),
    "uneven strides": ((1, 2, 9, 10), (3, 2, 3, 3), {"strides": [1, 2]}, ["CONV_2D"]),
    "dilation": ((1, 3, 12, 11), (4, 3, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}, ["CONV_2D"]),
    "uneven dilation": ((1, 3, 12, 11), (4, 3, 3, 3), {"dilations": [3, 1]}, ["CONV_2D"]),
    "VALID by name": ((1, 3, 9, 8), (4, 3, 3, 3), {"auto_pad": "VALID"}, ["CONV_2D"]),
    "SAME_UPPER by name": ((1, 3, 9, 8), (4, 3, 4, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, ["CONV_2D"]),
    "SAME_LOWER by name": ((1, 3, 9, 8), (4, 3, 4, 3), {"auto_pad": "SAME_LOWER"}, ["PAD", "CONV_2D"]),
    "SAME_LOWER that is SAME_UPPER": ((1, 3, 9, 8), (4, 3, 3, 3), {"auto_pad": "SAME_LOWER"}, ["CONV_2D"]),
    "one channel": ((1, 1, 9, 8), (4, 1, 3, 3), {}, ["CONV_2D"]),
    "three images": ((3, 2, 5, 6), (4, 2, 3, 3), {"pads": [1, 1, 1, 1]}, ["CONV_2D"]),
    "two groups": ((1, 6, 5, 6), (4, 3, 3, 3), {"group": 2}, ["CONV_2D"]),
    "groups of two, stride 2": (
        (1, 8, 8, 8),
        (12, 2, 3, 3),
        {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]},
        ["PAD", "CONV_2D"],
    ),
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
    check(one_op("Conv", image, constants, **attributes), *codes)


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


@pytest.mark.parametrize(
    "op, image, kernel, rank",
    [
        ("Conv", (1, 3, 9), (4, 3, 3), 1),
        ("Conv", (1, 3, 5, 6, 7), (4, 3, 3, 3, 3), 3),
        ("ConvTranspose", (1, 3, 9), (3, 4, 3), 1),
        ("ConvTranspose", (1, 3, 5, 6, 7), (3, 4, 3, 3, 3), 3),
    ],
)
def test_convolutions_of_other_ranks_are_refused(op: str, image: Shape, kernel: Shape, rank: int) -> None:
    message = refusal(one_op(op, image, {"w": weights(*kernel)}))
    assert f"{op} 'it': {rank}-D convolution; only 2-D is lowered; reshape the network to images" in message


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose", "Gemm"])
@pytest.mark.parametrize("computed", ["w", "b"])
def test_computed_parameters_are_refused(op: str, computed: str) -> None:
    image: Shape = (2, 3) if op == "Gemm" else (1, 2, 5, 5)
    kernel: Shape = (3, 4) if op == "Gemm" else (2, 4, 3, 3) if op == "ConvTranspose" else (4, 2, 3, 3)
    shapes: dict[str, Shape] = {"x": image, "w": kernel, "b": (4,)}
    node = helper.make_node(op, ["x", "w", "b"], ["y"], name="it")
    constants = {name: values(*shapes[name]) for name in ("w", "b") if name != computed}
    message = refusal(build([node], {name: shapes[name] for name in ("x", computed)}, ["y"], constants))
    assert f"{op} 'it': input '{computed}' is computed, and TFLite wants a constant; freeze it" in message


def test_a_kernel_larger_than_the_padded_image_is_refused() -> None:
    """ONNX infers an output of one row, and no runtime computes it."""
    model = one_op("Conv", (1, 3, 2, 9), {"w": weights(4, 3, 2, 3)}, dilations=[2, 1], strides=[2, 2])
    assert "Conv 'it': its kernel (2, 3) reaches beyond the padded image; pad more" in refusal(model)


# ConvTranspose.

TRANSPOSED: dict[str, tuple[Attributes, list[str]]] = {
    # kernel (4, 3, 3, 3) on an image of (1, 4, 5, 6); with groups, half as many inputs a group
    "stride 1": ({}, ["TRANSPOSE_CONV"]),
    "stride 2": ({"strides": [2, 2]}, ["TRANSPOSE_CONV"]),
    "twice the size, cut at the start": ({"strides": [2, 2], "pads": [1, 1, 0, 0]}, ["TRANSPOSE_CONV", "SLICE"]),
    "output_padding": ({"strides": [2, 2], "output_padding": [1, 1]}, ["TRANSPOSE_CONV"]),
    "output_padding and pads": (
        {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        ["TRANSPOSE_CONV", "SLICE"],
    ),
    "uneven": ({"strides": [3, 1], "pads": [0, 1, 2, 0], "output_padding": [1, 0]}, ["TRANSPOSE_CONV", "SLICE"]),
    "SAME": ({"strides": [2, 2], "pads": [0, 0, 1, 1]}, ["TRANSPOSE_CONV"]),
    "SAME_UPPER by name": ({"strides": [2, 2], "auto_pad": "SAME_UPPER"}, ["TRANSPOSE_CONV"]),
    "SAME_LOWER by name": ({"strides": [2, 2], "auto_pad": "SAME_LOWER"}, ["TRANSPOSE_CONV", "SLICE"]),
    "VALID by name": ({"strides": [2, 2], "auto_pad": "VALID"}, ["TRANSPOSE_CONV"]),
    "dilation": ({"dilations": [2, 3]}, ["TRANSPOSE_CONV"]),
    "dilation and stride": (
        {"dilations": [2, 2], "strides": [2, 2], "pads": [1, 2, 1, 2]},
        ["TRANSPOSE_CONV", "SLICE"],
    ),
    "stride beyond the kernel, SAME": ({"strides": [4, 4], "output_padding": [1, 1]}, ["TRANSPOSE_CONV"]),
    "stride beyond the kernel": ({"strides": [4, 5], "output_padding": [2, 3]}, ["TRANSPOSE_CONV"]),
    "output_shape that cuts an odd row": ({"strides": [2, 2], "output_shape": [10, 12]}, ["TRANSPOSE_CONV", "SLICE"]),
    "output_shape, SAME_UPPER": (
        {"strides": [2, 2], "output_shape": [10, 12], "auto_pad": "SAME_UPPER"},
        ["TRANSPOSE_CONV"],
    ),
    "output_shape, SAME_LOWER": (
        {"strides": [2, 2], "output_shape": [9, 10], "auto_pad": "SAME_LOWER"},
        ["TRANSPOSE_CONV", "SLICE"],
    ),
}


@pytest.mark.parametrize("name", TRANSPOSED)
@pytest.mark.parametrize("groups", [1, 2])
def test_conv_transpose(name: str, groups: int) -> None:
    attributes, codes = TRANSPOSED[name]
    constants = {"w": weights(4, 3, 3, 3), "b": values(3 * groups)}
    check(one_op("ConvTranspose", (1, 4, 5, 6), constants, group=groups, **attributes), *codes)


def test_conv_transpose_of_a_large_kernel_of_several_images_and_without_bias() -> None:
    check(one_op("ConvTranspose", (2, 3, 4, 3), {"w": weights(3, 5, 4, 5)}, strides=[2, 2]), "TRANSPOSE_CONV")


def test_conv_transpose_of_one_channel_a_group() -> None:
    constants = {"w": weights(6, 1, 4, 4), "b": values(6)}
    attributes: Attributes = {"group": 6, "strides": [2, 2], "pads": [1, 1, 1, 1]}
    check(one_op("ConvTranspose", (1, 6, 5, 4), constants, **attributes), "TRANSPOSE_CONV")


# Gemm and MatMul.


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (), None], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_gemm(transposed: int, bias: Shape | None, rows: int) -> None:
    constants = {"w": weights(5, 7) if transposed else weights(5, 7).T.copy()}
    constants |= {} if bias is None else {"b": values(*bias)}
    check(one_op("Gemm", (rows, 7), constants, transB=transposed), "FULLY_CONNECTED")


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"alpha": -2.0}, {"beta": 2.0}, {"beta": 0.0}], ids=str)
def test_gemm_with_factors(attributes: Attributes) -> None:
    check(one_op("Gemm", (2, 7), {"w": weights(7, 5), "b": values(5)}, **attributes), "FULLY_CONNECTED")


@pytest.mark.parametrize("rows, codes", [(3, ["TRANSPOSE", "FULLY_CONNECTED"]), (1, ["RESHAPE", "FULLY_CONNECTED"])])
def test_gemm_of_a_transposed_input(rows: int, codes: list[str]) -> None:
    check(one_op("Gemm", (7, rows), {"w": weights(7, 5), "b": values(5)}, transA=1), *codes)


@pytest.mark.parametrize("bias", [(3, 5), (3, 1)], ids=str)
def test_gemm_with_a_bias_a_row_is_refused(bias: Shape) -> None:
    message = refusal(one_op("Gemm", (3, 7), {"w": weights(7, 5), "b": values(*bias)}))
    assert f"Gemm 'it': a bias of shape {bias} for 5 channels; give one value a channel" in message


def test_gemm_with_a_bias_a_row_is_refused_where_rows_and_columns_are_as_many() -> None:
    assert "a bias of shape (5, 1)" in refusal(one_op("Gemm", (5, 7), {"w": weights(7, 5), "b": values(5, 1)}))


@pytest.mark.parametrize(
    "shape, moved", [((4, 7), 0), ((2, 4, 7), 0), ((1, 1, 7), 0), ((2, 3, 4, 7), 2), ((2, 1, 2, 3, 7), 0)]
)
def test_matmul(shape: Shape, moved: int) -> None:
    file = check(one_op("MatMul", shape, {"w": weights(7, 5)}))
    assert file.counts == {"FULLY_CONNECTED": 1} | ({"TRANSPOSE": moved} if moved else {})


@pytest.mark.parametrize("shape", [(2, 7, 5), (1, 7, 5), (7,)], ids=str)
def test_matmul_by_what_is_no_matrix_is_refused(shape: Shape) -> None:
    assert "MatMul 'it': weights are no matrix" in refusal(one_op("MatMul", (2, 4, 7), {"w": values(*shape)}))


def test_matmul_of_a_vector_is_refused() -> None:
    message = refusal(one_op("MatMul", (7,), {"w": weights(7, 5)}))
    assert "MatMul 'it': a vector without batch axis; give it rank 2" in message


@pytest.mark.parametrize("frozen", [False, True])
def test_matmul_by_an_activation_is_refused(frozen: bool) -> None:
    """Attention, and weights on the left."""
    constants: Constants = {"a": weights(4, 7)} if frozen else {}
    shapes: dict[str, Shape] = {"a": (4, 7), "b": (7, 5)}
    node = helper.make_node("MatMul", ["a", "b"], ["y"], name="it")
    message = refusal(
        build([node], {name: shape for name, shape in shapes.items() if name not in constants}, ["y"], constants)
    )
    reason = "input 'b' is computed" if frozen else "multiplies two activations (attention)"
    assert f"MatMul 'it': {reason}" in message
