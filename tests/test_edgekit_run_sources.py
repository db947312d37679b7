"""`edgekit run` on sources that fail: what was there is analysed, the fault is told, ledger and exit code say so."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from edgekit_run import EdgekitRun
from igtl_messages_sent import image_message
from mjpeg_sender import Sender
from numpy.typing import NDArray

from edge.phantom import phantom_case
from edge.sinks.jsonl import read_results

pytest.importorskip("ai_edge_litert")

WAIT_S = 120.0
SIZE = (96, 128)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> EdgekitRun:
    return EdgekitRun(tmp_path, capsys, monkeypatch)


def tissue(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A phantom with noise of its own."""
    pixels = phantom_case(3, size=size).pixels.astype(int)
    return np.clip(pixels + np.random.default_rng(seed).integers(-20, 20, size), 0, 255).astype(np.uint8)


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Peer:
    """A sender of OpenIGTLink: `sessions` says what it does with each connection; after the last it ends the run."""

    def __init__(self, *sessions: Callable[[socket.socket], None]) -> None:
        self._sessions = sessions
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"igtl://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="peer")
        self.fault: Exception | None = None

    def __enter__(self) -> "Peer":
        self._server.settimeout(WAIT_S)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(WAIT_S)
        self._server.close()
        if self.fault is not None:
            raise self.fault

    def refuse(self) -> None:
        """Take no connection any more."""
        self._server.close()

    def _serve(self) -> None:
        connection = None
        try:
            for session in self._sessions:
                connection, _ = self._server.accept()
                session(connection)
                if session is not self._sessions[-1]:
                    connection.close()
        except Exception as fault:
            self.fault = fault
        press_ctrl_c()
        if connection is not None:
            time.sleep(0.3)  # the run ends before its source does
            connection.close()


def send(
    connection: socket.socket, pixels: NDArray[np.uint8], time_s: float = 0.0, *, then_s: float = 0.1, **changed: Any
) -> None:
    connection.sendall(image_message(pixels, time_s=time_s, **changed))
    time.sleep(then_s)


def five(connection: socket.socket) -> None:
    for index in range(5):
        send(connection, tissue(index))


# Files


def test_a_video_that_was_cut_is_analysed_as_far_as_it_goes(run: EdgekitRun, tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "whole.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("mpeg4", rate=25, options={"qmin": "4", "qmax": "4", "g": "10"})
        stream.height, stream.width = SIZE
        for index in range(30):
            grey = cv2.cvtColor(tissue(index), cv2.COLOR_GRAY2BGR)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="bgr24")))
        out.mux(stream.encode(None))
    whole = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    ran = run("cut.mp4", "--policy", "all", "--results", "r.jsonl")
    assert f"cut.mp4: cut off, {len(whole) - len(whole) * 6 // 10} bytes are missing" in ran.error
    assert 5 < ran.frames["captured"] < 30
    assert ran.frames["error"] == ran.error
    assert len(list(read_results(tmp_path / "r.jsonl"))) == ran.frames["captured"]


def test_pictures_of_another_size_in_the_middle_are_analysed_and_recorded(run: EdgekitRun, tmp_path: Path) -> None:
    (tmp_path / "stills").mkdir()
    for index in range(12):
        size = (200, 160) if 4 <= index < 8 else SIZE
        cv2.imwrite(str(tmp_path / f"stills/{index}.png"), tissue(index, size))
    sinks = ("--record", "film.mkv", "--results", "r.jsonl", "--dicom", "d", "--exam", "e")
    ran = run("stills", "--policy", "all", "--roi", "none", "--no-guard", *sinks)
    assert ran.code == 0, ran.err
    assert (ran.frames["captured"], ran.frames["processed"]) == (12, 12)
    assert len(list(read_results(tmp_path / "r.jsonl"))) == 12


def test_a_region_that_does_not_fit_the_new_size_ends_the_run_with_that_word(run: EdgekitRun, tmp_path: Path) -> None:
    (tmp_path / "stills").mkdir()
    for index in range(12):
        cv2.imwrite(str(tmp_path / f"stills/{index}.png"), tissue(index, (64, 64) if index >= 4 else SIZE))
    ran = run("stills", "--policy", "all", "--roi", "20,10,100,80", "--no-guard")
    assert "--roi 20,10,100,80 does not lie in the 64×64 picture" in ran.error
    assert (ran.frames["processed"], ran.frames["failed"]) == (4, 5)


def dicom_file(path: Path, **elements: Any) -> Path:
    """An ultrasound clip of three frames; `elements` change it, None takes one out, `compress` stores it by RLE."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

    compress = elements.pop("compress", False)
    grey = np.stack([tissue(index) for index in range(3)])
    colours = elements.get("PhotometricInterpretation", "MONOCHROME2") in ("RGB", "YBR_FULL")
    pixels: NDArray[Any] = grey
    if colours:
        neutral = np.full_like(grey, 128)
        pixels = np.stack(
            [grey, *((grey,) * 2 if elements["PhotometricInterpretation"] == "RGB" else (neutral,) * 2)], 3
        )
    if elements.get("BitsAllocated") == 16:
        pixels = grey.astype("<u2") << 8
    header = pydicom.Dataset()
    values = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.3.1", "SOPInstanceUID": generate_uid(), "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.3.4", "PatientID": "P-17", "Modality": "US", "Rows": SIZE[0], "Columns": SIZE[1],
        "SamplesPerPixel": 3 if colours else 1, "PlanarConfiguration": 0 if colours else None,
        "PhotometricInterpretation": "MONOCHROME2", "PixelRepresentation": 0, "NumberOfFrames": 3, "FrameTime": 40.0,
        "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": pixels.tobytes(),
    } | elements  # fmt: skip
    for name, value in values.items():
        if value is not None:
            setattr(header, name, value)
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if "PixelData" in header:
        header["PixelData"].VR = "OW" if values["BitsAllocated"] == 16 else "OB"
    if compress:
        header.compress(RLELossless, generate_instance_uid=False)
    header.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"PhotometricInterpretation": "RGB"},
        {"PhotometricInterpretation": "YBR_FULL"},
        {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15},
        {"compress": True},
    ],
    ids=["grey", "RGB", "YBR", "16 bits", "RLE"],
)
def test_a_dicom_clip_is_analysed_however_it_is_stored(
    run: EdgekitRun, tmp_path: Path, elements: dict[str, Any]
) -> None:
    clip = dicom_file(tmp_path / "clip.dcm", **elements)
    ran = run(clip, "--policy", "all", "--roi", "none", "--no-guard", "--results", "r.jsonl")
    assert ran.code == 0, ran.err
    assert (ran.frames["captured"], ran.frames["processed"]) == (3, 3), ran.frames["reasons"]
    times = [frame["time_s"] for frame in read_results(tmp_path / "r.jsonl")]
    assert times == pytest.approx([0.0, 0.04, 0.08])


@pytest.mark.parametrize(
    ("elements", "said"),
    [
        ({"PixelData": None}, "no pixel data"),
        ({"Modality": "MR"}, "modality MR; ultrasound images"),
        ({"PixelData": bytes(100)}, "truncated, 100 of"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation 'HSV'"),
    ],
)
def test_a_dicom_file_that_is_no_ultrasound_picture_is_refused_in_one_line(
    run: EdgekitRun, tmp_path: Path, elements: dict[str, Any], said: str
) -> None:
    ran = run(dicom_file(tmp_path / "clip.dcm", **elements), "--results", "r.jsonl")
    assert "clip.dcm: " in ran.error and said in ran.error
    assert not (tmp_path / "r.jsonl").exists()


# Live sources


@pytest.fixture
def sender() -> Iterator[Sender]:
    server = Sender()
    yield server
    server.stop()


def test_a_network_source_that_goes_comes_back_and_sends_half_a_picture_is_told_as_it_happens(
    run: EdgekitRun, sender: Sender, tmp_path: Path
) -> None:
    sender.then, sender.count, sender.rate = "half", 40, 30.0
    lines = tmp_path / "r.jsonl"

    def later() -> None:
        """Once the run has taken up the third connection."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s and sender.answered < 3:
            time.sleep(0.02)
        time.sleep(0.5)
        press_ctrl_c()

    watch = threading.Thread(target=later)
    watch.start()
    ran = run(sender.url, "--roi", "none", "--no-guard", "--results", lines)
    watch.join()
    assert ran.code == 0, ran.err
    assert ran.frames["reconnects"] == 2
    assert ran.frames["fault"] and ran.frames["away_at_end"] is None
    assert ran.frames["captured"] >= 60
    assert f"note: the source failed: http://127.0.0.1:{sender.server_port}/live.mjpg: " in ran.err
    assert "note: the source works again" in ran.err
    assert "secret" not in ran.out + ran.err + lines.read_text()


def test_a_source_that_stays_away_is_told_and_does_not_keep_the_run(run: EdgekitRun) -> None:
    def leave(connection: socket.socket) -> None:
        five(connection)
        peer.refuse()
        connection.close()
        time.sleep(2.5)  # the fault is told once a second

    with Peer(leave) as peer:
        ran = run(peer.url, "--roi", "none", "--no-guard")
    assert ran.code == 1
    assert ran.frames["away_at_end"] == ran.frames["fault"]
    assert f"note: the source failed: {peer.url}: " in ran.err
    assert f"error: the source was away at the end: {peer.url}: cannot be reached (Connection refused)" in ran.err
    assert "cannot be reached" in ran.frames["fault"]
    assert ran.frames["captured"] == 5


def test_a_run_without_a_single_picture_is_no_success(run: EdgekitRun) -> None:
    with Peer(lambda connection: time.sleep(0.5)) as peer:
        ran = run(peer.url)
    assert ran.code == 1
    assert "error: no picture came from the source; see that it sends" in ran.err
    assert ran.frames["captured"] == 0


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (image_message(tissue())[:500], "the sender went away in the middle of a message"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(60), "not an OpenIGTLink message"),
        (image_message(tissue(), crc=1), "its checksum is wrong"),
        (image_message(tissue(), size=(9, 9, 1)), "bytes of pixels"),
    ],
    ids=["half", "other", "checksum", "size"],
)
def test_a_malformed_message_ends_the_connection_and_the_next_one_goes_on(
    run: EdgekitRun, broken: bytes, said: str
) -> None:
    def bad(connection: socket.socket) -> None:
        five(connection)
        connection.sendall(broken)

    def more(connection: socket.socket) -> None:
        five(connection)
        time.sleep(1.2)  # the fault is told within a second

    with Peer(bad, more) as peer:
        ran = run(peer.url, "--roi", "none", "--no-guard", "--policy", "all")
    assert ran.code == 0, ran.err
    assert ran.frames["reconnects"] == 1
    assert ran.frames["captured"] == ran.frames["processed"] == 10
    assert said in ran.frames["fault"] and f"note: the source failed: {peer.url}: " in ran.err
    assert "note: the source works again" in ran.err


def frames_of(path: Path) -> list[dict[str, Any]]:
    return list(read_results(path))


def test_a_senders_clock_that_jumps_stops_nothing(run: EdgekitRun, tmp_path: Path) -> None:
    """Back by an hour, then forward by two; a frozen picture is found after the leap back, a live one stays live after the
    leap forward, though the grabber repeats a frame across it.
    """
    shown = iter(range(1000))

    def session(connection: socket.socket) -> None:
        clock_s = 1.7e9
        for leap_s in (0.0, -3600.0, 7200.0):
            clock_s += leap_s
            if leap_s > 0.0:
                send(connection, still, clock_s, then_s=0.1)
            for _ in range(6):
                clock_s += 0.1
                send(connection, tissue(next(shown)), clock_s)
            if leap_s < 0.0:
                for _ in range(30):
                    clock_s += 0.1
                    send(connection, still, clock_s)
                send(connection, tissue(999), clock_s + 0.1)
                send(connection, still, clock_s + 0.2)

    still = tissue(500)
    with Peer(session) as peer:
        ran = run(peer.url, "--roi", "none", "--policy", "all", "--results", "r.jsonl")
    assert ran.code == 0, ran.err
    frames = frames_of(tmp_path / "r.jsonl")
    assert all(0.0 < after["time_s"] - before["time_s"] < 60.0 for before, after in pairwise(frames))
    reasons = [frame["reason"] for frame in frames]
    assert reasons[12:42].count("the picture is frozen") >= 10
    assert "the picture is frozen" not in reasons[:18] + reasons[42:]


@pytest.mark.parametrize("rate", [1, 240])
def test_a_source_of_one_and_of_240_frames_a_second_is_counted_to_the_frame(
    run: EdgekitRun, tmp_path: Path, rate: int
) -> None:
    ran = run(f"phantom:{rate}?size=128x96", "--duration", 2.2, "--results", "r.jsonl")
    assert ran.code == 0, ran.err
    shown = ran.frames["captured"] + ran.frames["lost_before_capture"]
    assert 2 <= shown <= 60 if rate == 1 else shown >= 200
    assert len(frames_of(tmp_path / "r.jsonl")) == ran.frames["processed"] + ran.frames["rejected"] >= 2
    if rate == 240:
        assert ran.frames["dropped"] > 0
