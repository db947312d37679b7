"""The arm64 gate's own parts: what it takes for a failure, and what it would not notice."""

import json
import os
import platform
import pwd
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from arm64 import service
from arm64.agreement import compare, phantom_frames
from arm64.answers import answers
from arm64.boards import BOARDS, PI4, PI5, Board
from arm64.record import GateError, Record
from arm64.selection import runnable
from arm64.wheels import REPOSITORY
from roots import RootError, RootUnavailableError, debian_root, roots_folder

from edge.bundle import BUILTIN
from edge.device import cpu_features, cpu_name, read_device

# Steps


def test_the_gate_passes_where_every_step_does_and_says_each_in_a_line(tmp_path: Path) -> None:
    lines: list[str] = []
    record = Record(limit_s=60, say=lines.append)
    assert not record.passed  # nothing was tried
    assert record.step("pi4", "doctor", lambda: "fine")
    record.write(tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    assert [(step["where"], step["name"], step["detail"]) for step in report["steps"]] == [("pi4", "doctor", "fine")]
    assert len(lines) == 1
    assert "doctor" in lines[0]


@pytest.mark.parametrize("fault", [GateError("another answer"), KeyError("results"), OSError("no space")])
def test_whatever_a_step_raises_it_has_failed_and_the_next_one_is_run(fault: Exception) -> None:
    def fails() -> str:
        raise fault

    record = Record(limit_s=60, say=lambda line: None)
    assert not record.step("pi4", "predict", fails)
    assert record.step("pi4", "run", lambda: "fine")
    assert not record.passed
    assert str(fault) in record.steps[0].detail


def test_no_step_gets_more_time_than_is_left() -> None:
    now = SimpleNamespace(s=0.0)
    record = Record(limit_s=100, say=lambda line: None, clock=lambda: now.s)
    assert record.left_s(30) == 30
    now.s = 90.0
    assert record.left_s(30) == 10
    now.s = 99.5
    with pytest.raises(GateError, match="time is over"):
        record.left_s(30)


# Boards


@pytest.mark.parametrize("board", BOARDS)
def test_what_a_board_shows_is_read_as_that_board(board: Board, tmp_path: Path) -> None:
    for path, content in board.kernel_files().items():
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert read_device(tmp_path).board == board.model
    assert cpu_name(tmp_path, "aarch64") == {PI4: "Cortex-A72", PI5: "Cortex-A76"}[board]
    assert ("asimddp" in cpu_features(tmp_path, "aarch64")) == board.has_dot_product == (board is PI5)


# Answers


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    pytest.importorskip("ai_edge_litert.interpreter", reason="needs LiteRT")
    return answers(phantom_frames(4))


def changed(found: dict[str, Any], name: str, change: Any) -> dict[str, Any]:
    copy = dict(found)
    copy[name] = change(found[name].copy())
    return copy


def test_the_same_answers_agree(here: dict[str, Any]) -> None:
    verdicts = compare(here, here)
    assert [verdict.network for verdict in verdicts] == list(BUILTIN)
    assert all(verdict.passed and verdict.agreement.frames == 4 for verdict in verdicts)


@pytest.mark.parametrize("network", BUILTIN)
def test_one_pixel_that_was_preprocessed_otherwise_is_found(here: dict[str, Any], network: str) -> None:
    def one_pixel(images: Any) -> Any:
        images[2, 100, 100] ^= 1
        return images

    verdicts = {v.network: v for v in compare(here, changed(here, f"{network}/input", one_pixel))}
    assert verdicts[network].inputs_differ == 1
    assert [name for name, verdict in verdicts.items() if not verdict.passed] == [network]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("malignancy", lambda values: values + np.float32(0.2)),
        ("mask", lambda values: np.roll(values, 3, axis=1)),
        ("output/mask", lambda values: values * np.float32(1.1)),
        ("output/features", lambda values: values[:, :, ::-1]),
    ],
)
def test_answers_beyond_the_bounds_are_found(here: dict[str, Any], what: str, change: Any) -> None:
    first = next(iter(BUILTIN))
    verdicts = compare(here, changed(here, f"{first}/{what}", change))
    assert [verdict.network for verdict in verdicts if not verdict.passed] == [first]


# Which tests


def test_tests_that_need_only_the_runtime_are_chosen() -> None:
    chosen, lacking = runnable(REPOSITORY)
    names = {file.name for file in chosen}
    assert {"test_edge_preprocess.py", "test_edge_predictor.py", "test_edge_stream.py"} <= names
    assert not names & lacking.keys()


@pytest.mark.parametrize(
    ("source", "package"),
    [
        ("import onnx", "onnx"),
        ("from helper import thing", "torch"),
        ("from room.part import thing", "scipy"),
        ("from room import part", "scipy"),
        ("import numpy\nfrom helper_of_none import x", "helper_of_none"),
    ],
)
def test_a_package_that_a_device_lacks_is_found_through_other_modules(
    tmp_path: Path, source: str, package: str
) -> None:
    written = {"tests/test_edge_new.py": source, "tests/helper.py": "import numpy\nimport torch\n"}
    written |= {"room/__init__.py": "", "room/part.py": "from scipy import stats\n"}
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert runnable(tmp_path) == ([], {"test_edge_new.py": package})


def test_an_import_inside_a_function_does_not_keep_a_module_out(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_edge_new.py").write_text("import numpy\ndef test():\n    import torch\n")
    chosen, lacking = runnable(tmp_path)
    assert [file.name for file in chosen] == ["test_edge_new.py"]
    assert not lacking


# The service

UNIT = """[Unit]
Description=a trial
[Service]
Type=notify
User={user}
Environment="OPTIONS=--one two" PLAIN=x
EnvironmentFile=-{folder}/env
EnvironmentFile=-{folder}/absent
WatchdogSec=10s
ExecStart={python} {folder}/program.py $OPTIONS --source=${{SOURCE}}
"""
PROGRAM = """
import os, signal, socket, sys, time
print(*sys.argv[1:], os.environ["WATCHDOG_USEC"], flush=True)
if "--die" in sys.argv:
    sys.exit(3)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
    out.sendto(b"READY=1\\nSTATUS=on", os.environ["NOTIFY_SOCKET"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    time.sleep(0.05)
"""


def unit(folder: Path, options: str = "--one two") -> Path:
    (folder / "program.py").write_text(PROGRAM)
    (folder / "env").write_text(f"# settings\nOPTIONS={options}\nSOURCE=phantom:2\n")
    user = pwd.getpwuid(os.getuid()).pw_name
    file = folder / "trial.service"
    file.write_text(UNIT.format(user=user, folder=folder, python=sys.executable))
    return file


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user")
def test_a_service_is_started_with_its_words_and_its_notifications_are_heard(tmp_path: Path) -> None:
    told = service.run(unit(tmp_path, "--three four"), 1.5)
    assert told["log"] == ["--three four --source=phantom:2 10000000"]
    assert [line for _, line in told["messages"]] == ["READY=1", "STATUS=on"]
    assert (told["code"], told["stopped_early"]) == (0, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a program as another user")
def test_a_service_that_ends_by_itself_is_told(tmp_path: Path) -> None:
    told = service.run(unit(tmp_path, "--die"), 20)
    assert (told["code"], told["stopped_early"], told["messages"]) == (3, True, [])


# Roots


def test_roots_are_kept_where_they_are_told_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGEKIT_ROOTS", raising=False)
    assert roots_folder() == tmp_path / "edgekit/roots"
    monkeypatch.setenv("EDGEKIT_ROOTS", str(tmp_path / "mine"))
    assert roots_folder() == tmp_path / "mine"


def test_a_machine_without_the_tools_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
    if arch is None:
        pytest.skip("needs x86-64 or aarch64")
    with pytest.raises(RootUnavailableError, match="apt-get install debootstrap"), debian_root(arch):
        pass


def test_a_user_without_rights_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RootUnavailableError, match="root's rights"), debian_root("amd64"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["amd64", "arm64"])
def test_a_command_in_a_root_sees_debian_and_no_network(arch: str) -> None:
    program = "import platform, socket\nprint(platform.machine())\nsocket.create_connection(('127.0.0.1', 1), 2)"
    try:
        with debian_root(arch) as root:
            place = root.path
            done = root.run("python3", "-c", program)
            devices = root.run("ls", "/sys/class/net").stdout.split()
            shown = root.run(
                "cat", "/proc/cpuinfo", "/sys/firmware/a/b", files={"/proc/cpuinfo": "1", "/sys/firmware/a/b": "2"}
            )
            failed = root.run("sh", "-c", "kill -SEGV $$")
            (root.path / "left").touch()
            with pytest.raises(RootError, match="no end after 2 s") as caught:
                root.run("sh", "-c", "echo begun; sleep 60", limit_s=2)
    except RootUnavailableError as reason:
        pytest.skip(f"no root can be made here: {reason}")
    assert done.stdout.split() == [{"amd64": "x86_64", "arm64": "aarch64"}[arch]]
    assert "ConnectionRefusedError" in done.stderr  # loopback is up, nobody listens
    assert devices == ["lo"]
    assert shown.stdout == "12"
    assert failed.returncode == 139
    assert caught.value.said == "begun\n"
    assert not place.exists()
