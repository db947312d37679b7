"""Folds: parsing, selecting, and hashing so that a group never spans two."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.dataset import FOLDS, Dataset, parse_folds
from edge.errors import DataError

WritePng = Callable[[Path, np.ndarray], Path]


@pytest.mark.parametrize(
    ("text", "folds"),
    [(None, None), ("5", (5,)), ("1,2,3", (1, 2, 3)), ("3, 1,3", (1, 3)), ("7", (7,))],
)
def test_folds_are_numbers_with_commas(text: str | None, folds: tuple[int, ...] | None) -> None:
    assert parse_folds(text) == folds


@pytest.mark.parametrize("text", ["x", "", "0", "1,,2", "1,", "-1", "1-3", "1;2", "1.0", "2,0"])
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DataError, match="for example 5 or 1,2,3") as caught:
        parse_folds(text)
    assert f"--folds {text}:" in str(caught.value)


@given(st.sets(st.integers(1, 99), min_size=1))
def test_parsing_undoes_writing(folds: set[int]) -> None:
    assert parse_folds(",".join(map(str, folds))) == tuple(sorted(folds))


def test_folds_select_their_cases(small_dataset: Path) -> None:
    assert len(Dataset.open([small_dataset])) == 20
    chosen = Dataset.open([small_dataset], folds=(2, 5))
    assert [case.group for case in chosen] == ["g4", "g5", "g6", "g7", "g16", "g17", "g18", "g19"]


def test_folds_that_select_nothing_are_refused(small_dataset: Path) -> None:
    with pytest.raises(DataError, match="no case is in fold 6 and 9; choose others with --folds"):
        Dataset.open([small_dataset], folds=(6, 9))


def write_cases(folder: Path, rows: list[tuple[str, int | None]]) -> Dataset:
    """Cases c0, c1 … of the given (group, fold), all of one image."""
    (folder / "image.png").touch()
    lines = [f"image.png,benign,{group},{fold or ''}" for group, fold in rows]
    (folder / "cases.csv").write_text("\n".join(("image,label,group,fold", *lines)) + "\n")
    return Dataset.open([folder])


def test_hashed_folds_are_the_same_on_every_machine_and_version(tmp_path: Path) -> None:
    """Golden: another hash would move cases between training and test of figures already published."""
    groups = ("case_1", "case_2", "cluster_317", "bénigne", "a.png", "b.png")
    dataset = write_cases(tmp_path, [(group, None) for group in groups])
    assert [case.fold for case in dataset] == [1, 5, 3, 2, 1, 3]


def test_a_case_without_group_is_hashed_by_its_name(tmp_path: Path, write_png: WritePng) -> None:
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, np.zeros((20, 20), np.uint8))
    assert [case.fold for case in Dataset.open([tmp_path])] == [1, 3]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([f"p{number}" for number in range(12)]), min_size=1, max_size=60),
    st.dictionaries(st.sampled_from([f"p{number}" for number in range(12)]), st.integers(1, 9), max_size=6),
    st.data(),
)
def test_no_group_spans_folds_however_few_folds_are_given(
    groups: list[str], given_folds: dict[str, int], data: st.DataObject
) -> None:
    """Some rows of a group may name its fold and others leave it out."""
    rows = [(group, given_folds.get(group) if data.draw(st.booleans()) else None) for group in groups]
    with TemporaryDirectory() as folder:
        dataset = write_cases(Path(folder), rows)
    folds = defaultdict(set)
    for case, (_, fold) in zip(dataset, rows, strict=True):
        folds[case.group].add(case.fold)
        assert fold in (None, case.fold)
    assert all(len(each) == 1 for each in folds.values())


def test_hashing_uses_every_fold_about_alike(tmp_path: Path) -> None:
    dataset = write_cases(tmp_path, [(f"patient {number}", None) for number in range(1000)])
    counts = np.bincount([case.fold for case in dataset], minlength=FOLDS + 1)
    assert counts[0] == 0
    assert len(counts) == FOLDS + 1
    assert counts[1:].min() > 150
