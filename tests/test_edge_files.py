"""Predictions of image files: which files, under which names, and what is recorded."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError, SinkError
from edge.files import list_images, overlay_names, prediction_record, write_overlay
from edge.overlay import draw_overlay
from edge.predictor import Prediction, Timing


def prediction(lesion: bool = True) -> Prediction:
    level = np.zeros((60, 80), np.uint8)
    level[10:30, 40:45] = 200 if lesion else 127
    return Prediction(
        level,
        np.zeros((4, 4), np.float32),
        {"benign": 0.75, "malignant": 0.25},
        "malignant",
        "benign" if lesion else "no lesion",
        Timing(1.5, 20.0, 2),
        presence=0.875 if lesion else 0.125,
    )


# Listing


def test_folders_are_expanded_in_order_and_files_taken_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    (folder / "folder.png").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "c.tiff", "notes.txt", "d.bmp", "cases.csv"):
        (folder / name).touch()
    single = tmp_path / "z.dat"
    single.touch()
    listed = list_images([single, folder])
    assert [path.name for path in listed] == ["z.dat", "a.jpg", "b.PNG", "c.tiff", "d.bmp"]


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        list_images([tmp_path / "gone.png"])


def test_a_folder_without_images_is_an_error_even_beside_one_with(tmp_path: Path) -> None:
    for name in ("full/a.png", "empty/notes.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="empty: no images"):
        list_images([tmp_path / "full", tmp_path / "empty"])


# Names


def test_files_of_one_name_get_numbers() -> None:
    files = [Path("x/a.png"), Path("y/a.png"), Path("z/a.jpg"), Path("x/b.png")]
    assert list(overlay_names(files).values()) == [
        "a_overlay.png",
        "a_2_overlay.png",
        "a_3_overlay.png",
        "b_overlay.png",
    ]


STEMS = st.sampled_from(["a", "a_2", "a_2_2", "a_overlay", "a.b", "ä"])


@given(st.lists(st.tuples(st.sampled_from("xyz"), STEMS, st.sampled_from([".png", ".jpg"])), unique=True))
def test_no_overlay_takes_the_place_of_another(parts: list[tuple[str, str, str]]) -> None:
    files = [Path(folder) / f"{stem}{suffix}" for folder, stem, suffix in parts]
    names = overlay_names(files)
    assert list(names) == files
    assert len(set(names.values())) == len(files)
    assert all(Path(name).name == name and name.endswith("_overlay.png") for name in names.values())


# Writing


def test_the_overlay_file_holds_the_overlay(tmp_path: Path) -> None:
    pixels = np.full((60, 80), 90, np.uint8)
    write_overlay(tmp_path / "out" / "a_overlay.png", pixels, prediction())
    read = cv2.imread(str(tmp_path / "out" / "a_overlay.png"))
    assert np.array_equal(np.asarray(read), draw_overlay(pixels, prediction()))


def test_an_overlay_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(SinkError, match=r"a_overlay\.png: cannot be written .No space left"):
        write_overlay(tmp_path / "a_overlay.png", np.zeros((60, 80), np.uint8), prediction())
    assert not list(tmp_path.iterdir())


# Records


def test_a_record_survives_json() -> None:
    record = prediction_record(Path("frames/a.png"), prediction())
    assert json.loads(json.dumps(record)) == {
        "image": "frames/a.png",
        "decision": "benign",
        "presence": 0.875,
        "malignancy": 0.25,
        "probabilities": {"benign": 0.75, "malignant": 0.25},
        "lesion_area_px": 100,
        "lesion_box_px": [40, 10, 5, 20],
        "timing_ms": {"preprocess": 1.5, "infer": 20.0, "postprocess": 2.0, "total": 23.5},
    }


@pytest.mark.parametrize("level", [127, 255])
def test_a_frame_without_lesion_has_neither_a_box_nor_a_class(level: int) -> None:
    found = replace(prediction(lesion=False), mask_level=np.full((60, 80), level, np.uint8))
    record = json.loads(json.dumps(prediction_record(Path("a.png"), found)))
    assert (record["decision"], record["presence"]) == ("no lesion", 0.125)
    assert (record["lesion_area_px"], record["lesion_box_px"]) == (0, None)
    assert (record["malignancy"], record["probabilities"]) == (None, {"benign": None, "malignant": None})


def test_what_a_network_has_no_output_for_is_null() -> None:
    mask_only = replace(prediction(), probabilities={}, positive=None, decision="lesion", presence=None)
    record = json.loads(json.dumps(prediction_record(Path("a.png"), mask_only)))
    assert record["presence"] is None
    assert (record["malignancy"], record["probabilities"], record["lesion_area_px"]) == (None, {}, 100)
    class_only = replace(prediction(), mask_level=None, mask_probability=None)
    record = json.loads(json.dumps(prediction_record(Path("a.png"), class_only)))
    assert (record["malignancy"], record["lesion_area_px"], record["lesion_box_px"]) == (0.25, None, None)
