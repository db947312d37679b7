"""Which output is what: said, or guessed where a wrong guess cannot pass unseen, and every guess is written down."""

from typing import Any

import numpy as np
import onnx
import pytest
from foreign_networks import Dims, array, model_of
from onnx import TensorProto, helper

from edge.errors import ConversionError
from edge.manifest import OperatingPoint, OutputSpec
from quantize.description import Description
from quantize.meaning import describe_outputs

H, W = 8, 6
Meaning = tuple[tuple[OutputSpec, ...], tuple[str, ...], OperatingPoint | None, list[str]]


def network(shapes: dict[str, Dims], *, last: dict[str, tuple[str, ...]] | None = None) -> onnx.ModelProto:
    """Outputs of these shapes, each behind the operators that `last` names for it, Relu otherwise."""
    nodes, inputs = [], {}
    for name, shape in shapes.items():
        ops = (last or {}).get(name, ("Relu",))
        inputs[f"{name}_in"] = shape
        for place, op in enumerate(ops):
            source = f"{name}_in" if place == 0 else f"{name}_{place}"
            target = name if place == len(ops) - 1 else f"{name}_{place + 1}"
            attributes: dict[str, Any] = {"axis": 1} if op == "Softmax" else {}
            if op == "Cast":
                attributes["to"] = TensorProto.INT64
            nodes.append(helper.make_node(op, [source], [target], **attributes))
    return model_of(nodes, inputs, dict(shapes))


def meaning(model: onnx.ModelProto, **said: Any) -> Meaning:
    guesses: list[str] = []
    outputs, labels, point = describe_outputs(model, Description(**said), guesses)
    return outputs, labels, point, guesses


def kinds(found: Meaning) -> dict[str, str]:
    return {output.name: output.kind for output in found[0]}


def activations(found: Meaning) -> dict[str, str]:
    return {output.name: output.activation for output in found[0]}


MASK, TWO, ONE = (1, 1, H, W), (1, 2), (1, 1)
BOTH: dict[str, Dims] = {"seg": MASK, "cls": TWO}


# Which one.


def test_one_image_and_one_vector_are_mask_and_classes_and_both_guesses_are_told() -> None:
    found = meaning(network(BOTH))
    assert found[0] == (OutputSpec("seg", "mask", "sigmoid", MASK), OutputSpec("cls", "class", "softmax", TWO))
    assert found[3][:2] == ["output 'seg' is the mask output", "output 'cls' is the class output"]


def test_what_is_said_is_no_guess() -> None:
    found = meaning(
        network(BOTH),
        mask_output="seg",
        class_output="cls",
        mask_activation="sigmoid",
        class_activation="softmax",
        labels=("benign", "malignant"),
        positive="malignant",
        threshold=0.3,
    )
    assert kinds(found) == {"seg": "mask", "cls": "class"}
    assert found[1] == ("benign", "malignant")
    assert found[2] == OperatingPoint(0.3, "malignant", "given at export")
    assert found[3] == []


@pytest.mark.parametrize(("others", "what"), [({"deep": (1, 1, 4, 3)}, "mask"), ({"grade": (1, 4)}, "class")])
def test_one_of_several_is_never_guessed(others: dict[str, Dims], what: str) -> None:
    found = meaning(network(BOTH | others))
    wanted = {"seg": "mask", "cls": "class"} | dict.fromkeys(others, "other")
    assert kinds(found) == wanted | {"seg" if what == "mask" else "cls": "other"}
    names = ", ".join(["seg" if what == "mask" else "cls", *others])
    assert f"no {what} output: {names} could be it; give --{what}-output to use one" in found[3]


def test_a_name_settles_it_and_the_others_are_not_read() -> None:
    shapes = BOTH | {"deep": (1, 1, 4, 3), "grade": (1, 4)}
    found = meaning(network(shapes), mask_output="deep", class_output="grade")
    assert kinds(found) == {"seg": "other", "cls": "other", "deep": "mask", "grade": "class"}
    assert not [guess for guess in found[3] if "--mask-output" in guess or "--class-output" in guess]


def test_a_named_output_is_no_candidate_for_the_other_kind() -> None:
    found = meaning(network(BOTH | {"grade": (1, 4)}), class_output="grade")
    assert kinds(found) == {"seg": "mask", "cls": "other", "grade": "class"}


@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 1), (1, 8, 1, 6), (1, 4, 5), (2, 1, H, W), (3, 2), (1, 2, 3, 4, 5), (4,), ()], ids=str
)
def test_nothing_else_is_taken_for_a_mask_or_classes(shape: tuple[int, ...]) -> None:
    found = meaning(network({"features": shape}))
    assert kinds(found) == {"features": "other"}
    assert found[1:] == ((), None, [])


def test_decisions_and_indices_are_not_taken_for_logits() -> None:
    """An ArgMax at the end: 0 and 1 would become 50 % and 73 %."""
    model = network({"labels": (1, 1, H, W), "index": (1, 1)}, last={"labels": ("Cast",), "index": ("Cast",)})
    for value in model.graph.output:
        value.type.tensor_type.elem_type = TensorProto.INT64
    assert kinds(meaning(model)) == {"labels": "other", "index": "other"}
    with pytest.raises(ConversionError, match=r"'labels' is not float32.*end in logits or probabilities"):
        meaning(model, mask_output="labels")


def test_names_that_are_not_there_are_refused_beside_those_that_are() -> None:
    for said in ({"mask_output": "mask"}, {"class_output": "mask"}):
        with pytest.raises(ConversionError, match="there is no output 'mask'; the network has seg, cls"):
            meaning(network(BOTH), **said)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"mask_output": "cls"}, r"'cls' of shape \(1, 2\): a mask output has the shape \(1, C, h, w\)"),
        ({"class_output": "seg"}, r"'seg' of shape \(1, 1, 8, 6\): a class output has the shape \(1, K\)"),
    ],
)
def test_names_of_the_wrong_kind_are_refused(said: dict[str, str], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        meaning(network(BOTH), **said)


def test_an_output_of_no_fixed_shape_is_refused_by_name() -> None:
    model = model_of(
        [helper.make_node("NonZero", ["x"], ["where"])], {"x": (4, 3)}, {"where": (2, "n")}, output_dtype=7
    )
    with pytest.raises(ConversionError, match=r"shape of output 'where' is not known .* depends on data; export"):
        meaning(model)


# How it becomes a probability.


@pytest.mark.parametrize(
    ("name", "shape", "last", "wanted"),
    [
        ("seg", (1, 1, H, W), ("Relu",), "sigmoid"),
        ("seg", (1, 3, H, W), ("Relu",), "softmax"),
        ("seg", (1, 1, H, W), ("Sigmoid",), "none"),
        ("seg", (1, 3, H, W), ("Sigmoid",), "none"),
        ("seg", (1, 3, H, W), ("Softmax",), "none"),
        ("seg", (1, 1, H, W), ("HardSigmoid",), "none"),
        ("seg", (1, 2, H, W), ("Softmax", "Identity", "Identity"), "none"),
        ("seg", (1, 2, H, W), ("Softmax", "Relu"), "softmax"),
        ("seg", (1, 1, H, W), ("Sigmoid", "Tanh"), "sigmoid"),
        ("cls", (1, 1), ("Relu",), "sigmoid"),
        ("cls", (1, 5), ("Relu",), "softmax"),
        ("cls", (1, 1), ("Sigmoid",), "none"),
        ("cls", (1, 5), ("Softmax",), "none"),
        ("cls", (1, 5), ("Relu", "LogSoftmax"), "softmax"),
    ],
    ids=str,
)
def test_the_activation_is_what_the_graph_does_not_have_yet(
    name: str, shape: tuple[int, ...], last: tuple[str, ...], wanted: str
) -> None:
    found = meaning(network({name: shape}, last={name: last}))
    assert activations(found) == {name: wanted}
    kind = found[0][0].kind
    assert f"{kind} output '{name}' becomes a probability by: {wanted}" in found[3]


def test_a_sigmoid_behind_a_resize_and_quantisers_is_seen() -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["p"]),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Resize", ["d", "", "twice"], ["seg"], mode="linear"),
    ]
    constants = {"s": np.float32(1 / 255), "z": np.uint8(0), "twice": array([1, 1, 2, 2])}
    model = model_of(nodes, {"x": (1, 1, 4, 3)}, {"seg": (1, 1, 8, 6)}, constants)
    assert activations(meaning(model)) == {"seg": "none"}


def test_what_is_said_of_the_activation_is_kept() -> None:
    model = network(BOTH, last={"seg": ("Sigmoid",)})
    found = meaning(model, mask_activation="sigmoid", class_activation="none")
    assert activations(found) == {"seg": "sigmoid", "cls": "none"}
    assert not [guess for guess in found[3] if "probability" in guess]


def test_a_softmax_over_one_channel_is_refused() -> None:
    with pytest.raises(ConversionError, match="softmax over one channel is always 1; use sigmoid"):
        meaning(network(BOTH), mask_activation="softmax")


# Labels.


@pytest.mark.parametrize(("shape", "count"), [((1, 1), 2), ((1, 2), 2), ((1, 5), 5)])
def test_labels_that_nobody_gave_are_numbers_and_it_is_said(shape: tuple[int, ...], count: int) -> None:
    _, labels, point, guesses = meaning(network({"cls": shape}))
    assert labels == tuple(f"class {index}" for index in range(count))
    assert point == OperatingPoint(0.5, labels[-1], "no data: the default")
    assert guesses[2:] == [
        f"classes are called {', '.join(labels)}; give --labels, in the network's order",
        f"'class {count - 1}' is the label that the threshold is for",
        "the threshold is 0.5, chosen on no data",
    ]


@pytest.mark.parametrize(
    ("labels", "positive", "wanted"),
    [
        (("malignant", "benign"), None, "malignant"),
        (("benign", "malignant"), None, "malignant"),
        (("cyst", "tumour"), None, "tumour"),
        (("malignant", "benign"), "benign", "benign"),
    ],
)
def test_the_positive_label_is_the_one_named_malignant_or_the_last(
    labels: tuple[str, ...], positive: str | None, wanted: str
) -> None:
    _, found, point, guesses = meaning(network({"cls": TWO}), labels=labels, positive=positive, threshold=0.2)
    assert point is not None
    assert (found, point.positive, point.threshold) == (labels, wanted, 0.2)
    assert (f"{wanted!r} is the label that the threshold is for" in guesses) == (positive is None)


def test_a_positive_label_that_is_none_of_the_default_ones_is_refused() -> None:
    with pytest.raises(ConversionError, match="positive 'malignant' is none of the labels class 0, class 1"):
        meaning(network({"cls": TWO}), positive="malignant")
    assert meaning(network({"cls": TWO}), positive="class 0")[2] == OperatingPoint(
        0.5, "class 0", "no data: the default"
    )


def test_the_background_of_a_mask_of_several_channels_is_a_guess() -> None:
    assert "channel 0 of mask output 'seg' is the background" in meaning(network({"seg": (1, 3, H, W)}))[3]
    assert not [guess for guess in meaning(network(BOTH))[3] if "background" in guess]


@pytest.mark.parametrize(
    ("shape", "labels", "count"), [(ONE, ("malignant",), 2), (TWO, ("a", "b", "c"), 2), ((1, 3), ("a", "b"), 3)]
)
def test_the_wrong_number_of_labels_is_refused(shape: tuple[int, ...], labels: tuple[str, ...], count: int) -> None:
    with pytest.raises(ConversionError, match=f"needs {count} different labels, not {', '.join(labels)}"):
        meaning(network({"cls": shape}), labels=labels)


@pytest.mark.parametrize("said", [{"labels": ("a", "b")}, {"threshold": 0.4}], ids=str)
@pytest.mark.parametrize("shapes", [{"seg": MASK}, {"cls": TWO, "grade": (1, 3)}], ids=str)
def test_labels_and_thresholds_without_classes_are_refused(shapes: dict[str, Dims], said: dict[str, Any]) -> None:
    with pytest.raises(ConversionError, match="labels and a threshold need a class output; give --class-output"):
        meaning(network(shapes), **said)
