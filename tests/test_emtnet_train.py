"""Training: what it writes, that it resumes bit for bit, and what it refuses to start or to keep."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_emtnet_imagenet import Weights, weights
from torch import Tensor

from calibration.dataset import Case, Dataset, Label
from edge.errors import DataError
from edge.manifest import OperatingPoint
from edge.presence import Presence
from emtnet.calls import Calls
from emtnet.engine import UNSET
from emtnet.network import EmtNet
from emtnet.recipe import Recipe
from emtnet.teacher import Teacher
from emtnet.train import STATE_NAME, EpochReport, Reporter, Start, train
from emtnet.weights import SCHEMA, CheckpointInfo, as_saved, load_checkpoint, save_checkpoint

__all__ = ["weights"]  # the fixture

RECIPE = Recipe(network="emtnet-s", epochs=2, batch_size=4, small_size=64, small_share=1.0, normal_repeats=1)
ONCE = replace(RECIPE, epochs=1, batch_size=8)
CHECKPOINT = "emtnet-s.safetensors"
CALLS = Calls(
    OperatingPoint(0.37, "malignant", "20 out-of-fold answers", 1.4),
    Presence(1.2, -0.3, 0.6, "20 out-of-fold answers"),
    ("a" * 64, "b" * 64),
)


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


def stop_in_the_second_epoch(epoch: int, epochs: int, fraction: float) -> None:
    if epoch == 2:
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


def untrained(recipe: Recipe = RECIPE) -> EmtNet:
    """The network that a run begins with, in the precision of its file."""
    torch.manual_seed(recipe.seed)
    return as_saved(EmtNet(recipe.network, guided=recipe.guided))


def test_a_run_writes_its_checkpoint_and_resumes_bit_for_bit(small_dataset: Path, tmp_path: Path) -> None:
    data, selection = opened(small_dataset, 1, 2, 3), opened(small_dataset, 4)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    steps: list[tuple[int, int, float]] = []
    reports: list[EpochReport] = []
    reporter = Reporter(lambda epoch, epochs, done: steps.append((epoch, epochs, done)), reports.append)

    checkpoint = train(data, selection, whole, recipe=RECIPE, reporter=reporter)

    assert checkpoint == whole / CHECKPOINT
    assert sorted(contents(whole)) == sorted([CHECKPOINT, STATE_NAME])
    assert {"network", "average", "optimiser", "schedule"} <= read_state(whole).keys()
    assert steps == [(epoch, 2, step / 3) for epoch in (1, 2) for step in (1, 2, 3)]
    assert [(report.epoch, report.epochs) for report in reports] == [(1, 2), (2, 2)]
    assert all(math.isfinite(report.loss) for report in reports)
    assert reports[0].best
    network, info = load_checkpoint(checkpoint)
    assert (network.name, info.network, info.guided) == ("emtnet-s", "emtnet-s", True)
    assert info.trained_on == data.fingerprints()
    assert info.tuned_on == selection.fingerprints()
    assert info.data == ("Phantom",)
    assert info.recipe == asdict(RECIPE) | {"start": {"encoder": None, "teacher": None}}
    chosen = reports[1] if reports[1].best else reports[0]
    assert chosen.metrics is not None
    assert info.metrics == {"epoch": chosen.epoch, "selection": chosen.metrics.to_json()}
    assert info.versions["torch"] == torch.__version__
    assert info.presence is None
    assert info.operating_point.temperature == 1.0
    assert info.operating_point.chosen_on.startswith("4 selection frames")

    with pytest.raises(KeyboardInterrupt):
        train(data, selection, broken, recipe=RECIPE, reporter=Reporter(stop_in_the_second_epoch))
    assert read_state(broken)["epoch"] == 1
    torch.manual_seed(12345)  # another process would not have this one's generator either
    resumed: list[EpochReport] = []
    train(data, selection, broken, recipe=RECIPE, resume=True, reporter=Reporter(epoch=resumed.append))

    assert resumed == reports[1:]
    assert (broken / CHECKPOINT).read_bytes() == checkpoint.read_bytes()
    assert same(read_state(broken), read_state(whole))


def test_without_a_selection_the_last_epoch_is_kept_with_the_given_calls(small_dataset: Path, tmp_path: Path) -> None:
    data = opened(small_dataset, 1, 2)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    reports: list[EpochReport] = []
    checkpoint = train(data, None, whole, recipe=RECIPE, calls=CALLS, reporter=Reporter(epoch=reports.append))
    network, info = load_checkpoint(checkpoint)
    assert [(report.metrics, report.best) for report in reports] == [(None, False)] * 2
    assert info.operating_point == CALLS.operating_point
    assert info.presence == CALLS.presence
    assert info.tuned_on == CALLS.fitted_on
    assert info.metrics == {"epoch": 2}
    last = untrained()
    last.load_state_dict(
        {
            name.removeprefix("module."): tensor
            for name, tensor in read_state(whole)["average"].items()
            if "module." in name
        }
    )
    assert same(dict(network.state_dict()), dict(as_saved(last).state_dict()))

    with pytest.raises(KeyboardInterrupt):
        train(data, None, broken, recipe=RECIPE, calls=CALLS, reporter=Reporter(stop_in_the_second_epoch))
    assert sorted(contents(broken)) == [STATE_NAME], "an unfinished run has no checkpoint"
    torch.manual_seed(54321)
    train(data, None, broken, recipe=RECIPE, calls=CALLS, resume=True)
    assert (broken / CHECKPOINT).read_bytes() == checkpoint.read_bytes()


def test_without_selection_and_calls_nothing_is_claimed(small_dataset: Path, tmp_path: Path) -> None:
    _, info = load_checkpoint(train(opened(small_dataset, 1), None, tmp_path / "run", recipe=ONCE))
    assert info.operating_point == UNSET
    assert info.presence is None
    assert info.tuned_on == ()


def test_given_calls_come_before_the_selections_threshold(small_dataset: Path, tmp_path: Path) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    _, info = load_checkpoint(train(data, selection, tmp_path / "run", recipe=ONCE, calls=CALLS))
    assert info.operating_point == CALLS.operating_point
    assert info.tuned_on == selection.fingerprints() + CALLS.fitted_on


def test_the_same_run_gives_the_same_file_and_another_seed_another(small_dataset: Path, tmp_path: Path) -> None:
    data = opened(small_dataset, 1)
    one, again = (train(data, None, tmp_path / name, recipe=ONCE).read_bytes() for name in ("one", "again"))
    assert one == again
    assert train(data, None, tmp_path / "other", recipe=replace(ONCE, seed=1)).read_bytes() != one


@pytest.fixture
def interrupted(small_dataset: Path, tmp_path: Path) -> Path:
    """A run of two epochs of one step each that was stopped after the first."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(opened(small_dataset, 1), opened(small_dataset, 2), out, recipe=RECIPE, reporter=Reporter(epoch=stop))
    assert sorted(contents(out)) == sorted([CHECKPOINT, STATE_NAME])
    return out


@pytest.fixture
def encoder(weights: Weights, tmp_path: Path) -> Path:
    path = tmp_path / "mobilenet.npz"
    np.savez(path, **weights)  # type: ignore[arg-type]
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> Teacher:
    """A network of the students' kind with weights of its own."""
    info = CheckpointInfo(SCHEMA, "emtnet-s", True, UNSET, None, ("c" * 64,), ("d" * 64,), (), {}, {}, {})
    torch.manual_seed(99)
    save_checkpoint(tmp_path / "teacher.safetensors", EmtNet("emtnet-s"), info)
    return Teacher.open(tmp_path / "teacher.safetensors")


def test_a_run_is_not_overwritten_and_resumed_only_as_it_was_started(
    small_dataset: Path, interrupted: Path, encoder: Path, teacher: Teacher
) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    before = contents(interrupted)
    with pytest.raises(DataError, match="holds a training run; add --resume"):
        train(data, selection, interrupted, recipe=RECIPE)
    with pytest.raises(DataError, match=r"started with another recipe \(balance\); repeat"):
        train(data, selection, interrupted, recipe=replace(RECIPE, balance=0.6), resume=True)
    with pytest.raises(DataError, match="started with other training data"):
        train(opened(small_dataset, 3), selection, interrupted, recipe=RECIPE, resume=True)
    with pytest.raises(DataError, match="started with other selection data"):
        train(data, opened(small_dataset, 3), interrupted, recipe=RECIPE, resume=True)
    with pytest.raises(DataError, match="started with other selection data"):
        train(data, None, interrupted, recipe=RECIPE, resume=True)
    with pytest.raises(DataError, match="started with another operating point"):
        train(data, selection, interrupted, recipe=RECIPE, calls=CALLS, resume=True)
    for start in (Start(encoder), Start(teacher=teacher)):
        with pytest.raises(DataError, match="started with another encoder or teacher"):
            train(data, selection, interrupted, recipe=RECIPE, start=start, resume=True)
    assert contents(interrupted) == before


def test_a_finished_run_is_refused_like_an_unfinished_one(small_dataset: Path, tmp_path: Path) -> None:
    data, out = opened(small_dataset, 1), tmp_path / "run"
    train(data, None, out, recipe=ONCE)
    before = contents(out)
    for recipe in (replace(ONCE, epochs=2), replace(ONCE, seed=1)):
        with pytest.raises(DataError, match="started with another recipe"):
            train(data, None, out, recipe=recipe, resume=True)
    assert contents(out) == before


def test_a_changed_picture_is_other_data(small_dataset: Path, tmp_path: Path) -> None:
    data, out = opened(small_dataset, 1), tmp_path / "run"
    train(data, None, out, recipe=ONCE)
    shutil.copy(small_dataset / "images/9.png", data.cases[0].image)
    with pytest.raises(DataError, match="started with other training data"):
        train(data, None, out, recipe=ONCE, resume=True)


def test_a_diverged_epoch_is_refused_and_replaces_nothing(
    small_dataset: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    before = contents(interrupted)
    with monkeypatch.context() as patch:
        patch.setattr("emtnet.loss.soft_dice", lambda logits, targets, present: logits.sum() * math.nan)
        with pytest.raises(DataError, match="epoch 2: the loss is nan; lower the learning rate"):
            train(data, selection, interrupted, recipe=RECIPE, resume=True)
    assert contents(interrupted) == before
    train(data, selection, interrupted, recipe=RECIPE, resume=True)  # and the run can still go on
    assert read_state(interrupted)["epoch"] == 2


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_state_is_refused(small_dataset: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / STATE_NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"training\.pt: not a training state"):
        train(opened(small_dataset, 1), None, tmp_path / "run", recipe=ONCE, resume=True)
    assert contents(tmp_path / "run") == {STATE_NAME: content}


def test_a_cut_off_state_and_one_that_holds_no_run_are_refused(small_dataset: Path, interrupted: Path) -> None:
    state = interrupted / STATE_NAME
    state.write_bytes(state.read_bytes()[:-1000])
    for _ in range(2):
        with pytest.raises(DataError, match="not a training state"):
            train(opened(small_dataset, 1), opened(small_dataset, 2), interrupted, recipe=RECIPE, resume=True)
        torch.save([1, 2, 3], state)


def test_resuming_a_finished_run_changes_nothing(small_dataset: Path, tmp_path: Path) -> None:
    data, selection = opened(small_dataset, 1), opened(small_dataset, 2)
    out = tmp_path / "run"
    checkpoint = train(data, selection, out, recipe=ONCE)
    before = contents(out)
    load_checkpoint(checkpoint)
    reports: list[EpochReport] = []
    again = train(data, selection, out, recipe=ONCE, resume=True, reporter=Reporter(epoch=reports.append))
    assert (again, reports) == (checkpoint, [])
    assert contents(out) == before


def test_a_run_whose_checkpoint_is_gone_is_not_called_finished(
    small_dataset: Path, interrupted: Path, tmp_path: Path
) -> None:
    data, out = opened(small_dataset, 1), tmp_path / "other"
    train(data, None, out, recipe=ONCE).unlink()
    with pytest.raises(DataError, match=r"emtnet-s\.safetensors: is gone"):
        train(data, None, out, recipe=ONCE, resume=True)
    (interrupted / CHECKPOINT).unlink()  # it may have been of the best epoch
    with pytest.raises(DataError, match=r"emtnet-s\.safetensors: is gone"):
        train(data, opened(small_dataset, 2), interrupted, recipe=RECIPE, resume=True)
    assert sorted(contents(interrupted)) == [STATE_NAME]


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
        (BOTH, cases("malignant", "benign", group="train"), "group S/train0 is in both the training and the selection"),
        (cases("benign", "normal"), OTHERS, "the training data have no malignant case"),
        (cases("benign", "normal"), None, "the training data have no malignant case"),
        (cases("malignant"), OTHERS, "the training data have no benign case"),
        (cases("normal"), None, "the training data have no benign and no malignant case"),
        (BOTH, cases("benign"), "the selection data have no malignant case"),
        (cases("benign", "malignant", None), None, "the training data have cases without a label"),
        (BOTH, cases("benign", "malignant", None), "the selection data have cases without a label"),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused(
    tmp_path: Path, data: Dataset, selection: Dataset | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train(data, selection, tmp_path / "run", recipe=RECIPE)
    assert not (tmp_path / "run").exists()


def test_groups_of_one_name_in_two_sources_are_two_groups(tmp_path: Path) -> None:
    elsewhere = cases("benign", "malignant", group="train", source="T")
    with pytest.raises(DataError, match=r"/none/0\.png: cannot be read"):
        train(BOTH, elsewhere, tmp_path / "run", recipe=RECIPE)


def test_a_selection_frame_that_is_learned_from_under_another_name_is_refused(
    small_dataset: Path, tmp_path: Path
) -> None:
    shutil.copy(small_dataset / "images/5.png", small_dataset / "images/2.png")
    with pytest.raises(DataError, match=r"images/2\.png: the same frame is among the selection cases"):
        train(opened(small_dataset, 1), opened(small_dataset, 2), tmp_path / "run", recipe=RECIPE)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("label", ["benign", "malignant"])
def test_a_frame_that_counts_twice_is_refused(small_dataset: Path, tmp_path: Path, label: Label) -> None:
    """One frame in two folders would weigh double; under two labels it would teach both."""
    data, elsewhere = opened(small_dataset, 1), tmp_path / "elsewhere" / "x.png"
    elsewhere.parent.mkdir()
    shutil.copy(data.cases[0].image, elsewhere)
    twin = Dataset((*data.cases, replace(data.cases[0], image=elsewhere, label=label, source="Other")))
    with pytest.raises(DataError, match=r"\.png and .*elsewhere/x\.png are the same frame; remove one"):
        train(twin, None, tmp_path / "run", recipe=RECIPE)
    with pytest.raises(DataError, match=r"\.png: is among the data twice; name each folder once"):
        train(Dataset(data.cases * 2), None, tmp_path / "run", recipe=RECIPE)
    assert not (tmp_path / "run").exists()


def without_masks(dataset: Dataset, *labels: Label) -> Dataset:
    return Dataset(tuple(replace(case, masks=()) if case.label in labels else case for case in dataset))


def test_images_without_a_mask_train_the_class_and_nothing_of_the_mask(small_dataset: Path, tmp_path: Path) -> None:
    lesions = Dataset(tuple(case for case in opened(small_dataset, 1, 2) if case.label != "normal"))
    data = without_masks(lesions, "benign", "malignant")
    recipe = replace(ONCE, learning_rate=1e-2)
    network, info = load_checkpoint(train(data, None, tmp_path / "run", recipe=recipe))
    begun, ended = untrained().state_dict(), network.state_dict()
    assert len(info.trained_on) == 6
    for name in ("mask_head.weight", "mask_head.bias", "lesion_head.gate.bias"):
        assert torch.equal(begun[name], ended[name]) == name.startswith("mask_head"), name
    for name in ("class_head.weight", "class_head.bias", "lesion_head.linear.weight"):
        assert not torch.equal(begun[name], ended[name]), name


def test_some_images_without_a_mask_go_with_the_others(small_dataset: Path, tmp_path: Path) -> None:
    data = without_masks(opened(small_dataset, 1), "malignant", "normal")
    network, _ = load_checkpoint(train(data, None, tmp_path / "run", recipe=ONCE))
    begun, ended = untrained().state_dict(), network.state_dict()
    for name in ("mask_head.weight", "class_head.weight", "lesion_head.gate.weight"):
        assert not torch.equal(begun[name], ended[name]), name


@pytest.mark.parametrize(("tasks", "still"), [("class", "mask_head.weight"), ("mask", "class_head.weight")])
def test_a_task_that_is_not_learned_keeps_its_head(small_dataset: Path, tmp_path: Path, tasks: Any, still: str) -> None:
    recipe = replace(ONCE, tasks=tasks, learning_rate=1e-2)
    lesions = Dataset(tuple(case for case in opened(small_dataset, 1) if case.label != "normal"))
    network, _ = load_checkpoint(train(lesions, None, tmp_path / "run", recipe=recipe))
    begun, ended = untrained().state_dict(), network.state_dict()
    heads = {"mask_head.weight", "class_head.weight"}
    assert {name for name in heads if torch.allclose(begun[name], ended[name], rtol=1e-2, atol=1e-6)} == {still}


def test_a_network_without_guidance_trains(small_dataset: Path, tmp_path: Path) -> None:
    recipe = replace(ONCE, guided=False)
    network, info = load_checkpoint(train(opened(small_dataset, 1), None, tmp_path / "run", recipe=recipe))
    assert network.lesion_head is None
    assert not info.guided


def test_the_large_network_trains_from_imagenet(small_dataset: Path, tmp_path: Path, encoder: Path) -> None:
    recipe = replace(ONCE, network="emtnet", learning_rate=1e-6)
    checkpoint = train(opened(small_dataset, 1), None, tmp_path / "run", recipe=recipe, start=Start(encoder))
    assert checkpoint.name == "emtnet.safetensors"
    network, info = load_checkpoint(checkpoint)
    with np.load(encoder) as arrays:
        pointwise = torch.from_numpy(arrays["MobilenetV1/Conv2d_13_pointwise/weights"])[0, 0].T
    found = network.state_dict()["blocks.12.pointwise.conv.weight"][:, :, 0, 0]
    torch.testing.assert_close(found, pointwise, rtol=1e-3, atol=1e-4)
    assert set(info.recipe["start"]) == {"encoder", "teacher"}
    assert len(info.recipe["start"]["encoder"]) == 64


def test_a_student_starts_from_its_teacher_and_learns_from_it(
    small_dataset: Path, tmp_path: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    blend = Teacher.blend

    def noted(self: Teacher, *batch: Any, share: float) -> Any:
        shares.append(share)
        return blend(self, *batch, share=share)

    monkeypatch.setattr(Teacher, "blend", noted)
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    recipe = replace(ONCE, learning_rate=1e-6, distillation=0.4)
    checkpoint = train(opened(small_dataset, 1), None, tmp_path / "run", recipe=recipe, start=Start(teacher=teacher))
    network, info = load_checkpoint(checkpoint)
    assert shares == [0.4]
    assert info.recipe["start"] == {"encoder": None, "teacher": teacher.sha256}
    assert info.trained_on == (*opened(small_dataset, 1).fingerprints(), "c" * 64), "and what the teacher has seen"
    assert info.tuned_on == ("d" * 64,)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], rtol=2e-3, atol=1e-4, msg=name)
    assert same(dict(teacher.network.state_dict()), before)


@pytest.mark.parametrize("used", ["trained_on", "tuned_on"])
def test_a_teacher_that_has_seen_the_selection_is_refused(
    small_dataset: Path, tmp_path: Path, teacher: Teacher, used: str
) -> None:
    selection = opened(small_dataset, 2)
    seen: dict[str, Any] = {used: selection.fingerprints()[-1:]}
    info = replace(teacher.info, **seen)
    with pytest.raises(DataError, match="the teacher has seen selection cases"):
        train(
            opened(small_dataset, 1),
            selection,
            tmp_path / "run",
            recipe=ONCE,
            start=Start(teacher=Teacher(teacher.network, info)),
        )
    assert not (tmp_path / "run").exists()


def test_a_bad_encoder_file_is_refused_before_training(small_dataset: Path, tmp_path: Path) -> None:
    encoder = tmp_path / "encoder.npz"
    for _ in range(2):
        with pytest.raises(DataError, match=r"encoder\.npz: not the ImageNet"):
            train(opened(small_dataset, 1), None, tmp_path / "run", recipe=RECIPE, start=Start(encoder))
        encoder.write_bytes(b"garbage")
    assert not (tmp_path / "run").exists()
