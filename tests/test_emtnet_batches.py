"""The batches of an epoch: the same whoever makes them, every case in its turn, unknown answers as NaN."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from calibration.dataset import Case, Dataset, Label, Sample
from edge.errors import DataError
from edge.frame import fingerprint
from emtnet.batches import LoadedCase, batch_count, batches, load_cases, make_example
from emtnet.loss import Targets
from emtnet.recipe import Recipe

RECIPE = Recipe(batch_size=4, small_size=32, small_share=1.0, clear_share=0.5)
LABELS: tuple[Label, ...] = ("benign", "malignant", "normal", "malignant", "benign", "normal", "benign")


def case(label: Label | None, level: int, *, mask: bool = True, lesion: bool = True) -> LoadedCase:
    """A frame of speckle around a grey level with a darker lesion in its corner."""
    pixels = np.random.default_rng(level).integers(level - 5, level + 6, (60, 80), np.uint8)
    drawn = np.zeros(pixels.shape, np.bool_)
    if lesion and label != "normal":
        drawn[4:20, 4:24] = True
    sample = Sample(np.where(drawn, pixels // 2, pixels).astype(np.uint8), drawn if mask else None)
    return LoadedCase(Case(Path(f"{level}.png"), f"{level}.png", label=label), sample, fingerprint(sample.pixels))


CASES = [case(label, 60 + 20 * index) for index, label in enumerate(LABELS)]


def made(recipe: Recipe, epoch: int, *, stride: int = 2) -> list[tuple[Tensor, Targets]]:
    return list(batches(CASES, recipe, epoch, mask_stride=stride))


def same(one: list[tuple[Tensor, Targets]], other: list[tuple[Tensor, Targets]]) -> bool:
    """Bit for bit; NaN is NaN."""
    tensors = [[(image, targets.mask, targets.label) for image, targets in epoch] for epoch in (one, other)]
    return len(one) == len(other) and all(
        np.array_equal(a.numpy(), b.numpy(), equal_nan=True)
        for batch, again in zip(*tensors, strict=True)
        for a, b in zip(batch, again, strict=True)
    )


def test_an_epoch_is_the_same_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs = []
    for workers in (1, 2, 7):
        monkeypatch.setattr("emtnet.batches._workers", lambda count=workers: count)
        epochs.append(made(RECIPE, 3))
    assert same(epochs[0], epochs[1])
    assert same(epochs[0], epochs[2])


def test_another_seed_and_another_epoch_are_another_epoch() -> None:
    first = made(RECIPE, 0)
    assert same(first, made(RECIPE, 0))
    assert not same(first, made(RECIPE, 1))
    assert not same(first, made(Recipe(batch_size=4, small_size=32, small_share=1.0, clear_share=0.5, seed=1), 0))


def test_no_picture_comes_twice() -> None:
    """The turns of a normal case differ, and so do the epochs, in more than their order."""
    recipe = Recipe(batch_size=4, small_size=32, small_share=1.0, normal_repeats=3)
    pictures = [
        picture.tobytes() for epoch in range(3) for image, _ in made(recipe, epoch) for picture in image.numpy()
    ]
    assert len(pictures) == 3 * (5 + 2 * 3)
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("repeats", [1, 3])
def test_every_case_has_its_turns(repeats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def noted(
        loaded: LoadedCase, rng: np.random.Generator, *, size: int, mask_stride: int, clear_share: float
    ) -> tuple[np.ndarray, np.ndarray, float]:
        shown.append(loaded.case.name)
        return make_example(loaded, rng, size=size, mask_stride=mask_stride, clear_share=clear_share)

    monkeypatch.setattr("emtnet.batches.make_example", noted)
    recipe = Recipe(batch_size=4, small_size=32, small_share=1.0, normal_repeats=repeats)
    for epoch in range(2):
        shown.clear()
        epoch_made = made(recipe, epoch)
        turns = {loaded.case.name: repeats if loaded.case.label == "normal" else 1 for loaded in CASES}
        assert Counter(shown) == turns
        assert len(epoch_made) == batch_count(CASES, recipe) == math.ceil(sum(turns.values()) / 4)
        assert sum(len(image) for image, _ in epoch_made) == sum(turns.values())


def test_the_last_batch_is_not_a_leftover() -> None:
    """Nine cases in batches of four: three of three, as batch statistics of one image would be worthless."""
    nine = [case("benign", 40 + index) for index in range(9)]
    assert [len(image) for image, _ in batches(nine, RECIPE, 0, mask_stride=2)] == [3, 3, 3]


@pytest.mark.parametrize("stride", [2, 4])
def test_sizes_follow_the_epoch_and_the_network(stride: int) -> None:
    recipe = Recipe(epochs=2, batch_size=4, small_size=64, small_share=0.5)
    for epoch, side in ((0, 64), (1, 224)):
        for image, targets in made(recipe, epoch, stride=stride):
            count = len(image)
            assert image.shape == (count, 1, side, side)
            assert targets.mask.shape == (count, 1, side // stride, side // stride)
            assert targets.label.shape == (count, 1)
            assert {image.dtype, targets.mask.dtype, targets.label.dtype} == {torch.float32}


def example(loaded: LoadedCase, seed: int = 0, *, clear_share: float = 0.0) -> tuple[np.ndarray, np.ndarray, float]:
    return make_example(loaded, np.random.default_rng(seed), size=64, mask_stride=2, clear_share=clear_share)


def test_an_image_is_grey_levels_around_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emtnet.batches.augment", lambda sample, rng, clear_share: sample)
    image, mask, _ = example(case("benign", 200))
    assert image.shape == (64, 64)
    levels = image * 128.0 + 128.0
    assert np.array_equal(levels, np.rint(levels))
    assert 190 <= levels[40:, 40:].min() <= levels[40:, 40:].max() <= 210
    assert mask.shape == (32, 32)
    assert mask[:2].max() == 0.0  # rows 0..3 of 60
    assert mask[4:9, 3:8].min() == 1.0
    assert 0.0 <= mask.min() <= mask.max() <= 1.0


@pytest.mark.parametrize(("label", "wanted"), [("malignant", 1.0), ("benign", 0.0), ("normal", math.nan)])
def test_a_label_is_a_number_or_unknown(label: Label, wanted: float) -> None:
    assert example(case(label, 100))[2] == pytest.approx(wanted, nan_ok=True)


def test_a_window_without_the_lesion_has_no_class() -> None:
    kinds = set()
    for seed in range(20):
        _, mask, label = example(case("malignant", 100), seed, clear_share=0.7)
        assert math.isnan(label) == (not mask.any())
        kinds.add(math.isnan(label))
    assert kinds == {True, False}


@pytest.mark.parametrize(("label", "wanted"), [("malignant", 1.0), ("benign", 0.0)])
def test_a_case_without_a_drawn_mask_keeps_its_class(label: Label, wanted: float) -> None:
    for seed in range(5):
        image, mask, found = example(case(label, 100, mask=False), seed, clear_share=1.0)
        assert np.isfinite(image).all()
        assert np.isnan(mask).all()
        assert found == wanted


def test_cases_are_read_in_order_with_their_fingerprints(small_dataset: Path) -> None:
    data = Dataset.open([small_dataset], folds=(1, 2))
    loaded = load_cases(data)
    assert [each.case for each in loaded] == list(data)
    assert tuple(each.fingerprint for each in loaded) == data.fingerprints()
    assert np.array_equal(loaded[0].sample.pixels, data.cases[0].read().pixels)


def test_a_missing_image_is_reported(small_dataset: Path) -> None:
    data = Dataset.open([small_dataset], folds=(1,))
    data.cases[2].image.unlink()
    with pytest.raises(DataError, match=r"images/2\.png"):
        load_cases(data)


def test_leaving_an_epoch_early_stops_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emtnet.batches._workers", lambda: 1)
    many = [case("benign", 40 + index) for index in range(40)]
    calls: list[str] = []

    def noted(loaded: LoadedCase, rng: np.random.Generator, **_: object) -> tuple[np.ndarray, np.ndarray, float]:
        calls.append(loaded.case.name)
        return example(loaded)

    monkeypatch.setattr("emtnet.batches.make_example", noted)
    epoch = batches(many, RECIPE, 0, mask_stride=2)
    next(epoch)
    epoch.close()  # type: ignore[attr-defined]
    assert len(calls) <= 13, "three batches are under way, the rest is never made"


def test_a_failure_in_a_thread_reaches_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DataError("broken")

    monkeypatch.setattr("emtnet.batches.make_example", fail)
    with pytest.raises(DataError, match="broken"):
        made(RECIPE, 0)
