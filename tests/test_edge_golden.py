"""The self-test: golden frames travel in the bundle, and an engine that answers otherwise is noticed."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from foreign_bundles import CLASSES, FEATURES, MASK, write_bundle

from calibration.agreement import SMALLEST_COMPARED_SHARE, AgreementLimits
from edge import golden
from edge.bundle import BUILTIN, Bundle, describe_file, write_manifest
from edge.bundle_file import BundleFile
from edge.engines import is_installed
from edge.errors import BundleError, IntegrityError
from edge.golden import margin, self_test
from edge.golden_answers import Golden, GoldenAnswer, GoldenBounds, GoldenFrame
from edge.manifest import MANIFEST
from quantize.golden import FRAMES, with_golden

SIZE_LIMIT = 150_000


def golden_bundle(folder: Path, *, int8_brighter: float = 0.0) -> Bundle:
    """A small foreign bundle whose golden answers are those of a network without this error."""
    right = write_bundle(folder.with_name(f"{folder.name}-right"), MASK, CLASSES)
    made = with_golden(right.path, right.manifest)
    wrong = write_bundle(folder, MASK, CLASSES, int8_brighter=int8_brighter)
    (right.path / "golden").rename(folder / "golden")
    write_manifest(folder, replace(wrong.manifest, golden=made.golden))
    return Bundle.open(folder)


def test_the_bounds_are_those_of_drift() -> None:
    limits, bounds = AgreementLimits(), GoldenBounds()
    assert (bounds.mask_mean, bounds.mask_dice_min) == (limits.mask_mean, limits.mask_dice_min)
    assert bounds.probability_max == limits.malignancy_max
    assert golden.SMALLEST_COMPARED_SHARE == SMALLEST_COMPARED_SHARE


@pytest.mark.parametrize("network", list(BUILTIN))
@pytest.mark.parametrize("engine", ["litert", "openvino", "onnx"])
def test_every_engine_passes_on_the_built_in_bundles(network: str, engine: str) -> None:
    if not is_installed(engine):
        pytest.skip(f"{engine} is not installed")
    test = self_test(BUILTIN[network], engine=engine)
    assert test.passed, str(test)
    assert (test.engine, test.frames) == (engine, FRAMES)
    assert test.mask_mean is not None
    assert test.probability_max is not None
    assert test.mask_mean < 0.002
    assert test.probability_max < 0.02


@pytest.mark.parametrize("network", list(BUILTIN))
def test_built_in_golden_frames_are_few_small_and_of_several_answers(network: str) -> None:
    bundle = Bundle.open(BUILTIN[network])
    kept = bundle.manifest.golden
    assert kept is not None
    assert kept.bounds == GoldenBounds()
    assert sum(file.size_bytes for file in kept.files()) < SIZE_LIMIT
    decisions = {answer.decision for frame in kept.frames for answer in frame.answers}
    assert decisions == {"benign", "malignant", "no lesion"}
    listed = {file.path for file in bundle.files()} | {MANIFEST}
    assert {str(file.relative_to(bundle.path)) for file in bundle.path.rglob("*") if file.is_file()} == listed


def test_a_network_that_answers_otherwise_fails_with_its_figures(tmp_path: Path) -> None:
    test = self_test(golden_bundle(tmp_path / "bundle", int8_brighter=40.0), engine="onnx", precision="int8")
    assert not test.passed
    assert "a probability differs by" in str(test)
    assert "onnx int8 fails the self-test" in str(test)
    sound = self_test(tmp_path / "bundle", engine="onnx", precision="fp32")
    assert sound.passed, str(sound)


def test_a_mask_that_moved_fails(tmp_path: Path) -> None:
    bundle = golden_bundle(tmp_path / "bundle")
    assert bundle.manifest.golden is not None
    for frame in bundle.manifest.golden.frames:
        mask = frame.answers[0].mask
        assert mask is not None
        pixels = cv2.imread(str(bundle.path / mask.path), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        cv2.imwrite(str(bundle.path / mask.path), np.roll(pixels, 8, axis=1))
    with pytest.raises(IntegrityError, match="not the file its manifest describes"):
        self_test(bundle, engine="onnx", precision="fp32")
    raw = json.loads((bundle.path / MANIFEST).read_text())
    for record in raw["golden"]["frames"]:
        for answer in record["answers"]:
            told = describe_file(bundle.path, bundle.path / answer["mask"]["path"])
            answer["mask"].update(sha256=told.sha256, size_bytes=told.size_bytes)
    (bundle.path / MANIFEST).write_text(json.dumps(raw))
    reasons = self_test(bundle.path, engine="onnx", precision="fp32").reasons
    assert any(reason.startswith("masks differ by") for reason in reasons)


def test_a_network_of_three_labels_and_a_mask_has_answers_for_all(tmp_path: Path) -> None:
    bundle = golden_bundle(tmp_path / "bundle")
    assert bundle.manifest.golden is not None
    for frame in bundle.manifest.golden.frames:
        assert {answer.precision for answer in frame.answers} == {"fp32", "int8"}
        assert all(len(answer.probabilities) == 3 and answer.mask for answer in frame.answers)
        assert frame.answer("fp32") in frame.answers


def test_engines_that_were_apart_at_export_widen_the_bounds(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", MASK, CLASSES, openvino_brighter=20.0)
    made = with_golden(bundle.path, bundle.manifest)
    assert made.golden is not None
    usual = GoldenBounds()
    assert made.golden.bounds.probability_max > usual.probability_max or made.golden.bounds.mask_mean > usual.mask_mean
    assert self_test(Bundle(bundle.path, made), engine="openvino").passed


def test_a_network_that_predicts_nothing_has_none_and_is_run_once(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", FEATURES)
    assert with_golden(bundle.path, bundle.manifest) == bundle.manifest
    test = self_test(bundle, engine="onnx")
    assert (test.passed, test.frames) == (True, 0)
    assert "no golden frames" in str(test)


ANSWER = GoldenAnswer("int8", "benign", (0.7, 0.3), 0.9, None)


def test_decisions_count_where_the_numbers_leave_no_doubt() -> None:
    how = Bundle.open(BUILTIN["emtnet"]).manifest.interpretation("int8")
    assert how.threshold is not None
    assert margin(ANSWER, None, how) == pytest.approx(0.3 - how.threshold)
    assert margin(replace(ANSWER, presence=0.65), None, how) < 0.01
    assert margin(replace(ANSWER, probabilities=(0.2, 0.3, 0.5)), None, how) == 0.0
    faint = np.full((4, 4), 130, np.uint8)
    assert margin(replace(ANSWER, presence=None), faint, how) == pytest.approx(2 / 255)


Make = Callable[[], object]
FILE = BundleFile("golden/0.png", "00", 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GoldenBounds(mask_mean=float("nan")), "golden bounds lie in 0..1"),
        (lambda: GoldenBounds(probability_max=1.5), "golden bounds lie in 0..1"),
        (lambda: replace(ANSWER, probabilities=(0.5, float("nan"))), "no probabilities"),
        (lambda: replace(ANSWER, presence=-0.1), "no probabilities"),
        (lambda: Golden(()), "there is none"),
    ],
)
def test_golden_records_that_could_not_fail_are_refused(make: Make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "answers",
    [
        (),
        (replace(ANSWER, precision="fp32"),),
        (replace(ANSWER, probabilities=(1.0,)),),
        (replace(ANSWER, mask=None),),
    ],
)
def test_answers_of_another_network_are_refused(answers: tuple[GoldenAnswer, ...]) -> None:
    manifest = Bundle.open(BUILTIN["emtnet"]).manifest
    frame = GoldenFrame(FILE, (replace(ANSWER, mask=FILE),))
    replace(manifest, golden=Golden((frame,)))
    with pytest.raises(ValueError, match=r"golden frame golden/0\.png"):
        replace(manifest, golden=Golden((replace(frame, answers=answers),)))


def test_a_bundle_of_before_golden_frames_is_exported_again(tmp_path: Path) -> None:
    raw = json.loads((BUILTIN["emtnet-s"] / MANIFEST).read_text())
    del raw["golden"]
    (tmp_path / MANIFEST).write_text(json.dumps(raw | {"schema": 4}))
    with pytest.raises(BundleError, match="made by an older edgekit; export again"):
        Bundle.open(tmp_path)


def test_as_a_program_it_prints_one_line_of_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    golden.main([str(write_bundle(tmp_path / "bundle", MASK).path), "onnx", "fp32"])
    assert json.loads(capsys.readouterr().out)["test"]["frames"] == 0
    golden.main([str(tmp_path / "absent"), "onnx", "fp32"])
    assert "not a bundle" in json.loads(capsys.readouterr().out)["error"]


def test_the_runtime_alone_can_test_itself() -> None:
    heavy = "assert not {'torch', 'onnx', 'nncf', 'typer'} & sys.modules.keys()"
    code = f"import sys, edge.golden, edge.trial, edge.install; {heavy}"
    subprocess.run([sys.executable, "-c", code], check=True)
