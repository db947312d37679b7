"""A recording: playable whatever ended it, with every frame at its time, and never over another file."""

import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from sink_results import (
    CHILD_ENV,
    Pixels,
    failed,
    file_size_limit,
    finding,
    lesion,
    mounted,
    picture,
    result,
)

from edge.errors import MissingDependencyError, SinkError
from edge.overlay import DISCLAIMER
from edge.sinks import recording
from edge.sinks.drawing import draw_analysis
from edge.sinks.recording import RecordingSink

av = pytest.importorskip("av", reason="PyAV is not installed (the extra record)")

SUFFIXES = (".mkv", ".mp4")
CHILD = """
import sys
from sink_results import picture, result
from edge.sinks.recording import RecordingSink
frames = [picture(240, 320, seed=seed) for seed in range(25)]
sink = RecordingSink(sys.argv[1])
for number in range(10**9):
    sink.write(result(number, pixels=frames[number % 25]))
    print(number, flush=True)
"""


def decoded(path: Path) -> tuple[list[Pixels], list[float]]:
    """Frames as BGR, and their times in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="bgr24") for frame in frames], [float(frame.time) for frame in frames]


def frames_by_opencv(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count


def record(path: Path, frames: list[Pixels], **options: object) -> Path:
    sink = RecordingSink(path, **options)  # type: ignore[arg-type]
    for number, pixels in enumerate(frames):
        sink.write(result(number, pixels=pixels))
    sink.close()
    return path


def difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other).mean())


def as_colour(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR), np.uint8) if pixels.ndim == 2 else pixels


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("colour", [False, True])
def test_what_is_recorded_is_what_was_shown(tmp_path: Path, suffix: str, colour: bool) -> None:
    shown = [picture(colour=colour, seed=seed) for seed in range(12)]
    path = record(tmp_path / f"run{suffix}", shown)
    frames, times = decoded(path)
    assert times == pytest.approx([0.04 * number for number in range(12)], abs=1e-6)
    assert frames_by_opencv(path) == 12
    for number, (frame, pixels) in enumerate(zip(frames, shown, strict=True)):
        assert difference(frame, as_colour(pixels)) < 7, number
    assert difference(frames[0], as_colour(shown[11])) > 15  # the test would notice


def test_black_and_white_stay_black_and_white(tmp_path: Path) -> None:
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    for name, pixels in (("grey", half), ("colour", as_colour(half))):
        frames, _ = decoded(record(tmp_path / f"{name}.mkv", [pixels] * 3))
        assert frames[2][:, :28].max() <= 6
        assert frames[2][:, 36:].min() >= 249


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_file_says_what_it_is_not(tmp_path: Path, suffix: str) -> None:
    with av.open(str(record(tmp_path / f"run{suffix}", [picture()]))) as container:
        notes = {name.lower(): value for name, value in container.metadata.items()}
    assert notes["comment"] == DISCLAIMER


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_recording_plays_but_for_the_last_second(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, path], env=CHILD_ENV, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        told = [int(child.stdout.readline()) for _ in range(75)][-1]
        child.kill()
        told = max([told, *(int(line) for line in child.stdout.read().split("\n")[:-1] if line)])
    assert child.returncode == -signal.SIGKILL
    frames, times = decoded(path)
    assert times[-1] >= told * 0.04 - 1.0
    assert len(frames) == round(times[-1] / 0.04) + 1  # none is missing in between
    assert difference(frames[60], as_colour(picture(240, 320, seed=60 % 25))) < 5
    assert frames_by_opencv(path) == len(frames)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_key_frame_comes_at_least_each_second(tmp_path: Path, suffix: str) -> None:
    sink = RecordingSink(tmp_path / f"run{suffix}")
    for number in range(60):  # now and then the source stops for a moment
        sink.write(result(number, captured_ns=number * 50_000_000 + number // 20 * 2_000_000_000))
    sink.close()
    with av.open(str(tmp_path / f"run{suffix}")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [float(packet.pts * packet.time_base) for packet in packets if packet.is_keyframe]
    times = [float(packet.pts * packet.time_base) for packet in packets]
    assert keys[0] == times[0]
    for time_s in times:
        assert time_s - max(key for key in keys if key <= time_s) < 1.0
    assert len(keys) < 10


def test_times_only_grow_even_where_the_clock_stands(tmp_path: Path) -> None:
    sink = RecordingSink(tmp_path / "run.mkv")
    for captured_ns in (5_000_000_000, 5_000_000_000, 5_000_400_000, 4_990_000_000, 5_040_000_000):
        sink.write(result(captured_ns=captured_ns))
    sink.close()
    assert decoded(tmp_path / "run.mkv")[1] == pytest.approx([0, 0.001, 0.002, 0.003, 0.040])


@pytest.mark.parametrize("size", [(121, 161), (120, 161), (121, 160), (17, 19)])
def test_odd_sizes_get_a_black_edge(tmp_path: Path, size: tuple[int, int]) -> None:
    height, width = size
    frames, _ = decoded(record(tmp_path / "run.mkv", [np.full(size, 200, np.uint8)] * 3))
    assert frames[2].shape == (height + height % 2, width + width % 2, 3)
    assert frames[2][: height - 2, : width - 2].min() > 180
    assert not height % 2 or frames[2][height].max() < 60
    assert not width % 2 or frames[2][:, width].max() < 60


def test_a_frame_of_another_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    wide = np.full((120, 160), 200, np.uint8)
    frames, times = decoded(record(tmp_path / "run.mkv", [wide, np.full((240, 160, 3), 200, np.uint8), wide]))
    assert len(times) == 3
    assert {frame.shape for frame in frames} == {(120, 160, 3)}
    assert frames[1][:, 44:116].min() > 170  # 80 columns in the middle
    assert frames[1][:, :36].max() < 40
    assert frames[1][:, 124:].max() < 40
    assert frames[2].min() > 170


def test_outlines_are_drawn_in_where_asked_for(tmp_path: Path) -> None:
    made = result(pixels=picture(240, 320), found=finding(lesion(radii=(40, 40))))
    assert made.found is not None
    for outlines in (False, True):
        sink = RecordingSink(tmp_path / f"{outlines}.mkv", outlines=outlines)
        sink.write(made)
        sink.close()
    plain, drawn = (decoded(tmp_path / f"{outlines}.mkv")[0][0] for outlines in (False, True))
    assert difference(plain, as_colour(made.found.pixels)) < 5
    assert difference(drawn, draw_analysis(made.found)) < 5
    assert difference(drawn, plain) > 3


def test_rejected_frames_are_recorded_and_failed_ones_have_no_pixels(tmp_path: Path) -> None:
    sink = RecordingSink(tmp_path / "run.mkv")
    for made in (result(0), result(1, reason="too dark"), failed(2), result(3)):
        sink.write(made)
    sink.close()
    assert decoded(tmp_path / "run.mkv")[1] == pytest.approx([0, 0.04, 0.12])


def test_a_file_that_exists_is_not_written_over(tmp_path: Path) -> None:
    for content in (b"mine", b""):
        (tmp_path / "run.mkv").write_bytes(content)
        with pytest.raises(SinkError, match=r"run\.mkv: exists already and is not written over; name another file"):
            RecordingSink(tmp_path / "run.mkv")
        assert (tmp_path / "run.mkv").read_bytes() == content


def test_what_cannot_be_recorded_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.mkv").mkdir()
    with pytest.raises(SinkError, match="is a folder; name a file"):
        RecordingSink(tmp_path / "folder.mkv")
    with pytest.raises(SinkError, match=r"an \.mkv or an \.mp4 file"):
        RecordingSink(tmp_path / "run.avi")
    with pytest.raises(SinkError, match="no video encoder libnothing"):
        RecordingSink(tmp_path / "run.mkv", codec="libnothing")
    with pytest.raises(SinkError, match="no video encoder aac"):
        RecordingSink(tmp_path / "run.mkv", codec="aac")
    assert [item.name for item in tmp_path.iterdir()] == ["folder.mkv"]


def test_a_folder_that_is_read_only_is_an_error(tmp_path: Path) -> None:
    with mounted(tmp_path / "ro", "ro,size=64k") as folder, pytest.raises(SinkError, match="Read-only file system"):
        RecordingSink(folder / "run.mkv")


def test_a_recording_without_frames_leaves_no_file(tmp_path: Path) -> None:
    sink = RecordingSink(tmp_path / "run.mkv")
    sink.write(failed())
    sink.close()
    sink.close()
    assert not list(tmp_path.iterdir())


def noise_until_refused(path: Path, said: str) -> int:
    """Record noise, which does not compress, until it is refused; returns how many frames were taken."""
    sink = RecordingSink(path)
    rng = np.random.default_rng(0)
    taken = 0
    with pytest.raises(SinkError, match=said):
        for number in range(1000):
            sink.write(result(number, pixels=rng.integers(0, 255, (120, 160), dtype=np.uint8)))
            taken += 1
    with pytest.raises(SinkError, match="is closed"):
        sink.write(result())
    sink.close()
    return taken


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_an_error_and_what_was_written_plays(tmp_path: Path, suffix: str) -> None:
    with mounted(tmp_path / "small", "size=512k") as folder:
        path = folder / f"run{suffix}"
        taken = noise_until_refused(path, r"run\.m..: cannot be written \(No space left on device\)")
        frames, _ = decoded(path)
        assert taken >= len(frames) > taken - 26
        assert frames_by_opencv(path) >= len(frames) - 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_may_not_grow_is_an_error_and_what_was_written_plays(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"run{suffix}"
    with file_size_limit(400_000):
        taken = noise_until_refused(path, "File too large")
    assert taken >= len(decoded(path)[0]) > taken - 26


def test_without_h264_the_next_codec_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "CODECS", ("libnothing", "mpeg4"))
    for suffix in SUFFIXES:
        path = record(tmp_path / f"run{suffix}", [picture(seed=seed) for seed in range(30)])
        with av.open(str(path)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
        frames, times = decoded(path)
        assert times == pytest.approx([0.04 * number for number in range(30)])
        assert difference(frames[29], as_colour(picture(seed=29))) < 7


def test_a_lossless_codec_keeps_the_grey_levels_of_video(tmp_path: Path) -> None:
    shown = picture(seed=3)
    frames, _ = decoded(record(tmp_path / "run.mkv", [shown], codec="ffv1"))
    assert np.abs(frames[0].astype(int) - as_colour(shown)).max() <= 2


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"edgekit-ultrasound\[record\]"):
        RecordingSink(tmp_path / "run.mkv")
    assert not list(tmp_path.iterdir())
