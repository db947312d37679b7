"""Completing a QDQ graph must not move it further from FP32 than the quantiser tool left it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_quantize_support import run_referee, run_tflite

from edge.errors import ConversionError
from quantize.ptq import quantise
from quantize.qdq import complete
from quantize.tflite.lower import to_tflite

RNG = np.random.default_rng(3)
FRAMES = [RNG.integers(0, 256, (12, 12), dtype=np.uint8) for _ in range(12)]
CHANNELS = 4


def network(middle: Sequence[onnx.NodeProto], constants: dict[str, Any], side: int = 12) -> onnx.ModelProto:
    """image → (p − 128) / 128 → Conv → `middle`, from "a" to "b" → Conv → Conv → y."""
    rng = np.random.default_rng(5)
    held: dict[str, Any] = {
        "c": np.float32(128),
        "w0": rng.normal(size=(CHANNELS, 1, 3, 3)).astype(np.float32) / 2,
        "w1": rng.normal(size=(CHANNELS, CHANNELS, 1, 1)).astype(np.float32) / 2,
        "w2": rng.normal(size=(1, CHANNELS, 1, 1)).astype(np.float32) / 2,
        **constants,
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("Sub", ["f", "c"], ["s"], name="sub"),
        helper.make_node("Div", ["s", "c"], ["x"], name="div"),
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("Conv", ["b", "w1"], ["d"], name="second"),
        helper.make_node("Relu", ["d"], ["e"], name="relu"),
        helper.make_node("Conv", ["e", "w2"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, side, side])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in held.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def error(model: onnx.ModelProto, reference: onnx.ModelProto) -> float:
    """Mean |Δ| as a share of the reference's range."""
    pairs = [[run_referee(each, {"image": f[None, None]})["y"] for each in (model, reference)] for f in FRAMES]
    got, wanted = (np.stack([pair[place] for pair in pairs]) for place in range(2))
    return float(np.abs(got - wanted).mean() / (wanted.max() - wanted.min()))


CASES: dict[str, tuple[list[str], dict[str, Any], int]] = {
    "Max with a constant": (
        ["Max a four -> b"],
        {"four": np.linspace(-2, 1, CHANNELS, dtype=np.float32).reshape(1, -1, 1, 1)},
        12,
    ),
    "Min with a constant": (
        ["Min a low -> b"],
        {"low": np.linspace(-6, 1, CHANNELS, dtype=np.float32).reshape(1, -1, 1, 1)},
        12,
    ),
    "Pad with 4": (["Pad a pads fill -> b"], {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "fill": np.float32(4)}, 14),
    "Pad with 0": (["Pad a pads -> b"], {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, 14),
    "HardSigmoid of a small slope": (["Mul a ten -> t", "HardSigmoid t -> b"], {"ten": np.float32(3)}, 12),
    "Sigmoid": (["Sigmoid a -> b"], {}, 12),
    "HardSwish": (["HardSwish a -> b"], {}, 12),
    "a constant of zeros": (["Add a zeros -> b"], {"zeros": np.zeros((1, CHANNELS, 12, 12), np.float32)}, 12),
}


@pytest.mark.parametrize("case", CASES)
def test_a_completed_graph_is_as_near_to_fp32(case: str) -> None:
    lines, constants, side = CASES[case]
    middle = []
    for index, line in enumerate(lines):
        op, *inputs, _, output = line.split()
        attributes: dict[str, Any] = {"alpha": 0.05} if op == "HardSigmoid" else {}
        middle.append(helper.make_node(op, inputs, [output], name=f"it{index}", **attributes))
    fp32 = network(middle, constants, side)
    quantised = quantise(fp32, FRAMES)
    completed = complete(quantised, FRAMES)
    assert error(completed, fp32) <= max(2 * error(quantised, fp32), 0.02)
    content = to_tflite(completed)
    for frame in FRAMES[:3]:
        feeds = {"image": frame[None, None]}
        wanted = run_referee(completed, feeds)["y"]
        assert np.abs(run_tflite(content, feeds)["y"] - wanted).mean() <= 0.02 * (wanted.max() - wanted.min())


def test_a_bad_scale_is_told_with_the_operators_that_have_no_lowering() -> None:
    middle = [
        helper.make_node("QuantizeLinear", ["a", "nothing"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "nothing"], ["r"], name="dequantise"),
        helper.make_node("Erf", ["r"], ["b"], name="gelu"),
    ]
    with pytest.raises(ConversionError) as caught:
        to_tflite(network(middle, {"nothing": np.asarray(0.0, np.float32)}))
    assert "gelu" in str(caught.value)
    assert "quantise" in str(caught.value)
    assert "\n" not in str(caught.value)
