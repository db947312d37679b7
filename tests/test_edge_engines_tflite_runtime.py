"""tflite-runtime itself, in an environment of its own: a network worked out by hand, built-in ones against LiteRT, commands."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from second_venv import CONSTRAINTS, ROOT, python_with, runtime_python
from tiny_network import OUTPUTS, expected_mask, ramp, tiny_network

from benchmarks.latency import Latency
from benchmarks.peer import Peer
from calibration.agreement import AgreementLimits, Answer, Comparison, OutputDifferences
from edge.bundle import BUILTIN, Bundle
from edge.engines import open_model
from edge.errors import EngineError
from edge.phantom import phantom_case
from edge.predictor import Engine, Predictor

__all__ = ["runtime_python"]  # the fixture

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from quantize.tflite.lower import to_tflite

    path = tmp_path_factory.mktemp("tiny") / "tiny.tflite"
    path.write_bytes(to_tflite(tiny_network()))
    return path


@pytest.fixture(scope="module", params=["fp32", "int8"])
def engine(request: pytest.FixtureRequest, tiny: Path, runtime_python: Path) -> Iterator[Engine]:
    """The tiny float network as either kind of artifact is opened: the INT8 delegate leaves float layers as they are."""
    with Peer(runtime_python, "tflite-runtime", tiny, precision=request.param, threads=1) as opened:
        yield opened


@pytest.fixture
def edgekit(runtime_python: Path, tmp_path: Path) -> Command:
    """Run a command of this checkout in the other environment; nothing on stderr but what the command has to say."""

    def run(*arguments: object, python: Path = runtime_python) -> subprocess.CompletedProcess[str]:
        command = [str(python), "-m", "edgekit", *map(str, arguments)]
        home = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=home, timeout=120)

    return run


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_runtimes", ROOT / "benchmarks/scripts/tflite_runtime.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The engine


def test_it_takes_raw_pixels_and_gives_float_outputs_by_name(engine: Engine) -> None:
    outputs = engine.infer(ramp())
    assert {name: output.shape for name, output in outputs.items()} == {spec.name: spec.shape for spec in OUTPUTS}
    assert {output.dtype for output in outputs.values()} == {np.dtype(np.float32)}
    assert np.squeeze(outputs["mask"]) == pytest.approx(expected_mask(), abs=1e-4)
    x = (ramp()[::2].astype(np.float64) - 128) / 128
    assert outputs["features"][0] == pytest.approx(np.stack([x, 2 * x, 3 * x]), abs=1e-5)


def test_float_answers_are_those_of_litert(engine: Engine, tiny: Path) -> None:
    with closing(open_model("litert", tiny, precision="fp32", threads=1)) as litert:
        wanted = litert.infer(ramp())
    got = engine.infer(ramp())
    assert got.keys() == wanted.keys()
    for name, output in wanted.items():
        assert got[name] == pytest.approx(output, abs=1e-6)


def test_a_frame_of_another_size_is_refused_and_the_next_one_runs(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"^tflite-runtime: cannot reshape"):
        engine.infer(np.zeros((16, 16), np.uint8))
    assert np.squeeze(engine.infer(ramp())["mask"]) == pytest.approx(expected_mask(), abs=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("content", [None, b"", b"this is no model\nat all\n", bytes(4096)])
def test_a_file_that_is_no_model_is_refused_in_one_line(
    tmp_path: Path, runtime_python: Path, content: bytes | None, precision: str
) -> None:
    file = tmp_path / "model.tflite"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EngineError, match=r"^tflite-runtime: .*[a-z]{3}[^\n]*\Z"):
        Peer(runtime_python, "tflite-runtime", file, precision=precision, threads=1)


@pytest.mark.parametrize("network", BUILTIN)
def test_int8_agrees_with_litert_as_far_as_engines_must(network: str, runtime_python: Path) -> None:
    bundle = Bundle.open(BUILTIN[network])
    artifact = bundle.choose(engine="tflite-runtime")
    how = bundle.manifest.interpretation("int8")
    comparison = Comparison(OutputDifferences(bundle.manifest.outputs))
    file = bundle.verified_paths(artifact)[0]
    with (
        Predictor.open(bundle.path, engine="litert", threads=1) as litert,
        Predictor(Peer(runtime_python, artifact.engine, file, precision="int8", threads=1), how) as ours,
    ):
        for seed in range(8):
            pixels = phantom_case(seed).pixels
            wanted, got = (predictor.predict(pixels) for predictor in (litert, ours))
            comparison.add(*(Answer(said.outputs, said.mask_probability, said.malignancy) for said in (wanted, got)))
    found = comparison.agreement()
    assert found.frames == 8
    assert found.within(AgreementLimits()), found


@pytest.mark.parametrize(("opened_as", "least", "most"), [("int8", 0.0, 0.02), ("fp32", 0.9, 1.0)])
def test_xnnpack_has_the_int8_layers_only_by_the_delegate(
    runtime_python: Path, opened_as: str, least: float, most: float
) -> None:
    """Share of multiply-accumulates that is left to the built-in kernels; as the wheel comes it is nearly all."""
    bundle = Bundle.open(BUILTIN["emtnet"])
    file = bundle.verified_paths(bundle.choose(engine="tflite-runtime"))[0]
    told = (
        "import sys; from pathlib import Path; from benchmarks.precision import effective_precision as look;"
        "found = look('tflite-runtime', Path(sys.argv[1]), precision=sys.argv[2], threads=1);"
        "print(found.built_in_macs / sum(macs for _, macs in found.macs))"
    )
    command = [str(runtime_python), "-c", told, str(file), opened_as]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120)
    assert least <= float(done.stdout) <= most


def test_a_peer_that_dies_is_an_error_and_no_wait(tiny: Path, runtime_python: Path) -> None:
    with Peer(runtime_python, "tflite-runtime", tiny, precision="fp32", threads=1) as peer:
        peer._child.kill()
        peer._child.wait()
        with pytest.raises(EngineError, match="tflite-runtime: its process ended with status -9"):
            peer.infer(ramp())


def test_the_comparison_times_both_on_the_same_file(runtime_python: Path) -> None:
    script = _script()
    bundle = Bundle.open(BUILTIN["emtnet-s"])
    found = script.compare(bundle, runtime_python, threads=[1], rounds=2)
    names = ["litert", "tflite-runtime", "tflite-runtime as it comes"]
    assert list(found) == [("int8", name, 1) for name in names]
    assert {len(latency.samples_ms) for latency in found.values()} == {2}
    times = dict(zip(found, ((2.0, 4.0, 4.0), (3.0, 6.0, 6.0), (20.0, 40.0, 41.0)), strict=True))
    table = script.markdown({row: Latency(samples) for row, samples in times.items()})
    assert [row.split(" | ")[-2:] for row in table.splitlines()[2:]] == [
        ["1.00", "1.00 |"],
        ["1.50", "1.50 |"],
        ["10.00", "10.00 |"],
    ]


# Commands


def test_alone_it_is_chosen_and_predicts(edgekit: Command, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "frame.png"), phantom_case(0).pixels)
    done = edgekit("predict", "frame.png", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert "INFO" not in done.stderr
    said = json.loads((tmp_path / "out/predictions.json").read_text())
    assert (said["engine"], said["precision"]) == ("tflite-runtime", "int8")
    with Predictor.open(engine="litert", threads=1) as litert:
        wanted = litert.predict(phantom_case(0).pixels)
    (record,) = said["predictions"]
    assert record["decision"] == wanted.decision
    assert record["malignancy"] == pytest.approx(wanted.malignancy, abs=AgreementLimits().malignancy_p99)


def test_a_run_names_it_in_its_results(edgekit: Command, tmp_path: Path) -> None:
    done = edgekit("run", "phantom:5?seconds=1", "--engine", "tflite-runtime", "--threads", 1, "--results", "r.jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert lines
    assert '"engine": "tflite-runtime"' in json.dumps(lines)


def test_bench_times_it_and_names_what_is_not_there(edgekit: Command, tmp_path: Path) -> None:
    done = edgekit("bench", "--network", "emtnet-s", "--rounds", 2, "--threads", 1, "--json", "bench.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    assert [(result["engine"], result["precision"]) for result in report["results"]] == [("tflite-runtime", "int8")]
    assert sorted(report["skipped"]) == ["litert int8", "onnx int8", "openvino int8"]
    assert report["environment"]["packages"]["tflite-runtime"] == "2.14.0"


@pytest.mark.slow
def test_drift_holds_it_to_the_limits_of_every_engine(edgekit: Command, tmp_path: Path, small_dataset: Path) -> None:
    """Of a shipped network, FP32 and INT8, beside LiteRT in one environment; FP32 says what LiteRT's says."""
    from calibration.subset import phantom_frames
    from emtnet.weights import SHIPPED
    from quantize import export

    both = python_with("tflite-runtime", "litert", "onnx")
    made = export(
        SHIPPED["emtnet-s"], tmp_path / "bundle", int8=True, engines=["litert"], calibration=phantom_frames(count=32)
    )
    done = edgekit("drift", made.path, "--data", small_dataset, "--json", "drift.json", "--threads", 1, python=both)
    assert done.returncode in (0, 3), done.stderr  # one of twenty phantoms may turn
    report = json.loads((tmp_path / "drift.json").read_text())
    found = {(artifact["engine"], artifact["precision"]): artifact for artifact in report["artifacts"]}
    assert {("litert", "fp32"), ("litert", "int8"), ("tflite-runtime", "fp32"), ("tflite-runtime", "int8")} <= {*found}
    ours, litert = (found[name, "fp32"]["agreement"] for name in ("tflite-runtime", "litert"))
    assert ours["mask_max"] == pytest.approx(litert["mask_max"], abs=1e-4)
    assert ours["malignancy_max"] == pytest.approx(litert["malignancy_max"], abs=1e-4)
    assert not [reason for reason in found["tflite-runtime", "int8"]["reasons"] if "other engines" in reason]


@pytest.mark.slow
@pytest.mark.usefixtures("runtime_python")
def test_the_extra_installs_with_its_constraints_and_runs(tmp_path: Path) -> None:
    """By the line of docs/tflite-runtime.md, from a copy of this checkout, into an environment that sees no checkout."""
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests", "runs", "edgekit-*", "__pycache__")
    shutil.copytree(ROOT, tmp_path / "copy", ignore=left_out)
    folder = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=120)
    pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    line = [f"{tmp_path / 'copy'}[tflite-runtime]", "-c", str(tmp_path / "copy" / CONSTRAINTS.name)]
    subprocess.run([*pip, *line], check=True, timeout=300)
    cv2.imwrite(str(tmp_path / "frame.png"), phantom_case(0).pixels)
    command = [str(folder / "bin/edgekit"), "predict", "frame.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "1 images, tflite-runtime int8" in done.stdout
