"""Video files and folders of images: every frame, in order, and never an end that passes for a whole one."""

import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stream_parts import Note, Notes

from edge.capture import Frame
from edge.errors import SourceError
from edge.ledger import Outcome
from edge.sources import Picture
from edge.sources.container import is_text, missing_bytes
from edge.sources.folder import ImageFolder
from edge.sources.opening import SourceOptions, open_source
from edge.stream import Policy, Stream, StreamStatus

av: Any = pytest.importorskip("av", reason="needs PyAV to make videos")

FRAMES = 30
GROUP = 10
CODECS = {"mp4": "libx264", "mkv": "libx264", "avi": "mpeg4", "mov": "libx264"}


def level(index: int) -> int:
    """The grey that tells a frame from its neighbours."""
    return 30 + 6 * index


def drawn(index: int, size: tuple[int, int] = (96, 128)) -> NDArray[np.uint8]:
    """A frame of its own grey on the left and noise, which takes bytes, on the right."""
    pixels = np.random.default_rng(index).integers(0, 255, (*size, 3), dtype=np.uint8)
    pixels[:, : size[1] // 2] = level(index)
    return pixels


def make(
    path: Path,
    *,
    codec: str = "libx264",
    rate: int = 25,
    times_ms: list[int] | None = None,
    first: int = 0,
    container: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Write a video of `FRAMES` frames with a key frame every `GROUP`."""
    with av.open(str(path), "w", options=container or {}, **options) as out:
        stream = out.add_stream(
            codec,
            rate=rate,
            options={"g": str(GROUP), "preset": "ultrafast"} if codec == "libx264" else {"g": str(GROUP)},
        )
        stream.bit_rate = 6_000_000
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(drawn(index), format="bgr24")
            frame.pts = first + index if times_ms is None else times_ms[index]
            if times_ms is not None:
                frame.time_base = Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole video in each container; "fast" has its index in front."""
    folder = tmp_path_factory.mktemp("videos")
    made = {suffix: make(folder / f"whole.{suffix}", codec=codec) for suffix, codec in CODECS.items()}
    made["fast"] = make(folder / "fast.mp4", container={"movflags": "faststart"})
    return made


def collected(text: Path) -> tuple[list[Picture], str]:
    """All pictures, and what the source said in the end."""
    pictures: list[Picture] = []
    try:
        for picture in open_source(str(text)):
            pictures.append(picture)
    except SourceError as error:
        return pictures, str(error)
    return pictures, ""


def indices(pictures: list[Picture]) -> list[int]:
    """Which frame each picture is, by its grey, which the way through video's range of 16 to 235 takes 3 off."""
    return [round((float(picture.pixels[:, 8:40].mean()) - 27) / 6) for picture in pictures]


def rising(pictures: list[Picture]) -> bool:
    times = [picture.time_s for picture in pictures]
    return all(before < after for before, after in pairwise(times))  # type: ignore[operator]


def cut(path: Path, to: Path, part: float) -> Path:
    data = path.read_bytes()
    to.write_bytes(data[: int(len(data) * part)])
    return to


@pytest.mark.parametrize("kind", [*CODECS, "fast"])
def test_a_whole_video_gives_every_frame_in_order_at_its_time(videos: dict[str, Path], kind: str) -> None:
    source = open_source(str(videos[kind]))
    assert not source.live
    pictures = list(source)
    assert indices(pictures) == list(range(FRAMES))
    assert [picture.time_s for picture in pictures] == pytest.approx([index / 25 for index in range(FRAMES)], abs=1e-3)


@pytest.mark.parametrize("rate", [1, 240])
def test_a_slow_and_a_fast_video_keep_their_own_time(tmp_path: Path, rate: int) -> None:
    pictures, said = collected(make(tmp_path / "clip.mp4", rate=rate))
    assert not said
    assert [picture.time_s for picture in pictures] == pytest.approx([i / rate for i in range(FRAMES)], abs=1e-3)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_a_variable_rate_is_followed_and_its_wrong_count_is_no_cut(tmp_path: Path, kind: str) -> None:
    times_ms = np.cumsum([0, *(10 + 37 * index % 90 for index in range(1, FRAMES))]).tolist()
    path = make(tmp_path / f"variable.{kind}", times_ms=times_ms)
    pictures, said = collected(path)
    assert not said
    assert [picture.time_s for picture in pictures] == pytest.approx([ms / 1e3 for ms in times_ms], abs=2e-3)


def test_a_stream_without_time_stamps_runs_at_a_constant_rate(tmp_path: Path) -> None:
    pictures, said = collected(make(tmp_path / "raw.h264", format="h264"))
    assert not said
    assert [picture.time_s for picture in pictures] == pytest.approx([index / 25 for index in range(FRAMES)])


def test_time_goes_on_where_the_stamps_of_two_joined_recordings_start_again(tmp_path: Path) -> None:
    one = make(tmp_path / "one.ts").read_bytes()
    (tmp_path / "two.ts").write_bytes(one + one)
    pictures, said = collected(tmp_path / "two.ts")
    assert not said
    assert len(pictures) == 2 * FRAMES
    assert rising(pictures)
    assert pictures[-1].time_s == pytest.approx((2 * FRAMES - 1) / 25, abs=1e-3)


def test_a_leap_of_hours_in_the_stamps_makes_nobody_wait_for_hours(tmp_path: Path) -> None:
    leaping = [40 * index + (7_200_000 if index >= 15 else 0) for index in range(FRAMES)]
    pictures, said = collected(make(tmp_path / "leap.mkv", times_ms=leaping))
    assert not said
    assert len(pictures) == FRAMES
    assert rising(pictures)
    assert pictures[-1].time_s is not None
    assert pictures[-1].time_s < 60.0


@pytest.mark.parametrize("kind", ["fast", "mkv", "avi"])
@pytest.mark.parametrize("part", [0.4, 0.75])
def test_a_video_cut_in_the_middle_gives_what_is_there_and_says_so(
    videos: dict[str, Path], tmp_path: Path, kind: str, part: float
) -> None:
    short = cut(videos[kind], tmp_path / videos[kind].name, part)
    pictures, said = collected(short)
    assert FRAMES * (part - 0.3) < len(pictures) < FRAMES
    assert indices(pictures) == list(range(len(pictures)))
    missing = videos[kind].stat().st_size - short.stat().st_size
    assert f"{missing} bytes are missing" in said
    assert f"{len(pictures)} of about {FRAMES} frames" in said


def test_an_mp4_cut_before_its_index_says_so_when_it_is_opened(videos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cut off before its index"):
        open_source(str(cut(videos["mp4"], tmp_path / "cut.mp4", 0.6)))


def test_after_damage_inside_frames_go_on_with_the_next_key_frame(videos: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(videos["fast"].read_bytes())
    start = int(len(data) * 0.45)
    data[start : start + len(data) // 12] = bytes(len(data) // 12)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(data)
    pictures, said = collected(damaged)
    found = indices(pictures)
    gap = next(after for before, after in pairwise(found) if after > before + 1)
    assert gap % GROUP == 0
    assert found == [*range(found.index(gap)), *range(gap, FRAMES)]
    assert f"damaged in 1 place; {len(pictures)} of about {FRAMES}" in said
    assert rising(pictures)


def test_frames_hidden_by_an_edit_list_are_not_called_missing(tmp_path: Path) -> None:
    path = make(tmp_path / "edited.mp4", first=-GROUP)
    claimed = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG).get(cv2.CAP_PROP_FRAME_COUNT)
    pictures, said = collected(path)
    assert not said
    assert len(pictures) == FRAMES - GROUP < claimed


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("empty.mp4", b"", "empty"),
        ("notes.txt", b"Patient was seen on Monday.\n" * 40, "a text"),
        ("list.m3u8", b"#EXTM3U\nhttp://elsewhere/secret.ts\n", "a text"),
        ("noise.mkv", np.random.default_rng(1).bytes(4000), "not a video"),
        ("thing.bin", bytes(5000), "not a video"),
    ],
)
def test_what_is_no_video_is_refused_when_it_is_opened(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=said):
        open_source(str(tmp_path / name))


def test_a_name_that_looks_like_a_protocol_is_a_file(
    videos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tcp:scan.mp4").write_bytes(videos["mp4"].read_bytes())
    assert len(list(open_source("tcp:scan.mp4"))) == FRAMES


def test_closing_a_video_ends_it_without_an_error(videos: dict[str, Path], tmp_path: Path) -> None:
    source = open_source(str(cut(videos["fast"], tmp_path / "cut.mp4", 0.6)))
    pictures = iter(source)
    next(pictures)
    source.close()
    source.close()
    assert list(pictures) == []


def test_the_real_clips_are_read_to_their_end(shared: Path) -> None:
    clips = sorted((shared / "clips").glob("*.mp4"))
    if not clips:
        pytest.skip("needs the real clips in ../shared/clips")
    pictures, said = collected(clips[0])
    assert not said
    assert len(pictures) == cv2.VideoCapture(str(clips[0])).get(cv2.CAP_PROP_FRAME_COUNT)
    assert rising(pictures)


def boxes(lengths: list[int], *, wide: bool) -> bytes:
    def box(length: int) -> bytes:
        if wide:
            return b"\0\0\0\1free" + (16 + length).to_bytes(8, "big") + bytes(length)
        return (8 + length).to_bytes(4, "big") + b"mdat" + bytes(length)

    return (16).to_bytes(4, "big") + b"ftypisom\0\0\0\0" + b"".join(map(box, lengths))


def riff(lengths: list[int]) -> bytes:
    return b"".join(
        b"RIFF" + (4 + n).to_bytes(4, "little") + (b"AVI " if not i else b"AVIX") + bytes(n + n % 2)
        for i, n in enumerate(lengths)
    )


def matroska(lengths: list[int]) -> bytes:
    body = sum(lengths)
    return (
        b"\x1a\x45\xdf\xa3\x84" + bytes(4) + b"\x18\x53\x80\x67" + (0x10000000 | body).to_bytes(4, "big") + bytes(body)
    )


@pytest.mark.parametrize(
    "build",
    [lambda n: boxes(n, wide=False), lambda n: boxes(n, wide=True), riff, matroska],
    ids=["mp4", "long mp4", "avi", "mkv"],
)
@settings(max_examples=25)
@given(lengths=st.lists(st.integers(32, 400), min_size=1, max_size=4), back=st.integers(1, 24))
def test_a_container_knows_how_many_bytes_its_end_lacks(
    tmp_path_factory: pytest.TempPathFactory, build: Callable[[list[int]], bytes], lengths: list[int], back: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "container"
    whole = build(lengths)
    path.write_bytes(whole)
    assert missing_bytes(path) == 0
    path.write_bytes(whole[:-back])
    assert missing_bytes(path) == back


@given(
    data=st.binary(max_size=200), head=st.sampled_from([b"", b"\x1a\x45\xdf\xa3", b"RIFF\0\0\0\0AVI ", b"\0\0\0\1ftyp"])
)
@example(data=b"\x01" + bytes(7), head=b"\x1a\x45\xdf\xa3")
@example(data=b"\x01\x00\x00\x00\x00\x00\x00", head=b"\x1a\x45\xdf\xa3")
@example(data=b"\x01" + b"\xff" * 6 + b"\xfe", head=b"\x1a\x45\xdf\xa3")
def test_any_bytes_have_an_answer(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(head + data)
    assert missing_bytes(path) >= 0
    is_text(path)


def test_a_recording_that_was_never_finished_lacks_nothing_it_knows_of(tmp_path: Path) -> None:
    unknown = b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" + bytes(50)
    (tmp_path / "live.mkv").write_bytes(unknown)
    assert missing_bytes(tmp_path / "live.mkv") == 0


@pytest.fixture
def images(tmp_path: Path, write_png: Callable[[Path, NDArray[Any]], Path]) -> Path:
    """Twelve grey images whose order by letters is not that of their numbers, a hidden file and a folder."""
    for index in range(12):
        write_png(tmp_path / f"frame{index}.png", np.full((32, 40), 10 * index, np.uint8))
    (tmp_path / "._frame3.png").write_bytes(b"resource fork")
    (tmp_path / "masks.png").mkdir()
    return tmp_path


def test_a_folder_is_read_in_natural_order_at_the_wanted_rate(images: Path) -> None:
    pictures = list(open_source(str(images)))
    assert [int(picture.pixels[0, 0]) for picture in pictures] == [10 * index for index in range(12)]
    assert [picture.time_s for picture in pictures] == pytest.approx([index / 10 for index in range(12)])
    assert next(reversed(list(open_source(str(images), SourceOptions(fps=240.0))))).time_s == pytest.approx(11 / 240)


def test_images_of_16_bit_and_of_colour_become_grey(
    tmp_path: Path, write_png: Callable[[Path, NDArray[Any]], Path]
) -> None:
    write_png(tmp_path / "1.png", np.full((32, 40), 0x8040, np.uint16))
    write_png(tmp_path / "2.png", np.full((32, 40, 3), (0, 0, 255), np.uint8))
    write_png(tmp_path / "3.png", np.full((32, 40, 4), 77, np.uint8))
    assert [int(p.pixels[5, 5]) for p in open_source(str(tmp_path))] == [0x80, 76, 77]


def test_an_image_that_cannot_be_read_is_named_after_those_before_it(images: Path) -> None:
    (images / "frame2.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    pictures, said = collected(images)
    assert len(pictures) == 2
    assert "frame2.png" in said


def test_an_empty_folder_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no image"):
        open_source(str(tmp_path))


def test_one_image_is_a_source_of_one(images: Path) -> None:
    (picture,) = open_source(str(images / "frame7.png"))
    assert picture.time_s == 0.0
    assert picture.pixels[0, 0] == 70


def test_closing_a_folder_ends_it(images: Path) -> None:
    source = ImageFolder(images)
    pictures = iter(source)
    next(pictures)
    source.close()
    assert list(pictures) == []


def lit(frame: Frame) -> None:
    assert frame.picture.pixels.any() or frame.number == 0


def ran(path: Path, policy: Policy, options: SourceOptions | None = None) -> StreamStatus:
    stream: Stream[Note] = Stream(lambda: open_source(str(path), options), Notes(lit), policy=policy)
    return stream.run(duration_s=30.0)


@pytest.fixture(params=["mp4", "mkv", "folder", "image"])
def recorded(request: pytest.FixtureRequest, videos: dict[str, Path], images: Path) -> Iterator[tuple[Path, int]]:
    """A source and how many pictures it has."""
    yield {
        "mp4": (videos["mp4"], FRAMES),
        "mkv": (videos["mkv"], FRAMES),
        "folder": (images, 12),
        "image": (images / "frame4.png", 1),
    }[request.param]


@pytest.mark.parametrize("policy", ["all", "newest"])
def test_a_run_over_a_recording_ends_by_itself_and_its_ledger_adds_up(
    recorded: tuple[Path, int], policy: Policy
) -> None:
    path, count = recorded
    status = ran(path, policy, SourceOptions(fps=60.0))
    ledger = status.ledger
    assert status.error is None
    assert status.source == "ended"
    assert (ledger.captured, ledger.in_flight, ledger.lost) == (count, 0, 0)
    assert sum(ledger.counts.values()) == count
    if policy == "all":
        assert ledger.counts[Outcome.PROCESSED] == count


def test_a_run_over_a_video_that_was_cut_does_what_it_can_and_names_the_fault(
    videos: dict[str, Path], tmp_path: Path
) -> None:
    status = ran(cut(videos["fast"], tmp_path / "cut.mp4", 0.6), "all")
    assert status.error is not None
    assert "cut off" in status.error
    assert 0 < status.ledger.counts[Outcome.PROCESSED] == status.ledger.captured < FRAMES
    assert status.ledger.in_flight == 0


def test_a_video_closed_from_another_thread_ends_soon(videos: dict[str, Path]) -> None:
    source = open_source(str(videos["mp4"]))
    threading.Timer(0.0, source.close).start()
    assert len(list(source)) <= FRAMES
