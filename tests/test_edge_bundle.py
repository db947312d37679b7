"""The bundle: written whole or not at all, every file checked before it runs."""

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from sample_bundles import ARTIFACTS, FILES, PACKAGES, Edit, bundle, edit, manifest_of, tree

from edge.bundle import Bundle, new_bundle, record_drift, write_manifest
from edge.errors import BundleError, EdgekitError, IntegrityError, SinkError
from edge.manifest import (
    MANIFEST,
    Calibration,
    Training,
)

__all__ = ["bundle", "edit"]  # the fixtures

all_engines = pytest.mark.skipif(
    any(find_spec(package) is None for package in PACKAGES.values()),
    reason="asks which of all engines is chosen, and not all are installed",
)


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
        "ee": "calibrated on",
    }
    calibration = Calibration("BUSI", 3, ("calibrated", "tuned", "trained"), "ff")
    training = Training((), ("trained",), ("tuned", "trained"))
    manifest = replace(bundle.manifest, calibration=calibration, training=training, features=None)
    assert manifest.forbidden_frames() == {name: f"{name} on" for name in ("calibrated", "tuned", "trained")}


def test_drift_is_recorded_and_nothing_else_changes(bundle: Bundle) -> None:
    before = tree(bundle.path)
    record_drift(bundle, {"frames": 20, "passed": True})
    assert Bundle.open(bundle.path).manifest == replace(bundle.manifest, drift={"frames": 20, "passed": True})
    after = tree(bundle.path)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [MANIFEST]


# Which artifact


@all_engines
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


@all_engines
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
    paths = bundle.verified_paths(bundle.choose(engine="openvino"))
    assert [path.relative_to(bundle.path).as_posix() for path in paths] == ["int8.xml", "int8.bin"]
    assert [path.read_bytes() for path in paths] == [FILES["int8.xml"], FILES["int8.bin"]]


@pytest.mark.parametrize("position", [0, 100, 255])
def test_a_flipped_bit_in_any_file_of_an_artifact_is_found(bundle: Bundle, position: int) -> None:
    content = bytearray(FILES["int8.bin"])
    content[position] ^= 1
    (bundle.path / "int8.bin").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"int8\.bin: not the file its manifest describes"):
        bundle.verified_paths(bundle.choose(engine="openvino"))
    assert bundle.verified_paths(bundle.choose(engine="litert"))  # the others still run


@pytest.mark.parametrize("content", [b"", FILES["int8.bin"][:-1], FILES["int8.bin"] + b"\0"])
def test_a_file_of_another_length_is_found(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "int8.bin").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"int8\.bin: not the file"):
        bundle.verified_paths(bundle.choose(engine="openvino"))


def test_a_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "int8.bin").unlink()
    with pytest.raises(IntegrityError, match=r"int8\.bin: cannot be read .*No such file.*copy the bundle again"):
        bundle.verified_paths(bundle.choose(engine="openvino"))


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
