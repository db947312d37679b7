"""The commands as a user meets them: what they write, what they print, how they exit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from edgekit_command import Edgekit, one_line
from foreign_bundles import CLASSES, FEATURES, LABELS, MASK, write_bundle
from onnx import numpy_helper

from edge.bundle import BUILTIN, Bundle, describe_file, write_manifest
from edge.manifest import OutputSpec
from edge.phantom import phantom_case
from edge.presence import Presence
from emtnet.weights import SHIPPED
from quantize.tflite.lower import to_tflite


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The shipped checkpoint exported to INT8 on a few phantoms, by the command."""
    folder = tmp_path_factory.mktemp("export") / "bundle"
    subprocess.run(
        [sys.executable, "-m", "edgekit", "export", "--int8", "--frames", "24", "-o", folder], check=True, timeout=300
    )
    yield folder


def test_export_makes_all_six_artifacts(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert {(a.engine, a.precision) for a in manifest.artifacts} == {
        (engine, precision) for engine in ("openvino", "litert", "onnx") for precision in ("fp32", "int8")
    }
    assert manifest.missing == ()
    assert all(a.size_bytes <= 4.5e6 for a in manifest.artifacts if a.precision == "int8")


def test_a_phantom_bundle_says_so_wherever_it_is_used(bundle: Path, edgekit: Edgekit, small_dataset: Path) -> None:
    for arguments in (
        ("bench", bundle, "--rounds", 1, "--engine", "litert"),
        ("predict", small_dataset / "images/0.png", "--bundle", bundle, "-o", small_dataset / "out"),
        ("evaluate", bundle, "--data", small_dataset),
        ("drift", bundle, "--data", small_dataset),
    ):
        _, _, stderr = edgekit(*arguments)
        assert "calibrated on phantoms" in stderr, arguments


def test_evaluate_json_has_the_fixed_fields(
    bundle: Path, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "evaluate.json"
    code, _, _ = edgekit("evaluate", bundle, "--data", small_dataset, "--folds", "1,2", "--json", file)
    record = json.loads(file.read_text())
    assert code == 0
    assert record["n"] == 8 == len(record["cases"])
    assert {
        "auc",
        "accuracy",
        "accuracy_at_half",
        "sensitivity",
        "specificity",
        "specificity_at_sensitivity_0.941",
        "dice_mean",
        "iou_mean",
        "normal_false_alarm_rate",
    } <= record.keys()
    assert {"image", "label", "probability", "dice"} <= record["cases"][0].keys()


def test_checkpoint_and_fp32_bundle_say_the_same(
    bundle: Path, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    files = tmp_path / "checkpoint.json", tmp_path / "bundle.json"
    assert edgekit("evaluate", SHIPPED["emtnet"], "--data", small_dataset, "--json", files[0])[0] == 0
    assert (
        edgekit(
            "evaluate",
            bundle,
            "--precision",
            "fp32",
            "--engine",
            "openvino",
            "--data",
            small_dataset,
            "--json",
            files[1],
        )[0]
        == 0
    )
    one, other = (json.loads(file.read_text())["cases"] for file in files)
    assert [a["probability"] for a in one] == pytest.approx([b["probability"] for b in other], abs=1e-3)


def test_drift_json_has_the_fixed_fields(bundle: Path, edgekit: Edgekit, small_dataset: Path, tmp_path: Path) -> None:
    file = tmp_path / "drift.json"
    loose = ("--max-dice-loss", 1, "--max-sensitivity-loss", 1, "--max-auc-loss", 1, "--max-flips", 1)
    code, out, err = edgekit("drift", bundle, "--data", small_dataset, "--json", file, *loose)
    record = json.loads(file.read_text())
    assert code in (0, 3), err
    assert len(record["artifacts"]) == 5
    for artifact in record["artifacts"]:
        assert {"engine", "precision", "metrics", "delta", "flips", "agreement", "passed", "cases"} <= artifact.keys()
        assert artifact["flips"].keys() == {"malignant_to_benign", "benign_to_malignant"}
        if artifact["precision"] == "fp32":
            assert artifact["agreement"]["malignancy_max"] < 1e-3
    assert "Drift on 20 frames" in out


def test_drift_records_its_figures_in_the_manifest(bundle: Path, edgekit: Edgekit, small_dataset: Path) -> None:
    edgekit("drift", bundle, "--data", small_dataset, "--record")
    drift = Bundle.open(bundle).manifest.drift
    assert drift is not None
    assert drift["frames"] == 20
    assert "cases" not in drift["artifacts"][0]


def test_drift_without_labels_reports_agreement_only(
    bundle: Path, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    file = tmp_path / "drift.json"
    _, _, err = edgekit("drift", bundle, "--data", small_dataset / "images", "--json", file)
    record = json.loads(file.read_text())
    assert "agreement only" in err
    assert record["reference"] is None
    assert record["artifacts"][0]["metrics"] is None


def test_drift_exits_with_3_when_an_artifact_says_something_else(
    bundle: Path, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    """A TFLite file whose class head has the other sign must not pass."""
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    model = onnx.load(bundle / "fp32.onnx")
    (wrong / "fp32.onnx").write_bytes(model.SerializeToString())
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    for tensor in model.graph.initializer:
        if tensor.name in head.input:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    (wrong / "fp32.tflite").write_bytes(to_tflite(model))
    manifest = Bundle.open(bundle).manifest
    kept = [a for a in manifest.artifacts if a.precision == "fp32" and a.engine != "openvino"]
    kept = [replace(a, files=tuple(describe_file(wrong, wrong / file.path) for file in a.files)) for a in kept]
    write_manifest(wrong, replace(manifest, artifacts=tuple(kept), golden=None))
    code, _, err = edgekit("drift", wrong, "--data", small_dataset)
    assert code == 3
    assert "AUC" in one_line(err) or "sensitivity" in one_line(err)


def test_bench_json_has_the_fixed_fields(bundle: Path, edgekit: Edgekit, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    code, _, err = edgekit("bench", bundle, "--device", "cpu", "--rounds", 3, "--threads", 1, "--json", file)
    assert code == 0, err
    record = json.loads(file.read_text())
    assert len(record["results"]) == 6
    for result in record["results"]:
        assert {"engine", "precision", "device", "threads", "p50_ms", "p90_ms", "p99_ms", "fps"} <= result.keys()
        assert len(result["samples_ms"]) == 3
        assert result["threads"] == 1
        assert 10e6 < result["peak_rss_bytes"] < 2e9
        assert result["speedup_vs_fp32"] > 0
    assert record["environment"]["device"]["cores"] >= 1


def test_bench_and_predict_need_no_export(edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in bundle: what a Pi without torch runs right after installation."""
    monkeypatch.chdir(tmp_path)
    assert not Bundle.open(BUILTIN["emtnet"]).manifest.phantom_calibrated
    assert edgekit("bench", "--rounds", 1)[0] == 0
    import cv2

    cv2.imwrite("frame.png", phantom_case(3).pixels)
    code, out, err = edgekit("predict", "frame.png", "-o", "out")
    assert code == 0, err
    record = json.loads(Path("out/predictions.json").read_text())
    (found,) = record["predictions"]
    assert found["decision"] in ("benign", "malignant")
    assert found["malignancy"] == found["probabilities"]["malignant"] == 1 - found["probabilities"]["benign"]
    presence = Bundle.open(BUILTIN["emtnet"]).manifest.presence
    assert presence is not None
    assert (record["positive"], record["presence_threshold"]) == ("malignant", presence.int8_threshold)
    assert cv2.imread("out/frame_overlay.png") is not None
    assert "frame.png" in out


@pytest.mark.parametrize(
    ("outputs", "decisions", "absent"),
    [
        ((MASK, CLASSES, FEATURES), {"normal", "benign", "malignant"}, set()),
        ((MASK,), {"lesion", "no lesion"}, {"malignancy"}),
        ((CLASSES, FEATURES), {"normal", "benign", "malignant"}, {"lesion_area_px", "lesion_box_px"}),
    ],
)
def test_networks_of_any_outputs_go_through_every_command(
    outputs: tuple[OutputSpec, ...],
    decisions: set[str],
    absent: set[str],
    edgekit: Edgekit,
    small_dataset: Path,
    tmp_path: Path,
) -> None:
    foreign = write_bundle(tmp_path / "foreign", *outputs).path
    folder = tmp_path / "out"
    code, out, err = edgekit("predict", small_dataset / "images", "--bundle", foreign, "-o", folder)
    assert code == 0, err
    assert "foreign: guesses made at export: 1, listed in its manifest.json" in err
    record = json.loads((folder / "predictions.json").read_text())
    assert len(record["predictions"]) == 20 == len(list(folder.glob("*_overlay.png")))
    for found in record["predictions"]:
        assert found["decision"] in decisions
        assert all(found[name] is None for name in absent)
        assert set(found["probabilities"]) == (set() if "malignancy" in absent else set(LABELS))
    assert "–" in out
    assert record["presence_threshold"] is None
    assert all(found["presence"] is None for found in record["predictions"])
    assert (record["threshold"] is None) == ("malignancy" in absent)
    code, out, err = edgekit("evaluate", foreign, "--data", small_dataset, "--json", tmp_path / "evaluate.json")
    assert code == 0, err
    assert ("at threshold 0.500" in out) == ("malignancy" not in absent)
    code, out, err = edgekit("drift", foreign, "--data", small_dataset, "--record")
    assert code == 0, err
    assert ("–" in out) == bool(absent)
    recorded = Bundle.open(foreign).manifest.drift
    assert recorded is not None
    assert recorded["artifacts"][1]["engine_agreement"]["outputs"].keys() == {output.name for output in outputs}


@pytest.mark.parametrize(("precision", "threshold"), [("fp32", 0.4), ("int8", 0.6)])
def test_predict_answers_at_the_threshold_of_the_precision_that_runs(
    precision: str, threshold: float, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    """Presence is 0.5 of every frame, so all of FP32 are lesions and none of INT8 is."""
    presence = Presence(1e-6, 0.0, 0.4, "nothing", 0.6)
    foreign = write_bundle(tmp_path / "foreign", MASK, presence=presence).path
    folder = tmp_path / "out"
    code, out, err = edgekit(
        "predict", small_dataset / "images", "--bundle", foreign, "--precision", precision, "-o", folder
    )
    assert code == 0, err
    assert "p(lesion)" in out
    assert "0.500" in out
    record = json.loads((folder / "predictions.json").read_text())
    assert record["presence_threshold"] == threshold
    for found in record["predictions"]:
        assert found["decision"] == ("lesion" if precision == "fp32" else "no lesion")
        assert found["presence"] == pytest.approx(0.5, abs=1e-4)
        assert (found["lesion_area_px"] > 0) == (precision == "fp32")


@pytest.mark.parametrize(("precision", "threshold"), [("fp32", 0.3), ("int8", 0.7)])
def test_evaluate_answers_at_the_threshold_of_the_precision_that_runs(
    precision: str, threshold: float, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    foreign = write_bundle(tmp_path / "foreign", CLASSES, threshold=0.3, int8_threshold=0.7).path
    code, out, err = edgekit("evaluate", foreign, "--data", small_dataset, "--precision", precision)
    assert code == 0, err
    assert f"at threshold {threshold:.3f}" in out


def test_a_network_nobody_explained_has_drift_but_no_predictions(
    edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    foreign = write_bundle(tmp_path / "foreign", FEATURES).path
    code, out, err = edgekit("drift", foreign, "--data", small_dataset)
    assert code == 0, err
    assert "agreement only" in err
    assert "Agreement on 20 frames" in out
    assert edgekit("bench", foreign, "--rounds", 1)[0] == 0
    for command in (
        ("predict", small_dataset / "images", "--bundle", foreign, "-o", tmp_path / "out"),
        ("evaluate", foreign, "--data", small_dataset),
    ):
        code, _, err = edgekit(*command)
        assert code == 1
        assert "--mask-output or --class-output" in one_line(err)
    assert not (tmp_path / "out").exists()


def test_overlapping_frames_are_refused_or_said_loudly(edgekit: Edgekit, shared: Path) -> None:
    arguments = ("evaluate", SHIPPED["emtnet"], "--data", shared / "data" / "busi", "--folds", "4")
    code, _, err = edgekit(*arguments)
    assert code == 1
    assert "trained on" in one_line(err)


@pytest.mark.parametrize("device", ["gpu", "npu"])
def test_a_device_that_is_not_there_is_said_clearly(edgekit: Edgekit, device: str) -> None:
    from edge.engines.openvino import devices

    if device.upper() in {name.split(".")[0] for name in devices()}:
        pytest.skip(f"this machine has an OpenVINO {device}")
    code, _, err = edgekit("bench", BUILTIN["emtnet"], "--device", device, "--rounds", 1)
    assert code == 1
    assert device.upper() in one_line(err)


def _nan_checkpoint(folder: Path) -> Path:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(SHIPPED["emtnet"], framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors["mask_head.weight"][:] = float("nan")
    save_file(tensors, folder / "nan.safetensors", metadata=metadata)
    return folder / "nan.safetensors"


def _other_network(folder: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(3)}, folder / "other.safetensors")
    return folder / "other.safetensors"


def _flipped(folder: Path) -> Path:
    import shutil

    copy = shutil.copytree(BUILTIN["emtnet"], folder / "flipped")
    for file in copy.glob("int8.*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    return copy


def _text_file(folder: Path) -> Path:
    (folder / "notes.png").write_text("not an image")
    return folder / "notes.png"


def _one_pixel(folder: Path) -> Path:
    import cv2

    cv2.imwrite(str(folder / "dot.png"), np.zeros((1, 1), np.uint8))
    return folder / "dot.png"


def _frame(folder: Path) -> Path:
    import cv2

    cv2.imwrite(str(folder / "frame.png"), phantom_case(0).pixels)
    return folder / "frame.png"


def _empty_folder(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


BAD_INPUT: dict[str, tuple[Callable[[Path], tuple[object, ...]], str]] = {
    "not an image": (lambda f: ("predict", _text_file(f)), "not an image"),
    "one pixel": (lambda f: ("predict", _one_pixel(f)), "too small"),
    "missing image": (lambda f: ("predict", f / "gone.png"), "no such file"),
    "empty folder": (lambda f: ("predict", _empty_folder(f)), "no images"),
    "empty data set": (lambda f: ("evaluate", BUILTIN["emtnet"], "--data", _empty_folder(f)), "no images"),
    "NaN": (lambda f: ("export", _nan_checkpoint(f), "-o", f / "b"), "NaN"),
    "another network": (lambda f: ("export", _other_network(f), "-o", f / "b"), "not written by edgekit"),
    "no checkpoint": (lambda f: ("export", f / "gone.safetensors", "-o", f / "b"), "gone.safetensors"),
    "flipped byte": (lambda f: ("bench", _flipped(f), "--rounds", 1), "not the file its manifest describes"),
    "no bundle": (lambda f: ("bench", _empty_folder(f)), "not a bundle"),
    "bundle over foreign folder": (lambda f: ("export", "-o", _text_file(f).parent), "not a bundle"),
    "bad folds": (lambda f: ("evaluate", BUILTIN["emtnet"], "--data", _empty_folder(f), "--folds", "x"), "--folds"),
    "no FP32 to compare with": (lambda f: ("drift", BUILTIN["emtnet"], "--data", _frame(f).parent), "no FP32 ONNX"),
    "engine on another device": (
        lambda f: ("bench", BUILTIN["emtnet"], "--engine", "litert", "--device", "gpu"),
        "no artifact to time",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_line(
    case: str, edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, message = BAD_INPUT[case]
    code, _, err = edgekit(*arguments(tmp_path))
    assert code == 1
    assert message in one_line(err)


@pytest.mark.parametrize("arguments", [("bench", "--rounds", "0"), ("bench", "--device", "tpu"), ("fly",), ("drift",)])
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], edgekit: Edgekit) -> None:
    assert edgekit(*arguments)[0] == 2


def test_version_is_shown(edgekit: Edgekit) -> None:
    code, out, _ = edgekit("--version")
    assert code == 0
    assert out.startswith("edgekit ")


def test_a_folder_that_only_looks_like_a_bundle_is_kept(edgekit: Edgekit, tmp_path: Path) -> None:
    """A web app's manifest.json is no bundle's."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app/manifest.json").write_text('{"name": "app"}')
    code, _, err = edgekit("export", "-o", tmp_path / "app")
    assert code == 1
    assert "not a bundle" in one_line(err)
    assert (tmp_path / "app/manifest.json").exists()


def test_drift_with_nothing_to_compare_does_not_pass(
    bundle: Path, edgekit: Edgekit, small_dataset: Path, tmp_path: Path
) -> None:
    import shutil

    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(bundle / "fp32.onnx", alone)
    manifest = Bundle.open(bundle).manifest
    kept = tuple(a for a in manifest.artifacts if (a.engine, a.precision) == ("onnx", "fp32"))
    write_manifest(alone, replace(manifest, artifacts=kept, golden=None))
    code, _, err = edgekit("drift", alone, "--data", small_dataset)
    assert code == 1
    assert "nothing to compare" in one_line(err)


def test_a_report_never_replaces_a_link_or_a_device(edgekit: Edgekit, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    arguments = ("bench", BUILTIN["emtnet"], "--engine", "litert", "--rounds", 1, "--json")
    assert edgekit(*arguments, tmp_path / "link.json")[0] == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["results"]
    code, _, err = edgekit(*arguments, "/dev/null")
    assert code == 1
    assert "not a regular file" in one_line(err)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", "--debug", "predict", tmp_path / "gone.png"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def _start(*arguments: object, preexec: Callable[[], None] | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=preexec,  # noqa: PLW1509 (no threads here)
    )


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ctrl_c_in_an_export_leaves_the_old_bundle(bundle: Path) -> None:
    before = _snapshot(bundle)
    process = _start("export", "--int8", "--frames", "200", "-o", bundle)
    assert process.stderr is not None
    for line in process.stderr:
        if "quantising" in line:
            break
    else:
        pytest.fail("the export ended before it could be interrupted")
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "interrupted" in one_line(err)
    assert _snapshot(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_full_disk_at_the_openvino_files_is_no_missing_engine(bundle: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys\nfrom pathlib import Path\nfrom edge.errors import SinkError\n"
        "from quantize.openvino_ir import write_ir\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "try:\n    write_ir(Path(sys.argv[1]), Path(sys.argv[2]))\nexcept SinkError:\n    print('SinkError')"
    )
    arguments = [sys.executable, "-c", script, str(bundle / "fp32.onnx"), str(tmp_path / "out.xml")]
    assert subprocess.run(arguments, capture_output=True, text=True, check=False).stdout.strip() == "SinkError"


def test_a_full_disk_leaves_the_old_bundle(bundle: Path) -> None:
    """A file-size limit stands in for the full disk: the same failing write, without a file system of its own."""
    import resource

    before = _snapshot(bundle)
    limit = 2_000_000
    process = _start("export", "-o", bundle, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "cannot be written" in one_line(err)
    assert _snapshot(bundle) == before


def test_train_runs_stops_and_resumes(small_dataset: Path, tmp_path: Path) -> None:
    """Ctrl-C after the first epoch keeps it; --resume goes on."""
    out = tmp_path / "run"
    arguments = ("train", "--data", small_dataset, "--batch-size", 4, "-o", out)
    process = _start(*arguments, "--epochs", 40)
    state = out / "training.pt"
    deadline = time.monotonic() + 240
    while not state.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "--resume" in one_line(err)
    assert state.exists()
    again = _start(*arguments, "--epochs", 40)
    assert "holds a training run" in one_line(again.communicate(timeout=120)[1])
    other = _start(*arguments, "--epochs", 41, "--resume")
    assert "another recipe" in one_line(other.communicate(timeout=120)[1])
