"""Training: what it writes, that it resumes bit for bit, and what it refuses to start or to keep."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from calibration.dataset import Case, Dataset, Label
from edge.errors import DataError
from emtnet.train import CHECKPOINT_NAME, STATE_NAME, EpochReport, Recipe, Reporter, train
from emtnet.weights import load_checkpoint

RECIPE = Recipe(epochs=2, batch_size=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Batches of four gain nothing from more, and lose minutes where other processes want the same cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def opened(folder: Path, *folds: int) -> Dataset:
    return Dataset.open([folder], folds=folds)


def stop(*_: object) -> None:
    raise KeyboardInterrupt


def same(one: Any, other: Any) -> bool:
    """Equality down to the last bit, through dictionaries and lists."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def read_state(out: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(out / STATE_NAME, weights_only=True)
    return state


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_writes_its_checkpoint_and_resumes_bit_for_bit(small_dataset: Path, tmp_path: Path) -> None:
    data, selection = opened(small_dataset, 1, 2, 3), opened(small_dataset, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    steps: list[tuple[int, float]] = []
    reports: list[EpochReport] = []
    reporter = Reporter(step=lambda epoch, done: steps.append((epoch, done)), epoch=reports.append)

    checkpoint = train(data, selection, whole, recipe=RECIPE, reporter=reporter)

    assert checkpoint == whole / CHECKPOINT_NAME
    assert sorted(contents(whole)) == sorted([CHECKPOINT_NAME, STATE_NAME])
    assert {"network", "average", "optimiser", "schedule"} <= read_state(whole).keys()
    assert steps == [(epoch, step / 3) for epoch in (1, 2) for step in (1, 2, 3)]
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 2), (2, 2)]
    assert all(math.isfinite(report.loss) for report in reports)
    assert reports[0].best
    _, info = load_checkpoint(checkpoint)
    assert info.trained_on == data.fingerprints()
    assert info.tuned_on == selection.fingerprints()
    assert info.data == ("Phantom",)
    assert info.recipe == asdict(RECIPE)
    chosen = reports[1] if reports[1].best else reports[0]
    assert info.metrics == {"epoch": chosen.epoch, "selection": chosen.metrics.to_json()}
    assert info.versions["torch"] == torch.__version__

    def stop_early_in_the_second_epoch(epoch: int, fraction: float) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, selection, broken, recipe=RECIPE, reporter=Reporter(step=stop_early_in_the_second_epoch))
    assert read_state(broken)["epoch"] == 1
    torch.manual_seed(12345)  # another process would not have this one's generator either
    resumed: list[EpochReport] = []
    train(data, selection, broken, recipe=RECIPE, resume=True, reporter=Reporter(epoch=resumed.append))

    assert resumed == reports[1:]
    assert (broken / CHECKPOINT_NAME).read_bytes() == checkpoint.read_bytes()
    assert same(read_state(broken), read_state(whole))


@pytest.fixture
def interrupted(small_dataset: Path, tmp_path: Path) -> Path:
    """A run of two epochs of one step each that was stopped after the first."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(opened(small_dataset, 1), opened(small_dataset, 2), out, recipe=RECIPE, reporter=Reporter(epoch=stop))
    assert sorted(contents(out)) == sorted([CHECKPOINT_NAME, STATE_NAME])
    return out


def test_a_run_is_not_overwritten_and_resumed_only_as_it_was_started(small_dataset: Path, interrupted: Path) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    before = contents(interrupted)
    with pytest.raises(DataError, match="holds a training run; add --resume"):
        train(data, selection, interrupted, recipe=RECIPE)
    with pytest.raises(DataError, match="started with another recipe"):
        train(data, selection, interrupted, recipe=replace(RECIPE, balance=0.6), resume=True)
    with pytest.raises(DataError, match="started with another training data"):
        train(opened(small_dataset, 3), selection, interrupted, recipe=RECIPE, resume=True)
    with pytest.raises(DataError, match="started with another selection data"):
        train(data, opened(small_dataset, 3), interrupted, recipe=RECIPE, resume=True)
    assert contents(interrupted) == before


def test_a_diverged_epoch_is_refused_and_replaces_nothing(
    small_dataset: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    before = contents(interrupted)
    with monkeypatch.context() as patch:
        patch.setattr("emtnet.loss.soft_dice", lambda logits, targets: logits.sum() * math.nan)
        with pytest.raises(DataError, match="epoch 2: the loss is nan; lower the learning rate"):
            train(data, selection, interrupted, recipe=RECIPE, resume=True)
    assert contents(interrupted) == before
    train(data, selection, interrupted, recipe=RECIPE, resume=True)  # and the run can still go on
    assert read_state(interrupted)["epoch"] == 2


def test_a_damaged_state_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_bytes(b"garbage")
    with pytest.raises(DataError, match="not a training state"):
        train(opened(small_dataset, 1), opened(small_dataset, 2), tmp_path, recipe=RECIPE, resume=True)


def test_a_run_of_one_step_ends_and_resuming_it_changes_nothing(small_dataset: Path, tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=8)
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    out = tmp_path / "run"
    checkpoint = train(data, selection, out, recipe=recipe)
    before = contents(out)
    load_checkpoint(checkpoint)
    reports: list[EpochReport] = []
    again = train(data, selection, out, recipe=recipe, resume=True, reporter=Reporter(epoch=reports.append))
    assert (again, reports) == (checkpoint, [])
    assert contents(out) == before


def cases(*labels: Label | None, group: str = "g", fold: int = 1, source: str = "S") -> Dataset:
    """Cases whose images do not exist: what is refused here is refused before a picture is read."""
    return Dataset(
        tuple(
            Case(Path(f"/none/{index}.png"), f"{index}.png", (), label, f"{group}{index}", fold, source)
            for index, label in enumerate(labels)
        )
    )


BOTH = cases("benign", "malignant", group="train")
OTHERS = cases("benign", "malignant", group="select")


@pytest.mark.parametrize(
    ("data", "selection", "message"),
    [
        (BOTH, cases("malignant", "benign", group="train"), "group train0 is in both the training and the selection"),
        (cases("benign", "normal"), OTHERS, "the training data have no malignant case"),
        (cases("malignant"), OTHERS, "the training data have no benign case"),
        (cases("normal"), OTHERS, "the training data have no benign and no malignant case"),
        (BOTH, cases("benign"), "the selection data have no malignant case"),
        (cases("benign", "malignant", None), OTHERS, "the training data have cases without a label"),
        (BOTH, cases("benign", "malignant", None), "the selection data have cases without a label"),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused(
    tmp_path: Path, data: Dataset, selection: Dataset, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train(data, selection, tmp_path / "run", recipe=RECIPE)
    assert not (tmp_path / "run").exists()


def test_groups_of_one_name_in_two_sources_are_two_groups(tmp_path: Path) -> None:
    elsewhere = cases("benign", "malignant", group="train", source="T")
    with pytest.raises(DataError, match=r"/none/0\.png: cannot be read"):
        train(BOTH, elsewhere, tmp_path / "run", recipe=RECIPE)


def drop_masks(dataset: Dataset, label: Label) -> Dataset:
    return Dataset(tuple(replace(case, masks=()) if case.label == label else case for case in dataset))


def test_a_lesion_without_a_mask_is_refused_but_a_normal_case_needs_none(small_dataset: Path, tmp_path: Path) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    with pytest.raises(DataError, match=r"images/1\.png: no mask; training needs one for every lesion"):
        train(drop_masks(data, "malignant"), selection, tmp_path / "lesion", recipe=RECIPE)
    assert not (tmp_path / "lesion").exists()
    recipe = Recipe(epochs=1, batch_size=8)
    assert train(drop_masks(data, "normal"), selection, tmp_path / "normal", recipe=recipe).is_file()


def test_a_bad_encoder_file_is_refused_before_training(small_dataset: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder.npz"
    encoder.write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"encoder\.npz: not the ImageNet"):
        train(opened(small_dataset, 1), opened(small_dataset, 2), tmp_path / "run", recipe=RECIPE, encoder=encoder)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Recipe(epochs=0),
        lambda: Recipe(batch_size=1),
        lambda: Recipe(balance=1.0),
        lambda: Recipe(label_smoothing=1.0),
    ],
)
def test_a_recipe_is_checked_when_it_is_made(make: Callable[[], Recipe]) -> None:
    with pytest.raises(ValueError, match=r"recipe|balance"):
        make()
