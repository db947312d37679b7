"""Results as JSON Lines: every line is there as soon as it is written, and nothing is written over."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sink_results import CHILD_ENV, failed, file_size_limit, finding, lesion, mounted, result

from edge.errors import DataError, SinkError
from edge.overlay import DISCLAIMER
from edge.sinks.jsonl import FRAME_KEYS, HEADER_KEYS, JsonLinesSink, frame_json, read_results

BUNDLE = {"network": "emtnet", "precision": "int8", "engine": "litert", "hash": "5f0c"}
CHILD = """
import sys
from edge.sinks.jsonl import JsonLinesSink
from sink_results import finding, lesion, result
sink = JsonLinesSink(sys.argv[1], {})
for number in range(10**9):
    sink.write(result(number, found=finding(lesion())))
    print(number, flush=True)
"""


def written(path: Path, count: int = 3) -> Path:
    sink = JsonLinesSink(path, BUNDLE, clock=lambda: 77)
    for number in range(count):
        sink.write(result(number, found=finding(lesion())))
    sink.close()
    return path


def test_the_first_line_says_what_ran_and_what_this_is_not(tmp_path: Path) -> None:
    header = json.loads(written(tmp_path / "run.jsonl").read_text().splitlines()[0])
    assert header.keys() == HEADER_KEYS
    assert header["schema"] == 1
    assert header["bundle"] == BUNDLE
    assert header["notice"] == DISCLAIMER
    assert header["started_ns"] == 77
    assert header["edgekit"]


def test_a_frame_is_told_whole(tmp_path: Path) -> None:
    kept = frame_json(result(4, found=finding(lesion(7)), reason="frozen", age_s=1.25))
    assert kept.keys() == FRAME_KEYS
    assert (kept["number"], kept["captured_ns"], kept["time_s"]) == (4, 1_160_000_000, 0.16)
    assert (kept["outcome"], kept["reason"], kept["latency_ms"]) == ("rejected", "frozen", 9.5)
    assert kept["stages_ms"] == pytest.approx({"wait": 1e-6, "preprocess": 1.999999, "infer": 7.0, "deliver": 0.5})
    assert kept["finding"]["age_s"] == 1.25
    assert kept["finding"]["malignancy"] == 0.88
    assert kept["finding"]["lesions"][0]["track"] == 7
    assert kept["finding"]["lesions"][0]["diameter_mm"] == 6.1


def test_a_frame_that_failed_or_was_rejected_has_no_finding() -> None:
    broken = frame_json(failed(2))
    assert (broken["outcome"], broken["reason"]) == ("failed", "the engine gave nothing")
    assert broken["finding"] is broken["latency_ms"] is broken["stages_ms"] is broken["time_s"] is None
    assert frame_json(result(reason="too dark"))["finding"] is None


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    read = read_results(written(tmp_path / "run.jsonl"))
    assert read.header["bundle"] == BUNDLE
    assert list(read) == [
        json.loads(json.dumps(frame_json(result(number, found=finding(lesion()))))) for number in range(3)
    ]
    assert len(list(read)) == 3  # again from the start


def test_a_line_is_in_the_file_before_the_next_one_is_written(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "run.jsonl", BUNDLE)
    for number in range(3):
        sink.write(result(number))
        assert [frame["number"] for frame in read_results(tmp_path / "run.jsonl")] == list(range(number + 1))
    sink.close()


def test_a_killed_run_loses_one_line_at_most(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, path], env=CHILD_ENV, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(50)][-1]
        child.kill()
        told = max([told, *(int(line) for line in child.stdout.read().split("\n")[:-1] if line)])
    assert child.returncode == -signal.SIGKILL
    numbers = [frame["number"] for frame in read_results(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > told


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 100_000))
def test_a_torn_last_line_is_passed_over(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = written(tmp_path_factory.mktemp("torn") / "run.jsonl")
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    if (lines := kept.count(b"\n")) == 0:
        with pytest.raises(DataError, match="has no header"):
            read_results(path)
    else:
        assert len(list(read_results(path))) == lines - 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"number":1', b'"number":', "line 3 is damaged"),
        (b'"number":1', b'"nu\xff\xfeer":1', "line 3 is damaged"),
        (b'"number":1', b'"numbers":1', r"line 3 has unknown keys \['numbers'\]"),
        (b'"number":1,', b"", r"line 3 lacks \['number'\]"),
        (b"\n", b"\n[1]\n", "line 2 is no object"),
    ],
)
def test_other_damage_is_refused(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    path = written(tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        list(read_results(path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"schema":1', b'"schema":2', "schema 2 is not known here"),
        (b'"format":"edgekit results"', b'"format":"other"', "not a file of edgekit's results"),
        (b'"schema"', b'"extra":1,"schema"', "unknown keys"),
        (b'{"format"', b'"format"', "line 1 is damaged"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    path = written(tmp_path / "run.jsonl")
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(DataError, match=said):
        read_results(path)


def test_a_file_that_cannot_be_read_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.jsonl: cannot be read \(No such file"):
        read_results(tmp_path / "run.jsonl")
    with pytest.raises(DataError, match="Is a directory"):
        read_results(tmp_path)


def test_a_file_with_content_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text("mine")
    with pytest.raises(SinkError, match=r"run\.jsonl: exists already and is not written over; name another file"):
        JsonLinesSink(path, BUNDLE)
    assert path.read_text() == "mine"


def test_an_empty_file_is_taken_and_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert len(list(read_results(written(tmp_path / "empty.jsonl")))) == 3
    assert len(list(read_results(written(tmp_path / "new" / "folder" / "run.jsonl")))) == 3


def test_a_folder_a_file_as_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is a folder; name a file"):
        JsonLinesSink(tmp_path, BUNDLE)
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be written"):
        JsonLinesSink(tmp_path / "file" / "run.jsonl", BUNDLE)
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a reader
    with pytest.raises(SinkError, match="exists already"):
        JsonLinesSink(tmp_path / "pipe", BUNDLE)


def test_a_folder_that_is_read_only_is_an_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "ro,size=64k") as folder, pytest.raises(SinkError, match="Read-only file system"):
        JsonLinesSink(folder / "run.jsonl", BUNDLE)


def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=16k") as folder:
        path = folder / "run.jsonl"
        sink = JsonLinesSink(path, BUNDLE)
        with pytest.raises(SinkError, match=r"run\.jsonl: cannot be written \(No space left on device\)"):
            for number in range(1000):
                sink.write(result(number, found=finding(lesion())))
        sink.close()
        assert path.read_bytes().endswith(b"}\n")
        assert len(list(read_results(path))) > 3


def test_a_file_that_may_not_grow_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    sink = JsonLinesSink(path, BUNDLE)
    with file_size_limit(4000), pytest.raises(SinkError, match="File too large"):
        for number in range(1000):
            sink.write(result(number, found=finding(lesion())))
    sink.close()
    assert path.read_bytes().endswith(b"}\n")
    assert [frame["number"] for frame in read_results(path)] == list(range(len(list(read_results(path)))))


def test_a_full_device_is_an_error_when_it_is_opened() -> None:
    with pytest.raises(SinkError, match="/dev/full: cannot be written"):
        JsonLinesSink("/dev/full", BUNDLE)


def test_closing_twice_is_allowed_and_writing_after_it_is_not(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "run.jsonl", BUNDLE)
    sink.close()
    sink.close()
    with pytest.raises(SinkError, match="is closed"):
        sink.write(result())
