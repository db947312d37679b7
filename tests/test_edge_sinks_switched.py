"""A recording that is switched on and off, and the exam summary at the end of a run."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from sink_results import failed, finding, lesion, result

from edge.analysis import Analysis
from edge.errors import SinkError
from edge.runner import Outputs, WebAddress
from edge.sinks.exam import ExamSink
from edge.sinks.jsonl import frame_json
from edge.sinks.switched import SwitchedRecording
from edge.stream import Result


def results(count: int) -> list[Result[Analysis]]:
    return [result(number, found=finding(lesion())) for number in range(count)]


class Film:
    """A recording that takes notes; it breaks at its third frame where it is told to."""

    def __init__(self, path: Path, *, breaks: bool = False) -> None:
        self.path, self.breaks = path, breaks
        self.frames = 0
        self.closed = False

    def write(self, result: Result[Analysis]) -> None:
        if self.breaks and self.frames == 2:
            raise SinkError("disk full")
        self.frames += 1

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def films() -> list[Film]:
    return []


def switched(films: list[Film], *, breaks: bool = False) -> SwitchedRecording:
    def opened(path: Path) -> Film:
        films.append(Film(path, breaks=breaks))
        return films[-1]

    moments = iter([datetime(2026, 3, 4, 5, 6, second) for second in range(10)])
    return SwitchedRecording(Path("films"), opened, now=lambda: next(moments))


def test_only_what_comes_while_it_is_on_is_recorded_each_time_in_a_file_of_its_own(films: list[Film]) -> None:
    button = switched(films)
    shots = results(9)
    for index, shot in enumerate(shots):
        if index in (2, 6):
            button.start()
            button.start()
        if index in (4, 8):
            button.stop()
            button.stop()
        assert button.recording == (index in (2, 3, 6, 7))
        button.write(shot)
    assert [str(film.path) for film in films] == [f"films/edgekit-20260304-05060{second}.mkv" for second in (0, 1)]
    assert [film.frames for film in films] == [2, 2]
    assert all(film.closed for film in films)


def test_the_end_of_the_run_finishes_the_file(films: list[Film]) -> None:
    button = switched(films)
    button.start()
    button.close()
    button.close()
    assert films[0].closed


def test_a_recording_that_fails_is_off_and_can_be_started_again(films: list[Film]) -> None:
    button = switched(films, breaks=True)
    button.start()
    shots = results(4)
    button.write(shots[0])
    button.write(shots[1])
    with pytest.raises(SinkError, match="disk full"):
        button.write(shots[2])
    assert not button.recording
    button.write(shots[3])
    button.start()
    assert button.recording
    assert len(films) == 2


def test_the_exam_is_written_at_the_end_whatever_failed_in_between(tmp_path: Path) -> None:
    sink = ExamSink(tmp_path / "exam", source="phantom", started="2026-03-04")
    for shot in results(12):
        sink.write(shot)
    sink.write(failed(12))
    assert not list((tmp_path / "exam").iterdir())
    sink.close()
    summary = json.loads((tmp_path / "exam" / "exam.json").read_text())
    assert "phantom" in json.dumps(summary)
    assert (tmp_path / "exam" / "exam.html").exists()


def test_an_exam_that_is_there_already_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "exam.html").write_text("of another patient")
    with pytest.raises(SinkError, match=r"exam\.html: exists already and is not written over; name another folder"):
        ExamSink(tmp_path, source="phantom", started="2026-03-04")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["of another patient"]


def test_a_run_that_never_began_leaves_no_exam(tmp_path: Path) -> None:
    ExamSink(tmp_path, source="phantom", started="2026-03-04").close()
    assert not list(tmp_path.iterdir())


def test_results_that_wait_to_be_written_as_lines_hold_no_pictures(tmp_path: Path) -> None:
    (plan,) = Outputs(results=tmp_path / "r.jsonl").plans({}, pytest.fail, print)
    assert plan.kept is not None
    (whole,) = results(1)
    kept = plan.kept(whole)
    assert kept.found is not None
    assert (kept.found.pixels.nbytes, kept.found.grey.nbytes) == (0, 0)
    assert frame_json(kept) == frame_json(whole)
    assert plan.kept(failed(1)).found is None


def test_an_archive_is_not_told_where_the_frames_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr("edge.sinks.dicom.DicomSink", lambda *_, bundle, **__: told.append(bundle))
    info = {"source": "DOE^JANE/clip.dcm", "network": "emtnet"}
    (plan,) = Outputs(dicom=tmp_path / "d").plans(info, pytest.fail, print)
    plan.open()
    assert told == [{"network": "emtnet"}]


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8765", "127.0.0.1", 8765),
        ("0.0.0.0:80", "0.0.0.0", 80),
        ("[::1]:0", "::1", 0),
        (":9000", "127.0.0.1", 9000),
        ("9000", "127.0.0.1", 9000),
    ],
)
def test_an_address_is_host_and_port(text: str, host: str, port: int) -> None:
    assert WebAddress.parse(text) == WebAddress(host, port)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:http", "host:65536", "host:-1"])
def test_an_address_without_a_port_is_refused(text: str) -> None:
    with pytest.raises(SinkError, match="HOST:PORT"):
        WebAddress.parse(text)
