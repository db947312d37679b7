"""The rules of a complete QDQ graph on networks that are not ours, held against FP32 and in all three engines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import SIDE, Array, Constants, array, every_engine, images, model_of, weights
from onnx import TensorProto, helper
from test_quantize_support import (
    build,
    initializers,
    nodes_of,
    producers,
    qdq,
    read_tflite,
    readers,
    weight_dq,
)

from edge.frame import GreyImage
from quantize.description import Description
from quantize.onnx_import import import_onnx
from quantize.ptq import quantise
from quantize.qdq import complete
from quantize.tflite.lower import to_tflite

CALIBRATED_ON = 8
SIZE = (12, 14)


def frames() -> Sequence[GreyImage]:
    return images(CALIBRATED_ON)


def parameters(model: onnx.ModelProto, quantiser: onnx.NodeProto) -> tuple[float, int, str]:
    scale, zero_point = (initializers(model)[name] for name in quantiser.input[1:3])
    return scale.item(), zero_point.item(), str(zero_point.dtype)


def behind(model: onnx.ModelProto, tensor: str) -> onnx.NodeProto:
    (quantiser,) = [node for node in readers(model, tensor) if node.op_type == "QuantizeLinear"]
    return quantiser


# Graphs with quantisers by hand.


def graph(
    *nodes: onnx.NodeProto, grids: dict[str, tuple[float, int]], constants: Constants | None = None
) -> onnx.ModelProto:
    """image → (p − 128) / 128 → pair → INT8 convolution → "c" (1, 4, 12, 14) → pair → `nodes` → "e" → + 1 → y.

    grids: scale and zero point of tensors that have a pair.
    """
    first, held = qdq("n", 1 / 128)
    kernel, more = weight_dq("w", weights(4, 1, 3, 3, gain=4.0))
    made = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "middle"], ["m"]),
        helper.make_node("Div", ["m", "middle"], ["n"]),
        *first,
        kernel,
    ]
    held = held | more | (constants or {}) | {"middle": np.float32(128), "one": np.float32(1)}
    convolution = helper.make_node("Conv", ["n_dq", "w_dq"], ["c"], pads=[1, 1, 1, 1])
    for node in (convolution, *nodes):
        made.append(node)
        for name in (name for name in node.output if name in grids):
            pair, parts = qdq(name, *grids[name])
            made += pair
            held |= parts
    made.append(helper.make_node("Add", ["e_dq", "one"], ["y"]))
    return build(made, {"image": (1, 1, *SIZE)}, ["y"], held, dtype=TensorProto.UINT8)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), output.split(), name=output, **attributes)


def agree(model: onnx.ModelProto, *, steps: float = 1.01) -> list[str]:
    """Compare the engines on a frame, within a step of the last quantiser; return the TFLite operators."""
    step = parameters(model, behind(model, "e"))[0]
    run = every_engine(model)
    for image in images(2, SIZE):
        answers = run(image)
        wanted = answers["referee"]["y"]
        assert np.ptp(wanted) > 4 * step, "nothing to compare"
        for engine in ("litert", "openvino"):
            difference = np.abs(answers[engine]["y"] - wanted)
            assert difference.max() <= steps * step, engine
            assert difference.mean() <= 0.15 * step, engine
    return [operator.code for operator in read_tflite(to_tflite(model)).operators]


@pytest.mark.parametrize(
    ("op", "wanted"),
    [
        ("Sigmoid", (1 / 256, 0, "uint8")),
        ("Softmax", (1 / 256, 0, "uint8")),
        ("Tanh", (1 / 128, 128, "uint8")),
        ("HardSigmoid", (1 / 255, 0, "uint8")),
    ],
)
def test_functions_write_the_one_grid_that_tflite_has(op: str, wanted: tuple[float, int, str]) -> None:
    attributes: dict[str, Any] = {"axis": 1} if op == "Softmax" else {}
    if op == "HardSigmoid":
        attributes = {"alpha": 1 / 6, "beta": 0.5}
    model = complete(graph(node(op, "c_dq", "e", **attributes), grids={"c": (0.05, 5), "e": (0.0031, -100)}))
    scale, zero_point, dtype = parameters(model, behind(model, "e"))
    assert (np.float32(scale), zero_point, dtype) == (np.float32(wanted[0]), wanted[1], wanted[2])
    codes = agree(model, steps=2.01 if op == "Softmax" else 1.01)
    assert codes.count("DEQUANTIZE") == 2, f"{op} runs in float: {codes}"  # of the pixels, and before the output


PADS: Constants = {"pads": np.asarray([0, 0, 1, 1, 0, 0, 2, 2])}
PARTS: Constants = {"starts": np.asarray([1, 2]), "ends": np.asarray([9, 11]), "axes": np.asarray([2, 3])}
HALVES: Constants = {"halves": np.asarray([2, 2])}
MOVES: dict[str, tuple[list[onnx.NodeProto], dict[str, tuple[float, int]], Constants]] = {
    "Max": ([node("Relu", "c_dq", "d"), node("Max", "d_dq c_dq", "e")], {"d": (0.02, -128)}, {}),
    "Min": ([node("Relu", "c_dq", "d"), node("Min", "c_dq d_dq", "e")], {"d": (0.02, -128)}, {}),
    "Concat": ([node("Relu", "c_dq", "d"), node("Concat", "c_dq d_dq", "e", axis=1)], {"d": (0.02, -128)}, {}),
    "Pad": ([node("Pad", "c_dq pads", "e")], {}, PADS),
    "Slice": ([node("Slice", "c_dq starts ends axes", "e")], {}, PARTS),
    "Split": (
        [node("Split", "c_dq halves", "d g", axis=1), node("Add", "d_dq g_dq", "e")],
        {"d": (0.03, 0), "g": (0.05, 9)},
        HALVES,
    ),
    "Resize": (
        [
            node(
                "Resize",
                "c_dq  twice",
                "e",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {},
        {"twice": array([1, 1, 2, 2])},
    ),
    "AveragePool": ([node("AveragePool", "c_dq", "e", kernel_shape=[2, 2], strides=[2, 2])], {}, {}),
    "DepthToSpace": ([node("DepthToSpace", "c_dq", "e", blocksize=2)], {}, {}),
    "Reshape": ([node("Reshape", "c_dq flat", "e")], {}, {"flat": np.asarray([1, -1])}),
}
MOVES["Resize"][0][0].input[:] = ["c_dq", "", "twice"]


@pytest.mark.parametrize("op", MOVES)
def test_operators_that_cannot_rescale_share_one_quantiser(op: str) -> None:
    nodes, grids, constants = MOVES[op]
    source = graph(*nodes, grids={"c": (0.04, 10), "e": (0.05, -20)} | grids, constants=constants)
    model = complete(source)
    (it,) = [each for each in model.graph.node if each.op_type == op]
    made = producers(model)
    around = [
        made[made[name].input[0]] for name in it.input if name in made and made[name].op_type == "DequantizeLinear"
    ]
    around += [behind(model, name) for name in it.output]
    assert len(around) == {"Max": 3, "Min": 3, "Concat": 3, "Split": 3}.get(op, 2)
    assert len({parameters(model, quantiser) for quantiser in around}) == 1
    codes = agree(model)
    assert codes.count("DEQUANTIZE") == 2, f"{op} runs in float: {codes}"  # of the pixels, and before the output


def test_an_operator_that_moves_gets_the_quantiser_that_it_lacks() -> None:
    nodes = [node("Slice", "c_dq starts ends axes", "d"), node("Relu", "d", "e")]
    model = complete(graph(*nodes, grids={"c": (0.04, 10), "e": (0.02, -128)}, constants=PARTS))
    assert parameters(model, behind(model, "d"))[:2] == parameters(model, behind(model, "c"))[:2]
    agree(model)


# Biases.


def with_bias(bias: Array, *, quantised: bool = True) -> onnx.ModelProto:
    """x → pair → Conv with a bias → (pair) → Relu."""
    first, held = qdq("x", 0.02)
    last, parts = qdq("c", 0.05)
    kernel, more = weight_dq("w", weights(3, 1, 3, 3))
    nodes = [*first, kernel, helper.make_node("Conv", ["x_dq", "w_dq", "b"], ["c"], name="layer")]
    nodes += (
        [*last, helper.make_node("Relu", ["c_dq"], ["y"])] if quantised else [helper.make_node("Relu", ["c"], ["y"])]
    )
    return build(nodes, {"x": (1, 1, 8, 8)}, ["y"], held | more | (parts if quantised else {}) | {"b": bias})


def test_biases_of_int8_layers_are_whole_numbers_of_the_accumulators_step() -> None:
    bias = array([0.1234, -0.777, 1e-5])
    model = complete(with_bias(bias))
    held = initializers(model)
    (layer,) = nodes_of(model, "Conv")
    step = 0.02 * held["w_scale"].astype(np.float64)
    steps = held[layer.input[2]] / step
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert np.abs(held[layer.input[2]] - bias).max() <= step.max() / 2
    assert not np.array_equal(held[layer.input[2]], bias)


@pytest.mark.parametrize("bias", [array([1e9, 0, 0]), array([0.1, 0.2, 0.3])], ids=["too large", "of a head"])
def test_other_biases_stay(bias: Array) -> None:
    model = complete(with_bias(bias, quantised=bias[0] > 1))
    assert np.array_equal(initializers(model)[nodes_of(model, "Conv")[0].input[2]], bias)


def test_layers_that_share_a_bias_are_corrected_each_on_its_own() -> None:
    """NNCF and the rules above write into biases."""
    nodes = [helper.make_node("Conv", ["x", "w0", "b"], ["c0"], name="c0", pads=[1, 1, 1, 1])]
    for place in (1, 2):
        nodes.append(helper.make_node("Relu", [f"c{place - 1}"], [f"r{place}"]))
        nodes.append(
            helper.make_node(
                "Conv", [f"r{place}", f"w{place}", "b"], [f"c{place}"], name=f"c{place}", pads=[1, 1, 1, 1]
            )
        )
    constants: Constants = {f"w{place}": weights(4, 4 if place else 1, 3, 3, seed=place) for place in range(3)}
    model = model_of(nodes, {"x": (1, 1, SIDE, SIDE)}, {"c2": None}, constants | {"b": array([0.2, 0.1, -0.1, 0.3])})
    network = import_onnx(model, Description(mean=(0.5,), std=(0.5,)), name="net")
    layers = nodes_of(complete(quantise(network.model, frames()), frames()), "Conv")
    assert len({layer.input[2] for layer in layers}) == 3
