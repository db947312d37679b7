"""ONNX: exported from PyTorch, checked against it, and read into records."""

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_quantize_support import SIZE, build, copy_of, fp32_model, frames, network, run_referee, run_tflite

from edge.errors import ConversionError
from emtnet.network import ExportedEmtNet
from quantize.onnx_graph import check_against_torch, export_torch, read_graph
from quantize.tflite.lower import to_tflite

FLOAT = TensorProto.FLOAT


def dimensions(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_export_has_the_stated_interface() -> None:
    model = fp32_model()
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    (image,) = model.graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ("image", TensorProto.UINT8)
    assert dimensions(image) == [1, 1, 224, 224]
    outputs = {value.name: (value.type.tensor_type.elem_type, dimensions(value)) for value in model.graph.output}
    assert outputs == {
        "mask": (FLOAT, [1, 1, 112, 112]),
        "malignancy": (FLOAT, [1, 1]),
        "features": (FLOAT, [1, 448]),
    }
    assert list(outputs) == ["mask", "malignancy", "features"]
    onnx.checker.check_model(model, full_check=True)


def test_the_export_says_nothing_of_the_machine_that_made_it() -> None:
    content = fp32_model().SerializeToString()
    for trace in (b"/site-packages/", b"/opt/", b"/home/", b"/root/", b"/tmp/", b".py", b"stack_trace"):
        assert trace not in content
    assert not fp32_model().doc_string
    assert not any(node.doc_string or node.metadata_props for node in fp32_model().graph.node)


def test_batch_norms_and_paddings_are_folded_into_the_convolutions() -> None:
    operators = {node.op_type for node in fp32_model().graph.node}
    assert not operators & {"BatchNormalization", "Pad"}
    paddings = [tuple(item.ints) for node in fp32_model().graph.node for item in node.attribute if item.name == "pads"]
    assert (0, 0, 1, 1) in paddings


def test_onnx_runtime_gives_the_outputs_of_pytorch() -> None:
    for frame in frames()[12:15]:
        with torch.inference_mode():
            mask, malignancy, features = ExportedEmtNet(network())(torch.from_numpy(frame)[None, None])
        got = run_referee(fp32_model(), {"image": frame[None, None]})
        np.testing.assert_allclose(got["mask"], mask.numpy(), atol=2e-4)
        np.testing.assert_allclose(got["malignancy"], malignancy.numpy(), atol=2e-4)
        np.testing.assert_allclose(got["features"], features.numpy(), atol=2e-4)


@pytest.mark.parametrize("head", ["mask_head.bias", "class_head.bias"])
def test_the_check_notices_a_changed_weight_of_either_head(head: str) -> None:
    output = {"mask_head.bias": "'mask'", "class_head.bias": "'malignancy'"}[head]
    check_against_torch(fp32_model(), ExportedEmtNet(network()), frames()[:1])
    for shift, accepted in ((2e-5, True), (1e-2, False)):
        model = copy_of(fp32_model())
        (tensor,) = [item for item in model.graph.initializer if item.name == f"network.{head}"]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + np.float32(shift), tensor.name))
        if accepted:
            check_against_torch(model, ExportedEmtNet(network()), frames()[:1])
            continue
        with pytest.raises(ConversionError, match=output):
            check_against_torch(model, ExportedEmtNet(network()), frames()[:1])


def test_the_check_notices_nan() -> None:
    model = copy_of(fp32_model())
    (tensor,) = [item for item in model.graph.initializer if item.name == "network.class_head.bias"]
    tensor.CopyFrom(numpy_helper.from_array(np.full(1, np.nan, np.float32), tensor.name))
    with pytest.raises(ConversionError, match="malignancy"):
        check_against_torch(model, ExportedEmtNet(network()), frames()[:1])


def test_the_export_checks_what_it_returns_and_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr("quantize.onnx_graph.check_against_torch", lambda *given: checked.append(given))
    exported = ExportedEmtNet(network())
    model = export_torch(exported, SIZE, frames()[:2])
    assert [(given[0] is model, given[1] is exported, given[2] == frames()[:2]) for given in checked] == [(True,) * 3]
    assert model.SerializeToString() == fp32_model().SerializeToString()


# Reading.


def test_a_graph_is_read_with_shapes_constants_and_attributes() -> None:
    kernel = np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[2, 2], name="first"),
        helper.make_node("Clip", ["c", "", "high"], ["y"]),
    ]
    model = build(nodes, {"x": (1, 3, 9, 7)}, ["y"], {"w": kernel, "high": np.asarray(6, np.float32)})
    graph = read_graph(model)
    assert [(node.op, node.name) for node in graph.nodes] == [("Conv", "first"), ("Clip", "y")]
    assert graph.nodes[0].attributes["strides"] == [2, 2]
    assert graph.nodes[1].inputs == ["c", "", "high"]
    assert graph.shapes["c"] == graph.shapes["y"] == (1, 4, 4, 3)
    assert np.array_equal(graph.constants["w"], kernel)
    assert graph.inputs == {"x": np.dtype(np.float32)}
    assert graph.outputs == ["y"]
    assert [node.name for node in graph.consumers()["c"]] == ["y"]
    assert "" not in graph.consumers()
    assert graph.producers()["y"].output == "y"


def test_constants_listed_among_the_inputs_are_no_inputs() -> None:
    model = build([helper.make_node("Add", ["x", "c"], ["y"])], {"x": (2,)}, ["y"], {"c": np.ones(2, np.float32)})
    model.graph.input.append(helper.make_tensor_value_info("c", FLOAT, [2]))
    assert list(read_graph(model).inputs) == ["x"]


def test_identities_disappear_except_in_front_of_an_output() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["one"]),
        helper.make_node("Identity", ["one"], ["two"]),
        helper.make_node("Relu", ["two"], ["three"]),
        helper.make_node("Identity", ["three"], ["y"]),
    ]
    graph = read_graph(build(nodes, {"x": (2,)}, ["y"]))
    assert [(node.op, node.inputs) for node in graph.nodes] == [("Relu", ["x"]), ("Identity", ["three"])]


def model_of(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    *,
    opset: int = 18,
    constants: dict[str, Any] | None = None,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def floats(name: str, shape: list[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, FLOAT, shape)


@pytest.mark.parametrize(
    "shape, said", [([1, "height"], "(1, height)"), (["batch", 4], "(batch, 4)"), ([0, 4], "(0, 4)")]
)
def test_an_input_without_fixed_shape_is_refused(shape: list[int | str], said: str) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], [floats("x", shape)], [floats("y", shape)])
    with pytest.raises(ConversionError) as caught:
        read_graph(model)
    assert str(caught.value) == f"input 'x': its shape {said} is not fixed; export the network with a fixed shape"


def test_an_input_that_is_no_tensor_is_refused() -> None:
    kind = helper.make_tensor_sequence_value_info("x", FLOAT, [2])
    model = model_of(
        [helper.make_node("SequenceLength", ["x"], ["y"])], [kind], [helper.make_tensor_value_info("y", 7, [])]
    )
    with pytest.raises(ConversionError, match="input 'x': a sequence, not a tensor"):
        read_graph(model)


def test_shapes_that_depend_on_data_are_noted_where_they_are() -> None:
    """A batch left open further in, or what NonZero finds; the lowering names the node."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Cast", ["places"], ["m"], to=FLOAT),
        helper.make_node("ReduceMean", ["m"], ["y"], keepdims=1),
    ]
    graph = read_graph(model_of(nodes, [floats("x", [2, 4])], [floats("y", [1, 1])]))
    assert graph.unknown.keys() == {"places", "m"}
    assert graph.shapes["places"] == ()
    assert "is not fixed" in graph.unknown["places"]


def test_an_operator_that_onnx_does_not_know_has_outputs_of_unknown_shape() -> None:
    nodes = [helper.make_node("Odd", ["x"], ["m"], domain="com.example"), helper.make_node("Relu", ["m"], ["y"])]
    model = model_of(nodes, [floats("x", [2])], [floats("y", ["n"])])
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    graph = read_graph(model)
    assert [node.op for node in graph.nodes] == ["com.example.Odd", "Relu"]
    assert "no standard operator" in graph.unknown["m"]


def test_control_flow_is_read_and_left_to_the_lowering() -> None:
    branches = {
        branch: helper.make_graph([helper.make_node(op, ["x"], ["b"])], branch, [], [floats("b", [2])])
        for branch, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    fork = helper.make_node("If", ["flag"], ["y"], name="fork", **branches)
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    model = model_of([fork], [floats("x", [2]), flag], [floats("y", [2])])
    onnx.checker.check_model(model, full_check=True)
    assert [node.op for node in read_graph(model).nodes] == ["If"]
    with pytest.raises(
        ConversionError, match="If 'fork': control flow; export the network with fixed shapes and without"
    ):
        to_tflite(model)


def test_every_kind_of_constant_is_read() -> None:
    values: dict[str, Any] = {
        "value": numpy_helper.from_array(np.ones((2, 3), np.float32)),
        "value_float": 2.5,
        "value_floats": [1.0, 2.0, 3.0],
        "value_int": 7,
        "value_ints": [4, 5],
    }
    nodes = [helper.make_node("Constant", [], [f"c_{kind}"], **{kind: value}) for kind, value in values.items()]
    nodes.append(helper.make_node("Add", ["x", "c_value"], ["y"]))
    constants = read_graph(model_of(nodes, [floats("x", [2, 3])], [floats("y", [2, 3])])).constants
    assert {name: (array.shape, array.tolist()) for name, array in constants.items()} == {
        "c_value": ((2, 3), [[1.0] * 3] * 2),
        "c_value_float": ((), 2.5),
        "c_value_floats": ((3,), [1.0, 2.0, 3.0]),
        "c_value_int": ((), 7),
        "c_value_ints": ((2,), [4, 5]),
    }


def test_functions_are_written_out() -> None:
    body = [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["b"])]
    silu = helper.make_function("local", "Silu", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    model = model_of([helper.make_node("Silu", ["x"], ["y"], domain="local")], [floats("x", [2])], [floats("y", [2])])
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(silu)
    assert [node.op for node in read_graph(model).nodes] == ["Sigmoid", "Mul"]


# Older operators.


def test_an_older_network_is_brought_to_a_newer_opset() -> None:
    """Bounds and pads were attributes once."""
    nodes = [
        helper.make_node("Pad", ["x"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1], value=1.5),
        helper.make_node("Clip", ["p"], ["c"], min=0.0, max=6.0),
        helper.make_node("ReduceMean", ["c"], ["y"], axes=[2, 3]),
    ]
    model = model_of(nodes, [floats("x", [1, 2, 3, 4])], [floats("y", [1, 2, 1, 1])], opset=9)
    graph = read_graph(model)
    assert [node.op for node in graph.nodes] == ["Pad", "Clip", "ReduceMean"]
    assert [len(node.inputs) for node in graph.nodes] == [3, 3, 2]
    assert not any({"pads", "min", "axes"} & node.attributes.keys() for node in graph.nodes)


@pytest.mark.parametrize("opset, op", [(9, "Upsample"), (10, "Resize")])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_older_resize_keeps_its_only_rule(opset: int, op: str, mode: str) -> None:
    """ONNX's own converter leaves the coordinates to a default that came later, half a pixel away."""
    nodes = [helper.make_node(op, ["x", "scales"], ["y"], mode=mode)]
    scales = np.array([1, 1, 2.5, 2.4], np.float32)
    outputs = [floats("y", [1, 2, 10, 12])]
    model = model_of(nodes, [floats("x", [1, 2, 4, 5])], outputs, opset=opset, constants={"scales": scales})
    (node,) = read_graph(model).nodes
    assert node.op == "Resize"
    assert node.attributes["coordinate_transformation_mode"] == "asymmetric"
    assert node.attributes["nearest_mode"] == "floor"
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 2, 4, 5)).astype(np.float32)}
    got = run_tflite(to_tflite(model), feeds)["y"]
    np.testing.assert_allclose(got, run_referee(model, feeds)["y"], atol=1e-5)


def test_a_newer_resize_keeps_its_own_rule() -> None:
    nodes = [helper.make_node("Resize", ["x", "roi", "scales"], ["y"], mode="linear")]
    constants = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    outputs = [floats("y", [1, 2, 8, 10])]
    model = model_of(nodes, [floats("x", [1, 2, 4, 5])], outputs, opset=11, constants=constants)
    (node,) = read_graph(model).nodes
    assert node.attributes.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"


def test_an_opset_that_cannot_be_converted_is_refused() -> None:
    norm = helper.make_node("BatchNormalization", ["x", "c", "c", "c", "c"], ["y"], is_test=0)
    shapes = [floats("x", [1, 2, 4, 5])], [floats("y", [1, 2, 4, 5])]
    model = model_of([norm], *shapes, opset=6, constants={"c": np.ones(2, np.float32)})
    with pytest.raises(ConversionError, match=r"opset 6 cannot be brought to 18: .*is_test"):
        read_graph(model)


# Files that are no network.


def test_a_constant_of_too_few_values_is_refused() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = model_of(nodes, [floats("x", [2])], [floats("y", [2])], constants={"c": np.ones(4, np.float32)})
    model.graph.initializer[0].dims[:] = [5]
    with pytest.raises(ConversionError, match="not a valid ONNX network: "):
        read_graph(model)


def test_a_network_of_an_operator_that_does_not_exist_is_refused() -> None:
    model = model_of([helper.make_node("Frobnicate", ["x"], ["y"])], [floats("x", [2])], [floats("y", [2])])
    with pytest.raises(ConversionError, match=r"not a valid ONNX network: .*Frobnicate"):
        read_graph(model)


def test_a_graph_that_contradicts_itself_is_a_conversion_error() -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, [2])],
        [helper.make_tensor_value_info("y", FLOAT, [3])],
    )
    with pytest.raises(ConversionError, match="shape"):
        read_graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
