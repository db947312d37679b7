"""What TFLite cannot express is refused by name, all of it at once."""

import numpy as np
import onnx
import pytest
from onnx import helper
from test_quantize_support import build

from edge.errors import ConversionError
from quantize.onnx_graph import read_graph
from quantize.tflite.lower import lower, to_tflite
from quantize.tflite.ops import LOWERINGS

SUPPORTED = {
    *("Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Mul"),
    *("ReduceMean", "Relu", "Reshape", "Resize", "Sigmoid", "Squeeze", "Sub", "Unsqueeze"),
}


def lstm() -> onnx.ModelProto:
    node = helper.make_node("LSTM", ["x", "w", "r"], ["", "", "y"], name="memory", hidden_size=2)
    constants = {"w": np.zeros((1, 8, 3), np.float32), "r": np.zeros((1, 8, 2), np.float32)}
    return build([node], {"x": (1, 1, 3)}, ["y"], constants)


def several() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Erf", ["x"], ["e"], name="error function"),
        helper.make_node("Relu", ["e"], ["r"], name="fine"),
        helper.make_node("Einsum", ["r", "r"], ["m"], name="sum", equation="ij,ij->ij"),
        helper.make_node("Erf", ["m"], ["y"]),
    ]
    return build(nodes, {"x": (2, 3)}, ["y"])


@pytest.mark.parametrize(
    "model, offenders",
    [(lstm, ["'memory' (LSTM)"]), (several, ["'error function' (Erf)", "'sum' (Einsum)", "'y' (Erf)"])],
)
def test_unsupported_operators_are_named_all_at_once_with_what_is_supported(
    model: "type[onnx.ModelProto]", offenders: list[str]
) -> None:
    with pytest.raises(ConversionError) as caught:
        to_tflite(model())
    message = str(caught.value)
    named, _, supported = message.partition("; supported operators: ")
    assert named == f"TFLite: no lowering for node {', '.join(offenders)}"
    assert set(supported.split(", ")) == SUPPORTED


def test_the_list_of_supported_operators_is_the_table() -> None:
    assert LOWERINGS.keys() == SUPPORTED | {"Pixels", "Quantize"}


def test_a_refused_node_is_named_with_the_reason() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="the culprit", group=2)
    with pytest.raises(ConversionError, match=r"TFLite: node 'the culprit' \(Conv\): 2 groups"):
        to_tflite(build([node], {"x": (1, 4, 5, 5)}, ["y"], {"w": np.zeros((4, 2, 3, 3), np.float32)}))


def test_an_output_that_is_a_constant_is_refused() -> None:
    constant = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.ones(2, np.float32), "c"))
    model = build([constant, helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)}, ["y", "c"])
    with pytest.raises(ConversionError, match="output 'c' is a constant"):
        to_tflite(model)


def test_a_tensor_that_nothing_writes_is_refused() -> None:
    graph = read_graph(build([helper.make_node("Relu", ["x"], ["y"])], {"x": (2,)}, ["y"]))
    graph.nodes[0].inputs = ["gone"]
    graph.shapes["gone"] = (2,)
    with pytest.raises(ConversionError, match="'gone' is read before it is written"):
        lower(graph)
