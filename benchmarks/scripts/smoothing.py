"""What smoothing over time does: real stills swept with known motion, smoothed against raw.

    python benchmarks/scripts/smoothing.py --data ../shared/data/busbra ../shared/data/busi --folds 5
    python benchmarks/scripts/smoothing.py --data ... --folds 1,2,3,4 --grid     # how the constants were chosen

No public breast cine has outlines, so a window of 70 % moves over a still with its mask, to and fro at 20 frames a
second: not at all, slowly (0.6 % of the window a frame) and fast (4 %). Every frame has its own speckle and gain. What no
still can show is tissue that changes out of plane; that is why the constants stay shorter than these figures alone would
have them. Flicker: mean change of the outlined area from frame to frame beyond the true one's, in areas of the lesion. |Δp|: mean
change of the class probability. Dice: against the true mask where it now is, from the third frame on. "unmoved" is
smoothed without regard to motion: the smear.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from calibration.dataset import Dataset, parse_folds
from calibration.metrics import overlap
from edge.frame import GreyImage
from edge.interpretation import Interpretation
from edge.motion import Motion
from edge.predictor import Estimate, Predictor
from edge.preprocess import mask_to_frame
from edge.smoothing import HALF_LIFE_S, HALF_MOVE, Smoother

SPEEDS: Final = {"still": 0.0, "slow": 0.006, "fast": 0.04}
FRAMES: Final = 12
RATE_HZ: Final = 20.0
WINDOW: Final = 0.7
NEVER: Final = 1e9

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A frame of a sweep: what the network said, where the lesion is, and how far the picture moved by the estimate."""

    prediction: Estimate
    true: Mask
    shift_px: tuple[float, float] | None
    error: float | None


def sweep(
    pixels: GreyImage, mask: Mask, speed: float, rng: Generator
) -> Iterator[tuple[GreyImage, Mask, float, float]]:
    """Frames of a window that moves over a still, with speckle and gain of their own; last, how far the picture moved,
    (x, y)."""
    height, width = pixels.shape
    window = round(WINDOW * width), round(WINDOW * height)
    spare = np.array([width - window[0], height - window[1]], np.float64)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    velocity = speed * np.array(window) * (np.cos(angle), np.sin(angle))
    corner = before = spare / 2
    for index in range(FRAMES):
        if index:
            velocity = np.where((corner + velocity < 0) | (corner + velocity > spare), -velocity, velocity)
            before, corner = corner, corner + velocity
        view = np.array([[1.0, 0.0, -corner[0]], [0.0, 1.0, -corner[1]]])
        true = cv2.warpAffine(mask.astype(np.uint8) * 255, view, window) >= 128
        grain = cv2.GaussianBlur(rng.standard_normal(true.shape, dtype=np.float32), (0, 0), 1.2)
        gain = rng.uniform(0.92, 1.08) * (1.0 + 0.15 * grain / grain.std())
        seen = np.clip(cv2.warpAffine(pixels, view, window) * gain, 0.0, 255.0).astype(np.uint8)
        yield seen, true, *(before - corner).tolist()


def record(
    predictor: Predictor, data: Sequence[Path], folds: tuple[int, ...] | None, images: int
) -> dict[str, list[list[Step]]]:
    """Sweeps by speed, over `images` lesions drawn at random from each data set."""
    rng, sweeps = np.random.default_rng(5), defaultdict(list)
    for folder in data:
        cases = [case for case in Dataset.open([folder], folds=folds) if case.label != "normal"]
        for case in random.Random(7).sample(cases, min(images, len(cases))):
            sample = case.read()
            assert sample.mask is not None
            for name, speed in SPEEDS.items():
                motion, steps = Motion(), []
                for seen, true, x, y in sweep(sample.pixels, sample.mask, speed, rng):
                    shift = motion.update(seen)
                    moved = None if shift is None else (shift.x, shift.y)
                    error = None if shift is None else float(np.hypot(shift.x - x, shift.y - y) / np.hypot(*seen.shape))
                    prediction = replace(predictor.estimate(seen), outputs={})
                    steps.append(Step(prediction, true, moved, error))
                sweeps[name].append(steps)
    return sweeps


def score(
    steps: Sequence[Step], how: Interpretation, smoother: Smoother | None, *, unmoved: bool = False
) -> tuple[float, float, float]:
    """Dice, flicker and |Δp| of a sweep; not a number where the lesion is out of view."""
    dice, flicker, wavering = [], [], []
    last: tuple[float, float, float] | None = None
    whole = max(float(step.true.sum()) for step in steps)
    for index, step in enumerate(steps):
        mask, probabilities = step.prediction.mask_probability, step.prediction.probabilities
        if smoother is not None:
            shift = (0.0, 0.0) if unmoved else step.shift_px
            smoothed = smoother.update(step.prediction, size=step.true.shape, shift_px=shift, time_s=index / RATE_HZ)
            mask, probabilities = smoothed.mask_probability, smoothed.probabilities
        assert mask is not None and how.positive is not None
        outlined = mask_to_frame(
            mask, step.true.shape, input_size=how.input_size, resize=how.resize
        ) >= how.outline_level(mask)
        true_area = float(step.true.sum())
        if true_area < max(0.002 * step.true.size, 0.25 * whole):
            last = None
            continue
        if index >= 2:
            dice.append(overlap(outlined, step.true)[0])
        now = (float(outlined.sum()), true_area, probabilities[how.positive])
        if last is not None:
            flicker.append(abs((now[0] - last[0]) - (now[1] - last[1])) / whole)
            wavering.append(abs(now[2] - last[2]))
        last = now
    return _mean(dice), _mean(flicker), _mean(wavering)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else np.nan


def report(
    name: str,
    sweeps: dict[str, list[list[Step]]],
    how: Interpretation,
    constants: tuple[float, float] | None,
    *,
    unmoved: bool = False,
) -> None:
    cells = []
    for speed, found in sweeps.items():
        scores = []
        for steps in found:
            smoother = constants and Smoother(how, half_life_s=constants[0], half_move=constants[1])
            scores.append(score(steps, how, smoother or None, unmoved=unmoved))
        dice, flicker, wavering = np.nanmean(scores, axis=0)
        cells.append(f"{speed}: Dice {dice:.4f} flicker {flicker:.4f} |Δp| {wavering:.4f}")
    print(f"{name:34s}{'   '.join(cells)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--folds", default="5")
    parser.add_argument("--images", type=int, default=20, help="of each data set")
    parser.add_argument("--grid", action="store_true", help="other constants too")
    options = parser.parse_args()
    with Predictor.open(threads=1) as predictor:
        how = predictor.interpretation
        sweeps = record(predictor, options.data, parse_folds(options.folds), options.images)
    steps = [step for found in sweeps.values() for each in found for step in each[1:]]
    errors = [step.error for step in steps if step.error is not None]
    print(f"{sum(map(len, sweeps.values()))} sweeps of {FRAMES} frames; motion told in {len(errors)} of {len(steps)},")
    middle, most = np.percentile(errors, (50, 99))
    print(f"error in shares of the diagonal: median {middle:.4f}, 99 % {most:.4f}, largest {max(errors):.4f}")
    report("raw", sweeps, how, None)
    report("unmoved", sweeps, how, (HALF_LIFE_S, NEVER), unmoved=True)
    report(f"smoothed, {HALF_LIFE_S:g} s, {HALF_MOVE:g}", sweeps, how, (HALF_LIFE_S, HALF_MOVE))
    if options.grid:
        for half_life_s in (0.1, 0.25, 0.5, 1.0):
            for half_move in (0.05, 0.1, 0.2, NEVER):
                report(f"{half_life_s:g} s, {half_move:g}", sweeps, how, (half_life_s, half_move))


if __name__ == "__main__":
    main()
