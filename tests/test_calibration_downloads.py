"""BUSI and BUS-BRA as their authors publish them, and a plain folder of images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration.dataset import Dataset
from edge.errors import DataError

WritePng = Callable[[Path, np.ndarray], Path]

GREY = np.full((20, 24), 90, np.uint8)
BUSBRA_HEADER = "ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"


def block(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(GREY.shape, np.uint8)
    mask[rows, columns] = 255
    return mask


@pytest.fixture
def busi(tmp_path: Path, write_png: WritePng) -> Path:
    """Dataset_BUSI_with_GT in small: one benign image with two masks, one malignant with one, one normal with none."""
    folder = tmp_path / "BUSI"
    write_png(folder / "benign/benign (1).png", GREY)
    write_png(folder / "benign/benign (1)_mask.png", block(slice(2, 4), slice(3, 6)))
    write_png(folder / "benign/benign (1)_mask_1.png", block(slice(10, 12), slice(15, 20)))
    write_png(folder / "malignant/malignant (12).png", GREY)
    write_png(folder / "malignant/malignant (12)_mask.png", block(slice(5, 9), slice(5, 9)))
    write_png(folder / "normal/normal (3).png", GREY)
    return folder


def test_busi_lists_images_not_masks_with_the_folder_as_label(busi: Path) -> None:
    cases = Dataset.open([busi]).cases
    assert [(case.name, case.label, case.source) for case in cases] == [
        ("benign/benign (1).png", "benign", "BUSI"),
        ("malignant/malignant (12).png", "malignant", "BUSI"),
        ("normal/normal (3).png", "normal", "BUSI"),
    ]


def test_busi_merges_the_masks_of_one_image_and_of_no_other(busi: Path, write_png: WritePng) -> None:
    write_png(busi / "benign/benign (11).png", GREY)
    write_png(busi / "benign/benign (11)_mask.png", block(slice(0, 1), slice(0, 1)))
    first, eleventh = (case.read().mask for case in Dataset.open([busi]) if case.label == "benign")
    assert first is not None
    assert eleventh is not None
    assert np.array_equal(first, (block(slice(2, 4), slice(3, 6)) | block(slice(10, 12), slice(15, 20))) > 0)
    assert np.argwhere(eleventh).tolist() == [[0, 0]]


def test_busi_normal_images_need_no_mask_and_ignore_an_empty_one(busi: Path, write_png: WritePng) -> None:
    write_png(busi / "normal/normal (4).png", GREY)
    write_png(busi / "normal/normal (4)_mask.png", np.zeros_like(GREY))
    normal = [case for case in Dataset.open([busi]) if case.label == "normal"]
    assert [case.name for case in normal] == ["normal/normal (3).png", "normal/normal (4).png"]
    for case in normal:
        mask = case.read().mask
        assert mask is not None
        assert not mask.any()


def test_busi_lesion_without_its_mask_is_refused(busi: Path) -> None:
    (busi / "malignant/malignant (12)_mask.png").unlink()
    with pytest.raises(DataError, match=r"malignant \(12\)\.png: no malignant \(12\)_mask\.png beside it"):
        Dataset.open([busi])


def test_busi_with_one_class_folder_only_is_still_busi(busi: Path) -> None:
    for label in ("malignant", "normal"):
        for file in (busi / label).iterdir():
            file.unlink()
        (busi / label).rmdir()
    assert [case.label for case in Dataset.open([busi])] == ["benign"]


@pytest.fixture
def busbra(tmp_path: Path, write_png: WritePng) -> Path:
    """BUS-BRA in small: patient 1 with both breasts, patients 2 and 3 with one image each."""
    folder = tmp_path / "BUSBRA"
    rows = []
    for name, case, pathology in (
        ("bus_0001-l", 1, "malignant"),
        ("bus_0001-r", 1, "malignant"),
        ("bus_0002-l", 2, "benign"),
        ("bus_0003-l", 3, "benign"),
    ):
        write_png(folder / f"Images/{name}.png", GREY)
        write_png(folder / f"Masks/{name.replace('bus', 'mask')}.png", block(slice(6, 9), slice(4, 10)))
        box = '"[91, 24, 103, 79]"'
        rows.append(f"{name},{case},Fibroadenoma,{pathology},4,GE Logiq 7 @10-14MHz,24,20,left,{box}")
    (folder / "bus_data.csv").write_text("\n".join((BUSBRA_HEADER, *rows)) + "\n")
    return folder


def write_official_folds(folder: Path, folds: dict[str, int]) -> None:
    rows = [f"{name},benign,{fold},0,1,1,1,1" for name, fold in folds.items()]
    header = "ID,Pathology,kFold,valid_1,valid_2,valid_3,valid_4,valid_5"
    (folder / "5-fold-cv.csv").write_text("\n".join((header, *rows)) + "\n")


def test_busbra_as_downloaded_is_read_with_the_official_folds(busbra: Path) -> None:
    write_official_folds(busbra, {"bus_0003-l": 4, "bus_0001-l": 2, "bus_0001-r": 2, "bus_0002-l": 5})
    cases = Dataset.open([busbra]).cases
    assert [(case.name, case.label, case.group, case.fold) for case in cases] == [
        ("Images/bus_0001-l.png", "malignant", "case_1", 2),
        ("Images/bus_0001-r.png", "malignant", "case_1", 2),
        ("Images/bus_0002-l.png", "benign", "case_2", 5),
        ("Images/bus_0003-l.png", "benign", "case_3", 4),
    ]
    assert {(case.source, case.device) for case in cases} == {("BUS-BRA", "GE Logiq 7 @10-14MHz")}
    mask = cases[1].read().mask
    assert mask is not None
    assert mask.sum() == 18


def test_busbra_without_the_fold_file_keeps_a_patient_in_one_fold(busbra: Path) -> None:
    assert [case.fold for case in Dataset.open([busbra])] == [1, 1, 5, 5]  # by the sha256 of case_1, case_2, case_3


def test_busbra_image_that_the_fold_file_leaves_out_joins_its_patient(busbra: Path) -> None:
    write_official_folds(busbra, {"bus_0001-r": 3, "bus_0002-l": 5, "bus_0003-l": 4})
    assert [case.fold for case in Dataset.open([busbra])] == [3, 3, 5, 4]


@pytest.mark.parametrize("file", ["Images/bus_0002-l.png", "Masks/mask_0002-l.png"])
def test_busbra_incomplete_download_is_refused(busbra: Path, file: str) -> None:
    (busbra / file).unlink()
    with pytest.raises(DataError, match=f"{file}: listed for Images/bus_0002-l.png, but not there"):
        Dataset.open([busbra])


def test_busbra_table_without_pathology_is_refused(busbra: Path) -> None:
    table = busbra / "bus_data.csv"
    table.write_text(table.read_text().replace("Pathology", "Finding"))
    with pytest.raises(DataError, match=r"bus_data\.csv: column Pathology is missing"):
        Dataset.open([busbra])


def test_plain_folder_gives_unlabelled_cases_in_order_of_name(tmp_path: Path, write_png: WritePng) -> None:
    for name in ("b.png", "a.JPG", "c.tiff", "sub/d.png"):
        write_png(tmp_path / name, GREY)
    (tmp_path / "notes.txt").write_text("no image")
    dataset = Dataset.open([tmp_path])
    assert [case.name for case in dataset] == ["a.JPG", "b.png", "c.tiff"]
    assert {(case.label, case.masks) for case in dataset} == {(None, ())}
    assert not dataset.labelled
    assert dataset.cases[0].read().mask is None


def test_empty_folder_is_refused_and_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"no images; expected cases\.csv, BUS-BRA .* BUSI"):
        Dataset.open([tmp_path])


@pytest.mark.parametrize("name", ["missing", "file"])
def test_what_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=f"{name}: not a folder"):
        Dataset.open([tmp_path / name])
