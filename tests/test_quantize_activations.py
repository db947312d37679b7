"""Modern activations and gates after NNCF and the completion: INT8 from the image to the heads, in every engine."""

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import SCORES, SIDE, Constants, array, body, every_engine, images, model_of, weights
from onnx import helper
from test_quantize_support import initializers, nodes_of, producers, read_tflite, readers, run_referee

from quantize.description import Description
from quantize.onnx_import import import_onnx
from quantize.ptq import quantise
from quantize.qdq import complete
from quantize.tflite.lower import to_tflite

HALF = Description(mean=(0.5,), std=(0.5,))
FRAMES = images(10)
HELD_OUT = images(14)[10:]


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def activated(kind: str) -> onnx.ModelProto:
    """The small network with other activations."""
    nodes, constants = body()
    made: list[onnx.NodeProto] = []
    for each in nodes:
        source, target = each.input[0], each.output[0]
        if each.op_type != "Relu":
            made.append(each)
        elif kind == "SiLU":
            made += [node("Sigmoid", source, f"{target}_s"), node("Mul", f"{source} {target}_s", target)]
        elif kind == "PRelu":
            channels = {"r1": 6, "r2": 8}[target]
            constants[f"{target}_slope"] = array(np.linspace(0.05, 0.4, channels)).reshape(-1, 1, 1)
            made.append(node("PRelu", f"{source} {target}_slope", target))
        else:
            attributes: dict[str, Any] = {"alpha": 0.1} if kind == "LeakyRelu" else {}
            made.append(node(kind, source, target, **attributes))
    return model_of(made, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": None}, constants)


def squeezed(gate: str) -> onnx.ModelProto:
    """The small network with squeeze and excitation behind its features."""
    nodes, constants = body()
    constants |= {
        "s1": weights(4, 8, 1, 1),
        "t1": weights(4, seed=3),
        "s2": weights(8, 4, 1, 1, gain=6),
        "t2": weights(8, seed=4),
    }
    attributes: dict[str, Any] = {"alpha": 1 / 6, "beta": 0.5} if gate == "HardSigmoid" else {}
    middle = [
        node("GlobalAveragePool", "r2", "squeezed"),
        node("Conv", "squeezed s1 t1", "reduced"),
        node("Relu", "reduced", "reduced_r"),
        node("Conv", "reduced_r s2 t2", "expanded"),
        node(gate, "expanded", "gate", **attributes),
        node("Mul", "r2 gate", "scaled"),
    ]
    for head in nodes[4:]:
        head.input[0] = {"r2": "scaled"}.get(head.input[0], head.input[0])
    every = [*nodes[:4], *middle, *nodes[4:]]
    return model_of(every, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": None}, constants)


NETWORKS = {
    "HardSwish": lambda: activated("HardSwish"),
    "LeakyRelu": lambda: activated("LeakyRelu"),
    "SiLU": lambda: activated("SiLU"),
    "PRelu": lambda: activated("PRelu"),
    "Tanh": lambda: activated("Tanh"),
    "squeeze HardSigmoid": lambda: squeezed("HardSigmoid"),
    "squeeze Sigmoid": lambda: squeezed("Sigmoid"),
}


@cache
def fp32(name: str) -> onnx.ModelProto:
    return import_onnx(NETWORKS[name](), HALF, name=name).model


@cache
def by_nncf(name: str) -> onnx.ModelProto:
    return quantise(fp32(name), FRAMES)


@cache
def completed(name: str) -> onnx.ModelProto:
    return complete(by_nncf(name), FRAMES)


def heads(model: onnx.ModelProto) -> set[str]:
    return {producers(model)[name].name for name in ("mask", "scores")}


def open_layers(model: onnx.ModelProto) -> list[str]:
    """Layers whose output nothing quantises, or whose weights are float."""
    found = []
    for layer in [*nodes_of(model, "Conv"), *nodes_of(model, "Gemm")]:
        behind = readers(model, layer.output[0])
        while len(behind) == 1 and behind[0].op_type in ("Relu", "Clip"):
            behind = readers(model, behind[0].output[0])
        weights_of = producers(model).get(layer.input[1])
        quantised = [each.op_type for each in behind] == ["QuantizeLinear"]
        if not quantised or weights_of is None or weights_of.op_type != "DequantizeLinear":
            found.append(layer.name)
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_but_the_heads_is_int8(name: str) -> None:
    model = completed(name)
    assert set(open_layers(model)) == heads(model)
    assert set(open_layers(by_nncf(name))) > heads(by_nncf(name)), "NNCF left nothing open: this test would not notice"


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_end_in_float(name: str) -> None:
    model = completed(name)
    for output in ("mask", "scores"):
        assert not readers(model, output)
        assert producers(model)[output].op_type in ("Conv", "Gemm")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_tflite_file_is_int8_between_image_and_heads(name: str) -> None:
    file = read_tflite(to_tflite(completed(name)))
    floats = [
        op.code for op in file.operators if str(file.dtype(op.outputs[0])) == "float32" and op.code != "DEQUANTIZE"
    ]
    assert floats == ["CONV_2D", "FULLY_CONNECTED"], "more than the heads is float"


@pytest.mark.parametrize("name", NETWORKS)
def test_every_engine_computes_it_alike_and_close_to_fp32(name: str) -> None:
    run = every_engine(completed(name))
    for image in HELD_OUT:
        answers = run(image)
        exact = run_referee(fp32(name), {"image": image[None, None]})
        for output, wanted in answers["referee"].items():
            spread = max(float(np.ptp(exact["mask"])), 0.5)
            for engine in ("litert", "openvino"):
                assert np.abs(answers[engine][output] - wanted).mean() < 0.01 * spread, (engine, output)
            assert np.abs(wanted - exact[output]).mean() < 0.04 * spread, output


@pytest.mark.parametrize("gate", ["HardSigmoid", "Sigmoid"])
def test_the_layers_of_a_gate_are_calibrated_on_their_own_ranges(gate: str) -> None:
    model = completed(f"squeeze {gate}")
    held = initializers(model)
    spans = {}
    for quantiser in nodes_of(model, "QuantizeLinear"):
        scale, zero_point = (held[name] for name in quantiser.input[1:3])
        shift = 128 if zero_point.dtype == np.int8 else 0
        low = float(scale) * -(int(zero_point) + shift)
        spans[quantiser.input[0]] = (low, low + 255 * float(scale))
    limit = 3.0 if gate == "HardSigmoid" else 8.0
    low, high = spans["expanded"]
    assert -limit * 1.01 <= low < high <= limit * 1.01
    assert spans["gate"] == pytest.approx((0.0, 1.0), abs=0.005)
    assert spans["reduced_r"][0] == 0.0


# Weights that NNCF left in float between INT8 tensors.


def two_classes() -> onnx.ModelProto:
    """A hidden linear layer behind the pooled features."""
    nodes, constants = body()
    constants |= {"hidden": weights(8, 8, seed=5), "more": weights(8, seed=6)}
    nodes[-1].input[0] = "deep"
    extra: list[onnx.NodeProto] = [
        node("MatMul", "flat hidden", "product"),
        node("Add", "product more", "summed"),
        node("HardSwish", "summed", "deep"),
    ]
    every = [*nodes[:-1], *extra, nodes[-1]]
    held: Constants = constants
    return model_of(every, {"image": (1, 1, SIDE, SIDE)}, {"mask": None, "scores": SCORES}, held)


def test_a_hidden_linear_layer_is_int8_and_the_last_one_float() -> None:
    model = import_onnx(two_classes(), HALF, name="net").model
    assert len(nodes_of(model, "Gemm")) == 2
    done = complete(quantise(model, FRAMES), FRAMES)
    assert set(open_layers(done)) == heads(done)
    file = read_tflite(to_tflite(done))
    kinds = [str(file.dtype(op.outputs[0])) for op in file.operators if op.code == "FULLY_CONNECTED"]
    assert kinds == ["int8", "float32"]
    answers = every_engine(done)(HELD_OUT[0])
    for engine in ("litert", "openvino"):
        assert np.abs(answers[engine]["scores"] - answers["referee"]["scores"]).max() < 0.01
