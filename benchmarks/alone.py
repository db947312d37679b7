"""Each operator of a .tflite file timed alone: LiteRT has no profiler in Python, so every one gets a network of its own.

Alone an operator reads its input from the caches that another one left it in, and pays for a call of the interpreter (some
microseconds); what the delegate fuses over several operators it cannot fuse here. So the sum is above the network's time.
"""

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency import measure
from edge.engines import engine_errors
from edge.errors import require


def times_alone_ms(path: Path, *, threads: int, rounds: int) -> dict[str, float]:
    """Undisturbed time (`Latency.fast_ms`) of each operator, milliseconds, by the name of its first output; all take turns.

    Raises EngineError, MissingDependencyError.
    """
    schema: Any = require("ai_edge_litert.schema_py_generated", extra="litert")
    interpreters: Any = require("ai_edge_litert.interpreter", extra="litert")
    with engine_errors("litert"):
        model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
        graph = model.subgraphs[0]
        steps: dict[str, Callable[[], object]] = {}
        for operator in graph.operators:
            made = interpreters.Interpreter(model_content=single_operator(model, operator), num_threads=threads)
            made.allocate_tensors()
            for given in made.get_input_details():
                made.set_tensor(given["index"], np.ones(given["shape"], given["dtype"]))
            steps[_name(graph.tensors[operator.outputs[0]])] = made.invoke
        return {name: latency.fast_ms for name, latency in measure(steps, rounds=rounds, warmup=2).items()}


def single_operator(model: Any, operator: Any) -> bytes:
    """A .tflite file with one operator of a model and the tensors it touches. model: `ModelT` of the schema classes."""
    schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
    source, alone, graph = model.subgraphs[0], schema.ModelT(), schema.SubGraphT()
    alone.version, alone.buffers, alone.subgraphs = model.version, [schema.BufferT()], [graph]
    alone.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    touched = [int(index) for index in (*operator.inputs, *operator.outputs) if index >= 0]
    places = {index: place for place, index in enumerate(dict.fromkeys(touched))}
    graph.tensors = []
    for index in places:
        tensor = copy.copy(source.tensors[index])
        data = model.buffers[tensor.buffer]
        tensor.buffer = 0
        if data.data is not None and len(data.data):
            alone.buffers.append(data)
            tensor.buffer = len(alone.buffers) - 1
        graph.tensors.append(tensor)
    only = copy.copy(operator)
    only.opcodeIndex = 0
    only.inputs, only.outputs = (
        [places[int(index)] if index >= 0 else -1 for index in side] for side in (operator.inputs, operator.outputs)
    )
    graph.operators, graph.outputs = [only], only.outputs
    graph.inputs = [place for place in dict.fromkeys(only.inputs) if place >= 0 and not graph.tensors[place].buffer]
    builder = importlib.import_module("flatbuffers").Builder(1 << 16)
    builder.Finish(alone.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _name(tensor: Any) -> str:
    name = tensor.name
    return name.decode() if isinstance(name, bytes) else str(name)
