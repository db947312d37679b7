"""The real data sets beside the checkout: complete, readable, and split by patient."""

from collections import defaultdict
from pathlib import Path

import pytest

from calibration.dataset import Dataset


@pytest.mark.parametrize(
    ("name", "images", "benign", "malignant", "normal", "groups"),
    [("busbra", 1875, 1268, 607, 0, 1064), ("busi", 771, 432, 207, 132, None)],
)
def test_every_case_is_listed(
    shared: Path, name: str, images: int, benign: int, malignant: int, normal: int, groups: int | None
) -> None:
    dataset = Dataset.open([shared / "data" / name])
    labels = [case.label for case in dataset]
    assert len(dataset) == images
    assert [labels.count(label) for label in ("benign", "malignant", "normal")] == [benign, malignant, normal]
    assert groups in (None, len({case.group for case in dataset}))
    assert dataset.labelled


@pytest.mark.parametrize("name", ["busbra", "busi"])
def test_no_group_spans_folds_and_every_fold_has_both_classes(shared: Path, name: str) -> None:
    folds, labels = defaultdict(set), defaultdict(set)
    for case in Dataset.open([shared / "data" / name]):
        folds[case.group].add(case.fold)
        labels[case.fold].add(case.label)
    assert [group for group, each in folds.items() if len(each) > 1] == []
    assert sorted(labels) == [1, 2, 3, 4, 5]
    assert all(each >= {"benign", "malignant"} for each in labels.values())


def test_both_data_sets_open_together(shared: Path) -> None:
    folders = [shared / "data/busbra", shared / "data/busi"]
    both = Dataset.open(folders, folds=(5,))
    assert len(both) == sum(len(Dataset.open([folder], folds=(5,))) for folder in folders)
    assert {case.source for case in both} == {"BUS-BRA", "BUSI"}


@pytest.mark.parametrize("name", ["busbra", "busi"])
def test_cases_of_every_label_can_be_read(shared: Path, name: str) -> None:
    cases = Dataset.open([shared / "data" / name]).cases
    for case in {case.label: case for case in cases}.values():
        sample = case.read()
        assert sample.mask is not None
        assert sample.mask.shape == sample.pixels.shape
        assert sample.mask.any() == (case.label != "normal")
        assert sample.mask.mean() < 0.9
        assert sample.pixels.std() > 10
