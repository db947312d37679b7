"""Small edits of an ONNX graph in place: what the passes over a network share."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from quantize.onnx_graph import Array


class GraphEditor:
    """A graph with tables of who writes and who reads each tensor; they are made anew where a pass changed the structure."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self._made: set[str] = set()

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that writes each tensor."""
        return {name: node for node in self.graph.node for name in node.output if name}

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, themselves or in a branch."""
        table: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in filter(None, _read_by(node)):
                table.setdefault(name, []).append(node)
        return table

    def outputs(self) -> set[str]:
        """Names of the graph's outputs."""
        return {value.name for value in self.graph.output}

    def array(self, name: str) -> Array | None:
        """A constant's values; None for a computed tensor."""
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def scalar(self, name: str) -> float | None:
        """The value of a one-element constant; None for anything else."""
        array = self.array(name)
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None

    def add_constant(self, name: str, values: Any) -> str:
        """Add a constant, or give the one that was added under that name new values; return the name, or one like it.

        The network's own constants stay as they are: others may read them.
        """
        given = np.asarray(values)
        if name in self._made & self.constants.keys():
            self.constants[name].CopyFrom(numpy_helper.from_array(given, name))
            return name
        old = self.array(name)
        if old is not None and old.dtype == given.dtype and np.array_equal(old, given):
            return name
        name = self.unused(name)
        self.graph.initializer.append(numpy_helper.from_array(given, name))
        self.constants[name] = self.graph.initializer[-1]
        self._made.add(name)
        return name

    def unused(self, name: str) -> str:
        """`name`, or one like it that no tensor has."""
        taken = {value.name for value in self.graph.input} | self.constants.keys() | self.producers().keys()
        while name in taken:
            name += "_"
        return name

    def insert(self, place: int, nodes: Sequence[onnx.NodeProto]) -> None:
        """Insert nodes in front of the node at `place`."""
        for offset, node in enumerate(nodes):
            self.graph.node.insert(place + offset, node)

    def place_of(self, node: onnx.NodeProto) -> int:
        """Position of a node, told by its first output."""
        return next(i for i, other in enumerate(self.graph.node) if other.output and other.output[0] == node.output[0])

    def replace(self, node: onnx.NodeProto, *others: onnx.NodeProto) -> None:
        """Put other nodes in the place of one; the last of them writes its outputs."""
        place = self.place_of(node)
        del self.graph.node[place]
        self.insert(place, others)

    def redirect(self, old: str, new: str, readers: Sequence[onnx.NodeProto]) -> None:
        """Let `readers` read `new` where they read `old`."""
        for reader in readers:
            for node in (reader, *_inner_nodes(reader)):
                for index, name in enumerate(node.input):
                    if name == old:
                        node.input[index] = new

    def insert_pair(self, tensor: str, scale: Any, zero_point: Any) -> None:
        """Put a quantiser pair between a computed tensor and all its readers."""
        producer, readers = self.producers()[tensor], self.consumers().get(tensor, [])
        parameters = [
            self.add_constant(f"{tensor}_scale", scale),
            self.add_constant(f"{tensor}_zero_point", zero_point),
        ]
        quantised, dequantised = (self.unused(f"{tensor}_{state}") for state in ("quantised", "dequantised"))
        self.redirect(tensor, dequantised, readers)
        q = helper.make_node("QuantizeLinear", [tensor, *parameters], [quantised], name=f"{tensor}_quantise")
        dq = helper.make_node("DequantizeLinear", [quantised, *parameters], [dequantised], name=f"{tensor}_dequantise")
        self.insert(self.place_of(producer) + 1, [q, dq])

    def drop_unused(self) -> None:
        """Remove nodes that nothing reads, then constants that nothing reads."""
        while True:
            read = {name for node in self.graph.node for name in _read_by(node)} | self.outputs()
            kept = [node for node in self.graph.node if any(name in read for name in node.output)]
            if len(kept) == len(self.graph.node):
                break
            del self.graph.node[:]
            self.graph.node.extend(kept)
        tensors = [tensor for tensor in self.graph.initializer if tensor.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(tensors)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """What the branches of an If or the body of a Loop hold."""
    for attribute in node.attribute:
        for graph in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
            for inner in graph.node:
                yield inner
                yield from _inner_nodes(inner)


def _read_by(node: onnx.NodeProto) -> list[str]:
    """Names that a node reads, those of its branches with them."""
    return [name for each in (node, *_inner_nodes(node)) for name in each.input]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def copy_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A deep copy."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    return copied


def copy_of_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node of its own, which survives the removal of the one in the graph."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
