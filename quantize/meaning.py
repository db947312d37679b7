"""Which output is the mask, which one the class, and how they become probabilities: said by the user, else guessed.

Guessed is only what a wrong guess cannot turn into a wrong diagnosis unseen: the one image among the outputs, the one vector,
the activation by the number of channels. Which label is which is never guessed.
"""

import math
from typing import Final

import onnx

from edge.errors import ConversionError
from edge.manifest import Activation, Kind, OperatingPoint, OutputSpec
from quantize.description import Description

DEFAULT_THRESHOLD: Final = 0.5
MALIGNANT: Final = "malignant"
_PROBABILITIES: Final = frozenset({"Sigmoid", "Softmax", "HardSigmoid"})
_PASSED: Final = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Resize", "Cast"})


def describe_outputs(
    model: onnx.ModelProto, description: Description, guesses: list[str]
) -> tuple[tuple[OutputSpec, ...], tuple[str, ...], OperatingPoint | None]:
    """Outputs, labels and operating point of a network with static NCHW outputs. Raises ConversionError.

    guesses: what was assumed is appended to it, one line each.
    """
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in model.graph.output
    }
    if unknown := [name for name, shape in shapes.items() if not all(shape)]:
        foreign = sorted({node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")})
        raise ConversionError(
            f"the shape of output {', '.join(map(repr, unknown))} is not known before the network runs: it depends on data"
            + (f", or on {', '.join(foreign)}, which ONNX does not define" if foreign else "")
            + "; export the network without what it comes from"
        )
    for name in filter(None, (description.mask_output, description.class_output)):
        if name not in shapes:
            raise ConversionError(f"there is no output {name!r}; the network has {', '.join(shapes)}")
    floats = {value.name for value in model.graph.output if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    named = (description.mask_output, description.class_output)
    for name in filter(None, named):
        if name not in floats:
            raise ConversionError(
                f"output {name!r} is not float32: indices or decisions already; let the network end in logits or probabilities"
            )
    unnamed = {name: shape for name, shape in shapes.items() if name in floats - set(named)}
    images = [name for name, shape in unnamed.items() if len(shape) == 4 and shape[0] == 1 and min(shape[2:]) > 1]
    vectors = [name for name, shape in unnamed.items() if len(shape) == 2 and shape[0] == 1]
    mask = description.mask_output or _only(images, "mask", guesses)
    classes = description.class_output or _only(vectors, "class", guesses)
    outputs = []
    for name, shape in shapes.items():
        kind: Kind = "mask" if name == mask else "class" if name == classes else "other"
        given = {"mask": description.mask_activation, "class": description.class_activation}.get(kind)
        activation: Activation = given or "none"
        if kind != "other" and given is None:
            activation = _activation(model, name, shape)
            guesses.append(f"{kind} output {name!r} becomes a probability by: {activation}")
        if kind == "mask" and len(shape) == 4 and shape[1] > 1:
            guesses.append(f"channel 0 of mask output {name!r} is the background")
        try:
            outputs.append(OutputSpec(name, kind, activation, shape))
        except ValueError as error:
            raise ConversionError(str(error)) from error
    if classes is None:
        if description.labels or description.threshold is not None:
            raise ConversionError("labels and a threshold need a class output; give --class-output")
        return tuple(outputs), (), None
    labels, point = _labels(shapes[classes], description, guesses)
    return tuple(outputs), labels, point


def _only(candidates: list[str], what: str, guesses: list[str]) -> str | None:
    if len(candidates) > 1:
        guesses.append(f"no {what} output: {', '.join(candidates)} could be it; give --{what}-output to use one")
    if len(candidates) != 1:
        return None
    guesses.append(f"output {candidates[0]!r} is the {what} output")
    return candidates[0]


def _activation(model: onnx.ModelProto, name: str, shape: tuple[int, ...]) -> Activation:
    """None behind a sigmoid or softmax of the network's own; else by the number of channels."""
    producers = {output: node for node in model.graph.node for output in node.output}
    node = producers.get(name)
    while node is not None and (node.op_type in _PASSED or node.op_type in ("QuantizeLinear", "DequantizeLinear")):
        node = producers.get(node.input[0])
    if node is not None and node.op_type in _PROBABILITIES:
        return "none"
    return "sigmoid" if shape[1] == 1 else "softmax"


def _labels(
    shape: tuple[int, ...], description: Description, guesses: list[str]
) -> tuple[tuple[str, ...], OperatingPoint]:
    count = max(math.prod(shape), 2)
    labels = description.labels
    if labels and (len(labels) != count or len(set(labels)) != count):
        raise ConversionError(
            f"the class output of shape {shape} needs {count} different labels, not {', '.join(labels)}"
        )
    if not labels:
        labels = tuple(f"class {index}" for index in range(count))
        guesses.append(f"classes are called {', '.join(labels)}; give --labels, in the network's order")
    positive = description.positive
    if positive is not None and positive not in labels:
        raise ConversionError(f"positive {positive!r} is none of the labels {', '.join(labels)}")
    if positive is None:
        positive = MALIGNANT if MALIGNANT in labels else labels[-1]
        guesses.append(f"{positive!r} is the label that the threshold is for")
    if description.threshold is None:
        guesses.append(f"the threshold is {DEFAULT_THRESHOLD}, chosen on no data")
    chosen_on = "no data: the default" if description.threshold is None else "given at export"
    return labels, OperatingPoint(description.threshold or DEFAULT_THRESHOLD, positive, chosen_on)
