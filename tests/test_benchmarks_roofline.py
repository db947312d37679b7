"""The roofline: what a layer can take at least, peaks and copies of this machine, and a real network against them."""

import json
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.alone import single_operator, times_alone_ms
from benchmarks.bandwidth import WORKING_SETS, Bandwidth, bandwidth_for, copies, moved_bytes
from benchmarks.latency import Latency, measure
from benchmarks.layers import INT8, Layer
from benchmarks.layers_litert import layers_of as litert_layers_of
from benchmarks.layers_openvino import layers_of as openvino_layers_of
from benchmarks.layers_openvino import node_times_ms
from benchmarks.layers_openvino import read_layers as read_openvino_layers
from benchmarks.peaks import SHAPES, PeakShape, litert_chain, open_peak, openvino_chain
from benchmarks.precision import summarise
from benchmarks.roofline import LayerBound, Peak, Roofline, bound_layers, has_roofline, measure_roofline
from edge.bundle import BUILTIN
from edge.engines.openvino import settings_of, shared_core
from edge.phantom import phantom_case
from edge.preprocess import preprocess

NETWORK = BUILTIN["emtnet-s"]
IMAGE = preprocess(phantom_case(0).pixels, (224, 224))
SMALL = PeakShape(channels=64, side=14, kernel=1, layers=2)
BANDWIDTHS = (Bandwidth(1_000, 2e9), Bandwidth(10_000, 4e9), Bandwidth(100_000, 1e9))


def layer(macs: int = 0, traffic: int = 1_000, *, precision: str = INT8, converts: bool = False) -> Layer:
    return Layer("layer", "Conv", "kernel", (1, 2), macs, traffic, precision, converts)


def only_bound(given_layer: Layer) -> LayerBound:
    peaks = (Peak(INT8, 1e9, "best"), Peak("f32", 1e8, "best"))
    (bound,) = bound_layers([given_layer], peaks, BANDWIDTHS, {"layer": 5.0})
    return bound


def test_a_layer_takes_the_larger_of_its_arithmetic_and_its_traffic() -> None:
    assert only_bound(layer(macs=2_000_000)).floor_ms == pytest.approx(2.0)
    assert only_bound(layer(macs=2_000_000, precision="f32")).floor_ms == pytest.approx(20.0)
    assert only_bound(layer(macs=10, traffic=50_000)).floor_ms == pytest.approx(0.05)
    assert only_bound(layer(macs=2_000_000)).excess_ms == pytest.approx(3.0)


def test_what_only_converts_has_no_floor_but_the_time_it_took() -> None:
    bound = only_bound(layer(traffic=50_000, converts=True))
    assert (bound.floor_ms, bound.excess_ms) == (0.0, 5.0)
    assert bound.to_json()["bound"] == "nothing"


def test_a_small_layer_counts_on_the_fastest_copy_of_as_much_or_more() -> None:
    assert bandwidth_for(500, BANDWIDTHS) == 4e9
    assert bandwidth_for(10_000, BANDWIDTHS) == 4e9
    assert bandwidth_for(10_001, BANDWIDTHS) == 1e9
    assert bandwidth_for(10**9, BANDWIDTHS) == 1e9


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(1.0, 1e12)), min_size=1), st.integers(0, 10**9))
def test_more_traffic_never_moves_faster(measured: list[tuple[int, float]], size: int) -> None:
    found = [Bandwidth(*one) for one in measured]
    assert bandwidth_for(size, found) >= bandwidth_for(size + 1, found)


def test_floor_distance_and_worst_layers_are_of_the_layers() -> None:
    bounds = tuple(
        LayerBound(layer(macs), compute_ms, 0.1, measured)
        for macs, compute_ms, measured in ((1, 1.0, 1.5), (2, 0.5, 3.0), (3, 2.4, None))
    )
    roofline = Roofline("litert", INT8, 1, Latency((8.0, 8.0, 12.0)), (), BANDWIDTHS, bounds)
    assert roofline.floor_ms == pytest.approx(3.9)
    assert roofline.distance == pytest.approx(8.0 / 3.9)
    assert [bound.layer.macs for bound in roofline.worst(2)] == [2, 1]
    record = json.loads(json.dumps(roofline.to_json()))
    assert record["distance"] == pytest.approx(roofline.distance)
    assert [found["measured_ms"] for found in record["layers"]] == [1.5, 3.0, None]


def test_an_undisturbed_round_is_told_from_the_median() -> None:
    latency = Latency(tuple([1.0] * 3 + [5.0] * 7))
    roofline = Roofline("litert", INT8, 1, latency, (), BANDWIDTHS, (LayerBound(layer(1), 0.5, 0.1),))
    assert (roofline.distance, roofline.undisturbed_distance) == (10.0, 2.0)


def test_a_network_without_work_has_no_roofline() -> None:
    with pytest.raises(ValueError, match="no roofline"):
        Roofline("litert", INT8, 1, Latency((1.0,)), (), BANDWIDTHS, (LayerBound(layer(converts=True), 0, 1),))


# Peaks: the chain really is what it claims to be.


@pytest.mark.parametrize("shape", [*SHAPES, SMALL], ids=lambda shape: shape.text)
@pytest.mark.parametrize("precision", [INT8, "f32"])
def test_the_chain_of_litert_runs_in_xnnpack_in_its_precision(shape: PeakShape, precision: str) -> None:
    made = Interpreter(model_content=litert_chain(shape, precision=precision), num_threads=1)
    made.allocate_tensors()
    found = summarise(litert_layers_of(made))
    assert found.macs == ((precision, shape.macs),)
    assert found.built_in_macs == 0


@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[4], SMALL], ids=lambda shape: shape.text)
@pytest.mark.parametrize("precision", [INT8, "f32"])
def test_the_chain_of_openvino_runs_in_its_precision(shape: PeakShape, precision: str) -> None:
    model = openvino_chain(shape, precision=precision)
    compiled = shared_core().compile_model(model, "CPU", settings_of("CPU", threads=1))
    assert summarise(openvino_layers_of(compiled)).macs == ((precision, shape.macs),)


@pytest.mark.parametrize("engine", ["openvino", "litert"])
def test_values_neither_die_nor_saturate_on_their_way_through_a_chain(engine: str) -> None:
    """A zero or a full layer might take a short cut on some machine."""
    if engine == "litert":
        made = Interpreter(model_content=litert_chain(SHAPES[2], precision="f32"), num_threads=1)
        made.allocate_tensors()
        (given_image,) = made.get_input_details()
        image = np.random.default_rng(0).uniform(0, 6, given_image["shape"]).astype(np.float32)
        made.set_tensor(given_image["index"], image)
        made.invoke()
        out = made.get_tensor(made.get_output_details()[0]["index"]).mean((1, 2))
    else:
        model = openvino_chain(SHAPES[2], precision="f32")
        image = np.random.default_rng(0).uniform(0, 6, tuple(model.input(0).shape)).astype(np.float32)
        out = shared_core().compile_model(model, "CPU")([image])[0]
    assert out.std() > 0.05
    assert 0.05 < out.mean() < 5.0


@pytest.mark.parametrize("engine", ["openvino", "litert"])
def test_int8_peaks_are_above_those_of_float_where_the_processor_has_dot_products(engine: str) -> None:
    flags = Path("/proc/cpuinfo").read_text().split()
    if not {"avx512_vnni", "avx_vnni", "asimddp"} & set(flags):
        pytest.skip("no INT8 dot products on this processor")
    steps = {kind: open_peak(engine, SHAPES[2], precision=kind, threads=1) for kind in (INT8, "f32")}
    found = measure(steps, rounds=10, warmup=2)
    assert found["f32"].fast_ms > 1.5 * found[INT8].fast_ms


def test_a_copy_moves_what_it_says() -> None:
    with copies(2) as made:
        assert tuple(made) == WORKING_SETS
        made[WORKING_SETS[0]]()
        assert moved_bytes(WORKING_SETS[0]) % WORKING_SETS[0] == 0
        assert moved_bytes(WORKING_SETS[-1]) == WORKING_SETS[-1]
    with pytest.raises(ValueError, match="no bandwidth"):
        Bandwidth(0, 1.0)


# Layers timed, and the whole on a real network.


def test_every_operator_of_litert_is_timed_alone_and_computes_the_same() -> None:
    path = NETWORK / "int8.tflite"
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    whole = Interpreter(
        model_path=str(path),
        num_threads=1,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    whole.allocate_tensors()
    whole.set_tensor(whole.get_input_details()[0]["index"], IMAGE[None, :, :, None])
    whole.invoke()
    codes = [model.operatorCodes[operator.opcodeIndex].builtinCode for operator in model.subgraphs[0].operators]
    operator = model.subgraphs[0].operators[codes.index(schema.BuiltinOperator.DEPTHWISE_CONV_2D)]
    alone = Interpreter(model_content=single_operator(model, operator), num_threads=1)
    alone.allocate_tensors()
    (source,) = alone.get_input_details()
    alone.set_tensor(source["index"], whole.get_tensor(operator.inputs[0]))
    alone.invoke()
    found, wanted = alone.get_tensor(alone.get_output_details()[0]["index"]), whole.get_tensor(operator.outputs[0])
    assert np.ptp(wanted.astype(int)) > 100
    assert np.abs(found.astype(int) - wanted).max() <= 1  # XNNPACK and the interpreter's own kernels round apart
    names = [one.name for one in litert_layers_of(whole)]
    times = times_alone_ms(path, threads=1, rounds=2)
    assert list(times) == names
    assert min(times.values()) > 0


def test_openvinos_counters_are_of_the_layers_that_are_read() -> None:
    times = node_times_ms(NETWORK / "int8.xml", IMAGE, threads=1, rounds=2)
    layers = {one.name: one for one in read_openvino_layers(NETWORK / "int8.xml", precision=INT8, threads=1)}
    assert times.keys() <= layers.keys()
    busy = sum(layers[name].macs for name in times)
    assert busy > 0.9 * sum(one.macs for one in layers.values())


@pytest.mark.parametrize(("engine", "file"), [("openvino", "int8.xml"), ("litert", "int8.tflite")])
def test_no_engine_is_faster_than_its_floor(engine: str, file: str) -> None:
    roofline = measure_roofline(
        engine, NETWORK / file, IMAGE, precision=INT8, threads=1, rounds=5, shapes=(SHAPES[2], SHAPES[4])
    )
    assert roofline.undisturbed_distance > 1.0
    assert len(roofline.latency.samples_ms) == 5
    assert {peak.precision for peak in roofline.peaks} == {
        one.layer.precision for one in roofline.layers if one.layer.macs
    }
    assert roofline.floor_ms > 1e3 * summarise(b.layer for b in roofline.layers).total_macs / max(
        peak.macs_per_s for peak in roofline.peaks
    )
    assert roofline.worst(1)[0].measured_ms is not None


def test_an_engine_that_nothing_can_be_built_for_has_none() -> None:
    assert not has_roofline("onnx")
    assert not has_roofline("tflite-runtime")
    with pytest.raises(ValueError, match="onnx: no peaks"):
        measure_roofline("onnx", NETWORK / "int8.onnx", IMAGE, precision=INT8, threads=1)
