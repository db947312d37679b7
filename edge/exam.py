"""The exam: what a run has seen, lesion by lesion, in memory that does not grow with its length.

Of each lesion are kept how it looked over time, thinned to at most 256 points, and one key frame. A frame is *sound* for
a lesion when the picture had moved by less than a hundredth of itself since the frame before, when it is as sharp there
as nine tenths of what the lesion has shown on average, and its outline as certain. The key frame is the one of the
largest outline (by 2 % at least, so that a few are drawn rather than hundreds) among the sound frames, or among all where
none was. The first sight of a lesion is never it: there the motion is not known. Lesions seen in fewer than 3 frames or
for less than 0.3 s are left out, and counted.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.analysis import Analysis
from edge.atomic import write_text
from edge.findings import Finding, Lesion
from edge.frame import GreyImage
from edge.overlay import DISCLAIMER
from edge.tracking import PATIENCE_S

POINTS: Final = 256
LESIONS: Final = 16
"""Lesions kept at a time; beyond them the one seen in the fewest frames is left out."""
MIN_FRAMES: Final = 3
MIN_S: Final = 0.3
PICTURE_SIDE: Final = 640
"""Longest side of a key frame's picture."""
SCHEMA: Final = 1
FILES: Final = ("exam.json", "exam.html")
_STILL: Final = 0.01
_USUAL: Final = 0.9
_LARGER: Final = 1.02


@dataclass(frozen=True, slots=True, eq=False)
class KeyFrame:
    """The frame that shows a lesion best. number, time_s: of the frame, time since the exam began. sound: see the module.

    lesion: in the frame's coordinates. jpeg: the region's picture, nothing drawn on it, (height, width) `size`. corner:
    (x, y) of the region in the frame. scale: pixels of the picture for one of the frame, (across, down). probability: of
    the positive label.
    """

    number: int
    time_s: float
    sound: bool
    lesion: Lesion
    decision: str
    probability: float | None
    jpeg: bytes
    size: tuple[int, int]
    corner: tuple[int, int]
    scale: tuple[float, float]

    @property
    def cut(self) -> bool:
        """Whether the outline touches the edge of the region, so that the lesion may be larger than it looks."""
        points = np.array(self.lesion.contour) - self.corner
        last = [round(side / scale) - 1 for side, scale in zip(self.size[::-1], self.scale, strict=True)]
        return bool((points <= 0).any() or (points >= last).any())

    def to_json(self) -> dict[str, Any]:
        return {
            "frame": self.number,
            "time_s": round(self.time_s, 3),
            "sound": self.sound,
            "cut": self.cut,
            "decision": self.decision,
            "probability": _rounded(self.probability),
            "lesion": self.lesion.to_json(),
        }


@dataclass(frozen=True, slots=True)
class Moment:
    """A lesion at one time, or on average over the few frames around it. diameter: in millimetres where all are known,
    else pixels."""

    time_s: float
    probability: float | None
    area_px: float
    diameter: float


@dataclass(frozen=True, slots=True, eq=False)
class LesionSummary:
    """A lesion's way through the exam. first_s, last_s: since the exam began. in_mm: whether `Moment.diameter` is in
    millimetres.

    calls: its frames by call. probability: the mean over all its frames, None without a class output.
    """

    track: int
    first_s: float
    last_s: float
    frames: int
    calls: Mapping[str, int]
    probability: float | None
    in_mm: bool
    key: KeyFrame
    moments: tuple[Moment, ...]

    def to_json(self) -> dict[str, Any]:
        unit = "diameter_mm" if self.in_mm else "diameter_px"
        return {
            "track": self.track,
            "first_s": round(self.first_s, 3),
            "last_s": round(self.last_s, 3),
            "frames": self.frames,
            "calls": dict(self.calls),
            "mean_probability": _rounded(self.probability),
            "key_frame": self.key.to_json(),
            "over_time": [
                {
                    "time_s": round(moment.time_s, 3),
                    "probability": _rounded(moment.probability),
                    "area_px": round(moment.area_px, 1),
                    unit: round(moment.diameter, 2),
                }
                for moment in self.moments
            ],
        }


@dataclass(frozen=True, slots=True, eq=False)
class ExamSummary:
    """An exam at its end. source, started: in words. frames: analysed; rejected: the others, by reason. decisions: frames
    by call.

    positive, threshold: as in `edge.predictor.Prediction`. lesions: by track number. left_out: outlines seen too shortly.
    """

    source: str
    started: str
    duration_s: float
    frames: int
    rejected: Mapping[str, int]
    decisions: Mapping[str, int]
    positive: str | None
    threshold: float | None
    lesions: tuple[LesionSummary, ...]
    left_out: int

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "notice": DISCLAIMER,
            "source": self.source,
            "started": self.started,
            "duration_s": round(self.duration_s, 3),
            "frames": self.frames,
            "rejected": dict(self.rejected),
            "decisions": dict(self.decisions),
            "positive": self.positive,
            "threshold": self.threshold,
            "lesions": [lesion.to_json() for lesion in self.lesions],
            "left_out": self.left_out,
        }


class Exam:
    """Collects analyses as they come. Used by one thread. source, started: for the reader."""

    def __init__(self, source: str = "", *, started: str = "") -> None:
        self._source, self._started = source, started
        self._now_s = 0.0
        self._last: tuple[int, float | None] | None = None  # captured_ns and the source's own time
        self._frames = 0
        self._rejected: Counter[str] = Counter()
        self._decisions: Counter[str] = Counter()
        self._finding: Finding | None = None
        self._seen: dict[int, _Sight] = {}
        self._left_out = 0

    def add(self, analysis: Analysis) -> None:
        """Take the next frame in; of a rejected one, only its reason."""
        self._advance(analysis)
        finding = analysis.finding
        if analysis.reason or finding is None:
            self._rejected[analysis.reason] += 1
            return
        self._frames += 1
        self._decisions[finding.decision] += 1
        self._finding = finding
        for lesion in finding.lesions:
            if lesion.track not in self._seen:
                self._seen[lesion.track] = _Sight(self._now_s)
            self._seen[lesion.track].add(analysis, finding, lesion, self._now_s)
        self._tidy()

    def summary(self) -> ExamSummary:
        """What is known now."""
        kept = [sight.summary(track) for track, sight in sorted(self._seen.items()) if sight.long_enough]
        finding = self._finding
        return ExamSummary(
            self._source,
            self._started,
            self._now_s,
            self._frames,
            dict(self._rejected),
            dict(self._decisions),
            None if finding is None else finding.positive,
            None if finding is None else finding.threshold,
            tuple(kept),
            self._left_out + len(self._seen) - len(kept),
        )

    def _advance(self, analysis: Analysis) -> None:
        """Go on by the source's own time, which is right for a recording too; by that of capture where it has none or
        went back."""
        if self._last is not None:
            captured_ns, time_s = self._last
            own_s = None if time_s is None or analysis.time_s is None else analysis.time_s - time_s
            self._now_s += max(
                0.0, (analysis.captured_ns - captured_ns) / 1e9 if own_s is None or own_s < 0.0 else own_s
            )
        self._last = analysis.captured_ns, analysis.time_s

    def _tidy(self) -> None:
        """Let go of what was seen too shortly and will not come back, and of the least seen beyond 16."""
        for track, sight in list(self._seen.items()):
            if self._now_s - sight.last_s > PATIENCE_S and not sight.long_enough:
                del self._seen[track]
                self._left_out += 1
        while len(self._seen) > LESIONS:
            del self._seen[min(self._seen, key=lambda track: (self._seen[track].frames, -track))]
            self._left_out += 1


@dataclass(slots=True)
class _Series:
    """Rows of numbers thinned by means: when full, neighbours are joined and every later row takes in twice as many
    frames."""

    rows: NDArray[np.float64] = field(default_factory=lambda: np.zeros((POINTS, 5)))
    used: int = 0
    stride: int = 1
    open: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, row: tuple[float, ...]) -> None:
        self.open.append(row)
        if len(self.open) < self.stride:
            return
        self.rows[self.used] = np.mean(self.open, axis=0)
        self.open.clear()
        self.used += 1
        if self.used == POINTS:
            self.rows[: POINTS // 2] = self.rows.reshape(POINTS // 2, 2, -1).mean(axis=1)
            self.used, self.stride = POINTS // 2, 2 * self.stride

    def all(self) -> NDArray[np.float64]:
        rest = [np.mean(self.open, axis=0)] if self.open else []
        return np.array([*self.rows[: self.used], *rest])


class _Sight:
    """A lesion as it is collected."""

    def __init__(self, first_s: float) -> None:
        self.first_s = self.last_s = first_s
        self.frames = 0
        self._calls: Counter[str] = Counter()
        self._probability = self._sharpness = self._certainty = 0.0  # sums
        self._series = _Series()
        self._key: KeyFrame | None = None

    @property
    def long_enough(self) -> bool:
        return self.frames >= MIN_FRAMES and self.last_s - self.first_s >= MIN_S

    def add(self, analysis: Analysis, finding: Finding, lesion: Lesion, now_s: float) -> None:
        self.last_s = now_s
        self.frames += 1
        self._calls[finding.decision] += 1
        probability = math.nan if finding.malignancy is None else finding.malignancy
        self._probability += probability
        diameter_mm = math.nan if lesion.diameter_mm is None else lesion.diameter_mm
        self._series.add((now_s, probability, lesion.area_px, lesion.diameter_px, diameter_mm))
        corner = (analysis.region.left, analysis.region.top)
        sharpness = _sharpness(analysis.grey, lesion, corner)
        certainty = 1.0 if lesion.certainty is None else lesion.certainty
        self._sharpness += sharpness
        self._certainty += certainty
        if self.frames == 1:
            return
        height, width = analysis.grey.shape
        still = math.hypot(finding.shift_px[0] / width, finding.shift_px[1] / height) < _STILL
        sharp = sharpness >= _USUAL * self._sharpness / self.frames
        sound = still and sharp and certainty >= _USUAL * self._certainty / self.frames
        if self._better(lesion, sound=sound):
            picture = _shrunk(analysis.grey)
            self._key = KeyFrame(
                analysis.number,
                now_s,
                sound,
                lesion,
                finding.decision,
                finding.malignancy,
                cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, 90))[1].tobytes(),
                (picture.shape[0], picture.shape[1]),
                corner,
                (picture.shape[1] / width, picture.shape[0] / height),
            )

    def _better(self, lesion: Lesion, *, sound: bool) -> bool:
        key = self._key
        if key is None or sound != key.sound:
            return key is None or sound
        return lesion.area_px >= _LARGER * key.lesion.area_px

    def summary(self, track: int) -> LesionSummary:
        assert self._key is not None  # from the second frame on
        rows = self._series.all()
        in_mm = not np.isnan(rows[:, 4]).any()
        moments = tuple(
            Moment(time_s, None if math.isnan(probability) else probability, area_px, mm if in_mm else px)
            for time_s, probability, area_px, px, mm in rows.tolist()
        )
        mean = self._probability / self.frames
        known = None if math.isnan(mean) else mean
        calls = dict(self._calls)
        return LesionSummary(track, self.first_s, self.last_s, self.frames, calls, known, in_mm, self._key, moments)


def write_exam(folder: Path, summary: ExamSummary) -> None:
    """Write exam.json and exam.html into `folder`, each all or nothing; other files stay. Raises SinkError."""
    from edge.exam_page import exam_page

    data, page = FILES
    write_text(folder / data, json.dumps(summary.to_json(), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / page, exam_page(summary))


def _sharpness(grey: GreyImage, lesion: Lesion, corner: tuple[int, int]) -> float:
    """Standard deviation of the Laplacian around a lesion (Pech-Pacheco et al., ICPR 2000), in grey levels."""
    points = np.array(lesion.contour) - corner
    (left, top), (right, bottom) = np.maximum(points.min(axis=0) - 8, 0).tolist(), (points.max(axis=0) + 9).tolist()
    crop = grey[top:bottom, left:right]
    return float(cv2.meanStdDev(cv2.Laplacian(crop, cv2.CV_16S))[1][0, 0])


def _shrunk(grey: GreyImage) -> GreyImage:
    longest = max(grey.shape)
    if longest <= PICTURE_SIDE:
        return grey
    height, width = (max(1, round(side * PICTURE_SIDE / longest)) for side in grey.shape)
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
