"""From predictions to findings: motion, smoothing, outlines, numbers and the call, in the order of the frames."""

from edge.findings import Finding
from edge.frame import GreyImage
from edge.interpretation import NO_LESION, Interpretation
from edge.measure import Outline, lesions_of
from edge.motion import Motion
from edge.predictor import Estimate
from edge.preprocess import mask_to_frame
from edge.smoothing import Smoother
from edge.tracking import Tracker


class Follower:
    """Makes the findings of one source, frame after frame. Used by one thread.

    interpretation: of the predictor, whose rule makes the call again from the smoothed values. smooth: False for findings
    of each frame alone, which still keep their track numbers.
    """

    def __init__(self, interpretation: Interpretation, *, smooth: bool = True) -> None:
        self._interpretation = interpretation
        self._motion = Motion()
        self._smoother = Smoother(interpretation) if smooth else None
        self._tracker = Tracker()

    def reset(self) -> None:
        """Forget the past, as for a source that was opened again or a region that changed; track numbers go on."""
        self._motion.reset()
        self._tracker.reset()
        if self._smoother is not None:
            self._smoother.reset()

    def update(
        self,
        prediction: Estimate,
        grey: GreyImage,
        *,
        time_s: float,
        spacing_mm: tuple[float, float] | None = None,
        origin: tuple[int, int] = (0, 0),
    ) -> Finding:
        """The finding of the next frame, in the frame's coordinates.

        grey: (h, w) uint8, the region that the prediction is of. time_s: the source's own time where it has one, else
        that of capture; where it does not go on, the past is forgotten. spacing_mm: (between rows, between columns).
        origin: (x, y) of the region in the frame.
        """
        how = self._interpretation
        shift = self._motion.update(grey)
        moved = None if shift is None else (shift.x, shift.y)
        mask, probabilities, presence = prediction.mask_probability, prediction.probabilities, prediction.presence
        if self._smoother is not None:
            smoothed = self._smoother.update(prediction, size=grey.shape, shift_px=moved, time_s=time_s)
            mask, probabilities, presence = smoothed.mask_probability, smoothed.probabilities, smoothed.presence
        outlines: list[Outline] = []
        level = None
        if mask is not None:
            level = mask_to_frame(mask, grey.shape, input_size=how.input_size, resize=how.resize)
            outlines = lesions_of(level >= how.outline_level(mask), spacing_mm)
        decision = how.decide(probabilities, presence=presence, outlined=bool(outlines))
        if decision == NO_LESION:
            outlines = []
        numbers = self._tracker.update(outlines, shift_px=moved, time_s=time_s)
        lesions = tuple(
            outline.lesion(number, origin=origin, certainty=None if level is None else outline.certainty(level))
            for outline, number in zip(outlines, numbers, strict=True)
        )
        return Finding(
            decision, presence, probabilities, how.positive, how.threshold, lesions, moved or (0.0, 0.0)
        )  # fmt: skip
