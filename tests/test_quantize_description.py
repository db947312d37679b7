"""What a user says of a network, in a sidecar or as options: taken as it is meant, or refused in one line."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer

from edge.errors import DataError
from edgekit.commands.describe import ResizeName, activations, describe_network, names, numbers, size
from quantize.description import Description

EVERYTHING: dict[str, Any] = {
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "pixel_range": 1,
    "channels": 3,
    "size": [256, 320],
    "resize": "letterbox",
    "mask_output": "seg",
    "class_output": "cls",
    "mask_activation": "sigmoid",
    "class_activation": "softmax",
    "labels": ["normal", "benign", "malignant"],
    "positive": "malignant",
    "threshold": 0.4,
}
TOLD = Description(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pixel_range=1.0,
    channels=3,
    size=(256, 320),
    resize="letterbox",
    mask_output="seg",
    class_output="cls",
    mask_activation="sigmoid",
    class_activation="softmax",
    labels=("normal", "benign", "malignant"),
    positive="malignant",
    threshold=0.4,
)


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    """Where one is written."""
    return tmp_path / "net.json"


def write(path: Path, record: Any) -> Path:
    path.write_text(record if isinstance(record, str) else json.dumps(record), encoding="utf-8")
    return path


# The sidecar.


def test_a_sidecar_says_everything_that_can_be_said(sidecar: Path) -> None:
    assert Description.read(write(sidecar, EVERYTHING)) == TOLD
    assert EVERYTHING.keys() == asdict(TOLD).keys(), "this test forgot a key"


def test_an_empty_sidecar_and_null_say_nothing(sidecar: Path) -> None:
    assert Description.read(write(sidecar, {})) == Description()
    assert Description.read(write(sidecar, dict.fromkeys(EVERYTHING))) == Description()


def test_one_number_needs_no_list(sidecar: Path) -> None:
    found = Description.read(write(sidecar, {"mean": 0, "std": 1, "pixel_range": 255}))
    assert (found.mean, found.std, found.pixel_range) == ((0.0,), (1.0,), 255.0)


WRONG: list[tuple[str, Any, str]] = [
    ("mean", "0.5", "give a number, or a list of numbers"),
    ("mean", [0.5, None], "give a number, or a list of numbers"),
    ("mean", True, "give a number, or a list of numbers"),
    ("mean", {"grey": 0.5}, "give a number, or a list of numbers"),
    ("std", [[0.5]], "give a number, or a list of numbers"),
    ("mean", 10**400, "too large"),
    ("pixel_range", [1, 255], "give a number"),
    ("pixel_range", [], "give a number"),
    ("threshold", [0.5], "give a number"),
    ("threshold", "half", "give a number"),
    ("channels", 3.0, "give a whole number"),
    ("channels", True, "give a whole number"),
    ("size", 256, "give [height, width]"),
    ("size", [256], "give [height, width]"),
    ("size", [256, 320, 3], "give [height, width]"),
    ("size", [256.5, 320], "give a whole number"),
    ("resize", 2, "give text"),
    ("mask_output", ["seg"], "give text"),
    ("class_output", 0, "give text"),
    ("class_activation", True, "give text"),
    ("labels", "benign,malignant", "give a list of names"),
    ("labels", ["benign", 1], "give text"),
    ("positive", 1, "give text"),
]


@pytest.mark.parametrize(("key", "value", "remedy"), WRONG, ids=[f"{key}-{value!r:.12}" for key, value, _ in WRONG])
def test_a_value_of_the_wrong_type_is_named_with_file_key_and_remedy(
    key: str, value: Any, remedy: str, sidecar: Path
) -> None:
    with pytest.raises(DataError) as caught:
        Description.read(write(sidecar, EVERYTHING | {key: value}))
    message = str(caught.value)
    assert message.startswith(f"{sidecar}: {key} is ")
    assert message.endswith(remedy) or remedy in message.partition(" is ")[2]
    assert "\n" not in message


BAD: list[tuple[dict[str, Any], str]] = [
    ({"mean": None}, "mean and std belong together; give both"),
    ({"std": []}, "mean and std belong together; give both"),
    ({"mean": [0.5, 0.5]}, "mean and std have one number, or one for each of three channels"),
    ({"std": [0.5] * 4}, "mean and std have one number, or one for each of three channels"),
    ({"std": [0.2, 0.0, 0.2]}, "std 0.2, 0, 0.2 must be positive"),
    ({"std": -1}, "std -1 must be positive"),
    ({"std": 1e-60}, "std 1e-60 must be positive"),
    ({"mean": float("nan")}, "mean nan and std 0.229, 0.224, 0.225 must be finite"),
    ({"std": float("inf")}, "std inf must be finite"),
    ({"pixel_range": 256}, "pixel_range 256 is neither 1 nor 255"),
    ({"channels": 4}, "4 channels; a network of one or three can be exported"),
    ({"size": [0, 320]}, "size 0x320 must be positive"),
    ({"resize": "crop"}, "resize 'crop' is none of stretch, letterbox"),
    ({"mask_activation": "relu"}, "mask_activation 'relu' is none of sigmoid, softmax, none"),
    ({"class_activation": "None"}, "class_activation 'None' is none of sigmoid, softmax, none"),
    ({"mask_output": "cls"}, "output 'cls' cannot be both the mask and the class output"),
    ({"labels": ["benign", "", "malignant"]}, "labels 'benign', '', 'malignant' must differ, and none be empty"),
    ({"labels": ["malignant", "malignant"]}, "must differ"),
    ({"positive": "cancer"}, "positive 'cancer' is none of the labels normal, benign, malignant"),
    ({"mean": [0.485, 1.456, 0.406]}, "mean 1.456 lies beyond the pixel range 1; for a network of pixels 0..255 give"),
    ({"threshold": 0}, "threshold 0.0 lies outside 0..1"),
    ({"threshold": 1.5}, "threshold 1.5 lies outside 0..1"),
    ({"threshold": float("nan")}, "threshold nan lies outside 0..1"),
]


@pytest.mark.parametrize(("changed", "message"), BAD, ids=[str(changed) for changed, _ in BAD])
def test_what_cannot_be_meant_is_one_line_with_the_file(changed: dict[str, Any], message: str, sidecar: Path) -> None:
    with pytest.raises(DataError) as caught:
        Description.read(write(sidecar, EVERYTHING | changed))
    assert str(caught.value).startswith(f"{sidecar}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_keys_are_named_beside_the_known_ones(sidecar: Path) -> None:
    with pytest.raises(DataError) as caught:
        Description.read(write(sidecar, EVERYTHING | {"means": 0.5, "Std": 1}))
    assert str(caught.value) == f"{sidecar}: unknown keys Std, means; known are {', '.join(_known(caught.value))}"
    assert set(_known(caught.value)) == EVERYTHING.keys()


def _known(error: DataError) -> list[str]:
    return str(error).partition("known are ")[2].split(", ")


@pytest.mark.parametrize("text", ["[]", '"mean"', "3", "null"])
def test_a_sidecar_that_is_no_object_is_told_its_keys(text: str, sidecar: Path) -> None:
    with pytest.raises(DataError, match="not an object; its keys are mean, std"):
        Description.read(write(sidecar, text))


@pytest.mark.parametrize("text", ["", "{", '{"mean": 0.5,}', "mean: 0.5"])
def test_a_sidecar_that_is_no_json_is_one_line(text: str, sidecar: Path) -> None:
    with pytest.raises(DataError, match="not valid JSON") as caught:
        Description.read(write(sidecar, text))
    assert "\n" not in str(caught.value)


def test_a_sidecar_that_cannot_be_read_says_why(sidecar: Path) -> None:
    with pytest.raises(DataError, match=f"^{sidecar}: cannot be read .No such file"):
        Description.read(sidecar)
    sidecar.mkdir()
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        Description.read(sidecar)
    sidecar.rmdir()
    sidecar.write_bytes(b'{"mean": "\xff\xfe"}')
    with pytest.raises(DataError, match="not valid JSON"):
        Description.read(sidecar)


def test_a_positive_label_may_come_before_the_labels(sidecar: Path) -> None:
    """They may be options, or those of nobody: whether it is one of them is told with the network at hand."""
    assert Description.read(write(sidecar, {"positive": "malignant"})).positive == "malignant"


# Pixels.


@pytest.mark.parametrize(
    ("description", "channels", "offset", "scale"),
    [
        (Description(mean=(0.5,), std=(0.5,)), 1, (127.5,), (127.5,)),
        (Description(mean=(0.0,), std=(1.0,)), 3, (0.0,) * 3, (255.0,) * 3),
        (Description(mean=(127.5,), std=(127.5,), pixel_range=255), 1, (127.5,), (127.5,)),
        (Description(mean=(0.0,), std=(1.0,), pixel_range=255), 1, (0.0,), (1.0,)),
        (Description(mean=(0.1, 0.2, 0.3), std=(0.5,)), 3, (25.5, 51.0, 76.5), (127.5,) * 3),
        (Description(mean=(0.5,), std=(0.1, 0.2, 0.3)), 3, (127.5,) * 3, (25.5, 51.0, 76.5)),
    ],
)
def test_mean_and_std_become_offset_and_scale_of_pixels(
    description: Description, channels: int, offset: tuple[float, ...], scale: tuple[float, ...]
) -> None:
    found = description.pixels(channels)
    assert found[0] == pytest.approx(offset)
    assert found[1] == pytest.approx(scale)
    mean, std = (values[0] for values in (description.mean, description.std))
    for pixel in (0, 77, 255):
        wanted = (pixel * description.pixel_range / 255 - mean) / std
        assert (pixel - found[0][0]) / found[1][0] == pytest.approx(wanted)


# Options over the sidecar.


def test_options_take_the_place_of_what_the_sidecar_says() -> None:
    given = {"mean": (0.5,), "std": (0.5,), "threshold": 0.7, "labels": None, "mask_output": None, "size": ()}
    assert TOLD.changed(given) == replace(TOLD, mean=(0.5,), std=(0.5,), threshold=0.7)
    assert TOLD.changed({}) == TOLD


def test_options_are_checked_together_with_the_sidecar() -> None:
    with pytest.raises(ValueError, match="'malignant' is none of the labels a, b"):
        TOLD.changed({"labels": ("a", "b")})
    assert TOLD.changed({"labels": ("a", "b"), "positive": "a"}).positive == "a"


NOTHING_GIVEN: dict[str, Any] = dict.fromkeys(
    (
        *("mean", "std", "pixel_range", "channels", "size", "resize", "mask_output", "class_output", "activation"),
        *("labels", "positive", "threshold"),
    )
)


def test_the_json_beside_the_network_is_read_unless_another_is_named(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    assert describe_network(model, None, NOTHING_GIVEN) == Description()
    write(tmp_path / "net.json", EVERYTHING)
    assert describe_network(model, None, NOTHING_GIVEN) == TOLD
    other = write(tmp_path / "other.json", {"mean": 0, "std": 1})
    assert describe_network(model, other, NOTHING_GIVEN) == Description(mean=(0.0,), std=(1.0,))
    options = NOTHING_GIVEN | {
        "resize": ResizeName.stretch,
        "activation": {"mask_activation": "none"},
        "size": (64, 96),
    }
    wanted = replace(TOLD, resize="stretch", mask_activation="none", size=(64, 96))
    assert describe_network(model, None, options) == wanted
    with pytest.raises(DataError, match="cannot be read"):
        describe_network(model, tmp_path / "gone.json", NOTHING_GIVEN)
    with pytest.raises(typer.BadParameter, match="threshold 2"):
        describe_network(model, None, NOTHING_GIVEN | {"threshold": 2.0})


def test_options_are_parsed_as_they_are_written() -> None:
    assert numbers("0.485,0.456, 0.406") == (0.485, 0.456, 0.406)
    assert size("256x320") == size("256X320") == (256, 320)
    assert names("benign, malignant") == ("benign", "malignant")
    assert activations("softmax") == {"mask_activation": "softmax", "class_activation": "softmax"}
    assert activations("mask=sigmoid,class=none") == {"mask_activation": "sigmoid", "class_activation": "none"}
    assert activations("class=none") == {"class_activation": "none"}


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (numbers, "0.5;0.5", "is not a number"),
        (numbers, "", "is not a number"),
        (size, "256", "HEIGHTxWIDTH"),
        (size, "256x", "HEIGHTxWIDTH"),
        (size, "2x3x4", "HEIGHTxWIDTH"),
        (activations, "mask=sigmoid,classes=none", "'classes=none' is not mask=… or class=…"),
    ],
)
def test_options_that_say_nothing_are_refused(parse: Any, text: str, message: str) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        parse(text)
