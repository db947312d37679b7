"""cases.csv: what is read, what is refused, and the pixels behind a case."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from calibration.dataset import Case, Dataset
from edge.errors import DataError
from edge.frame import fingerprint

WritePng = Callable[[Path, np.ndarray], Path]

HEADER = "image,mask,label,group,fold,source,device,birads"
PIXELS = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path, write_png: WritePng) -> Path:
    """Two images and a mask, not yet listed."""
    mask = np.zeros((24, 32), np.uint8)
    mask[4:8, 10:20] = 255
    write_png(tmp_path / "a.png", PIXELS)
    write_png(tmp_path / "b.png", 255 - PIXELS)
    write_png(tmp_path / "m.png", mask)
    return tmp_path


def listed(folder: Path, *lines: str, header: str = HEADER) -> Dataset:
    (folder / "cases.csv").write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return Dataset.open([folder])


def test_every_column_reaches_the_case(folder: Path) -> None:
    dataset = listed(folder, "a.png,m.png,malignant,case_1,3,BUS-BRA,GE Logiq 7,4")
    assert dataset.cases == (
        Case(folder / "a.png", "a.png", (folder / "m.png",), "malignant", "case_1", 3, "BUS-BRA", "GE Logiq 7"),
    )
    sample = dataset.cases[0].read()
    assert np.array_equal(sample.pixels, PIXELS)
    assert sample.mask is not None
    assert sample.mask.dtype == np.bool_
    assert np.argwhere(sample.mask).min(axis=0).tolist() == [4, 10]
    assert sample.mask.sum() == 40


def test_a_byte_order_mark_and_crlf_line_ends_are_read_as_spreadsheets_write_them(folder: Path) -> None:
    text = f"{HEADER}\r\na.png,m.png,benign,g,2,S,D,\r\nb.png,,malignant,h,1,S,D,\r\n"
    (folder / "cases.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    dataset = Dataset.open([folder])
    assert [(case.name, case.device, case.fold) for case in dataset] == [("a.png", "D", 2), ("b.png", "D", 1)]


def test_only_image_and_label_are_required(folder: Path) -> None:
    dataset = listed(folder, "a.png,benign", header="image,label")
    case = dataset.cases[0]
    assert (case.group, case.source, case.device, case.masks) == ("a.png", folder.name, "", ())
    assert 1 <= case.fold <= 5


def test_a_row_that_ends_early_has_empty_cells(folder: Path) -> None:
    assert listed(folder, "a.png,,benign").cases[0].masks == ()


@pytest.mark.parametrize("label", ["Malignant", "MALIGNANT", " malignant "])
def test_labels_are_read_in_any_case(folder: Path, label: str) -> None:
    assert listed(folder, f"a.png,,{label},g,1,,,").cases[0].label == "malignant"


def test_a_lesion_without_a_mask_file_has_no_mask(folder: Path) -> None:
    assert listed(folder, "a.png,,benign,g,1,,,").cases[0].read().mask is None


def test_a_normal_case_has_an_empty_mask_without_a_file(folder: Path) -> None:
    mask = listed(folder, "a.png,,normal,g,1,,,").cases[0].read().mask
    assert mask is not None
    assert mask.shape == PIXELS.shape
    assert not mask.any()


@pytest.mark.parametrize("missing", ["image", "label"])
def test_a_missing_column_is_named(folder: Path, missing: str) -> None:
    header = HEADER.replace(missing, "other")
    with pytest.raises(DataError, match=rf"cases\.csv: column {missing} is missing"):
        listed(folder, "a.png,m.png,benign,g,1,,,", header=header)


@pytest.mark.parametrize("label", ["cyst", "", "0"])
def test_an_unknown_label_is_refused_with_its_line(folder: Path, label: str) -> None:
    with pytest.raises(DataError, match=rf"line 3: label '{label}' is none of benign, malignant, normal"):
        listed(folder, "a.png,,benign,g,1,,,", f"b.png,,{label},h,1,,,")


@pytest.mark.parametrize("fold", ["0", "-1", "1.5", "one", "²"])
def test_a_fold_that_is_no_number_from_one_is_refused_with_its_line(folder: Path, fold: str) -> None:
    with pytest.raises(DataError, match=f"line 2: fold '{fold}'"):
        listed(folder, f"a.png,,benign,g,{fold},,,")


@pytest.mark.parametrize(
    ("line", "absent"),
    [("gone.png,m.png,benign,g,1,,,", "gone.png"), ("a.png,gone_mask.png,benign,g,1,,,", "gone_mask")],
)
def test_a_listed_file_that_is_not_there_is_refused_at_opening(folder: Path, line: str, absent: str) -> None:
    with pytest.raises(DataError, match=rf"{absent}.*not there"):
        listed(folder, line)


@pytest.mark.parametrize("content", [b"", b"\xff\xfeimage", b"image,label\n"])
def test_a_file_that_lists_nothing_readable_is_refused(folder: Path, content: bytes) -> None:
    (folder / "cases.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"cases\.csv"):
        Dataset.open([folder])


def test_a_mask_of_another_size_is_refused_with_both_sizes(folder: Path, write_png: WritePng) -> None:
    write_png(folder / "m.png", np.zeros((24, 31), np.uint8))
    case = listed(folder, "a.png,m.png,benign,g,1,,,").cases[0]
    with pytest.raises(DataError, match=r"m\.png: the mask is 31×24 pixels, its image 32×24"):
        case.read()


def test_a_file_that_is_no_image_is_refused_when_read(folder: Path) -> None:
    (folder / "a.png").write_bytes(b"not a picture")
    case = listed(folder, "a.png,m.png,benign,g,1,,,").cases[0]
    with pytest.raises(DataError, match=r"a\.png: not an image"):
        case.read()


def test_colour_images_become_grey(folder: Path, write_png: WritePng) -> None:
    grey_in_colour = np.repeat(PIXELS[..., None], 3, axis=2)
    write_png(folder / "a.png", grey_in_colour)
    write_png(folder / "b.png", np.full((24, 32, 3), (0, 0, 255), np.uint8))
    grey, red = (case.read().pixels for case in listed(folder, "a.png,,benign,g,1,,,", "b.png,,benign,h,1,,,"))
    assert np.array_equal(grey, PIXELS)
    assert np.unique(red).tolist() == [76]  # ITU-R BT.601: 0.299 of 255


def test_sixteen_bit_images_keep_their_high_byte(folder: Path, write_png: WritePng) -> None:
    write_png(folder / "a.png", PIXELS.astype(np.uint16) * 256 + 255)
    assert np.array_equal(listed(folder, "a.png,,benign,g,1,,,").cases[0].read().pixels, PIXELS)


def test_a_mask_is_everything_that_is_not_black(folder: Path) -> None:
    colour = np.zeros((24, 32, 3), np.uint8)
    colour[3, 5] = (0, 1, 0)
    assert cv2.imwrite(str(folder / "m.png"), colour)
    mask = listed(folder, "a.png,m.png,benign,g,1,,,").cases[0].read().mask
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[3, 5]]


def test_a_data_set_knows_whether_it_is_labelled_and_what_its_frames_are(folder: Path) -> None:
    dataset = listed(folder, "a.png,,benign,g,1,,,", "b.png,,malignant,h,1,,,")
    assert dataset.labelled
    assert not Dataset((*dataset.cases, Case(folder / "a.png", "a.png"))).labelled
    assert dataset.fingerprints() == (fingerprint(PIXELS), fingerprint(255 - PIXELS))
    assert len(dataset) == len(list(dataset)) == 2


def test_several_folders_are_read_in_their_order(folder: Path, tmp_path: Path, write_png: WritePng) -> None:
    listed(folder, "b.png,,benign,g,1,,,")
    other = tmp_path / "other"
    write_png(other / "z.png", PIXELS)
    assert [case.name for case in Dataset.open([other, folder])] == ["z.png", "b.png"]
    assert [case.name for case in Dataset.open([folder, other])] == ["b.png", "z.png"]
