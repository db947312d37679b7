"""One text names any source."""

from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import EdgekitError, SourceError
from edge.sources.folder import ImageFolder
from edge.sources.opening import SOURCES, SourceOptions, is_dicom, open_source
from edge.sources.phantom import PhantomSource

PIXELS = np.full((32, 40), 90, np.uint8)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was asked of which opener, instead of opening it."""
    asked: list[tuple[str, Any]] = []

    def recorder(kind: str) -> Any:
        def record(argument: Any, options: SourceOptions) -> ImageFolder:
            asked.append((kind, argument))
            return ImageFolder(Path("nothing.png"))

        return record

    for kind, place in SOURCES.items():
        module, _, name = place.partition(":")
        monkeypatch.setattr(import_module(module), name, recorder(kind))
    return asked


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", "camera"),
        ("12", "camera"),
        ("/dev/video3", "camera"),
        ("rtsp://probe/live", "network"),
        ("RTSPS://probe/live", "network"),
        ("http://probe:8080/video.mjpg", "network"),
        ("https://probe/video.mjpg", "network"),
        ("igtl://scanner:18944", "igtl"),
        ("phantom", "phantom"),
        ("phantom:", "phantom"),
        ("phantom:30?seed=2", "phantom"),
    ],
)
def test_a_text_that_is_no_path_goes_to_its_opener_as_it_is(
    opened: list[tuple[str, Any]], text: str, kind: str
) -> None:
    open_source(text)
    assert opened == [(kind, text)]


@pytest.mark.parametrize(
    ("names", "named", "kind"),
    [
        (["a.png", "b.JPG"], "", "folder"),
        (["a.png"], "a.png", "folder"),
        (["IM1"], "", "dicom"),
        (["IM1"], "IM1", "dicom"),
        (["x.dcm"], "x.dcm", "dicom"),
        (["x.dcm", "notes.txt"], "", "dicom"),
        (["series/IM1"], "", "dicom"),
        (["notes.txt"], "", "folder"),
        (["clip.mp4"], "clip.mp4", "video"),
        (["7"], "7", "video"),
    ],
)
def test_a_path_is_known_by_what_is_there(
    opened: list[tuple[str, Any]], tmp_path: Path, names: list[str], named: str, kind: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + (b"DICM" if "IM" in name else b"none"))
    open_source(str(tmp_path / named))
    assert opened == [(kind, tmp_path / named)]


def test_the_text_of_a_camera_goes_before_a_file_of_that_name(
    opened: list[tuple[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").write_bytes(b"\0")
    open_source("0")
    open_source("./0")
    assert [kind for kind, _ in opened] == ["camera", "video"]


@pytest.mark.parametrize("text", ["", "nowhere.mp4", "rtmp://probe/live", "phantom", "/dev/null", "a\0b"])
def test_what_names_no_source_is_told_what_is_possible(text: str) -> None:
    if text == "phantom":
        text = "phantoms"
    with pytest.raises(SourceError) as told:
        open_source(text)
    message = str(told.value)
    assert "\n" not in message
    for possible in ("/dev/video0", "rtsp://", "igtl://", "phantom:", "DICOM"):
        assert possible in message


@pytest.mark.parametrize("text", ["rtsp:/me:secret@probe", "https:me:secret@probe", "ftp://me:secret@probe/x"])
def test_a_password_in_a_mistyped_address_is_not_repeated(text: str) -> None:
    with pytest.raises(SourceError) as told:
        open_source(text)
    assert "secret" not in str(told.value)


def test_a_folder_of_both_images_and_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(b"")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(SourceError, match="images and DICOM"):
        open_source(str(tmp_path))


def test_dicom_is_known_by_suffix_or_by_its_magic(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "short").write_bytes(b"DICM")
    assert is_dicom(tmp_path / "plain")
    assert is_dicom(tmp_path / "missing.DCM")
    assert not is_dicom(tmp_path / "short")
    assert not is_dicom(tmp_path)


def test_the_users_spacing_is_on_every_picture_and_the_source_stays_what_it_was(tmp_path: Path) -> None:
    for name in "ab":
        assert cv2.imwrite(str(tmp_path / f"{name}.png"), PIXELS)
    plain, spaced = open_source(str(tmp_path)), open_source(str(tmp_path), SourceOptions(spacing_mm=0.07))
    assert [picture.spacing_mm for picture in plain] == [None, None]
    assert [picture.spacing_mm for picture in spaced] == [(0.07, 0.07)] * 2
    assert (spaced.name, spaced.live) == (plain.name, plain.live)


def test_closing_a_source_with_the_users_spacing_ends_it() -> None:
    source = open_source("phantom:0.1?size=64x64", SourceOptions(spacing_mm=0.1))
    assert source.live
    pictures = iter(source)
    next(pictures)
    source.close()
    assert list(pictures) == []


def test_a_phantom_opens_by_its_text() -> None:
    source = open_source("phantom:5?seed=3&size=96x64&label=benign&seconds=1")
    assert isinstance(source, PhantomSource)
    assert [picture.pixels.shape for picture in source] == [(64, 96)] * 5


@pytest.mark.parametrize("name", ["width", "height", "fps", "spacing_mm", "open_timeout_s", "read_timeout_s"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_an_option_that_is_not_above_0_is_a_programmers_mistake(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        SourceOptions(**{name: value})  # type: ignore[arg-type]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_characters="/~."), max_size=300))
def test_any_text_at_all_gives_a_source_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
    try:
        open_source(text).close()
    except EdgekitError as error:
        assert str(error)
