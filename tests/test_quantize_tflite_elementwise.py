"""FP32 arithmetic and functions against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from lowering_checks import Shape, check, one_op, refusal, values
from onnx import TensorProto, helper
from test_quantize_support import Attributes, Constants, build

IMAGE = (1, 3, 4, 5)

# Two tensors.

LIKE_AN_IMAGE: list[Shape] = [(), (1,), (5,), (4, 1), (4, 5), (3, 1, 1), (1, 3, 1, 1), (1, 1, 4, 5), IMAGE]


def two(op: str, one: Shape, other: Shape) -> onnx.ModelProto:
    return build([helper.make_node(op, ["a", "b"], ["y"], name="it")], {"a": one, "b": other}, ["y"])


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul"])
@pytest.mark.parametrize("other", [IMAGE, (1, 3, 1, 1), (1, 1, 4, 5), (1, 1, 1, 1)], ids=str)
def test_arithmetic_of_two_images(op: str, other: Shape) -> None:
    check(two(op, IMAGE, other), op.upper())


@pytest.mark.parametrize("op", ["Add", "Sub", "Max"])
@pytest.mark.parametrize("other", LIKE_AN_IMAGE, ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["x op c", "c op x"])
def test_arithmetic_of_an_image_and_something_smaller(op: str, other: Shape, first: bool) -> None:
    """ONNX aligns the last axes: (5,) goes with the columns, where TFLite's NHWC would take channels."""
    check(two(op, *((other, IMAGE) if first else (IMAGE, other))))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Max", "Min"])
@pytest.mark.parametrize("shape", LIKE_AN_IMAGE, ids=str)
@pytest.mark.parametrize("first", [False, True], ids=["x op c", "c op x"])
def test_arithmetic_with_a_constant(op: str, shape: Shape, first: bool) -> None:
    code = {"Max": "MAXIMUM", "Min": "MINIMUM"}.get(op, op.upper())
    names = ["c", "x"] if first else ["x", "c"]
    constant = values(*shape) if shape else np.float32(2.5)
    check(build([helper.make_node(op, names, ["y"])], {"x": IMAGE}, ["y"], {"c": constant}), code)


@pytest.mark.parametrize("two_activations", [False, True])
def test_a_vector_is_not_taken_for_channels(two_activations: bool) -> None:
    """Where channels and columns are both 5 only the numbers can tell."""
    model = two("Add", (1, 5, 4, 5), (5,)) if two_activations else one_op("Add", (1, 5, 4, 5), {"c": values(5)})
    check(model)


@pytest.mark.parametrize("op", ["Add", "Div"])
@pytest.mark.parametrize(
    "one, other",
    [((1, 7), (7,)), ((4, 1), (1, 7)), ((2, 3, 4), (3, 1)), ((2, 1, 3, 2, 2), (4, 1, 1, 2)), ((7,), (7,))],
    ids=str,
)
def test_arithmetic_of_other_ranks(op: str, one: Shape, other: Shape) -> None:
    check(two(op, one, other), low=1.0)


def test_division() -> None:
    check(two("Div", IMAGE, IMAGE), "DIV", low=0.5)
    check(one_op("Div", IMAGE, {"c": values(3, 1, 1, low=0.5)}), "DIV")


@pytest.mark.parametrize("exponent", [2.0, 0.5, -1.0])
def test_power(exponent: float) -> None:
    check(one_op("Pow", IMAGE, {"c": np.float32(exponent)}), "POW", low=0.2)


def test_power_of_two_tensors() -> None:
    check(two("Pow", IMAGE, (5,)), low=0.2, high=2.0)


@pytest.mark.parametrize("op, code", [("Max", "MAXIMUM"), ("Min", "MINIMUM")])
def test_extremes_of_one_and_of_three_tensors(op: str, code: str) -> None:
    assert code not in check(build([helper.make_node(op, ["x"], ["y"])], {"x": IMAGE}, ["y"])).counts
    node = helper.make_node(op, ["a", "b", "c"], ["y"])
    file = check(build([node], {"a": IMAGE, "b": (1, 3, 1, 1)}, ["y"], {"c": values(4, 1)}))
    assert file.counts == {code: 2}


@pytest.mark.parametrize("op", ["Add", "Div", "Max", "Pow"])
def test_six_axes_are_more_than_the_runtime_broadcasts(op: str) -> None:
    message = refusal(two(op, (1, 2, 1, 2, 2, 3), (3,)))
    assert f"{op} 'it': rank 6; the runtime broadcasts up to 5, reshape before" in message


# Clamps.

CLIPS: dict[tuple[float | None, float | None], list[str]] = {
    (0.0, 6.0): ["RELU6"],
    (0.0, None): ["RELU"],
    (-1.0, 1.0): ["RELU_N1_TO_1"],
    (0.0, 1.0): ["MAXIMUM", "MINIMUM"],
    (-1.0, 6.0): ["MAXIMUM", "MINIMUM"],
    (0.5, 5.5): ["MAXIMUM", "MINIMUM"],
    (None, 6.0): ["MINIMUM"],
    (-1.0, None): ["MAXIMUM"],
    (5.0, 2.0): ["MAXIMUM", "MINIMUM"],
}


@pytest.mark.parametrize("low, high", CLIPS)
@pytest.mark.parametrize("shape", [IMAGE, (2, 9)], ids=str)
def test_clip(low: float | None, high: float | None, shape: Shape) -> None:
    bounds = [low, high]
    constants = {name: np.float32(bound) for name, bound in zip("lh", bounds, strict=True) if bound is not None}
    names = ["l" if low is not None else "", "h" if high is not None else ""]
    model = build([helper.make_node("Clip", ["x", *names], ["y"])], {"x": shape}, ["y"], constants)
    check(model, *CLIPS[low, high], flat=low is not None and high is not None and low > high)


def test_clip_without_bounds_and_with_infinite_ones() -> None:
    check(one_op("Clip", IMAGE), "RESHAPE")  # an input that is an output, under another name
    model = one_op("Clip", IMAGE, {"l": np.float32(0), "h": np.float32(np.inf)})
    check(model, "RELU")


@pytest.mark.parametrize("computed", ["l", "h"])
def test_a_clip_at_a_computed_bound_is_refused(computed: str) -> None:
    """A bound that the graph computes is not "no bound"."""
    node = helper.make_node("Clip", ["x", "l", "h"], ["y"], name="it")
    constants = {name: np.float32(1) for name in "lh" if name != computed}
    message = refusal(build([node], {"x": IMAGE, computed: ()}, ["y"], constants))
    assert "Clip 'it': computed bounds; TFLite wants constants, freeze them" in message


# Functions of one tensor.

FUNCTIONS: dict[str, tuple[str, Attributes, tuple[float, float]]] = {
    "Abs": ("ABS", {}, (-2, 8)),
    "Ceil": ("CEIL", {}, (-2, 8)),
    "Cos": ("COS", {}, (-2, 8)),
    "Exp": ("EXP", {}, (-4, 4)),
    "Floor": ("FLOOR", {}, (-2, 8)),
    "Log": ("LOG", {}, (0.1, 8)),
    "Neg": ("NEG", {}, (-2, 8)),
    "Relu": ("RELU", {}, (-2, 8)),
    "Sin": ("SIN", {}, (-2, 8)),
    "Sqrt": ("SQRT", {}, (0, 8)),
    "Sigmoid": ("LOGISTIC", {}, (-8, 8)),
    "Tanh": ("TANH", {}, (-3, 3)),
    "LeakyRelu": ("LEAKY_RELU", {"alpha": 0.2}, (-2, 8)),
    "Elu": ("ELU", {}, (-2, 8)),
    "HardSwish": ("HARD_SWISH", {}, (-5, 5)),
}


@pytest.mark.parametrize("op", FUNCTIONS)
@pytest.mark.parametrize("shape", [IMAGE, (2, 9), (7,), (2, 3, 2, 2, 3)], ids=str)
def test_a_function(op: str, shape: Shape) -> None:
    code, attributes, (low, high) = FUNCTIONS[op]
    check(one_op(op, shape, **attributes), code, low=low, high=high)


@pytest.mark.parametrize("alpha", [None, 0.0, 1.5, -0.5])
def test_leaky_relu_of_other_slopes(alpha: float | None) -> None:
    attributes: Attributes = {} if alpha is None else {"alpha": alpha}
    check(one_op("LeakyRelu", IMAGE, **attributes), "LEAKY_RELU")


def test_an_elu_of_another_height_is_refused() -> None:
    assert "Elu 'it': alpha 0.5; TFLite's ELU has 1, use a LeakyRelu" in refusal(one_op("Elu", IMAGE, alpha=0.5))


@pytest.mark.parametrize("attributes", [{}, {"alpha": 1 / 6}, {"alpha": 0.5, "beta": 0.1}, {"alpha": -0.3}], ids=str)
def test_hard_sigmoid(attributes: Attributes) -> None:
    """A sixth of a RELU6, for XNNPACK has no RELU_0_TO_1."""
    file = check(one_op("HardSigmoid", IMAGE, **attributes), low=-5.0)
    assert file.counts == {"ADD": 1, "MUL": 1 if attributes.get("alpha") == 1 / 6 else 2}


@pytest.mark.parametrize("alpha", [None, 1.7])
def test_swish(alpha: float | None) -> None:
    attributes: Attributes = {} if alpha is None else {"alpha": alpha}
    node = helper.make_node("Swish", ["x"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, IMAGE)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    written = one_op("Sigmoid", IMAGE)  # ONNX Runtime has no kernel for it: x · sigmoid(alpha · x) as the referee
    written.graph.node[0].input[0] = "scaled"
    written.graph.node[0].output[0] = "gate"
    written.graph.node.insert(0, helper.make_node("Mul", ["x", "alpha"], ["scaled"]))
    written.graph.node.append(helper.make_node("Mul", ["x", "gate"], ["y"]))
    written.graph.initializer.append(
        onnx.numpy_helper.from_array(np.asarray(1.0 if alpha is None else alpha, np.float32), "alpha")
    )
    file = check(model, referee=written, low=-5.0)
    assert file.counts == {"LOGISTIC": 1, "MUL": 1 if alpha is None else 2}


PRELUS: list[tuple[Shape, Shape, str]] = [
    (IMAGE, (3, 1, 1), "PRELU"),
    (IMAGE, (1, 3, 1, 1), "PRELU"),
    (IMAGE, (5,), "PRELU"),
    (IMAGE, (4, 1), "PRELU"),
    (IMAGE, (3, 4, 5), "PRELU"),
    (IMAGE, (1,), "LEAKY_RELU"),
    (IMAGE, (1, 1, 1), "LEAKY_RELU"),
    ((2, 9), (9,), "PRELU"),
    ((2, 3, 4, 5), (3, 1, 1), "PRELU"),
    ((2, 3, 4), (3, 1), "PRELU"),
]


@pytest.mark.parametrize("shape, slope, code", PRELUS, ids=str)
def test_prelu(shape: Shape, slope: Shape, code: str) -> None:
    check(one_op("PRelu", shape, {"s": values(*slope, low=-0.5, high=0.9)}), code, low=-5.0)


def test_prelu_with_a_computed_slope_is_refused() -> None:
    message = refusal(two("PRelu", IMAGE, (3, 1, 1)))
    assert "PRelu 'it': input 'b' is computed, and TFLite wants a constant; freeze it" in message


@pytest.mark.parametrize("shape", [IMAGE, (2, 3, 4, 5), (2, 9), (2, 3, 4), (7,), (1, 2, 3, 2, 3)], ids=str)
def test_softmax(shape: Shape) -> None:
    for axis in range(-1, len(shape)):
        check(one_op("Softmax", shape, axis=axis), flat=shape[axis] == 1)
    check(one_op("Softmax", shape))


def test_softmax_of_channels_moves_nothing() -> None:
    check(one_op("Softmax", IMAGE, axis=1), "SOFTMAX")


# BatchNormalization that no convolution took.


def normalisation(shape: Shape, **attributes: float) -> onnx.ModelProto:
    constants: Constants = {
        "scale": values(shape[1], seed=1),
        "bias": values(shape[1], seed=2),
        "mean": values(shape[1], seed=3),
        "variance": values(shape[1], low=0.2, seed=4),
    }
    return one_op("BatchNormalization", shape, constants, **attributes)


@pytest.mark.parametrize("shape", [IMAGE, (2, 9), (2, 3, 4), (1, 3, 2, 2, 3)], ids=str)
@pytest.mark.parametrize("attributes", [{}, {"epsilon": 0.1}], ids=str)
def test_batch_normalisation(shape: Shape, attributes: dict[str, float]) -> None:
    check(normalisation(shape, **attributes), "MUL", "ADD")


def test_batch_normalisation_of_each_batch_is_refused() -> None:
    model = normalisation(IMAGE)
    node = model.graph.node[0]
    node.attribute.append(helper.make_attribute("training_mode", 1))
    node.output.extend(["mean_now", "variance_now"])
    message = refusal(model)
    assert "BatchNormalization 'it': in training mode; export the network after .eval()" in message
