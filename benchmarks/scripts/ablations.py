"""What each part of the recipe brings: short trainings on folds 1 to 3, tried on fold 4, three seeds each.

    python benchmarks/scripts/ablations.py --data BUSBRA --data BUSI --encoder WEIGHTS.npz -o runs/ablations

Fold 5 is not touched. A run that is finished is not repeated, so the script can be stopped and started again. It prints a
Markdown table, and a whole run writes ablations.json and balance.svg to its folder; with --model-card it also brings the table
of that file up to date and draws the curve to images/balance.svg beside it.

A network that was only taught to classify cannot answer "no lesion". So that all stand on one rule, AUC, sensitivity and
specificity leave that answer out: malignant is what has p ≥ 0.5. Dice, missed lesions and false alarms go by it, at the rule
that nothing was fitted to: there is a lesion where the mean of the mask's highest probabilities reaches one half.
"""

import argparse
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.dataset import Dataset
from calibration.metrics import LESIONS, SPECIFICITY_AT, auc, summarise
from edge.atomic import write_bytes, write_text
from edge.errors import EdgekitError, require
from emtnet.answers import Answer
from emtnet.calls import NO_CALLS, called
from emtnet.model_card import grid, replace_between, require_markers
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.validation import validate

SEEDS: Final = (0, 1, 2)
SHORT: Final = Recipe(epochs=3, small_size=128, small_share=0.5)
BALANCES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
BASE: Final = "multitask, ImageNet, lesion head, balance 0.5"
CLASS_COLUMNS: Final = {
    "AUC": "auc",
    "spec. at 94.1 %": SPECIFICITY_AT,
    "sensitivity at p = 0.5": "sensitivity",
    "specificity at p = 0.5": "specificity",
}
MASK_COLUMNS: Final = {
    "Dice": "dice_mean",
    "presence AUC": "presence_auc",
    "missed": "lesions_missed_rate",
    "false alarms": "normal_false_alarm_rate",
}
COLUMNS: Final = CLASS_COLUMNS | MASK_COLUMNS
"""Headings, and names of the figures. presence_auc: of the presence logit, lesions against normals."""
SECTION: Final = "ablations"
CURVE: Final = "balance.svg"

Figures = dict[str, float | None]
"""By the names of `COLUMNS`; None where the task was not learned."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One change to the short recipe."""

    name: str
    recipe: Recipe
    pretrained: bool = True


def variants() -> list[Variant]:
    """The base first."""
    return [
        Variant(BASE, SHORT),
        Variant("classification only", replace(SHORT, tasks="class")),
        Variant("segmentation only", replace(SHORT, tasks="mask")),
        Variant("without the lesion head", replace(SHORT, guided=False)),
        Variant("from random weights", SHORT, pretrained=False),
        *(Variant(f"balance {b:g}", replace(SHORT, balance=b)) for b in BALANCES if b != SHORT.balance),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", help="variants whose name holds this text; prints their table and writes no summary")
    parser.add_argument("--model-card", type=Path)
    options = parser.parse_args()
    if options.only and options.model_card:
        parser.error("--only makes a part of the table, and --model-card takes all of it; leave one of them out")
    chosen = [variant for variant in variants() if (options.only or "") in variant.name]
    if not chosen:
        names = "; ".join(variant.name for variant in variants())
        parser.error(f"--only {options.only}: is in the name of no variant ({names})")

    try:
        if options.model_card:
            require_markers(options.model_card, SECTION)  # better told now than after a day of trainings
        found = trained(chosen, options.data, options.encoder, options.out)
        table = markdown(found)
        print(table)
        if not options.only:
            write_text(options.out / "ablations.json", json.dumps(found, indent=1) + "\n")
            curve(found, options.out / CURVE)
        if options.model_card:
            curve(found, options.model_card.parent / "images" / CURVE)
            replace_between(options.model_card, SECTION, f"{table}\n{picture()}\n")
    except EdgekitError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


def trained(chosen: Sequence[Variant], data: Sequence[Path], encoder: Path, out: Path) -> dict[str, list[Figures]]:
    """Train and try what `out` does not hold yet; the figures of every seed by the variant's name.

    Raises DataError, SinkError.
    """
    training, test = Dataset.open(data, folds=(1, 2, 3)), Dataset.open(data, folds=(4,))
    found: dict[str, list[Figures]] = {}
    for variant in chosen:
        for seed in SEEDS:
            name = f"{variant.name.replace(' ', '-').replace(',', '')}-{seed}"
            run = Run("folds", name, "fold 4", training, test)
            recipe = replace(variant.recipe, seed=seed)
            start = encoder if variant.pretrained else None
            answers = validate([run], out, recipe=recipe, encoder=start, resume=True)[name]
            one = figures(answers, recipe)
            print(f"{variant.name}, seed {seed}: AUC {one['auc']}, Dice {one['dice_mean']}", flush=True)
            found.setdefault(variant.name, []).append(one)
    return found


def figures(answers: Sequence[Answer], recipe: Recipe) -> Figures:
    """What one network's answers come to. A task that was not learned has no figures."""
    results = [called(answer, NO_CALLS) for answer in answers]
    # "classification only" has no mask to say "no lesion" by: no variant may be helped or hurt by that answer here.
    by_class = summarise([replace(result, decision=None) for result in results], threshold=0.5).to_json()
    by_mask = summarise(results, threshold=0.5).to_json()
    by_mask["presence_auc"] = auc(
        np.array([answer.presence_logit for answer in answers], np.float64),
        np.array([answer.label in LESIONS for answer in answers], np.bool_),
    )
    return {name: None if recipe.tasks == "mask" else by_class[name] for name in CLASS_COLUMNS.values()} | {
        name: None if recipe.tasks == "class" else by_mask[name] for name in MASK_COLUMNS.values()
    }


def markdown(found: Mapping[str, Sequence[Figures]]) -> str:
    """Mean ± standard deviation over the seeds."""
    lines = [(name, *(_cell([one[key] for one in every]) for key in COLUMNS.values())) for name, every in found.items()]
    return grid(("variant", *COLUMNS), lines) + "\n"


def _cell(values: Sequence[float | None]) -> str:
    known = _known(values)
    if not known:
        return "–"
    mean = f"{np.mean(known):.3f}"
    return mean if len(known) == 1 else f"{mean} ± {_deviation(known):.3f}"


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 of one value, which does not tell how the others would have spread."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def picture() -> str:
    """The balance curve as Markdown."""
    return f"![Sensitivity and specificity at p = 0.5 against the balance of the class loss](images/{CURVE})"


def curve(found: Mapping[str, Sequence[Figures]], path: Path) -> None:
    """Draw sensitivity and specificity at p = 0.5 against the balance of the class loss as SVG; the same bytes every time.

    Nothing is drawn with fewer than two balances. Raises SinkError; MissingDependencyError without matplotlib.
    """
    named = {f"balance {balance:g}": balance for balance in BALANCES} | {BASE: SHORT.balance}
    points = sorted((named[name], name) for name in found if name in named)
    if len(points) < 2:
        return
    matplotlib = require("matplotlib", extra="train")
    drawn = io.BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style would change the bytes
        matplotlib.rcParams.update({"svg.hashsalt": "edgekit", "font.size": 9})
        figure = _figure([(balance, found[name]) for balance, name in points])
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    write_bytes(path, drawn.getvalue())


def _figure(points: Sequence[tuple[float, Sequence[Figures]]]) -> Any:
    # A Figure of its own needs no window system and leaves pyplot's state alone.
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for key, colour, marker in (("sensitivity", "#D55E00", "o"), ("specificity", "#0072B2", "s")):
        values = [_known([one[key] for one in every]) for _, every in points]
        axes.errorbar(
            [balance for balance, _ in points],
            [np.mean(seeds) for seeds in values],
            [_deviation(seeds) for seeds in values],
            color=colour,
            marker=marker,
            capsize=3,
            label=key,
        )
    axes.set(xlabel="balance of the class loss", ylabel="at p(malignant) = 0.5", ylim=(0.0, 1.0))
    axes.legend(loc="lower center", frameon=False)
    return figure


if __name__ == "__main__":
    main()
