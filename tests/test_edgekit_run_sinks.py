"""`edgekit run` where its results cannot go: told in one line, nothing half-written, nothing lost that was written before."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from edgekit_run import EdgekitRun
from sink_results import file_size_limit, mounted

from edge.errors import EngineError
from edge.sinks.jsonl import read_results

pytest.importorskip("ai_edge_litert")
av = pytest.importorskip("av")
pydicom = pytest.importorskip("pydicom")

PHANTOM = "phantom:10?size=320x240&seed=3"
CLIP = PHANTOM + "&seconds=3"
SINKS = {"--record": "film.mkv", "--results": "r.jsonl", "--dicom": "d", "--exam": "e"}
WAIT_S = 120.0


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> EdgekitRun:
    return EdgekitRun(tmp_path, capsys, monkeypatch)


def film_frames(path: Path) -> int:
    """Frames that can be decoded."""
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# Places that cannot be written


@pytest.mark.parametrize(
    ("option", "limit_bytes"), [("--record", 60_000), ("--results", 20_000), ("--dicom", 20_000), ("--exam", 4_000)]
)
def test_a_disk_that_fills_up_ends_that_sink_alone_and_leaves_whole_what_was_written(
    run: EdgekitRun, tmp_path: Path, option: str, limit_bytes: int
) -> None:
    policy = "newest" if option == "--record" else "all"  # a recording has the time of its capture
    with file_size_limit(limit_bytes):
        ran = run(CLIP, "--policy", policy, "--no-guard", option, SINKS[option])
    assert ran.code == 1
    assert f"{SINKS[option]}" in ran.error and "cannot be written (File too large)" in ran.error
    assert (ran.frames["captured"], ran.frames["failed"]) == (30, 0)
    (sink,) = ran.frames["sinks"]
    assert sink["failures"] >= 1 and "File too large" in sink["fault"]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "ledger.json"]
    if option == "--record":
        assert f"{sink['lost']} of {30 - ran.frames['dropped']} results were lost" in ran.error
        assert 0 < film_frames(tmp_path / "film.mkv") <= sink["written"] < 30
    elif option == "--results":
        assert len(list(read_results(tmp_path / "r.jsonl"))) == sink["written"] > 3
        assert (tmp_path / "r.jsonl").read_bytes().endswith(b"}\n")
    else:
        assert not files, "half a file is none"


def test_a_recording_that_the_disk_had_no_room_for_is_no_file(run: EdgekitRun, tmp_path: Path) -> None:
    with file_size_limit(4_000):
        ran = run(CLIP, "--record", "film.mkv")
    assert "film.mkv: cannot be written (File too large)" in ran.error
    assert not (tmp_path / "film.mkv").exists()


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A folder that can only be read."""
    if os.geteuid():
        (tmp_path / "sealed").mkdir(0o500)
        yield tmp_path / "sealed"
    else:
        with mounted(tmp_path / "sealed", "ro,size=64k") as folder:
            yield folder


@pytest.mark.parametrize("option", [*SINKS, "--json"])
def test_a_folder_that_can_only_be_read_is_told_before_the_run(run: EdgekitRun, sealed: Path, option: str) -> None:
    ran = run("phantom:10?size=320x240", option, sealed / "new" / SINKS.get(option, "l.json"))
    assert re.search(r"sealed/new.*: cannot be written \((Read-only file system|Permission denied)\)", ran.error)
    assert "frames captured" not in ran.out


@pytest.mark.parametrize(("option", "place"), [("--exam", "file"), ("--dicom", "file"), ("--json", "folder")])
def test_a_file_for_a_folder_and_a_folder_for_a_file_are_told_before_the_run(
    run: EdgekitRun, tmp_path: Path, option: str, place: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    ran = run(PHANTOM, option, place)
    assert f"{place}: " in ran.error and re.search("name a(nother| folder)", ran.error)
    assert "frames captured" not in ran.out
    assert (tmp_path / "file").read_text() == "mine"


def test_a_taken_port_is_told_before_the_run_and_nothing_stands_in_the_way_of_the_next_one(
    run: EdgekitRun, tmp_path: Path
) -> None:
    wanted = [CLIP, "--policy", "all", *(part for pair in SINKS.items() for part in pair)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ran = run(*wanted, "--web", f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port}: cannot listen there (Address already in use); choose another port" in ran.error
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    again = run(*wanted, "--web", "127.0.0.1:0")
    assert again.code == 0, again.err
    assert film_frames(tmp_path / "film.mkv") == len(list(read_results(tmp_path / "r.jsonl"))) == 30


def test_a_sink_that_cannot_begin_leaves_no_file_of_another(run: EdgekitRun, tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("precious\n")
    ran = run(CLIP, "--record", "film.mkv", "--results", "r.jsonl")
    assert "r.jsonl: exists already and is not written over; name another file" in ran.error
    assert [path.name for path in tmp_path.iterdir()] == ["r.jsonl"]
    assert (tmp_path / "r.jsonl").read_text() == "precious\n"


# The engine


class Engine:
    """Breaks the engine at the frames that `breaks` says, counted from 0."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, breaks: Any, error: Exception | None = None) -> None:
        from edge.predictor import Predictor

        sound = Predictor.estimate
        self.frame = -1

        def estimate(predictor: Predictor, *given: Any, **named: Any) -> Any:
            self.frame += 1
            if breaks(self.frame) and error is not None:
                raise error
            return sound(predictor, *given, **named)

        monkeypatch.setattr(Predictor, "estimate", estimate)


def test_an_engine_that_fails_once_costs_that_frame_and_no_more(
    run: EdgekitRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Engine(monkeypatch, lambda frame: frame == 7, EngineError("litert: out of memory"))
    ran = run(CLIP, "--policy", "all", "--results", "r.jsonl")
    assert ran.code == 0, ran.err
    assert (ran.frames["captured"], ran.frames["failed"]) == (30, 1)
    assert ran.frames["reasons"]["failed"] == {"litert: out of memory": 1}
    lines = list(read_results(tmp_path / "r.jsonl"))
    assert [line["number"] for line in lines if line["outcome"] == "failed"] == [7]
    assert len(lines) == 30


@pytest.mark.parametrize("error", [EngineError("litert: the accelerator is gone"), ZeroDivisionError("scale")])
def test_an_engine_that_keeps_failing_ends_the_run_with_its_cause_and_every_sink_finished(
    run: EdgekitRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    Engine(monkeypatch, lambda frame: frame >= 10, error)
    ran = run(CLIP, "--policy", "all", *(part for pair in SINKS.items() for part in pair))
    assert str(error) in ran.error
    failed = ran.frames["failed"]
    assert failed == (5 if isinstance(error, EngineError) else 1)
    assert str(error) in ran.frames["error"]
    lines = list(read_results(tmp_path / "r.jsonl"))
    assert [line["outcome"] for line in lines[10:]] == ["failed"] * failed
    assert film_frames(tmp_path / "film.mkv") == 10
    assert (tmp_path / "e" / "exam.html").stat().st_size > 1000
    for path in (tmp_path / "d").iterdir():
        assert pydicom.dcmread(path).pixel_array.any()


def test_an_engine_that_never_answers_does_not_keep_the_run(
    run: EdgekitRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.stream.STOP_S", 0.3)
    answer, asked = threading.Event(), threading.Event()

    def hang(frame: int) -> bool:
        if frame == 2:
            asked.set()
            assert answer.wait(WAIT_S)
        return False

    def stop() -> None:
        assert asked.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    Engine(monkeypatch, hang)
    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        ran = run(PHANTOM, "--results", "r.jsonl")
    finally:
        answer.set()
        stopper.join()
    assert "the analysis of a frame did not end within 0.3 s" in ran.error
    assert ran.frames["in_flight"] == 1
    assert len(list(read_results(tmp_path / "r.jsonl"))) == 2
    for thread in threading.enumerate():
        if thread.name == "analysis":
            thread.join(WAIT_S)


def test_files_may_be_named_by_the_time_so_that_a_service_can_start_again(run: EdgekitRun, tmp_path: Path) -> None:
    for _ in range(2):
        ran = run("phantom:20?seconds=0.3", "--results", "frames-%Y%m%d-%H%M%S.jsonl")
        assert ran.code == 0, ran.err
        (made,) = tmp_path.glob("frames-*.jsonl")
        assert re.fullmatch(r"frames-\d{8}-\d{6}\.jsonl", made.name)
        made.rename(tmp_path / "before")


def test_another_device_than_the_cpu_is_openvinos(run: EdgekitRun) -> None:
    assert "litert runs on the CPU only" in run("phantom:20?seconds=0.3", "--device", "npu").error


# Ends of all kinds, and viewers; in processes of their own


def begun(folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-u", "-m", "edgekit", "run", *arguments, "--engine", "litert", "--threads", 1]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines_of(path: Path, at_least: int) -> int:
    """Wait until a file of results has so many lines."""
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        if path.exists() and (count := path.read_bytes().count(b"\n")) >= at_least:
            return count
        time.sleep(0.05)
    raise AssertionError(f"{path.name} did not grow to {at_least} lines")


ALL = ("--json", "l.json", *(part for pair in SINKS.items() for part in pair))


def test_sigterm_while_everything_is_being_written_finishes_every_file(tmp_path: Path) -> None:
    with begun(tmp_path, PHANTOM, *ALL) as process:
        try:
            lines_of(tmp_path / "r.jsonl", 12)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert process.returncode == 0, said
    ledger = json.loads((tmp_path / "l.json").read_text())
    frames = list(read_results(tmp_path / "r.jsonl"))
    assert len(frames) == ledger["processed"] + ledger["rejected"] >= 10
    assert ledger["captured"] == len(frames) + ledger["dropped"]
    assert ledger["in_flight"] == ledger["failed"] == 0
    assert film_frames(tmp_path / "film.mkv") == len(frames)
    assert json.loads((tmp_path / "e" / "exam.json").read_text())
    for path in (tmp_path / "d").iterdir():
        assert pydicom.dcmread(path).pixel_array.any()


def test_kill_9_while_everything_is_being_written_loses_a_line_and_a_second_at_most(tmp_path: Path) -> None:
    with begun(tmp_path, PHANTOM, *ALL) as process:
        try:
            before = lines_of(tmp_path / "r.jsonl", 25) - 1
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    frames = list(read_results(tmp_path / "r.jsonl"))
    assert len(frames) >= before
    with av.open(str(tmp_path / "film.mkv")) as container:
        shown_s = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    captured_s = [frame["captured_ns"] / 1e9 for frame in frames]
    assert shown_s[-1] >= captured_s[before - 1] - captured_s[0] - 1.5
    assert not (tmp_path / "l.json").exists() and not (tmp_path / "e" / "exam.json").exists()


def test_a_viewer_that_stops_reading_holds_back_neither_the_run_nor_its_end(tmp_path: Path) -> None:
    with begun(tmp_path, PHANTOM, "--web", "127.0.0.1:0", "--results", "r.jsonl", "--json", "l.json") as process:
        try:
            assert process.stdout is not None
            port = next(int(found[1]) for line in process.stdout if (found := re.search(r"page: .*:(\d+)/", line)))
            lines_of(tmp_path / "r.jsonl", 3)
            with closing(socket.create_connection(("127.0.0.1", port))) as viewer:
                viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                viewer.sendall(f"GET /frame?viewer=v HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode() * 200)
                lines_of(tmp_path / "r.jsonl", lines_of(tmp_path / "r.jsonl", 1) + 15)
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=WAIT_S) as answer:
                    assert b"edgekit_result_age_seconds" in answer.read()
                process.send_signal(signal.SIGTERM)
                said, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert process.returncode == 0, said
    ledger = json.loads((tmp_path / "l.json").read_text())
    page = next(sink for sink in ledger["sinks"] if sink["name"] == "page")
    assert page["failures"] == 0
    assert page["written"] + page["superseded"] == ledger["processed"] + ledger["rejected"]
    assert page["lost"] == 0
