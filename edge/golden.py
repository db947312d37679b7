"""The self-test of a device: golden phantom frames and the referee's answers to them, which travel in the bundle.

An engine passes when its answers are as near to the referee's as engines are that only round otherwise. As a program,
`python -m edge.golden BUNDLE ENGINE PRECISION`, it prints the result as one JSON line: an engine that dies takes only that along.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle import Bundle
from edge.bundle_file import BundleFile
from edge.engines import open_artifact
from edge.errors import EngineError, IntegrityError, told
from edge.frame import GreyImage
from edge.golden_answers import GoldenAnswer, GoldenBounds
from edge.interpretation import Interpretation, named_output
from edge.manifest import Manifest
from edge.predictor import Engine, Prediction, Predictor
from edge.presence import LESION_LEVEL

SMALLEST_COMPARED_SHARE: Final = 0.01
"""Masks below this share of the frame are left out of Dice, as `edgekit drift` leaves them out."""


@dataclass(frozen=True, slots=True)
class SelfTest:
    """How an engine did on the golden frames of a bundle.

    frames: 0 where the bundle has no golden frames; then the network ran once and its outputs were looked at. mask_mean,
    mask_dice_min, probability_max: as in `GoldenBounds`, None where the network has nothing of the kind. reasons: what is wrong.
    """

    engine: str
    precision: str
    frames: int
    seconds: float
    mask_mean: float | None = None
    mask_dice_min: float | None = None
    probability_max: float | None = None
    reasons: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.reasons

    def __str__(self) -> str:
        name = f"{self.engine} {self.precision}"
        if self.reasons:
            return f"{name} fails the self-test: {'; '.join(self.reasons)}"
        if not self.frames:
            return f"{name} runs; the bundle has no golden frames to hold its answers against"
        found = [f"{self.frames} golden frames"]
        if self.mask_mean is not None:
            found.append(f"masks within {self.mask_mean:.4f}, Dice at least {self.mask_dice_min:.3f}")
        if self.probability_max is not None:
            found.append(f"probabilities within {self.probability_max:.3f}")
        return f"{name} passes the self-test: {', '.join(found)}"


@dataclass(slots=True)
class _Distance:
    """How far answers are from the golden ones, so far."""

    mask_means: list[float] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def beyond(self, bounds: GoldenBounds) -> list[str]:
        """Every bound that is exceeded, in words."""
        found = [
            (
                float(np.mean(self.mask_means or [0.0])),
                bounds.mask_mean,
                "masks differ by {:.4f} on average, bound {:g}",
            ),
            (
                max(self.probabilities, default=0.0),
                bounds.probability_max,
                "a probability differs by {:.3f}, bound {:g}",
            ),
        ]
        reasons = [words.format(value, bound) for value, bound, words in found if not value <= bound]
        if self.dice and not min(self.dice) >= bounds.mask_dice_min:
            reasons.append(f"masks overlap with a Dice of {min(self.dice):.3f}, bound {bounds.mask_dice_min:g}")
        return reasons + self.reasons


def self_test(
    bundle: Bundle | Path | str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
) -> SelfTest:
    """Run an artifact of a bundle on its golden frames, here and now, and hold its answers against the referee's.

    engine, precision: as `Bundle.choose` takes them; threads, device: as `open_artifact` does. Raises BundleError,
    IntegrityError, EngineError, MissingDependencyError; an answer out of bounds is no error but a reason in the result.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    artifact = opened.choose(engine=engine, precision=precision)
    started = time.perf_counter()
    running = open_artifact(opened, artifact, threads=threads, device=device)
    try:
        if opened.manifest.golden is None:
            _look_at(running, opened.manifest)
            return SelfTest(artifact.engine, artifact.precision, 0, time.perf_counter() - started)
        found, frames = _distance(opened, running, artifact.precision)
    finally:
        running.close()
    return SelfTest(
        artifact.engine,
        artifact.precision,
        frames,
        time.perf_counter() - started,
        float(np.mean(found.mask_means)) if found.mask_means else None,
        min(found.dice, default=1.0) if found.mask_means else None,
        max(found.probabilities) if found.probabilities else None,
        tuple(found.beyond(opened.manifest.golden.bounds)),
    )


def _look_at(engine: Engine, manifest: Manifest) -> None:
    """Run the network once. Raises EngineError when an output is missing, has another shape or is not finite."""
    outputs = engine.infer(np.full(manifest.input.size, 128, np.uint8))
    for spec in manifest.outputs:
        if not np.isfinite(named_output(outputs, spec)).all():
            raise EngineError(f"output {spec.name!r} is infinite or not a number; export again from a sound network")


def _distance(bundle: Bundle, engine: Engine, precision: str) -> tuple[_Distance, int]:
    """Predict every golden frame; returns how far the answers are, and how many there were."""
    assert bundle.manifest.golden is not None
    how = bundle.manifest.interpretation(precision)
    predictor, found, frames = Predictor(engine, how), _Distance(), 0
    bounds = bundle.manifest.golden.bounds
    for frame in bundle.manifest.golden.frames:
        if (wanted := frame.answer(precision)) is None:
            continue
        frames += 1
        said = predictor.predict(read_png(bundle, frame.file))
        pairs = zip(how.labels if wanted.probabilities else (), wanted.probabilities, strict=True)
        found.probabilities += [abs(said.probabilities[label] - value) for label, value in pairs]
        mask = None if wanted.mask is None else read_png(bundle, wanted.mask)
        if mask is not None and said.mask_probability is not None:
            _compare_masks(found, mask, mask_levels(said.mask_probability), frame.file.path)
        if said.decision != wanted.decision and margin(wanted, mask, how) > bounds.probability_max:
            found.reasons.append(f"{frame.file.path}: {said.decision}, where the referee says {wanted.decision}")
    return found, frames


def _compare_masks(found: _Distance, wanted: GreyImage, said: GreyImage, name: str) -> None:
    if wanted.shape != said.shape:
        found.reasons.append(f"{name}: a mask of {said.shape}, where the referee's has {wanted.shape}")
        return
    found.mask_means.append(float(np.abs(wanted.astype(np.float64) - said).mean() / 255.0))
    one, two = wanted >= LESION_LEVEL, said >= LESION_LEVEL
    if max(one.mean(), two.mean()) >= SMALLEST_COMPARED_SHARE:
        found.dice.append(float(2.0 * (one & two).sum() / (one.sum() + two.sum())))


def margin(answer: GoldenAnswer, mask: GreyImage | None, how: Interpretation) -> float:
    """How far the numbers of an answer may move, in probability, before its decision may turn.

    mask: its levels, (h, w) uint8. With three labels and more it is 0: there the runner-up counts too, and decisions are not held
    against each other.
    """
    if len(answer.probabilities) > 2:
        return 0.0
    margins = []
    if answer.probabilities and how.positive is not None and how.threshold is not None:
        margins.append(abs(answer.probabilities[how.labels.index(how.positive)] - how.threshold))
    if answer.presence is not None and how.presence is not None:
        margins.append(abs(answer.presence - how.presence.threshold))
    elif mask is not None:
        margins.append(abs(float(mask.max()) - LESION_LEVEL) / 255.0)
    return min(margins, default=0.0)


def mask_levels(probability: NDArray[np.float32]) -> GreyImage:
    """A mask's probabilities (h, w) float32 in steps of 1/255, uint8."""
    return np.asarray(np.rint(255.0 * probability), np.uint8)


def read_png(bundle: Bundle, file: BundleFile) -> GreyImage:
    """A grey image of a bundle, (H, W) uint8, after its hash was checked. Raises IntegrityError."""
    pixels = cv2.imdecode(np.frombuffer(bundle.read(file), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise IntegrityError(f"{bundle.path / file.path}: not a grey 8-bit image; export again")
    return np.asarray(pixels)


def answer_of(prediction: Prediction, precision: str, labels: tuple[str, ...], mask: BundleFile | None) -> GoldenAnswer:
    """A prediction as the answer that later ones are held against."""
    said = prediction.probabilities
    probabilities = tuple(said[label] for label in labels) if said else ()
    return GoldenAnswer(precision, prediction.decision, probabilities, prediction.presence, mask)


def main(arguments: list[str]) -> None:
    """Print what became of a self-test as one JSON line: {"error": what} or {"test": the record}."""
    folder, engine, precision = arguments
    try:
        record: dict[str, Any] = {"test": asdict(self_test(folder, engine=engine, precision=precision))}
    except Exception as error:  # it is told, by the process that asked
        record = {"error": told(error)}
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
