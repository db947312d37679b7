"""Random single operators and short chains, FP32 and QDQ: TFLite gives what ONNX Runtime gives, or the graph is refused.

A wrong answer fails, and so does a refusal of what TFLite certainly expresses.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from onnx import helper
from qdq_graphs import activations, with_quantisers
from test_quantize_support import Array, Constants, build, copy_of, run_referee, run_tflite

from edge.errors import ConversionError
from quantize.tflite.lower import to_tflite

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(eq=False)
class Sample:
    """A model and what to feed it.

    weights: constants that a quantiser stores as INT8, with the axis of their channels. certain: TFLite expresses it, so
    that a refusal is a failure. rng: what else is random about its QDQ version.
    """

    model: onnx.ModelProto
    feeds: dict[str, Array]
    weights: dict[str, int | None] = field(default_factory=dict)
    certain: bool = False
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def __repr__(self) -> str:
        """Operators, attributes and shapes, for the falsifying example."""
        lines = []
        for node in self.model.graph.node:
            attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
            lines.append(f"{node.op_type}({', '.join(node.input)}) {attributes}")
        constants = {
            tensor.name: onnx.numpy_helper.to_array(tensor).tolist() if np.prod(tensor.dims) <= 8 else list(tensor.dims)
            for tensor in self.model.graph.initializer
        }
        shapes = {name: array.shape for name, array in self.feeds.items()}
        return f"<{'; '.join(lines)} | {shapes} | {constants} | certain={self.certain}>"

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """Hypothesis prints dataclasses field by field otherwise."""
        printer.text(repr(self))


def random_values(rng: np.random.Generator, *shape: int) -> Array:
    return rng.uniform(-2.0, 4.0, shape).astype(np.float32)


def random_weights(rng: np.random.Generator, *shape: int) -> Array:
    return rng.normal(0.0, 1.0 / math.sqrt(math.prod(shape[1:])), shape).astype(np.float32)


def generator(draw: Draw) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def sample(
    nodes: list[onnx.NodeProto],
    feeds: dict[str, Array],
    constants: Constants | None = None,
    *,
    rng: np.random.Generator,
    outputs: tuple[str, ...] = ("y",),
    weights: dict[str, int | None] | None = None,
    certain: bool = False,
) -> Sample:
    shapes = {name: array.shape for name, array in feeds.items()}
    try:
        model = build(nodes, shapes, outputs, constants)
        found = activations(model, feeds)
    except Exception:  # onnx and ONNX Runtime raise types of their own: there is nothing to compare with
        reject()
    assume(all(array.size for array in found.values()))
    return Sample(model, feeds, weights or {}, certain, rng)


def one(op: str, x: Array, constants: Constants | None = None, *, rng: np.random.Generator, **rest: Any) -> Sample:
    """x → op(x, *constants) → y. `rest`: of `sample`, and the node's attributes."""
    known = {name: rest.pop(name) for name in ("weights", "certain", "outputs") if name in rest}
    outputs = known.get("outputs", ("y",))
    node = helper.make_node(op, ["x", *(constants or {})], list(outputs), name="it", **rest)
    return sample([node], {"x": x}, constants, rng=rng, **known)


def pair(draw: Draw, low: int, high: int) -> list[int]:
    return [draw(st.integers(low, high)) for _ in range(2)]


def shape_of(draw: Draw, low: int = 1, high: int = 5, *, ranks: tuple[int, int] = (1, 5)) -> tuple[int, ...]:
    rank = draw(st.integers(*ranks))
    return tuple(draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank)))


# The operators.


@st.composite
def conv(draw: Draw) -> Sample:
    rng = generator(draw)
    kind = draw(st.sampled_from(["plain", "depthwise", "grouped"]))
    kernel, strides, dilations = pair(draw, 1, 5), pair(draw, 1, 3), pair(draw, 1, 3)
    pads = [draw(st.integers(0, 3)) for _ in range(4)] if draw(st.booleans()) else [0, 0, 0, 0]
    automatic = draw(st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    size = pair(draw, 1, 12)
    reach = [(kernel[axis] - 1) * dilations[axis] + 1 for axis in range(2)]
    padded = [size[axis] + (pads[axis] + pads[axis + 2]) * (automatic == "NOTSET") for axis in range(2)]
    assume(all(reach[axis] <= padded[axis] for axis in range(2)))
    groups = {"plain": 1, "depthwise": draw(st.integers(2, 5)), "grouped": draw(st.integers(2, 3))}[kind]
    inputs = 1 if kind == "depthwise" else draw(st.integers(1 + (kind == "grouped"), 4))
    outputs = draw(st.integers(1, 3))
    constants: Constants = {"w": random_weights(rng, groups * outputs, inputs, *kernel)}
    if draw(st.booleans()):
        constants["b"] = random_values(rng, groups * outputs)
    explicit = {"pads": pads} if automatic == "NOTSET" else {"auto_pad": automatic}
    batch = draw(st.sampled_from([1, 1, 2]))
    return one(
        "Conv",
        random_values(rng, batch, groups * inputs, *size),
        constants,
        rng=rng,
        weights={"w": 0},
        certain=kind != "grouped" and automatic == "NOTSET",
        strides=strides,
        dilations=dilations,
        group=groups,
        **explicit,
    )


@st.composite
def conv_transpose(draw: Draw) -> Sample:
    rng = generator(draw)
    kernel, strides, size = pair(draw, 1, 4), pair(draw, 1, 3), pair(draw, 1, 6)
    attributes: dict[str, Any] = {"strides": strides}
    for name, value in {
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
        "output_padding": [draw(st.integers(0, stride - 1)) for stride in strides],
        "dilations": pair(draw, 1, 2),
        "group": draw(st.integers(1, 2)),
        "auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])),
        "output_shape": [size[axis] * strides[axis] + draw(st.integers(0, 1)) for axis in range(2)],
    }.items():
        if draw(st.integers(0, 3)) == 0:
            attributes[name] = value
    groups, inputs, outputs = attributes.get("group", 1), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    constants: Constants = {"w": random_weights(rng, groups * inputs, outputs, *kernel)}
    if draw(st.booleans()):
        constants["b"] = random_values(rng, groups * outputs)
    x = random_values(rng, draw(st.sampled_from([1, 1, 2])), groups * inputs, *size)
    certain = attributes.keys() <= {"strides"}
    return one("ConvTranspose", x, constants, rng=rng, weights={"w": 1}, certain=certain, **attributes)


@st.composite
def pool(draw: Draw) -> Sample:
    rng = generator(draw)
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    kernel, size = pair(draw, 1, 4), pair(draw, 2, 9)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": pair(draw, 1, 3)}
    plain = draw(st.booleans())
    reach = list(kernel)
    if not plain:
        pads = [draw(st.integers(0, kernel[axis % 2] - 1)) for axis in range(4)]
        attributes |= draw(
            st.sampled_from([{"pads": pads}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {}])
        )
        attributes |= {"ceil_mode": draw(st.integers(0, 1))}
        if op == "AveragePool":
            attributes |= {"count_include_pad": draw(st.integers(0, 1))}
        elif draw(st.booleans()):
            attributes |= {"dilations": pair(draw, 1, 2)}
            reach = [(kernel[axis] - 1) * attributes["dilations"][axis] + 1 for axis in range(2)]
    assume(all(reach[axis] <= size[axis] for axis in range(2)))
    x = random_values(rng, draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 4)), *size)
    return one(op, x, rng=rng, certain=plain, **attributes)


RULES: Final = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
ROUNDINGS: Final = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@st.composite
def resize(draw: Draw) -> Sample:
    rng = generator(draw)
    size = pair(draw, 1, 6)
    mode = draw(st.sampled_from(["nearest", "nearest", "linear", "linear", "cubic"]))
    rule, rounding = draw(st.sampled_from(RULES)), draw(st.sampled_from(ROUNDINGS))
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": rule}
    if mode == "nearest":
        attributes["nearest_mode"] = rounding
    for name, value in {
        "antialias": 1,
        "exclude_outside": 1,
        "cubic_coeff_a": -0.5,
        "extrapolation_value": 7.0,
    }.items():
        if draw(st.integers(0, 15)) == 0:
            attributes[name] = value
    if draw(st.booleans()):
        attributes["axes"] = [2, 3] if draw(st.booleans()) else [3, 2]
    axes = attributes.get("axes", [0, 1, 2, 3])
    before = (1, draw(st.integers(1, 3)), *size)
    constants: Constants = {}
    channels = draw(st.sampled_from([1.0] * 9 + [2.0]))
    by_size = draw(st.booleans())
    whole = draw(st.booleans())
    if by_size:
        factors = pair(draw, 1, 4) if whole else [1, 1]
        after = [size[axis] * factors[axis] for axis in range(2)] if whole else pair(draw, 1, 12)
        wanted = dict(enumerate([1, before[1] * int(channels), *after]))
        constants["sizes"] = np.array([wanted[axis] for axis in axes], np.int64)
        if draw(st.integers(0, 9)) == 0 and "axes" in attributes:
            attributes["keep_aspect_ratio_policy"] = draw(st.sampled_from(["not_larger", "not_smaller"]))
    else:
        choice = st.sampled_from([1.0, 2.0, 3.0, 4.0] if whole else [0.3, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 2.3, 2.5, 3.7])
        scales = dict(enumerate([1.0, channels, draw(choice), draw(choice)]))
        constants["scales"] = np.array([scales[axis] for axis in axes], np.float32)
    if rule == "tf_crop_and_resize":
        constants["roi"] = np.array([0.0] * len(axes) + [1.0] * len(axes), np.float32)
        if draw(st.booleans()):
            constants["roi"] = np.sort(rng.uniform(-0.2, 1.2, (2, len(axes))), axis=0).astype(np.float32).reshape(-1)
    names = ["x", *(name if name in constants else "" for name in ("roi", "scales", "sizes"))]
    while not names[-1]:
        names.pop()
    certain = set(attributes) <= {"mode", "coordinate_transformation_mode", "nearest_mode", "axes"} and channels == 1.0
    linear = mode == "linear" and by_size and rule in ("half_pixel", "align_corners", "asymmetric")
    nearest = mode == "nearest" and whole and (rule, rounding) == ("asymmetric", "floor")
    node = helper.make_node("Resize", names, ["y"], name="it", **attributes)
    feeds = {"x": random_values(rng, *before)}
    return sample([node], feeds, constants, rng=rng, certain=certain and (linear or nearest))


@st.composite
def pad(draw: Draw) -> Sample:
    rng = generator(draw)
    shape = shape_of(draw, 2)
    mode = draw(st.sampled_from(["constant", "constant", "reflect", "edge"]))
    low = -1 if draw(st.integers(0, 3)) == 0 else 0
    places = st.integers(-len(shape), len(shape) - 1)
    axes = draw(st.lists(places, min_size=1, unique_by=lambda axis: axis % len(shape)))
    pads = [draw(st.integers(low, 2 if mode == "constant" else 1)) for _ in range(2 * len(axes))]
    constants: Constants = {"pads": np.array(pads, np.int64)}
    value = draw(st.sampled_from([None, 0.0, 1.5, -1.0]))
    if value is not None:
        constants["value"] = np.float32(value)
    constants["axes"] = np.array(axes, np.int64)
    names = ["x", "pads", "value" if value is not None else "", "axes"]
    node = helper.make_node("Pad", names, ["y"], name="it", mode=mode)
    certain = mode == "constant" and not value and low == 0 and len(shape) <= 4 and any(pads)
    return sample([node], {"x": random_values(rng, *shape)}, constants, rng=rng, certain=certain)


@st.composite
def slices(draw: Draw) -> Sample:
    rng = generator(draw)
    shape = shape_of(draw)
    axes = draw(
        st.lists(st.integers(-len(shape), len(shape) - 1), min_size=1, unique_by=lambda axis: axis % len(shape))
    )
    edge = st.one_of(st.integers(-7, 7), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]))
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in axes]
    starts = [draw(edge) if draw(st.booleans()) else (0 if step > 0 else -1) for step in steps]
    ends = [draw(edge) if draw(st.booleans()) else (2**63 - 1 if step > 0 else -(2**63)) for step in steps]
    constants: Constants = {
        name: np.array(numbers, np.int64)
        for name, numbers in {"starts": starts, "ends": ends, "axes": axes, "steps": steps}.items()
    }
    certain = min(steps) > 0 and len(shape) <= 4
    return one("Slice", random_values(rng, *shape), constants, rng=rng, certain=certain)


@st.composite
def split(draw: Draw) -> Sample:
    rng = generator(draw)
    shape = list(shape_of(draw))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    parts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    outputs = tuple(f"y{index}" for index in range(len(parts)))
    shape[axis] = sum(parts)
    x = random_values(rng, *shape)
    if draw(st.booleans()):
        sizes = {"sizes": np.array(parts, np.int64)}
        return one("Split", x, sizes, rng=rng, outputs=outputs, certain=len(shape) <= 4, axis=axis)
    return one("Split", x, rng=rng, outputs=outputs, axis=axis, num_outputs=len(parts))


@st.composite
def chain(draw: Draw) -> Sample:
    """Transposes with what changes the shape between them."""
    rng = generator(draw)
    x, nodes, constants = links(draw, rng, draw(st.integers(2, 6)))
    nodes[-1].output[0] = "y"
    return sample(nodes, {"x": x}, constants, rng=rng, certain=True)


@st.composite
def views(draw: Draw) -> Sample:
    """Every tensor of a chain is read by arithmetic too: kernels that write over their input must not meet a view of it."""
    rng = generator(draw)
    x, moves, constants = links(draw, rng, draw(st.integers(1, 4)))
    constants["five"] = np.float32(5)
    nodes = [helper.make_node("Abs", ["x"], ["t0"]), *moves]
    moves[0].input[0] = "t0"
    outputs = []
    for name in draw(st.permutations(["t0", *(node.output[0] for node in moves)])):
        outputs.append(f"{name}_minus")
        nodes.append(helper.make_node("Add", [name, "five"], [f"{name}_plus"]))
        nodes.append(helper.make_node("Neg", [f"{name}_plus"], outputs[-1:]))
    return sample(nodes, {"x": x}, constants, rng=rng, outputs=tuple(outputs), certain=True)


def links(draw: Draw, rng: np.random.Generator, count: int) -> tuple[Array, list[onnx.NodeProto], Constants]:
    """An input for "x", and `count` nodes that move its values on to t1, t2, …; the constants they read."""
    shape = shape_of(draw, 1, 4, ranks=(2, 5))
    x = random_values(rng, *shape)
    nodes: list[onnx.NodeProto] = []
    constants: Constants = {}
    for index in range(count):
        names = [f"t{index}" if index else "x", f"t{index + 1}"]
        op = draw(st.sampled_from(["Transpose", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"]))
        ones = [axis for axis, size in enumerate(shape) if size == 1]
        if op == "Squeeze" and ones:
            axes = draw(st.lists(st.sampled_from(ones), min_size=1, unique=True))
            constants[f"axes{index}"] = np.array(axes, np.int64)
            nodes.append(helper.make_node(op, [names[0], f"axes{index}"], [names[1]]))
            shape = tuple(size for axis, size in enumerate(shape) if axis not in axes)
        elif not shape or (op == "Unsqueeze" and len(shape) < 5):
            op = "Unsqueeze"
            axis = draw(st.integers(0, len(shape)))
            constants[f"axes{index}"] = np.array([axis], np.int64)
            nodes.append(helper.make_node(op, [names[0], f"axes{index}"], [names[1]]))
            shape = (*shape[:axis], 1, *shape[axis:])
        elif op == "Flatten":
            axis = draw(st.integers(0, len(shape)))
            nodes.append(helper.make_node(op, [names[0]], [names[1]], axis=axis))
            shape = (math.prod(shape[:axis]), math.prod(shape[axis:]))
        elif op == "Reshape":
            shape = regrouped(draw, math.prod(shape))
            given = list(shape)
            if draw(st.booleans()):
                given[draw(st.integers(0, len(given) - 1))] = -1
            constants[f"shape{index}"] = np.array(given, np.int64)
            nodes.append(helper.make_node(op, [names[0], f"shape{index}"], [names[1]]))
        else:
            order = draw(st.permutations(range(len(shape))))
            nodes.append(helper.make_node("Transpose", [names[0]], [names[1]], perm=order))
            shape = tuple(shape[axis] for axis in order)
    return x, nodes, constants


def regrouped(draw: Draw, count: int) -> tuple[int, ...]:
    """A shape of rank 1 to 5 with `count` values."""
    shape = []
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.sampled_from([size for size in range(1, count + 1) if count % size == 0]))
        shape.append(size)
        count //= size
    return tuple(draw(st.permutations([*shape, count])))


@st.composite
def concat(draw: Draw) -> Sample:
    rng = generator(draw)
    shape = list(shape_of(draw))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    count = draw(st.integers(1, 4))
    names = [f"x{index}" for index in range(count)]
    arrays: dict[str, Array] = {}
    for name in names:
        shape[axis] = draw(st.integers(1, 4))
        arrays[name] = random_values(rng, *shape)
    stored = draw(st.integers(1, count - 1)) if count > 1 and draw(st.integers(0, 2)) == 0 else None
    constants = {} if stored is None else {names[stored]: arrays.pop(names[stored])}
    if draw(st.integers(0, 4)) == 0:
        names.append(names[0])  # the same tensor twice
    node = helper.make_node("Concat", names, ["y"], name="it", axis=axis)
    weights: dict[str, int | None] = dict.fromkeys(constants) if draw(st.booleans()) else {}
    certain = stored is None and len(shape) <= 4
    return sample([node], arrays, constants, rng=rng, weights=weights, certain=certain)


@st.composite
def arithmetic(draw: Draw) -> Sample:
    """Two operands (Max and Min: one to three) that broadcast; now and then one is a constant."""
    rng = generator(draw)
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"]))
    whole = shape_of(draw, 1, 5, ranks=(1, 4))
    count = draw(st.integers(1, 3)) if op in ("Max", "Min") else 2
    arrays: dict[str, Array] = {}
    for name in "abc"[:count]:
        shape = whole[draw(st.integers(0, len(whole))) :] if draw(st.booleans()) else whole
        shape = tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in shape)
        arrays[name] = random_values(rng, *shape)
    if op == "Div":
        arrays["b"] = (np.sign(arrays["b"]) * (np.abs(arrays["b"]) + 1)).astype(np.float32)
    if op == "Pow":
        arrays["a"] = np.abs(arrays["a"]) + np.float32(0.25)
    names = list(arrays)
    same = len({array.shape for array in arrays.values()}) == 1
    constants: Constants = {}
    if count > 1 and draw(st.booleans()):
        stored = draw(st.sampled_from(names))
        constants[stored] = arrays.pop(stored)
    node = helper.make_node(op, names, ["y"], name="it")
    weights: dict[str, int | None] = dict.fromkeys(constants) if draw(st.booleans()) else {}
    certain = op in ("Add", "Sub", "Mul") and same and not constants
    return sample([node], arrays, constants, rng=rng, weights=weights, certain=certain)


ACTIVATIONS: Final = (
    "Relu LeakyRelu PRelu HardSwish HardSigmoid Sigmoid Tanh Clip Clip Abs Neg Exp Log Sqrt Elu Floor Ceil"
)


@st.composite
def activation(draw: Draw) -> Sample:
    rng = generator(draw)
    x = random_values(rng, *shape_of(draw)) * np.float32(draw(st.sampled_from([1.0, 3.0])))
    op = draw(st.sampled_from(ACTIVATIONS.split()))
    constants: Constants = {}
    attributes: dict[str, Any] = {}
    if op == "LeakyRelu":
        attributes["alpha"] = draw(st.sampled_from([0.01, 0.2, 1.5, -0.5]))
    elif op == "Elu":
        attributes["alpha"] = draw(st.sampled_from([1.0, 0.5]))
    elif op == "HardSigmoid":
        attributes |= draw(st.sampled_from([{}, {"alpha": 1 / 6}, {"alpha": 0.5, "beta": 0.3}]))
    elif op == "PRelu":
        channel = (x.shape[1], *(1,) * (x.ndim - 2)) if x.ndim > 1 else (1,)
        shape = draw(st.sampled_from([(), (1,), channel, x.shape]))
        constants["slope"] = np.asarray(rng.uniform(-0.5, 1.5, shape), np.float32)
    elif op == "Clip":
        low, high = draw(st.sampled_from([(0, 6), (0, 1), (-1, 1), (0, None), (None, 6), (-0.5, 2.5), (2, -2)]))
        constants |= {"low": np.float32(low)} if low is not None else {}
        constants |= {"high": np.float32(high)} if high is not None else {}
        names = ["x", "low" if low is not None else "", *(["high"] if high is not None else [])]
        node = helper.make_node(op, names, ["y"], name="it")
        return sample([node], {"x": x}, constants, rng=rng, certain=(low, high) in ((0, 6), (0, None)))
    elif op in ("Log", "Sqrt"):
        x = np.abs(x) + np.float32(0.1)
    certain = op in ("Relu", "Sigmoid")
    return one(op, x, constants, rng=rng, certain=certain, **attributes)


@st.composite
def reduction(draw: Draw) -> Sample:
    rng = generator(draw)
    x = random_values(rng, *shape_of(draw))
    op = draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceSum", "GlobalAveragePool", "GlobalMaxPool"]))
    if op.startswith("Global"):
        assume(x.ndim > 2)
        return one(op, x, rng=rng, certain=x.ndim == 4 and op == "GlobalAveragePool")
    axes = draw(st.lists(st.integers(-x.ndim, x.ndim - 1), unique_by=lambda axis: axis % x.ndim))
    attributes: dict[str, Any] = {"keepdims": draw(st.integers(0, 1))}
    if not axes and draw(st.booleans()):
        attributes["noop_with_empty_axes"] = 1
    constants: Constants = {"axes": np.array(axes, np.int64)} if axes or draw(st.booleans()) else {}
    certain = op == "ReduceMean" and x.ndim <= 4 and bool(axes) and bool(attributes["keepdims"])
    return one(op, x, constants, rng=rng, certain=certain, **attributes)


@st.composite
def softmax(draw: Draw) -> Sample:
    rng = generator(draw)
    x = random_values(rng, *shape_of(draw)) * np.float32(2)
    attributes = {"axis": draw(st.integers(-x.ndim, x.ndim - 1))} if draw(st.booleans()) else {}
    return one("Softmax", x, rng=rng, **attributes)


@st.composite
def depth_and_space(draw: Draw) -> Sample:
    rng = generator(draw)
    block, (rows, columns) = draw(st.integers(1, 3)), pair(draw, 1, 3)
    batch, channels = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    if draw(st.booleans()):
        x = random_values(rng, batch, channels, rows * block, columns * block)
        return one("SpaceToDepth", x, rng=rng, blocksize=block)
    attributes: dict[str, Any] = {"mode": mode} if (mode := draw(st.sampled_from(["", "DCR", "CRD"]))) else {}
    x = random_values(rng, batch, channels * block * block, rows, columns)
    return one("DepthToSpace", x, rng=rng, blocksize=block, **attributes)


@st.composite
def gemm(draw: Draw) -> Sample:
    rng = generator(draw)
    rows, inner, columns = (draw(st.integers(1, 6)) for _ in range(3))
    first, second = draw(st.sampled_from([0, 0, 1])), draw(st.integers(0, 1))
    attributes: dict[str, Any] = {"transA": first, "transB": second}
    if draw(st.integers(0, 3)) == 0:
        attributes |= {"alpha": draw(st.sampled_from([0.5, 2.0])), "beta": draw(st.sampled_from([0.0, 0.25, 3.0]))}
    x = random_values(rng, *((inner, rows) if first else (rows, inner)))
    constants: Constants = {"w": random_weights(rng, *((columns, inner) if second else (inner, columns)))}
    shape = draw(st.sampled_from([None, (), (1,), (columns,), (1, columns), (rows, columns), (rows, 1)]))
    if shape is not None:
        constants["b"] = random_values(rng, *shape)
    certain = not first and "alpha" not in attributes and shape in (None, (columns,))
    return one("Gemm", x, constants, rng=rng, weights={"w": 0 if second else 1}, certain=certain, **attributes)


@st.composite
def matmul(draw: Draw) -> Sample:
    """A layer, mostly; or tensors of other ranks, or two activations."""
    rng = generator(draw)
    rows, inner, columns = (draw(st.integers(1, 5)) for _ in range(3))
    left, right = shape_of(draw, 1, 3, ranks=(0, 2)), shape_of(draw, 1, 3, ranks=(1, 2))
    node = helper.make_node("MatMul", ["a", "w"], ["y"], name="it")
    a, w = random_values(rng, *left, rows, inner), random_weights(rng, inner, columns)
    kind = draw(st.sampled_from(["layer", "layer", "layer", "vector", "vector times", "batches", "activations"]))
    if kind == "layer":
        return sample([node], {"a": a}, {"w": w}, rng=rng, weights={"w": 1}, certain=True)
    if kind == "vector":
        return sample([node], {"a": random_values(rng, inner)}, {"w": w}, rng=rng, weights={"w": 1})
    if kind == "vector times":
        return sample([node], {"a": a}, {"w": random_weights(rng, inner)}, rng=rng, weights={"w": None})
    a = random_values(rng, *(size if draw(st.booleans()) else 1 for size in right), rows, inner)
    w = random_weights(rng, *right, inner, columns)
    if kind == "batches":
        return sample([node], {"a": a}, {"w": w}, rng=rng, weights={"w": None})
    return sample([node], {"a": a, "w": w}, rng=rng)


@st.composite
def normalisation(draw: Draw) -> Sample:
    """A BatchNormalization alone, or behind a convolution and before an activation."""
    rng = generator(draw)
    behind = draw(st.booleans())
    channels = draw(st.integers(1, 4))
    constants: Constants = {
        "gamma": random_values(rng, channels),
        "beta": random_values(rng, channels),
        "mean": random_values(rng, channels),
        "variance": np.abs(random_values(rng, channels)) + np.float32(0.2),
    }
    attributes: dict[str, Any] = {"epsilon": 1e-2} if draw(st.booleans()) else {}
    norm = ["gamma", "beta", "mean", "variance"]
    if not behind:
        shape = shape_of(draw, ranks=(2, 5))
        x = random_values(rng, shape[0], channels, *shape[2:])
        return one("BatchNormalization", x, constants, rng=rng, **attributes)
    constants |= {"w": random_weights(rng, channels, 2, 3, 3)}
    activation = draw(st.sampled_from(["Relu", "HardSwish", "Sigmoid", "LeakyRelu"]))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", *norm], ["n"], **attributes),
        helper.make_node(activation, ["n"], ["y"]),
    ]
    return sample(nodes, {"x": random_values(rng, 1, 2, 6, 5)}, constants, rng=rng, weights={"w": 0})


# The judges.


def close(got: Array, wanted: Array) -> bool:
    limit = 1e-5 * max(1.0, float(np.abs(wanted).max(initial=0.0)))
    return got.shape == wanted.shape and np.allclose(got, wanted, rtol=1e-4, atol=limit)


def judge(found: Sample) -> str:
    """ "equal" or "refused"; raises AssertionError for a wrong answer and for the refusal of what is certain."""
    try:
        content = to_tflite(found.model)
    except ConversionError as error:
        assert not found.certain, f"refused: {error}"
        return "refused"
    wanted = run_referee(found.model, found.feeds)
    for delegate in (True, False):
        got = run_tflite(content, found.feeds, delegate=delegate)
        assert got.keys() == wanted.keys(), f"outputs {sorted(got)} for {sorted(wanted)}"
        for name, array in wanted.items():
            assert close(got[name], array), f"{name} {delegate=}: {got[name].shape}\n{got[name]}\n{array}"
    return "equal"


def judge_int8(found: Sample) -> str:
    """The same for the QDQ version: at most one step of the output's quantiser for all but one value or 1 %, two for all.

    Behind a chain it is a step more for each grid on the way, which may be almost twice as coarse (`with_quantisers`), and twice
    that for all: a normalisation's scale multiplies the one step by which an accumulator may be rounded elsewhere.
    """
    nodes = len(found.model.graph.node)
    allowed = 1.01 + 1.75 * (nodes - 1)
    for_all = allowed + 1 if nodes == 1 else 2 * allowed
    one_grid = bool(found.rng.random() < 0.6)
    model, steps = with_quantisers(found.model, found.feeds, found.rng, weights=found.weights, one_grid=one_grid)
    try:
        content = to_tflite(model)
    except ConversionError as error:
        assert not (found.certain and one_grid), f"refused: {error}"
        return "refused"
    wanted = run_referee(model, found.feeds)
    for delegate in (True, False):
        got = run_tflite(content, found.feeds, delegate=delegate)
        assert got.keys() == wanted.keys(), f"outputs {sorted(got)} for {sorted(wanted)}"
        for name, array in wanted.items():
            assert got[name].shape == array.shape, f"{name} {delegate=}: {got[name].shape} for {array.shape}"
            away = np.abs(got[name] - array) / steps[name]
            if not delegate:
                away -= fixed_point_steps(found.model, array.shape)
            assert away.max() < for_all, f"{name} {delegate=} {one_grid=}: {away.max():.1f} steps"
            beyond = np.count_nonzero(away >= allowed)
            assert beyond <= max(1, away.size // 100), f"{name} {delegate=} {one_grid=}: {beyond} of {away.size}"
    return "equal"


def fixed_point_steps(model: onnx.ModelProto, shape: tuple[int, ...]) -> float:
    """Steps by which TFLite's own INT8 RESIZE_BILINEAR may be away, which XNNPACK's is not, on a picture of this output shape.

    It counts places in 1/1024 pixel from a rounded scale, so that they drift by up to half of one for every pixel.
    """
    linear = any(helper.make_attribute("mode", "linear") in node.attribute for node in model.graph.node)
    return 255 * max(shape) / 2048 if linear else 0.0


@dataclass(frozen=True)
class Family:
    """What to draw, and the least share of it that must be lowered, in FP32 as well as QDQ."""

    samples: st.SearchStrategy[Sample]
    share: float


FAMILIES: Final[dict[str, Family]] = {
    "conv": Family(conv(), 0.95),
    "conv_transpose": Family(conv_transpose(), 0.95),
    "pool": Family(pool(), 0.85),
    "resize": Family(resize(), 0.35),
    "pad": Family(pad(), 0.95),
    "slice": Family(slices(), 0.75),
    "split": Family(split(), 0.95),
    "chain": Family(chain(), 0.95),
    "views": Family(views(), 0.95),
    "concat": Family(concat(), 0.95),
    "arithmetic": Family(arithmetic(), 0.95),
    "activation": Family(activation(), 0.9),
    "reduction": Family(reduction(), 0.8),
    "softmax": Family(softmax(), 0.95),
    "depth_and_space": Family(depth_and_space(), 0.95),
    "gemm": Family(gemm(), 0.7),
    "matmul": Family(matmul(), 0.4),
    "normalisation": Family(normalisation(), 0.95),
}


def explore(family: Family, judging: Callable[[Sample], str], examples: int) -> None:
    tally: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(family.samples)
    def run(found: Sample) -> None:
        tally[judging(found)] += 1

    run()
    assert tally["equal"] >= family.share * tally.total(), tally


@pytest.mark.parametrize("name", FAMILIES)
def test_fp32(name: str) -> None:
    explore(FAMILIES[name], judge, 60)


@pytest.mark.parametrize("name", FAMILIES)
def test_int8(name: str) -> None:
    explore(FAMILIES[name], judge_int8, 50)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_many_fp32(name: str) -> None:
    explore(FAMILIES[name], judge, 1500)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_many_int8(name: str) -> None:
    explore(FAMILIES[name], judge_int8, 1000)


# The judges themselves.


def lone(op: str, *, certain: bool = False) -> Sample:
    rng = np.random.default_rng(0)
    model = build([helper.make_node(op, ["x"], ["y"])], {"x": (1, 3, 4, 5)}, ["y"])
    return Sample(model, {"x": random_values(rng, 1, 3, 4, 5)}, certain=certain, rng=rng)


@pytest.mark.parametrize("judging", [judge, judge_int8])
def test_a_wrong_answer_fails(judging: Callable[[Sample], str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert judging(lone("Relu", certain=True)) == "equal"
    right = to_tflite

    def wrong(model: onnx.ModelProto) -> bytes:
        other = copy_of(model)
        for node in other.graph.node:
            node.op_type = "Neg" if node.op_type == "Relu" else node.op_type
        return right(other)

    monkeypatch.setattr("test_quantize_properties.to_tflite", wrong)
    with pytest.raises(AssertionError, match="delegate=True"):
        judging(lone("Relu"))


def test_a_refusal_of_what_is_certain_fails() -> None:
    assert judge(lone("Erf")) == "refused"
    with pytest.raises(AssertionError, match="refused: "):
        judge(lone("Erf", certain=True))


def test_a_family_that_is_refused_fails() -> None:
    with pytest.raises(AssertionError, match="refused"):
        explore(Family(st.just(lone("Erf")), 0.1), judge, 3)


def test_a_reshape_of_a_reshape_keeps_what_is_still_read() -> None:
    """The built-in kernels add in place, and forget that the second view is the memory of the first."""
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "one"], ["first"]),
        helper.make_node("Reshape", ["first", "two"], ["second"]),
        helper.make_node("Add", ["second", "five"], ["sum"]),
        helper.make_node("Neg", ["sum"], ["late"]),
        helper.make_node("Neg", ["first"], ["early"]),
    ]
    constants: Constants = {"one": np.array([3, 4]), "two": np.array([1, 3, 4]), "five": np.float32(5)}
    model = build(nodes, {"x": (12,)}, ["early", "late"], constants)
    assert judge(Sample(model, {"x": random_values(np.random.default_rng(0), 12)}, certain=True)) == "equal"
