"""The units as systemd reads them, and run by a systemd of their own: restarts, the watchdog, the back-off and the sandbox."""

import configparser
import json
import re
import shutil
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import pytest
from service_manager import UNITS, service_manager
from test_edgekit_service import HANGS

EXPOSURE_MAX = 3.0
PHANTOM = "phantom:10?size=320x240&seed=3"
LITERT = {"EDGEKIT_SOURCE": PHANTOM, "EDGEKIT_OPTIONS": "--engine litert --threads 1"}
QUICK = "[Service]\nRestartSec=100ms\n"

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of Debian's package systemd"
)


def placed(folder: Path, *drop_ins: str) -> Path:
    """The units with a program that exists, since systemd asks for it; drop_ins: those of them that are wanted."""
    shutil.copytree(UNITS, folder / "units", ignore=shutil.ignore_patterns("optional"))
    (folder / "units" / "edgekit.service.d").mkdir()
    for name in drop_ins:
        shutil.copy(UNITS / "optional" / name, folder / "units" / "edgekit.service.d")
    service = folder / "units" / "edgekit.service"
    text = service.read_text()
    assert text.count("/opt/edgekit/current/bin/edgekit") == 1
    service.write_text(text.replace("/opt/edgekit/current/bin/edgekit", "/bin/true"))
    return service


def analysed(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


ALL = ("gpu.conf", "litert.conf")


@analyze
@pytest.mark.parametrize("drop_ins", [(), ALL])
def test_systemd_finds_nothing_to_say_against_the_units(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    service = placed(tmp_path, *drop_ins)
    done = analysed("verify", "--man=no", service, service.with_name("edgekit-retry.timer"))
    assert (done.returncode, done.stderr) == (0, "")


@analyze
def test_systemd_would_find_a_setting_that_it_does_not_know(tmp_path: Path) -> None:
    service = placed(tmp_path)
    service.write_text(service.read_text().replace("NoNewPrivileges=", "NoNewPrivilege="))
    assert re.search("Unknown key.* 'NoNewPrivilege'", analysed("verify", "--man=no", service).stderr)


@analyze
@pytest.mark.parametrize("drop_ins", [(), ALL])
def test_the_service_is_exposed_no_more_than_wanted(tmp_path: Path, drop_ins: tuple[str, ...]) -> None:
    done = analysed("security", "--offline=true", "--no-pager", "--json=short", placed(tmp_path, *drop_ins))
    assert json.loads(done.stdout)
    summary = analysed("security", "--offline=true", "--no-pager", tmp_path / "units" / "edgekit.service").stdout
    found = re.search(r"Overall exposure level for edgekit\.service: ([0-9.]+)", summary)
    assert found is not None, summary
    assert float(found[1]) <= EXPOSURE_MAX


def test_the_units_travel_with_the_package_and_the_settings_are_explained() -> None:
    for name in ("edgekit.service", "edgekit-retry.timer", "edgekit.env"):
        assert files("edge").joinpath("systemd", name).is_file()
    settings = [line for line in (UNITS / "edgekit.env").read_text().splitlines() if line and not line.startswith("#")]
    assert settings == ["EDGEKIT_SOURCE=", "EDGEKIT_OPTIONS=--web 127.0.0.1:8765"]


def test_the_devices_that_are_allowed_are_known_before_the_first_camera_is_plugged_in() -> None:
    lines = (UNITS / "edgekit.service").read_text().splitlines()
    assert "DeviceAllow=char-video4linux rw" in lines, "by its name in /proc/devices, where the kernel's module puts it"
    assert "Wants=modprobe@videodev.service" in lines
    assert any(line.startswith("After=") and "modprobe@videodev.service" in line for line in lines)


def test_the_back_off_gives_up_before_it_starts_to_count_anew() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNITS / "edgekit.service")
    patience_s = int(unit["Service"]["WatchdogSec"].removesuffix("s")) + int(
        unit["Service"]["TimeoutAbortSec"].removesuffix("s")
    )
    restart_s = int(unit["Service"]["RestartSec"].removesuffix("s"))
    window_s = 60 * int(unit["Unit"]["StartLimitIntervalSec"].removesuffix("min"))
    assert int(unit["Unit"]["StartLimitBurst"]) * (patience_s + restart_s + 10) < window_s, (
        "also where every start hangs"
    )
    timer = (UNITS / "edgekit-retry.timer").read_text()
    found = re.search(r"^OnActiveSec=(\d+)min$", timer, re.MULTILINE)
    assert found is not None and 60 * int(found[1]) > window_s, "the starts of before count no more"


def killed(main_pid: int, manager_pid: int) -> None:
    """Kill -9 a process by its number in there."""
    subprocess.run(
        ["nsenter", "--target", str(manager_pid), "--all", "kill", "-9", str(main_pid)], check=True, timeout=30
    )


@pytest.mark.slow
def test_a_killed_service_is_started_again(tmp_path: Path) -> None:
    with service_manager(tmp_path, LITERT, service=QUICK) as manager:
        first = manager.wait_active()
        killed(first, manager.init)
        manager.wait("another start", lambda: manager.state()["NRestarts"] == "1")
        assert manager.wait_active() != first
        assert manager.state()["StatusText"].startswith("running: ")


def test_a_service_that_hangs_is_aborted_by_the_watchdog_tells_where_and_is_started_again(tmp_path: Path) -> None:
    with service_manager(tmp_path, LITERT, service=QUICK + "WatchdogSec=2s\n", script=HANGS) as manager:
        first = manager.wait_active()
        manager.wait("another start", lambda: int(manager.state()["NRestarts"]) >= 1)
        assert manager.wait_active() != first
        journal = manager.journal()
    said = "\n".join(str(entry["MESSAGE"]) for entry in journal)
    assert "Watchdog timeout (limit 2s)!" in said
    assert "Fatal Python error: Aborted" in said and "in estimate" in said, "the journal says where it hung"
    ours = [entry for entry in journal if entry.get("_COMM") != "systemd" and "no progress" in str(entry["MESSAGE"])]
    assert ours and ours[0]["PRIORITY"] == "4"
    assert "<4>" not in said


@pytest.mark.slow
def test_a_service_without_a_source_is_left_out_with_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with service_manager(tmp_path, {"EDGEKIT_SOURCE": ""}, service=QUICK) as manager:
        manager.wait("the word on it", lambda: "no source" in manager.said())
        time.sleep(1.0)
        state = manager.state()
        assert (state["ActiveState"], state["Result"], state["NRestarts"]) == ("inactive", "exec-condition", "0")
        assert "/etc/edgekit/edgekit.env" in manager.said()


@pytest.mark.slow
def test_after_some_failures_in_a_row_it_rests_and_is_then_tried_again_for_ever(tmp_path: Path) -> None:
    service = "[Unit]\nStartLimitIntervalSec=2s\nStartLimitBurst=2\n" + QUICK
    dies = "import os\nos.kill(os.getpid(), 9)\n"
    with service_manager(
        tmp_path, LITERT, service=service, timer="[Timer]\nOnActiveSec=\nOnActiveSec=3s\nAccuracySec=1ms\n", script=dies
    ) as manager:
        for _ in range(2):
            manager.wait("a rest", lambda: manager.state("edgekit-retry.timer")["ActiveState"] == "active")
            assert manager.state()["ActiveState"] == "failed"
            manager.wait("another try", lambda: manager.state("edgekit-retry.timer")["ActiveState"] == "inactive")
        assert manager.said().count("Start request repeated too quickly") >= 2


@pytest.mark.slow
def test_who_stops_the_service_stops_its_next_try_too_also_while_it_rests(tmp_path: Path) -> None:
    service = "[Unit]\nStartLimitIntervalSec=10s\nStartLimitBurst=2\n" + QUICK
    dies = "import os\nos.kill(os.getpid(), 9)\n"
    with service_manager(tmp_path, LITERT, service=service, script=dies) as manager:
        manager.wait("a rest", lambda: manager.state("edgekit-retry.timer")["ActiveState"] == "active")
        manager.systemctl("stop", "edgekit")
        assert manager.state("edgekit-retry.timer")["ActiveState"] == "inactive"


@pytest.mark.slow
def test_a_stop_gives_sinks_the_time_they_need_and_is_no_failure(tmp_path: Path) -> None:
    slow = """
import time
from edge.delivery import Delivery
close = Delivery.close
def slowly(delivery):
    time.sleep(5.0)
    return close(delivery)
Delivery.close = slowly
"""
    wanted = LITERT | {"EDGEKIT_OPTIONS": "--engine litert --threads 1 --results frames.jsonl --json ledger.json"}
    with service_manager(tmp_path, wanted, service=QUICK + "WatchdogSec=2s\n", script=slow) as manager:
        manager.wait_active()
        manager.systemctl("stop", "edgekit")
        state = manager.state()
        assert (state["ActiveState"], state["Result"], state["NRestarts"]) == ("inactive", "success", "0"), (
            manager.said()
        )
        ledger = json.loads(manager.inside("cat", "/var/lib/edgekit/ledger.json"))
        results = manager.inside("cat", "/var/lib/edgekit/frames.jsonl").splitlines()
        assert len(results) == 1 + ledger["processed"] + ledger["rejected"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "drop_in"),
    [
        ("litert", ""),
        ("litert", "litert.conf"),
        ("onnx", ""),
        ("onnx", "litert.conf"),
        ("openvino", ""),
        ("openvino", "gpu.conf"),
    ],
)
def test_every_engine_works_in_the_sandbox_with_page_recording_results_and_key_frames(
    tmp_path: Path, engine: str, drop_in: str
) -> None:
    pytest.importorskip({"litert": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}[engine])
    options = f"--engine {engine} --web 127.0.0.1:0 --record film.mkv --results frames.jsonl --dicom keys --exam exam"
    lines = "" if not drop_in else (UNITS / "optional" / drop_in).read_text()
    lines = lines.replace("SupplementaryGroups=render\n", "")  # the group is that of a computer with such a device
    with service_manager(tmp_path, LITERT | {"EDGEKIT_OPTIONS": options}, service=QUICK + lines) as manager:
        manager.wait_active()
        main = manager.state()["MainPID"]
        status = dict(line.split(":\t", 1) for line in manager.inside("cat", f"/proc/{main}/status").splitlines())
        assert status["CapBnd"] == status["CapEff"] == "0" * 16
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert manager.inside("cat", f"/proc/{main}/cmdline").count(PHANTOM) == 0, "an address may hold a password"
        manager.systemctl("stop", "edgekit")
        written = manager.inside("find", "/var/lib/edgekit", "-type", "f", "-newer", "/etc/edgekit/edgekit.env").split()
        assert manager.state()["Result"] == "success", manager.said()
    assert {"film.mkv", "frames.jsonl", "exam.json", "exam.html"} <= {Path(path).name for path in written}


@pytest.mark.slow
def test_memory_that_is_written_and_run_is_refused_to_openvino_which_is_why_only_the_others_forbid_it(
    tmp_path: Path,
) -> None:
    pytest.importorskip("openvino")
    lines = (UNITS / "optional" / "litert.conf").read_text()
    with service_manager(tmp_path, LITERT | {"EDGEKIT_OPTIONS": "--engine openvino"}, service=QUICK + lines) as manager:
        manager.wait("the error", lambda: "error: openvino" in manager.said())
        manager.wait("the end of it", lambda: manager.state()["ActiveState"] == "failed")
