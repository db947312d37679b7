"""HardSwish in all its spellings is one operator, and Swish two; nothing else is taken for either."""

import numpy as np
import onnx
import pytest
from foreign_networks import Constants, model_of
from rewrite_checks import SHAPE, network, node, ops, simplified, values
from test_quantize_support import run_referee

from quantize.onnx_graph import checked
from quantize.simplify import simplify

THREE_SIX: Constants = {
    "three": np.float32(3),
    "zero": np.float32(0),
    "six": np.float32(6),
    "sixth": np.float32(1 / 6),
}


def hard_swish(written: str) -> list[onnx.NodeProto]:
    """As exporters and people write it."""
    clip = [node("Add", "x three", "a"), node("Clip", "a zero six", "c")]
    return {
        "hard sigmoid": [node("HardSigmoid", "x", "h", alpha=1 / 6, beta=0.5), node("Mul", "x h", "y")],
        "hard sigmoid first": [node("HardSigmoid", "x", "h", alpha=1 / 6, beta=0.5), node("Mul", "h x", "y")],
        "gate over six": [*clip, node("Div", "c six", "h"), node("Mul", "x h", "y")],
        "sixth of gate": [*clip, node("Mul", "sixth c", "h"), node("Mul", "h x", "y")],
        "three first": [node("Add", "three x", "a"), clip[1], node("Div", "c six", "h"), node("Mul", "x h", "y")],
        "product over six": [*clip, node("Mul", "x c", "p"), node("Div", "p six", "y")],
        "x over six": [*clip, node("Div", "x six", "p"), node("Mul", "p c", "y")],
    }[written]


@pytest.mark.parametrize(
    "written",
    [
        "hard sigmoid",
        "hard sigmoid first",
        "gate over six",
        "sixth of gate",
        "three first",
        "product over six",
        "x over six",
    ],
)
def test_every_way_to_write_hard_swish_is_one_operator(written: str) -> None:
    assert ops(simplified(network(*hard_swish(written), constants=THREE_SIX))) == {"HardSwish": 1}


@pytest.mark.parametrize(
    "changed",
    [{"three": np.float32(2.9)}, {"six": np.float32(5)}, {"zero": np.float32(0.5)}, {"sixth": np.float32(0.2)}],
    ids=str,
)
def test_other_constants_make_no_hard_swish(changed: Constants) -> None:
    for written in ("gate over six", "sixth of gate", "product over six"):
        if written != "sixth of gate" and "sixth" in changed:
            continue
        result = simplified(network(*hard_swish(written), constants=THREE_SIX | changed))
        assert not {"HardSwish", "HardSigmoid"} & ops(result).keys(), written


def test_the_gate_of_another_tensor_makes_no_hard_swish() -> None:
    nodes = node("Relu", "x", "r"), node("HardSigmoid", "r", "h", alpha=1 / 6, beta=0.5), node("Mul", "x h", "y")
    assert ops(simplified(network(*nodes))) == {"Relu": 1, "HardSigmoid": 1, "Mul": 1}


def test_other_hard_sigmoids_make_no_hard_swish() -> None:
    nodes = node("HardSigmoid", "x", "h"), node("Mul", "x h", "y")  # 0.2 and 0.5, by default
    assert ops(simplified(network(*nodes))) == {"HardSigmoid": 1, "Mul": 1}


@pytest.mark.parametrize("tensor", ["a", "c", "h"])
def test_parts_of_a_hard_swish_that_are_outputs_keep_their_values(tensor: str) -> None:
    simplified(network(*hard_swish("gate over six"), constants=THREE_SIX, outputs=f"y {tensor}"))


@pytest.mark.parametrize("tensor", ["c", "p"])
def test_parts_of_a_product_over_six_that_are_outputs_keep_their_values(tensor: str) -> None:
    simplified(network(*hard_swish("product over six"), constants=THREE_SIX, outputs=f"y {tensor}"))


def test_a_gate_that_is_also_read_elsewhere_keeps_its_values() -> None:
    nodes = [*hard_swish("gate over six"), node("Sub", "c h", "z")]
    result = simplified(network(*nodes, constants=THREE_SIX, outputs="y z"))
    assert ops(result) == {"Add": 1, "Clip": 1, "Mul": 2, "Sub": 1}, "the gate would be computed twice"


def swish(alpha: float | None) -> onnx.ModelProto:
    attributes = {} if alpha is None else {"alpha": alpha}
    swish_node = node("Swish", "x", "s", **attributes)
    return model_of([swish_node, node("Relu", "s", "y")], {"x": SHAPE}, {"y": None}, opset=24, ir_version=10)


@pytest.mark.parametrize("alpha, split", [(None, True), (1.0, True), (1.5, False)])
def test_swish_is_split_for_the_engines(alpha: float | None, split: bool) -> None:
    result = simplify(checked(swish(alpha), at_least=18))
    assert ops(result) == ({"Sigmoid": 1, "Mul": 1, "Relu": 1} if split else {"Swish": 1, "Relu": 1})
    if split:
        x = values()
        wanted = np.maximum(x / (1 + np.exp(-x.astype(np.float64))), 0)
        np.testing.assert_allclose(run_referee(result, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-5)
