"""What OpenVINO makes of a network: the runtime model of its CPU plugin, and the time that it measures for each node."""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Final

from benchmarks.latency import Latency
from benchmarks.layers import PRECISIONS, Layer, precision_of
from edge.engines import engine_errors
from edge.engines.openvino import settings_of, shared_core
from edge.frame import GreyImage

_NOT_RUN: Final = frozenset({"Const", "Input", "Output"})
_CONVERTS: Final = frozenset({"Reorder", "Convert", "Reshape"})
_BYTES: Final = {"f64": 8, "i64": 8, "u64": 8, "f32": 4, "i32": 4, "u32": 4, "bf16": 2, "f16": 2, "i16": 2, "u16": 2}
"""Of a value by type; 1 for those that are not here."""


def read_layers(path: Path, *, precision: str, threads: int) -> tuple[Layer, ...]:
    """The nodes of the compiled network's runtime model that are run for a frame. Raises EngineError."""
    del precision
    with engine_errors("openvino"):
        return layers_of(shared_core().compile_model(path, "CPU", settings_of("CPU", threads=threads)))


def layers_of(compiled: Any) -> tuple[Layer, ...]:
    """The nodes of a compiled model that are run for each frame."""
    nodes = compiled.get_runtime_model().get_ordered_ops()
    return tuple(_layer(node) for node in nodes if _is_run(node))


def node_times_ms(path: Path, image: GreyImage, *, threads: int, rounds: int) -> dict[str, float]:
    """Undisturbed time of each node (`Latency.fast_ms`) by the plugin's own counters, by `Layer.name`.

    Nodes that took none are left out. Counting slows the whole a little, so the sum is no latency. Raises EngineError.
    """
    samples: dict[str, list[float]] = {}
    with engine_errors("openvino"):
        settings = settings_of("CPU", threads=threads) | {"PERF_COUNT": True}
        request = shared_core().compile_model(path, "CPU", settings).create_infer_request()
        for _ in range(rounds + 2):  # the first ones warm up
            request.infer([image[None, None]], share_inputs=True)
            for node in request.profiling_info:
                samples.setdefault(node.node_name, []).append(node.real_time.total_seconds() * 1e3)
    times = {name: Latency(tuple(counted[2:])).fast_ms for name, counted in samples.items()}
    return {name: time for name, time in times.items() if time > 0}


def _is_run(node: Any) -> bool:
    """False for constants, the ends of the graph, and what is computed from constants alone once, when it is compiled."""
    if _told(node, "layerType") in _NOT_RUN:
        return False
    return any(_told(node.input_value(index).get_node(), "layerType") != "Const" for index in range(_inputs(node)))


def _layer(node: Any) -> Layer:
    kind, kernel = _told(node, "layerType"), _told(node, "primitiveType")
    sizes = [_value_bytes(node.input_value(index)) for index in range(_inputs(node))]
    sizes += [_value_bytes(output) for output in node.outputs()]
    # The suffix names the kernel's arithmetic: a node with INT8 input whose kernel is f32 computes in f32.
    suffix = precision_of(kernel.rpartition("_")[2])
    return Layer(
        name=node.get_friendly_name(),
        kind=kind,
        kernel=kernel,
        shape=tuple(node.output(0).get_shape()),
        macs=_macs(node, kind),
        traffic_bytes=sum(sizes),
        precision=suffix if suffix in PRECISIONS else precision_of(_told(node, "runtimePrecision")),
        converts=kind in _CONVERTS,
    )


def _macs(node: Any, kind: str) -> int:
    """Multiply-accumulates by the shapes of output and weights, (out, in / groups, …) or (groups, out, in, …)."""
    if kind not in _MACS:
        return 0
    image, weights = (tuple(node.input_value(index).get_shape()) for index in range(2))
    return _MACS[kind](image, weights, tuple(node.output(0).get_shape()))


def _of_convolution(image: tuple[int, ...], weights: tuple[int, ...], out: tuple[int, ...]) -> int:
    return prod(out) * prod(weights[1 + len(weights) - len(out) :])


def _of_deconvolution(image: tuple[int, ...], weights: tuple[int, ...], out: tuple[int, ...]) -> int:
    return prod(image) * prod(weights[1 + len(weights) - len(out) :])


def _of_product(one: tuple[int, ...], other: tuple[int, ...], out: tuple[int, ...]) -> int:
    return prod(out) * one[-1]


_MACS: Final[dict[str, Callable[[tuple[int, ...], tuple[int, ...], tuple[int, ...]], int]]] = {
    "Convolution": _of_convolution,
    "GroupConvolution": _of_convolution,
    "Deconvolution": _of_deconvolution,
    "FullyConnected": _of_product,
    "MatMul": _of_product,
}


def _inputs(node: Any) -> int:
    return len(node.inputs())


def _told(node: Any, key: str) -> str:
    """An entry of the runtime information that the plugin leaves at a node."""
    return str(node.get_rt_info()[key].astype(str))


def _value_bytes(output: Any) -> int:
    kinds = _told(output.get_node(), "outputPrecisions").split(",")
    kind = kinds[min(output.get_index(), len(kinds) - 1)]
    shape: tuple[int, ...] = tuple(output.get_shape())
    return prod(shape) * _BYTES.get(kind, 1)
