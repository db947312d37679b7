"""The scripts whose tables stand in the model card: what they count, what they keep, and what they do not repeat."""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from synthetic_answers import BLANK, answers

from calibration.dataset import Dataset
from edge.errors import DriftExceeded
from emtnet.answers import Answer
from emtnet.engine import UNSET
from emtnet.network import EmtNet
from emtnet.recipe import Recipe
from emtnet.weights import SCHEMA, CheckpointInfo, save_checkpoint
from quantize import export

SCRIPTS = Path(__file__).resolve().parents[1] / "benchmarks/scripts"
CARD = """# Card

<!-- ablations: begin -->
old
<!-- ablations: end -->

<!-- emtnet-s drift: begin -->
old
<!-- emtnet-s drift: end -->
"""


def script(name: str) -> ModuleType:
    """A script as a module; its folder is no package."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ablations, fold_drift = script("ablations"), script("fold_drift")
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A script's main with these arguments; returns its exit code."""

    def main(module: ModuleType, *arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        try:
            module.main()
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            return ended.code
        return 0

    return main


@pytest.fixture
def card(tmp_path: Path) -> Path:
    path = tmp_path / "docs/card.md"
    path.parent.mkdir()
    path.write_text(CARD, encoding="utf-8")
    return path


def between(card: Path, name: str) -> str:
    found = re.search(f"<!-- {name}: begin -->(.*)<!-- {name}: end -->", card.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1].strip()


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


# Ablations: what is counted.

CASES = (  # label, logit of malignancy, presence logit
    replace(BLANK, label="malignant", logit=2.0, presence_logit=3.0, dice=0.9),
    replace(BLANK, label="malignant", logit=1.0, presence_logit=-1.0, dice=0.7),  # found malignant, not found at all
    replace(BLANK, label="malignant", logit=-1.0, presence_logit=2.0, dice=0.8),
    replace(BLANK, label="benign", logit=-2.0, presence_logit=1.0, dice=0.5),
    replace(BLANK, label="benign", logit=0.5, presence_logit=-2.0, dice=0.6),  # an alarm that nobody would hear
    replace(BLANK, label="normal", logit=0.0, presence_logit=0.5, dice=None),
    replace(BLANK, label="normal", logit=0.0, presence_logit=-3.0, dice=None),
    replace(BLANK, label="normal", logit=0.0, presence_logit=-4.0, dice=None),
)


def test_class_figures_leave_out_the_answer_no_lesion_and_mask_figures_go_by_it() -> None:
    found = ablations.figures(CASES, Recipe())
    assert found["sensitivity"] == pytest.approx(2 / 3), "the one that is not found counts by its probability"
    assert found["specificity"] == pytest.approx(1 / 2)
    assert found["auc"] == pytest.approx(5 / 6)
    assert found["specificity_at_sensitivity_0.941"] == pytest.approx(1 / 2)
    assert found["dice_mean"] == pytest.approx((0.9 + 0.8 + 0.5) / 5), "one that is not found has no outline"
    assert found["lesions_missed_rate"] == pytest.approx(2 / 5)
    assert found["normal_false_alarm_rate"] == pytest.approx(1 / 3)


def test_presence_auc_is_that_of_lesions_against_normals() -> None:
    many = answers(seed=3)
    lesion = [answer.label != "normal" for answer in many]
    expected = roc_auc_score(lesion, [answer.presence_logit for answer in many])
    assert ablations.figures(many, Recipe())["presence_auc"] == pytest.approx(expected)
    assert ablations.figures(answers(normals=False), Recipe())["presence_auc"] is None


def test_one_task_has_the_same_figures_as_both_and_none_of_the_other() -> None:
    both = ablations.figures(CASES, Recipe())
    of_class, of_mask = (ablations.figures(CASES, Recipe(tasks=task)) for task in ("class", "mask"))
    for name in ablations.CLASS_COLUMNS.values():
        assert of_class[name] == both[name]
        assert of_mask[name] is None
    for name in ablations.MASK_COLUMNS.values():
        assert of_class[name] is None
        assert of_mask[name] == both[name]


def test_variants_have_names_of_their_own_and_the_base_comes_first() -> None:
    found = ablations.variants()
    assert found[0].name == ablations.BASE
    assert len({variant.name for variant in found}) == len(found)
    assert len({(variant.recipe, variant.pretrained) for variant in found}) == len(found)
    assert {variant.recipe.balance for variant in found} == set(ablations.BALANCES)


# Ablations: table and curve.


def figure(value: float | None) -> dict[str, float | None]:
    return dict.fromkeys(ablations.COLUMNS.values(), value)


def test_a_cell_is_the_mean_and_the_sample_deviation_over_the_seeds() -> None:
    found = {"three": [figure(value) for value in (0.7, 0.8, 0.9)], "one": [figure(0.25)], "none": [figure(None)] * 3}
    head, rule, *rows = cells(ablations.markdown(found))
    assert head == ["variant", *ablations.COLUMNS]
    assert rule == ["---", *["---:"] * len(ablations.COLUMNS)]
    assert rows == [
        ["three", *["0.800 ± 0.100"] * len(ablations.COLUMNS)],
        ["one", *["0.250"] * len(ablations.COLUMNS)],
        ["none", *["–"] * len(ablations.COLUMNS)],
    ]


def test_the_curve_needs_two_balances(tmp_path: Path) -> None:
    path = tmp_path / "images/balance.svg"
    one = {ablations.BASE: [figure(0.8)] * 3, "classification only": [figure(0.7)] * 3}
    ablations.curve(one, path)
    assert not path.parent.exists()
    ablations.curve(one | {"balance 0.1": [figure(0.6)]}, path)
    text = path.read_text(encoding="utf-8")
    assert "<svg" in text
    ablations.curve({"balance 0.1": [figure(0.6)]} | one, path)
    assert path.read_text(encoding="utf-8") == text, "the order of the variants changes nothing"
    ablations.curve(one | {"balance 0.1": [figure(0.5)]}, path)
    assert path.read_text(encoding="utf-8") != text


# Ablations: the command.


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers at once instead of hours of training; holds the names of what would have been trained."""
    names: list[str] = []

    def validate(runs: Sequence[Any], out: Path, *, recipe: Recipe, **_: object) -> dict[str, list[Answer]]:
        names.extend(one.name for one in runs)
        return {one.name: answers(seed=recipe.seed + round(recipe.balance * 10)) for one in runs}

    monkeypatch.setattr(ablations, "validate", validate)
    return names


def test_only_and_a_model_card_are_refused(
    run: Run, card: Path, small_dataset: Path, answered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", small_dataset, "--encoder", "none.npz")
    assert run(ablations, *given, "--only", "balance", "--model-card", card) == 2
    assert "--only makes a part of the table" in capsys.readouterr().err
    assert run(ablations, *given, "--only", "nonsense") == 2
    assert "is in the name of no variant" in capsys.readouterr().err
    assert card.read_text(encoding="utf-8") == CARD
    assert answered == []


def test_a_card_without_the_markers_is_refused_before_anything_is_trained(
    run: Run, tmp_path: Path, small_dataset: Path, answered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "card.md").write_text("# Card\n")
    given = ("--data", small_dataset, "--encoder", "none.npz", "--model-card", tmp_path / "card.md")
    assert run(ablations, *given) == 1
    assert re.fullmatch(r"error: .*card\.md: has no lines .*\n", capsys.readouterr().err)
    assert answered == []


def test_a_whole_run_fills_card_and_folder_and_a_part_leaves_both(
    run: Run, tmp_path: Path, card: Path, small_dataset: Path, answered: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--data", small_dataset, "--encoder", "none.npz", "-o", out)
    assert run(ablations, *given, "--model-card", card) == 0
    assert len(answered) == len(set(answered)) == 3 * len(ablations.variants())
    table, image = between(card, "ablations").split("\n\n")
    assert [row[0] for row in cells(table)[2:]] == [variant.name for variant in ablations.variants()]
    target = re.fullmatch(r"!\[.+\]\((.+)\)", image)
    assert target is not None
    assert (card.parent / target[1]).read_bytes() == (out / "balance.svg").read_bytes()
    kept = json.loads((out / "ablations.json").read_text())
    assert ablations.markdown(kept).strip() == table, "the JSON holds what the table was made of"

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(ablations, *given, "--only", "balance 0.") == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row[0] for row in cells("\n".join(printed))[2:]]
    assert names == [variant.name for variant in ablations.variants() if "balance 0." in variant.name]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# Drift by fold: the table.


def drift(loss: float, flips: tuple[int, int], *, failed: bool = False, engines: tuple[str, ...] = ("onnx",)) -> Any:
    """A report as `DriftReport.summary` gives it: FP32 and INT8 of each engine, INT8 losing `loss` of each figure."""
    names = fold_drift.COLUMNS.values()
    made = []
    for engine in engines:
        for precision, lost in (("fp32", 0.0), ("int8", loss)):
            reasons = ["Dice −1 is beyond −0.005"] if failed and precision == "int8" else []
            made.append(
                {
                    "engine": engine,
                    "precision": precision,
                    "delta": dict.fromkeys(names, -lost),
                    "flips": dict(zip(fold_drift.FLIPS, flips if precision == "int8" else (0, 0), strict=True)),
                    "passed": not reasons,
                    "reasons": reasons,
                }
            )
    return {"reference": dict.fromkeys(names, 0.9 - loss), "artifacts": made, "passed": not failed}


def test_the_table_has_the_mean_the_worst_fold_and_the_sum_of_the_flips() -> None:
    reports = [drift(0.001, (1, 0)), drift(0.009, (2, 3), failed=True), drift(-0.004, (0, 1))]
    head, _, fp32, *rows = cells(fold_drift.markdown(reports))
    assert head[1:5] == ["AUC", "sensitivity", "specificity", "Dice"]
    assert fp32 == ["FP32", *["0.898"] * 4, "", ""]
    assert rows == [["INT8 on onnx: change", *["-0.0020 (-0.0090)"] * 4, "3 / 4", "2 of 3"]]


def test_an_engine_that_one_fold_lacks_is_not_mixed_up_with_another() -> None:
    reports = [drift(0.001, (1, 0), engines=("litert", "onnx")), drift(0.003, (2, 0), engines=("onnx",))]
    assert [(row[0], row[1], row[-1]) for row in cells(fold_drift.markdown(reports))[3:]] == [
        ("INT8 on litert: change", "-0.0010 (-0.0010)", "1 of 1"),
        ("INT8 on onnx: change", "-0.0020 (-0.0030)", "2 of 2"),
    ]


def test_it_exits_as_the_drift_command_does_and_says_which_fold(
    run: Run, card: Path, small_dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {2: True}
    monkeypatch.setattr(
        fold_drift,
        "fold_report",
        lambda data, runs, network, fold, out, data_sha256: drift(0.001, (0, 0), failed=failed.get(fold, False)),
    )
    given = ("--data", small_dataset, "--runs", "none", "--network", "emtnet-s", "--model-card", card)
    assert run(fold_drift, *given) == DriftExceeded.exit_code
    done = capsys.readouterr()
    assert done.err.startswith("error: fold 2: onnx int8: Dice −1 is beyond −0.005; ")
    assert between(card, "emtnet-s drift") in done.out
    assert "4 of 5" in between(card, "emtnet-s drift")
    failed.clear()
    assert run(fold_drift, *given) == 0
    assert "5 of 5" in between(card, "emtnet-s drift")
    assert run(fold_drift, *given, "--folds", "1") == 2, "a part is not the card's table"


# Drift by fold: what is kept.


class Repeated(Exception):  # noqa: N818 (a finding, not a fault)
    """The export was called once more."""


def random_network(path: Path, used: Sequence[str], *, seed: int) -> None:
    """An untrained emtnet-s that says it has learned from these frames."""
    torch.manual_seed(seed)
    info = CheckpointInfo(SCHEMA, "emtnet-s", True, UNSET, None, tuple(used), (), ("Phantom",), {}, {}, {})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, EmtNet("emtnet-s").eval(), info)


def test_a_fold_is_repeated_when_its_checkpoint_or_the_data_are_others_and_not_before(
    small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, runs, out = [small_dataset], tmp_path / "runs", tmp_path / "out"
    checkpoint = runs / "fold-2/emtnet-s.safetensors"
    used = Dataset.open(data, folds=(1, 3, 4, 5)).fingerprints()
    random_network(checkpoint, used, seed=0)

    def report() -> Any:
        whole = fold_drift.digest(Dataset.open(data))
        return fold_drift.fold_report(data, runs, "emtnet-s", 2, out, data_sha256=whole)

    def again(*_: object, **__: object) -> None:
        raise Repeated

    monkeypatch.setattr(fold_drift, "export", lambda *given, **named: export(*given, **named, engines=("onnx",)))
    first = report()
    assert (first["data"], first["frames"]) == (["Phantom fold 2"], 4)
    assert [(one["engine"], one["precision"]) for one in first["artifacts"]] == [("onnx", "int8")]
    manifest = json.loads((out / "emtnet-s-fold-2/manifest.json").read_text())
    assert set(manifest["calibration"]["frames"]) == set(Dataset.open(data, folds=(1, 3, 4)).fingerprints())

    monkeypatch.setattr(fold_drift, "export", again)
    assert report() == json.loads(json.dumps(first))
    saved = out / "emtnet-s-fold-2.json"
    kept = saved.read_bytes()

    original = checkpoint.read_bytes()
    random_network(checkpoint, used, seed=1)
    with pytest.raises(Repeated):
        report()
    checkpoint.write_bytes(original)

    table = small_dataset / "cases.csv"
    listed = table.read_text()
    table.write_text(listed.replace("images/0.png,masks/0.png,benign", "images/0.png,masks/0.png,malignant"))
    with pytest.raises(Repeated):
        report()
    table.write_text(listed)

    frame = small_dataset / "images/4.png"
    pixels = cv2.imread(str(frame), cv2.IMREAD_GRAYSCALE)
    assert pixels is not None
    assert cv2.imwrite(str(frame), 255 - pixels)
    with pytest.raises(Repeated):
        report()
    assert saved.read_bytes() == kept, "what failed has written nothing"
    assert cv2.imwrite(str(frame), np.asarray(pixels))

    with monkeypatch.context() as other:
        other.setattr(fold_drift, "versions", lambda packages: dict.fromkeys(packages, "another"))
        with pytest.raises(Repeated):
            report()
    assert report() == json.loads(kept)["report"]
    saved.write_bytes(kept[:-20])
    with pytest.raises(Repeated):
        report()


def test_a_fold_without_a_checkpoint_is_one_line(
    run: Run, small_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(fold_drift, "--data", small_dataset, "--runs", tmp_path / "none", "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*fold-1/emtnet\.safetensors: cannot be read \(.*\); cross-validate .*\n", error)
    assert not (tmp_path / "out").exists()


# The built-in networks side by side.


def test_both_networks_are_timed_on_every_engine_that_they_have() -> None:
    networks = script("networks")
    found = networks.compare(rounds=2)
    assert {network for network, _ in found} == {"emtnet", "emtnet-s"}
    assert {engine for _, engine in found} == {"onnx", "openvino", "litert"}
    rows = cells(networks.markdown(found))[2:]
    assert len(rows) == len(found) == 6
    assert [row[-1] for row in rows[:3]] == ["1.00"] * 3
