"""Graphs of every age and exporter come to one opset and say what they said; the check notices when they do not."""

import io
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from foreign_networks import SIDE, Constants, array, body, images, model_of, small_network, weights
from import_checks import HALF, IMAGENET, imported, same
from onnx import helper, numpy_helper
from test_quantize_support import nodes_of
from torch import Tensor, nn

from edge.errors import ConversionError
from quantize.onnx_import import check_import, import_onnx

# Versions of ONNX.


@pytest.mark.parametrize("place", [0, -1])
def test_initializers_listed_as_inputs_are_no_inputs(place: int) -> None:
    model = small_network(opset=13, ir_version=3)
    listed = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend([*listed[1:], listed[0]] if place else listed)
    assert len(model.graph.input) == 9
    assert [value.name for value in same(model).model.graph.input] == ["image"]


class Exported(nn.Module):
    """Batch norm, Hardswish, SiLU and an upsampling, two heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.Hardswish())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.SiLU())
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.mask, self.scores = nn.Conv2d(8, 1, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(self.first(x))
        return self.mask(self.up(x)), self.scores(x.mean((2, 3)))


def traced(opset: int, *, open_size: bool = False) -> onnx.ModelProto:
    """Through PyTorch's older exporter."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Exported().eval(),
            (torch.zeros(1, 1, SIDE, SIDE),),
            stream,  # type: ignore[arg-type]  # fine for the older one
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            output_names=["mask", "scores"],
            dynamic_axes={"image": {0: "n", 2: "h", 3: "w"}} if open_size else None,
        )
    return onnx.load_from_string(stream.getvalue())


@pytest.mark.parametrize("opset", [9, 11, 14, 17])
def test_graphs_of_pytorchs_older_exporter_are_brought_to_opset_18(opset: int) -> None:
    network = same(traced(opset))
    assert {item.domain: item.version for item in network.model.opset_import}[""] == 18
    found = [node.op_type for node in network.model.graph.node]
    assert " ".join(found) == "Cast Sub Div Conv HardSwish Conv Sigmoid Mul Resize Conv ReduceMean Gemm"


def test_a_traced_graph_of_open_size_takes_one() -> None:
    network = same(traced(11, open_size=True), replace(HALF, size=(24, 40)))
    assert network.outputs[0].shape == (1, 1, 24, 40)


@pytest.mark.parametrize(("opset", "mode"), [(9, "nearest"), (9, "linear"), (7, "nearest")])
def test_upsample_of_old_opsets_is_a_resize(opset: int, mode: str) -> None:
    inputs = ["c", "twice"] if opset == 9 else ["c"]
    attributes: dict[str, Any] = {} if opset == 9 else {"scales": [1.0, 1.0, 2.0, 3.0]}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], strides=[2, 2]),
        helper.make_node("Upsample", inputs, ["mask"], mode=mode, **attributes),
    ]
    constants: Constants = {"w": weights(2, 1, 2, 2)} | ({"twice": array([1, 1, 2, 3])} if opset == 9 else {})
    model = model_of(nodes, {"image": (1, 1, 12, 16)}, {"mask": (1, 2, 12, 24)}, constants, opset=opset, ir_version=4)
    assert nodes_of(same(model).model, "Resize")


@pytest.mark.parametrize(("opset", "ir_version"), [(21, 10), (24, 10)])
def test_newer_opsets_stay(opset: int, ir_version: int) -> None:
    network = same(small_network(opset=opset, ir_version=ir_version))
    assert network.model.opset_import[0].version == opset


def test_local_functions_are_inlined() -> None:
    steps = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    block = helper.make_function("local", "Block", ["x", "w"], ["y"], steps, [helper.make_opsetid("", 18)])
    nodes = [
        helper.make_node("Block", ["image", "w"], ["inner"], domain="local"),
        helper.make_node("Block", ["inner", "v"], ["mask"], domain="local"),
    ]
    tensors = [numpy_helper.from_array(weights(4, 1, 3, 3), "w"), numpy_helper.from_array(weights(2, 4, 3, 3), "v")]
    values = [
        helper.make_tensor_value_info(name, 1, (1, channels, 16, 16)) for name, channels in (("image", 1), ("mask", 2))
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, functions=[block], opset_imports=opsets, ir_version=8)
    network = same(model)
    assert not network.model.functions
    assert len(nodes_of(network.model, "Conv")) == 2


def test_an_operator_that_nobody_has_is_one_line() -> None:
    nodes = [helper.make_node("Magic", ["image"], ["mask"], domain="com.acme")]
    values = [helper.make_tensor_value_info(name, 1, (1, 1, 8, 8)) for name in ("image", "mask")]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.acme", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]), opset_imports=opsets, ir_version=8)
    network = import_onnx(model, HALF, name="net")  # its shape is what the network declares
    assert network.outputs[0].shape == (1, 1, 8, 8)
    with pytest.raises(ConversionError, match=r"ONNX Runtime does not take the network: .*Magic"):
        check_import(model, network, images(1, (8, 8)))


# The check.


def test_the_check_passes_what_was_imported_and_notices_what_was_changed() -> None:
    model = small_network(3)
    network = imported(model)
    check_import(model, network, images(2))
    for tensor in network.model.graph.initializer:
        if tensor.name == "w2":
            values = numpy_helper.to_array(tensor) * np.float32(1.01)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(ConversionError, match=r"'mask' changed by .* please report the network"):
        check_import(model, network, images(2))


def test_a_network_that_diverged_is_at_fault_itself() -> None:
    nodes, constants = body()
    constants["w3"] = constants["w3"] * np.float32(np.nan)
    model = model_of(nodes, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": None}, constants)
    with pytest.raises(ConversionError, match="'mask' is not finite on a phantom; the network itself is at fault"):
        check_import(model, imported(model), images(1))


def test_three_channels_that_the_network_does_not_have_are_noticed() -> None:
    nodes, constants = body(1)
    model = model_of(nodes, {"image": ("N", "C", SIDE, SIDE)}, {"mask": None, "scores": None}, constants)
    with pytest.raises(ConversionError, match="ONNX Runtime cannot run the network"):
        check_import(model, imported(model, IMAGENET), images(1))
