"""What a network says of cases that it never saw, and the file that keeps it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from calibration.dataset import Case, Dataset, Label
from calibration.evaluation import score
from calibration.metrics import CaseResult
from edge.atomic import write_text
from edge.errors import DataError
from edge.frame import fingerprint
from edge.predictor import Prediction
from edge.presence import Presence, presence_logit
from emtnet.engine import MALIGNANCY, UNSET, torch_predictor
from emtnet.weights import load_checkpoint

_ALWAYS: Final = Presence(1.0, 0.0, 1e-6, "nothing: every frame is outlined, and the calls decide later")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network said of one case that it never saw, before any operating point.

    image: name in its data set. sha256: of the frame. logit: of malignancy. presence_logit: see `edge.presence`. dice, iou, hd95
    (pixels): against the drawn mask, None without one. lesion_share: of the frame. The outline is the one that is drawn where
    presence finds a lesion.
    """

    image: str
    sha256: str
    source: str
    group: str
    fold: int
    device: str
    label: Label
    logit: float
    presence_logit: float
    dice: float | None
    iou: float | None
    hd95: float | None
    lesion_share: float


def answers_of(checkpoint: Path, test: Dataset) -> tuple[Answer, ...]:
    """Answers of a checkpoint on cases it never saw. Raises DataError when it was trained on one of them."""
    network, info = load_checkpoint(checkpoint)
    used = info.used_frames()
    answers = []
    with torch_predictor(network, operating_point=UNSET, presence=_ALWAYS) as predictor:
        for case in test:
            sample = case.read()
            sha256 = fingerprint(sample.pixels)
            if sha256 in used:
                raise DataError(f"{case.image}: the network was {used[sha256]} this very frame; remove the duplicate")
            prediction = predictor.predict(sample.pixels)
            answers.append(_answer(case, sha256, prediction, score(case, sample, prediction)))
    return tuple(answers)


def _answer(case: Case, sha256: str, prediction: Prediction, result: CaseResult) -> Answer:
    assert case.label is not None and prediction.mask_probability is not None and result.lesion_share is not None
    return Answer(
        image=case.name,
        sha256=sha256,
        source=case.source,
        group=case.subject,
        fold=case.fold,
        device=case.device,
        label=case.label,
        logit=float(prediction.outputs[MALIGNANCY.name][0, 0]),
        presence_logit=presence_logit(prediction.mask_probability),
        dice=result.dice,
        iou=result.iou,
        hd95=result.hd95,
        lesion_share=result.lesion_share,
    )


def write_answers(path: Path, answers: tuple[Answer, ...], identity: Mapping[str, Any]) -> None:
    """Keep the answers of one run, and what they were made with. Raises SinkError."""
    record = {"identity": identity, "answers": [asdict(answer) for answer in answers]}
    write_text(path, json.dumps(record, indent=0) + "\n")


def read_answers(path: Path, identity: Mapping[str, Any] | None = None) -> tuple[Answer, ...]:
    """Read the answers of one run. identity: what they must have been made with. Raises DataError."""
    names = {field.name for field in fields(Answer)}
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if any(answer.keys() != names for answer in raw["answers"]):
            raise ValueError("other fields than this edgekit writes")
        answers = tuple(Answer(**answer) for answer in raw["answers"])
        found = dict(raw["identity"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not the predictions of a run ({error}); remove it and train again") from error
    if identity is not None and found != identity:
        odd = sorted(key for key in identity if found.get(key) != identity[key])
        raise DataError(f"{path}: was made with another {' and '.join(odd)}; repeat the options or choose another -o")
    return answers
