"""`edgekit bench` as a user meets it: soak, cold start, comparison, the page."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from edgekit_command import Edgekit
from foreign_bundles import CLASSES, MASK, write_bundle

import benchmarks.bench as bench_module
from benchmarks.latency import Latency
from benchmarks.latency import measure as really_measure
from edge.bundle import BUILTIN

SMALL = ("--engine", "litert", "--network", "emtnet-s", "--threads", 1, "--rounds", 5)


def errors(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error: ")]


def scaled(file: Path, factor: float) -> None:
    """Make a report's latencies so many times as long."""
    record = json.loads(file.read_text())
    for result in record["results"]:
        result["samples_ms"] = [factor * ms for ms in result["samples_ms"]]
    file.write_text(json.dumps(record))


def test_a_comparison_exits_with_3_only_where_it_is_slower(edgekit: Edgekit, tmp_path: Path) -> None:
    old, new, page = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "bench.html"
    assert edgekit("bench", *SMALL, "--json", old)[0] == 0
    code, out, err = edgekit("bench", *SMALL, "--compare", old, "--tolerance", 20)  # a busy machine must not fail it
    assert code == 0, err
    assert "Now and then" in out
    scaled(old, 0.01)
    code, _, err = edgekit("bench", *SMALL, "--compare", old, "--json", new, "--html", page)
    assert code == 3
    (line,) = errors(err)
    assert str(old) in line and "litert int8" in line
    (change,) = json.loads(new.read_text())["comparison"]["changes"]
    assert change["verdict"] == "slower"
    assert "Slower: litert int8." in page.read_text()


def test_what_cannot_be_compared_is_refused_before_anything_is_timed(
    edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.json"
    assert edgekit("bench", *SMALL, "--json", old)[0] == 0
    monkeypatch.setattr("edgekit.benching.bench", lambda *given, **named: pytest.fail("was timed"))
    other = ("--engine", "litert", "--network", "emtnet", "--threads", 1)
    code, _, err = edgekit("bench", *other, "--compare", old)
    assert code == 1
    assert "network is 'emtnet' now and was 'emtnet-s'" in errors(err)[0]
    old.write_text(json.dumps({"environment": {}, "results": []}))
    code, _, err = edgekit("bench", *SMALL, "--compare", old)
    assert code == 1
    assert "report of schema none" in errors(err)[0]
    for place in ("--json", "--html"):
        code, _, err = edgekit("bench", *SMALL, place, "/dev/null")
        assert code == 1
        assert "not a regular file" in errors(err)[0]


def test_int8_that_is_slower_than_float_is_said_loudly_and_changes_no_exit_code(
    edgekit: Edgekit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(steps: Any, **options: Any) -> Any:
        found = really_measure(steps, **options)
        return {
            key: Latency(tuple(50 * ms for ms in latency.samples_ms))
            if getattr(key, "precision", "") == "int8" and key.engine == "onnx"
            else latency
            for key, latency in found.items()
        }

    monkeypatch.setattr(bench_module, "measure", measure)
    write_bundle(tmp_path / "b", MASK, CLASSES)
    code, _, err = edgekit("bench", tmp_path / "b", "--engine", "onnx", "--rounds", 5, "--json", tmp_path / "new.json")
    assert code == 0
    assert "WARNING: onnx int8 is slower on this machine than onnx fp32" in err
    assert "Use onnx fp32, the fastest here" in err
    assert json.loads((tmp_path / "new.json").read_text())["paradoxes"][0]["engine"] == "onnx"


def test_a_soak_and_cold_starts_are_in_the_report(edgekit: Edgekit, tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    code, out, err = edgekit("bench", *SMALL, "--soak", 0.03, "--cold-start", "--json", file)
    assert code == 0, err
    record = json.loads(file.read_text())
    assert record["soak"]["artifact"] == "litert int8"
    assert record["soak"]["asked_s"] == pytest.approx(1.8)
    assert 1.8 <= record["soak"]["duration_s"] < 10
    assert [start["engine"] for start in record["cold_starts"]] == ["litert"]
    assert "Soak: litert int8 for 0:0" in out


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_soak_without_a_time_is_a_usage_error(edgekit: Edgekit, minutes: str) -> None:
    assert edgekit("bench", f"--soak={minutes}")[0] == 2


def _started(*arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "edgekit", "bench", *map(str, (*SMALL, *arguments))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_in_a_soak_keeps_what_was_measured(tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    running = _started("--soak", 10, "--json", file)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    for measured in (True, False):  # peak memory is a child's; when that is gone the soak begins
        deadline = time.monotonic() + 60
        while bool(children.read_text()) != measured and time.monotonic() < deadline:
            time.sleep(0.02)
    time.sleep(2.5)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 0, err
    assert "the soak was interrupted after" in err
    record = json.loads(file.read_text())
    assert record["soak"]["interrupted"] is True
    assert 1 < record["soak"]["duration_s"] < 60


def test_ctrl_c_before_the_soak_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    running = _started("--rounds", 1_000_000, "--json", file)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and "tflite" not in Path(f"/proc/{running.pid}/maps").read_text():
        time.sleep(0.1)
    time.sleep(1.0)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "interrupted; nothing was written" in errors(err)[0]
    assert not file.exists()


def test_the_builtin_bundles_manifest_is_what_the_report_names(edgekit: Edgekit, tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    assert edgekit("bench", *SMALL, "--json", file)[0] == 0
    digest = hashlib.sha256((BUILTIN["emtnet-s"] / "manifest.json").read_bytes()).hexdigest()
    assert json.loads(file.read_text())["bundle"]["manifest_sha256"] == digest
