"""From a checkpoint to a bundle: what is in it, that it agrees with itself, and that it is whole or not there."""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from test_quantize_support import (
    CALIBRATED_ON,
    SIZE,
    copy_of,
    fp32_model,
    initializers,
    int8_model,
    network,
    nodes_of,
    read_tflite,
    run_referee,
)

from calibration.familiarity import MIN_FRAMES, fit_reference
from calibration.operating_point import matched_threshold
from calibration.subset import CalibrationFrames
from edge.bundle import Bundle
from edge.engines.onnx import open_referee
from edge.errors import BundleError, CalibrationError, ConversionError, DataError, MissingDependencyError
from edge.frame import GreyImage, fingerprint
from edge.manifest import OperatingPoint
from edge.ood import Familiarity
from edge.phantom import phantom_case
from edge.predictor import Predictor
from edge.preprocess import preprocess
from edge.presence import Presence
from emtnet.engine import FEATURE_VECTOR, emtnet_interpretation, torch_predictor
from emtnet.network import FEATURES, EmtNet
from emtnet.weights import SCHEMA, CheckpointInfo, load_checkpoint, save_checkpoint
from quantize import export, pipeline
from quantize.onnx_graph import fused_session
from quantize.ptq import quantise
from quantize.qdq import complete

POINT = OperatingPoint(0.55, "malignant", "1 selection frame", temperature=1.5)
PRESENCE = Presence(0.8, 0.1, 0.45, "1 selection frame")
INFO = CheckpointInfo(
    schema=SCHEMA,
    network="emtnet",
    guided=True,
    operating_point=POINT,
    presence=PRESENCE,
    trained_on=("aa", "bb"),
    tuned_on=("cc",),
    data=("a data set (its licence)",),
    recipe={},
    metrics={},
    versions={},
)
EVERY = [(engine, precision) for precision in ("fp32", "int8") for engine in ("onnx", "openvino", "litert")]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "network.safetensors"
    save_checkpoint(path, network(), INFO)
    return path


@pytest.fixture(scope="session")
def calibration() -> CalibrationFrames:
    made = tuple(phantom_case(seed, size=(128, 160)).pixels for seed in range(CALIBRATED_ON))
    return CalibrationFrames("phantom", made, tuple(fingerprint(frame) for frame in made))


@pytest.fixture(scope="session")
def stages() -> list[str]:
    """What the export of `bundle` said."""
    return []


@pytest.fixture(scope="session")
def bundle(
    checkpoint: Path, calibration: CalibrationFrames, stages: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Nobody may change it."""
    out = tmp_path_factory.mktemp("exported") / "bundle"
    return export(checkpoint, out, calibration=calibration, int8=True, stage=stages.append)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the slow first steps, which the bundle above went through, from the shelf."""
    monkeypatch.setattr(pipeline, "export_torch", lambda *given: fp32_model())
    monkeypatch.setattr(pipeline, "quantise", lambda *given, **named: int8_model())
    monkeypatch.setattr(pipeline, "match_score_means", lambda quantised, *given: quantised)
    monkeypatch.setattr(pipeline, "answers_of", lambda *given: None)
    monkeypatch.setattr(pipeline, "with_int8_thresholds", lambda manifest, *given: manifest)
    monkeypatch.setattr(pipeline, "with_golden", lambda folder, manifest: manifest)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def networks(folder: Path) -> set[str]:
    """What is in a bundle beside its golden frames."""
    return {name for name in contents(folder) if not name.startswith("golden/")}


# What the bundle holds.


def test_every_engine_has_both_precisions(bundle: Bundle) -> None:
    assert [(artifact.engine, artifact.precision) for artifact in bundle.manifest.artifacts] == EVERY
    assert bundle.manifest.missing == ()
    suffixes = {"onnx": [".onnx"], "openvino": [".xml", ".bin"], "litert": [".tflite"]}
    for artifact in bundle.manifest.artifacts:
        assert [file.path for file in artifact.files] == [artifact.precision + s for s in suffixes[artifact.engine]]


def test_the_manifest_describes_the_folder_and_nothing_else_is_in_it(bundle: Bundle) -> None:
    described = {file.path: file for artifact in bundle.manifest.artifacts for file in artifact.files}
    assert bundle.manifest.golden is not None
    described |= {file.path: file for file in bundle.manifest.golden.files()}
    found = contents(bundle.path)
    assert found.keys() == described.keys() | {"manifest.json"}
    for name, file in described.items():
        assert file.sha256 == hashlib.sha256(found[name]).hexdigest()
        assert file.size_bytes == len(found[name])
    for artifact in bundle.manifest.artifacts:
        assert [path.name for path in bundle.verified_paths(artifact)] == [file.path for file in artifact.files]
    assert not [item for item in bundle.path.parent.iterdir() if item != bundle.path]


def test_the_manifest_reads_back_as_it_was_written(bundle: Bundle) -> None:
    again = Bundle.open(bundle.path)
    assert again.manifest == bundle.manifest
    text = (bundle.path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text) == json.loads(json.dumps(asdict(bundle.manifest)))


def test_the_manifest_says_where_everything_comes_from(
    bundle: Bundle, checkpoint: Path, calibration: CalibrationFrames
) -> None:
    manifest = bundle.manifest
    assert manifest.source_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert (manifest.network, manifest.weight_range) == ("emtnet", "full")
    assert manifest.labels == ("benign", "malignant")
    assert manifest.guesses == ()
    assert manifest.operating_point is not None
    assert manifest.presence is not None
    assert replace(manifest.operating_point, int8_threshold=None) == POINT
    assert replace(manifest.presence, int8_threshold=None) == PRESENCE
    assert (manifest.training.trained_on, manifest.training.tuned_on) == (("aa", "bb"), ("cc",))
    assert manifest.training.data == ("a data set (its licence)",)
    assert manifest.drift is None
    assert manifest.versions.keys() >= {"python", "torch", "onnx", "nncf", "onnxruntime", "openvino", "ai-edge-litert"}
    assert manifest.versions["torch"].startswith("2.")
    assert set(calibration.sha256) <= set(manifest.forbidden_frames())


def test_the_calibration_frames_are_written_down_with_one_fingerprint(
    bundle: Bundle, calibration: CalibrationFrames
) -> None:
    found = bundle.manifest.calibration
    assert found is not None
    assert (found.source, found.count, found.frames) == ("phantom", CALIBRATED_ON, calibration.sha256)
    assert found.fingerprint == hashlib.sha256("".join(calibration.sha256).encode()).hexdigest()
    assert bundle.manifest.phantom_calibrated


def test_input_and_outputs_are_those_of_the_graphs(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.input.name, manifest.input.height, manifest.input.width) == ("image", 224, 224)
    assert (manifest.input.channels, manifest.input.offset, manifest.input.scale) == (1, (128.0,), (128.0,))
    assert manifest.interpretation() == emtnet_interpretation("emtnet", POINT, PRESENCE)
    for precision in ("fp32", "int8"):
        graph = onnx.load(bundle.path / f"{precision}.onnx").graph
        assert [value.name for value in graph.input] == [manifest.input.name]
        shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in graph.output}
        assert shapes == {output.name: output.shape for output in manifest.outputs}


def test_int8_artifacts_are_small_and_fp32_ones_are_not_rounded_to_float16(bundle: Bundle) -> None:
    for artifact in bundle.manifest.artifacts:
        low, high = (3.0e6, 4.5e6) if artifact.precision == "int8" else (13.5e6, 15.0e6)
        assert low < artifact.size_bytes < high, (artifact.engine, artifact.precision)


def test_no_file_knows_the_machine_it_was_made_on(bundle: Bundle, checkpoint: Path) -> None:
    traces = [b"/tmp/", b"/opt/", b"/home/", b"/root/", b"site-packages"]
    traces += [str(folder).encode() for folder in (bundle.path.parent, checkpoint.parent, Path.cwd(), Path.home())]
    for name, content in contents(bundle.path).items():
        for trace in traces:
            assert trace not in content, (name, trace)


def test_stages_are_told_in_order(bundle: Bundle, stages: list[str]) -> None:
    assert bundle.manifest.artifacts
    assert stages == [
        f"quantising on {CALIBRATED_ON} frames",
        *(f"{engine} {precision}" for engine, precision in EVERY),
        "INT8 thresholds",
        "golden frames",
    ]


# What the artifacts answer.


def test_all_six_artifacts_answer_alike(bundle: Bundle, checkpoint: Path) -> None:
    frames = [phantom_case(seed, size=(200, 260)).pixels for seed in range(40, 46)]
    reference = torch_predictor(load_checkpoint(checkpoint)[0], operating_point=POINT, presence=PRESENCE)
    wanted = [reference.predict(frame) for frame in frames]
    assert np.std([answer.probabilities["malignant"] for answer in wanted]) > 0.005
    int8 = {}
    for engine, precision in EVERY:
        with Predictor.open(bundle.path, engine=engine, precision=precision, threads=1) as predictor:
            got = [predictor.predict(frame) for frame in frames]
        scores = np.array([[one.malignancy, other.malignancy] for one, other in zip(wanted, got, strict=True)])
        masks = [np.abs(one.outputs["mask"] - other.outputs["mask"]) for one, other in zip(wanted, got, strict=True)]
        if precision == "fp32":
            assert np.abs(scores[:, 0] - scores[:, 1]).max() < 1e-4
            assert np.max(masks) < 2e-3
        else:
            assert np.abs(scores[:, 0] - scores[:, 1]).max() < 0.02
            assert np.mean(masks) < 0.1 * np.std([answer.outputs["mask"] for answer in wanted])
            int8[engine] = scores[:, 1]
            assert got[0].mask is not None
            assert got[0].mask.shape == (200, 260)
    assert max(np.abs(int8[one] - int8[other]).mean() for one in int8 for other in int8) < 0.005


def test_int8_scores_have_the_mean_of_fp32_on_the_calibration_frames(
    bundle: Bundle, calibration: CalibrationFrames
) -> None:
    models = [onnx.load(bundle.path / f"{precision}.onnx") for precision in ("fp32", "int8")]
    images = [preprocess(frame, SIZE)[None, None] for frame in calibration.frames]
    fp32, int8 = (np.mean([run_referee(model, {"image": i})["malignancy"].item() for i in images]) for model in models)
    assert int8 == pytest.approx(fp32, abs=1e-4)


def test_int8_thresholds_are_where_the_int8_scores_are(bundle: Bundle, calibration: CalibrationFrames) -> None:
    scores = {}
    for precision in ("fp32", "int8"):
        how = bundle.manifest.interpretation(precision)
        with Predictor(open_referee(bundle.path / f"{precision}.onnx", threads=1), how) as predictor:
            answers = [predictor.predict(frame) for frame in calibration.frames]
        scores[precision] = np.array([(answer.malignancy, answer.presence) for answer in answers], np.float64).T
    point, presence = bundle.manifest.operating_point, bundle.manifest.presence
    assert point is not None
    assert presence is not None
    thresholds = (point.threshold, point.int8_threshold), (presence.threshold, presence.int8_threshold)
    for (threshold, moved), before, after in zip(thresholds, scores["fp32"], scores["int8"], strict=True):
        assert moved == pytest.approx(matched_threshold(threshold, before, after), abs=1e-6)
        assert moved != threshold, "nothing was moved"
    assert bundle.manifest.interpretation("int8").threshold == point.int8_threshold


def test_the_small_network_has_its_own_mask(calibration: CalibrationFrames, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    save_checkpoint(path, EmtNet("emtnet-s").eval(), replace(INFO, network="emtnet-s", presence=None))
    made = export(path, tmp_path / "out", calibration=calibration, int8=False, engines=["onnx"])
    assert made.manifest.network == "emtnet-s"
    assert made.manifest.outputs[0].shape == (1, 1, 56, 56)
    assert made.manifest.presence is None
    with Predictor.open(made.path, threads=1) as predictor:
        assert predictor.predict(calibration.frames[0]).mask_probability is not None


def test_a_bundle_of_phantoms_has_features_and_no_reference_of_them(bundle: Bundle) -> None:
    """Every real picture is unlike a phantom."""
    assert bundle.manifest.features_output == FEATURE_VECTOR
    assert bundle.manifest.features is None


@pytest.fixture(scope="module")
def real(bundle: Bundle) -> CalibrationFrames:
    """Frames that are said to be real, enough of them for a reference."""
    made = tuple(phantom_case(100 + seed, size=(96, 112)).pixels for seed in range(MIN_FRAMES))
    return CalibrationFrames("a clinic", made, tuple(fingerprint(frame) for frame in made))


def features_of(model: onnx.ModelProto, frames: Sequence[GreyImage]) -> np.ndarray:
    session = fused_session(model)
    return np.concatenate([session.run(["features"], {"image": preprocess(f, SIZE)[None, None]})[0] for f in frames])


@pytest.mark.parametrize("precisions", [["fp32", "int8"], ["int8"]])
def test_real_frames_give_a_reference_of_every_precision_in_the_bundle(
    precisions: list[str],
    checkpoint: Path,
    real: CalibrationFrames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline, "export_torch", lambda *given: fp32_model())
    monkeypatch.setattr(pipeline, "quantise", lambda *given, **named: int8_model())
    stages: list[str] = []
    made = export(
        checkpoint,
        tmp_path / "out",
        calibration=real,
        int8=True,
        engines=["onnx"],
        precisions=precisions,
        stage=stages.append,
    )
    models = [onnx.load(made.path / f"{precision}.onnx") for precision in precisions]
    wanted = {
        precision: fit_reference(features_of(model, real.frames), parts=FEATURES)
        for precision, model in zip(precisions, models, strict=True)
    }
    known = Familiarity(real.sha256, f"{MIN_FRAMES} frames of a clinic, cross-fitted", **wanted)
    assert made.manifest.features == known
    assert Bundle.open(made.path).manifest.features == known
    assert stages[-3:] == ["INT8 thresholds", f"feature reference of {MIN_FRAMES} frames", "golden frames"]
    assert made.manifest.operating_point is not None
    assert made.manifest.operating_point.int8_threshold is not None


@pytest.mark.usefixtures("quick")
def test_fp32_alone_has_a_reference_too_and_names_its_frames(
    checkpoint: Path, real: CalibrationFrames, tmp_path: Path
) -> None:
    """They must not be reported on: the limit was chosen by them."""
    made = export(checkpoint, tmp_path / "out", calibration=real, int8=False, engines=["onnx"])
    assert made.manifest.features is not None
    assert made.manifest.features.int8 is None
    assert made.manifest.calibration is None
    assert set(real.sha256) <= made.manifest.forbidden_frames().keys()
    assert not made.manifest.phantom_calibrated


@pytest.mark.usefixtures("quick")
def test_the_reference_may_be_of_other_frames_than_the_int8_ranges(
    checkpoint: Path,
    calibration: CalibrationFrames,
    real: CalibrationFrames,
    tmp_path: Path,
) -> None:
    made = export(checkpoint, tmp_path / "out", calibration=calibration, familiar=real, engines=["onnx"])
    assert made.manifest.calibration is not None
    assert made.manifest.calibration.frames == calibration.sha256
    assert made.manifest.features is not None
    assert made.manifest.features.frames == real.sha256
    assert made.manifest.features.fp32 != made.manifest.features.int8


@pytest.mark.usefixtures("quick")
def test_too_few_frames_or_patients_for_a_reference_are_told_and_the_bundle_is_made(
    checkpoint: Path, real: CalibrationFrames, tmp_path: Path
) -> None:
    few = CalibrationFrames(real.source, real.frames[:12], real.sha256[:12])
    one_patient = replace(real, groups=("p1",) * len(real.frames))
    for frames, reason in ((few, "12 frames are too few"), (one_patient, "of 1 groups")):
        stages: list[str] = []
        out = tmp_path / reason
        made = export(checkpoint, out, calibration=frames, int8=False, engines=["onnx"], stage=stages.append)
        assert (made.manifest.features, made.manifest.calibration) == (None, None)
        assert stages[-2].startswith(
            f"no feature reference: {'the calibration frames are ' * (frames is one_patient)}{reason}"
        )


def test_the_features_output_costs_mask_and_class_nothing() -> None:
    """The same quantisers, and the same numbers, bit for bit, as without that output."""
    plain = copy_of(fp32_model())
    for node in producers(plain, "features"):
        plain.graph.node.remove(node)
    del plain.graph.output[2]
    images = [preprocess(phantom_case(seed, size=(128, 160)).pixels, SIZE) for seed in range(8)]
    without, given = (complete(quantise(model, images), images) for model in (plain, fp32_model()))
    assert [node.op_type for node in producers(given, "features")] == [
        "Concat",
        "ReduceMean",
        "ReduceMean",
        "ReduceMean",
    ]
    quantised = [{node.input[0] for node in nodes_of(model, "QuantizeLinear")} for model in (without, given)]
    assert quantised[0] == quantised[1]
    for image in images[:3]:
        answers = [run_referee(model, {"image": image[None, None]}) for model in (without, given)]
        for name in ("mask", "malignancy"):
            assert np.array_equal(answers[0][name], answers[1][name])


def producers(model: onnx.ModelProto, name: str) -> list[onnx.NodeProto]:
    """What gives an output, back to the body."""
    made = {output: node for node in model.graph.node for output in node.output}
    if name not in made or made[name].op_type not in ("Concat", "ReduceMean"):
        return []
    return [made[name], *(node for source in made[name].input for node in producers(model, source))]


def test_the_tflite_file_is_a_lowering_of_the_onnx_file_beside_it(bundle: Bundle) -> None:
    model = onnx.load(bundle.path / "int8.onnx")
    scales = {node.input[1] for node in nodes_of(model, "DequantizeLinear")}
    known = set(np.concatenate([initializers(model)[name].reshape(-1) for name in scales]).tolist())
    file = read_tflite((bundle.path / "int8.tflite").read_bytes())
    int8 = [i for i in range(len(file.graph.tensors)) if file.is_quantised(i) and str(file.dtype(i)) == "int8"]
    assert len(int8) == 108
    assert all(set(file.scale(index).tolist()) <= known for index in int8)


# Choosing.


@pytest.mark.usefixtures("quick")
def test_named_engines_and_precisions_only(checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path) -> None:
    made = export(
        checkpoint, tmp_path / "out", calibration=calibration, int8=True, engines=["litert"], precisions=["int8"]
    )
    assert [(item.engine, item.precision) for item in made.manifest.artifacts] == [("onnx", "int8"), ("litert", "int8")]
    assert networks(made.path) == {"int8.onnx", "int8.tflite", "manifest.json"}


@pytest.mark.usefixtures("quick")
def test_without_int8_there_is_no_calibration(checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path) -> None:
    made = export(checkpoint, tmp_path / "out", calibration=calibration, int8=False, engines=["onnx"])
    assert [(item.engine, item.precision) for item in made.manifest.artifacts] == [("onnx", "fp32")]
    assert made.manifest.calibration is None
    assert (made.manifest.operating_point, made.manifest.presence) == (POINT, PRESENCE)
    assert not made.manifest.phantom_calibrated


def test_the_weight_range_reaches_nncf_and_the_manifest(
    checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    asked = []

    def quantise(model: onnx.ModelProto, frames: object, *, weight_range: str) -> onnx.ModelProto:
        asked.append(weight_range)
        return int8_model()

    monkeypatch.setattr(pipeline, "quantise", quantise)
    out = tmp_path / "out"
    made = export(checkpoint, out, calibration=calibration, int8=True, engines=["onnx"], weight_range="half")
    assert asked == [made.manifest.weight_range] == ["half"]


# Failing.


def failing_litert(error: Exception) -> Callable[..., object]:
    def write(model: onnx.ModelProto, source: Path) -> object:
        raise error

    return write


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [ConversionError("no LSTM here"), MissingDependencyError("ai_edge_litert")], ids=str)
def test_an_engine_that_nobody_asked_for_may_fail(
    error: Exception,
    checkpoint: Path,
    calibration: CalibrationFrames,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(pipeline._WRITERS, "litert", failing_litert(error))
    made = export(checkpoint, tmp_path / "out", calibration=calibration, int8=True)
    assert [(item.engine, item.precision) for item in made.manifest.artifacts] == [
        item for item in EVERY if item[0] != "litert"
    ]
    missing = [(item.engine, item.precision, item.reason) for item in made.manifest.missing]
    assert missing == [("litert", precision, str(error)) for precision in ("fp32", "int8")]
    assert Bundle.open(made.path).manifest.missing == made.manifest.missing


@pytest.mark.usefixtures("quick")
def test_an_engine_asked_for_by_name_must_not_fail(
    checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pipeline._WRITERS, "litert", failing_litert(ConversionError("no LSTM here")))
    with pytest.raises(ConversionError, match="no LSTM here"):
        export(checkpoint, tmp_path / "out", calibration=calibration, int8=True, engines=["litert"])
    assert not list(tmp_path.iterdir())


class UnpluggedError(Exception):
    """Nothing that quantize would know."""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [KeyboardInterrupt, UnpluggedError, ConversionError])
@pytest.mark.parametrize("moment", [f"quantising on {CALIBRATED_ON} frames", "openvino fp32"])
def test_an_interrupted_export_leaves_the_old_bundle_as_it_was(
    moment: str, error: type[BaseException], checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(checkpoint, out, calibration=calibration, int8=False, engines=["onnx"])
    before = contents(tmp_path)

    def stage(name: str) -> None:
        if name == moment:
            raise error

    with pytest.raises(error):
        export(checkpoint, out, calibration=calibration, int8=True, stage=stage)
    assert contents(tmp_path) == before
    assert [item.name for item in tmp_path.iterdir()] == ["out"]
    assert networks(out) == {"fp32.onnx", "manifest.json"}


@pytest.mark.usefixtures("quick")
def test_an_interrupted_first_export_leaves_nothing(
    checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path
) -> None:
    def stage(name: str) -> None:
        if name == "openvino fp32":
            assert any(item.suffix == ".onnx" for item in tmp_path.rglob("*")), "too early to be a test"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "out", calibration=calibration, int8=False, stage=stage)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_a_new_export_replaces_the_old_bundle(checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for engine in ("openvino", "litert"):
        export(checkpoint, out, calibration=calibration, int8=False, engines=[engine])
    assert networks(out) == {"fp32.onnx", "fp32.tflite", "manifest.json"}


def test_too_few_frames_make_no_bundle(
    checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "export_torch", lambda *given: fp32_model())
    few = CalibrationFrames("phantom", calibration.frames[:7], calibration.sha256[:7])
    with pytest.raises(CalibrationError, match="7 calibration frames"):
        export(checkpoint, tmp_path / "out", calibration=few, int8=True)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_left_alone(
    checkpoint: Path, calibration: CalibrationFrames, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(BundleError, match="not a bundle"):
        export(checkpoint, tmp_path, calibration=calibration, int8=False)
    assert contents(tmp_path) == {"thesis.txt": b"irreplaceable"}


def test_a_diverged_checkpoint_makes_no_bundle(calibration: CalibrationFrames, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    diverged = copy.deepcopy(network())
    torch.nn.init.constant_(diverged.mask_head.weight, float("nan"))
    save_checkpoint(broken, diverged, INFO)
    with pytest.raises(DataError, match="NaN"):
        export(broken, tmp_path / "out", calibration=calibration, int8=False)
    assert not (tmp_path / "out").exists()
