"""Edits of a graph in place: the network's own constants and names stay, and what a branch reads counts."""

import numpy as np
import onnx
import pytest
from foreign_networks import Array, Constants, array, model_of
from onnx import helper
from test_quantize_support import run_referee

from quantize.onnx_edit import GraphEditor, attributes_of, copy_of

SHAPE = (1, 2)


def model() -> onnx.ModelProto:
    """y = 2 · relu(2 · x), both factors one constant."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "two"], ["y"]),
    ]
    return model_of(nodes, {"x": SHAPE}, {"y": SHAPE}, {"two": np.float32(2)})


def branching() -> onnx.ModelProto:
    """y = relu(a) where the mean is above zero, else a · two; a and two are read by the branches alone."""
    value = helper.make_tensor_value_info
    then = helper.make_graph([helper.make_node("Relu", ["a"], ["t"])], "then", [], [value("t", 1, SHAPE)])
    other = helper.make_graph([helper.make_node("Mul", ["a", "two"], ["e"])], "else", [], [value("e", 1, SHAPE)])
    nodes = [
        helper.make_node("Exp", ["x"], ["a"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["mean", "zero"], ["up"]),
        helper.make_node("If", ["up"], ["y"], then_branch=then, else_branch=other),
    ]
    return model_of(nodes, {"x": SHAPE}, {"y": SHAPE}, {"two": np.float32(2), "zero": np.float32(0)})


def answers(made: onnx.ModelProto) -> list[Array]:
    onnx.checker.check_model(made, full_check=True)
    return [run_referee(made, {"x": array([x])})["y"] for x in ([1, -2], [3, 5])]


def test_the_networks_own_constant_is_not_given_new_values() -> None:
    made = model()
    editor = GraphEditor(made.graph)
    before = answers(made)
    first = made.graph.node[0]
    first.input[1] = editor.add_constant("two", np.float32(3))
    assert first.input[1] != "two"
    assert [float(np.squeeze(got[..., 0])) for got in answers(made)] == [
        1.5 * float(old[..., 0].item()) for old in before
    ]


def test_a_constant_that_was_added_takes_new_values_under_its_name() -> None:
    made = model()
    editor = GraphEditor(made.graph)
    name = editor.add_constant("three", np.float32(3))
    assert editor.add_constant("three", array([4.0, 5.0])) == name == "three"
    assert editor.array("three") == pytest.approx(array([4, 5]))
    assert editor.scalar("three") is None
    assert sum(tensor.name == "three" for tensor in made.graph.initializer) == 1


def test_an_equal_constant_is_used_again_but_not_one_of_another_type() -> None:
    editor = GraphEditor(model().graph)
    assert editor.add_constant("two", np.float32(2)) == "two"
    assert editor.add_constant("two", np.int8(2)) != "two"


@pytest.mark.parametrize("name", ["x", "a", "y", "two"])
def test_names_of_inputs_tensors_and_constants_are_taken(name: str) -> None:
    editor = GraphEditor(model().graph)
    assert editor.unused(name) not in {"x", "a", "b", "y", "two"}
    assert editor.unused("free") == "free"


def test_a_pair_goes_between_a_tensor_and_all_its_readers_whatever_names_are_taken() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Mul", ["a", "a_scale"], ["a_quantised"]),
        helper.make_node("Add", ["a", "a_quantised"], ["y"]),
    ]
    constants: Constants = {"a_scale": np.float32(3)}
    made = model_of(nodes, {"x": SHAPE}, {"y": SHAPE}, constants)
    GraphEditor(made.graph).insert_pair("a", np.float32(0.5), np.uint8(0))
    assert [node.op_type for node in made.graph.node] == ["Relu", "QuantizeLinear", "DequantizeLinear", "Mul", "Add"]
    onnx.checker.check_model(made, full_check=True)
    got = run_referee(made, {"x": array([[1.2, -1.0]])})["y"]
    assert got == pytest.approx(array([[1.0 + 3.0, 0.0]]))


def test_what_a_branch_reads_stays_and_is_redirected() -> None:
    made = branching()
    before = answers(made)
    editor = GraphEditor(made.graph)
    assert [node.op_type for node in editor.consumers()["a"]] == ["If", "If"]
    editor.drop_unused()
    assert len(made.graph.node) == 4
    assert {tensor.name for tensor in made.graph.initializer} == {"two", "zero"}
    assert all(np.array_equal(one, other) for one, other in zip(before, answers(made), strict=True))
    made.graph.node.insert(1, helper.make_node("Neg", ["a"], ["minus"]))
    editor.redirect("a", "minus", [node for node in made.graph.node if node.op_type == "If"])
    assert [answer.tolist() for answer in answers(made)] != [answer.tolist() for answer in before]
    assert np.allclose(answers(made)[0], -2 * np.exp([[1, -2]]), rtol=1e-5)
    assert np.allclose(answers(made)[1], 0)


def test_unused_nodes_go_in_one_sweep() -> None:
    made = model()
    made.graph.node.extend([helper.make_node("Exp", ["b"], ["c"]), helper.make_node("Log", ["c"], ["d"])])
    editor = GraphEditor(made.graph)
    editor.add_constant("nine", np.float32(9))
    editor.drop_unused()
    assert [node.op_type for node in made.graph.node] == ["Mul", "Relu", "Mul"]
    assert editor.constants.keys() == {"two"}


def test_attributes_are_read_as_python_values() -> None:
    node = helper.make_node("Resize", ["x"], ["y"], mode="linear", antialias=1, axes=[2, 3], cubic_coeff_a=-0.5)
    assert attributes_of(node) == {"mode": "linear", "antialias": 1, "axes": [2, 3], "cubic_coeff_a": -0.5}


def test_a_copy_is_deep() -> None:
    made = model()
    copy_of(made).graph.node[0].op_type = "Sub"
    assert made.graph.node[0].op_type == "Mul"
