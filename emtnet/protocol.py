"""Which networks a validation trains and what each is tried on: folds, sources left out, scanners left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from calibration.dataset import Case, Dataset
from calibration.metrics import LESIONS
from edge.errors import DataError

Kind = Literal["folds", "sources", "scanners"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Run:
    """One training and what it is tried on. name: of its folder; held_out: the fold, source or scanner in words."""

    kind: Kind
    name: str
    held_out: str
    training: Dataset
    test: Dataset


def plan(
    data: Dataset, kinds: Sequence[Kind] = KINDS, *, passed_over: Callable[[str], None] = lambda what: None
) -> tuple[Run, ...]:
    """The runs of a validation over the cases' own folds.

    folds: each fold left out in turn. sources: each data set left out, where there are several. scanners: each scanner left
    out of those cases of its data set that name one, where there are several; only that data set is trained on. A source or
    scanner that leaves one class without cases, in training or test, is passed over; `passed_over` is told in a sentence. Raises
    DataError when folds are missing or split a group, or when no run is left.
    """
    _require_sound(data)
    makers = {"folds": _folds, "sources": _sources, "scanners": _scanners}
    every = [run for kind in KINDS if kind in kinds for run in makers[kind](data)]
    runs = tuple(run for run in every if _both_classes(run.training) and _both_classes(run.test))
    for run in every:
        if run not in runs:
            passed_over(f"{run.held_out} is not left out: without it, or in it, one class has no case")
    if not runs:
        raise DataError(f"these data have no {' and no '.join(kinds)} to leave out with both classes on either side")
    named: dict[str, str] = {}
    for run in runs:
        if (other := named.setdefault(run.name, run.held_out)) != run.held_out:
            raise DataError(f"{other} and {run.held_out} differ in signs only; give them names of their own")
    return runs


def _folds(data: Dataset) -> list[Run]:
    folds = sorted({case.fold for case in data})
    runs = []
    for fold in folds:
        training, test = _split(data, [case.fold == fold for case in data])
        runs.append(Run("folds", f"fold-{fold}", f"fold {fold}", training, test))
    return runs


def _sources(data: Dataset) -> list[Run]:
    runs = []
    sources = sorted({case.source for case in data})
    for source in sources if len(sources) > 1 else ():
        training, test = _split(data, [case.source == source for case in data])
        runs.append(Run("sources", f"source-{_slug(source)}", source, training, test))
    return runs


def _scanners(data: Dataset) -> list[Run]:
    runs = []
    for source in sorted({case.source for case in data}):
        own = Dataset(tuple(case for case in data if case.source == source and case.device))
        devices = sorted({case.device for case in own})
        for device in devices if len(devices) > 1 else ():
            training, test = _split(own, [case.device == device for case in own])
            # A patient seen with two scanners stays with the one that is left out.
            held = {case.subject for case in test}
            training = Dataset(tuple(case for case in training if case.subject not in held))
            name = f"scanner-{_slug(source)}-{_slug(device)}"
            runs.append(Run("scanners", name, f"{source} {device}", training, test))
    return runs


def _split(data: Dataset, held: Sequence[bool]) -> tuple[Dataset, Dataset]:
    training = tuple(case for case, out in zip(data, held, strict=True) if not out)
    return Dataset(training), Dataset(tuple(case for case, out in zip(data, held, strict=True) if out))


def _both_classes(data: Dataset) -> bool:
    return set(LESIONS) <= {case.label for case in data}


def _require_sound(data: Dataset) -> None:
    if not data.labelled:
        raise DataError("cross-validation needs a label for every case; plain images have none")
    folds = sorted({case.fold for case in data})
    if len(folds) < 2:
        raise DataError(f"all cases are in fold {folds[0]}; cross-validation needs two folds or more")
    if missing := sorted(set(range(1, folds[-1])) - set(folds)):
        raise DataError(
            f"no case is in fold {' and '.join(map(str, missing))} of {folds[-1]}; number the folds without a gap"
        )
    for source in sorted({case.source for case in data}):
        own = [case for case in data if case.source == source]
        if absent := set(LESIONS) - {case.label for case in own}:
            raise DataError(
                f"{source} has no {' and no '.join(sorted(absent))} case; cross-validation needs both classes"
            )
        for fold in folds:
            _require_classes([case for case in own if case.fold == fold], source, fold)
    where: dict[str, int] = {}
    for case in data:
        if (first := where.setdefault(case.subject, case.fold)) != case.fold:
            raise DataError(
                f"group {case.group or case.name} of {case.source} is in folds {first} and {case.fold}; keep it in one"
            )


def _require_classes(cases: Sequence[Case], source: str, fold: int) -> None:
    if not cases:
        raise DataError(f"{source} has no case in fold {fold}, other data have; number its folds as theirs")
    if missing := set(LESIONS) - {case.label for case in cases}:
        raise DataError(f"fold {fold} of {source} has no {' and no '.join(sorted(missing))} case; draw the folds again")


def _slug(text: str) -> str:
    words = "".join(letter if letter.isalnum() else " " for letter in text.lower())
    return "-".join(words.split())
