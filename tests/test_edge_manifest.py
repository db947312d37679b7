"""The manifest: read strictly, every contradiction found."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sample_bundles import Edit, at, bundle, edit, objects

from edge.bundle import Bundle, write_manifest
from edge.bundle_file import BundleFile
from edge.errors import BundleError
from edge.manifest import (
    MANIFEST,
    SCHEMA,
    Activation,
    Artifact,
    InputSpec,
    Kind,
    OperatingPoint,
    OutputSpec,
)
from edge.predictor import Predictor
from edge.presence import Presence

__all__ = ["bundle", "edit"]  # the fixtures


# What is refused


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError, match=r"not a bundle .*edgekit export"):
            Bundle.open(path)
        with pytest.raises(BundleError, match="not a bundle"):
            Bundle.open_or_builtin(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"schema: 1"])
def test_what_is_not_json_is_refused(bundle: Bundle, content: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: not valid JSON"):
        Bundle.open(bundle.path)


@pytest.mark.parametrize("content", ["[]", "null", "1", '"manifest"', "{}"])
def test_json_that_is_no_manifest_is_refused(bundle: Bundle, content: str) -> None:
    (bundle.path / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match=r"not an object|missing in manifest"):
        Bundle.open(bundle.path)


def test_an_unknown_key_is_refused_in_every_record(bundle: Bundle) -> None:
    text = (bundle.path / MANIFEST).read_text()
    paths = list(objects(json.loads(text)))
    assert len(paths) > 15
    for path in paths:
        raw = json.loads(text)
        at(raw, path)["surprise"] = 1
        (bundle.path / MANIFEST).write_text(json.dumps(raw))
        with pytest.raises(BundleError, match=r"unknown keys \['surprise'\] in .*newer edgekit"):
            Bundle.open(bundle.path)


def test_a_missing_key_is_refused_in_every_record(bundle: Bundle) -> None:
    text = (bundle.path / MANIFEST).read_text()
    for path in objects(json.loads(text)):
        for key in at(json.loads(text), path):
            raw = json.loads(text)
            del at(raw, path)[key]
            (bundle.path / MANIFEST).write_text(json.dumps(raw))
            with pytest.raises(BundleError, match=rf"keys \['{key}'\] are missing in "):
                Bundle.open(bundle.path)


def test_a_newer_schema_asks_for_an_upgrade_before_anything_else(edit: Edit) -> None:
    path = edit(lambda raw: raw.update(schema=SCHEMA + 1, something_new=[]))
    with pytest.raises(BundleError, match=f"schema {SCHEMA + 1} is newer .*upgrade"):
        Bundle.open(path)


def test_an_older_schema_asks_for_a_new_export_before_anything_else(edit: Edit) -> None:
    path = edit(lambda raw: raw.update(schema=SCHEMA - 1, checkpoint_sha256=raw.pop("source_sha256")))
    with pytest.raises(BundleError, match=f"schema {SCHEMA - 1} was made by an older edgekit; export again"):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema",), "1"),
        (("schema",), True),
        (("network",), None),
        (("input",), []),
        (("input", "height"), "256"),
        (("input", "width"), 256.5),
        (("input", "offset"), 128.0),
        (("input", "offset"), [1.0, 2.0, "3.0"]),
        (("input", "offset"), [1.0, 2.0, None]),
        (("input", "resize"), 3),
        (("outputs",), {}),
        (("outputs", 0), "mask"),
        (("outputs", 0, "shape"), [1, 1, "256", 256]),
        (("outputs", 0, "kind"), ["mask"]),
        (("outputs", 0, "activation"), None),
        (("labels",), "benign"),
        (("labels",), 2),
        (("operating_point",), 0.5),
        (("operating_point", "threshold"), "0.5"),
        (("operating_point", "threshold"), None),
        (("operating_point", "threshold"), [0.5]),
        (("operating_point", "temperature"), "1.0"),
        (("operating_point", "temperature"), None),
        (("operating_point", "int8_threshold"), "0.5"),
        (("presence",), 0.5),
        (("presence", "scale"), None),
        (("presence", "threshold"), None),
        (("presence", "int8_threshold"), [0.5]),
        (("artifacts",), None),
        (("artifacts", 0, "files"), "int8.onnx"),
        (("artifacts", 0, "files", 0), "int8.onnx"),
        (("artifacts", 0, "files", 0, "path"), 3),
        (("artifacts", 0, "files", 0, "size_bytes"), "9"),
        (("artifacts", 2, "int8_convolutions"), 43),
        (("artifacts", 2, "int8_convolutions"), [43]),
        (("artifacts", 2, "int8_convolutions"), [43, 45, 47]),
        (("artifacts", 2, "int8_convolutions"), [43.0, 45]),
        (("artifacts", 2, "int8_convolutions"), [None, None]),
        (("artifacts", 2, "referee_delta"), "small"),
        (("guesses",), "the mask"),
        (("guesses",), None),
        (("versions",), ["edgekit"]),
        (("versions", "edgekit"), 0.1),
        (("calibration",), "BUSI"),
        (("calibration", "frames"), "aa"),
        (("training",), None),
        (("training", "trained_on"), "cc"),  # a string would forbid its letters, not the frame
        (("training", "trained_on"), None),
        (("training", "tuned_on"), [1]),
        (("features",), [0.1]),
        (("features", "frames"), "ee"),
        (("features", "chosen_on"), None),
        (("features", "int8"), [0.1]),
        (("features", "fp32", "parts"), 4),
        (("features", "fp32", "parts"), [4.5]),
        (("features", "fp32", "mean"), 0.1),
        (("features", "fp32", "mean"), [0.1, "0.2", 0.3, 0.4]),
        (("features", "fp32", "whitening"), [1.0, 1.0, 1.0, 1.0]),
        (("features", "fp32", "whitening", 0), [None]),
        (("features", "fp32", "limit"), None),
        (("golden",), []),
        (("golden", "bounds"), None),
        (("golden", "bounds", "mask_mean"), "small"),
        (("golden", "frames"), {}),
        (("golden", "frames", 0, "file"), "golden/0.png"),
        (("golden", "frames", 0, "answers", 0, "probabilities"), 0.75),
        (("golden", "frames", 0, "answers", 0, "presence"), "0.875"),
        (("golden", "frames", 0, "answers", 0, "mask"), "golden/0-mask.png"),
    ],
)
def test_a_value_of_another_type_is_refused(edit: Edit, place: tuple[Any, ...], value: Any) -> None:
    path = edit(lambda raw: at(raw, place[:-1]).__setitem__(place[-1], value))
    with pytest.raises(BundleError, match=r"manifest\.json: "):
        Bundle.open(path)


def test_a_whole_number_does_for_a_fraction(edit: Edit) -> None:
    path = edit(lambda raw: raw["input"].update(scale=[128, 127, 126]))
    assert Bundle.open(path).manifest.input.scale == (128.0, 127.0, 126.0)


def test_what_may_be_null_may_be_null(edit: Edit) -> None:
    path = edit(lambda raw: raw["artifacts"][2].update(int8_convolutions=None, referee_delta=None))
    artifact = Bundle.open(path).manifest.artifacts[2]
    assert (artifact.int8_convolutions, artifact.referee_delta) == (None, None)
    edit(lambda raw: raw["operating_point"].update(int8_threshold=None))
    edit(lambda raw: raw["presence"].update(int8_threshold=None))
    manifest = Bundle.open(path).manifest
    assert manifest.operating_point is not None
    assert manifest.presence is not None
    assert (manifest.operating_point.int8_threshold, manifest.presence.int8_threshold) == (None, None)
    assert Bundle.open(edit(lambda raw: raw.update(presence=None))).manifest.presence is None
    edit(lambda raw: raw["features"].update(int8=None))
    features = Bundle.open(path).manifest.features
    assert features is not None
    assert features.at("int8") is None
    assert features.at("fp32") is not None
    assert Bundle.open(edit(lambda raw: raw.update(features=None))).manifest.features is None
    assert Bundle.open(edit(lambda raw: raw.update(golden=None))).manifest.golden is None


@pytest.mark.parametrize("record", ["operating_point", "presence"])
@pytest.mark.parametrize("name", ["threshold", "int8_threshold"])
@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_threshold_that_is_no_operating_point_is_refused(
    record: str, name: str, threshold: float, edit: Edit
) -> None:
    path = edit(lambda raw: raw[record].update({name: threshold}))
    with pytest.raises(BundleError, match=r"threshold .* outside"):
        Bundle.open(path)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(edit: Edit, temperature: float) -> None:
    with pytest.raises(BundleError, match=r"temperature .* not positive and finite"):
        Bundle.open(edit(lambda raw: raw["operating_point"].update(temperature=temperature)))


def test_each_precision_has_its_operating_point() -> None:
    point = OperatingPoint(0.4, "malignant", "nothing", 1.7, 0.45)
    assert point.at("fp32") == OperatingPoint(0.4, "malignant", "nothing", 1.7)
    assert point.at("int8") == OperatingPoint(0.45, "malignant", "nothing", 1.7)
    assert replace(point, int8_threshold=None).at("int8").threshold == 0.4


# What does not fit together: ValueError for the code that made it, one line for who opens it.

INPUT = InputSpec("image", 8, 8, 1, (128.0,), (128.0,), "stretch")
MASK = OutputSpec("mask", "mask", "sigmoid", (1, 1, 8, 8))
CLASSES = OutputSpec("classes", "class", "softmax", (1, 3))
SCORE = OutputSpec("score", "class", "sigmoid", (1, 1))
OTHER = OutputSpec("other", "other", "none", (1, 64))
FEATURES = OutputSpec("embedding", "features", "none", (1, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": [5]}, "5 channels are 5 groups"),
        ({"parts": []}, r"parts of \(\) channels"),
        ({"parts": [4, 0]}, r"parts of \(4, 0\) channels"),
        ({"mean": [0.1]}, "4 channels are 4 groups"),
        ({"whitening": [[1.0]]}, "4 channels are 4 groups"),
        ({"whitening": [[1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]}, "4 channels are 4 groups"),
        ({"limit": 0.0}, "the limit and the diagonal"),
        ({"limit": float("nan")}, "every number is finite"),
        ({"mean": [0.1, 0.2, 0.3, float("nan")]}, "every number is finite"),
        (
            {"whitening": [[1.0], [0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]]},
            "diagonal of the whitening are above 0",
        ),
        (
            {"parts": [3], "mean": [0.1] * 3, "whitening": [[1.0], [0.0, 1.0], [0.0, 0.0, 1.0]]},
            "have the same channels",
        ),
    ],
)
def test_a_feature_reference_that_measures_nothing_is_refused(change: dict[str, Any], message: str, edit: Edit) -> None:
    with pytest.raises(BundleError, match=rf"manifest\.json: feature reference: .*{message}"):
        Bundle.open(edit(lambda raw: raw["features"]["fp32"].update(change)))


def test_a_feature_reference_of_no_precision_is_refused(edit: Edit) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json: feature reference: there is one at least"):
        Bundle.open(edit(lambda raw: raw["features"].update(fp32=None, int8=None)))


def test_each_precision_has_its_feature_reference(bundle: Bundle) -> None:
    features = bundle.manifest.features
    assert features is not None
    assert (features.at("fp32"), features.at("int8")) == (features.fp32, features.int8)
    assert features.fp32 != features.int8
    assert bundle.manifest.forbidden_frames()["ee"] == "calibrated on"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 0}, "is no image"),
        ({"channels": 0, "offset": (), "scale": ()}, "is no image"),
        ({"offset": (1.0, 2.0)}, "one number for each of 1 channels"),
        ({"channels": 3}, "one number for each of 3 channels"),
        ({"scale": (0.0,)}, "no scale 0"),
        ({"scale": (float("nan"),)}, "must be finite"),
        ({"offset": (float("inf"),)}, "must be finite"),
        ({"resize": "crop"}, "'crop' is none of stretch, letterbox"),
    ],
)
def test_an_input_that_is_no_image_is_refused(change: dict[str, Any], message: str, edit: Edit) -> None:
    with pytest.raises(ValueError, match=message):
        replace(INPUT, **change)
    path = edit(lambda raw: raw.update(input=json.loads(json.dumps(asdict(INPUT) | change))))
    with pytest.raises(BundleError, match=rf"manifest\.json: input 'image'.*{message}"):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("kind", "activation", "shape"),
    [
        ("mask", "sigmoid", (1, 1, 4, 4)),
        ("mask", "none", (1, 1, 4, 4)),
        ("mask", "softmax", (1, 2, 4, 4)),
        ("mask", "sigmoid", (1, 3, 4, 4)),
        ("class", "sigmoid", (1, 1)),
        ("class", "none", (1, 1)),
        ("class", "sigmoid", (1, 3)),
        ("class", "softmax", (1, 2)),
        ("features", "none", (1, 256)),
        ("other", "none", ()),
        ("other", "none", (3, 4, 5)),
    ],
)
def test_outputs_that_make_sense(kind: Kind, activation: Activation, shape: tuple[int, ...]) -> None:
    assert OutputSpec("x", kind, activation, shape).shape == shape


@pytest.mark.parametrize(
    ("kind", "activation", "shape", "message"),
    [
        ("box", "none", (1, 4), "kind 'box' with activation 'none' is not known"),
        ("mask", "relu", (1, 1, 4, 4), "activation 'relu' is not known"),
        ("mask", "sigmoid", (1, 4, 4), r"a mask output has the shape \(1, C, h, w\)"),
        ("mask", "sigmoid", (2, 1, 4, 4), "a mask output has the shape"),
        ("mask", "sigmoid", (1, 1, 0, 4), "at least one value"),
        ("mask", "softmax", (1, 1, 4, 4), "softmax over one channel"),
        ("class", "softmax", (1, 1), "softmax over one channel"),
        ("class", "sigmoid", (1,), r"a class output has the shape \(1, K\)"),
        ("class", "sigmoid", (8, 1), "a class output has the shape"),
        ("class", "sigmoid", (1, 1, 1, 1), "a class output has the shape"),
        ("features", "none", (1, 4, 8, 8), r"a features output has the shape \(1, C\)"),
        ("features", "none", (2, 4), "a features output has the shape"),
        ("features", "none", (4,), "a features output has the shape"),
        ("features", "none", (1, 0), "at least one value"),
        ("features", "softmax", (1, 4), "of kind features is no probability and has activation none"),
        ("other", "sigmoid", (1, 4), "activation none"),
    ],
)
def test_outputs_that_make_none(kind: Any, activation: Any, shape: tuple[int, ...], message: str, edit: Edit) -> None:
    with pytest.raises(ValueError, match=message):
        OutputSpec("x", kind, activation, shape)
    made = {"name": "x", "kind": kind, "activation": activation, "shape": list(shape)}
    with pytest.raises(BundleError, match=rf"manifest\.json: output 'x'.*{message}"):
        Bundle.open(edit(lambda raw: raw["outputs"].append(made)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": (MASK, MASK)}, "names are unique"),
        ({"outputs": (MASK, replace(OTHER, name="mask"))}, "names are unique"),
        ({"outputs": (MASK, replace(MASK, name="second"))}, "one at most is the mask"),
        ({"outputs": (SCORE, CLASSES)}, "one at most is the mask, one the class, one the features"),
        ({"outputs": (MASK, SCORE, FEATURES, replace(FEATURES, name="second"))}, "one at most .* one the features"),
        ({"outputs": (MASK, SCORE)}, "a feature reference needs a features output"),
        ({"outputs": (MASK, SCORE, replace(FEATURES, kind="other"))}, "a feature reference needs a features output"),
        (
            {"outputs": (MASK, SCORE, replace(FEATURES, shape=(1, 256)))},
            "output 'embedding' has 256 channels, its feature reference 4",
        ),
        ({"outputs": (SCORE,), "labels": ()}, "needs 2 different labels, not none"),
        ({"outputs": (SCORE,), "labels": ("", "malignant")}, "needs 2 different labels"),
        ({"outputs": (SCORE,), "labels": ("malignant",)}, "needs 2 different labels, not malignant"),
        ({"outputs": (SCORE,), "labels": ("benign", "malignant", "normal")}, "needs 2 different labels"),
        ({"outputs": (CLASSES,)}, "needs 3 different labels, not benign, malignant"),
        ({"outputs": (CLASSES,), "labels": ("benign", "malignant", "benign")}, "needs 3 different labels"),
        (
            {"operating_point": OperatingPoint(0.5, "cyst", "")},
            "positive 'cyst' is none of the labels benign, malignant",
        ),
        ({"operating_point": None}, "class output 'malignancy' needs an operating point"),
        ({"outputs": (MASK,)}, "an operating point needs a class output"),
        ({"outputs": (SCORE,)}, "presence needs a mask output"),
        ({"outputs": (OTHER,), "operating_point": None, "labels": ()}, "presence needs a mask output"),
        ({"outputs": (MASK, replace(SCORE, activation="none"))}, "temperature of 1.7 needs a class output of logits"),
        ({"outputs": (OTHER,)}, "an operating point needs a class output"),
    ],
)
def test_a_manifest_whose_parts_contradict_each_other_is_refused(
    change: dict[str, Any], message: str, bundle: Bundle, edit: Edit
) -> None:
    if "feature reference" not in message:
        change = {"features": None} | change
    with pytest.raises(ValueError, match=message):
        replace(bundle.manifest, **change)
    values = {
        name: [asdict(item) if isinstance(item, OutputSpec) else item for item in value]
        if isinstance(value, tuple)
        else value and asdict(value)
        for name, value in change.items()
    }
    path = edit(lambda raw: raw.update(values))
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{message}"):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("convolutions", "delta", "message"),
    [
        ((46, 45), None, "46 of 45 convolutions"),
        ((-1, 45), None, "-1 of 45 convolutions"),
        (None, -0.1, "no distance"),
        (None, float("nan"), "no distance"),
    ],
)
def test_impossible_figures_of_an_artifact_are_refused(
    convolutions: tuple[int, int] | None, delta: float | None, message: str
) -> None:
    file = BundleFile("int8.tflite", "", 0)
    Artifact("litert", "int8", (file,), (0, 45), 0.0)
    with pytest.raises(ValueError, match=message):
        Artifact("litert", "int8", (file,), convolutions, delta)
    with pytest.raises(ValueError, match="cannot be said of onnx int8"):
        Artifact("onnx", "int8", (file,), (43, 45))


# Interpretation


def test_a_manifest_says_how_its_outputs_are_read(bundle: Bundle) -> None:
    how = bundle.manifest.interpretation()
    assert (how.input_size, how.resize) == ((256, 192), "letterbox")
    assert how.mask is not None
    assert how.classes is not None
    assert (how.mask.name, how.classes.name) == ("mask", "malignancy")
    assert (how.labels, how.positive, how.threshold) == (("benign", "malignant"), "malignant", 0.37)
    assert how.temperature == 1.7
    assert how.features == bundle.manifest.features_output == OutputSpec("features", "features", "none", (1, 4))


@pytest.mark.parametrize(("precision", "threshold", "presence"), [("fp32", 0.37, 0.25), ("int8", 0.41, 0.21)])
def test_a_manifest_is_read_for_the_precision_that_runs(
    precision: str, threshold: float, presence: float, bundle: Bundle
) -> None:
    how = bundle.manifest.interpretation(precision)
    assert (how.threshold, how.presence) == (threshold, Presence(1.3, 0.4, presence, "BUSI fold 1"))
    assert how == replace(bundle.manifest.interpretation(), threshold=threshold, presence=how.presence)
    with pytest.raises(ValueError, match="precision 'auto' is none of int8, fp32"):
        bundle.manifest.interpretation("auto")


def test_a_mask_or_a_class_alone_can_be_read(bundle: Bundle) -> None:
    plain = replace(bundle.manifest, features=None, golden=None)
    mask = replace(plain, outputs=(OTHER, MASK), labels=(), operating_point=None).interpretation()
    assert (mask.mask, mask.classes, mask.positive, mask.threshold) == (MASK, None, None, None)
    assert mask.presence is not None
    score = replace(plain, outputs=(OTHER, SCORE), presence=None).interpretation()
    assert score.features is None
    assert (score.mask, score.classes, score.threshold) == (None, SCORE, 0.37)


def test_a_network_without_mask_and_class_is_a_bundle_that_cannot_predict(bundle: Bundle) -> None:
    manifest = replace(
        bundle.manifest, golden=None, outputs=(OTHER, FEATURES), labels=(), operating_point=None, presence=None
    )
    write_manifest(bundle.path, manifest)
    assert not Bundle.open(bundle.path).manifest.predicts
    with pytest.raises(BundleError, match=r"EMT-Net: edgekit predict needs to know .*--mask-output or --class-output"):
        manifest.interpretation()
    with pytest.raises(BundleError, match="edgekit predict needs to know"):
        Predictor.open(bundle.path)


# Artifacts


@pytest.mark.parametrize("change", [{"engine": "tensorrt"}, {"precision": "int4"}, {"files": []}])
def test_an_artifact_it_does_not_know_is_refused(edit: Edit, change: dict[str, Any]) -> None:
    path = edit(lambda raw: raw["artifacts"][0].update(change))
    with pytest.raises(BundleError, match="unknown artifact"):
        Bundle.open(path)


@pytest.mark.parametrize("file", ["../other/int8.onnx", "deep/../../int8.onnx", "/etc/passwd", ".."])
def test_a_file_outside_the_bundle_is_refused(edit: Edit, file: str) -> None:
    path = edit(lambda raw: raw["artifacts"][0]["files"][0].update(path=file))
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(path)
