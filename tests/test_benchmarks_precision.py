"""Effective precision: what each engine says it runs, against the networks that went in."""

import json
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from benchmarks.layers import FLOATS, INT8, PRECISIONS, Layer, precision_of, read_layers
from benchmarks.layers_litert import delegated
from benchmarks.layers_onnx import read_layers as read_onnx_layers
from benchmarks.precision import EffectivePrecision, effective_precision, summarise
from edge.bundle import BUILTIN
from edge.errors import EngineError

ENGINES = {"openvino": "int8.xml", "litert": "int8.tflite", "onnx": "int8.onnx"}
NETWORKS = sorted(BUILTIN)


@cache
def macs_of_graph(network: str) -> int:
    """Multiply-accumulates of a built-in network, from the shapes that ONNX infers."""
    model = onnx.shape_inference.infer_shapes(onnx.load(BUILTIN[network] / "int8.onnx"))
    values = (*model.graph.value_info, *model.graph.output)
    shapes = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values}
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    total = 0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            kernel = weights[sources[node.input[1]]]
            total += prod(shapes[node.output[0]]) * prod(kernel[1:])
    return total


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_the_multiply_accumulates_of_the_graph_nearly_all_in_int8(engine: str, network: str) -> None:
    path = BUILTIN[network] / ENGINES[engine]
    found = effective_precision(engine, path, precision="int8", threads=1)
    # In the .tflite file the first layer has a few products with zero, for speed (quantize/tflite/ops/columns.py).
    assert macs_of_graph(network) <= found.total_macs <= (1.03 if engine == "litert" else 1.0) * macs_of_graph(network)
    assert found.share(INT8) > 0.99
    assert sum(found.shares.values()) == pytest.approx(1.0)


def test_litert_leaves_just_the_heads_in_float_and_nothing_to_built_in_kernels() -> None:
    found = effective_precision("litert", BUILTIN["emtnet"] / "int8.tflite", precision="int8", threads=1)
    assert found.float_layers == ("linear", "linear_1", "mask")
    assert found.built_in_macs == 0
    assert found.text == "99.9 % int8, 0.1 % f32"


def test_the_referee_runs_the_same_graph_in_float() -> None:
    layers = read_onnx_layers(BUILTIN["emtnet-s"] / "int8.onnx", precision="int8", threads=1, optimise=False)
    found = summarise(layers)
    assert found.shares == {"f32": 1.0}
    assert found.total_macs == macs_of_graph("emtnet-s")


def float_model(path: Path) -> Path:
    """A convolution of 16 filters, a transposed one of 5, and a linear layer with 2 outputs, in float32 on 6×6 pixels."""
    rng = np.random.default_rng(0)
    weights = {
        "kernel": rng.normal(size=(16, 1, 3, 3)),
        "wide": rng.normal(size=(16, 5, 2, 2)),
        "matrix": rng.normal(size=(2, 720)),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["pixels", "kernel"], ["edges"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["edges", "wide"], ["large"], strides=[2, 2]),
        helper.make_node("Flatten", ["large"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "float",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


ENGINES_OF_FLOAT = ("onnx", "openvino", "litert")
FLOAT_MACS = 6 * 6 * 16 * 9 + 6 * 6 * 16 * 5 * 4 + 720 * 2


def as_onnx(model: Path) -> Path:
    return model


def as_openvino(model: Path) -> Path:
    from quantize.openvino_ir import write_ir

    return write_ir(model, model.with_suffix(".xml"))[0]


def as_tflite(model: Path) -> Path:
    from quantize.tflite.lower import to_tflite

    path = model.with_suffix(".tflite")
    path.write_bytes(to_tflite(onnx.load(model)))
    return path


@pytest.fixture(scope="module")
def float_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return float_model(tmp_path_factory.mktemp("float") / "float.onnx")


@pytest.mark.parametrize(
    ("engine", "convert"), [("onnx", as_onnx), ("openvino", as_openvino), ("litert", as_tflite)], ids=ENGINES_OF_FLOAT
)
def test_a_float_network_is_all_f32_with_the_macs_of_its_shapes(
    engine: str, convert: Callable[[Path], Path], float_network: Path
) -> None:
    found = effective_precision(engine, convert(float_network), precision="fp32", threads=1)
    assert found.shares == {"f32": 1.0}
    assert found.total_macs == FLOAT_MACS


def test_a_layer_that_xnnpack_did_not_take_is_told() -> None:
    """Without the delegate everything runs in the interpreter's own kernels: just as INT8, and slower."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    from benchmarks.layers_litert import layers_of

    made = Interpreter(
        model_path=str(BUILTIN["emtnet-s"] / "int8.tflite"),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    made.allocate_tensors()
    found = summarise(layers_of(made))
    assert found.built_in_macs == found.total_macs
    assert found.share(INT8) > 0.99
    assert found.text.endswith("; 100 % outside of XNNPACK")


def operators(*edges: tuple[list[int], list[int]]) -> list[dict[str, Any]]:
    return [{"index": place, "inputs": ins, "outputs": outs} for place, (ins, outs) in enumerate(edges)]


def test_what_a_delegate_took_lies_between_its_outputs_and_its_inputs() -> None:
    chain = operators(([0], [1]), ([1], [2]), ([2, 1], [3]), ([3], [4]))
    assert delegated(chain, [{"inputs": np.array([1]), "outputs": np.array([3])}]) == {1, 2}
    assert delegated(chain, []) == frozenset()
    both = [{"inputs": [0], "outputs": [1]}, {"inputs": [3], "outputs": [4]}]
    assert delegated(chain, both) == {0, 3}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_file_that_is_no_network_is_an_engine_error(engine: str, tmp_path: Path) -> None:
    path = tmp_path / ENGINES[engine]
    path.write_bytes(b"no network")
    with pytest.raises(EngineError, match=engine):
        read_layers(engine, path, precision="int8", threads=1)


def layer(name: str, macs: int, precision: str = INT8, kernel: str = "jit") -> Layer:
    return Layer(name, "Conv", kernel, (1,), macs, 8, precision)


@given(st.lists(st.tuples(st.integers(0, 10**9), st.sampled_from(PRECISIONS)), max_size=20))
def test_shares_are_of_the_whole_and_leave_no_layer_out(given_layers: list[tuple[int, str]]) -> None:
    layers = [layer(str(place), macs, precision) for place, (macs, precision) in enumerate(given_layers)]
    found = summarise(layers)
    assert found.total_macs == sum(macs for macs, _ in given_layers)
    assert found.total_macs == 0 or sum(found.shares.values()) == pytest.approx(1.0)
    floats = {place for place, (macs, precision) in enumerate(given_layers) if macs and precision in FLOATS}
    assert set(found.float_layers) == {str(place) for place in floats}
    assert json.loads(json.dumps(found.to_json()))["shares"] == found.shares


@pytest.mark.parametrize(
    ("macs", "text"),
    [
        ({}, "no layer with weights"),
        ({INT8: 5}, "100 % int8"),
        ({INT8: 99_999, "f32": 1}, "> 99.9 % int8, < 0.1 % f32"),
        ({INT8: 1, "f32": 3}, "75 % f32, 25 % int8"),
    ],
)
def test_the_text_never_rounds_to_all_or_nothing(macs: dict[str, int], text: str) -> None:
    assert EffectivePrecision(tuple(macs.items()), None, ()).text == text


def test_layers_are_validated() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        layer("bad", -1)
    with pytest.raises(ValueError, match="'i4' is none of int8, bf16, f16, f32"):
        layer("bad", 1, "i4")
    assert layer("moves", 0, "i64").precision == "i64"


@pytest.mark.parametrize(
    ("name", "ours"),
    [("u8", INT8), ("I8", INT8), ("float", "f32"), ("bfloat16", "bf16"), ("f16", "f16"), ("i64", "i64")],
)
def test_types_of_engines_get_our_names(name: str, ours: str) -> None:
    assert precision_of(name) == ours
