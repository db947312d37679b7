"""Make a QDQ graph complete, so that every engine sees the same quantisers.

NNCF places quantisers where OpenVINO wants them. TFLite stores every tensor between two INT8 operators in INT8, cannot
requantise inside an interpolation, a pooling or a concatenation, and fixes the output scale of some functions; OpenVINO 2026.4
is wrong behind a concatenation of int8, and right with the same grid in uint8 (docs/qdq-to-tflite.md). The rules that follow:

- the input's quantiser is exactly the pixel, so that (p − c) / s is not rounded;
- a tensor between two INT8 operators has a quantiser, calibrated where NNCF gave none (`quantize/missing.py`);
- Sigmoid, Softmax, Tanh and HardSigmoid write the one grid that TFLite has for them;
- tensors tied by a range-preserving operator (Resize, pooling, Concat, reshapes) share one quantiser, in uint8;
- an operator that only moves quantised values has a quantiser behind it, the same one;
- constants between quantised tensors have a quantiser;
- the bias of an INT8 layer is a whole number of input scale times weight scale, as the INT32 accumulator holds it;
- a tensor that is quantised for one reader is quantised for all: an INT8 engine has only the one.

The last layer of a head has no quantiser behind it: it runs in float.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from edge.errors import ConversionError
from edge.frame import GreyImage
from quantize.missing import MOVES, Range, only_moves, parameters_of, quantise_missing, widen_pooled
from quantize.onnx_edit import GraphEditor, attributes_of, copy_of, copy_of_node
from quantize.onnx_graph import Array, WeightRange, checked

_TIED: Final = MOVES | {"Resize", "AveragePool", "Max", "Min"}
_LARGEST: Final = 2.0**30
_JOINING: Final = frozenset({"Concat", "Max", "Min"})
_WITH_CONSTANTS: Final = frozenset({"Add", "Sub", "Mul", "Max", "Min", "PRelu"})
_FIXED: Final = {"Sigmoid": (256.0, 0), "Softmax": (256.0, 0), "Tanh": (128.0, 128), "HardSigmoid": (255.0, 0)}
"""Steps to 1 and uint8 zero point of functions with one INT8 output grid."""


def complete(
    model: onnx.ModelProto, frames: Sequence[GreyImage] = (), *, weight_range: WeightRange = "full"
) -> onnx.ModelProto:
    """Return a copy of the QDQ `model` that keeps the rules above.

    frames: preprocessed (height, width) uint8 images for the scales that NNCF did not give; without them none is added.
    weight_range: of layers that NNCF left in float.
    Raises ConversionError when a rule cannot be kept.
    """
    result = copy_of(model)
    result.graph.ClearField("value_info")  # types change where quantisers do
    if frames:
        result = widen_pooled(result, frames)
        result = quantise_missing(result, frames, largest_weight=127 if weight_range == "full" else 63)
    editor = QuantiserEditor(result.graph)
    editor.pin_input()
    editor.fix_functions()
    editor.quantise_moves()
    editor.share_quantisers()
    editor.quantise_constants()
    editor.require_single_view()
    editor.round_biases()
    editor.drop_unused()
    return checked(result)


def store_as_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a foreign QDQ `model` with a Concat in it whose activations are uint8: the same grids.

    OpenVINO 2026.4 is wrong behind a Concat of int8 (benchmarks/scripts/openvino_concat.py). Integers that anything but a
    DequantizeLinear reads stay as they are, and so does a model without Concat.
    """
    result = copy_of(model)
    if not any(node.op_type == "Concat" for node in result.graph.node):
        return result
    result.graph.ClearField("value_info")
    editor = QuantiserEditor(result.graph)
    consumers = editor.consumers()
    for quantiser in editor.activation_quantisers():
        readers = consumers.get(quantiser.output[0], [])
        paired = readers and all(reader.op_type == "DequantizeLinear" for reader in readers)
        if paired and quantiser.output[0] not in editor.outputs() and editor.is_int8(quantiser):
            scale, zero_point = editor.parameters(quantiser)
            editor.set_parameters(quantiser, np.float32(scale), np.uint8(zero_point))
    editor.drop_unused()
    return result


class QuantiserEditor(GraphEditor):
    """The passes over one graph; tables are rebuilt where a pass changes the structure."""

    def pin_input(self) -> None:
        """Set the quantiser behind the normalisation (p − c) / s to the pixel grid.

        A c between two pixels is rounded, and what that shifts the image by goes into the bias of the layers that read it.
        """
        producers, consumers = self.producers(), self.consumers()
        inputs = {value.name for value in self.graph.input}
        for quantiser in self.activation_quantisers():
            node = producers.get(quantiser.input[0])
            before = producers.get(node.input[0]) if node is not None and node.op_type == "Div" else None
            cast = producers.get(before.input[0]) if before is not None and before.op_type == "Sub" else None
            if node is None or before is None or cast is None or cast.op_type != "Cast" or cast.input[0] not in inputs:
                continue
            offset, scale = self.scalar(before.input[1]), self.scalar(node.input[1])
            if offset is None or scale is None or not 0.0 <= np.rint(offset) <= 255.0 or scale <= 0:
                continue
            pixel = float(np.rint(offset))
            if pixel != offset:
                alone = len(consumers[before.output[0]]) == 1 and len(consumers[node.output[0]]) == 1
                if not alone or not self._shift_bias(quantiser, (pixel - offset) / scale):
                    continue
                before.input[1] = self.add_constant(f"{before.output[0]}_pixel", np.float32(pixel))
            self.set_parameters(quantiser, np.float32(1.0 / scale), np.int8(pixel - 128))

    def _shift_bias(self, quantiser: onnx.NodeProto, shift: float) -> bool:
        """Make up for an input that is `shift` too small; False, with nothing done, when a reader is no convolution."""
        consumers, producers = self.consumers(), self.producers()
        layers = list({layer.output[0]: layer for layer in self._readers_behind(quantiser, consumers)}.values())
        kernels = [self.dequantised(layer.input[1], producers) for layer in layers if layer.op_type == "Conv"]
        if len(kernels) < len(layers) or any(kernel is None for kernel in kernels):
            return False
        biases = [self.array(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else 0.0 for layer in layers]
        if any(bias is None for bias in biases):
            return False
        for layer, kernel, bias in zip(layers, kernels, biases, strict=True):
            sums = np.asarray(kernel, np.float64).sum(axis=(1, 2, 3))
            name = self.add_constant(f"{layer.output[0]}_pixel_bias", np.asarray(bias + shift * sums, np.float32))
            del layer.input[2:]
            layer.input.append(name)
        return True

    def _readers_behind(
        self, quantiser: onnx.NodeProto, consumers: dict[str, list[onnx.NodeProto]]
    ) -> list[onnx.NodeProto]:
        """What reads the tensor of a quantiser, also as three channels alike, or padded."""
        found = []
        for dequantiser in consumers[quantiser.output[0]]:
            for reader in consumers.get(dequantiser.output[0], []):
                alike = reader.op_type == "Concat" and set(reader.input) == {dequantiser.output[0]}
                if not alike and not (reader.op_type == "Pad" and only_moves(reader, self)):
                    found.append(reader)
                    continue
                for behind in consumers.get(reader.output[0], []):
                    is_quantiser = behind.op_type == "QuantizeLinear"
                    found += self._readers_behind(behind, consumers) if is_quantiser else [behind]
        return found

    def fix_functions(self) -> None:
        """Give functions whose INT8 output grid TFLite fixes that one."""
        producers = self.producers()
        for quantiser in self.activation_quantisers():
            node = producers.get(quantiser.input[0])
            if node is not None and node.op_type in _FIXED:
                steps, zero_point = _FIXED[node.op_type]
                self.set_parameters(quantiser, np.float32(1.0 / steps), np.uint8(zero_point))

    def quantise_moves(self) -> None:
        """Put a quantiser behind every operator that moves quantised values, is read and has none."""
        for node in [node for node in self.graph.node if only_moves(node, self)]:
            producers = self.producers()  # a pair may just have gone in front
            sources = [self.quantiser_before(name, producers) for name in data_inputs(node)]
            if sources[0] is None or None in sources:
                continue
            for tensor in node.output:
                readers = self.consumers().get(tensor, [])
                if readers and not any(reader.op_type == "QuantizeLinear" for reader in readers):
                    self.insert_pair(tensor, *(self.array(name) for name in sources[0].input[1:3]))

    def share_quantisers(self) -> None:
        """Give tensors tied by range-preserving operators one quantiser that spans them all."""
        groups = _Groups()
        derived: set[str] = set()
        producers = self.producers()
        for node in self.graph.node:
            if node.op_type not in _TIED or not _keeps_range(node):
                continue
            tied = self.quantisers_around(node)
            for quantiser in tied[1:]:
                groups.join(tied[0].name, quantiser.name)
            inside = all(self.quantiser_before(name, producers) is not None for name in data_inputs(node))
            if inside and (node.op_type != "Pad" or only_moves(node, self)):  # else it writes values of its own
                derived.update(quantiser.name for quantiser in tied if quantiser.input[0] in node.output)
        for readers in self.consumers().values():  # one tensor with several quantisers
            several = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
            for quantiser in several[1:]:
                if self.parameters(quantiser) != self.parameters(several[0]):
                    groups.join(several[0].name, quantiser.name)
        by_name = {quantiser.name: quantiser for quantiser in self.activation_quantisers()}
        for members in groups.sets():
            grids = {self.parameters(by_name[name]) for name in members if name not in derived}
            if not grids:
                continue
            union = functools.reduce(operator.or_, (_span(*grid) for grid in grids))
            scale, zero_point = grids.pop() if len(grids) == 1 else parameters_of(union)
            for name in members:
                self.set_parameters(by_name[name], np.float32(scale), np.uint8(zero_point))

    def quantise_constants(self) -> None:
        """Give a constant that meets quantised tensors in an INT8 operator one symmetric INT8 quantiser.

        A single number needs none: it is exact on a grid of its own.
        """
        producers, consumers = self.producers(), self.consumers()
        for node in list(self.graph.node):
            if node.op_type not in _WITH_CONSTANTS:
                continue
            others = [name for name in node.input if name not in self.constants]
            quantised = [self.quantiser_before(name, producers) is not None for name in others]
            if not others or not all(quantised) or not self._is_quantised(node.output[0], consumers):
                continue
            for place, name in enumerate(node.input):
                values = self.array(name)
                if values is None or values.size == 1 or values.dtype != np.float32:
                    continue
                node.input[place] = self._quantised_constant(f"{node.output[0]}_{place}", values, node)

    def require_single_view(self) -> None:
        """Readers of the unquantised side of a quantised tensor read the quantised side instead."""
        consumers, outputs = self.consumers(), self.outputs()
        for quantiser in self.activation_quantisers():
            tensor = quantiser.input[0]
            pair = [reader for reader in consumers[quantiser.output[0]] if reader.op_type == "DequantizeLinear"]
            if tensor in outputs or not pair:
                continue
            others = [reader for reader in consumers[tensor] if reader.op_type != "QuantizeLinear"]
            view = pair[0].output[0]
            if others:
                self._move_behind(tensor, [quantiser, pair[0]])
            self.redirect(tensor, view, others)

    def _move_behind(self, tensor: str, nodes: list[onnx.NodeProto]) -> None:
        """Put nodes right behind the one that writes `tensor`, so that whoever reads it may read them."""
        producer = self.producers().get(tensor)
        copies = [copy_of_node(node) for node in nodes]
        for node in nodes:
            del self.graph.node[self.place_of(node)]
        self.insert(0 if producer is None else self.place_of(producer) + 1, copies)

    def round_biases(self) -> None:
        """Put the bias of every layer that runs in INT8 on the grid of its accumulator.

        INT8 engines round it there; a referee that keeps the fraction would differ by one step in a thousand values.
        """
        producers, consumers = self.producers(), self.consumers()
        for node in self.graph.node:
            if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3:
                continue
            source, weights = self.quantiser_before(node.input[0], producers), producers.get(node.input[1])
            bias = self.array(node.input[2])
            if source is None or weights is None or bias is None or not self._is_quantised(node.output[0], consumers):
                continue
            scales = self.array(weights.input[1]) if weights.op_type == "DequantizeLinear" else None
            scale = None if scales is None else self.parameters(source)[0] * scales.astype(np.float64)
            if scale is None or scale.size not in (1, bias.size) or np.any(np.abs(bias) > scale.reshape(-1) * _LARGEST):
                continue
            rounded = np.rint(bias.reshape(-1) / scale.reshape(-1)) * scale.reshape(-1)
            name = f"{node.output[0]}_bias"
            node.input[2] = self.add_constant(name, rounded.astype(np.float32).reshape(bias.shape))

    def set_parameters(self, quantiser: onnx.NodeProto, scale: Any, zero_point: Any) -> None:
        """Give a quantiser and its dequantisers their own constants of these values."""
        readers = [node for node in self.consumers()[quantiser.output[0]] if node.op_type == "DequantizeLinear"]
        stem = quantiser.output[0]
        names = (self.add_constant(f"{stem}.scale", scale), self.add_constant(f"{stem}.zero_point", zero_point))
        for node in (quantiser, *readers):
            del node.input[1:]
            node.input.extend(names)

    def activation_quantisers(self) -> list[onnx.NodeProto]:
        """Every QuantizeLinear of a computed tensor."""
        return [
            node for node in self.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in self.constants
        ]

    def quantisers_around(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Quantisers of the data that an operator reads, and those behind it."""
        producers, consumers = self.producers(), self.consumers()
        before = [self.quantiser_before(name, producers) for name in data_inputs(node)]
        after = [reader for name in node.output for reader in consumers.get(name, [])]
        return [
            *(quantiser for quantiser in before if quantiser is not None),
            *(reader for reader in after if reader.op_type == "QuantizeLinear"),
        ]

    def quantiser_before(self, name: str, producers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
        """The quantiser that tensor `name` comes out of; None for a float tensor."""
        dequantiser = producers.get(name)
        if dequantiser is None or dequantiser.op_type != "DequantizeLinear":
            return None
        quantiser = producers.get(dequantiser.input[0])
        return quantiser if quantiser is not None and quantiser.op_type == "QuantizeLinear" else None

    def is_int8(self, quantiser: onnx.NodeProto) -> bool:
        """True for a quantiser to int8 with one scale."""
        zero_point = self.array(quantiser.input[2]) if len(quantiser.input) > 2 and quantiser.input[2] else None
        return zero_point is not None and zero_point.dtype == np.int8 and zero_point.size == 1

    def parameters(self, quantiser: onnx.NodeProto) -> tuple[float, int]:
        """Scale, and zero point in uint8. Raises ConversionError for more than one."""
        scale = np.asarray(self.array(quantiser.input[1]))
        given = self.array(quantiser.input[2]) if len(quantiser.input) > 2 and quantiser.input[2] else None
        zero_point = np.asarray(0, np.uint8) if given is None else given
        if scale.size != 1:
            raise ConversionError(f"{quantiser.name}: activations have one scale per channel; quantise them per tensor")
        return float(scale.item()), int(zero_point.item()) - int(np.iinfo(zero_point.dtype).min)

    def dequantised(self, name: str, producers: dict[str, onnx.NodeProto]) -> Array | None:
        """A constant's real values, also behind a DequantizeLinear; None for a computed tensor."""
        node = producers.get(name)
        if node is None:
            return self.array(name)
        parts = [self.array(part) for part in node.input[:3]] if node.op_type == "DequantizeLinear" else []
        if len(parts) != 3 or any(part is None for part in parts):
            return None
        integers, scale, zero_point = (np.asarray(part, np.float32) for part in parts)
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        shape = [-1 if place == axis % integers.ndim else 1 for place in range(integers.ndim)] if scale.size > 1 else ()
        return np.asarray((integers - zero_point.reshape(shape)) * scale.reshape(shape))

    def _is_quantised(self, tensor: str, consumers: dict[str, list[onnx.NodeProto]]) -> bool:
        """True when a quantiser reads the tensor, or the activation that will be fused behind it."""
        readers = consumers.get(tensor, [])
        if any(reader.op_type == "QuantizeLinear" for reader in readers):
            return True
        return (
            len(readers) == 1
            and readers[0].op_type in ("Relu", "Clip")
            and self._is_quantised(readers[0].output[0], consumers)
        )

    def _quantised_constant(self, stem: str, values: Array, node: onnx.NodeProto) -> str:
        scale = np.float32(max(float(np.abs(values).max()), 1e-12) / 127.0)
        integers = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        names = [
            self.add_constant(f"{stem}_integers", integers),
            self.add_constant(f"{stem}_scale", scale),
            self.add_constant(f"{stem}_zero", np.int8(0)),
        ]
        output = f"{stem}_dequantised"
        made = helper.make_node("DequantizeLinear", names, [output], name=f"{stem}_dequantise")
        self.insert(self.place_of(node), [made])
        return output


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


def data_inputs(node: onnx.NodeProto) -> list[str]:
    """The inputs of an operator that carry values, without shapes and sizes."""
    return [name for name in node.input if name] if node.op_type in _JOINING else [node.input[0]]


def _keeps_range(node: onnx.NodeProto) -> bool:
    """False for an interpolation that overshoots."""
    return node.op_type != "Resize" or attributes_of(node).get("mode", "nearest") != "cubic"


def _span(scale: float, zero_point: int) -> Range:
    return Range(scale * (0 - zero_point), scale * (255 - zero_point))
