"""The calibration subset: seeded, of the size asked for, and with something of every kind."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.dataset import Case, Dataset, Label
from calibration.subset import calibration_frames, every_frame, phantom_frames, stratified
from edge.errors import CalibrationError, DataError
from edge.frame import fingerprint, read_image
from edge.phantom import phantom_case


@dataclass(frozen=True)
class Kind:
    """What a stratum looks at."""

    label: Label | None
    device: str


KINDS = st.builds(Kind, st.sampled_from(["benign", "malignant", "normal", None]), st.sampled_from(["A", "B", ""]))
CASES = st.lists(st.tuples(KINDS, st.floats(0, 255)), min_size=1, max_size=80)
STRATA = 3  # a label and device are divided by thirds of brightness


@given(CASES, st.integers(0, 100), st.integers(0, 2**32))
def test_the_choice_is_exact_in_order_without_duplicates_and_repeatable(
    cases: list[tuple[Kind, float]], count: int, seed: int
) -> None:
    kinds, brightness = zip(*cases, strict=True)
    chosen = stratified(kinds, brightness, count=count, seed=seed)
    assert len(chosen) == min(count, len(cases))
    assert chosen == sorted(set(chosen))
    assert all(0 <= index < len(cases) for index in chosen)
    assert chosen == stratified(kinds, brightness, count=count, seed=seed)


@given(CASES, st.integers(0, 2**32))
def test_every_label_and_device_is_there_once_the_count_allows(cases: list[tuple[Kind, float]], seed: int) -> None:
    kinds, brightness = zip(*cases, strict=True)
    chosen = stratified(kinds, brightness, count=STRATA * len(set(kinds)), seed=seed)
    assert {kinds[index] for index in chosen} == set(kinds)


def test_rare_kinds_are_taken_whole_before_common_ones_fill_up() -> None:
    kinds = [Kind("benign", "common")] * 900 + [Kind("malignant", "rare")] * 9
    brightness = np.random.default_rng(0).uniform(0, 255, len(kinds)).tolist()
    chosen = stratified(kinds, brightness, count=60, seed=0)
    assert Counter(kinds[index].device for index in chosen) == {"rare": 9, "common": 51}


def test_dark_medium_and_bright_frames_take_turns() -> None:
    brightness = [*range(100, 190), 0, 1, 2, 250, 251, 252]
    kinds = [Kind("benign", "A")] * len(brightness)
    chosen = [brightness[index] for index in stratified(kinds, brightness, count=30, seed=4)]
    low, high = np.quantile(brightness, [1 / 3, 2 / 3])
    assert [sum(value < low for value in chosen), sum(value >= high for value in chosen)] == [10, 10]


def test_another_seed_chooses_other_cases() -> None:
    kinds = [Kind("benign", "A")] * 100
    first, second = (stratified(kinds, list(range(100)), count=20, seed=seed) for seed in (0, 1))
    assert first != second


def test_frames_are_native_their_fingerprints_match_and_the_source_is_named(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset])
    chosen = calibration_frames(dataset, count=12, seed=3)
    assert chosen.source == "Phantom"
    assert len(chosen.frames) == len(set(chosen.sha256)) == 12
    assert chosen.sha256 == tuple(fingerprint(frame) for frame in chosen.frames)
    assert set(chosen.sha256) <= set(dataset.fingerprints())
    assert {frame.shape for frame in chosen.frames} == {(96, 112)}
    assert calibration_frames(dataset, count=12, seed=3).sha256 == chosen.sha256
    assert calibration_frames(dataset, count=12, seed=4).sha256 != chosen.sha256


def test_all_frames_in_order_when_there_are_fewer(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    assert calibration_frames(dataset).sha256 == dataset.fingerprints()


def test_every_frame_is_each_once_with_its_patient(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset])
    chosen = every_frame(dataset)
    assert chosen.sha256 == dataset.fingerprints()
    assert chosen.groups == tuple(case.subject for case in dataset)
    assert chosen.source == "Phantom"


def test_a_source_without_name_is_called_after_its_folder(small_dataset: Path) -> None:
    image = small_dataset / "images/0.png"
    assert calibration_frames(Dataset((Case(image, "0.png"),))).source == "images"


def test_progress_sees_every_case(small_dataset: Path) -> None:
    seen: list[str] = []

    def progress(cases: Iterable[Case]) -> Iterable[Case]:
        for case in cases:
            seen.append(case.name)
            yield case

    dataset = Dataset.open([small_dataset], folds=(1, 2))
    calibration_frames(dataset, count=2, progress=progress)
    assert seen == [case.name for case in dataset]
    every_frame(dataset, progress=progress)
    assert seen == 2 * [case.name for case in dataset]


def test_nothing_to_choose_from_is_refused() -> None:
    with pytest.raises(CalibrationError, match="empty"):
        calibration_frames(Dataset(()))


def test_an_unreadable_frame_is_refused(small_dataset: Path) -> None:
    (small_dataset / "images/7.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"7\.png"):
        calibration_frames(Dataset.open([small_dataset]), count=2)


def test_phantom_frames_say_that_they_are_phantoms() -> None:
    chosen = phantom_frames(count=3, seed=2)
    assert chosen.source == "phantom"
    assert chosen.sha256 == tuple(fingerprint(frame) for frame in chosen.frames)
    assert len(set(chosen.sha256)) == 3
    assert phantom_frames(count=2, seed=2).sha256 == chosen.sha256[:2]
    assert not set(phantom_frames(count=3, seed=3).sha256) & set(chosen.sha256)
    assert np.array_equal(phantom_frames(count=1, seed=0).frames[0], phantom_case(0).pixels)


def test_a_chosen_frame_is_the_file_on_disk(small_dataset: Path) -> None:
    dataset = Dataset.open([small_dataset], folds=(1,))
    for case, frame in zip(dataset, calibration_frames(dataset).frames, strict=True):
        assert np.array_equal(frame, read_image(case.image))
