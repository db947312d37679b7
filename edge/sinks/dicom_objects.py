"""DICOM objects of a key frame: a Secondary Capture of the picture and a Segmentation of the lesion (PS3.3, A.8 and A.51)."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.analysis import Analysis
from edge.errors import SinkError, require
from edge.findings import Lesion
from edge.overlay import DISCLAIMER
from edge.preprocess import Box
from edge.sinks.drawing import draw_finding, finding_text
from edge.sinks.identity import Identity
from edge.sinks.version import edgekit_version

MANUFACTURER: Final = "edgekit"
SERIES: Final = "edgekit - research use only"
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_EXPECTED: Final = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
_COPIED: Final = (
    "IssuerOfPatientID", "PatientAge", "StudyDescription", "PixelSpacing", "LossyImageCompression",
    "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class KeyFrame:
    """The frame that shows a lesion best so far. seen: when it came, local time."""

    found: Analysis
    lesion: Lesion
    seen: datetime


@runtime_checkable
class DicomOrigin(Protocol):
    """A picture's origin that a Segmentation can refer to. frame: its number in the file, from 1 to `frames`."""

    @property
    def path(self) -> Path: ...
    @property
    def sop_instance_uid(self) -> str: ...
    @property
    def frame(self) -> int: ...
    @property
    def frames(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Instance:
    """What tells one object of a run from the others."""

    series_uid: str
    series_number: int
    uid: str
    number: int


def secondary_capture(key: KeyFrame, identity: Identity, instance: Instance, *, outlines: bool) -> Any:
    """The key frame as an 8-bit picture, RGB, or MONOCHROME2 where it is grey and nothing is drawn in.

    Burned In Annotation is NO where edgekit blackened everything outside the scan, else YES: nobody looked at the letters there.
    """
    from pydicom.dataset import Dataset

    found = key.found
    pixels = _drawn(key) if outlines else found.pixels
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = SECONDARY_CAPTURE, instance.uid
    data.InstanceCreationDate, data.InstanceCreationTime = _moment(key.seen)
    _identify(data, identity)
    data.Modality, data.Laterality, data.PatientOrientation = "US", "", ""
    data.SeriesInstanceUID, data.SeriesNumber = instance.series_uid, instance.series_number
    data.SeriesDescription = SERIES
    data.InstanceNumber = instance.number
    data.Manufacturer, data.ManufacturerModelName = MANUFACTURER, MANUFACTURER
    data.SoftwareVersions = edgekit_version()
    data.ContributingEquipmentSequence = [_contribution()]
    data.ConversionType = "WSD"
    data.DateOfSecondaryCapture, data.TimeOfSecondaryCapture = _moment(key.seen)
    data.ContentDate, data.ContentTime = _moment(key.seen)
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.DerivationDescription = "Black outside the scan" + ("; outline and caption drawn in" if outlines else "")
    data.ImageComments = f"{DISCLAIMER}. Frame {found.number}, lesion {key.lesion.track}"
    data.BurnedInAnnotation = "YES" if found.region == Box(0, 0, *found.pixels.shape[:2]) else "NO"
    if found.spacing_mm is not None:
        data.PixelSpacing = [_decimal(spacing) for spacing in found.spacing_mm]
        data.PixelSpacingCalibrationType = "GEOMETRY"
        data.PixelSpacingCalibrationDescription = "As the source of the frames or its operator gave it"
    _put_pixels(data, pixels)
    return data


def source_header(origin: DicomOrigin, shape: tuple[int, ...]) -> Any:
    """Of the DICOM file that a frame came from, what a Segmentation needs to refer to that one frame, without its pixels.

    shape: (height, width) of the frame. Raises SinkError.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    path = Path(origin.path)
    try:
        header = _header(dcmread(path, stop_before_pixels=True))
    except OSError as error:
        raise SinkError(f"{path}: cannot be read again ({error.strerror}); a segmentation needs its header") from error
    except (InvalidDicomError, ValueError, TypeError, NotImplementedError) as error:
        raise SinkError(f"{path}: its header cannot be read again ({type(error).__name__})") from error
    if missing := [name for name in _NEEDED if not header.get(name)]:
        raise SinkError(f"{path}: has no {', '.join(missing)}; a segmentation cannot refer to it")
    if header.SOPInstanceUID != origin.sop_instance_uid:
        raise SinkError(f"{path}: is another image now than the one that was read; keep the files until the run ends")
    if (header.Rows, header.Columns) != tuple(shape[:2]):
        raise SinkError(
            f"{path}: has {header.Columns}×{header.Rows} pixels, its frame {shape[1]}×{shape[0]}; "
            "a segmentation covers whole frames"
        )
    return header


def segmentation(
    key: KeyFrame,
    header: Any,
    instance: Instance,
    *,
    tracking_uid: str,
    bundle: Mapping[str, Any],
    frame: int | None = None,
) -> Any:
    """The lesion as a binary Segmentation that refers to one picture.

    header: that picture, from `source_header` or `secondary_capture`. frame: which one of a multi-frame object, from 1.
    bundle: what drew the outline, told as parameters of the algorithm.
    """
    import highdicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    finding = key.found.finding
    description = SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MANUFACTURER,
            family=codes.DCM.ArtificialIntelligence,
            version=edgekit_version(),
            source=MANUFACTURER,
            parameters={name: str(value) for name, value in bundle.items()} or None,
        ),
        tracking_uid=tracking_uid,
        tracking_id=f"lesion {key.lesion.track}",
    )
    if finding is not None:
        description.SegmentDescription = f"{finding_text(replace(finding, lesions=(key.lesion,)))}. {DISCLAIMER}"
    source = _header(header)
    source.SOPClassUID = SECONDARY_CAPTURE  # highdicom takes no multi-frame object without a frame of reference
    source.PatientName = source.ReferringPhysicianName = "^"  # highdicom prints a name it takes for a wrong one
    result = Segmentation(
        source_images=[source],
        pixel_array=lesion_mask(key.lesion, key.found.pixels.shape),
        segmentation_type="BINARY",
        segment_descriptions=[description],
        series_instance_uid=instance.series_uid,
        series_number=instance.series_number,
        sop_instance_uid=instance.uid,
        instance_number=instance.number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        software_versions=edgekit_version(),
        device_serial_number="unknown",
        content_label="LESION",
        content_description=DISCLAIMER,
        series_description=SERIES,
    )
    result.PatientName, result.ReferringPhysicianName = header.PatientName, header.ReferringPhysicianName
    result.PatientOrientation = ""
    result.ContributingEquipmentSequence = [_contribution()]
    _refer(result, str(header.SOPClassUID), frame)
    return result


def encoded(data: Any) -> bytes:
    """A data set as a DICOM file, Explicit VR Little Endian."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    if not hasattr(data, "file_meta"):
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def lesion_mask(lesion: Lesion, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The pixels inside a lesion's outline and on it, (H, W) of 0 and 1."""
    mask = np.zeros(shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.array(lesion.contour, np.int32)], (1,))
    return mask


def require_dicom() -> None:
    """Import what the objects need, which takes a while. Raises MissingDependencyError."""
    for module in ("pydicom", "highdicom", "pydicom.sr.codedict", "highdicom.seg"):
        require(module, extra="dicom")


def _drawn(key: KeyFrame) -> NDArray[np.uint8]:
    """All outlines of the frame, the caliper and the words for the lesion that it is the key frame of."""
    finding = key.found.finding
    if finding is not None:
        others = (lesion for lesion in finding.lesions if lesion is not key.lesion)
        finding = replace(finding, lesions=(key.lesion, *others))
    return draw_finding(key.found.pixels, finding)


def _identify(data: Any, identity: Identity) -> None:
    data.PatientID, data.PatientName = identity.patient_id, identity.patient_name
    data.PatientBirthDate, data.PatientSex = identity.birth_date, identity.sex
    data.StudyInstanceUID, data.StudyID = identity.study_instance_uid, identity.study_id
    data.StudyDate, data.StudyTime = identity.study_date, identity.study_time
    data.AccessionNumber = identity.accession_number
    data.ReferringPhysicianName = identity.referring_physician
    if identity.study_description:
        data.StudyDescription = identity.study_description


def _contribution() -> Any:
    """Edgekit as processing equipment (PS3.16, CID 7005), with what it is not."""
    from pydicom.dataset import Dataset

    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109102", "DCM", "Processing Equipment"
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [purpose]
    item.Manufacturer, item.ManufacturerModelName = MANUFACTURER, MANUFACTURER
    item.SoftwareVersions = edgekit_version()
    item.ContributionDescription = DISCLAIMER
    return item


def _header(data: Any) -> Any:
    """A data set of its own with what a Segmentation takes from its source."""
    from pydicom.dataset import Dataset

    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    for name in _EXPECTED:  # highdicom asks for them; an anonymised file lacks some
        value = str(data.get(name) or "")
        setattr(header, name, value if _allowed(name, value) else "")
    for name in _NEEDED:
        if (value := data.get(name)) is not None:
            setattr(header, name, value)
    for name in _COPIED:
        if (value := data.get(name)) is not None and _allowed(name, value):
            setattr(header, name, value)
    header.Modality = data.get("Modality") or "US"
    return header


def _allowed(name: str, value: Any) -> bool:
    """Whether DICOM allows a value, or several; scanners' are not always as it writes them. Words are taken however long.

    Asked first: pydicom and highdicom repeat a patient's date of birth in what they say of a wrong one.
    """
    from pydicom.config import RAISE
    from pydicom.datadict import dictionary_VR
    from pydicom.multival import MultiValue
    from pydicom.valuerep import DA, TM, validate_value

    vr = dictionary_VR(name)
    if vr in ("LO", "PN", "SH"):
        return True
    try:
        for part in map(str, value if isinstance(value, MultiValue) else [value]):
            validate_value(vr, part, RAISE)
            {"DA": DA, "TM": TM}.get(vr, str)(part)  # no 31st of February
    except ValueError:
        return False
    return name != "PatientSex" or value in ("", "M", "F", "O")


def _refer(data: Any, sop_class_uid: str, frame: int | None) -> None:
    """Say in every place where a Segmentation names its one picture what that is, and which frame of it."""
    for series in data.ReferencedSeriesSequence:
        for item in series.ReferencedInstanceSequence:
            item.ReferencedSOPClassUID = sop_class_uid
    data.SourceImageSequence = deepcopy(data.SourceImageSequence)  # its items are those above, which name no frame
    derivations = [item for groups in data.PerFrameFunctionalGroupsSequence for item in groups.DerivationImageSequence]
    for derivation in (data, *derivations):
        for item in derivation.SourceImageSequence:
            item.ReferencedSOPClassUID = sop_class_uid
            if frame is not None:
                item.ReferencedFrameNumber = frame


def _put_pixels(data: Any, pixels: NDArray[np.uint8]) -> None:
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    if pixels.ndim == 3:
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)
    else:
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    content = pixels.tobytes()
    data.PixelData = content + b"\0" * (len(content) % 2)
    data["PixelData"].VR = "OB"


def _moment(moment: datetime) -> tuple[str, str]:
    return moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")


def _decimal(value: float) -> str:
    """A number of at most 16 characters, as a Decimal String has."""
    return f"{value:.10g}"
