"""The heads of a network: the last layers, and the sums of them that are an output."""

from typing import Final

import onnx

LAYERS: Final = ("Gemm", "MatMul", "Conv")


def last_layers(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The layers that give `output`: its producer, or what an Add of layers adds; empty where something else does."""
    producers = {name: node for node in graph.node for name in node.output}
    return _layers(output, producers) or []


def head_sums(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The Add nodes between last layers and an output. Like those layers they stay in float."""
    producers = {name: node for node in graph.node for name in node.output}
    found: list[onnx.NodeProto] = []
    for output in graph.output:
        waiting = [output.name] if _layers(output.name, producers) else []
        while waiting:
            node = producers[waiting.pop()]
            if node.op_type == "Add":
                found.append(node)
                waiting.extend(node.input)
    return found


def _layers(tensor: str, producers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    """None where something else than layers and sums of them is in the way."""
    node = producers.get(tensor)
    if node is None:
        return None
    if node.op_type in LAYERS:
        return [node]
    if node.op_type != "Add":
        return None
    parts = [_layers(name, producers) for name in node.input]
    return None if any(part is None for part in parts) else [layer for part in parts for layer in part or ()]
