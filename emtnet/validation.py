"""Cross-validation: train every run of the plan and keep what each network said of the cases it never saw."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from calibration.dataset import Dataset
from edge.errors import DataError
from edge.frame import fingerprint
from emtnet.answers import Answer, answers_of, read_answers, write_answers
from emtnet.duplicates import require_alike, twins
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.teacher import Teacher
from emtnet.train import Reporter, Start, require_startable, train

PREDICTIONS: Final = "predictions.json"
_SCHEMA: Final = 2


def validate(
    runs: Sequence[Run],
    out: Path,
    *,
    recipe: Recipe,
    encoder: Path | None = None,
    teachers: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    started: Callable[[Run], None] = lambda run: None,
) -> dict[str, tuple[Answer, ...]]:
    """Train each run in its own folder of `out` and return its answers by the run's name.

    teachers: the `out` of another validation; each run learns from the network of the same name, which must not have seen the
    run's test cases. resume: go on with what `out` holds; a run whose answers are there is not trained again.
    Raises DataError, SinkError.
    """
    contents = _contents(runs)
    _require_distinct(runs, contents)
    prepared: list[tuple[Run, Start, dict[str, Any]]] = []
    for run in runs:  # what is wrong is said before the first training
        start = Start(encoder, _teacher(teachers, run, contents) if teachers else None)
        identity = _identity(run, recipe, start, contents)
        prepared.append((run, start, identity))
        if not (saved := out / run.name / PREDICTIONS).exists():
            require_startable(out / run.name, recipe, start, resume=resume)
        elif resume:
            read_answers(saved, identity)
        else:
            raise DataError(f"{out}: holds a validation; add --resume to go on with it or choose another -o")
    answers = {}
    for run, start, identity in prepared:
        started(run)
        folder = out / run.name
        saved = folder / PREDICTIONS
        if not saved.exists():
            checkpoint = train(
                run.training, None, folder, recipe=recipe, start=start, resume=resume, reporter=reporter or Reporter()
            )
            write_answers(saved, answers_of(checkpoint, run.test), identity)
        answers[run.name] = read_answers(saved, identity)
    return answers


@dataclass(frozen=True, slots=True)
class _Content:
    """Sha256 of a case's frame, and of all that it is learned from and scored by."""

    frame: str
    everything: str


def _contents(runs: Sequence[Run]) -> dict[Path, _Content]:
    """What the cases hold, by image; every image is read once."""
    found: dict[Path, _Content] = {}
    for run in runs:
        for case in (*run.training, *run.test):
            if case.image not in found:
                sample = case.read()
                found[case.image] = _Content(fingerprint(sample.pixels), case.digest(sample))
    return found


def _identity(run: Run, recipe: Recipe, start: Start, contents: Mapping[Path, _Content]) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "recipe": asdict(recipe),
        "start": start.identity(),
        "training": _identity_of(run.training, contents),
        "test": _identity_of(run.test, contents),
    }


def _identity_of(data: Dataset, contents: Mapping[Path, _Content]) -> dict[str, Any]:
    digests = "".join(contents[case.image].everything for case in data)
    return {"cases": len(data), "sha256": hashlib.sha256(digests.encode()).hexdigest()}


def _teacher(teachers: Path, run: Run, contents: Mapping[Path, _Content]) -> Teacher:
    found = sorted((teachers / run.name).glob("*.safetensors"))
    if len(found) != 1:
        raise DataError(f"{teachers / run.name}: holds {len(found)} checkpoints, not the one teacher of {run.held_out}")
    teacher = Teacher.open(found[0])
    used = teacher.info.used_frames()
    for case in run.test:
        if contents[case.image].frame in used:
            raise DataError(f"{found[0]}: has seen {case.name}, which {run.held_out} is tried on; take another teacher")
    return teacher


def _require_distinct(runs: Sequence[Run], contents: Mapping[Path, _Content]) -> None:
    """Refuse a frame that counts twice: in two folders, under two labels, or in training and test of one run."""
    for run in runs:
        trained = {case.image for case in run.training}
        for first, case in twins((case, contents[case.image].frame) for case in (*run.training, *run.test)):
            if (first.image in trained) != (case.image in trained):
                raise DataError(
                    f"{first.image} and {case.image} are the same frame, on both sides of {run.held_out}; "
                    "remove one, or give both one group and fold"
                )
            require_alike(first, case)
