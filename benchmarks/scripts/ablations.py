"""What each part of the recipe brings: short trainings on folds 1 to 3, tried on fold 4, three seeds each.

    python benchmarks/scripts/ablations.py --data BUSBRA --data BUSI --encoder WEIGHTS.npz -o runs/ablations

Fold 5 is not touched. A run that is finished is not repeated, so the script can be stopped and started again. It prints a
Markdown table and draws the balance curve; with --model-card it also brings the table of that file up to date.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from calibration.dataset import Dataset
from calibration.metrics import SPECIFICITY_AT, Metrics, summarise
from edge.atomic import write_text
from edge.errors import require
from emtnet.answers import Answer
from emtnet.calls import NO_CALLS, called
from emtnet.model_card import replace_between
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.validation import validate

SEEDS: Final = (0, 1, 2)
SHORT: Final = Recipe(epochs=6, small_size=128, small_share=0.5)
BALANCES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
BASE: Final = "multitask, ImageNet, lesion head, balance 0.5"
COLUMNS: Final = {
    "AUC": "auc",
    "spec. at 94.1 %": SPECIFICITY_AT,
    "sensitivity at p = 0.5": "sensitivity",
    "specificity at p = 0.5": "specificity",
    "Dice": "dice_mean",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One change to the short recipe."""

    name: str
    recipe: Recipe
    pretrained: bool = True


def variants() -> list[Variant]:
    """The base first."""
    changed = [
        Variant(BASE, SHORT),
        Variant("classification only", replace(SHORT, tasks="class")),
        Variant("segmentation only", replace(SHORT, tasks="mask")),
        Variant("without the lesion head", replace(SHORT, guided=False)),
        Variant("from random weights", SHORT, pretrained=False),
        Variant("without the presence loss", replace(SHORT, presence_weight=0.0)),
        Variant("without clear windows", replace(SHORT, clear_share=0.0)),
    ]
    return changed + [Variant(f"balance {b:g}", replace(SHORT, balance=b)) for b in BALANCES if b != SHORT.balance]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", help="variants whose name holds this text")
    parser.add_argument("--model-card", type=Path)
    options = parser.parse_args()

    training = Dataset.open(options.data, folds=(1, 2, 3))
    test = Dataset.open(options.data, folds=(4,))
    found: dict[str, list[Metrics]] = {}
    for variant in variants():
        if options.only and options.only not in variant.name:
            continue
        for seed in SEEDS:
            name = f"{variant.name.replace(' ', '-').replace(',', '')}-{seed}"
            run = Run("folds", name, "fold 4", training, test)
            encoder = options.encoder if variant.pretrained else None
            recipe = replace(variant.recipe, seed=seed)
            answers = validate([run], options.out, recipe=recipe, encoder=encoder, resume=True)[name]
            metrics = figures(answers, recipe)
            print(f"{variant.name}, seed {seed}: AUC {metrics.auc}, Dice {metrics.dice_mean}", flush=True)
            found.setdefault(variant.name, []).append(metrics)
    table = markdown(found)
    print(table)
    write_text(
        options.out / "ablations.json",
        json.dumps({name: [metrics.to_json() for metrics in every] for name, every in found.items()}, indent=1) + "\n",
    )
    curve(found, options.out / "balance.svg")
    if options.model_card:
        replace_between(options.model_card, "ablations", table)


def figures(answers: Sequence[Answer], recipe: Recipe) -> Metrics:
    """At 0.5, any lesion pixel being a lesion; a task that was not learned has no figures."""
    results = [called(answer, NO_CALLS) for answer in answers]
    if recipe.tasks == "mask":
        results = [replace(result, probability=None, decision=None) for result in results]
    if recipe.tasks == "class":
        results = [replace(result, dice=None, iou=None, hd95=None, decision=None) for result in results]
    return summarise(results, threshold=0.5)


def markdown(found: dict[str, list[Metrics]]) -> str:
    """Mean ± standard deviation over the seeds."""
    head = ("variant", *COLUMNS)
    lines = [head, ("---", *["---:"] * len(COLUMNS))]
    for name, every in found.items():
        lines.append((name, *(_cell([m.to_json()[key] for m in every]) for key in COLUMNS.values())))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f} ± {np.std(known):.3f}" if known else "–"


def curve(found: dict[str, list[Metrics]], path: Path) -> None:
    """Draw sensitivity and specificity at p = 0.5 against the balance parameter of the loss."""
    pyplot = require("matplotlib.figure", extra="train")
    named = {f"balance {balance:g}": balance for balance in BALANCES} | {BASE: SHORT.balance}
    points = sorted((named[name], every) for name, every in found.items() if name in named)
    if len(points) < 2:
        return
    figure = pyplot.Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for key, colour, marker in (("sensitivity", "#D55E00", "o"), ("specificity", "#0072B2", "s")):
        values = np.array([[getattr(metrics, key) for metrics in every] for _, every in points])
        axes.errorbar(
            [balance for balance, _ in points],
            values.mean(1),
            values.std(1),
            color=colour,
            marker=marker,
            capsize=3,
            label=key,
        )
    axes.set_xlabel("balance of the class loss")
    axes.set_ylabel("at p(malignant) = 0.5")
    axes.set_ylim(0.0, 1.0)
    axes.legend(loc="lower center", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
