"""Analysis of one frame: region of interest, guard, network, findings. What leaves here has nothing outside the region."""

import threading
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge.capture import Frame
from edge.errors import EngineError
from edge.findings import Finding
from edge.follow import Follower
from edge.frame import GreyImage, to_grey
from edge.guard import Guard, GuardKind, Verdict, unsettled
from edge.predictor import Predictor
from edge.preprocess import Box
from edge.roi import Mode, Roi, RoiFinder, black_out
from edge.tracking import PATIENCE_S

_NO_PIXELS: Final = np.zeros((0, 0), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """What is known of a frame.

    number, captured_ns, time_s: of the frame. pixels: (H, W) or (H, W, 3) BGR uint8, black outside `region`. grey: (h, w) uint8,
    the region's own pixels, what the network saw. finding: None where the frame was rejected, but for a frozen picture, which
    keeps the last one. reason: why the frame was rejected, empty where it was not. finding_age_s: of a kept finding, 0 for a
    new one. spacing_mm: (between rows, between columns). origin: of the source's picture (see `edge.sources.Picture`).
    """

    number: int
    captured_ns: int
    time_s: float | None
    pixels: NDArray[np.uint8]
    grey: NDArray[np.uint8]
    region: Box
    finding: Finding | None
    reason: str = ""
    finding_age_s: float = 0.0
    spacing_mm: tuple[float, float] | None = None
    origin: object = None
    preprocessed_ns: int | None = None
    inferred_ns: int | None = None

    def without_pixels(self) -> "Analysis":
        """The same with empty `pixels` and `grey`, for who needs none: a full HD picture in colour is 8 MB with them."""
        return replace(self, pixels=_NO_PIXELS, grey=_NO_PIXELS)


class FrameAnalyser:
    """Analyses the frames of one run in their order; an `edge.stream.Analyser`. It closes the predictor.

    predictor: its clock is that of the run. roi: where the scan lies. guard: None lets every frame through whose region is known.
    smooth: False for findings of each frame alone.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        roi: Mode = "auto",
        guard: Guard | None = None,
        smooth: bool = True,
    ) -> None:
        self._predictor, self._guard = predictor, guard
        self._finder = RoiFinder(roi)
        self._follower = Follower(predictor.interpretation, smooth=smooth)
        self._session = 1
        self._in_use, self._ended = threading.Lock(), False
        self._last: tuple[Finding, float] | None = None
        self._rejected_s: float | None = None

    def analyse(self, frame: Frame) -> Analysis:
        """The region, the guard's word, and the finding where it has none. Raises DataError, EngineError, SourceError."""
        try:
            with self._in_use:
                if self._ended:
                    raise EngineError("the run has ended; no frame is analysed any more")
                return self._analyse(frame)
        finally:
            if self._ended:
                self._release()

    def _analyse(self, frame: Frame) -> Analysis:
        picture = frame.picture
        if frame.session != self._session:
            self._session = frame.session
            self._start_afresh()
        time_s = frame.captured_ns / 1e9 if picture.time_s is None else picture.time_s
        roi = self._finder.update(picture.pixels, picture.region, time_s, wait=frame.waits)
        if roi.changed:
            self._follower.reset()
        shown = black_out(picture.pixels, roi)
        inside = shown[roi.box.pixels]
        grey = to_grey(inside)
        known = Analysis(
            frame.number, frame.captured_ns, picture.time_s, shown, grey, roi.box, None,
            spacing_mm=picture.spacing_mm, origin=picture.origin,
        )  # fmt: skip
        verdict = self._before(grey, inside if inside.ndim == 3 else None, roi, time_s)
        if verdict.reason:
            return self._rejected(known, verdict, time_s)
        said = self._predictor.estimate(grey)
        known = replace(known, preprocessed_ns=said.prepared_ns, inferred_ns=said.inferred_ns)
        features = None if self._guard is None else self._predictor.interpretation.feature_vector(said.outputs)
        if self._guard is not None and features is not None:
            verdict = self._guard.familiar(features)
            if verdict.reason:
                return self._rejected(known, verdict, time_s)
        if self._rejected_s is not None and time_s - self._rejected_s > PATIENCE_S:
            self._follower.reset()
        self._rejected_s = None
        finding = self._follower.update(
            said, grey, time_s=time_s, spacing_mm=picture.spacing_mm, origin=(roi.box.left, roi.box.top)
        )
        self._last = (finding, time_s)
        return replace(known, finding=finding)

    def close(self) -> None:
        """End the look for the region and release the engine, from any thread.

        A frame whose analysis did not come to its end is still in them: then its end, if it comes, releases them.
        """
        self._ended = True
        if self._in_use.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._in_use.release()

    def _release(self) -> None:
        self._finder.close()
        self._predictor.close()

    def _before(self, grey: GreyImage, colour: NDArray[np.uint8] | None, roi: Roi, time_s: float) -> Verdict:
        """The word before the network runs; without a guard only an unknown region is rejected."""
        if self._guard is None:
            return unsettled(roi)
        return self._guard.check(grey, colour, roi, round(time_s * 1e9))

    def _rejected(self, known: Analysis, verdict: Verdict, time_s: float) -> Analysis:
        """A frozen picture is still being read: it keeps its finding. Any other rejection ends what was followed, unless it is
        brief: a guard that errs on a frame in a hundred must not make a hundred lesions of one.
        """
        if verdict.kind is GuardKind.FROZEN and self._last is not None:
            finding, found_s = self._last
            return replace(known, finding=finding, reason=verdict.reason, finding_age_s=time_s - found_s)
        if verdict.kind is not GuardKind.FROZEN:
            self._last = None
            self._rejected_s = time_s if self._rejected_s is None else self._rejected_s
        return replace(known, reason=verdict.reason)

    def _start_afresh(self) -> None:
        """The source was opened again: nothing of before is taken for the same place."""
        if self._guard is not None:
            self._guard.reset()
        self._finder.reset()
        self._follower.reset()
        self._last = self._rejected_s = None
