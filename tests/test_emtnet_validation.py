"""Cross-validation with real trainings, small ones: what it keeps, what it does not repeat, and what it refuses."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from calibration.dataset import Case, Dataset, Label
from calibration.metrics import hausdorff_95, overlap
from edge.errors import DataError
from edge.frame import fingerprint
from edge.phantom import phantom_case
from edge.presence import outline_level, presence_logit
from emtnet.answers import Answer, answers_of, read_answers, write_answers
from emtnet.engine import UNSET, torch_predictor
from emtnet.protocol import Run, plan
from emtnet.recipe import Recipe
from emtnet.train import STATE_NAME, Reporter
from emtnet.validation import PREDICTIONS, validate
from emtnet.weights import load_checkpoint

RECIPE = Recipe(
    network="emtnet-s", epochs=1, batch_size=4, small_size=64, small_share=1.0, normal_repeats=1, learning_rate=1e-3
)
CHECKPOINT = "emtnet-s.safetensors"
LABELS: tuple[Label, ...] = ("benign", "malignant", "normal")

Answers = dict[str, tuple[Answer, ...]]


def write_cases(folder: Path) -> Dataset:
    """Nine phantoms: each label in each of three folds."""
    cases = []
    for index in range(9):
        label, fold = LABELS[index % 3], index // 3 + 1
        made = phantom_case(index, label=label, size=(96, 112))
        image, mask = folder / f"{index}.png", folder / f"{index}_mask.png"
        folder.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(image), made.pixels)
        assert cv2.imwrite(str(mask), made.mask.astype(np.uint8) * 255)
        cases.append(Case(image, image.name, (mask,), label, f"g{index}", fold, "Phantom"))
    return Dataset(tuple(cases))


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """A validation that ran to its end."""

    data: Dataset
    runs: tuple[Run, ...]
    out: Path
    answers: Answers
    started: list[str]

    def copy(self, to: Path) -> Path:
        """Without the training states, which a finished run does not need."""
        return shutil.copytree(self.out, to, ignore=shutil.ignore_patterns(STATE_NAME))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Another number of threads adds up in another order: the same bits are asked for here."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("validation")
    data = write_cases(folder / "data")
    runs = plan(data, ["folds"])
    started: list[str] = []
    answers = validate(runs, folder / "out", recipe=RECIPE, started=lambda run: started.append(run.name))
    return Finished(data, runs, folder / "out", answers, started)


def rounded(answers: tuple[Answer, ...]) -> list[Answer]:
    """OpenCV's distances differ in their last digit from call to call."""
    return [replace(a, hd95=None if a.hd95 is None else round(a.hd95, 3)) for a in answers]


def no_training(*_: object, **__: object) -> Path:
    raise AssertionError("nothing is to be trained")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_case_is_answered_once_by_a_network_that_never_saw_it(finished: Finished) -> None:
    assert list(finished.answers) == finished.started == ["fold-1", "fold-2", "fold-3"]
    given = [answer for part in finished.answers.values() for answer in part]
    assert [(answer.image, answer.label, answer.fold) for answer in given] == [
        (case.name, case.label, case.fold) for case in finished.data
    ]
    for run in finished.runs:
        folder = finished.out / run.name
        assert {path.name for path in folder.iterdir()} == {CHECKPOINT, STATE_NAME, PREDICTIONS}
        _, info = load_checkpoint(folder / CHECKPOINT)
        used = info.used_frames()
        assert used.keys() == set(run.training.fingerprints())
        assert info.operating_point == UNSET
        assert not used.keys() & {answer.sha256 for answer in finished.answers[run.name]}


def test_an_answer_is_what_the_network_says_through_the_runtime(finished: Finished) -> None:
    run = finished.runs[1]
    network, _ = load_checkpoint(finished.out / run.name / CHECKPOINT)
    with torch_predictor(network, operating_point=UNSET) as predictor:
        for case, answer in zip(run.test, finished.answers[run.name], strict=True):
            sample = case.read()
            found = predictor.predict(sample.pixels)
            assert found.mask_level is not None
            assert found.mask_probability is not None
            mask = found.mask_level >= outline_level(found.mask_probability)
            assert answer.sha256 == fingerprint(sample.pixels)
            assert (answer.source, answer.group, answer.device) == ("Phantom", f"Phantom/{case.group}", "")
            assert answer.logit == float(found.outputs["malignancy"][0, 0])
            assert answer.presence_logit == presence_logit(found.mask_probability)
            assert answer.lesion_share == mask.mean()
            if case.label == "normal":
                assert (answer.dice, answer.iou, answer.hd95) == (None, None, None)
            else:
                assert sample.mask is not None
                assert (answer.dice, answer.iou) == overlap(mask, sample.mask)
                assert answer.hd95 == pytest.approx(hausdorff_95(mask, sample.mask), abs=1e-4)


def test_the_file_of_a_run_says_what_it_was_made_with(finished: Finished) -> None:
    record = json.loads((finished.out / "fold-2" / PREDICTIONS).read_text())
    assert record.keys() == {"identity", "answers"}
    identity = record["identity"]
    assert identity["recipe"]["network"] == "emtnet-s"
    assert identity["start"] == {"encoder": None, "teacher": None}
    assert (identity["training"]["cases"], identity["test"]["cases"]) == (6, 3)
    assert read_answers(finished.out / "fold-2" / PREDICTIONS, identity) == finished.answers["fold-2"]


def test_a_finished_validation_is_refused_without_resume(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is trained, also where the first run's folder is gone."""
    out = finished.copy(tmp_path / "out")
    shutil.rmtree(out / "fold-1")
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(DataError, match="holds a validation; add --resume"):
        validate(finished.runs, out, recipe=RECIPE)


def test_a_finished_validation_is_only_read_again(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.copy(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr("emtnet.validation.train", no_training)
    assert validate(finished.runs, out, recipe=RECIPE, resume=True) == finished.answers
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_only_a_missing_run_is_trained_and_gives_the_same_answers(finished: Finished, tmp_path: Path) -> None:
    out = finished.copy(tmp_path / "out")
    shutil.rmtree(out / "fold-2")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    again = validate(finished.runs, out, recipe=RECIPE, resume=True)
    assert [rounded(part) for part in again.values()] == [rounded(part) for part in finished.answers.values()]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    checkpoint = f"fold-2/{CHECKPOINT}"
    assert (out / checkpoint).read_bytes() == (finished.out / checkpoint).read_bytes()


def test_a_run_that_was_stopped_before_its_answers_is_gone_on_with(finished: Finished, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def stop(report: object) -> None:
        raise KeyboardInterrupt

    run = finished.runs[:1]
    with pytest.raises(KeyboardInterrupt):
        validate(run, out, recipe=RECIPE, reporter=Reporter(epoch=stop))
    assert not (out / "fold-1" / PREDICTIONS).exists()
    with pytest.raises(DataError, match="holds a training run; add --resume"):
        validate(run, out, recipe=RECIPE)
    trained: list[Any] = []
    reporter = Reporter(epoch=trained.append)
    answers = validate(run, out, recipe=RECIPE, resume=True, reporter=reporter)
    assert rounded(answers["fold-1"]) == rounded(finished.answers["fold-1"])
    assert trained == []


@pytest.mark.parametrize(
    ("change", "odd"),
    [
        (lambda runs: (runs, replace(RECIPE, seed=1)), "recipe"),
        (lambda runs: (runs, replace(RECIPE, network="emtnet")), "recipe"),
        (lambda runs: ([replace(run, training=fewer(run.training)) for run in runs], RECIPE), "training"),
        (
            lambda runs: ([replace(run, test=fewer(run.test)) for run in runs], replace(RECIPE, seed=1)),
            "recipe and test",
        ),
    ],
)
def test_another_validation_does_not_go_on_here(
    finished: Finished,
    tmp_path: Path,
    change: Callable[[tuple[Run, ...]], tuple[list[Run], Recipe]],
    odd: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is overwritten, and nothing of it is trained where a run is still missing."""
    out = finished.copy(tmp_path / "out")
    shutil.rmtree(out / "fold-1")
    before = contents(out)
    runs, recipe = change(finished.runs)
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(DataError, match=f"was made with another {odd}; repeat the options or choose another -o"):
        validate(runs, out, recipe=recipe, resume=True)
    assert contents(out) == before


def fewer(data: Dataset) -> Dataset:
    return Dataset(data.cases[:-1])


def test_a_frame_on_both_sides_of_a_run_is_refused_by_both_names(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data")
    shutil.copy(data.cases[1].image, data.cases[7].image)
    with pytest.raises(DataError, match=r"7\.png and .*1\.png are the same frame, on both sides of fold 1; remove one"):
        validate(plan(data, ["folds"]), tmp_path / "out", recipe=RECIPE)
    assert not (tmp_path / "out").exists()


def test_a_frame_twice_in_one_folder_on_one_side_with_one_label_is_left_to_its_makers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_cases(tmp_path / "data")
    first, second = data.cases[0], data.cases[1]
    shutil.copy(second.image, first.image)
    run = plan(data, ["folds"])[2]
    alike = Dataset((replace(first, label=second.label), *run.training.cases[1:]))
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(AssertionError, match="nothing is to be trained"):
        validate([replace(run, training=alike)], tmp_path / "out", recipe=RECIPE)
    with pytest.raises(DataError, match=r"\.png are the same frame; remove one, so that no case counts twice"):
        validate(plan(data, ["folds"]), tmp_path / "out", recipe=RECIPE)


def test_a_folder_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    data = write_cases(tmp_path / "data")
    with pytest.raises(DataError, match=r"\.png: is among the data twice; name each folder once"):
        validate(plan(Dataset(data.cases * 2), ["folds"]), tmp_path / "out", recipe=RECIPE)


def test_the_same_frame_in_two_folders_is_refused_even_on_one_side(tmp_path: Path) -> None:
    """Two data sets that hold the same pictures would count every patient twice."""
    first, second = write_cases(tmp_path / "one"), write_cases(tmp_path / "two")
    renamed = Dataset(tuple(replace(case, source="Other") for case in second))
    with pytest.raises(DataError, match=r"one/.*\.png and .*two/.*\.png are the same frame; remove one"):
        validate(plan(Dataset(first.cases + renamed.cases), ["folds"]), tmp_path / "out", recipe=RECIPE)


@pytest.mark.parametrize("change", ["label", "mask", "group"])
def test_other_labels_masks_or_groups_make_another_validation(
    finished: Finished, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(case: Case) -> Case:
        if change == "label":
            swapped: dict[Label | None, Label] = {"benign": "malignant", "malignant": "benign"}
            return replace(case, label=swapped.get(case.label, "normal"))
        return replace(case, masks=()) if change == "mask" else replace(case, group=f"{case.group}x")

    data = Dataset(tuple(changed(case) for case in finished.data))
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(DataError, match="was made with another test and training"):
        validate(plan(data, ["folds"]), finished.copy(tmp_path / "out"), recipe=RECIPE, resume=True)


def test_an_unfinished_run_of_another_recipe_is_found_before_the_first_training(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (out / "fold-3").mkdir(parents=True)
    shutil.copy(finished.out / "fold-3" / STATE_NAME, out / "fold-3")
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(DataError, match=r"fold-3: holds a training run; add --resume"):
        validate(finished.runs, out, recipe=RECIPE)
    with pytest.raises(DataError, match=r"fold-3/training\.pt: the run was started with another recipe"):
        validate(finished.runs, out, recipe=replace(RECIPE, seed=9), resume=True)


def test_a_network_does_not_answer_what_it_was_trained_on(finished: Finished) -> None:
    checkpoint = finished.out / "fold-1" / CHECKPOINT
    with pytest.raises(DataError, match=r"3\.png: the network was trained on this very frame"):
        answers_of(checkpoint, finished.runs[0].training)


def damaged(content: str, change: Callable[[dict[str, Any]], object]) -> str:
    record = json.loads(content)
    change(record)
    return json.dumps(record)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: damaged(text, lambda record: record.pop("answers")),
        lambda text: damaged(text, lambda record: record.pop("identity")),
        lambda text: damaged(text, lambda record: record.update(identity=None)),
        lambda text: damaged(text, lambda record: record.update(answers=[1])),
        lambda text: damaged(text, lambda record: record["answers"][0].pop("logit")),
        lambda text: damaged(text, lambda record: record["answers"][1].update(surprise=1)),
    ],
)
def test_damaged_predictions_are_refused(
    finished: Finished, tmp_path: Path, damage: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.copy(tmp_path / "out")
    saved = out / "fold-3" / PREDICTIONS
    saved.write_text(damage(saved.read_text()))
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(DataError, match=r"fold-3/predictions\.json: not the predictions of a run .*; remove it"):
        validate(finished.runs, out, recipe=RECIPE, resume=True)


def test_answers_come_back_as_they_were(finished: Finished, tmp_path: Path) -> None:
    given = finished.answers["fold-1"]
    write_answers(tmp_path / "x.json", given, {"schema": 1})
    assert read_answers(tmp_path / "x.json") == given
    assert read_answers(tmp_path / "x.json", {"schema": 1}) == given
    with pytest.raises(DataError, match="made with another schema"):
        read_answers(tmp_path / "x.json", {"schema": 2})
    with pytest.raises(DataError, match=r"none\.json: not the predictions"):
        read_answers(tmp_path / "none.json")


def test_a_run_learns_from_the_teacher_of_its_name(finished: Finished, tmp_path: Path) -> None:
    run = finished.runs[2]
    recipe = replace(RECIPE, distillation=0.5)
    taught = validate([run], tmp_path / "out", recipe=recipe, teachers=finished.out)
    assert [answer.image for answer in taught["fold-3"]] == [case.name for case in run.test]
    record = json.loads((tmp_path / "out/fold-3" / PREDICTIONS).read_text())
    assert len(record["identity"]["start"]["teacher"]) == 64
    assert taught["fold-3"] != finished.answers["fold-3"]
    with pytest.raises(DataError, match="made with another start"):
        validate([run], tmp_path / "out", recipe=recipe, resume=True)


def test_a_teacher_that_has_seen_a_test_case_is_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any run is trained."""
    teachers = finished.copy(tmp_path / "teachers")
    shutil.copy(teachers / "fold-1" / CHECKPOINT, teachers / "fold-3" / CHECKPOINT)
    monkeypatch.setattr("emtnet.validation.train", no_training)
    with pytest.raises(DataError, match=r"has seen 6\.png, which fold 3 is tried on; take another teacher"):
        validate(finished.runs, tmp_path / "out", recipe=RECIPE, teachers=teachers)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [0, 2])
def test_a_run_has_one_teacher(finished: Finished, tmp_path: Path, count: int) -> None:
    teachers = tmp_path / "teachers"
    (teachers / "fold-1").mkdir(parents=True)
    for index in range(count):
        shutil.copy(finished.out / "fold-1" / CHECKPOINT, teachers / "fold-1" / f"{index}.safetensors")
    with pytest.raises(DataError, match=f"holds {count} checkpoints, not the one teacher of fold 1"):
        validate(finished.runs, tmp_path / "out", recipe=RECIPE, teachers=teachers)


def test_a_missing_encoder_is_refused_at_once(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: not the ImageNet MobileNetV1 weights"):
        validate(finished.runs, tmp_path / "out", recipe=RECIPE, encoder=tmp_path / "none.npz")
    assert not (tmp_path / "out").exists()
