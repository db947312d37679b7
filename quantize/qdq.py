"""Make a QDQ graph complete, so that every engine sees the same quantisers.

NNCF places quantisers where OpenVINO wants them. TFLite cannot requantise inside an interpolation, a pooling or a
concatenation, and OpenVINO 2026.4 was seen to be wrong by up to 0.9 of the output range behind a concatenation of int8 with
a zero point other than 0, and right with the same grid in uint8. Three rules follow:

- the input's quantiser is exactly the pixel: scale 1/128, so that (p − 128) / 128 is not rounded;
- tensors tied by a range-preserving operator (Resize, pooling, Concat, reshapes) share one quantiser, in uint8;
- a Concat of quantised tensors has a quantiser behind it, as has every operator that only moves quantised values.

A tensor that is quantised for one reader is quantised for all (`require_single_view`): an INT8 engine has only the one.
"""

import functools
import operator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge.errors import ConversionError

INPUT_SCALE: Final = 1.0 / 128.0
_MOVES: Final = frozenset({"Concat", "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_CONTAINED: Final = _MOVES | {"Resize", "AveragePool"}  # no value beyond those of the inputs


@dataclass(frozen=True, slots=True)
class Range:
    """The real interval that an 8-bit quantiser spans."""

    low: float
    high: float

    def __or__(self, other: "Range") -> "Range":
        return Range(min(self.low, other.low), max(self.high, other.high))


def complete(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the QDQ `model` that keeps the rules above. Raises ConversionError when one cannot be kept."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    result.graph.ClearField("value_info")  # types change where quantisers do
    editor = _Editor(result.graph)
    editor.pin_input()
    editor.quantise_moves()
    editor.share_quantisers()
    editor.require_single_view()
    editor.drop_unused_constants()
    onnx.checker.check_model(result, full_check=True)
    return result


class _Editor:
    """The passes over one graph; tables are rebuilt where a pass changes the structure."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.constants = {tensor.name: tensor for tensor in graph.initializer}

    def pin_input(self) -> None:
        """Set the quantiser behind the normalisation (p − 128) / 128 to the pixel grid."""
        producers = self._producers()
        for quantiser in self._activation_quantisers():
            node = producers.get(quantiser.input[0])
            if node is None or node.op_type != "Div":
                continue
            before = producers.get(node.input[0])
            if before is None or before.op_type != "Sub" or self._scalar(node.input[1]) != 128.0:
                continue
            if self._scalar(before.input[1]) == 128.0:
                self._set(quantiser, np.float32(INPUT_SCALE), np.int8(0))

    def quantise_moves(self) -> None:
        """Put a quantiser behind every operator that moves quantised values, is read and has none."""
        for node in [node for node in self.graph.node if node.op_type in _MOVES]:
            producers, consumers = self._producers(), self._consumers()  # a pair may just have gone in front
            sources = [self._quantiser_before(name, producers) for name in self._data_inputs(node)]
            readers = consumers.get(node.output[0], [])
            if sources[0] is None or None in sources or not readers:
                continue
            if not any(reader.op_type == "QuantizeLinear" for reader in readers):
                self._insert_pair(node, like=sources[0], readers=readers)

    def share_quantisers(self) -> None:
        """Give tensors tied by range-preserving operators one quantiser that spans them all."""
        producers, consumers = self._producers(), self._consumers()
        groups = _Groups()
        derived: set[str] = set()
        for node in self.graph.node:
            if node.op_type not in _CONTAINED:
                continue
            sources = [self._quantiser_before(name, producers) for name in self._data_inputs(node)]
            after = [reader for reader in consumers.get(node.output[0], []) if reader.op_type == "QuantizeLinear"]
            tied = [quantiser for quantiser in (*sources, *after) if quantiser is not None]
            for quantiser in tied[1:]:
                groups.join(tied[0].name, quantiser.name)
            derived.update(quantiser.name for quantiser in after)
        by_name = {quantiser.name: quantiser for quantiser in self._activation_quantisers()}
        for members in groups.sets():
            grids = {self._parameters(by_name[name]) for name in members if name not in derived}
            if not grids:
                continue
            union = functools.reduce(operator.or_, (_span(*grid) for grid in grids))
            scale, zero_point = grids.pop() if len(grids) == 1 else _parameters_of(union)
            for name in members:
                self._set(by_name[name], np.float32(scale), np.uint8(zero_point))

    def require_single_view(self) -> None:
        """Readers of the unquantised side of a quantised tensor read the quantised side instead."""
        consumers = self._consumers()
        outputs = {value.name for value in self.graph.output}
        for quantiser in self._activation_quantisers():
            tensor = quantiser.input[0]
            readers = consumers[tensor]
            if tensor in outputs:
                raise ConversionError(f"output {tensor!r} is quantised for another reader; heads must end in float")
            pair = [reader for reader in consumers[quantiser.output[0]] if reader.op_type == "DequantizeLinear"]
            for reader in readers:
                if reader.op_type == "QuantizeLinear" or not pair:
                    continue
                for index, name in enumerate(reader.input):
                    if name == tensor:
                        reader.input[index] = pair[0].output[0]

    def drop_unused_constants(self) -> None:
        """Remove scales and zero points that shared quantisers replaced."""
        used = {name for node in self.graph.node for name in node.input}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}

    def _insert_pair(self, node: onnx.NodeProto, *, like: onnx.NodeProto, readers: list[onnx.NodeProto]) -> None:
        tensor = node.output[0]
        scale, zero_point = f"{tensor}_scale", f"{tensor}_zero_point"
        for name, source in ((scale, like.input[1]), (zero_point, like.input[2])):
            self._add_constant(numpy_helper.from_array(numpy_helper.to_array(self.constants[source]), name))
        quantised, dequantised = f"{tensor}_quantised", f"{tensor}_dequantised"
        for reader in readers:
            for index, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[index] = dequantised
        place = list(self.graph.node).index(node) + 1
        parameters = [scale, zero_point]
        q = helper.make_node("QuantizeLinear", [tensor, *parameters], [quantised], name=f"{tensor}_quantise")
        dq = helper.make_node("DequantizeLinear", [quantised, *parameters], [dequantised], name=f"{tensor}_dequantise")
        self.graph.node.insert(place, q)
        self.graph.node.insert(place + 1, dq)

    def _set(self, quantiser: onnx.NodeProto, scale: Any, zero_point: Any) -> None:
        """Give a quantiser and its dequantisers their own constants of these values."""
        readers = [node for node in self._consumers()[quantiser.output[0]] if node.op_type == "DequantizeLinear"]
        stem = quantiser.output[0]
        names = (f"{stem}.scale", f"{stem}.zero_point")
        for name, value in zip(names, (scale, zero_point), strict=True):
            self._add_constant(numpy_helper.from_array(np.asarray(value), name))
        for node in (quantiser, *readers):
            node.input[1], node.input[2] = names

    def _add_constant(self, tensor: onnx.TensorProto) -> None:
        if tensor.name in self.constants:
            self.constants[tensor.name].CopyFrom(tensor)
            return
        self.graph.initializer.append(tensor)
        self.constants[tensor.name] = self.graph.initializer[-1]

    def _activation_quantisers(self) -> list[onnx.NodeProto]:
        return [node for node in self.graph.node if node.op_type == "QuantizeLinear"]

    def _quantiser_before(self, name: str, producers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
        dequantiser = producers.get(name)
        if dequantiser is None or dequantiser.op_type != "DequantizeLinear":
            return None
        return producers.get(dequantiser.input[0])

    def _data_inputs(self, node: onnx.NodeProto) -> list[str]:
        return list(node.input) if node.op_type == "Concat" else [node.input[0]]

    def _parameters(self, quantiser: onnx.NodeProto) -> tuple[float, int]:
        """Scale, and zero point in uint8."""
        scale, zero_point = (np.asarray(numpy_helper.to_array(self.constants[name])) for name in quantiser.input[1:3])
        if scale.size != 1:
            raise ConversionError(f"{quantiser.name}: activations have one scale per channel; quantise them per tensor")
        return float(scale.item()), int(zero_point.item()) - int(np.iinfo(zero_point.dtype).min)

    def _scalar(self, name: str) -> float | None:
        tensor = self.constants.get(name)
        if tensor is None:
            return None
        array = numpy_helper.to_array(tensor)
        return float(array.reshape(-1)[0]) if array.size == 1 else None

    def _producers(self) -> dict[str, onnx.NodeProto]:
        return {name: node for node in self.graph.node for name in node.output}

    def _consumers(self) -> dict[str, list[onnx.NodeProto]]:
        table: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                table.setdefault(name, []).append(node)
        return table


class _Groups:
    """Disjoint sets of names."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, one: str, other: str) -> None:
        self._parent[self._root(other)] = self._root(one)

    def sets(self) -> list[list[str]]:
        table: dict[str, list[str]] = {}
        for name in self._parent:
            table.setdefault(self._root(name), []).append(name)
        return list(table.values())

    def _root(self, name: str) -> str:
        self._parent.setdefault(name, name)
        while self._parent[name] != name:
            name = self._parent[name]
        return name


def _span(scale: float, zero_point: int) -> Range:
    return Range(scale * (0 - zero_point), scale * (255 - zero_point))


def _parameters_of(span: Range) -> tuple[float, int]:
    """Scale and uint8 zero point of an interval that holds 0, with 0 exactly on the grid."""
    low, high = min(span.low, 0.0), max(span.high, 0.0)
    scale = (high - low) / 255.0
    return scale, int(np.clip(round(-low / scale), 0, 255))
