"""From answers to calls: the operating point that out-of-fold answers ask for, and the three answers at it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.metrics import LESIONS, MALIGNANT, PAPER_SENSITIVITY, CaseResult
from calibration.operating_point import (
    choose_operating_point,
    choose_presence_threshold,
    fit_presence,
    fit_temperature,
)
from edge.errors import DataError
from edge.interpretation import NO_LESION
from edge.manifest import OperatingPoint
from edge.preprocess import sigmoid
from edge.presence import Presence
from emtnet.answers import Answer
from emtnet.engine import POSITIVE, UNSET
from emtnet.recipe import Recipe
from emtnet.weights import load_checkpoint, save_checkpoint

REPORT_KEY: Final = "calls"


@dataclass(frozen=True, slots=True)
class Calls:
    """Where a network's answers turn. presence: None where no case without a lesion was there to fit it on.

    fitted_on: sha256 of the frames.
    """

    operating_point: OperatingPoint
    presence: Presence | None
    fitted_on: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As `read_calls` takes it."""
        return asdict(self)


NO_CALLS: Final = Calls(UNSET, None, ())
"""Of a network that nothing was fitted to: its mask's top at one half is a lesion, 0.5 is malignant."""


def fit_calls(answers: Sequence[Answer], *, sensitivity: float = PAPER_SENSITIVITY) -> Calls:
    """Fit temperature, presence and threshold to answers on cases that their networks had not seen.

    The threshold is the highest at which `sensitivity` of the malignant cases are found to be there and called malignant.
    """
    lesions = [answer for answer in answers if answer.label in LESIONS]
    malignant = np.array([answer.label == MALIGNANT for answer in lesions], np.bool_)
    logits = np.array([answer.logit for answer in lesions], np.float64)
    temperature = fit_temperature(logits, malignant)
    chosen_on = f"{len(answers)} out-of-fold answers, for a sensitivity of {sensitivity:.1%}"
    presence = _fit_presence(answers)
    seen = np.array([is_seen(answer, presence) for answer in lesions], np.bool_)
    threshold = choose_operating_point(sigmoid(logits / temperature), malignant, seen, sensitivity=sensitivity)
    point = OperatingPoint(threshold, POSITIVE, chosen_on, temperature=temperature)
    return Calls(point, presence, tuple(answer.sha256 for answer in answers))


def _fit_presence(answers: Sequence[Answer]) -> Presence | None:
    present = np.array([answer.label in LESIONS for answer in answers], np.bool_)
    if present.all():
        return None
    logits = np.array([answer.presence_logit for answer in answers], np.float64)
    scale, offset = fit_presence(logits, present)
    probability = sigmoid(scale * logits + offset)
    threshold = choose_presence_threshold(probability[present], probability[~present])
    chosen_on = f"{len(answers)} out-of-fold answers, {int((~present).sum())} of them without a lesion"
    return Presence(scale, offset, threshold, chosen_on)


def is_seen(answer: Answer, presence: Presence | None) -> bool:
    """Whether there is a lesion, to the network; without a presence, whether its mask's top reaches one half."""
    if presence is None:
        return answer.presence_logit >= 0.0
    return presence.probability(answer.presence_logit) >= presence.threshold


def called(answer: Answer, calls: Calls) -> CaseResult:
    """An answer at an operating point: one that is no lesion has no mask either."""
    point, seen = calls.operating_point, is_seen(answer, calls.presence)
    probability = float(sigmoid(np.array(answer.logit / point.temperature)))
    decision = MALIGNANT if probability >= point.threshold else "benign"
    overlapping = answer.dice is not None
    return CaseResult(
        answer.image,
        answer.label,
        probability,
        answer.dice if seen or not overlapping else 0.0,
        answer.iou if seen or not overlapping else 0.0,
        answer.lesion_share if seen else 0.0,
        answer.hd95 if seen else None,
        calls.presence.probability(answer.presence_logit) if calls.presence else None,
        decision if seen else NO_LESION,
    )


def store_calls(checkpoint: Path, calls: Calls) -> None:
    """Write `calls` into a checkpoint; its weights stay bit for bit. Raises DataError, SinkError."""
    network, info = load_checkpoint(checkpoint)
    tuned_on = tuple(dict.fromkeys(info.tuned_on + calls.fitted_on))
    point, presence = calls.operating_point, calls.presence
    if (point, presence, tuned_on) != (info.operating_point, info.presence, info.tuned_on):
        told = replace(info, operating_point=point, presence=presence, tuned_on=tuned_on)
        save_checkpoint(checkpoint, network, told)


def read_calls(path: Path, recipe: Recipe) -> Calls:
    """The operating point of a validation's report on `recipe`, whatever its seed. Raises DataError."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        raw, found = report[REPORT_KEY], dict(report["recipe"])
        presence = None if raw["presence"] is None else Presence(**raw["presence"])
        calls = Calls(OperatingPoint(**raw["operating_point"]), presence, tuple(raw["fitted_on"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not the report of a cross-validation with --runs folds ({error})") from error
    wanted = asdict(recipe)
    if odd := sorted(
        key for key in wanted.keys() | found.keys() if key != "seed" and found.get(key) != wanted.get(key)
    ):
        raise DataError(
            f"{path}: is the report of another recipe ({', '.join(odd)}); name that of this one, or repeat its options"
        )
    return calls
