"""EMT-Net as TFLite: which operators, that the INT8 file holds the QDQ graph's numbers, and that it computes the same."""

from typing import Any

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from test_quantize_support import (
    Array,
    FlatFile,
    FlatOperator,
    fp32_file,
    fp32_model,
    frames,
    initializers,
    int8_file,
    int8_model,
    interpreter,
    nodes_of,
    producers,
    read_tflite,
    readers,
    run_referee,
    run_tflite,
)
from torch.nn import functional as F

from edge.preprocess import sigmoid
from quantize.tflite.lower import to_tflite

BODY = {
    "CONV_2D": 29,
    "DEPTHWISE_CONV_2D": 18,
    "RESIZE_BILINEAR": 4,
    "ADD": 5,
    "MUL": 1,
    "MEAN": 5,
    "CONCATENATION": 1,
    "FULLY_CONNECTED": 2,
}
LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def layers(file: FlatFile) -> list[FlatOperator]:
    return [operator for operator in file.operators if operator.code in LAYERS]


JOINS = ("ADD", "CONCATENATION")


def is_head(file: FlatFile, operator: FlatOperator) -> bool:
    """Whether an operator gives an output, or what is added up or joined to one."""
    ends = set(file.graph.outputs)
    for other in file.operators:
        if other.code in JOINS and set(other.outputs) & ends:
            ends |= set(other.inputs)
    return bool(set(operator.outputs) & ends)


# Structure.


def test_fp32_operators() -> None:
    """The DEQUANTIZE is the normalisation: a uint8 image with scale 1/128 and zero point 128."""
    assert read_tflite(fp32_file()).counts == BODY | {"DEQUANTIZE": 1}


def test_int8_operators() -> None:
    """DEQUANTIZE and QUANTIZE bring the image to int8, a RESHAPE makes two columns two channels of the first layer. A DEQUANTIZE
    stands in front of each float head and of each part of the features, whose rows are averaged in INT8."""
    file = read_tflite(int8_file())
    assert file.counts == BODY | {"QUANTIZE": 1, "DEQUANTIZE": 7, "RESHAPE": 1, "MEAN": 8}
    assert [operator.code for operator in file.operators[:4]] == ["DEQUANTIZE", "QUANTIZE", "RESHAPE", "CONV_2D"]
    made_by = {index: operator for operator in file.operators for index in operator.outputs}
    heads = [operator for operator in file.operators if is_head(file, operator)]
    last = [operator for operator in heads if operator.code not in JOINS]
    assert sorted(operator.code for operator in last) == ["CONV_2D", *["FULLY_CONNECTED"] * 2, *["MEAN"] * 3]
    assert [made_by[operator.inputs[0]].code for operator in last] == ["DEQUANTIZE"] * 6


def test_everything_between_the_image_and_the_heads_is_int8() -> None:
    file = read_tflite(int8_file())
    for operator in file.operators[2:]:
        if is_head(file, operator) or operator.code == "DEQUANTIZE":
            continue
        activations = [index for index in operator.inputs if file.is_quantised(index)]
        assert str(file.dtype(operator.inputs[0])) == str(file.dtype(operator.outputs[0])) == "int8"
        assert len(activations) >= 1
        if operator.code in LAYERS:
            assert [str(file.dtype(index)) for index in operator.inputs] == ["int8", "int8", "int32"]
    assert sum(str(file.dtype(operator.inputs[1])) == "int8" for operator in layers(file)) == 46


@pytest.mark.parametrize("content", [fp32_file, int8_file], ids=["fp32", "int8"])
def test_inputs_outputs_and_signature(content: Any) -> None:
    made = interpreter(content())
    (image,) = made.get_input_details()
    assert (image["name"], image["dtype"], image["shape"].tolist()) == ("image", np.uint8, [1, 224, 224, 1])
    assert image["quantization"] == (1 / 128, 128)
    outputs = [(item["name"], item["dtype"], item["shape"].tolist()) for item in made.get_output_details()]
    assert outputs == [
        ("mask", np.float32, [1, 112, 112, 1]),
        ("malignancy", np.float32, [1, 1]),
        ("features", np.float32, [1, 448]),
    ]
    names = ["features", "malignancy", "mask"]
    assert made.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": names}}
    run = made.get_signature_runner("serving_default")(image=frames()[0][None, :, :, None])
    shapes = {"mask": (1, 112, 112, 1), "malignancy": (1, 1), "features": (1, 448)}
    assert {name: value.shape for name, value in run.items()} == shapes


@pytest.mark.parametrize("content", [fp32_file, int8_file], ids=["fp32", "int8"])
def test_buffers_are_aligned_as_the_schema_asks(content: Any) -> None:
    model = schema.Model.GetRootAs(content())
    held = [model.Buffers(index) for index in range(model.BuffersLength())]
    starts = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in held if buffer.DataLength()]
    assert len(starts) > 90
    assert {start % 16 for start in starts} == {0}
    assert content()[4:8] == b"TFL3"


def test_lowering_twice_gives_the_same_bytes() -> None:
    assert to_tflite(int8_model()) == int8_file()
    assert to_tflite(fp32_model()) == fp32_file()


def test_lowering_leaves_the_graph_alone() -> None:
    before = int8_model().SerializeToString()
    to_tflite(int8_model())
    assert int8_model().SerializeToString() == before


# XNNPACK.


def one_delegate_from(content: bytes, first: int) -> bool:
    """True when a single delegate reads tensor `first` and all constants, and writes the outputs: the rest of the graph."""
    file = read_tflite(content)
    constants = [index for index, tensor in enumerate(file.graph.tensors) if tensor.buffer]
    found = [item for item in interpreter(content)._get_ops_details() if item["op_name"] == "DELEGATE"]
    taken = [(sorted(item["inputs"]), sorted(item["outputs"])) for item in found]
    return taken == [(sorted([first, *constants]), sorted(file.graph.outputs))]


def test_xnnpack_takes_the_whole_fp32_graph() -> None:
    assert one_delegate_from(fp32_file(), read_tflite(fp32_file()).graph.inputs[0])


def test_xnnpack_takes_the_whole_int8_graph() -> None:
    """A QUANTIZE from uint8 straight to int8 would stay outside."""
    assert one_delegate_from(int8_file(), read_tflite(int8_file()).graph.inputs[0])


def test_xnnpack_would_refuse_activations_with_another_quantised_dimension() -> None:
    """What the test above is there for: a number that changes no answer, and the speed is gone."""
    file = read_tflite(int8_file())
    for index, tensor in enumerate(file.graph.tensors):
        if not tensor.buffer and file.is_quantised(index):
            tensor.quantization.quantizedDimension = 1
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.model.Pack(builder), file_identifier=b"TFL3")
    assert not one_delegate_from(bytes(builder.Output()), file.graph.inputs[0])


# The same numbers as the QDQ graph.


def layer_behind(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The layer whose output, past a Clip, is tensor `name`."""
    node = producers(model)[name]
    return producers(model)[node.input[0]] if node.op_type == "Clip" else node


def grid(model: onnx.ModelProto, name: str) -> tuple[np.float32, int] | None:
    """Scale and int8 zero point of a tensor that a QuantizeLinear reads."""
    held = initializers(model)
    found = {
        (held[node.input[1]].item(), held[node.input[2]].item() - (128 if held[node.input[2]].dtype == np.uint8 else 0))
        for node in readers(model, name)
        if node.op_type == "QuantizeLinear"
    }
    assert len(found) <= 1, f"{name} has {len(found)} quantisers"
    return next(((np.float32(scale), zero_point) for scale, zero_point in found), None)


def test_activations_have_the_scales_and_zero_points_of_the_qdq_graph() -> None:
    file, model = read_tflite(int8_file()), int8_model()
    compared = 0
    for operator in file.operators:
        (index,) = operator.outputs
        if str(file.dtype(index)) != "int8":
            continue
        if operator.code == "RESHAPE" or file.name(index).endswith("_of_rows"):
            source = operator.inputs[0]
            assert np.array_equal(file.scale(index), file.scale(source))
            assert np.array_equal(file.zero_point(index), file.zero_point(source))
            continue
        wanted = grid(model, file.name(index))
        assert wanted is not None
        assert (file.scale(index).tolist(), file.zero_point(index).tolist()) == ([wanted[0]], [wanted[1]])
        compared += 1
    assert compared == len({node.input[0] for node in nodes_of(model, "QuantizeLinear")}) == 58


def test_weights_scales_and_biases_are_those_of_the_qdq_graph() -> None:
    file, model = read_tflite(int8_file()), int8_model()
    held, made = initializers(model), producers(model)
    orders: dict[str, tuple[int, ...]] = {"CONV_2D": (0, 2, 3, 1), "DEPTHWISE_CONV_2D": (1, 2, 3, 0)}
    for operator in layers(file):
        node = layer_behind(model, file.name(operator.outputs[0]))
        dequantiser = made[node.input[1]]
        kernel, scale = (held[name] for name in dequantiser.input[:2])
        bias = held[node.input[2]] if len(node.input) > 2 else np.zeros(len(kernel), np.float32)
        source, weights, biases = operator.inputs
        if is_head(file, operator):
            shape = [-1] + [1] * (kernel.ndim - 1)
            real = kernel.astype(np.float32) * scale.reshape(shape)
            assert np.array_equal(
                file.data(weights), real.transpose(orders.get(operator.code, (0, 1)) if kernel.ndim == 4 else (0, 1))
            )
            assert np.array_equal(file.data(biases), bias)
            continue
        if kernel.shape[1] == 1 and operator.code == "CONV_2D":  # two columns of the image are one
            columns = file.data(weights).reshape(len(kernel), 3, 4)
            assert np.array_equal(columns[..., :3], kernel[:, 0])
            assert not columns[..., 3].any()
        else:
            assert np.array_equal(file.data(weights), kernel.transpose(orders[operator.code]))
        assert np.array_equal(file.scale(weights), scale.reshape(-1))
        assert not file.zero_point(weights).any()
        assert file.graph.tensors[weights].quantization.quantizedDimension == (operator.code == "DEPTHWISE_CONV_2D") * 3
        product = file.scale(source) * scale
        assert np.array_equal(file.scale(biases), product.astype(np.float32))
        assert np.abs(file.data(biases) * product.astype(np.float64) - bias).max() <= 0.5001 * product.max()


# The same answers.


@pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
def test_fp32_answers_are_those_of_onnx_runtime(delegate: bool) -> None:
    for frame in frames()[12:15]:
        feeds = {"image": frame[None, None]}
        wanted, got = run_referee(fp32_model(), feeds), run_tflite(fp32_file(), feeds, delegate=delegate)
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=0, atol=1e-4)


def convolve(operator: FlatOperator, image: Array, kernel: Array, bias: Array) -> Array:
    """TFLite's convolution in exact arithmetic, NHWC; integers in float64."""
    depthwise = operator.code == "DEPTHWISE_CONV_2D"
    strides = (operator.options.strideH, operator.options.strideW)
    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    w = torch.from_numpy(kernel).permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
    if operator.options.padding == schema.Padding.SAME:
        rows, columns = (
            max((-(-x.shape[axis] // stride) - 1) * stride + w.shape[axis] - x.shape[axis], 0)
            for axis, stride in zip((2, 3), strides, strict=True)
        )
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    y = F.conv2d(x, w, torch.from_numpy(bias), stride=strides, groups=x.shape[1] if depthwise else 1)
    return y.permute(0, 2, 3, 1).numpy()


def test_every_int8_layer_is_exact_to_one_step_on_its_own_input() -> None:
    """No error of a layer can hide behind those before it: each is judged on the integers it got."""
    file, made = read_tflite(int8_file()), interpreter(int8_file(), delegate=False, keep=True)
    made.set_tensor(made.get_input_details()[0]["index"], frames()[12][None, :, :, None])
    made.invoke()
    body = [operator for operator in layers(file) if not is_head(file, operator)]
    assert len(body) == 46
    for operator in body:
        source, weights = operator.inputs[:2]
        (output,) = operator.outputs
        image, kernel, bias = (made.get_tensor(index).astype(np.float64) for index in operator.inputs)
        sums = convolve(operator, image - file.zero_point(source), kernel, bias)
        real = np.clip(sums * file.scale(source) * file.scale(weights), 0.0, 6.0)
        wanted = np.clip(np.rint(real / file.scale(output)) + file.zero_point(output), -128, 127)
        got = made.get_tensor(output)
        assert np.ptp(got.astype(int)) > 100
        assert np.abs(got - wanted).max() <= 1
        assert (got != wanted).mean() < 0.02


def dice(one: Array, other: Array) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


@pytest.mark.parametrize("delegate", [True, False], ids=["XNNPACK", "built-in kernels"])
def test_int8_answers_are_those_of_the_referee(delegate: bool) -> None:
    made = frames()[12:] if delegate else frames()[12:16]
    answers = []
    for frame in made:
        feeds = {"image": frame[None, None]}
        answers.append((run_referee(int8_model(), feeds), run_tflite(int8_file(), feeds, delegate=delegate)))
    scores = np.array([[sigmoid(answer["malignancy"]).item() for answer in pair] for pair in answers])
    # The built-in kernels round the gated features and their mean by other multipliers than the referee.
    assert np.abs(scores[:, 0] - scores[:, 1]).mean() <= (0.005 if delegate else 0.008)
    assert scores[:, 0].std() > 2 * np.abs(scores[:, 0] - scores[:, 1]).mean()
    overlaps = [dice(wanted["mask"] > 0, got["mask"] > 0) for wanted, got in answers]
    assert np.median(overlaps) > 0.96
    correlations = [np.corrcoef(wanted["mask"].ravel(), got["mask"].ravel())[0, 1] for wanted, got in answers]
    assert min(correlations) > 0.98
    wanted_features, features = (np.concatenate([pair[place]["features"] for pair in answers]) for place in range(2))
    assert np.abs(wanted_features - features).mean() < 0.005 * np.ptp(wanted_features)


def test_int8_answers_keep_to_fp32() -> None:
    answers = [
        [run_tflite(content, {"image": frame[None, None]}) for content in (fp32_file(), int8_file())]
        for frame in frames()[12:]
    ]
    scores = np.array([[sigmoid(answer["malignancy"]).item() for answer in pair] for pair in answers])
    assert np.abs(scores[:, 0] - scores[:, 1]).mean() <= 0.01
    assert np.median([dice(fp32["mask"] > 0, int8["mask"] > 0) for fp32, int8 in answers]) > 0.93
