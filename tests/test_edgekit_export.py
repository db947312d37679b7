"""`edgekit export` of a network that is not ours, and every command on what it made."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from edgekit_command import Edgekit, one_line
from foreign_networks import SIDE, Constants, array, model_of
from onnx import helper

from calibration.familiarity import MIN_FRAMES
from edge.bundle import Bundle
from edge.phantom import phantom_case
from edge.predictor import Predictor

EVERY = {(engine, precision) for engine in ("onnx", "openvino", "litert") for precision in ("fp32", "int8")}
PIXELS = ("--mean", 0, "--std", 1, "--frames", 8)


def node(op: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)  # type: ignore[arg-type]


def darkness(*outputs: str, height: int = SIDE, width: int = SIDE) -> onnx.ModelProto:
    """Lesion is what is darker than a third, and malignant a frame that is dark in the mean; float, 0 to 1."""
    nodes = [
        node("Conv", "image blur bias", "smooth", pads=[1, 1, 1, 1]),
        node("Relu", "smooth", "features"),
        node("Conv", "features mix level", "mask"),
        node("GlobalAveragePool", "features", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("Gemm", "flat head offset", "scores", transB=1),
    ]
    constants: Constants = {
        "blur": np.concatenate([np.full((1, 1, 3, 3), 1 / 9), np.full((1, 1, 3, 3), -1 / 9)]).astype(np.float32),
        "bias": array([0, 1]),
        "mix": array([-10, 10]).reshape(1, 2, 1, 1),
        "level": array([-3.4]),
        "head": array([[6, 0], [0, 6]]),
        "offset": array([0, -3]),
    }
    shapes = {"mask": (1, 1, height, width), "scores": (1, 2)}
    kept = [each for each in nodes if each.output[0] != ("mask" if "mask" not in outputs else "")]
    kept = kept if "scores" in outputs else kept[:3]
    wanted = {name: shapes[name] for name in outputs}
    return model_of(kept, {"image": (1, 1, height, width)}, dict(wanted), constants)


def saved(folder: Path, *outputs: str) -> Path:
    path = folder / "net.onnx"
    onnx.save(darkness(*(outputs or ("mask", "scores"))), path)
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, "subprocess.CompletedProcess[str]"]]:
    """The command as a user types it."""
    folder = tmp_path_factory.mktemp("exported")
    saved(folder)
    command = ["export", "net.onnx", "--int8", "--mean", "0", "--std", "1", "--frames", "12", "-o", "made"]
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    yield folder / "made", done


Exported = tuple[Path, "subprocess.CompletedProcess[str]"]


def test_a_network_without_features_is_told_to_leave_the_guard_without_a_reference(exported: Exported) -> None:
    assert "the network has no features output, so the guard does not know unfamiliar pictures" in exported[1].stderr


def test_an_emt_net_says_whether_its_bundle_has_a_reference(edgekit: Edgekit, tmp_path: Path) -> None:
    clinic = tmp_path / "clinic"
    clinic.mkdir()
    for seed in range(MIN_FRAMES):
        cv2.imwrite(str(clinic / f"{seed}.png"), phantom_case(seed, size=(64, 80)).pixels)
    arguments = ("export", "--engine", "onnx", "-o", tmp_path / "made")
    code, out, err = edgekit(*arguments, "--calibration", clinic)
    assert code == 0, err
    assert f"feature reference of {MIN_FRAMES} frames of clinic" in out.replace("\n", " ")
    assert "without --int8 the calibration frames only give the feature reference" in err
    assert Bundle.open(tmp_path / "made").manifest.features is not None
    assert Bundle.open(tmp_path / "made").manifest.calibration is None
    (clinic / "0.png").unlink()
    code, out, err = edgekit(*arguments, "--calibration", clinic)
    assert code == 0, err
    assert f"no feature reference: {MIN_FRAMES - 1} frames are too few" in err
    assert "no feature reference, for the reason above" in err
    assert "feature reference of" not in out
    code, _, err = edgekit(*arguments)
    assert code == 0, err
    assert "no feature reference without --calibration DIR" in err


# The command.


def test_one_line_makes_all_six_artifacts(exported: Exported) -> None:
    path, done = exported
    assert done.returncode == 0, done.stderr
    manifest = Bundle.open(path).manifest
    assert {(artifact.engine, artifact.precision) for artifact in manifest.artifacts} == EVERY
    assert manifest.missing == ()
    assert manifest.network == "net"
    assert manifest.calibration is not None
    assert manifest.calibration.count == 12


def test_it_shows_what_it_made_and_what_it_guessed(exported: Exported) -> None:
    path, done = exported
    manifest = Bundle.open(path).manifest
    assert "made: net" in done.stdout
    for artifact in manifest.artifacts:
        assert artifact.files[0].path in done.stdout
        assert f"  {artifact.engine} {artifact.precision}\n" in done.stderr
    assert "1 of 3" in done.stdout, "INT8 layers"
    assert "quantising on 12 frames" in done.stderr
    assert len(manifest.guesses) == 7
    for guess in manifest.guesses:
        assert f"note: guessed: {guess}\n" in done.stderr
    assert "calibrated on phantoms" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_sidecar_beside_the_network_leaves_nothing_to_guess(edgekit: Edgekit, tmp_path: Path) -> None:
    path = saved(tmp_path)
    said = {
        "mean": 0,
        "std": 1,
        "mask_output": "mask",
        "class_output": "scores",
        "mask_activation": "sigmoid",
        "class_activation": "softmax",
        "labels": ["benign", "malignant"],
        "positive": "malignant",
        "threshold": 0.6,
    }
    path.with_suffix(".json").write_text(json.dumps(said))
    code, _, err = edgekit("export", path, "-o", tmp_path / "made", "--threshold", 0.7, "--engine", "onnx")
    assert code == 0, err
    assert "guessed" not in err
    manifest = Bundle.open(tmp_path / "made").manifest
    assert manifest.guesses == ()
    assert manifest.labels == ("benign", "malignant")
    assert manifest.operating_point is not None
    assert (manifest.operating_point.threshold, manifest.operating_point.chosen_on) == (0.7, "given at export")
    assert {artifact.precision for artifact in manifest.artifacts} == {"fp32"}


BAD: dict[str, tuple[tuple[object, ...], int, str]] = {
    "no mean": ((), 1, "give --mean and --std as in training"),
    "mean alone": (("--mean", 0.5), 2, "mean and std belong together"),
    "labels": ((*PIXELS, "--labels", "benign"), 1, "needs 2 different labels, not benign"),
    "twice": ((*PIXELS, "--labels", "benign,benign"), 2, "must differ"),
    "output": ((*PIXELS, "--mask-output", "seg"), 1, "there is no output 'seg'; the network has mask, scores"),
    "size": ((*PIXELS, "--size", "32"), 2, "is not HEIGHTxWIDTH"),
    "wrong size": ((*PIXELS, "--size", "32x64"), 1, "is for 32×32 pixels, not 32×64"),
    "channels": ((*PIXELS, "--channels", 3), 1, "no axis has 3 channels"),
    "numbers": (("--mean", "grey", "--std", 1), 2, "'grey' is not a number"),
    "not finite": (("--mean", 0, "--std", "nan"), 2, "must be finite"),
    "activation": ((*PIXELS, "--activation", "relu"), 2, "none of sigmoid, softmax, none"),
    "softmax": ((*PIXELS, "--activation", "softmax"), 1, "softmax over one channel is always 1"),
    "positive": ((*PIXELS, "--positive", "malignant"), 1, "none of the labels class 0, class 1"),
    "threshold": ((*PIXELS, "--threshold", 1.5), 2, "lies outside 0..1"),
    "resize": ((*PIXELS, "--resize", "crop"), 2, "'crop' is not one of"),
    "sidecar": (("--describe", "gone.json"), 1, "gone.json: cannot be read"),
    "pixel range": ((*PIXELS, "--pixel-range", 2), 2, "neither 1 nor 255"),
    "other folder": ((*PIXELS, "-o", "."), 1, "exists and is not a bundle"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_one_clear_message(
    case: str, edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, wanted, message = BAD[case]
    code, _, err = edgekit("export", saved(tmp_path), "--engine", "onnx", "-o", "made", *arguments)
    assert code == wanted
    assert "Traceback" not in err
    if code == 1:
        assert message in one_line(err)
    else:  # in a box, of which the lines are as long as the terminal is wide
        assert message in " ".join(err.replace("│", " ").split())
    assert [item.name for item in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    "option", [("--mean", 0), ("--labels", "a,b"), ("--describe", "net.json"), ("--resize", "stretch")]
)
def test_a_checkpoint_is_not_described(option: tuple[object, ...], edgekit: Edgekit, tmp_path: Path) -> None:
    for model in ((), (tmp_path / "net.safetensors",)):
        code, _, err = edgekit("export", *model, *option, "-o", tmp_path / "made")
        assert code == 2
        assert "a checkpoint describes itself" in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["net.ONNX", "net", "net.pb"])
def test_any_file_that_is_no_checkpoint_is_taken_for_a_network(name: str, edgekit: Edgekit, tmp_path: Path) -> None:
    saved(tmp_path).rename(tmp_path / name)
    code, _, err = edgekit("export", tmp_path / name, *PIXELS, "--engine", "onnx", "-o", tmp_path / "made")
    assert code == 0, err
    (tmp_path / name).write_text("no network")
    code, _, err = edgekit("export", tmp_path / name, *PIXELS, "-o", tmp_path / "made")
    assert code == 1
    assert "not an ONNX file" in one_line(err)


def test_a_quantised_network_says_that_its_scales_stay(edgekit: Edgekit, tmp_path: Path) -> None:
    from test_quantize_foreign_qdq import brevitas

    path = tmp_path / "net.onnx"
    onnx.save(brevitas(), path)
    code, _, err = edgekit("export", path, "--mean", 0.5, "--std", 0.5, "-o", tmp_path / "made", "--engine", "onnx")
    assert code == 0, err
    assert "net.onnx has quantisers already; they stay as they are" in err
    assert "calibrated on phantoms" not in err
    point = Bundle.open(tmp_path / "made").manifest.operating_point
    assert point is None or point.int8_threshold is None  # there is no FP32 to move it from
    code, _, err = edgekit("export", path, "--mean", 0.5, "--std", 0.5, "-o", tmp_path / "other", "--precision", "fp32")
    assert code == 1
    assert "there is no FP32 of it" in one_line(err)


# The commands on it.


def test_the_bundle_predicts(exported: Exported, edgekit: Edgekit, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "frame.png"), phantom_case(5).pixels)
    answers = {}
    for engine, precision in sorted(EVERY):
        out = tmp_path / f"{engine}-{precision}"
        code, _, err = edgekit(
            *("predict", tmp_path / "frame.png", "--bundle", exported[0], "-o", out),
            *("--engine", engine, "--precision", precision),
        )
        assert code == 0, err
        assert "guesses made at export: 7, listed in its manifest.json" in err
        (found,) = json.loads((out / "predictions.json").read_text())["predictions"]
        assert found["decision"] in ("class 0", "class 1")
        answers[engine, precision] = found["probabilities"]["class 1"], found["lesion_area_px"]
        assert (out / "frame_overlay.png").is_file()
    assert max(p for p, _ in answers.values()) - min(p for p, _ in answers.values()) < 0.02
    areas = [area for _, area in answers.values()]
    assert min(areas) > 0
    assert max(areas) - min(areas) < 0.03 * max(areas)


def test_the_bundle_is_timed(exported: Exported, edgekit: Edgekit, tmp_path: Path) -> None:
    code, out, err = edgekit("bench", exported[0], "--rounds", 2, "--json", tmp_path / "bench.json")
    assert code == 0, err
    assert len(json.loads((tmp_path / "bench.json").read_text())["results"]) == 6
    assert "litert int8" in out


def test_the_bundle_keeps_to_its_fp32_network(
    exported: Exported, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    report = tmp_path / "drift.json"
    code, out, err = edgekit("drift", exported[0], "--data", small_dataset / "images", "--json", report)
    assert code == 0, err
    assert "Agreement on 20 frames" in out
    artifacts = json.loads(report.read_text())["artifacts"]
    assert {(each["engine"], each["precision"]) for each in artifacts} == EVERY - {("onnx", "fp32")}


@pytest.mark.parametrize(("output", "absent"), [("mask", "malignancy"), ("scores", "lesion_area_px")])
def test_networks_of_one_output_go_through_every_command(
    output: str, absent: str, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    code, _, err = edgekit("export", saved(tmp_path, output), "--int8", *PIXELS, "-o", made)
    assert code == 0, err
    manifest = Bundle.open(made).manifest
    assert {(artifact.engine, artifact.precision) for artifact in manifest.artifacts} == EVERY
    assert bool(manifest.labels) == (output == "scores")
    code, out, err = edgekit("predict", small_dataset / "images", "--bundle", made, "-o", tmp_path / "out")
    assert code == 0, err
    record = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(record["predictions"]) == 20
    assert all(found[absent] is None for found in record["predictions"])
    assert "–" in out
    code, _, err = edgekit("bench", made, "--rounds", 2, "--engine", "litert")
    assert code == 0, err
    code, out, err = edgekit("drift", made, "--data", small_dataset / "images", "--record")
    assert code == 0, err
    assert Bundle.open(made).manifest.drift is not None


# Letterbox.


def band(width: int, height: int) -> np.ndarray:
    """A bright frame with a dark rectangle right of the middle."""
    frame = np.full((height, width), 200, np.uint8)
    frame[height // 8 : height * 5 // 8, width // 2 : width * 7 // 8] = 20
    return frame


def test_a_letterboxed_frame_keeps_its_aspect_and_its_mask_its_place(
    edgekit: Edgekit, tmp_path: Path, write_png: Callable[[Path, np.ndarray], Path]
) -> None:
    made = tmp_path / "made"
    options = ("--resize", "letterbox", "--mask-output", "mask")
    code, _, err = edgekit("export", saved(tmp_path), "--int8", *PIXELS, *options, "-o", made)
    assert code == 0, err
    assert Bundle.open(made).manifest.input.resize == "letterbox"
    for width, height in ((192, 96), (96, 192)):
        frame = band(width, height)
        for engine, precision in sorted(EVERY):
            with Predictor.open(made, engine=engine, precision=precision) as predictor:
                found = predictor.predict(frame)
            assert found.mask is not None
            assert found.mask.shape == frame.shape
            lesion, wanted = found.mask, frame < 100
            overlap = (lesion & wanted).sum() / (lesion | wanted).sum()
            assert overlap > 0.7, (engine, precision, width)
    path = write_png(tmp_path / "frame.png", band(192, 96))
    code, _, err = edgekit("predict", path, "--bundle", made, "-o", tmp_path / "out")
    assert code == 0, err
    (answer,) = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert answer["lesion_box_px"] == pytest.approx([96, 12, 72, 48], abs=6)
