"""The bundle: written whole or not at all, read strictly, every file checked before it runs."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from edge.bundle import (
    BUILTIN,
    MANIFEST,
    SCHEMA,
    Activation,
    Artifact,
    Bundle,
    BundleFile,
    Calibration,
    InputSpec,
    Kind,
    Manifest,
    Missing,
    OperatingPoint,
    OutputSpec,
    Training,
    describe_file,
    new_bundle,
    record_drift,
    write_manifest,
)
from edge.errors import BundleError, EdgekitError, IntegrityError, SinkError
from edge.predictor import Predictor
from edge.presence import Presence
from emtnet.engine import emtnet_interpretation

FILES = {
    "int8.xml": b"<net/>",
    "int8.bin": bytes(range(256)),
    "fp32.xml": b"<net fp32/>",
    "deep/int8.tflite": b"TFL3 int8",
    "fp32.tflite": b"TFL3 fp32",
    "int8.onnx": b"onnx int8",
}
ARTIFACTS = {  # worst first: nothing may depend on the order in the manifest
    ("onnx", "int8"): ("int8.onnx",),
    ("litert", "fp32"): ("fp32.tflite",),
    ("litert", "int8"): ("deep/int8.tflite",),
    ("openvino", "fp32"): ("fp32.xml",),
    ("openvino", "int8"): ("int8.xml", "int8.bin"),
}
PACKAGES = {"openvino": "openvino", "litert": "ai_edge_litert", "onnx": "onnxruntime"}


def manifest_of(folder: Path) -> Manifest:
    """Describe the files of FILES, written to `folder`, by a manifest without empty fields."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    return Manifest(
        schema=SCHEMA,
        network="EMT-Net",
        source_sha256="c0ffee",
        input=InputSpec("image", 256, 192, 3, (123.7, 116.3, 103.5), (58.4, 57.1, 57.4), "letterbox"),
        outputs=(
            OutputSpec("mask", "mask", "softmax", (1, 2, 128, 96)),
            OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
            OutputSpec("features", "other", "none", (1, 64, 8, 6)),
        ),
        labels=("benign", "malignant"),
        operating_point=OperatingPoint(0.37, "malignant", "BUS-BRA fold 1 – sensitivity ≥ 0.941", 1.7, 0.41),
        presence=Presence(1.3, 0.4, 0.25, "BUSI fold 1", 0.21),
        weight_range="full",
        artifacts=tuple(
            Artifact(
                engine,
                precision,
                tuple(describe_file(folder, folder / name) for name in names),
                (43, 45) if (engine, precision) == ("litert", "int8") else None,
                0.0021 if precision == "int8" else None,
            )
            for (engine, precision), names in ARTIFACTS.items()
        ),
        missing=(Missing("onnx", "fp32", "not asked for"),),
        guesses=("the mask is the output of rank 4",),
        drift={"dice_loss": 0.001, "flips": [1, 2]},
        versions={"edgekit": "0.1.0"},
        calibration=Calibration("BUSI", 2, ("aa", "bb"), "ff"),
        training=Training(("BUS-BRA (CC BY 4.0)",), ("cc",), ("dd",)),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    with new_bundle(tmp_path / "bundle") as folder:
        write_manifest(folder, manifest_of(folder))
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def edit(bundle: Bundle) -> Callable[[Callable[[Any], object]], Path]:
    """Change the manifest's JSON in place."""

    def change(edit: Callable[[Any], object]) -> Path:
        raw = json.loads((bundle.path / MANIFEST).read_text())
        edit(raw)
        (bundle.path / MANIFEST).write_text(json.dumps(raw))
        return bundle.path

    return change


Edit = Callable[[Callable[[Any], object]], Path]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def objects(raw: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all JSON objects that are records of the schema (versions and drift are free)."""
    if isinstance(raw, dict) and at not in {("versions",), ("drift",)}:
        yield at
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ():
        yield from objects(value, (*at, key))


def at(raw: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        raw = raw[key]
    return raw


# Round trip


def test_what_was_written_is_what_is_opened(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "a" / "bundle") as folder:
        manifest = manifest_of(folder)
        write_manifest(folder, manifest)
    opened = Bundle.open(str(tmp_path / "a" / "bundle"))
    assert opened.manifest == manifest
    assert opened == Bundle.open(tmp_path / "a" / "bundle")
    assert {name: content for name, content in tree(opened.path).items() if name != MANIFEST} == FILES


def test_manifests_that_differ_are_not_equal(bundle: Bundle, edit: Edit) -> None:
    before = bundle.manifest
    edit(lambda raw: raw["operating_point"].update(threshold=0.38))
    assert Bundle.open(bundle.path).manifest != before


def test_an_fp32_bundle_has_no_calibration(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "bundle") as folder:
        write_manifest(folder, replace(manifest_of(folder), calibration=None, drift=None))
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.calibration is None
    assert not manifest.phantom_calibrated
    assert "aa" not in manifest.forbidden_frames()


def test_sizes_are_those_of_the_files(bundle: Bundle) -> None:
    assert {(a.engine, a.precision): a.size_bytes for a in bundle.manifest.artifacts} == {
        key: sum(len(FILES[name]) for name in names) for key, names in ARTIFACTS.items()
    }


def test_phantom_calibration_is_known(bundle: Bundle, edit: Edit) -> None:
    assert not bundle.manifest.phantom_calibrated
    assert Bundle.open(edit(lambda raw: raw["calibration"].update(source="phantom"))).manifest.phantom_calibrated


def test_forbidden_frames_name_their_gravest_use(bundle: Bundle) -> None:
    assert bundle.manifest.forbidden_frames() == {
        "aa": "calibrated on",
        "bb": "calibrated on",
        "cc": "trained on",
        "dd": "tuned on",
    }
    calibration = Calibration("BUSI", 3, ("calibrated", "tuned", "trained"), "ff")
    training = Training((), ("trained",), ("tuned", "trained"))
    manifest = replace(bundle.manifest, calibration=calibration, training=training)
    assert manifest.forbidden_frames() == {name: f"{name} on" for name in ("calibrated", "tuned", "trained")}


def test_drift_is_recorded_and_nothing_else_changes(bundle: Bundle) -> None:
    before = tree(bundle.path)
    record_drift(bundle, {"frames": 20, "passed": True})
    assert Bundle.open(bundle.path).manifest == replace(bundle.manifest, drift={"frames": 20, "passed": True})
    after = tree(bundle.path)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [MANIFEST]


# Which artifact


@pytest.mark.parametrize(
    ("wish", "chosen"),
    [
        ({}, ("openvino", "int8")),
        ({"precision": "fp32"}, ("openvino", "fp32")),
        ({"engine": "litert"}, ("litert", "int8")),
        ({"engine": "litert", "precision": "fp32"}, ("litert", "fp32")),
        ({"engine": "onnx"}, ("onnx", "int8")),
    ],
)
def test_choice_prefers_openvino_and_int8(bundle: Bundle, wish: dict[str, str], chosen: tuple[str, str]) -> None:
    artifact = bundle.choose(**wish)
    assert (artifact.engine, artifact.precision) == chosen


@pytest.mark.parametrize(
    ("absent", "engine"),
    [
        (("openvino",), "litert"),
        (("openvino", "litert"), "onnx"),
        (("litert", "onnx"), "openvino"),
        (("openvino", "litert", "onnx"), "openvino"),  # none is installed: opening it names the extra
    ],
)
def test_choice_prefers_engines_that_are_installed(
    bundle: Bundle, absent: tuple[str, ...], engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in absent:
        monkeypatch.setitem(sys.modules, PACKAGES[name], None)
    assert bundle.choose().engine == engine
    assert bundle.choose(engine="openvino").engine == "openvino"  # asked for by name


@pytest.mark.parametrize(
    "wish", [{"engine": "onnx", "precision": "fp32"}, {"engine": "tensorrt"}, {"precision": "int4"}]
)
def test_choice_of_what_is_not_there_says_what_is(bundle: Bundle, wish: dict[str, str]) -> None:
    with pytest.raises(BundleError, match=r"no artifact for engine .* it has .*openvino int8"):
        bundle.choose(**wish)


# Files


def test_verified_paths_lead_to_the_files_in_order(bundle: Bundle) -> None:
    paths = bundle.verified_paths(bundle.choose())
    assert [path.relative_to(bundle.path).as_posix() for path in paths] == ["int8.xml", "int8.bin"]
    assert [path.read_bytes() for path in paths] == [FILES["int8.xml"], FILES["int8.bin"]]


@pytest.mark.parametrize("position", [0, 100, 255])
def test_a_flipped_bit_in_any_file_of_an_artifact_is_found(bundle: Bundle, position: int) -> None:
    content = bytearray(FILES["int8.bin"])
    content[position] ^= 1
    (bundle.path / "int8.bin").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"int8\.bin: not the file its manifest describes"):
        bundle.verified_paths(bundle.choose())
    assert bundle.verified_paths(bundle.choose(engine="litert"))  # the others still run


@pytest.mark.parametrize("content", [b"", FILES["int8.bin"][:-1], FILES["int8.bin"] + b"\0"])
def test_a_file_of_another_length_is_found(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "int8.bin").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"int8\.bin: not the file"):
        bundle.verified_paths(bundle.choose())


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "int8.bin").unlink()
    with pytest.raises(IntegrityError, match=r"int8\.bin: cannot be read .*No such file.*copy the bundle again"):
        bundle.verified_paths(bundle.choose())


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
OTHER = OutputSpec("features", "other", "none", (1, 64))


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
        ({"outputs": (SCORE, CLASSES)}, "one at most is the mask, one the class"),
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
    mask = replace(bundle.manifest, outputs=(OTHER, MASK), labels=(), operating_point=None).interpretation()
    assert (mask.mask, mask.classes, mask.positive, mask.threshold) == (MASK, None, None, None)
    assert mask.presence is not None
    score = replace(bundle.manifest, outputs=(OTHER, SCORE), presence=None).interpretation()
    assert (score.mask, score.classes, score.threshold) == (None, SCORE, 0.37)


def test_a_network_of_other_outputs_is_a_bundle_that_cannot_predict(bundle: Bundle) -> None:
    manifest = replace(bundle.manifest, outputs=(OTHER,), labels=(), operating_point=None, presence=None)
    write_manifest(bundle.path, manifest)
    assert not Bundle.open(bundle.path).manifest.predicts
    with pytest.raises(BundleError, match=r"EMT-Net: edgekit predict needs to know .*--mask-output or --class-output"):
        manifest.interpretation()
    with pytest.raises(BundleError, match="edgekit predict needs to know"):
        Predictor.open(bundle.path)


def test_the_built_in_bundle_is_emt_net(bundle: Bundle) -> None:
    manifest = Bundle.open(BUILTIN["emtnet"]).manifest
    assert manifest.operating_point is not None
    wanted = emtnet_interpretation(manifest.network, manifest.operating_point, manifest.presence)
    assert manifest.interpretation() == wanted
    assert (manifest.input.channels, manifest.input.offset, manifest.input.scale) == (1, (128.0,), (128.0,))
    counted = {(a.engine, a.precision): a.int8_convolutions for a in manifest.artifacts}
    assert counted == {("onnx", "int8"): None, ("openvino", "int8"): None, ("litert", "int8"): (43, 45)}


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


# Writing


def test_a_new_bundle_replaces_the_old_one_completely(bundle: Bundle) -> None:
    with new_bundle(bundle.path) as folder:
        assert not tree(folder)
        (folder / MANIFEST).write_text("new")
        assert Bundle.open(bundle.path) == bundle  # until the block ends
    assert tree(bundle.path) == {MANIFEST: b"new"}
    assert [item.name for item in bundle.path.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("fault", [EdgekitError("conversion"), ValueError("bug"), KeyboardInterrupt(), SystemExit(1)])
def test_whatever_goes_wrong_the_old_bundle_stays_and_nothing_is_left(bundle: Bundle, fault: BaseException) -> None:
    before = tree(bundle.path)
    with pytest.raises(type(fault)) as caught, new_bundle(bundle.path) as folder:
        (folder / MANIFEST).write_text("new")
        raise fault
    assert caught.value is fault
    assert tree(bundle.path) == before
    assert [item.name for item in bundle.path.parent.iterdir()] == ["bundle"]


def test_a_first_bundle_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_bundle(tmp_path / "bundle") as folder:
        write_manifest(folder, manifest_of(folder))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_bytes(b"sea")
    with pytest.raises(BundleError, match="photos: exists and is not a bundle"), new_bundle(photos):
        pytest.fail("the block must not run")
    with (
        pytest.raises(BundleError, match=r"holiday\.jpg: exists and is not a bundle"),
        new_bundle(photos / "holiday.jpg"),
    ):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == {"photos/holiday.jpg": b"sea"}


def test_an_empty_folder_may_become_a_bundle(tmp_path: Path) -> None:
    with new_bundle(tmp_path) as folder:
        write_manifest(folder, manifest_of(folder))
    assert Bundle.open(tmp_path).manifest.network == "EMT-Net"


def test_a_place_that_cannot_be_written_is_a_sink_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SinkError, match="file/bundle: cannot be written"), new_bundle(tmp_path / "file" / "bundle"):
        pytest.fail("the block must not run")
