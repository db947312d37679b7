"""Key frames as DICOM: the right frame, the right patient, pixels that match, and objects that a validator takes."""

import json
import re
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sink_results import CHILD_ENV, failed, finding, lesion, mounted, picture, result

from edge.errors import DataError, MissingDependencyError, SinkError
from edge.overlay import DISCLAIMER
from edge.preprocess import Box
from edge.sinks import dicom
from edge.sinks.dicom import DicomSink
from edge.sinks.dicom_objects import lesion_mask
from edge.sinks.identity import ANONYMOUS_NAME, Identity, new_uid, read_worklist

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed (the extra dicom)")
pytest.importorskip("highdicom", reason="highdicom is not installed (the extra dicom)")

SCAN = Box(10, 10, 100, 140)
PATIENT = Identity(
    "0815", "Müller^Änne", "19700131", "F", "A7", "1.2.3.4", "S1", "20260102", "101500", "Breast", "Doe^J"
)
WORKLIST = {
    "00080050": {"vr": "SH", "Value": ["A7"]},
    "00080090": {"vr": "PN", "Value": [{"Alphabetic": "Doe^J"}]},
    "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller^Änne", "Ideographic": "x"}]},
    "00100020": {"vr": "LO", "Value": ["0815"]},
    "00100030": {"vr": "DA", "Value": ["19700131"]},
    "00100040": {"vr": "CS", "Value": ["F"]},
    "0020000D": {"vr": "UI", "Value": ["1.2.3.4"]},
    "00321060": {"vr": "LO", "Value": ["Breast"]},
    "00400100": {"vr": "SQ", "Value": [{"00400002": {"vr": "DA", "Value": ["20260102"]}}]},
    "00401001": {"vr": "SH", "Value": ["S1"]},
}
CHILD = """
import sys
from sink_results import finding, lesion, result
from edge.sinks.dicom import DicomSink
sink = DicomSink(sys.argv[1], every_s=0.4)
for number in range(10**9):
    sink.write(result(number, found=finding(lesion(1 + number % 3, radii=(20 + number % 40, 20)))))
    print(number, flush=True)
"""


@dataclass(frozen=True)
class Origin:
    path: Path
    sop_instance_uid: str
    frame: int = 1
    frames: int = 1


def read(folder: Path) -> dict[str, list[Any]]:
    """The objects in a folder by modality, in the order they were made."""
    found: dict[str, list[Any]] = {"US": [], "SEG": []}
    for path in folder.glob("*.dcm"):
        data = pydicom.dcmread(path)
        found[data.Modality].append(data)
    return {name: sorted(some, key=lambda data: data.InstanceNumber) for name, some in found.items()}


def write(folder: Path, *results: Any, identity: Identity = PATIENT, **options: Any) -> dict[str, list[Any]]:
    sink = DicomSink(folder, identity, **options)
    for made in results:
        sink.write(made)
    sink.close()
    return read(folder)


def source_file(path: Path, *, frames: int = 1, missing: tuple[str, ...] = ()) -> Origin:
    """An ultrasound image of 120×160 pixels as a scanner writes it, or a clip."""
    data = pydicom.Dataset()
    data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.3.1" if frames > 1 else "1.2.840.10008.5.1.4.1.1.6.1"
    data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID = new_uid(), "1.2.3.9", "1.2.3.9.1"
    data.SpecificCharacterSet = "ISO_IR 100"
    data.PatientName, data.PatientID, data.StudyDate, data.Modality = "Müller^Änne", "0815", "20260102", "US"
    data.IssuerOfPatientID, data.FrameOfReferenceUID = "clinic", "1.2.3.9.2"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 120, 160, 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.PixelData = bytes(120 * 160 * frames)
    data["PixelData"].VR = "OB"
    uid = str(data.SOPInstanceUID)
    for name in missing:
        del data[name]
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = data.get("SOPClassUID"), uid
    data.save_as(path, enforce_file_format=True)
    return Origin(path, uid, min(3, frames), frames)


def complaints(path: Path) -> list[str]:
    """What the validator calls an error."""
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def image_bgr(data: Any) -> Any:
    return data.pixel_array[:, :, ::-1] if data.SamplesPerPixel == 3 else data.pixel_array


# Which frame


def test_the_largest_outline_of_each_lesion_is_kept(tmp_path: Path) -> None:
    sizes = {1: (20, 35, 28), 2: (12, 10, 11)}
    made = [
        result(number, found=finding(*(lesion(track, radii=(sizes[track][number], 20)) for track in sizes)))
        for number in range(3)
    ]
    objects = write(tmp_path, *made, outlines=False)
    assert len(objects["US"]) == len(objects["SEG"]) == 2
    assert np.array_equal(objects["US"][0].pixel_array, picture(seed=1))
    assert np.array_equal(objects["US"][1].pixel_array, picture(seed=0))
    assert [data.pixel_array.sum() for data in objects["SEG"]] == [
        lesion(radii=(35, 20)).area_px,
        lesion(radii=(12, 20)).area_px,
    ]


def test_kept_findings_rejected_and_failed_frames_are_no_key_frames(tmp_path: Path) -> None:
    large = finding(lesion(radii=(50, 40)))
    made = (
        result(0, found=finding(lesion())),
        result(1, found=large, reason="the picture does not change", age_s=1.0),
        result(2, found=large, age_s=1.0),
        result(3, reason="too dark"),
        failed(4),
    )
    (segmentation,) = write(tmp_path, *made)["SEG"]
    assert segmentation.pixel_array.sum() == lesion().area_px


def test_frames_without_a_lesion_leave_nothing(tmp_path: Path) -> None:
    assert write(tmp_path, result(found=finding(decision="no lesion")), failed(1)) == {"US": [], "SEG": []}


def test_a_better_frame_takes_the_place_of_a_written_one_under_new_uids(tmp_path: Path) -> None:
    sink = DicomSink(tmp_path, PATIENT, every_s=1.0)
    sink.write(result(0, found=finding(lesion(radii=(20, 20)))))
    assert not list(tmp_path.glob("*.dcm"))
    sink.write(result(30, found=finding(lesion(radii=(10, 10)))))
    first = read(tmp_path)
    assert len(first["US"]) == len(first["SEG"]) == 1
    sink.write(result(60, found=finding(lesion(radii=(15, 15)))))  # not better
    assert [data.SOPInstanceUID for data in read(tmp_path)["US"]] == [first["US"][0].SOPInstanceUID]
    sink.write(result(61, found=finding(lesion(radii=(30, 30)))))
    sink.close()
    second = read(tmp_path)
    assert len(second["US"]) == len(second["SEG"]) == 1
    assert second["SEG"][0].pixel_array.sum() == lesion(radii=(30, 30)).area_px
    assert second["US"][0].SOPInstanceUID != first["US"][0].SOPInstanceUID
    assert second["US"][0].SeriesInstanceUID == first["US"][0].SeriesInstanceUID
    assert second["SEG"][0].SegmentSequence[0].TrackingUID == first["SEG"][0].SegmentSequence[0].TrackingUID


def test_few_key_frames_wait_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "WAITING", 2)
    monkeypatch.setattr(dicom, "TRACKS", 3)
    sink = DicomSink(tmp_path, PATIENT, every_s=1e6)
    for track in range(1, 7):
        sink.write(result(track, found=finding(lesion(track))))
        assert len(sink._waiting) <= 2
        assert len(sink._written) <= 3
    assert len(read(tmp_path)["SEG"]) == 4
    sink.close()
    assert len(read(tmp_path)["SEG"]) == 6


# What a key frame says


def test_a_secondary_capture_holds_patient_study_and_the_frame(tmp_path: Path) -> None:
    made = result(5, found=finding(lesion()), region=SCAN, spacing_mm=(0.1, 0.12))
    image = write(tmp_path, made, outlines=False)["US"][0]
    assert image.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
    assert (image.PatientID, str(image.PatientName), image.PatientSex) == ("0815", "Müller^Änne", "F")
    assert (image.PatientBirthDate, image.AccessionNumber, image.StudyID) == ("19700131", "A7", "S1")
    assert (image.StudyInstanceUID, image.StudyDate, image.StudyTime) == ("1.2.3.4", "20260102", "101500")
    assert (image.StudyDescription, str(image.ReferringPhysicianName)) == ("Breast", "Doe^J")
    assert image.PhotometricInterpretation == "MONOCHROME2"
    assert np.array_equal(image.pixel_array, picture(seed=5))
    assert list(image.PixelSpacing) == [0.1, 0.12]
    assert image.PixelSpacingCalibrationType == "GEOMETRY"
    assert DISCLAIMER in image.ImageComments
    assert "research use only" in image.SeriesDescription
    assert image.ContributingEquipmentSequence[0].ContributionDescription == DISCLAIMER


def test_outlines_are_drawn_in_unless_told_otherwise(tmp_path: Path) -> None:
    made = result(5, found=finding(lesion()))
    image = write(tmp_path, made)["US"][0]
    assert (image.PhotometricInterpretation, image.SamplesPerPixel) == ("RGB", 3)
    red, green, blue = (int(value) for value in image.pixel_array[40, 80])
    assert red > green > blue  # orange, in this order of channels
    assert "drawn in" in image.DerivationDescription


@pytest.mark.parametrize(("region", "flag"), [(SCAN, "NO"), (Box(0, 0, 120, 160), "YES")])
def test_letters_may_be_burned_in_where_nothing_was_blackened(tmp_path: Path, region: Box, flag: str) -> None:
    assert write(tmp_path, result(found=finding(lesion()), region=region))["US"][0].BurnedInAnnotation == flag


def test_without_a_spacing_there_is_none(tmp_path: Path) -> None:
    objects = write(tmp_path, result(found=finding(lesion(spacing_mm=None))))
    assert "PixelSpacing" not in objects["US"][0]
    assert "PixelMeasuresSequence" not in objects["SEG"][0].SharedFunctionalGroupsSequence[0]


def test_without_an_identity_the_patient_is_anonymous_and_the_study_new(tmp_path: Path) -> None:
    made = result(found=finding(lesion()))
    one, two = (write(tmp_path / name, made, identity=Identity())["US"][0] for name in ("one", "two"))
    assert str(one.PatientName) == ANONYMOUS_NAME
    assert one.PatientID == "ANONYMOUS"
    assert one.StudyInstanceUID != two.StudyInstanceUID
    assert re.fullmatch(r"\d{8}", one.StudyDate)


def test_the_segmentation_is_the_outline_and_refers_to_the_picture(tmp_path: Path) -> None:
    drawn = lesion(3)
    made = result(5, found=finding(drawn), spacing_mm=(0.1, 0.1))
    objects = write(tmp_path, made, bundle={"network": "emtnet", "precision": "int8"})
    image, seg = objects["US"][0], objects["SEG"][0]
    assert seg.SegmentationType == "BINARY"
    assert np.array_equal(seg.pixel_array, lesion_mask(drawn, (120, 160)))
    assert seg.pixel_array.sum() == drawn.area_px
    (reference,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == image.SeriesInstanceUID
    assert seg.StudyInstanceUID == image.StudyInstanceUID
    assert (str(seg.PatientName), str(seg.ReferringPhysicianName)) == ("Müller^Änne", "Doe^J")
    segment = seg.SegmentSequence[0]
    assert (segment.SegmentLabel, segment.TrackingID) == ("lesion", "lesion 3")
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "edgekit"
    assert "network=emtnet" in str(algorithm.AlgorithmParameters)
    assert "malignant" in segment.SegmentDescription
    assert DISCLAIMER in segment.SegmentDescription
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == [0.1, 0.1]


# Where the frames come from DICOM files


@pytest.mark.parametrize("frames", [1, 5])
def test_a_dicom_source_gets_a_segmentation_of_its_own_image_and_nothing_else(tmp_path: Path, frames: int) -> None:
    origin = source_file(tmp_path / "source", frames=frames)
    objects = write(tmp_path / "out", result(found=finding(lesion()), origin=origin))
    assert objects["US"] == []
    (seg,) = objects["SEG"]
    source = pydicom.dcmread(origin.path)
    assert seg.StudyInstanceUID == source.StudyInstanceUID
    assert (str(seg.PatientName), seg.PatientID, seg.IssuerOfPatientID) == ("Müller^Änne", "0815", "clinic")
    (groups,) = seg.PerFrameFunctionalGroupsSequence
    (image,) = groups.DerivationImageSequence[0].SourceImageSequence
    assert image.ReferencedSOPClassUID == source.SOPClassUID
    assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert image.get("ReferencedFrameNumber") == (3 if frames > 1 else None)
    (reference,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert "ReferencedFrameNumber" not in reference
    assert complaints(next((tmp_path / "out").glob("*.dcm"))) == []


def test_a_real_clip_gets_a_segmentation_of_its_frame(tmp_path: Path) -> None:
    path = Path(pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False))
    source = pydicom.dcmread(path, stop_before_pixels=True)
    pixels = np.zeros((source.Rows, source.Columns, 3), np.uint8)
    origin = Origin(path, source.SOPInstanceUID, 7, 30)
    (seg,) = write(tmp_path, result(pixels=pixels, found=finding(lesion()), origin=origin))["SEG"]
    assert (
        seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        == 7
    )
    assert complaints(next(tmp_path.glob("*.dcm"))) == []


def test_a_source_that_cannot_be_referred_to_is_one_clear_error(tmp_path: Path) -> None:
    nameless = source_file(tmp_path / "source", missing=("StudyInstanceUID",))
    small = np.zeros((60, 160), np.uint8)
    (tmp_path / "text").write_text("no DICOM")
    whole = source_file(tmp_path / "whole")
    for origin, pixels, said in (
        (nameless, None, "source: has no StudyInstanceUID; a segmentation cannot refer to it"),
        (replace(whole, path=tmp_path / "gone"), None, "gone: cannot be read again"),
        (replace(whole, path=tmp_path / "text"), None, "text: its header cannot be read again"),
        (replace(whole, sop_instance_uid="1.2.5"), None, "whole: is another image now"),
        (whole, small, r"whole: has 160×120 pixels, its frame 160×60"),
    ):
        sink = DicomSink(tmp_path / "out")
        sink.write(result(pixels=pixels, found=finding(lesion()), origin=origin))
        with pytest.raises(SinkError, match=said):
            sink.close()
    assert not list((tmp_path / "out").iterdir())


def test_one_that_cannot_be_written_takes_no_other_along(tmp_path: Path) -> None:
    nameless, whole = source_file(tmp_path / "a", missing=("StudyInstanceUID",)), source_file(tmp_path / "b")
    sink = DicomSink(tmp_path / "out")
    for track, origin in ((1, nameless), (2, whole), (3, whole)):
        sink.write(result(track, found=finding(lesion(track)), origin=origin))
    with pytest.raises(SinkError, match="a: has no StudyInstanceUID"):
        sink.close()
    segments = [data.SegmentSequence[0].TrackingID for data in read(tmp_path / "out")["SEG"]]
    assert segments == ["lesion 2", "lesion 3"]


@pytest.mark.filterwarnings("ignore:Invalid value:UserWarning")  # as the file is made
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PatientBirthDate", "31.01.1970"),
        ("PatientBirthDate", "19700231"),
        ("PatientSex", "female"),
        ("PatientAge", "56 Jahre"),
        ("StudyTime", "10:15"),
    ],
)
def test_a_value_of_the_source_that_dicom_does_not_allow_is_left_out_and_not_told(
    tmp_path: Path, name: str, value: str, recwarn: pytest.WarningsRecorder
) -> None:
    origin = source_file(tmp_path / "source")
    source = pydicom.dcmread(origin.path)
    setattr(source, name, value)
    source.save_as(origin.path)
    recwarn.clear()
    (seg,) = write(tmp_path, result(found=finding(lesion()), origin=origin))["SEG"]
    assert not seg.get(name)
    assert (str(seg.PatientName), seg.PatientID) == ("Müller^Änne", "0815")
    assert [str(warning.message) for warning in recwarn] == []


# Validity and robustness


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("outlines", [False, True])
@pytest.mark.parametrize("identity", [PATIENT, Identity()])
def test_the_validator_finds_no_error(tmp_path: Path, colour: bool, outlines: bool, identity: Identity) -> None:
    pixels = picture(121, 161, colour=colour)
    made = result(pixels=pixels, found=finding(lesion()), spacing_mm=(0.0712345678901, 0.07))
    write(tmp_path, made, identity=identity, outlines=outlines)
    files = list(tmp_path.glob("*.dcm"))
    assert len(files) == 2
    assert [complaints(file) for file in files] == [[], []]


def test_the_validator_would_notice(tmp_path: Path) -> None:
    write(tmp_path, result(found=finding(lesion())))
    file = next(tmp_path.glob("*image*.dcm"))
    data = pydicom.dcmread(file)
    del data.ConversionType
    data.save_as(file)
    assert complaints(file)


def test_a_killed_run_leaves_whole_objects(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, tmp_path], env=CHILD_ENV, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(60):
            assert child.stdout.readline()
        child.kill()
    assert child.returncode == -signal.SIGKILL
    objects = read(tmp_path)
    assert len(objects["SEG"]) >= 3
    uids = {data.SOPInstanceUID for data in objects["US"]}
    for data in objects["SEG"]:
        assert data.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID in uids
        assert data.pixel_array.any()


def test_a_full_disk_is_an_error_and_leaves_no_half_file(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=100k") as folder:
        sink = DicomSink(folder, PATIENT)
        for track in (1, 2):
            sink.write(result(track, found=finding(lesion(track))))
        with pytest.raises(SinkError, match="No space left on device"):
            sink.close()
        assert len(read(folder)["US"]) == 1
        assert {item.suffix for item in folder.iterdir()} == {".dcm"}


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="file: is a file; name a folder"):
        DicomSink(tmp_path / "file")
    with mounted(tmp_path / "ro", "ro,size=64k") as folder, pytest.raises(SinkError, match="Read-only file system"):
        DicomSink(folder)


def test_files_of_an_earlier_run_stay(tmp_path: Path) -> None:
    made = result(found=finding(lesion()))
    write(tmp_path, made)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    write(tmp_path, made)
    assert len(list(tmp_path.iterdir())) == 4
    assert all(path.read_bytes() == content for path, content in before.items())


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingDependencyError, match=r"edgekit-ultrasound\[dicom\]"):
        DicomSink(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Identity and worklist


def worklist(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps(entries[0] if len(entries) == 1 else entries), encoding="utf-8")
    return path


def entry(**changes: Any) -> dict[str, Any]:
    """The worklist's entry with values changed, by tag as "t00100020"."""
    return {**WORKLIST, **{tag[1:]: value for tag, value in changes.items()}}


def test_a_worklist_says_who_is_examined(tmp_path: Path) -> None:
    found = read_worklist(worklist(tmp_path / "list.json", WORKLIST))
    wanted = replace(PATIENT, patient_name="Müller^Änne=x", study_date=found.study_date, study_time=found.study_time)
    assert found == wanted
    assert read_worklist(worklist(tmp_path / "list.json", [WORKLIST])) == replace(
        found, study_time=read_worklist(tmp_path / "list.json").study_time
    )


def test_the_accession_number_chooses_the_entry(tmp_path: Path) -> None:
    other = entry(t00080050={"vr": "SH", "Value": ["B8"]}, t00100020={"vr": "LO", "Value": ["4711"]})
    path = worklist(tmp_path / "list.json", WORKLIST, other)
    assert read_worklist(path, accession="B8").patient_id == "4711"
    assert read_worklist(path, accession="A7").patient_id == "0815"
    with pytest.raises(DataError, match="holds 2 entries; choose one by its accession number"):
        read_worklist(path)
    with pytest.raises(DataError, match="no entry has the accession number C9"):
        read_worklist(path, accession="C9")
    with pytest.raises(DataError, match="each needs an accession number of its own"):
        read_worklist(worklist(path, WORKLIST, WORKLIST), accession="A7")


def test_an_absent_study_is_a_new_one(tmp_path: Path) -> None:
    path = worklist(tmp_path / "list.json", {tag: WORKLIST[tag] for tag in ("00100010", "00100020")})
    assert read_worklist(path).study_instance_uid.startswith("2.25.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no worklist entry"),
        ("[1]", "holds no worklist entry"),
        ("3", "holds no worklist entry"),
        (entry(t00100020={"vr": "LO"}), "has no patient id"),
        (entry(t00100010={"vr": "PN", "Value": []}), "has no patient name"),
        (entry(t00100020="0815"), r"patient id \(00100020\) is not as the DICOM JSON model"),
        (entry(t00100020={"vr": "LO", "Value": "0815"}), "is not as the DICOM JSON model"),
        (entry(t00100020={"vr": "LO", "Value": [["0815"]]}), "is not as the DICOM JSON model"),
        (entry(t00100030={"vr": "DA", "Value": ["1970-01-31"]}), "birth date: is no date"),
        (entry(t00100040={"vr": "CS", "Value": ["W"]}), "sex is none of M, F and O"),
        (entry(t0020000D={"vr": "UI", "Value": ["1.02"]}), "study instance uid: is no UID"),
        (entry(t00100010={"vr": "PN", "Value": [{"Alphabetic": "Secret^" + "n" * 400}]}), "patient name: at most 324"),
    ],
)
def test_a_worklist_that_is_not_understood_is_one_clear_error(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=said) as caught:
        read_worklist(path)
    assert str(path) in str(caught.value)
    assert "Müller" not in str(caught.value)
    assert "Secret" not in str(caught.value)


def test_a_worklist_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"list\.json: cannot be read \(No such file"):
        read_worklist(tmp_path / "list.json")


@pytest.mark.parametrize(
    "wrong",
    [
        {"patient_id": ""},
        {"patient_id": "x" * 65},
        {"patient_id": "a\\b"},
        {"patient_name": "a\nb"},
        {"accession_number": "1" * 17},
        {"birth_date": "20260230"},
        {"birth_date": "2026131"},
        {"study_date": "today"},
        {"study_time": "2500"},
        {"sex": "w"},
        {"study_instance_uid": ""},
        {"study_instance_uid": "1." + "2" * 64},
    ],
)
def test_an_identity_that_dicom_does_not_allow_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(DataError, match=next(iter(wrong)).replace("_", " ")):
        Identity(**wrong)


@given(value=st.text(max_size=80))
def test_a_patient_id_is_taken_whole_or_refused(value: str) -> None:
    try:
        assert Identity(patient_id=value).patient_id == value
    except DataError:
        assert not 0 < len(value) <= 64 or "\\" in value or not value.isprintable()


def test_uids_are_valid_and_new() -> None:
    uids = {new_uid() for _ in range(100)}
    assert len(uids) == 100
    assert all(pydicom.uid.UID(uid).is_valid for uid in uids)


def test_objects_can_be_read_by_others(tmp_path: Path) -> None:
    write(tmp_path, result(found=finding(lesion())))
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}
