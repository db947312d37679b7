"""Golden frames for a bundle: phantoms, what the referee says of them, and how far the engines here are from it."""

from dataclasses import replace
from pathlib import Path
from typing import Final

import cv2

from edge.bundle import Bundle, describe_file
from edge.bundle_file import BundleFile
from edge.choice import saturates_here
from edge.engines import is_installed
from edge.engines.onnx import open_referee
from edge.frame import GreyImage
from edge.golden import answer_of, margin, mask_levels, self_test
from edge.golden_answers import Golden, GoldenBounds, GoldenFrame
from edge.manifest import Manifest
from edge.phantom import phantom_case
from edge.predictor import Prediction, Predictor

FRAMES: Final = 4
_CANDIDATES: Final = 16
_SIZE: Final = (128, 160)
"""Small, for the bundle's sake: speckle hardly compresses."""
_ROOM: Final = 1.5
"""Bounds of a network whose engines differ more than usual: what they differ by here, and half as much again."""


def with_golden(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with golden frames, whose files are written to `folder`; as it is where the network makes no prediction.

    folder: a bundle under construction, with the graph of each precision as int8.onnx and fp32.onnx. Of sixteen phantoms those
    four are taken that are answered most differently and most surely. Raises EngineError.
    """
    precisions = sorted({artifact.precision for artifact in manifest.artifacts})
    if not manifest.predicts or not precisions:
        return manifest
    frames = [phantom_case(seed, size=_SIZE).pixels for seed in range(_CANDIDATES)]
    answers = {precision: _predictions(folder, manifest, precision, frames) for precision in precisions}
    (folder / "golden").mkdir()
    written = []
    for index, chosen in enumerate(_choice(manifest, precisions[-1], answers[precisions[-1]])):
        said = []
        for precision in precisions:
            prediction, mask = answers[precision][chosen], None
            if prediction.mask_probability is not None:
                mask = _png(folder, f"golden/{index}-{precision}.png", mask_levels(prediction.mask_probability))
            said.append(answer_of(prediction, precision, manifest.labels, mask))
        written.append(GoldenFrame(_png(folder, f"golden/{index}.png", frames[chosen]), tuple(said)))
    golden = replace(manifest, golden=Golden(tuple(written)))
    bounds = _bounds(Bundle(folder, golden))
    return replace(manifest, golden=Golden(tuple(written), bounds))


def _predictions(folder: Path, manifest: Manifest, precision: str, frames: list[GreyImage]) -> list[Prediction]:
    with Predictor(open_referee(folder / f"{precision}.onnx"), manifest.interpretation(precision)) as referee:
        return [referee.predict(frame) for frame in frames]


def _choice(manifest: Manifest, precision: str, predictions: list[Prediction]) -> list[int]:
    """Indices of the frames to keep: in turn the surest of each decision there is."""
    how = manifest.interpretation(precision)

    def sureness(index: int) -> float:
        said = predictions[index]
        mask = None if said.mask_probability is None else mask_levels(said.mask_probability)
        return margin(answer_of(said, precision, manifest.labels, None), mask, how)

    by_decision: dict[str, list[int]] = {}
    for index in sorted(range(len(predictions)), key=sureness, reverse=True):
        by_decision.setdefault(predictions[index].decision, []).append(index)
    rounds = [group[turn] for turn in range(len(predictions)) for group in by_decision.values() if turn < len(group)]
    return rounds[:FRAMES]


def _bounds(bundle: Bundle) -> GoldenBounds:
    """The usual bounds, or wider ones where an engine that is installed here leaves them on these frames.

    An engine that saturates here is wrong, and has no say in what is right.
    """
    usual = GoldenBounds()
    found = [
        self_test(bundle, engine=artifact.engine, precision=artifact.precision)
        for artifact in bundle.manifest.artifacts
        if is_installed(artifact.engine) and not saturates_here(artifact, bundle.manifest.weight_range)
    ]
    mask = max((test.mask_mean for test in found if test.mask_mean is not None), default=0.0)
    dice = min((test.mask_dice_min for test in found if test.mask_dice_min is not None), default=1.0)
    probability = max((test.probability_max for test in found if test.probability_max is not None), default=0.0)
    return GoldenBounds(
        mask_mean=usual.mask_mean if mask <= usual.mask_mean else min(1.0, _ROOM * mask),
        mask_dice_min=usual.mask_dice_min if dice >= usual.mask_dice_min else max(0.0, 1.0 - _ROOM * (1.0 - dice)),
        probability_max=usual.probability_max
        if probability <= usual.probability_max
        else min(1.0, _ROOM * probability),
    )


def _png(folder: Path, name: str, pixels: GreyImage) -> BundleFile:
    done, encoded = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not done:
        raise RuntimeError(f"{name}: OpenCV cannot encode a grey PNG")
    (folder / name).write_bytes(encoded.tobytes())
    return describe_file(folder, folder / name)
