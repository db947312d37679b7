"""Networks whose speed is an engine's best on this machine: short chains of one convolution, in several shapes.

The weights are random and no answer is of use. They are built with the engines' own tools, so a device needs no file of ours.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.layers import INT8
from edge.engines import engine_errors
from edge.engines.openvino import import_openvino, settings_of, shared_core
from edge.errors import require


@dataclass(frozen=True, slots=True)
class PeakShape:
    """`layers` convolutions in a row, each from `channels` to `channels` on side × side pixels, padded to keep the size."""

    channels: int
    side: int
    kernel: int
    layers: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the chain."""
        return self.layers * self.channels**2 * self.side**2 * self.kernel**2

    @property
    def text(self) -> str:
        return f"{self.kernel}×{self.kernel}, {self.channels} channels, {self.side}×{self.side}"


SHAPES: Final = (
    PeakShape(channels=128, side=56, kernel=1, layers=4),
    PeakShape(channels=256, side=28, kernel=1, layers=4),
    PeakShape(channels=512, side=14, kernel=1, layers=4),
    PeakShape(channels=1024, side=7, kernel=1, layers=4),
    PeakShape(channels=128, side=28, kernel=3, layers=2),
)
"""From much image and few weights to the reverse; 0.2 GMAC each."""
_BUILDERS: Final = {"openvino": "benchmarks.peaks:_open_openvino", "litert": "benchmarks.peaks:_open_litert"}
ENGINES: Final = frozenset(_BUILDERS)
"""Engines that a chain can be built for."""


def open_peak(engine: str, shape: PeakShape, *, precision: str, threads: int) -> Callable[[], object]:
    """A call that runs the chain once on the CPU. precision: one of `PRECISIONS` that the engine has.

    Raises EngineError, MissingDependencyError.
    """
    module, _, function = _BUILDERS[engine].partition(":")
    build: Callable[..., Callable[[], object]] = getattr(importlib.import_module(module), function)
    with engine_errors(engine):
        return build(shape, precision=precision, threads=threads)


def openvino_chain(shape: PeakShape, *, precision: str) -> Any:
    """The chain as an OpenVINO model with one float32 input; INT8 by FakeQuantize before each layer, as NNCF writes it."""
    openvino = import_openvino()
    ops = importlib.import_module("openvino.opset13")
    size = [1, shape.channels, shape.side, shape.side]
    image = node = ops.parameter(size, np.float32)
    pad = [shape.kernel // 2] * 2
    for index in range(shape.layers):
        if precision == INT8:
            node = ops.fake_quantize(node, *(np.float32(edge) for edge in (0.0, 6.0, 0.0, 6.0)), 256)
            weights = ops.convert(ops.constant(_weights(shape, index)), np.float32)
            weights = ops.multiply(weights, np.full((shape.channels, 1, 1, 1), _scale(shape), np.float32))
        else:
            weights = ops.constant(_weights(shape, index).astype(np.float32) * _scale(shape))
        node = ops.convolution(node, weights, [1, 1], pad, pad, [1, 1])
        node = ops.clamp(node, 0.0, 6.0)
    # The mean keeps the last output from leaving the network as a large float tensor.
    result = ops.reduce_mean(node, np.array([2, 3]), keep_dims=False)
    return openvino.Model([result], [image], "peak")


def _open_openvino(shape: PeakShape, *, precision: str, threads: int) -> Callable[[], object]:
    settings = settings_of("CPU", threads=threads)
    if precision != INT8:
        settings["INFERENCE_PRECISION_HINT"] = precision
    core = shared_core()
    request = core.compile_model(openvino_chain(shape, precision=precision), "CPU", settings).create_infer_request()
    request.get_input_tensor().data[:] = np.random.default_rng(0).uniform(0, 6, request.get_input_tensor().shape)

    def run() -> None:
        request.infer()

    return run


def litert_chain(shape: PeakShape, *, precision: str) -> bytes:
    """The chain as a .tflite file: CONV_2D in INT8 with a weight scale a channel, or in float32."""
    schema = require("ai_edge_litert.schema_py_generated", extra="litert")
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3
    model.operatorCodes = [code]
    graph.tensors, graph.operators = [], []
    int8 = precision == INT8

    def tensor(size: tuple[int, ...], kind: int, scale: NDArray[np.float32], data: NDArray[Any] | None = None) -> int:
        record = schema.TensorT()
        record.name, record.shape, record.type, record.buffer = f"tensor_{len(graph.tensors)}", list(size), kind, 0
        if int8:
            record.quantization = schema.QuantizationParametersT()
            record.quantization.scale, record.quantization.zeroPoint = scale, np.zeros(scale.size, np.int64)
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            model.buffers.append(buffer)
            record.buffer = len(model.buffers) - 1
        graph.tensors.append(record)
        return len(graph.tensors) - 1

    value = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    sums = schema.TensorType.INT32 if int8 else schema.TensorType.FLOAT32
    step, scales = np.array([6 / 255], np.float32), np.full(shape.channels, _scale(shape), np.float32)
    size = (1, shape.side, shape.side, shape.channels)
    images = [tensor(size, value, step)]
    for index in range(shape.layers):
        kernel = _weights(shape, index).transpose(0, 2, 3, 1)
        bias = np.zeros(shape.channels, np.int32 if int8 else np.float32)
        weights = tensor(kernel.shape, value, scales, kernel if int8 else kernel.astype(np.float32) * scales[0])
        operator, options = schema.OperatorT(), schema.Conv2DOptionsT()
        options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU6
        operator.inputs = [images[-1], weights, tensor(bias.shape, sums, step * scales, bias)]
        images.append(tensor(size, value, step))
        operator.outputs, operator.opcodeIndex = [images[-1]], 0
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [images[0]], [images[-1]]
    builder = importlib.import_module("flatbuffers").Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _open_litert(shape: PeakShape, *, precision: str, threads: int) -> Callable[[], object]:
    interpreters: Any = require("ai_edge_litert.interpreter", extra="litert")
    made = interpreters.Interpreter(model_content=litert_chain(shape, precision=precision), num_threads=threads)
    made.allocate_tensors()
    (given,) = made.get_input_details()
    made.set_tensor(given["index"], np.random.default_rng(0).integers(0, 6, given["shape"]).astype(given["dtype"]))
    run: Callable[[], object] = made.invoke
    return run


def _weights(shape: PeakShape, seed: int) -> NDArray[np.int8]:
    """(out, in, height, width)."""
    size = (shape.channels, shape.channels, shape.kernel, shape.kernel)
    return np.random.default_rng(seed).integers(-127, 128, size).astype(np.int8)


def _scale(shape: PeakShape) -> np.float32:
    """A weight step that keeps the values of the chain about where they are."""
    return np.float32(1 / (73 * np.sqrt(shape.channels * shape.kernel**2)))
