"""Cameras: the faults of a device, by a fake one; that there is none and that it is none, for real."""

import errno
import struct
import sys
import threading
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from stream_parts import Note, Notes

from edge.backoff import Backoff
from edge.capture import Frame
from edge.errors import SourceError
from edge.sources import Picture
from edge.sources.background import BackgroundSource
from edge.sources.camera import cameras, captures_video, open_camera
from edge.sources.opening import SourceOptions, open_source
from edge.stream import Stream

PATIENT = SourceOptions(width=320, height=240, fps=60.0, open_timeout_s=60.0, read_timeout_s=60.0)
QUICK = SourceOptions(open_timeout_s=60.0, read_timeout_s=0.4)
SOON_S = 30.0
"""More than a loaded machine needs for what takes no time, less than what would be waited for otherwise."""


@pytest.fixture(autouse=True)
def every_reader_ends() -> Iterator[None]:
    """No test leaves a thread behind."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("reader of"):
            thread.join(SOON_S)
            assert not thread.is_alive()


@dataclass
class FakeCapture:
    """A cv2.VideoCapture with faults. lasts: pictures until it is unplugged. hangs: it blocks there instead, until let go of.
    broken: numbers of pictures that come in part only, which OpenCV does not give.
    """

    opened: bool = True
    size: tuple[int, int] = (240, 320)
    lasts: int = 5
    hangs: bool = False
    broken: Set[int] = frozenset()
    told: list[tuple[int, float]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    let_go: threading.Event = field(default_factory=threading.Event)
    given: int = 0
    pixels: Any = None

    def isOpened(self) -> bool:  # noqa: N802
        return self.opened

    def set(self, propId: int, value: float) -> bool:
        self.told.append((propId, value))
        return False

    def get(self, propId: int) -> float:
        assert propId == cv2.CAP_PROP_POS_MSEC
        return 5000.0 + 40.0 * self.given

    def read(self) -> tuple[bool, Any]:
        if self.given == self.lasts:
            if self.hangs:
                self.let_go.wait(2 * SOON_S)
            return False, None
        self.given += 1
        if self.given in self.broken:
            return False, None
        if self.pixels is None:
            self.pixels = np.zeros((*self.size, 3), np.uint8)
        self.pixels[:] = self.given
        return True, self.pixels

    def release(self) -> None:
        self.released.set()


def opened(fake: FakeCapture, options: SourceOptions = PATIENT) -> BackgroundSource:
    return open_camera("/dev/video0", options, capture=lambda path: fake)


def test_a_camera_gives_its_pictures_with_its_own_time_and_then_says_that_it_is_gone() -> None:
    fake = FakeCapture()
    source = opened(fake)
    assert source.live
    pictures: list[Picture] = []
    with pytest.raises(SourceError, match="/dev/video0: gives no picture any more"):
        pictures.extend(source)
    assert fake.released.wait(SOON_S)


def test_each_picture_keeps_its_pixels_though_the_driver_fills_the_same_memory_again() -> None:
    pictures: list[Picture] = []
    with pytest.raises(SourceError):
        for picture in opened(FakeCapture()):
            pictures.append(picture)
    assert [int(picture.pixels[0, 0, 0]) for picture in pictures] == [1, 2, 3, 4, 5]
    assert [picture.time_s for picture in pictures] == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16])


def test_the_pixel_format_is_asked_for_first_and_then_size_and_rate() -> None:
    fake = FakeCapture()
    opened(fake).close()
    assert fake.told == [
        (cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG")),
        (cv2.CAP_PROP_FRAME_WIDTH, 320),
        (cv2.CAP_PROP_FRAME_HEIGHT, 240),
        (cv2.CAP_PROP_FPS, 60.0),
        (cv2.CAP_PROP_BUFFERSIZE, 1),
    ]


def test_a_camera_that_gives_another_size_is_taken_as_it_is() -> None:
    source = opened(FakeCapture(size=(480, 720)))
    assert next(iter(source)).pixels.shape == (480, 720, 3)
    source.close()


def test_a_camera_in_use_is_an_error_when_it_is_opened() -> None:
    fake = FakeCapture(opened=False)
    with pytest.raises(SourceError, match="another program"):
        opened(fake)
    assert fake.released.wait(SOON_S)


def test_a_camera_that_hangs_is_told_within_its_time_out() -> None:
    fake = FakeCapture(lasts=2, hangs=True)
    started_s = time.monotonic()
    with pytest.raises(SourceError, match=r"no picture for 0\.4 s"):
        list(opened(fake, QUICK))
    assert time.monotonic() - started_s < SOON_S
    fake.let_go.set()
    assert fake.released.wait(SOON_S)


def test_a_camera_that_does_not_open_is_told_within_its_time_out() -> None:
    let_go = threading.Event()

    def never(path: str) -> FakeCapture:
        let_go.wait(2 * SOON_S)
        return FakeCapture()

    started_s = time.monotonic()
    with pytest.raises(SourceError, match=r"no answer within 0\.3 s"):
        open_camera("0", SourceOptions(open_timeout_s=0.3), capture=never)
    assert time.monotonic() - started_s < SOON_S
    let_go.set()


def test_closing_from_another_thread_ends_an_iteration_that_waits() -> None:
    fake = FakeCapture(lasts=1, hangs=True)
    source = opened(fake, SourceOptions(open_timeout_s=60.0, read_timeout_s=2 * SOON_S))
    timer = threading.Timer(0.2, source.close)
    timer.start()
    started_s = time.monotonic()
    assert len(list(source)) == 1
    assert time.monotonic() - started_s < SOON_S
    fake.let_go.set()
    timer.join()
    source.close()


def test_a_picture_that_came_in_part_only_is_counted_as_lost_and_the_camera_goes_on() -> None:
    fake = FakeCapture(lasts=9, broken={2, 3, 6})
    pictures: list[Picture] = []
    with pytest.raises(SourceError, match="gives no picture any more"):
        for picture in opened(fake):
            pictures.append(picture)
    assert [int(picture.pixels[0, 0, 0]) for picture in pictures] == [1, 4, 5, 7, 8, 9]
    assert [picture.lost for picture in pictures] == [0, 2, 0, 1, 0, 0]


def test_a_camera_whose_driver_waits_for_a_picture_that_does_not_come_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edge.sources.camera.STALL_S", 0.05)

    class Waiting(FakeCapture):
        def read(self) -> tuple[bool, Any]:
            self.given += 1
            time.sleep(0.1)
            return False, None

    fake = Waiting()
    with pytest.raises(SourceError, match="gives no picture any more"):
        list(opened(fake))
    assert fake.given == 1


def test_a_fault_of_the_library_reaches_the_reader_as_it_is() -> None:
    class Broken(FakeCapture):
        def read(self) -> tuple[bool, Any]:
            raise cv2.error("broken")

    with pytest.raises(cv2.error, match="broken"):
        list(opened(Broken()))


def test_a_run_opens_a_camera_again_that_was_unplugged_and_its_ledger_adds_up() -> None:
    fakes = [FakeCapture(lasts=3), FakeCapture(opened=False), FakeCapture(lasts=1000, hangs=True)]
    waiting = iter(fakes)

    def noted(frame: Frame) -> None:
        if frame.session == 2 and frame.number > 5:
            stream.stop()

    stream: Stream[Note] = Stream(
        lambda: open_camera("0", PATIENT, capture=lambda path: next(waiting)),
        Notes(noted),
        policy="all",
        backoff=lambda: Backoff(first_s=0.01),
    )
    fakes[-1].let_go.set()
    status = stream.run(duration_s=60.0)
    assert status.reconnects >= 2
    assert all(fake.released.wait(SOON_S) for fake in fakes[:2])
    assert status.ledger.captured > 3
    assert status.ledger.in_flight == 0
    assert sum(status.ledger.counts.values()) == status.ledger.captured


def test_a_camera_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(
        SourceError, match=r"/dev/video987654: no such device; (there is /dev/video|this machine has no)"
    ):
        open_source("987654")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's device files")
def test_a_device_that_is_no_camera_is_called_so() -> None:
    with pytest.raises(SourceError, match="not a camera"):
        open_camera("/dev/null")


def test_a_plain_file_is_no_camera(tmp_path: Path) -> None:
    (tmp_path / "video0").write_bytes(b"")
    with pytest.raises(SourceError, match="not a camera"):
        open_camera(tmp_path / "video0")


@pytest.mark.parametrize(
    ("fault", "said"),
    [(errno.EACCES, "group 'video'"), (errno.EBUSY, "another program"), (errno.ENODEV, "not a camera")],
)
def test_why_a_device_cannot_be_opened_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int, said: str
) -> None:
    def fails(*_: Any) -> int:
        raise OSError(fault, "as the kernel says")

    (tmp_path / "video0").write_bytes(b"")
    monkeypatch.setattr("edge.sources.camera.os.open", fails)
    with pytest.raises(SourceError, match=said):
        open_camera(tmp_path / "video0")


@pytest.mark.parametrize(
    ("of_driver", "of_device", "captures"),
    [
        (0x84A00001, 0x04200001, True),  # the pictures of a USB camera
        (0x84A00001, 0x04A00000, False),  # its metadata
        (0x84201000, 0x04201000, True),  # a multi-planar one
        (0x00000001, 0x00000000, True),  # an old driver, which does not tell its devices apart
        (0x80000002, 0x00000002, False),  # an output
    ],
)
def test_a_device_of_metadata_is_told_from_a_camera(of_driver: int, of_device: int, captures: bool) -> None:
    answer = struct.pack("=16s32s32s6I", b"uvcvideo", b"Grabber", b"usb-1", 0x60100, of_driver, of_device, 0, 0, 0)
    assert captures_video(answer) is captures


def test_cameras_are_listed_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("video10", "video2", "video", "video-dec", "videox"):
        (tmp_path / name).touch()
    assert cameras(tmp_path) == [str(tmp_path / "video2"), str(tmp_path / "video10")]
