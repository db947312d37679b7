"""Which networks a validation trains: nothing of a test is ever in its training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.dataset import Case, Dataset, Label
from edge.errors import DataError
from emtnet.protocol import KINDS, Kind, Run, plan

LABELS: tuple[Label, ...] = ("benign", "malignant", "normal")


def source(name: str, *, folds: int = 3, devices: Sequence[str] = ("",)) -> list[Case]:
    """A patient of each label in every fold, on every device."""
    return [
        Case(
            Path(f"/none/{name}/{fold}-{label}-{device}.png"),
            f"{fold}-{label}-{device}.png",
            label=label,
            group=f"{fold}-{label}-{device}",
            fold=fold,
            source=name,
            device=device,
        )
        for fold in range(1, folds + 1)
        for label in LABELS
        for device in devices
    ]


def data(*cases: list[Case]) -> Dataset:
    return Dataset(tuple(case for part in cases for case in part))


TWO = data(source("Old"), source("New Clinic", devices=("GE E9", "Mindray")))


def by_name(runs: Sequence[Run]) -> dict[str, Run]:
    assert len({run.name for run in runs}) == len(runs)
    return {run.name: run for run in runs}


def test_everything_is_left_out_in_turn() -> None:
    runs = plan(TWO)
    assert [(run.kind, run.name, run.held_out) for run in runs] == [
        ("folds", "fold-1", "fold 1"),
        ("folds", "fold-2", "fold 2"),
        ("folds", "fold-3", "fold 3"),
        ("sources", "source-new-clinic", "New Clinic"),
        ("sources", "source-old", "Old"),
        ("scanners", "scanner-new-clinic-ge-e9", "New Clinic GE E9"),
        ("scanners", "scanner-new-clinic-mindray", "New Clinic Mindray"),
    ]
    for run in runs:
        assert not set(run.training) & set(run.test)
        groups = [{(case.source, case.group) for case in part} for part in (run.training, run.test)]
        assert not groups[0] & groups[1]


def test_every_case_is_tried_in_one_fold_and_learned_from_in_the_others() -> None:
    runs = plan(TWO, ["folds"])
    assert [case for run in runs for case in run.test] == sorted(TWO, key=lambda case: case.fold)
    for run in runs:
        assert {case.fold for case in run.test} == {int(run.name.removeprefix("fold-"))}
        assert set(run.training) | set(run.test) == set(TWO)


def test_a_source_is_tried_by_networks_of_the_others() -> None:
    run = by_name(plan(TWO, ["sources"]))["source-old"]
    assert {case.source for case in run.test} == {"Old"}
    assert {case.source for case in run.training} == {"New Clinic"}
    assert len(run.training) + len(run.test) == len(TWO)


def test_a_scanner_is_tried_by_networks_of_its_own_source() -> None:
    unnamed = [replace(case, name=f"x{case.name}", group="", device="") for case in source("New Clinic")]
    run = by_name(plan(data([*TWO], unnamed), ["scanners"]))["scanner-new-clinic-mindray"]
    assert {(case.source, case.device) for case in run.test} == {("New Clinic", "Mindray")}
    assert {(case.source, case.device) for case in run.training} == {("New Clinic", "GE E9")}


def test_a_patient_seen_with_two_scanners_is_only_tried() -> None:
    cases = source("S", devices=("A", "B"))
    both = [replace(case, group="both") for case in cases if case.fold == 1 and case.label == "benign"]
    runs = by_name(plan(data([*both, *(case for case in cases if case.name not in {b.name for b in both})])))
    for device in ("A", "B"):
        run = runs[f"scanner-s-{device.lower()}"]
        assert [case.device for case in run.test if case.group == "both"] == [device]
        assert not [case for case in run.training if case.group == "both"]
        assert len(run.training) == 8
        assert len(run.test) == 9


def test_scanners_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"Clinic GE E9 and Clinic GE-E9 differ in signs only; give them names of their own"
    ):
        plan(data(source("Clinic", devices=("GE E9", "GE-E9"))))


def test_cases_without_a_group_are_groups_of_their_own() -> None:
    runs = by_name(plan(data([replace(case, group="") for case in source("S", devices=("A", "B"))])))
    assert len(runs["scanner-s-a"].training) == 9


def test_what_is_passed_over_is_told() -> None:
    cases = source("S", devices=("A", "B", "C"))
    kept = [case for case in cases if case.device != "C" or case.label == "benign"]
    told: list[str] = []
    plan(data(kept), passed_over=told.append)
    assert told == ["S C is not left out: without it, or in it, one class has no case"]
    told.clear()
    plan(data(source("S")), passed_over=told.append)
    assert told == []


def test_a_gap_in_the_folds_is_refused() -> None:
    with pytest.raises(DataError, match="no case is in fold 2 of 3; number the folds without a gap"):
        plan(data([case for case in source("S") if case.fold != 2]))


def test_what_one_source_and_one_scanner_cannot_show_is_passed_over() -> None:
    assert {run.kind for run in plan(data(source("S")))} == {"folds"}
    assert {run.kind for run in plan(data(source("S", devices=("A",))))} == {"folds"}


def test_a_scanner_with_one_class_is_passed_over_on_either_side() -> None:
    """Two have both classes, the third none but benign cases; each is fine to learn from."""
    cases = source("S", devices=("A", "B", "C"))
    kept = [case for case in cases if case.device != "C" or case.label == "benign"]
    assert set(by_name(plan(data(kept), ["scanners"]))) == {"scanner-s-a", "scanner-s-b"}
    alone = [case for case in kept if case.device != "B"]
    with pytest.raises(DataError, match="these data have no scanners to leave out with both classes on either side"):
        plan(data(alone), ["scanners"])


def test_a_source_without_a_class_cannot_be_validated() -> None:
    benign = [case for case in source("T") if case.label == "benign"]
    with pytest.raises(DataError, match="T has no malignant case; cross-validation needs both classes"):
        plan(data(source("S"), benign))


@pytest.mark.parametrize("kinds", [["folds"], ["sources"], ["scanners"], ["scanners", "folds"]])
def test_only_the_wanted_kinds_are_planned_in_one_order(kinds: list[Kind]) -> None:
    found = [run.kind for run in plan(TWO, kinds)]
    assert set(found) == set(kinds)
    assert found == sorted(found, key=KINDS.index)


def test_a_normal_case_is_no_class() -> None:
    cases = [case for case in source("S") if case.label != "normal"]
    assert len(plan(data(cases))) == 3


def without(cases: list[Case], *, fold: int, label: Label) -> list[Case]:
    return [case for case in cases if (case.fold, case.label) != (fold, label)]


def moved(cases: list[Case], group: str) -> list[Case]:
    """The first case of fold 1 and of fold 2 become one patient's."""
    first = next(case for case in cases if case.fold == 1)
    second = next(case for case in cases if case.fold == 2)
    return [replace(case, group=group) if case in (first, second) else case for case in cases]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (data(source("S", folds=1)), "all cases are in fold 1; cross-validation needs two folds or more"),
        (data(source("S"), source("T", folds=2)), "T has no case in fold 3, other data have; number its folds"),
        (data(without(source("S"), fold=2, label="malignant")), "fold 2 of S has no malignant case; draw the folds"),
        (data(without(source("S"), fold=3, label="benign")), "fold 3 of S has no benign case"),
        (
            data(without(without(source("S"), fold=3, label="benign"), fold=3, label="malignant")),
            "fold 3 of S has no benign and no malignant case",
        ),
        (data(moved(source("S"), "p7")), "group p7 of S is in folds 1 and 2; keep it in one"),
        (data([*source("S"), Case(Path("/none/x.png"), "x.png", fold=1)]), "needs a label for every case"),
    ],
)
def test_data_that_cannot_be_cross_validated_are_refused(refused: Dataset, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plan(refused)
    with pytest.raises(DataError, match=message):
        plan(refused, ["folds"])


def test_groups_of_one_name_in_two_sources_are_two_patients() -> None:
    first, second = source("S"), source("T")
    shared = [replace(case, group="p1") if case.fold == 1 and case.label == "benign" else case for case in first]
    other = [replace(case, group="p1") if case.fold == 2 and case.label == "benign" else case for case in second]
    assert len(plan(data(shared, other), ["folds"])) == 3
