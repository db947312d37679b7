"""Engines are tried in a process of their own: whatever becomes of that is a line, and is known the next time."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from broken_engines import FakeEngines, another_process, dies, fakes

import edge.probe
from edge.cache import write_cached
from edge.engines import is_installed
from edge.probe import EngineProbe, engine_fault, openvino_devices, probe_engine, probe_package

__all__ = ["another_process", "fakes"]  # the fixtures

ROOT = Path(__file__).resolve().parents[1]


def counted(file: Path, source: str) -> str:
    """A package that leaves a line in a file each time it is imported."""
    return f"open({str(file)!r}, 'a').write('once\\n')\n{source}"


@pytest.mark.parametrize("engine", ["openvino", "litert", "onnx"])
def test_an_engine_that_works_is_ok_with_its_version(engine: str) -> None:
    probe = probe_engine(engine)
    assert (probe.engine, probe.state, probe.detail, probe.fault) == (engine, "ok", "", None)
    assert probe.version is not None
    assert probe.version[0].isdigit()


@pytest.mark.parametrize(
    ("signal", "why"),
    [
        ("SIGILL", "illegal instruction: its wheel is built for a newer processor"),
        ("SIGSEGV", "invalid memory access"),
        ("SIGKILL", "lack of memory"),
    ],
)
def test_an_engine_that_takes_its_process_with_it_is_a_line(fakes: FakeEngines, signal: str, why: str) -> None:
    fakes.install("openvino", dies(signal))
    probe = probe_engine("openvino")
    assert probe.state == "died"
    assert str(probe.fault).startswith(f"openvino died of {signal} (")
    assert why in str(probe.fault)
    assert str(probe.fault).endswith("while it was imported")
    assert "\n" not in str(probe.fault)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ImportError('libtbb.so.12: cannot open shared object file')", "ImportError: libtbb.so.12"),
        ("import edgekit_no_such_package", "ModuleNotFoundError: No module named 'edgekit_no_such_package'"),
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("raise ImportError('A module that was compiled\\nusing NumPy 1.x\\n')", "A module that was compiled"),
        ("import os; os._exit(7)", "ended with exit code 7 while it was imported"),
    ],
)
def test_an_engine_that_is_broken_says_so_itself(fakes: FakeEngines, source: str, said: str) -> None:
    fakes.install("litert", source)
    probe = probe_engine("litert")
    assert probe.state == "broken"
    assert said in str(probe.fault)
    assert "\n" not in str(probe.fault)


def test_an_engine_whose_network_does_not_open_says_at_what_it_failed(fakes: FakeEngines) -> None:
    fakes.install("onnx", "print('a line of its own')\n")
    assert str(probe_engine("onnx").fault).startswith("onnx failed while it opened a network: ")


@pytest.mark.slow
def test_an_engine_that_gives_no_answer_is_dead_after_the_limit(fakes: FakeEngines) -> None:
    fakes.install("openvino", "import time\ntime.sleep(60)\n")
    started_s = time.monotonic()
    probe = probe_engine("openvino", limit_s=3.0)
    assert time.monotonic() - started_s < 20
    assert (probe.state, probe.detail) == ("died", "gave no answer within 3 s, while it was imported")


def test_an_engine_that_is_not_installed_is_absent_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert not is_installed("onnx")
    assert probe_engine("onnx").state == "absent"
    assert engine_fault("onnx") is None


def test_an_unknown_engine_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="'tensorrt' is none of openvino"):
        probe_engine("tensorrt")


@pytest.mark.parametrize(("state", "detail"), [("ok", "but"), ("died", ""), ("well", "x")])
def test_a_verdict_that_contradicts_itself_is_refused(state: str, detail: str) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        EngineProbe("onnx", state, None, detail)  # type: ignore[arg-type]


def test_packages_that_every_command_needs_are_tried_too(fakes: FakeEngines) -> None:
    assert probe_package("json").state == "ok"
    assert probe_package("edgekit_no_such_package").state == "absent"
    fakes.install("edgekit_dies", dies("SIGILL"))
    assert probe_package("edgekit_dies").state == "died"


def test_openvino_tells_its_devices_from_a_child() -> None:
    assert openvino_devices()["CPU"]
    assert "openvino" not in modules_loaded("import edge.probe; edge.probe.openvino_devices()")


def test_the_parent_needs_neither_numpy_nor_opencv() -> None:
    assert not {"numpy", "cv2"} & modules_loaded("import edge.probe; edge.probe.engine_fault('onnx')")


def modules_loaded(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


# What is kept


def test_a_verdict_is_kept_for_the_next_process(fakes: FakeEngines, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    fakes.install("openvino", counted(tries, dies("SIGILL")))
    faults = []
    for _ in range(3):
        edge.probe._known_fault.cache_clear()  # as another process begins
        faults.append(engine_fault("openvino"))
    assert tries.read_text() == "once\n"
    assert len(set(faults)) == 1
    assert "SIGILL" in str(faults[0])


def test_an_engine_that_was_upgraded_is_tried_again(fakes: FakeEngines) -> None:
    fakes.install("openvino", dies("SIGILL"))
    assert "SIGILL" in str(engine_fault("openvino"))
    fakes.install("openvino", "# longer than before\n" + dies("SIGBUS"))
    assert "SIGBUS" in str(engine_fault("openvino"))


def test_another_processor_is_another_verdict(fakes: FakeEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install("openvino", dies("SIGILL"))
    before = edge.probe._key("openvino")
    monkeypatch.setattr(edge.probe, "cpu_features", lambda: ("avx2",))
    assert edge.probe._key("openvino") != before


@pytest.mark.parametrize("source", [dies("SIGKILL"), "raise ImportError('libGL.so.1: cannot open')"])
def test_a_fault_that_may_pass_is_tried_again_by_the_next_process(
    fakes: FakeEngines, tmp_path: Path, source: str
) -> None:
    tries = tmp_path / "tries"
    fakes.install("openvino", counted(tries, source))
    for _ in range(2):
        edge.probe._known_fault.cache_clear()
        assert engine_fault("openvino") is not None
        assert engine_fault("openvino") is not None  # the same process does not ask twice
    assert tries.read_text() == "once\n" * 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"lasting": true, "engine": "openvino"}', b"\xff"])
def test_a_verdict_of_another_edgekit_is_not_believed(fakes: FakeEngines, content: bytes) -> None:
    fakes.install("openvino", dies("SIGILL"))
    assert write_cached("engine-probe", edge.probe._key("openvino"), content)
    assert "SIGILL" in str(engine_fault("openvino"))


def test_without_a_place_to_keep_it_an_engine_is_tried_all_the_same(
    fakes: FakeEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", "off")
    fakes.install("openvino", dies("SIGILL"))
    assert "SIGILL" in str(engine_fault("openvino"))


def test_a_known_verdict_costs_a_start_next_to_nothing(fakes: FakeEngines) -> None:
    assert engine_fault("litert") is None
    costs_s = []
    for _ in range(5):
        edge.probe._known_fault.cache_clear()
        started_s = time.perf_counter()
        assert engine_fault("litert") is None
        costs_s.append(time.perf_counter() - started_s)
    assert min(costs_s) < 0.02
