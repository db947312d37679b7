import io
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.errors import MissingDependencyError, SourceError
from edge.preprocess import Box
from edge.sources import FrameSource, Picture
from edge.sources.dicom import DicomOrigin, open_dicom
from edge.sources.opening import SourceOptions

pydicom = pytest.importorskip("pydicom")
uid = pytest.importorskip("pydicom.uid")

US = "1.2.840.10008.5.1.4.1.1.6.1"
US_MULTIFRAME = "1.2.840.10008.5.1.4.1.1.3.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

GREY = np.random.default_rng(1).integers(0, 256, (3, 24, 32), np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 256, (3, 24, 32, 3), np.uint8)
SMOOTH = cv2.resize(COLOUR[0, :3, :4], (64, 48), interpolation=cv2.INTER_CUBIC)
"""(48, 64, 3) RGB that lossy compression leaves nearly as it is."""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write frames (n, H, W) or (n, H, W, 3) as a DICOM file; keywords are its elements, None leaves one out."""

    def write_file(
        frames: np.ndarray, name: str = "clip.dcm", *, syntax: str = uid.ExplicitVRLittleEndian, **elements: Any
    ) -> Path:
        header = pydicom.Dataset()
        encoded = elements.pop("encoded", None)
        bits = 8 * frames.dtype.itemsize
        values: dict[str, Any] = {
            "SOPClassUID": US_MULTIFRAME if len(frames) > 1 else US,
            "SOPInstanceUID": uid.generate_uid(entropy_srcs=[name]),  # of one length from run to run
            "StudyInstanceUID": "1.2.3",
            "SeriesInstanceUID": "1.2.3.4",
            "PatientID": "P-17",
            "Modality": "US",
            "Rows": frames.shape[1],
            "Columns": frames.shape[2],
            "SamplesPerPixel": 3 if frames.ndim == 4 else 1,
            "PhotometricInterpretation": "RGB" if frames.ndim == 4 else "MONOCHROME2",
            "PlanarConfiguration": 0 if frames.ndim == 4 else None,
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": elements.get("BitsStored", bits) - 1,
            "PixelRepresentation": int(frames.dtype.kind == "i"),
            "NumberOfFrames": len(frames) if len(frames) > 1 else None,
        } | elements
        for keyword, value in values.items():
            if value is not None:
                setattr(header, keyword, value)
        header.file_meta = pydicom.dataset.FileMetaDataset()
        header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = header.get("SOPClassUID", US)
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        if "PixelData" not in elements:
            header.PixelData = frames.tobytes()
        if encoded is not None:
            header.PixelData = pydicom.encaps.encapsulate(encoded)
            header["PixelData"].is_undefined_length = True
            header.file_meta.TransferSyntaxUID = syntax
        elif uid.UID(syntax).is_compressed:
            header.compress(syntax, generate_instance_uid=False)
        else:
            header.file_meta.TransferSyntaxUID = syntax
        if "PixelData" in header:
            header["PixelData"].VR = "OB" if header["PixelData"].is_undefined_length or bits == 8 else "OW"
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header.save_as(path, enforce_file_format=True)
        return path

    return write_file


def region(left: int, top: int, right: int, bottom: int, **elements: Any) -> Any:
    item = pydicom.Dataset()
    values = {
        "RegionSpatialFormat": 1,
        "RegionDataType": 1,
        "RegionLocationMinX0": left,
        "RegionLocationMinY0": top,
        "RegionLocationMaxX1": right,
        "RegionLocationMaxY1": bottom,
        "PhysicalUnitsXDirection": 3,
        "PhysicalUnitsYDirection": 3,
        "PhysicalDeltaX": 0.01,
        "PhysicalDeltaY": 0.02,
    } | elements
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def pictures(path: Path | str, options: SourceOptions | None = None) -> list[Picture]:
    source: FrameSource = open_dicom(path, options)
    assert not source.live
    try:
        return list(source)
    finally:
        source.close()


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as caught:
        pictures(path)
    text = str(caught.value)
    assert "\n" not in text and str(path.name) in text
    return text


def pixels(path: Path) -> np.ndarray:
    return np.stack([picture.pixels for picture in pictures(path)])


# -- the pixels ---------------------------------------------------------------------------------------------------------

LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
]


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_grey_clip_comes_as_it_was_stored(write: Write, syntax: str) -> None:
    assert np.array_equal(pixels(write(GREY, syntax=syntax)), GREY)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
def test_colour_clip_comes_as_bgr(write: Write, syntax: str) -> None:
    assert np.array_equal(pixels(write(COLOUR, syntax=syntax)), COLOUR[..., ::-1])


def test_big_endian_is_read(write: Write) -> None:
    wide = (GREY.astype(np.uint16) * 257).astype(">u2")
    assert np.array_equal(pixels(write(wide, syntax=uid.ExplicitVRBigEndian)), GREY)


def test_planes_one_after_another_are_read(write: Write) -> None:
    planes = np.ascontiguousarray(COLOUR.transpose(0, 3, 1, 2))
    path = write(COLOUR, PlanarConfiguration=1, PixelData=planes.tobytes())
    assert np.array_equal(pixels(path), COLOUR[..., ::-1])


def test_still_has_one_picture(write: Write) -> None:
    (picture,) = pictures(write(GREY[:1]))
    assert np.array_equal(picture.pixels, GREY[0])
    assert picture.time_s == 0.0


def test_monochrome1_is_inverted(write: Write) -> None:
    assert np.array_equal(pixels(write(GREY, PhotometricInterpretation="MONOCHROME1")), 255 - GREY)


@pytest.mark.parametrize("stored", [10, 12, 16])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_more_than_eight_bits_are_brought_to_the_range_of_the_bits_stored(
    write: Write, stored: int, photometric: str
) -> None:
    top = (1 << stored) - 1
    frames = np.linspace(0, top, 3 * 24 * 32).reshape(3, 24, 32).astype(np.uint16)
    expected = np.rint(255.0 * frames / top).astype(np.uint8)
    found = pixels(write(frames, BitsStored=stored, PhotometricInterpretation=photometric))
    assert np.array_equal(found, expected if photometric == "MONOCHROME2" else 255 - expected)


def test_signed_values_are_brought_to_their_range(write: Write) -> None:
    frames = np.linspace(-2048, 2047, 24 * 32).reshape(1, 24, 32).astype(np.int16)
    expected = np.rint(255.0 * (frames + 2048.0) / 4095.0)
    assert np.array_equal(pixels(write(frames, BitsStored=12)), expected)


def test_window_of_the_file_is_used_where_more_than_eight_bits_are_stored(write: Write) -> None:
    frames = np.arange(24 * 32, dtype=np.uint16).reshape(1, 24, 32) * 4
    window = {"WindowCenter": 1000.0, "WindowWidth": 512.0, "RescaleSlope": 2.0, "RescaleIntercept": -100.0}
    # DICOM PS3.3, C.11.2.1.2.1, with y_min 0 and y_max 255
    expected = np.clip(((2.0 * frames - 100.0 - 999.5) / 511.0 + 0.5) * 255.0, 0.0, 255.0)
    assert np.abs(pixels(write(frames, BitsStored=12, **window)) - expected).max() <= 0.501
    assert np.array_equal(pixels(write(GREY, WindowCenter=10.0, WindowWidth=5.0)), GREY)


def test_window_that_is_not_linear_is_left_aside(write: Write) -> None:
    frames = np.arange(24 * 32, dtype=np.uint16).reshape(1, 24, 32)
    plain = pixels(write(frames, BitsStored=12))
    for window in (
        {"WindowCenter": 100.0, "WindowWidth": 0.0},
        {"WindowCenter": 100.0, "WindowWidth": 50.0, "VOILUTFunction": "SIGMOID"},
    ):
        assert np.array_equal(pixels(write(frames, BitsStored=12, **window)), plain)


def test_sixteen_bit_colour_keeps_its_range(write: Write) -> None:
    assert np.array_equal(pixels(write(COLOUR.astype(np.uint16) * 257)), COLOUR[..., ::-1])


@pytest.mark.parametrize("depth", [8, 16])
def test_palette_gives_colours(write: Write, depth: int) -> None:
    tables = np.random.default_rng(3).integers(0, 256, (3, 256), np.uint8)
    elements: dict[str, Any] = {}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, depth]
        data = table.tobytes() if depth == 8 else (table.astype(np.uint16) * 256).tobytes()
        elements[f"{name}PaletteColorLookupTableData"] = data
    found = pixels(write(GREY, PhotometricInterpretation="PALETTE COLOR", **elements))
    assert np.array_equal(found, tables[::-1, GREY].transpose(1, 2, 3, 0))


def test_ybr_full_is_converted(write: Write) -> None:
    ybr = cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2YCrCb)[None, :, :, [0, 2, 1]]
    found = pixels(write(np.ascontiguousarray(ybr), PhotometricInterpretation="YBR_FULL"))
    assert np.abs(found[0].astype(int) - SMOOTH[:, :, ::-1]).max() <= 2


def test_ybr_full_422_is_converted(write: Write) -> None:
    wide = np.repeat(SMOOTH, 2, axis=1)  # pairs of equal pixels lose nothing by sharing their colour
    ybr = cv2.cvtColor(wide, cv2.COLOR_RGB2YCrCb)
    packed = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 2], ybr[:, ::2, 1]], axis=-1)
    path = write(ybr[None], PhotometricInterpretation="YBR_FULL_422", PixelData=packed.tobytes())
    assert np.abs(pixels(path)[0].astype(int) - wide[:, :, ::-1]).max() <= 2


def test_jpeg_baseline_is_read_in_colour(write: Write) -> None:
    encoded = [cv2.imencode(".jpg", np.roll(SMOOTH, k, 1)[:, :, ::-1])[1].tobytes() for k in range(3)]
    frames = np.stack([np.roll(SMOOTH, k, 1) for k in range(3)])
    path = write(frames, encoded=encoded, syntax=uid.JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    assert np.abs(pixels(path).astype(int) - frames[..., ::-1]).mean() < 4


@pytest.mark.parametrize("photometric", ["YBR_RCT", "MONOCHROME2"])
def test_jpeg_2000_is_read(write: Write, photometric: str) -> None:
    image = pytest.importorskip("PIL.Image")
    frames = COLOUR if photometric == "YBR_RCT" else GREY
    encoded = []
    for frame in frames:
        buffer = io.BytesIO()
        image.fromarray(frame).save(buffer, "JPEG2000", no_jp2=True, mct=1)
        encoded.append(buffer.getvalue())
    path = write(frames, encoded=encoded, syntax=uid.JPEG2000Lossless, PhotometricInterpretation=photometric)
    assert np.array_equal(pixels(path), frames[..., ::-1] if frames.ndim == 4 else frames)


@pytest.mark.parametrize(("codec", "box", "syntax"), [
    ("libx264", "mp4", uid.MPEG4HP41), ("libx264", "h264", uid.MPEG4HP41), ("mpeg2video", "mpegts", uid.MPEG2MPML)
])  # fmt: skip
def test_video_is_read(write: Write, codec: str, box: str, syntax: str) -> None:
    av = pytest.importorskip("av")
    frames = np.stack([np.roll(SMOOTH, 4 * k, 1) for k in range(6)])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=box) as container:
        stream = container.add_stream(codec, rate=25, width=64, height=48, pix_fmt="yuv420p")
        stream.bit_rate = 2_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode())
    path = write(
        frames, encoded=[buffer.getvalue()], syntax=syntax, PhotometricInterpretation="YBR_PARTIAL_420", FrameTime=50.0
    )
    found = pictures(path)
    assert [picture.time_s for picture in found] == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25])
    shown = np.stack([picture.pixels for picture in found]).astype(int)
    assert np.abs(shown - frames[..., ::-1]).mean() < 12
    assert "its header says otherwise" in refusal(
        write(frames[:, :40], encoded=[buffer.getvalue()], syntax=syntax, PhotometricInterpretation="YBR_PARTIAL_420")
    )


def test_colours_that_nobody_converts_are_refused(write: Write) -> None:
    path = write(COLOUR, PhotometricInterpretation="YBR_ICT")
    assert "colours as YBR_ICT" in refusal(path)


def test_video_without_its_package_names_the_extra(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(COLOUR, encoded=[b"video"], syntax=uid.MPEG4HP41, PhotometricInterpretation="YBR_PARTIAL_420")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependencyError, match=r"\[record\]"):
        open_dicom(path)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [(uid.JPEGLosslessSV1, "python-gdcm"), (uid.HTJ2KLossless, "pylibjpeg-openjpeg")],
    ids=["JPEG Lossless", "HTJ2K"],
)
def test_decoder_that_is_not_installed_is_named(write: Write, syntax: Any, package: str) -> None:
    if pydicom.pixels.get_decoder(syntax).is_available:
        pytest.skip(f"{package} or another decoder of it is installed")
    assert f"pip install {package}" in refusal(write(GREY, encoded=[b"xy"] * 3, syntax=syntax))


# -- times, regions, spacing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "times_s"),
    [
        ({"FrameTime": 40.0}, [0.0, 0.04, 0.08]),
        ({"FrameTimeVector": [0.0, 20.0, 60.0]}, [0.0, 0.02, 0.08]),
        ({"FrameTimeVector": [0.0, 20.0, 60.0], "FrameTime": 40.0}, [0.0, 0.02, 0.08]),
        ({"FrameTimeVector": [0.0, 20.0], "FrameTime": 40.0}, [0.0, 0.04, 0.08]),
        ({"FrameTimeVector": [0.0, -5.0, 60.0], "FrameTime": 40.0}, [0.0, 0.04, 0.08]),
        ({"RecommendedDisplayFrameRate": 50}, [0.0, 0.02, 0.04]),
        ({"CineRate": 20}, [0.0, 0.05, 0.1]),
        ({"FrameTime": 0.0, "CineRate": 20}, [0.0, 0.05, 0.1]),
        ({"FrameTime": -3.0, "CineRate": 0}, [0.0, 0.1, 0.2]),
        ({"FrameTime": 1e9}, [0.0, 0.1, 0.2]),
        ({}, [0.0, 0.1, 0.2]),
    ],
)
def test_time_comes_from_the_file_or_else_from_the_user(
    write: Write, elements: dict[str, Any], times_s: list[float]
) -> None:
    found = pictures(write(GREY, **elements), SourceOptions(fps=10.0))
    assert [picture.time_s for picture in found] == pytest.approx(times_s)


def test_time_is_that_of_25_frames_a_second_where_nobody_knows(write: Write) -> None:
    assert [picture.time_s for picture in pictures(write(GREY))] == pytest.approx([0.0, 0.04, 0.08])


def test_region_of_tissue_gives_place_and_spacing(write: Write) -> None:
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=[region(4, 2, 27, 21)]))
    assert picture.region == Box(2, 4, 20, 24)
    assert picture.spacing_mm == pytest.approx((0.2, 0.1))


def test_largest_region_of_tissue_counts(write: Write) -> None:
    regions = [
        region(0, 0, 31, 23, RegionDataType=2),  # colour flow
        region(0, 0, 31, 23, RegionSpatialFormat=3),  # spectral
        region(0, 0, 15, 15, PhysicalDeltaX=0.05),
        region(12, 0, 31, 20),
    ]
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=regions))
    assert picture.region == Box(0, 12, 21, 20)
    assert picture.spacing_mm == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize("corners", [(4, 2, 60, 21), (4, 2, 27, 90), (70, 60, 90, 80), (27, 21, 4, 2), (4, 2, 9, 9)])
def test_region_that_the_image_belies_is_ignored_with_its_spacing(
    write: Write, corners: tuple[int, int, int, int]
) -> None:
    regions = [region(*corners)]
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=regions))
    assert picture.region is None and picture.spacing_mm is None
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=regions, PixelSpacing=[0.3, 0.4]))
    assert picture.spacing_mm == pytest.approx((0.3, 0.4))


def test_region_that_ends_one_pixel_late_is_clipped(write: Write) -> None:
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=[region(0, 0, 32, 24)]))
    assert picture.region == Box(0, 0, 24, 32)


@pytest.mark.parametrize(
    "elements",
    [
        {"PhysicalUnitsXDirection": 4},
        {"PhysicalUnitsYDirection": 0},
        {"PhysicalDeltaX": 0.0},
        {"PhysicalDeltaY": float("nan")},
    ],
)
def test_region_without_centimetres_has_no_spacing(write: Write, elements: dict[str, Any]) -> None:
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=[region(4, 2, 27, 21, **elements)]))
    assert picture.region is not None and picture.spacing_mm is None


def test_direction_of_an_axis_is_no_matter(write: Write) -> None:
    regions = [region(4, 2, 27, 21, PhysicalDeltaX=-0.01)]
    (picture,) = pictures(write(GREY[:1], SequenceOfUltrasoundRegions=regions))
    assert picture.spacing_mm == pytest.approx((0.2, 0.1))


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"PixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"PixelSpacing": [0.0, 0.4], "ImagerPixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ({"PixelSpacing": [1.0, 1.0]}, None),
        ({}, None),
    ],
)
def test_spacing_of_the_image_is_next(
    write: Write, elements: dict[str, Any], expected: tuple[float, float] | None
) -> None:
    (picture,) = pictures(write(GREY[:1], **elements))
    assert picture.spacing_mm == (None if expected is None else pytest.approx(expected))


def test_origin_names_the_image_and_the_frame(write: Write) -> None:
    path = write(GREY, SOPInstanceUID="1.2.3.4.5")
    found = [picture.origin for picture in pictures(path)]
    assert found == [DicomOrigin(path, "1.2.3.4.5", frame, 3) for frame in (1, 2, 3)]
    with pytest.raises(ValueError, match="counted from 1"):
        DicomOrigin(path, "", 0, 3)


# -- folders ------------------------------------------------------------------------------------------------------------


def test_folder_is_played_in_order_of_series_and_instance_and_its_time_runs_on(write: Write, tmp_path: Path) -> None:
    write(GREY[1:2], "in/a.dcm", InstanceNumber=10)
    write(GREY[:1], "in/b.dcm", InstanceNumber=2)
    write(COLOUR, "in/deeper/c.dcm", InstanceNumber=1, SeriesNumber=2, SeriesInstanceUID="1.2.3.9", FrameTime=100.0)
    write(GREY[:1], "in/ct.dcm", Modality="CT", SOPClassUID=CT)
    (tmp_path / "in/notes.txt").write_text("not DICOM")
    (tmp_path / "in/empty").touch()
    found = pictures(tmp_path / "in")
    assert [picture.origin.path.name for picture in found] == ["b.dcm", "a.dcm", "c.dcm", "c.dcm", "c.dcm"]
    assert [picture.time_s for picture in found] == pytest.approx([0.0, 0.04, 0.08, 0.18, 0.28])


def test_folder_without_ultrasound_is_refused(write: Write, tmp_path: Path) -> None:
    write(GREY[:1], "in/ct.dcm", Modality="CT", SOPClassUID=CT)
    assert "no ultrasound DICOM image" in refusal(tmp_path / "in")


def test_ultrasound_in_a_folder_that_cannot_be_read_is_an_error(write: Write, tmp_path: Path) -> None:
    write(GREY[:1], "in/a.dcm")
    write(GREY[:1], "in/b.dcm", PixelData=bytes(10))
    with pytest.raises(SourceError, match=r"b\.dcm: truncated"):
        open_dicom(tmp_path / "in")


# -- what is wrong ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "told"),
    [
        ({"Modality": "CT", "SOPClassUID": CT}, "CT Image Storage, modality CT"),
        ({"Modality": "NM", "SOPClassUID": SECONDARY_CAPTURE}, "modality NM"),
        ({"Modality": "OT"}, "modality OT"),
        ({"Rows": 0}, "32×0 pixels"),
        ({"Rows": 65535, "Columns": 65535}, "65535×65535 pixels"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation 'HSV'"),
        ({"PhotometricInterpretation": "RGB"}, "photometric interpretation 'RGB' with 1 samples"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits"),
        ({"BitsStored": 12}, "12 bits stored in 8"),
        ({"PixelData": None}, "no pixel data"),
        ({"PixelData": None, "FloatPixelData": bytes(4 * 3 * 24 * 32)}, "float pixel data"),
        ({"PixelData": bytes(100)}, "truncated, 100 of 2304 bytes"),
        ({"NumberOfFrames": 1_000_000_000}, "truncated"),
    ],
)
def test_file_that_is_no_picture_is_refused_in_one_line(write: Write, elements: dict[str, Any], told: str) -> None:
    assert told in refusal(write(GREY, **elements))


@pytest.mark.parametrize("modality", ["OT", None])
def test_secondary_capture_of_a_frame_grabber_is_taken(write: Write, modality: str | None) -> None:
    assert np.array_equal(pixels(write(GREY, Modality=modality, SOPClassUID=SECONDARY_CAPTURE)), GREY)


def test_what_is_not_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.dcm").write_text("no DICOM at all\n" * 100)
    (tmp_path / "empty.dcm").touch()
    for name in ("text.dcm", "empty.dcm"):
        assert "not a DICOM file" in refusal(tmp_path / name)
    assert "check the path" in refusal(tmp_path / "absent.dcm")


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless], ids=["native", "RLE"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_truncated_file_is_refused(write: Write, syntax: str, share: float) -> None:
    path = write(COLOUR, syntax=syntax)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "truncated" in refusal(path)


def test_frames_before_the_break_are_shown(write: Write) -> None:
    path = write(GREY, encoded=pydicom_rle(GREY)[:2], syntax=uid.RLELossless)
    found = []
    with pytest.raises(SourceError, match="frame 3 of 3"):
        for picture in open_dicom(path):
            found.append(picture)
    assert len(found) == 2


def pydicom_rle(frames: np.ndarray) -> list[bytes]:
    """Each frame as RLE of literal runs (PS3.5, annex G)."""
    encoded = []
    for frame in frames:
        data = frame.tobytes()
        runs = b"".join(bytes([len(data[k : k + 128]) - 1]) + data[k : k + 128] for k in range(0, len(data), 128))
        encoded.append((1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + runs)
    return encoded


@pytest.mark.filterwarnings("ignore")  # pydicom warns of what it finds odd
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_file_gives_pictures_or_a_source_error(write: Write, data: st.DataObject) -> None:
    syntax = data.draw(st.sampled_from([uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEGLSLossless]))
    path = write(GREY, FrameTime=40.0, SequenceOfUltrasoundRegions=[region(4, 2, 27, 21)], syntax=syntax)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(132, min(len(whole), 1500) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))])
    try:
        for picture in open_dicom(path):
            assert picture.time_s is not None
    except SourceError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("tag", [b"\x20\x00\x0d\x00UI", b"\x20\x00\x0e\x00UI"], ids=["study", "series"])
def test_an_element_that_only_the_order_needs_and_is_damaged(write: Write, tag: bytes) -> None:
    """pydicom looks into an element when it is asked for, not when the header is read."""
    path = write(GREY)
    whole = path.read_bytes()
    assert whole.count(tag) == 1
    path.write_bytes(whole.replace(tag, tag[:5] + b"\x00"))
    assert "its header cannot be read" in refusal(path)


def test_source_without_pydicom_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingDependencyError, match=r"\[dicom\]"):
        open_dicom(tmp_path)


# -- the source ---------------------------------------------------------------------------------------------------------


def test_close_ends_an_iteration_and_a_new_one_starts_over(write: Write) -> None:
    source = open_dicom(write(GREY))
    assert len(list(source)) == len(list(source)) == 3
    found = iter(source)
    next(found)
    thread = threading.Thread(target=source.close)
    thread.start()
    thread.join()
    assert list(found) == []
    source.close()


def test_long_clip_is_never_in_memory_as_a_whole(write: Write) -> None:
    clip = np.zeros((200, 256, 256), np.uint8)
    path = write(clip)
    tracemalloc.start()
    try:
        for picture in open_dicom(path):
            assert picture.pixels.shape == (256, 256)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < clip.nbytes / 4


# -- files of real scanners, where they are installed -------------------------------------------------------------------


def sample(name: str) -> Path:
    path = pydicom.data.get_testdata_file(name, download=False)
    if path is None:
        pytest.skip(f"{name} is not installed (pip install pydicom-data)")
    return Path(path)


def test_clip_that_was_scaled_after_scanning_is_shown_without_a_scale() -> None:
    """pydicom's example is half as large as its regions say: the spacing would be wrong by a factor of two."""
    found = pictures(sample("examples_ybr_color.dcm"))
    assert len(found) == 30 and found[0].pixels.shape == (240, 320, 3)
    assert found[0].region is None and found[0].spacing_mm is None
    assert found[-1].time_s == pytest.approx(29 * 0.033333)
    reference = pydicom.pixels.pixel_array(sample("examples_ybr_color.dcm"), index=7)[..., ::-1]
    assert np.abs(found[7].pixels.astype(int) - reference).max() <= 1


def test_clip_of_a_scanner_has_region_and_spacing() -> None:
    source = open_dicom(sample("color3d_jpeg_baseline.dcm"))
    picture = next(iter(source))
    source.close()
    assert picture.region == Box(31, 84, 384, 512)
    assert picture.spacing_mm == pytest.approx((0.5105, 0.5105), abs=1e-4)
    assert (picture.origin.frame, picture.origin.frames) == (1, 120)


@pytest.mark.parametrize("name", ["OBXXXX1A_2frame.dcm", "gdcm-US-ALOKA-16.dcm", "examples_palette.dcm"])
def test_palette_of_a_scanner_is_as_pydicom_shows_it(name: str) -> None:
    header = pydicom.dcmread(sample(name))
    colours = pydicom.pixels.apply_color_lut(pydicom.pixels.pixel_array(header, index=0), header)
    picture = next(iter(open_dicom(sample(name))))
    assert np.array_equal(picture.pixels, (colours >> 8 if colours.dtype == np.uint16 else colours)[..., ::-1])


@pytest.mark.parametrize("name", ["examples_jpeg2k.dcm", "examples_rgb_color.dcm", "ExplVR_BigEnd.dcm", "color-pl.dcm"])
def test_colour_still_of_a_scanner_is_as_pydicom_shows_it(name: str) -> None:
    (picture,) = pictures(sample(name))
    assert np.array_equal(picture.pixels, pydicom.pixels.pixel_array(sample(name))[..., ::-1])
