"""`edgekit doctor` on this computer, healthy and broken, and the weight range that `edgekit export --target` takes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken_engines import PACKAGES, dies
from edgekit_command import Edgekit
from test_edgekit_export import PIXELS, saved

from edge.bundle import Bundle
from edge.device import VNNI, Device, cpu_features
from edge.doctor import Checkup
from edgekit.commands.doctor import _facts

ROOT = Path(__file__).resolve().parents[1]


def doctor(folder: Path, *path: Path, told: str = "report.json") -> "subprocess.CompletedProcess[str]":
    """The command with other packages first on its path."""
    return subprocess.run(
        [sys.executable, "-m", "edgekit", "doctor", "--json", told],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), "EDGEKIT_CACHE": str(folder / "c")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def broken(folder: Path, **packages: str) -> Path:
    for name, source in packages.items():
        (folder / "path" / name).mkdir(parents=True)
        (folder / "path" / name / "__init__.py").write_text(source)
    return folder / "path"


def test_a_healthy_computer_is_described_and_told_what_to_run(tmp_path: Path) -> None:
    done = doctor(tmp_path)
    assert done.returncode == 0, done.stderr
    for title in ("Computer", "Engines", "OpenVINO devices", "Findings", "recommended: --engine "):
        assert title in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert {each["engine"]: each["state"] for each in report["engines"]}.items() >= dict.fromkeys(
        PACKAGES, "ok"
    ).items()
    assert report["recommendation"]["engine"] in PACKAGES
    assert report["device"]["features"] == list(cpu_features())
    assert "CPU" in report["openvino_devices"]


@pytest.mark.parametrize(
    ("known", "clock", "temperature"),
    [
        ((None, None, None, None), "–", "–"),
        (("ondemand", 1500.0, 2400.0, 61.24), "1500 MHz, at most 2400, governor ondemand", "61.2 °C"),
        ((None, 2596.0, None, None), "2596 MHz", "–"),
    ],
)
def test_what_a_computer_does_not_tell_is_a_dash(
    known: tuple[str | None, float | None, float | None, float | None], clock: str, temperature: str
) -> None:
    device = Device(None, "x86_64", 64, "CPU", 2, (), None, *known, None)
    system = dict.fromkeys(("system", "kernel", "libc", "python"), "")
    facts = dict(_facts(Checkup(device, system, (), (), {}, (), (), None)))
    assert (facts["clock"], facts["temperature"]) == (clock, temperature)


def test_an_engine_that_dies_is_a_line_in_the_table_and_another_one_is_recommended(tmp_path: Path) -> None:
    done = doctor(tmp_path, broken(tmp_path, openvino=dies("SIGILL"), ai_edge_litert="raise ImportError('no libm')"))
    assert done.returncode == 0, done.stderr
    assert "died of SIGILL" in done.stdout
    assert "ImportError: no libm" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["recommendation"]["engine"] == "onnx"
    assert {"openvino": "died", "litert": "broken", "onnx": "ok"}.items() <= {
        each["engine"]: each["state"] for each in report["engines"]
    }.items()


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ({"numpy": dies("SIGILL")}, "numpy died of SIGILL"),
        pytest.param(
            {"cv2": "raise ImportError('numpy.core.multiarray failed to import')"},
            "cv2 failed while it was imported",
            marks=pytest.mark.slow,
        ),
        (dict.fromkeys(PACKAGES.values(), dies("SIGILL")), "no inference engine works here"),
    ],
    ids=["numpy", "cv2", "engines"],
)
def test_where_nothing_can_run_it_says_so_in_one_line_and_exits_with_1(
    tmp_path: Path, packages: dict[str, str], said: str
) -> None:
    done = doctor(tmp_path, broken(tmp_path, **packages))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: edgekit cannot run here: {said}")
    assert "pip install" in line
    report = json.loads((tmp_path / "report.json").read_text())
    assert "problem" in [each["level"] for each in report["findings"]]


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = doctor(tmp_path, told="file/report.json")
    assert done.returncode == 1
    assert "file" in done.stderr.splitlines()[-1]
    assert "Findings" in done.stdout  # all was said before


# edgekit export --target


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("target", "wish", "weight_range", "said"),
    [
        (
            "nuc-avx2",
            (),
            "half",
            "nuc-avx2 (x86 without VNNI, as Intel NUC before its 11th generation): weight range half",
        ),
        slow("pi4", (), "full", "weight range full, as litert sums INT8 products in 32 bits"),
        slow("nuc-avx2", ("--weight-range", "full"), "full", "INT8 will saturate there"),
        slow("pi5", ("--weight-range", "half"), "half", "not needed there"),
    ],
)
def test_export_takes_the_weight_range_of_the_target_and_says_why(
    tmp_path: Path, edgekit: Edgekit, target: str, wish: tuple[str, ...], weight_range: str, said: str
) -> None:
    out = tmp_path / "bundle"
    code, stdout, stderr = edgekit(
        "export", saved(tmp_path), "--int8", *PIXELS, "--engine", "onnx", "--target", target, *wish, "-o", out
    )
    assert code == 0, stderr
    assert said in stdout + stderr
    assert Bundle.open(out).manifest.weight_range == weight_range


@pytest.mark.slow
def test_export_for_this_machine_takes_what_its_processor_needs(tmp_path: Path, edgekit: Edgekit) -> None:
    out = tmp_path / "bundle"
    wish = ("--engine", "onnx", "--target", "here")
    code, stdout, stderr = edgekit("export", saved(tmp_path), "--int8", *PIXELS, *wish, "-o", out)
    assert code == 0, stderr
    full = VNNI & set(cpu_features()) or "asimd" in cpu_features()
    assert Bundle.open(out).manifest.weight_range == ("full" if full else "half")
    assert "this machine as " in stdout


def test_an_unknown_target_is_a_usage_error(tmp_path: Path, edgekit: Edgekit) -> None:
    assert edgekit("export", saved(tmp_path), "--int8", "--target", "pi3")[0] == 2
