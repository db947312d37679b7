"""Which artifact runs when nobody named an engine: one that dies or saturates here is passed over, and that is said."""

import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import pytest
from broken_engines import PACKAGES, FakeEngines, another_process, dies, fakes

import edge.choice
import edge.probe
from edge.bundle import Bundle
from edge.engines import EngineWarning
from edge.errors import EngineError
from edge.manifest import Artifact
from edge.phantom import phantom_case
from edge.predictor import Predictor

__all__ = ["another_process", "fakes"]  # the fixtures

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def builtin() -> Bundle:
    return Bundle.open_or_builtin(None, network="emtnet-s")


def told(caught: list[warnings.WarningMessage]) -> list[str]:
    assert all(issubclass(each.category, EngineWarning) for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("source", [dies("SIGILL"), dies("SIGSEGV"), "raise ImportError('libtbb.so.12 is missing')"])
def test_an_engine_that_does_not_work_is_passed_over_with_one_line(
    fakes: FakeEngines, builtin: Bundle, source: str
) -> None:
    fakes.install("openvino", source)
    with pytest.warns(EngineWarning) as caught:
        chosen = builtin.choose()
    assert (chosen.engine, chosen.precision) == ("litert", "int8")
    (line,) = told(list(caught))
    assert line.startswith("openvino ")
    assert "while it was imported" in line
    assert line.endswith("; litert int8 is used instead")


def test_a_predictor_goes_on_with_the_next_engine(fakes: FakeEngines) -> None:
    fakes.install("openvino", dies("SIGILL"))
    with (
        pytest.warns(EngineWarning, match="SIGILL"),
        Predictor.open(network="emtnet-s", threads=1) as predictor,
    ):
        prediction = predictor.predict(phantom_case(3, label="malignant").pixels)
    assert prediction.decision in ("benign", "malignant", "no lesion")


def test_every_engine_that_is_passed_over_is_told(fakes: FakeEngines, builtin: Bundle) -> None:
    fakes.install("openvino", dies("SIGILL"))
    fakes.install("litert", dies("SIGBUS"))
    with pytest.warns(EngineWarning) as caught:
        assert builtin.choose().engine == "onnx"
    assert [line.split()[0] for line in told(list(caught))] == ["openvino", "litert"]


def test_where_no_engine_works_every_reason_is_in_one_line(fakes: FakeEngines, builtin: Bundle) -> None:
    for engine, signal in (("openvino", "SIGILL"), ("litert", "SIGBUS"), ("onnx", "SIGSEGV")):
        fakes.install(engine, dies(signal))
    with pytest.raises(EngineError, match=r"^no installed engine works here: .*SIGILL.*SIGBUS.*SIGSEGV") as caught:
        builtin.choose()
    assert "\n" not in str(caught.value)


def test_an_engine_that_is_named_and_dies_is_one_line_and_not_a_dead_program(fakes: FakeEngines) -> None:
    fakes.install("openvino", dies("SIGILL"))
    with pytest.raises(EngineError, match=r"^openvino died of SIGILL .*choose another --engine") as caught:
        Predictor.open(network="emtnet-s", engine="openvino")
    assert "\n" not in str(caught.value)


def test_engines_behind_the_chosen_one_are_not_tried(
    fakes: FakeEngines, builtin: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def fault(engine: str) -> None:
        tried.append(engine)

    monkeypatch.setattr(edge.choice, "engine_fault", fault)
    assert builtin.choose().engine == tried[0]
    assert len(tried) == 1


# Saturation


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(edge.choice, "cpu_features", lambda: ("avx2", "fma"))


def artifacts(builtin: Bundle, *names: str) -> list[Artifact]:
    file = builtin.manifest.artifacts[0].files
    return [Artifact(engine, precision, file) for engine, precision in (name.split() for name in names)]


@pytest.mark.usefixtures("without_vnni")
@pytest.mark.parametrize(
    ("there", "chosen", "line"),
    [
        (("openvino int8", "litert int8", "onnx int8"), "litert int8", "; litert int8 is used instead"),
        (("openvino int8", "openvino fp32", "onnx int8"), "openvino fp32", "; openvino fp32 is used instead"),
        (("openvino int8", "onnx int8"), "openvino int8", "; use LiteRT (the extra 'litert'), FP32, or export with"),
        (("openvino int8",), "openvino int8", "; use LiteRT (the extra 'litert'), FP32, or export with"),
    ],
)
def test_without_vnni_what_does_not_saturate_is_taken_and_it_is_said(
    builtin: Bundle, there: tuple[str, ...], chosen: str, line: str
) -> None:
    with pytest.warns(EngineWarning) as caught:
        found = edge.choice.first_working(artifacts(builtin, *there), weight_range="full")
    assert f"{found.engine} {found.precision}" == chosen
    (said,) = told(list(caught))
    assert said.startswith("INT8 of openvino saturates on this processor (x86 without VNNI)")
    assert line in said


@pytest.mark.usefixtures("without_vnni")
@pytest.mark.parametrize(
    ("there", "weight_range"), [(("openvino int8", "litert int8"), "half"), (("litert int8", "litert fp32"), "full")]
)
def test_what_does_not_saturate_is_taken_without_a_word(
    builtin: Bundle, there: tuple[str, ...], weight_range: str
) -> None:
    chosen = edge.choice.first_working(artifacts(builtin, *there), weight_range=weight_range)
    assert f"{chosen.engine} {chosen.precision}" == there[0]


# The commands


def command(*arguments: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "edgekit", *map(str, arguments)]
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join([environment.get("PYTHONPATH", ""), str(ROOT)])}
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def frame(tmp_path: Path) -> Path:
    path = tmp_path / "frame.png"
    assert cv2.imwrite(str(path), phantom_case(3, size=(128, 160)).pixels)
    return path


@pytest.fixture
def deadly(tmp_path: Path) -> str:
    """A path on which OpenVINO dies of an illegal instruction."""
    folder = tmp_path / "path" / PACKAGES["openvino"]
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(dies("SIGILL"))
    return str(folder.parent)


def test_predict_goes_on_with_another_engine_and_one_note(tmp_path: Path, frame: Path, deadly: str) -> None:
    done = command(
        "predict", frame, "--network", "emtnet-s", cwd=tmp_path, PYTHONPATH=deadly, EDGEKIT_CACHE=str(tmp_path / "c")
    )
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if "SIGILL" in line]
    assert len(notes) == 1
    assert notes[0].startswith("note: openvino died of SIGILL (an illegal instruction")
    assert json.loads((tmp_path / "edgekit-predictions/predictions.json").read_text())["engine"] == "litert"


def test_predict_with_the_engine_that_dies_ends_with_one_line(tmp_path: Path, frame: Path, deadly: str) -> None:
    wish = ("--network", "emtnet-s", "--engine", "openvino")
    done = command("predict", frame, *wish, cwd=tmp_path, PYTHONPATH=deadly, EDGEKIT_CACHE=str(tmp_path / "c"))
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: openvino died of SIGILL")


def test_a_package_that_does_not_import_is_one_line_and_points_to_the_doctor(tmp_path: Path, frame: Path) -> None:
    numpy = tmp_path / "path/numpy"
    numpy.mkdir(parents=True)
    (numpy / "__init__.py").write_text("raise ImportError('numpy.core.multiarray failed to import\\n(more)')")
    done = command("predict", frame, cwd=tmp_path, PYTHONPATH=str(numpy.parent))
    assert done.returncode == 1
    wanted = "error: a package does not import: numpy.core.multiarray failed to import; edgekit doctor says which"
    assert done.stderr.splitlines() == [wanted]


@pytest.mark.parametrize("version", ["(3, 9, 2)", "(3, 10, 12)"])
def test_a_python_that_is_too_old_is_one_line(version: str) -> None:
    code = f"import sys; sys.version_info = {version}; import edgekit.cli"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: edgekit needs Python 3.11 to 3.13, this is 3.")


# What saturation does, on the engines themselves


@pytest.mark.skipif(
    "avx512_vnni" not in Path("/proc/cpuinfo").read_text(), reason="compares with a processor with VNNI"
)
def test_openvino_kept_from_vnni_answers_otherwise_with_full_weights(tmp_path: Path) -> None:
    """The reason for all this: the built-in bundle, once as it is and once with no more than AVX2."""
    script = tmp_path / "answers.py"
    script.write_text(
        "from edge.phantom import phantom_case\nfrom edge.predictor import Predictor\n"
        "with Predictor.open(network='emtnet', engine='openvino', threads=1) as predictor:\n"
        "    print([predictor.predict(phantom_case(seed).pixels).malignancy for seed in range(4)])\n"
    )
    answers = []
    for limit in ({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}):
        env = {**os.environ, **limit, "PYTHONPATH": str(ROOT), "EDGEKIT_CACHE": "off"}
        done = subprocess.run(
            [sys.executable, script], env=env, capture_output=True, text=True, timeout=120, check=True
        )
        answers.append(json.loads(done.stdout))
    assert max(abs(a - b) for a, b in zip(*answers, strict=True)) > 0.01
