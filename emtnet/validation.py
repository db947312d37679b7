"""Cross-validation: train every run of the plan and keep what each network said of the cases it never saw."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from edge.errors import DataError
from edge.frame import fingerprint
from emtnet.answers import Answer, answers_of, read_answers, write_answers
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.teacher import Teacher
from emtnet.train import Reporter, Start, train

PREDICTIONS: Final = "predictions.json"
_SCHEMA: Final = 1


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
    _require_distinct(runs)
    starts = [Start(encoder, _teacher(teachers, run) if teachers else None) for run in runs]
    identities = [_identity(run, recipe, start) for run, start in zip(runs, starts, strict=True)]
    for run, identity in zip(runs, identities, strict=True):  # what is wrong is said before the first training
        if (saved := out / run.name / PREDICTIONS).exists():
            if not resume:
                raise DataError(f"{out}: holds a validation; add --resume to go on with it or choose another -o")
            read_answers(saved, identity)
    answers = {}
    for run, start, identity in zip(runs, starts, identities, strict=True):
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


def _identity(run: Run, recipe: Recipe, start: Start) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "recipe": asdict(recipe),
        "start": start.identity(),
        "training": [f"{case.source}/{case.name}" for case in run.training],
        "test": [f"{case.source}/{case.name}" for case in run.test],
    }


def _teacher(teachers: Path, run: Run) -> Teacher:
    found = sorted((teachers / run.name).glob("*.safetensors"))
    if len(found) != 1:
        raise DataError(f"{teachers / run.name}: holds {len(found)} checkpoints, not the one teacher of {run.held_out}")
    teacher = Teacher.open(found[0])
    used = teacher.info.used_frames()
    for case in run.test:
        if fingerprint(case.read().pixels) in used:
            raise DataError(f"{found[0]}: has seen {case.name}, which {run.held_out} is tried on; take another teacher")
    return teacher


def _require_distinct(runs: Sequence[Run]) -> None:
    """Refuse a frame that stands in training and test of one run, under whatever name."""
    known: dict[Path, str] = {}
    for run in runs:
        for case in (*run.training, *run.test):
            if case.image not in known:
                known[case.image] = fingerprint(case.read().pixels)
        trained = {known[case.image]: case for case in run.training}
        for case in run.test:
            if (twin := trained.get(known[case.image])) is not None:
                raise DataError(
                    f"{case.image} and {twin.image} are the same frame, on both sides of {run.held_out}; "
                    "remove one, or give both one group and fold"
                )
