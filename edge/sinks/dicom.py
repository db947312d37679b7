"""Key frames as DICOM: of each lesion the frame that shows it largest, for a picture archive."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from edge.analysis import Analysis
from edge.atomic import make_folder, write_bytes
from edge.findings import Lesion
from edge.sinks.dicom_objects import (
    DicomOrigin,
    Instance,
    KeyFrame,
    encoded,
    require_dicom,
    secondary_capture,
    segmentation,
    source_header,
)
from edge.sinks.identity import Identity, new_uid
from edge.stream import Result

WAITING: Final = 8
"""Key frames held in memory; when one more would wait, the oldest is written."""
TRACKS: Final = 4096
"""Lesions that are remembered; one seen again after that many others begins anew."""
IMAGES: Final = 9001
SEGMENTATIONS: Final = 9002
"""Series numbers, apart from a scanner's own."""


@dataclass(frozen=True, slots=True)
class _Written:
    """What lies on the disk of a lesion."""

    area_px: int
    files: tuple[Path, ...]


class DicomSink:
    """Writes each lesion's key frame: the one with its largest outline, of frames that were analysed anew and not rejected.

    A frame of a DICOM file (its `origin` is a `DicomOrigin`) becomes a Segmentation that refers to that file. Any other
    becomes a Secondary Capture under `identity` and a Segmentation that refers to it. Key frames are written at `close`, and
    every `every_s` seconds of the run where there is a better one, which takes the place of the one before, under new UIDs.

    folder: made where it does not exist; nothing in it is written over. outlines: draw the findings into the Secondary Capture.
    bundle: what ran, as the caller knows it. Raises SinkError, MissingDependencyError (the extra "dicom").
    """

    def __init__(
        self,
        folder: Path | str,
        identity: Identity | None = None,
        *,
        bundle: Mapping[str, Any] | None = None,
        outlines: bool = True,
        every_s: float = 10.0,
    ) -> None:
        require_dicom()
        self._folder = Path(folder)
        self._identity = identity or Identity()
        self._bundle = dict(bundle or {})
        self._outlines, self._every_ns = outlines, round(every_s * 1e9)
        self._waiting: dict[int, KeyFrame] = {}
        self._written: dict[int, _Written] = {}
        self._tracking: dict[int, str] = {}
        self._series: dict[tuple[str, int], str] = {}
        self._count = 0
        self._due_ns: int | None = None
        self._owed = 0
        make_folder(self._folder)  # what cannot work is said before the run

    def write(self, result: Result[Analysis]) -> None:
        found, now_ns = result.found, result.record.captured_ns
        if found is not None and found.finding is not None and not found.reason and found.finding_age_s == 0:
            for lesion in found.finding.lesions:
                if lesion.area_px > self._best(lesion.track):
                    self._keep(found, lesion)
        if self._due_ns is None:
            self._due_ns = now_ns + self._every_ns
        elif now_ns >= self._due_ns:
            self._due_ns = now_ns + self._every_ns
            self._owed = len(self._waiting)
        if self._owed:  # one a frame: a slow disk must not hold up the frames that come
            self._owed -= 1
            self._store()

    def close(self) -> None:
        """Write what waits; one that cannot be written takes no other along. Raises the first fault."""
        fault: Exception | None = None
        while self._waiting:
            try:
                self._store()
            except Exception as error:
                fault = fault or error
        if fault is not None:
            raise fault

    def _best(self, track: int) -> int:
        if track in self._waiting:
            return self._waiting[track].lesion.area_px
        return self._written[track].area_px if track in self._written else 0

    def _keep(self, found: Analysis, lesion: Lesion) -> None:
        if len(self._waiting) >= WAITING and lesion.track not in self._waiting:
            self._store()
        self._waiting[lesion.track] = KeyFrame(found, lesion, datetime.now().astimezone())

    def _store(self) -> None:
        """Write the key frame that waits longest, first the picture, then what refers to it; then remove the one before."""
        track = next(iter(self._waiting))
        key = self._waiting.pop(track)  # also where it cannot be written: it would not be the next time either
        self._count += 1
        origin = key.found.origin
        files: list[Path] = []
        frame = None
        if isinstance(origin, DicomOrigin):
            header = source_header(origin, key.found.pixels.shape)
            frame = origin.frame if origin.frames > 1 else None
        else:
            image = self._instance(self._identity.study_instance_uid, IMAGES)
            header = secondary_capture(key, self._identity, image, outlines=self._outlines)
            files.append(self._folder / f"lesion{track}-image-{image.uid}.dcm")
            write_bytes(files[-1], encoded(header))
        instance = self._instance(str(header.StudyInstanceUID), SEGMENTATIONS)
        tracking_uid = self._tracking.setdefault(track, new_uid())
        drawn = segmentation(key, header, instance, tracking_uid=tracking_uid, bundle=self._bundle, frame=frame)
        files.append(self._folder / f"lesion{track}-segmentation-{instance.uid}.dcm")
        write_bytes(files[-1], encoded(drawn))
        before = self._written.pop(track, None)
        self._written[track] = _Written(key.lesion.area_px, tuple(files))
        for file in () if before is None else before.files:
            file.unlink(missing_ok=True)
        if len(self._written) > TRACKS:
            oldest = next(iter(self._written))
            del self._written[oldest], self._tracking[oldest]

    def _instance(self, study_uid: str, number: int) -> Instance:
        series_uid = self._series.setdefault((study_uid, number), new_uid())
        return Instance(series_uid, number, new_uid(), self._count)
