"""Predictions of image files: which files, their overlays and their records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.atomic import write_bytes
from edge.errors import DataError, SinkError
from edge.frame import IMAGE_SUFFIXES, GreyImage
from edge.overlay import draw_overlay
from edge.predictor import Prediction


def list_images(paths: Sequence[Path]) -> list[Path]:
    """Expand folders to the images in them, in order. Raises DataError for a missing path or a folder without images."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES and item.is_file())
            if not inside:
                raise DataError(f"{path}: no images in this folder")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path}: no such file")
    return files


def overlay_names(files: Sequence[Path]) -> dict[Path, str]:
    """A name for each file's overlay; files of one name in different folders get a number."""
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for file in files:
        name, count = f"{file.stem}_overlay.png", 1
        while name in taken:
            count += 1
            name = f"{file.stem}_{count}_overlay.png"
        taken.add(name)
        names[file] = name
    return names


def write_overlay(path: Path, pixels: GreyImage, prediction: Prediction) -> None:
    """Write the overlay as PNG, all or nothing. Raises SinkError."""
    done, encoded = cv2.imencode(".png", draw_overlay(pixels, prediction))
    if not done:
        raise SinkError(f"{path}: the overlay could not be encoded")
    write_bytes(path, encoded.tobytes())


def prediction_record(file: Path, prediction: Prediction) -> dict[str, Any]:
    """One prediction as predictions.json holds it.

    malignancy: probability of the positive label. presence: that there is a lesion. The box is x, y, width, height in pixels,
    null without a lesion. What the network has no output for is null, and `probabilities` empty; where the answer is "no lesion"
    the class has no say, and its probabilities are null too.
    """
    mask = None if prediction.mask is None else prediction.mask.astype(np.uint8)
    timing = prediction.timing
    said = prediction.classified
    return {
        "image": str(file),
        "decision": prediction.decision,
        "presence": prediction.presence,
        "malignancy": prediction.malignancy if said else None,
        "probabilities": {label: value if said else None for label, value in prediction.probabilities.items()},
        "lesion_area_px": None if mask is None else int(np.count_nonzero(mask)),
        "lesion_box_px": list(cv2.boundingRect(mask)) if mask is not None and mask.any() else None,
        "timing_ms": {
            "preprocess": timing.preprocess_ms,
            "infer": timing.infer_ms,
            "postprocess": timing.postprocess_ms,
            "total": timing.total_ms,
        },
    }
