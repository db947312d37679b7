"""Engines: one network on all of them that live in one environment, and every refusal a sentence."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from tiny_network import OUTPUTS, SIDE, expected_mask, ramp, tiny_network

from edge.bundle import Bundle, describe_file, new_bundle, write_manifest
from edge.engines import ENGINES, engine_errors, is_installed, open_artifact, open_model
from edge.engines.onnx import open_referee
from edge.engines.openvino import devices
from edge.errors import EngineError, IntegrityError, MissingDependencyError
from edge.manifest import SCHEMA, Artifact, InputSpec, Manifest, OperatingPoint
from edge.predictor import Engine, Predictor

PACKAGES = {
    "openvino": "openvino",
    "litert": "ai_edge_litert",
    "onnx": "onnxruntime",
    "tflite-runtime": "tflite_runtime",
}
SUFFIXES = {"openvino": ".onnx", "litert": ".tflite", "onnx": ".onnx"}  # OpenVINO reads ONNX files too
HERE = ("openvino", "litert", "onnx")
"""Engines that live in one environment; tests/test_edge_engines_tflite_runtime.py has the other."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny network as an FP32 artifact of every engine, with a threshold of 0.9."""
    from quantize.tflite.lower import to_tflite

    path = tmp_path_factory.mktemp("engines") / "bundle"
    with new_bundle(path) as folder:
        (folder / "tiny.onnx").write_bytes(tiny_network().SerializeToString())
        (folder / "tiny.tflite").write_bytes(to_tflite(tiny_network()))
        manifest = Manifest(
            schema=SCHEMA,
            network="tiny",
            source_sha256="",
            input=InputSpec("image", SIDE, SIDE, 1, (128.0,), (128.0,), "stretch"),
            outputs=OUTPUTS,
            labels=("benign", "malignant"),
            operating_point=OperatingPoint(0.9, "malignant", "nothing"),
            presence=None,
            weight_range="full",
            artifacts=tuple(
                Artifact(engine, "fp32", (describe_file(folder, folder / f"tiny{suffix}"),))
                for engine, suffix in SUFFIXES.items()
            ),
            missing=(),
            guesses=(),
            drift=None,
            versions={},
            calibration=None,
        )
        write_manifest(folder, manifest)
    return Bundle.open(path)


@pytest.fixture(params=HERE)
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Engine]:
    """Each engine with the tiny network."""
    with closing(open_artifact(bundle, bundle.choose(engine=request.param), threads=1)) as opened:
        yield opened


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any engine: none imported yet, and none on the path."""
    packages = set(PACKAGES.values())
    for module in [name for name in sys.modules if name.partition(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, module)
    path = [place for place in sys.path if not any((Path(place) / package).exists() for package in packages)]
    monkeypatch.setattr(sys, "path", path)


def one_line(error: pytest.ExceptionInfo[EngineError]) -> str:
    """The message, which the command line prints as one line and which must say something."""
    message = str(error.value)
    assert "\n" not in message
    assert any(map(str.isalpha, message.partition(":")[2])), message
    return message


# Working


def test_every_engine_takes_raw_pixels_and_gives_float_outputs_by_name(engine: Engine) -> None:
    outputs = engine.infer(ramp())
    assert {name: output.shape for name, output in outputs.items()} == {spec.name: spec.shape for spec in OUTPUTS}
    assert {output.dtype for output in outputs.values()} == {np.dtype(np.float32)}
    assert np.squeeze(outputs["mask"]) == pytest.approx(expected_mask(), abs=1e-4)
    assert float(outputs["malignancy"][0, 0]) == pytest.approx(2 * expected_mask().mean() + 0.25, abs=1e-4)


def test_every_engine_gives_images_channels_first_and_contiguous(engine: Engine) -> None:
    features = engine.infer(ramp())["features"]
    x = (ramp()[::2].astype(np.float64) - 128) / 128
    assert features[0] == pytest.approx(np.stack([x, 2 * x, 3 * x]), abs=1e-5)
    assert features.flags["C_CONTIGUOUS"]


def test_openvino_knows_an_output_by_its_onnx_name_when_its_last_node_was_folded_away(tmp_path: Path) -> None:
    """The tensor behind a folded Identity has two names, and the first of them need not be the output's."""
    model = tiny_network()
    for name in ("mask", "malignancy", "features"):
        for node in model.graph.node:
            node.input[:] = [f"a_{name}" if item == name else item for item in node.input]
            node.output[:] = [f"a_{name}" if item == name else item for item in node.output]
        model.graph.node.append(helper.make_node("Identity", [f"a_{name}"], [name]))
    onnx.checker.check_model(model)
    onnx.save(model, tmp_path / "named.onnx")
    with closing(open_model("openvino", tmp_path / "named.onnx", threads=1)) as engine:
        outputs = engine.infer(ramp())
    assert {name: outputs[name].shape for name in ("mask", "malignancy", "features")} == {
        spec.name: spec.shape for spec in OUTPUTS
    }
    assert np.squeeze(outputs["mask"]) == pytest.approx(expected_mask(), abs=1e-4)


def test_outputs_outlive_the_next_frame(engine: Engine) -> None:
    first = engine.infer(ramp())
    kept = {name: output.copy() for name, output in first.items()}
    engine.infer(255 - ramp())
    assert all(np.array_equal(first[name], kept[name]) for name in kept)


def test_a_frame_of_another_size_is_refused_and_the_next_one_runs(engine: Engine) -> None:
    with pytest.raises(EngineError) as caught:
        engine.infer(np.zeros((16, 16), np.uint8))
    one_line(caught)
    assert caught.value.__cause__ is not None
    assert np.squeeze(engine.infer(ramp())["mask"]) == pytest.approx(expected_mask(), abs=1e-4)


def test_the_referee_runs_the_same_graph(bundle: Bundle) -> None:
    with closing(open_referee(bundle.path / "tiny.onnx", threads=1)) as referee:
        assert np.squeeze(referee.infer(ramp())["mask"]) == pytest.approx(expected_mask(), abs=1e-4)


@pytest.mark.parametrize("name", HERE)
def test_a_predictor_opens_a_bundle_with_its_size_and_operating_point(bundle: Bundle, name: str) -> None:
    frame = np.full((64, 96), 64, np.uint8)
    frame[:32] = 191  # the mean mask logit is 0.4375 and malignancy 1.125: probability 0.755
    with Predictor.open(bundle.path, engine=name, precision="fp32", threads=1) as predictor:
        assert predictor.interpretation == bundle.manifest.interpretation()
        prediction = predictor.predict(frame)
    assert prediction.malignancy == pytest.approx(0.7549, abs=1e-3)
    assert prediction.decision == "benign"
    assert prediction.mask is not None
    assert np.array_equal(prediction.mask, frame > 128)


def test_a_predictor_checks_the_hash_before_the_engine_sees_the_file(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in bundle.path.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "tiny.tflite").write_bytes(b"not the network")
    with pytest.raises(IntegrityError, match=r"tiny\.tflite"):
        Predictor.open(copy, engine="litert")


def test_openvino_sees_the_cpu() -> None:
    assert "CPU" in devices()


# Refusing


def test_signals_are_handled_after_networks_in_openvino_were_closed_in_any_order() -> None:
    """Each Core has the thread's signal stack at its beginning and frees it at its end: there is one, which does not end."""
    lines = (
        "import os, signal, time",
        "from edge.bundle import BUILTIN, Bundle",
        "from edge.engines import open_artifact",
        "signal.signal(signal.SIGINT, lambda *_: print('handled', flush=True))",
        "bundle = Bundle.open(BUILTIN['emtnet-s'])",
        "artifact = bundle.choose(engine='openvino', precision='int8')",
        "opened = [open_artifact(bundle, artifact, threads=1) for _ in range(3)]",
        "while opened: opened.pop(0).close()",
        "os.kill(os.getpid(), signal.SIGINT)",
        "time.sleep(0.1)",
    )
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_an_unknown_engine_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="'tensorrt' is none of openvino, litert, onnx"):
        open_model("tensorrt", tmp_path)


@pytest.mark.parametrize("name", ["litert", "onnx", "tflite-runtime"])
@pytest.mark.parametrize("device", ["gpu", "npu", "auto"])
def test_only_openvino_leaves_the_cpu(tmp_path: Path, name: str, device: str) -> None:
    with pytest.raises(EngineError, match=f"{name} runs on the CPU only; use --engine openvino for --device {device}"):
        open_model(name, tmp_path, device=device)


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(tmp_path: Path, name: str, threads: int) -> None:
    with pytest.raises(EngineError, match=f"--threads {threads}: give at least 1"):
        open_model(name, tmp_path, threads=threads)


@pytest.mark.parametrize("device", ["gpu", "npu", "tpu"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(bundle: Bundle, device: str) -> None:
    if any(name.split(".")[0] == device.upper() for name in devices()):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(EngineError, match=rf"no {device.upper()} here \(devices: .*CPU.*\); use --device cpu"):
        open_artifact(bundle, bundle.choose(engine="openvino"), device=device)


@pytest.mark.parametrize("content", [b"", b"this is no model\nat all\n", bytes(range(256)) * 8, bytes(4096)])
@pytest.mark.parametrize("name", HERE)
def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / {"openvino": "model.xml", "litert": "model.tflite", "onnx": "model.onnx"}[name]
    file.write_bytes(content)
    with pytest.raises(EngineError) as caught:
        open_model(name, file)
    assert one_line(caught).startswith(f"{name}: ")
    assert caught.value.__cause__ is not None


def test_a_file_that_is_no_model_is_refused_by_the_auto_device_too(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("no model")
    with pytest.raises(EngineError) as caught:
        open_model("openvino", tmp_path / "model.xml", device="auto")
    assert "model.xml" in one_line(caught)


@pytest.mark.parametrize("name", HERE)
def test_a_missing_model_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(EngineError) as caught:
        open_model(name, tmp_path / f"absent{SUFFIXES[name]}")
    one_line(caught)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_that_is_not_installed_names_its_extra(tmp_path: Path, name: str) -> None:
    assert not is_installed(name)
    with pytest.raises(MissingDependencyError, match=rf"edgekit-ultrasound\[{name}\]"):
        open_model(name, tmp_path / "model")


@pytest.mark.parametrize("name", HERE)
def test_an_engine_that_is_installed_is_seen(name: str) -> None:
    assert is_installed(name)


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("name", HERE)
def test_an_engine_that_is_installed_but_broken_shows_its_own_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / PACKAGES[name]
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libstdc++.so.6: version not found')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert is_installed(name)
    with pytest.raises(ImportError, match="version not found"):
        open_model(name, tmp_path / "model")


# Translating


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (RuntimeError("Exception from core.cpp:1:\nthe cause\n\n"), "npu: the cause"),
        (RuntimeError("compile failed\nthe cause \n\n; \n\n"), "npu: the cause"),
        (ValueError("the cause"), "npu: the cause"),
        (RuntimeError(""), "npu: RuntimeError"),
        (RuntimeError("---\n"), "npu: RuntimeError"),
    ],
)
def test_an_engines_error_is_translated_to_its_telling_line(fault: Exception, message: str) -> None:
    with pytest.raises(EngineError) as caught, engine_errors("npu"):
        raise fault
    assert str(caught.value) == message
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize("fault", [MissingDependencyError("absent"), KeyError("bug"), KeyboardInterrupt()])
def test_other_errors_pass_untranslated(fault: BaseException) -> None:
    with pytest.raises(type(fault)) as caught, engine_errors("npu"):
        raise fault
    assert caught.value is fault
