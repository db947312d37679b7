"""Region finder, guard and feature distance on frames that nothing was chosen on.

    python benchmarks/scripts/guard.py --data BUSBRA --data BUSI --clips CLIPS --bundle BUNDLE -o runs/guard.json

Stills of the named folds go into synthetic screens and through every fault of `benchmarks.faults`, each at a severity drawn
from its declared range. Unfamiliar pictures are told by the feature reference in the bundle, for each precision in it; stills
that the network was trained, tuned or calibrated on are refused. The lung clips took part in choosing layers and distance, on
folds 1 and 2. Prints one line a figure; a share of frames unless it says otherwise.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.faults import FAULTS, SCREENS, STILL_FAULTS, draw, far, frozen, grabbed, live, marked
from benchmarks.screens import Shape, draw_screen
from calibration.dataset import Dataset, parse_folds
from calibration.drift import used_before
from edge.atomic import write_text
from edge.bundle import Bundle
from edge.errors import DataError, EdgekitError
from edge.frame import GreyImage, to_grey
from edge.guard import Guard, GuardKind
from edge.predictor import Predictor
from edge.preprocess import Box
from edge.roi import Roi, RoiFinder, black_out

PARTS: Final = ("screens", "pictures", "sequences", "features")
RATE_HZ: Final = 20.0
KINDS: Final = {
    "black": GuardKind.NO_CONTACT,
    "air": GuardKind.NO_CONTACT,
    "saturated": GuardKind.SATURATED,
    "doppler": GuardKind.DOPPLER,
}
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--clips", type=Path, help="folder of video clips that are no breast")
    parser.add_argument("--folds", default="5")
    parser.add_argument("--screens", type=int, default=120, help="screens to draw")
    parser.add_argument("--sequences", type=int, default=60, help="stills that are made into sequences and faults")
    parser.add_argument("--bundle", type=Path, help="whose features and reference are measured")
    parser.add_argument("--engine", default="auto", help="that runs the bundle")
    parser.add_argument("--part", choices=PARTS, action="append", help="measure only this; repeatable")
    parser.add_argument("-o", "--out", type=Path)
    options = parser.parse_args()

    parts = options.part or [part for part in PARTS if part != "features" or options.bundle]
    try:
        dataset = Dataset.open(options.data, folds=parse_folds(options.folds))
        bundle = None
        if "features" in parts:
            if options.bundle is None:
                parser.error("--part features needs a --bundle")
            bundle = _judging(options.bundle, dataset)
        stills = [case.read().pixels for case in dataset]
        figures: Figures = {}
        if "screens" in parts:
            figures |= _told(screens(stills, options.screens))
        if "pictures" in parts:
            figures |= _told(single_pictures(stills))
        if "sequences" in parts:
            figures |= _told(sequences(stills[:: max(1, len(stills) // options.sequences)]))
        if bundle is not None:
            figures |= _told(features(stills, bundle, options.clips, engine=options.engine))
    except EdgekitError as error:
        parser.exit(1, f"error: {error}\n")
    if options.out:
        write_text(options.out, json.dumps(figures, indent=2) + "\n")


def screens(stills: Sequence[GreyImage], count: int) -> Figures:
    """IoU with the true region, share of letters hidden, share of tissue cut, and processor time a settled frame."""
    kept: dict[str, list[float]] = {}
    for index in range(count):
        still = stills[index * len(stills) // count]
        rng = np.random.default_rng([index, 1])
        size = SCREENS.sizes[index % 3]
        shape: Shape = ("linear", "convex")[index // 3 % 2]
        screen = draw_screen(rng, size, shape, aspect=still.shape[1] / still.shape[0])
        noise = draw(rng, FAULTS.grabber_noise) * rng.integers(2)
        quality = round(draw(rng, FAULTS.jpeg_quality)) * int(rng.integers(2))
        finder, roi = RoiFinder(), None
        for step, frame in enumerate(live(still, rng, frames=4, rate_hz=4.0)):
            shown = screen.show(frame, time_s=step / 4)
            picture = grabbed(shown, rng, noise=noise, quality=quality)
            roi = finder.update(picture, None, step / 4)
        assert roi is not None
        found = _over(roi, size)
        letters = (shown.max(axis=2) > screen.canvas[-1, 0].max() + 8) & ~screen.tissue
        row = {
            "settled": float(roi.settled),
            "IoU": float((found & screen.tissue).sum() / (found | screen.tissue).sum()),
            "letters hidden": 1.0 - float((found & letters).sum() / letters.sum()),
            "tissue cut": 1.0 - float((found & screen.tissue).sum() / screen.tissue.sum()),
        }
        for name, value in row.items():
            kept.setdefault(f"{shape} {name}", []).append(value)
        started = time.thread_time()
        for _ in range(3):
            black_out(picture, finder.update(picture, None, 0.76))
        kept.setdefault(f"ms a frame at {size[1]}×{size[0]}", []).append((time.thread_time() - started) / 3 * 1e3)
    bare = [_covered(still) for still in stills[:: max(1, len(stills) // count)]]
    figures = {"bare stills: share kept, mean": float(np.mean(bare)), "bare stills: 5th percentile": _low(bare)}
    for name, values in kept.items():
        figures[f"{name}, mean"] = float(np.mean(values))
        if "ms" not in name and "settled" not in name:
            worst = np.percentile(values, 95) if "cut" in name else np.percentile(values, 5)
            figures[f"{name}, worst twentieth"] = float(worst)
    return figures


def single_pictures(stills: Sequence[GreyImage]) -> Figures:
    """Good stills that are rejected by what one picture shows."""
    kinds = [Guard().check(still, None, _whole(still), 0).kind for still in stills]
    return {"stills": float(len(stills)), **_rejected("stills", kinds)}


def sequences(stills: Sequence[GreyImage]) -> Figures:
    """Good sequences that are rejected at any frame, and each fault found as what it is."""
    worst: list[GuardKind] = []
    found: dict[str, list[bool]] = {}
    for index, still in enumerate(stills):
        rng = np.random.default_rng([index, 2])
        guard = Guard()
        kinds = _judge(guard, live(still, rng, frames=30))
        kinds.append(guard.check(still, marked(still, rng), _whole(still), 10**12).kind)
        worst.append(max(kinds, key=lambda kind: kind is not GuardKind.SOUND))
        for name, fault in STILL_FAULTS.items():
            made = fault(still, rng)
            colour = made if made.ndim == 3 else None
            kind = Guard().check(to_grey(made), colour, _whole(still), 0).kind
            found.setdefault(name, []).append(kind is KINDS[name])
        frames = round(RATE_HZ * draw(rng, FAULTS.frozen_s))
        found.setdefault("frozen", []).append(
            _judge(Guard(), frozen(still, rng, frames=frames))[-1] is GuardKind.FROZEN
        )
    figures = {"sequences": float(len(stills)), **_rejected("sequences", worst)}
    return figures | {f"found: {name}": float(np.mean(hits)) for name, hits in found.items()}


def features(stills: Sequence[GreyImage], bundle: Bundle, clips: Path | None, *, engine: str) -> Figures:
    """Good stills that are called unfamiliar, by each precision of the bundle; what is not a breast picture, and is."""
    figures: Figures = {}
    for precision in sorted({artifact.precision for artifact in bundle.manifest.artifacts}):
        told = bundle.choose(engine=engine, precision=precision)
        with Predictor.open(bundle.path, engine=engine, precision=precision, threads=1) as predictor:
            unfamiliar = _unfamiliar(predictor, Guard(reference=bundle.manifest.feature_reference(precision)))
            drawn = (far(still, np.random.default_rng([index, 3])) for index, still in enumerate(stills[::5]))
            found = {"stills": unfamiliar(stills), "noise, letters, upside down": unfamiliar(drawn)}
            found |= {clip.stem: unfamiliar(_clip(clip)) for clip in (sorted(clips.glob("*.mp4")) if clips else ())}
        figures |= {f"unfamiliar, {told.engine} {precision}: {what}": share for what, share in found.items()}
    return figures


def _judging(path: Path, dataset: Dataset) -> Bundle:
    """The bundle, when it can be reported on these frames. Raises BundleError, DataError."""
    bundle = Bundle.open(path)
    if bundle.manifest.features is None:
        raise DataError(f"{path}: has no feature reference; export it with --calibration on a data set")
    used, story = used_before(dataset, bundle.manifest.forbidden_frames())
    if used:
        raise DataError(f"{story}; choose other --folds")
    return bundle


def _unfamiliar(predictor: Predictor, guard: Guard) -> Callable[[Iterable[GreyImage]], float]:
    """The share of pictures that are called unfamiliar."""

    def judged(picture: GreyImage) -> bool:
        vector = predictor.interpretation.feature_vector(predictor.estimate(picture).outputs)
        assert vector is not None
        return guard.familiar(vector).kind is GuardKind.UNFAMILIAR

    return lambda pictures: float(np.mean([judged(picture) for picture in pictures]))


def _told(figures: Figures) -> Figures:
    for name, value in figures.items():
        print(f"{name:44s} {value:.4f}", flush=True)
    return figures


def _rejected(what: str, kinds: Sequence[GuardKind]) -> Figures:
    bad = Counter(kind for kind in kinds if kind is not GuardKind.SOUND)
    figures = {f"{what} rejected wrongly": bad.total() / len(kinds)}
    return figures | {f"{what} rejected wrongly: {kind}": count / len(kinds) for kind, count in bad.items()}


def _judge(guard: Guard, frames: Iterator[GreyImage]) -> list[GuardKind]:
    kinds = []
    for index, frame in enumerate(frames):
        kinds.append(guard.check(frame, None, _whole(frame), round(index / RATE_HZ * 1e9)).kind)
    return kinds


def _whole(pixels: GreyImage) -> Roi:
    return Roi(Box(0, 0, *pixels.shape), None, True, False)


def _over(roi: Roi, size: tuple[int, int]) -> NDArray[np.bool_]:
    whole = np.zeros(size, np.bool_)
    if roi.settled:
        whole[roi.box.pixels] = True if roi.mask is None else roi.mask
    return whole


def _covered(still: GreyImage) -> float:
    roi = RoiFinder().update(still, None, 0.0)
    return float(_over(roi, still.shape).mean())


def _low(values: Sequence[float]) -> float:
    return float(np.percentile(values, 5))


def _clip(path: Path) -> Iterator[GreyImage]:
    """Every fifth frame of a clip, without the black margin beside it."""
    video = cv2.VideoCapture(str(path))
    index = 0
    while True:
        read, frame = video.read()
        if not read:
            break
        if index % 5 == 0:
            grey = to_grey(np.asarray(frame, np.uint8))
            lit = np.flatnonzero(grey.mean(axis=0) > 4.0)
            yield np.ascontiguousarray(grey[:, lit[0] : lit[-1] + 1])
        index += 1
    video.release()


if __name__ == "__main__":
    main()
