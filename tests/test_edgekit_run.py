"""`edgekit run`, as it is used: what it writes, how it ends, and what it refuses in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from edge.capture import SourceState
from edge.ledger import FrameRecord, Ledger, Outcome
from edge.sinks.jsonl import read_results
from edge.stream import StreamStatus
from edgekit.run_report import one_line, report

pytest.importorskip("openvino")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def edgekit(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", "run", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=180, check=False
    )


def begun(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "edgekit", "run", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def waited(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().count("\n") >= lines:
            return
        time.sleep(0.1)
    raise AssertionError(f"{path.name} did not grow to {lines} lines")


def test_a_run_over_a_recorded_source_writes_what_was_asked_for_and_adds_up(tmp_path: Path) -> None:
    run = edgekit(
        "phantom:10?seconds=2&size=320x240", "--policy", "all", "--results", "r.jsonl", "--exam", "exam", "--json", "l.json",
        "--threads", 1, folder=tmp_path,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    ledger = json.loads((tmp_path / "l.json").read_text())
    assert ledger["captured"] == ledger["processed"] + ledger["rejected"] == 20
    assert ledger["dropped"] == ledger["failed"] == ledger["in_flight"] == 0
    frames = list(read_results(tmp_path / "r.jsonl"))
    assert [frame["number"] for frame in frames] == list(range(20))
    assert (tmp_path / "exam" / "exam.html").stat().st_size > 1000
    assert "Research use only" in run.stderr
    assert re.search(r"frames captured\s*│\s*20", run.stdout)
    assert re.search(r"drop rate\s*│\s*0\.0%", run.stdout)


def test_what_the_source_missed_is_told_live_and_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    ledger = Ledger()
    ledger.end(FrameRecord(ledger.capture(lost=3), Outcome.DROPPED, 0, "a newer frame came"))
    status = StreamStatus(SourceState.RUNNING, None, 0, None, ledger.summary(), (), None)
    assert "1 dropped), 3 missed by the source, drop rate 100%, latency p50/p90/p99 –/–/– ms" in one_line(status)
    report(status)
    assert re.search(r"missed by the source\s*│\s*3", capsys.readouterr().out)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_run_well(tmp_path: Path, ending: signal.Signals) -> None:
    process = begun("phantom:20?size=320x240", "--results", "r.jsonl", "--threads", 1, folder=tmp_path)
    try:
        waited(tmp_path / "r.jsonl", 5)
        process.send_signal(ending)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "frames captured" in said
    assert len(list(read_results(tmp_path / "r.jsonl"))) >= 4


def test_the_page_is_served_while_the_run_goes_on(tmp_path: Path) -> None:
    process = begun("phantom:20?size=320x240", "--web", "127.0.0.1:0", "--results", "r.jsonl", folder=tmp_path)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"page: (http://\S+)", line):
                break
        assert match
        waited(tmp_path / "r.jsonl", 10)
        with urllib.request.urlopen(match[1] + "healthz", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no-such-file.mp4",), 1, "no-such-file.mp4"),
        (("phantom:10?seconds=1", "--roi", "1,2,3"), 1, "--roi 1,2,3"),
        (("phantom:10?seconds=1", "--web", "here"), 1, "--web here"),
        (("phantom:10?seconds=1", "--record", "film.txt"), 1, "film.txt"),
        (("phantom:10?seconds=1", "--results", "."), 1, "error: "),
        (("phantom:10?seconds=1", "--dicom", "d", "--worklist", "none.json"), 1, "none.json"),
        (("phantom:10?seconds=1", "--worklist", "none.json"), 2, "--worklist has no use without --dicom"),
        (("phantom:10?seconds=1", "--certificate", "none.pem"), 2, "--certificate has no use without --web"),
        (("phantom:10?seconds=1", "--size", "wide"), 2, "WIDTHxHEIGHT"),
        (("phantom:10?seconds=1", "--policy", "some"), 2, "policy"),
    ],
)
def test_what_cannot_work_is_one_line_before_the_run(
    tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    run = edgekit(*arguments, "--threads", 1, folder=tmp_path)
    assert run.returncode == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert len([line for line in run.stderr.splitlines() if line.startswith("error: ")]) == (1 if code == 1 else 0)


def test_an_existing_recording_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "film.mkv").write_bytes(b"precious")
    run = edgekit("phantom:10?seconds=1", "--record", "film.mkv", folder=tmp_path)
    assert run.returncode == 1
    assert "film.mkv" in run.stderr
    assert (tmp_path / "film.mkv").read_bytes() == b"precious"
