"""`edgekit train` as a user meets it: a run, a cross-validation, and the one after it that keeps its operating point."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from edgekit_command import Edgekit, one_line

from calibration.dataset import Dataset
from edge.phantom import phantom_case
from emtnet.calls import read_calls
from emtnet.recipe import default_recipe
from emtnet.weights import load_checkpoint

CHECKPOINT = "emtnet-s.safetensors"
QUICK = ("--network", "emtnet-s", "--epochs", 1, "--batch-size", 4)
SHORT = replace(default_recipe("emtnet-s"), epochs=1, batch_size=4)
CARD = "# Card\n\n<!-- emtnet-s: begin -->\n<!-- emtnet-s: end -->\n\nThe end.\n"


def write_cases(folder: Path) -> Path:
    """Nine phantoms as cases.csv: each label in each of three folds, from two scanners."""
    lines = ["image,mask,label,group,fold,source,device"]
    (folder / "data").mkdir(parents=True)
    for index in range(9):
        label = ("benign", "malignant", "normal")[index % 3]
        made = phantom_case(index, label=label, size=(96, 112))
        assert cv2.imwrite(str(folder / f"data/{index}.png"), made.pixels)
        assert cv2.imwrite(str(folder / f"data/{index}_mask.png"), made.mask.astype(np.uint8) * 255)
        lines.append(f"{index}.png,{index}_mask.png,{label},g{index},{index // 3 + 1},Phantom,scanner {index // 3 % 2}")
    (folder / "data/cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "data"


@dataclass(frozen=True, slots=True)
class Validated:
    """A cross-validation by the command as a user types it."""

    data: Path
    out: Path
    card: Path
    done: "subprocess.CompletedProcess[str]"

    @property
    def arguments(self) -> tuple[object, ...]:
        """The same command once more."""
        return ("train", "--data", self.data, *QUICK, "--cross-validate", "--runs", "folds", "-o", self.out)


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Validated:
    folder = tmp_path_factory.mktemp("validated")
    write_cases(folder)
    (folder / "card.md").write_text(CARD)
    command = ("train", "--data", "data", *QUICK, "--cross-validate", "--runs", "folds", "--model-card", "card.md")
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *map(str, command), "-o", "out"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return Validated(folder / "data", folder / "out", folder / "card.md", done)


def test_a_cross_validation_trains_every_fold_and_reports(validated: Validated) -> None:
    done, out = validated.done, validated.out
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for fold in (1, 2, 3):
        assert f"fold-{fold}: 6 cases to learn from, 3 held out" in done.stderr
        assert (out / f"fold-{fold}" / CHECKPOINT).is_file()
    assert "all data" in done.stdout
    assert "report.json: every figure" in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert report["runs"] == ["fold-1", "fold-2", "fold-3"]
    assert (report["recipe"]["network"], report["recipe"]["epochs"]) == ("emtnet-s", 1)
    assert [(row["cases"], row["lesions"], row["normals"]) for row in report["figures"]] == [
        ("all", 6, 3),
        ("Phantom", 6, 3),
    ]
    assert (out / "reliability.svg").is_file()
    assert set(report["calls"]["fitted_on"]) == set(Dataset.open([validated.data]).fingerprints())


def test_each_folds_network_keeps_what_the_others_ask_for(validated: Validated) -> None:
    for fold in (1, 2, 3):
        _, info = load_checkpoint(validated.out / f"fold-{fold}" / CHECKPOINT)
        others = Dataset.open([validated.data], folds=[other for other in (1, 2, 3) if other != fold])
        assert info.operating_point.chosen_on.startswith("6 out-of-fold answers")
        assert info.presence is not None
        assert info.tuned_on == others.fingerprints() == info.trained_on


def test_its_tables_stand_in_the_model_card(validated: Validated) -> None:
    text = validated.card.read_text()
    assert text.startswith("# Card\n\n<!-- emtnet-s: begin -->\n")
    assert text.endswith("<!-- emtnet-s: end -->\n\nThe end.\n")
    assert "| all data | 6 | 3 |" in text
    assert read_calls(validated.out / "report.json", SHORT).operating_point.chosen_on in text


def test_it_is_repeated_only_with_resume_and_then_at_no_cost(validated: Validated, edgekit: Edgekit) -> None:
    before = {path: path.stat().st_mtime_ns for path in validated.out.glob("fold-*/*")}
    report = (validated.out / "report.json").read_text()
    code, _, err = edgekit(*validated.arguments)
    assert code == 1
    assert "holds a validation; add --resume" in one_line(err)
    code, _, err = edgekit(*validated.arguments, "--resume", "--seed", 3)
    assert code == 1
    assert "made with another recipe" in one_line(err)
    code, out, err = edgekit(*validated.arguments, "--resume")
    assert code == 0, err
    assert "epoch" not in out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (validated.out / "report.json").read_text() == report


def test_what_an_earlier_call_left_in_the_folder_stays_in_the_report(
    validated: Validated, edgekit: Edgekit, tmp_path: Path
) -> None:
    """Else the operating point of the folds would be lost with a call for the scanners alone."""
    out = shutil.copytree(validated.out, tmp_path / "out")
    before = json.loads((out / "report.json").read_text())
    arguments = ("train", "--data", validated.data, *QUICK, "--cross-validate", "--runs", "scanners", "-o", out)
    code, _, err = edgekit(*arguments)
    assert code == 1
    assert "holds a validation; add --resume" in one_line(err)
    code, _, err = edgekit(*arguments, "--resume")
    assert code == 0, err
    after = json.loads((out / "report.json").read_text())
    assert after["runs"] == [*before["runs"], "scanner-phantom-scanner-0", "scanner-phantom-scanner-1"]
    assert after["calls"] == before["calls"]
    assert after["figures"][: len(before["figures"])] == before["figures"]


def test_a_checkpoint_without_its_run_is_not_overwritten(
    validated: Validated, edgekit: Edgekit, tmp_path: Path
) -> None:
    kept = shutil.copy(validated.out / "fold-1" / CHECKPOINT, tmp_path)
    before = Path(kept).read_bytes()
    code, _, err = edgekit(
        "train", "--data", validated.data, *QUICK, "--folds", "1,2", "--selection-folds", 3, "-o", tmp_path
    )
    assert code == 1
    assert "would be overwritten; choose another -o" in one_line(err)
    assert Path(kept).read_bytes() == before


def test_an_operating_point_of_another_recipe_is_refused(
    validated: Validated, edgekit: Edgekit, tmp_path: Path
) -> None:
    report = validated.out / "report.json"
    arguments = ("train", "--data", validated.data, *QUICK, "--balance", "0.9", "--operating-point", report)
    code, _, err = edgekit(*arguments, "-o", tmp_path / "run")
    assert code == 1
    assert "is the report of another recipe (balance)" in one_line(err)
    assert not (tmp_path / "run").exists()


def test_a_final_training_keeps_its_operating_point(validated: Validated, edgekit: Edgekit, tmp_path: Path) -> None:
    report, run = validated.out / "report.json", tmp_path / "run"
    arguments = ("train", "--data", validated.data, *QUICK, "--operating-point", report, "-o", run)
    code, out, err = edgekit(*arguments)
    assert code == 0, err
    assert "the last epoch's averaged weights" in out
    _, info = load_checkpoint(run / CHECKPOINT)
    calls = read_calls(report, SHORT)
    assert info.operating_point == calls.operating_point
    assert info.presence == calls.presence
    assert info.presence is not None
    assert info.trained_on == Dataset.open([validated.data]).fingerprints(), "all folds"
    assert info.tuned_on == calls.fitted_on
    code, _, err = edgekit("evaluate", run / CHECKPOINT, "--data", validated.data)
    assert code == 1
    assert "trained on" in one_line(err)


def test_a_run_with_a_selection_and_a_teacher(validated: Validated, edgekit: Edgekit, tmp_path: Path) -> None:
    run, teacher = tmp_path / "run", validated.out / "fold-1" / CHECKPOINT
    folds = ("--folds", "2,3", "--selection-folds", 1)
    arguments = ("train", "--data", validated.data, *QUICK, *folds, "--teacher", teacher, "-o", run)
    code, out, err = edgekit(*arguments, "--learning-rate", 0.002, "--balance", 0.6, "--seed", 5)
    assert code == 0, err
    assert "epoch   1/1" in out
    assert "the best epoch's averaged weights" in out
    _, info = load_checkpoint(run / CHECKPOINT)
    assert (info.recipe["learning_rate"], info.recipe["balance"], info.recipe["seed"]) == (0.002, 0.6, 5)
    assert info.recipe["start"]["teacher"] is not None
    assert info.operating_point.chosen_on.startswith("3 selection frames")
    assert set(Dataset.open([validated.data], folds=[1]).fingerprints()) <= set(info.tuned_on)


USAGE: dict[str, tuple[tuple[object, ...], str]] = {
    "folds": (("--cross-validate", "--folds", "1,2"), "the data's own folds"),
    "selection": (("--cross-validate", "--selection-folds", "4"), "the data's own folds"),
    "operating point": (("--cross-validate", "--operating-point", "report.json"), "the data's own folds"),
    "runs": (("--runs", "folds"), "belong to --cross-validate"),
    "model card": (("--model-card", "card.md"), "belong to --cross-validate"),
    "kind of run": (("--cross-validate", "--runs", "patients"), "patients"),
    "network": (("--network", "unet"), "unet"),
    "epochs": (("--epochs", 0), "--epochs"),
    "batch": (("--batch-size", 1), "--batch-size"),
    "balance": (("--balance", 1.0), "--balance"),
    "learning rate": (("--learning-rate", 0), "--learning-rate"),
    "seed": (("--seed", -1), "--seed"),
}


@pytest.mark.parametrize("case", USAGE)
def test_options_that_contradict_each_other_exit_with_2(case: str, edgekit: Edgekit, tmp_path: Path) -> None:
    options, message = USAGE[case]
    code, _, err = edgekit("train", "--data", tmp_path, *options, "-o", tmp_path / "run")
    assert code == 2
    assert message in err
    assert not (tmp_path / "run").exists()


def test_data_have_to_be_named(edgekit: Edgekit) -> None:
    assert edgekit("train")[0] == 2


BAD_INPUT: dict[str, tuple[Callable[[Path], tuple[object, ...]], str]] = {
    "no data": (lambda folder: ("--data", folder / "none"), "not a folder"),
    "no report": (lambda folder: ("--data", folder, "--operating-point", folder / "none.json"), "not the report"),
    "no teacher": (lambda folder: ("--data", folder, "--teacher", folder / "none.safetensors"), "not a safetensors"),
    "no encoder": (lambda folder: ("--data", folder, "--encoder", folder / "none.npz"), "not the ImageNet"),
    "bad folds": (lambda folder: ("--data", folder, "--folds", "one"), "write fold numbers"),
    "missing folds": (lambda folder: ("--data", folder, "--folds", "9"), "no case is in fold 9"),
    "nothing left out": (lambda folder: ("--data", folder, "--cross-validate", "--runs", "sources"), "no sources"),
    "no folder of teachers": (
        lambda folder: ("--data", folder, "--cross-validate", "--teacher", folder / "none"),
        "holds 0 checkpoints",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_line(case: str, edgekit: Edgekit, tmp_path: Path, small_dataset: Path) -> None:
    arguments, message = BAD_INPUT[case]
    code, _, err = edgekit("train", *QUICK, *arguments(small_dataset), "-o", tmp_path / "run")
    assert code == 1
    assert message in one_line(err)
    assert not (tmp_path / "run").exists()


def test_an_export_takes_a_shipped_network_or_a_model(edgekit: Edgekit, validated: Validated, tmp_path: Path) -> None:
    model = validated.out / "fold-1" / CHECKPOINT
    code, _, err = edgekit("export", "--network", "emtnet-s", model, "-o", tmp_path / "bundle")
    assert code == 2
    assert "--network names a shipped checkpoint" in err
    assert not (tmp_path / "bundle").exists()
