"""ONNX: exported from PyTorch, checked against it, and read into records."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from test_quantize_support import SIZE, build, copy_of, fp32_model, frames, network, run_referee

from edge.errors import ConversionError
from emtnet.network import ExportedEmtNet
from quantize.onnx_graph import check_against_torch, export_torch, read_graph

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
    assert outputs == {"mask": (FLOAT, [1, 1, 112, 112]), "malignancy": (FLOAT, [1, 1])}
    assert list(outputs) == ["mask", "malignancy"]
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
            mask, malignancy = ExportedEmtNet(network())(torch.from_numpy(frame)[None, None])
        got = run_referee(fp32_model(), {"image": frame[None, None]})
        np.testing.assert_allclose(got["mask"], mask.numpy(), atol=2e-4)
        np.testing.assert_allclose(got["malignancy"], malignancy.numpy(), atol=2e-4)


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


@pytest.mark.parametrize("where", ["input", "inner", "output"])
def test_dynamic_shapes_are_refused(where: str) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["m"])]
    shape: list[int | str] = [1, "height" if where == "input" else 4]
    if where == "inner":
        nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["m"], to=FLOAT)]
    nodes.append(helper.make_node("ReduceMean", ["m"], ["y"], keepdims=1))
    if where == "output":
        nodes[-1] = helper.make_node("Flatten", ["m"], ["y"])
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, ["batch", 4] if where == "output" else [1, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if where == "output":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ConversionError, match="dynamic shape"):
        read_graph(model)


def test_control_flow_is_refused() -> None:
    branches = {
        branch: helper.make_graph(
            [helper.make_node(op, ["x"], ["b"])], branch, [], [helper.make_tensor_value_info("b", FLOAT, [2])]
        )
        for branch, op in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], name="fork", **branches)],
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, [2]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("y", FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    with pytest.raises(ConversionError, match="subgraph"):
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
