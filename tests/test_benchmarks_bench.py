"""`edgekit bench` as a library: which artifacts are timed, what is compared with what, and what the report says."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from bench_reports import bench_report
from onnx import TensorProto, helper

import benchmarks.bench as bench_module
from benchmarks.bench import bench
from benchmarks.machine import State, environment
from edge.bundle import Bundle
from edge.bundle_file import BundleFile
from edge.device import Throttled
from edge.errors import BundleError, IntegrityError
from edge.frame import GreyImage
from edge.manifest import SCHEMA, Artifact, InputSpec, Manifest, OperatingPoint, OutputSpec
from edge.phantom import phantom_case
from edge.preprocess import Resize, preprocess

SIZE = (64, 96)


def write_model(path: Path) -> Path:
    """A network that casts its image to float and calls its brightest pixel the malignancy."""
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, *SIZE])
    mask = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, *SIZE])
    malignancy = helper.make_tensor_value_info("malignancy", TensorProto.FLOAT, [1, 1])
    nodes = [
        helper.make_node("Cast", ["image"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("GlobalMaxPool", ["mask"], ["peak"]),
        helper.make_node("Flatten", ["peak"], ["malignancy"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [image], [mask, malignancy])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def make_bundle(folder: Path, *artifacts: tuple[str, str], resize: Resize = "stretch") -> Bundle:
    """A bundle whose artifacts are all the same small ONNX file, whatever engine they claim to be for."""
    content = write_model(folder / "tiny.onnx").read_bytes()
    file = BundleFile("tiny.onnx", hashlib.sha256(content).hexdigest(), len(content))
    manifest = Manifest(
        schema=SCHEMA,
        network="tiny",
        source_sha256="0" * 64,
        input=InputSpec("image", *SIZE, 1, (128.0,), (128.0,), resize),
        outputs=(
            OutputSpec("mask", "mask", "sigmoid", (1, 1, *SIZE)),
            OutputSpec("malignancy", "class", "sigmoid", (1, 1)),
        ),
        labels=("benign", "malignant"),
        operating_point=OperatingPoint(0.5, "malignant", "nothing"),
        presence=None,
        weight_range="full",
        artifacts=tuple(Artifact(engine, precision, (file,)) for engine, precision in artifacts),
        missing=(),
        guesses=(),
        drift=None,
        versions={},
        calibration=None,
    )
    return Bundle(folder, manifest)


@pytest.fixture
def memory_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Path, dict[str, Any]]]:
    """What was asked about memory; the answer is 1 MiB for every artifact (`test_benchmarks_memory.py` measures)."""
    calls: list[tuple[str, Path, dict[str, Any]]] = []

    def answer(engine: str, path: Path, **options: Any) -> int:
        calls.append((engine, path, options))
        return 2**20

    monkeypatch.setattr(bench_module, "peak_rss_bytes", answer)
    return calls


def test_every_artifact_is_timed_and_compared_with_fp32(
    tmp_path: Path, memory_calls: list[tuple[str, Path, dict[str, Any]]]
) -> None:
    bundle = make_bundle(tmp_path, ("onnx", "fp32"), ("onnx", "int8"))
    report = bench(bundle, threads=1, rounds=5)
    fp32, int8 = report.results
    assert [(result.engine, result.precision, result.threads) for result in report.results] == [
        ("onnx", "fp32", 1),
        ("onnx", "int8", 1),
    ]
    assert [len(result.latency.samples_ms) for result in report.results] == [5, 5]
    assert fp32.speedup_vs_fp32 == fp32.speedup_vs_fastest_fp32 == 1.0
    assert int8.speedup_vs_fp32 == pytest.approx(fp32.latency.p50_ms / int8.latency.p50_ms)
    assert int8.size_bytes == (tmp_path / "tiny.onnx").stat().st_size
    assert report.skipped == ()
    options = {"threads": 1, "device": "cpu", "height": 64, "width": 96}
    assert memory_calls == [
        ("onnx", tmp_path / "tiny.onnx", options | {"precision": precision}) for precision in ("fp32", "int8")
    ]


@pytest.mark.parametrize("resize", get_args(Resize))
def test_the_timed_image_is_what_the_network_would_see(
    tmp_path: Path, resize: Resize, memory_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[GreyImage] = []

    class Watching:
        def infer(self, image: GreyImage) -> dict[str, Any]:
            seen.append(image)
            return {}

        def close(self) -> None:
            pass

    monkeypatch.setattr(bench_module, "open_artifact", lambda *given, **named: Watching())
    bench(make_bundle(tmp_path, ("onnx", "fp32"), resize=resize), rounds=1)
    assert np.array_equal(seen[0], preprocess(phantom_case(0).pixels, SIZE, resize=resize))


def test_without_an_fp32_artifact_there_is_no_speed_up(tmp_path: Path, memory_calls: list[Any]) -> None:
    (result,) = bench(make_bundle(tmp_path, ("onnx", "int8")), rounds=2).results
    assert (result.speedup_vs_fp32, result.speedup_vs_fastest_fp32) == (None, None)
    assert result.threads >= 1


def test_an_engine_that_is_not_installed_is_skipped_and_named(
    tmp_path: Path, memory_calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "works", lambda engine: engine == "onnx")
    report = bench(make_bundle(tmp_path, ("onnx", "fp32"), ("litert", "fp32"), ("openvino", "int8")), rounds=1)
    assert [result.engine for result in report.results] == ["onnx"]
    assert report.skipped == ("litert fp32", "openvino int8")


def test_engines_asked_for_are_the_only_ones(tmp_path: Path, memory_calls: list[Any]) -> None:
    bundle = make_bundle(tmp_path, ("litert", "fp32"), ("onnx", "fp32"), ("openvino", "fp32"))
    report = bench(bundle, engines=["onnx"], rounds=1)
    assert [result.engine for result in report.results] == ["onnx"]
    assert report.skipped == ()


def test_nothing_to_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path, ("onnx", "fp32"))
    with pytest.raises(BundleError, match="no artifact to time for engine litert on cpu"):
        bench(bundle, engines=["litert"])
    with pytest.raises(BundleError, match="for engine any on gpu"):
        bench(bundle, device="gpu")  # ONNX Runtime and LiteRT run on the CPU only
    monkeypatch.setattr(bench_module, "works", lambda engine: False)
    with pytest.raises(BundleError, match="install an engine"):
        bench(bundle)


def test_a_changed_artifact_is_not_timed(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, ("onnx", "fp32"))
    (tmp_path / "tiny.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError):
        bench(bundle, rounds=1)


def test_the_report_is_json_with_raw_samples_and_the_machine(tmp_path: Path, memory_calls: list[Any]) -> None:
    bundle = make_bundle(tmp_path, ("onnx", "fp32"))
    (tmp_path / "manifest.json").write_text(bundle.manifest.to_json())
    states = iter((State(40.0, 1500.0, None), State(61.0, 1400.0, Throttled(0b100))))
    record = json.loads(json.dumps(bench(bundle, threads=1, rounds=3, read=lambda: next(states)).to_json()))
    assert set(record) == {
        *("schema", "created", "bundle", "environment", "before", "after", "rounds", "yardstick_ms", "results"),
        *("skipped", "fastest", "paradoxes", "cold_starts", "soak", "comparison"),
    }
    assert record["schema"] == bench_module.SCHEMA
    assert record["rounds"] == len(record["yardstick_ms"]) == 3
    assert record["bundle"] == {
        "path": str(tmp_path),
        "manifest_sha256": hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest(),
        "network": "tiny",
        "input": list(SIZE),
    }
    assert record["before"] == {"temperature_c": 40.0, "clock_mhz": 1500.0, "throttled_bits": None}
    assert record["after"] == {"temperature_c": 61.0, "clock_mhz": 1400.0, "throttled_bits": 4}
    (result,) = record["results"]
    assert set(result) == {
        "engine",
        "precision",
        "device",
        "threads",
        "p50_ms",
        "p90_ms",
        "p99_ms",
        "fps",
        "peak_rss_bytes",
        "size_bytes",
        "speedup_vs_fp32",
        "speedup_vs_fastest_fp32",
        "effective_precision",
        "roofline",
        "samples_ms",
    }
    assert len(result["samples_ms"]) == 3
    assert result["p50_ms"] == sorted(result["samples_ms"])[1]
    assert result["fps"] == pytest.approx(1000 / result["p50_ms"])
    assert result["peak_rss_bytes"] == 2**20
    assert record["fastest"] == "onnx fp32"


def test_the_environment_names_hardware_kernel_and_versions() -> None:
    found = environment()
    assert set(found) == {"device", "kernel", "system", "python", "packages"}
    assert found["device"]["cpu"]
    assert found["device"]["cores"] >= 1
    assert found["kernel"] == os.uname().release
    assert {"edgekit-ultrasound", "numpy", "onnxruntime"} <= set(found["packages"])


def test_int8_that_is_slower_than_float_is_a_paradox_and_the_fastest_is_known() -> None:
    report = bench_report({"litert fp32": 5.0, "litert int8": 11.0, "onnx fp32": 6.0, "onnx int8": 4.0})
    (found,) = report.paradoxes
    assert found.engine == "litert"
    assert found.ratio.value == pytest.approx(2.2, rel=0.03)
    assert report.fastest.name == "onnx int8"
    assert report.to_json()["paradoxes"][0]["int8_over_fp32"] == found.ratio.value


def test_int8_as_fast_as_float_up_to_noise_is_no_paradox() -> None:
    for seed in range(5):
        assert not bench_report({"litert fp32": 5.0, "litert int8": 5.05}, seed=100 * seed).paradoxes
