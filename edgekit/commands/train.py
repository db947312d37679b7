"""`edgekit train`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands.options import Data, NetworkName

if TYPE_CHECKING:
    from emtnet.protocol import Kind
    from emtnet.recipe import Recipe
    from emtnet.train import EpochReport, Reporter


class Runs(StrEnum):
    """What a cross-validation leaves out in turn."""

    folds = "folds"
    sources = "sources"
    scanners = "scanners"


def train(
    data: Data,
    network: Annotated[NetworkName, typer.Option("--network", help="Which network.")] = NetworkName.emtnet,
    folds: Annotated[
        str | None,
        typer.Option("--folds", help="Folds to learn from.", show_default="1,2,3; all with --operating-point"),
    ] = None,
    selection_folds: Annotated[
        str | None,
        typer.Option(
            "--selection-folds",
            help="Folds that choose the epoch and the threshold.",
            show_default="4; none with --operating-point",
        ),
    ] = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="Train once for every fold, source and scanner left out.")
    ] = False,
    runs: Annotated[
        list[Runs] | None,
        typer.Option("--runs", help="Only these of a cross-validation; repeatable.", show_default="all"),
    ] = None,
    operating_point: Annotated[
        Path | None,
        typer.Option(
            "--operating-point", help="Cross-validation report whose operating point is stored.", show_default=False
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            "--teacher",
            help="Checkpoint to learn from besides the labels; with --cross-validate the folder of the teacher's.",
            show_default=False,
        ),
    ] = None,
    encoder: Annotated[
        Path | None, typer.Option("--encoder", help="ImageNet MobileNetV1 weights (.npz).", show_default="random")
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, show_default="the recipe's")] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=2, show_default="the recipe's")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", min=1e-6, max=1.0, show_default="the recipe's")
    ] = None,
    balance: Annotated[
        float | None,
        typer.Option(
            "--balance",
            min=0.01,
            max=0.99,
            help="Above 0.5 favours sensitivity, below it specificity.",
            show_default="the recipe's",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    model_card: Annotated[
        Path | None,
        typer.Option(
            "--model-card", help="Also bring the tables of this Markdown file up to date.", show_default=False
        ),
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the run.")] = Path("runs/emtnet"),
) -> None:
    """Train an EMT-Net, or cross-validate its recipe. By default fold 5 is left for reporting."""
    from edge.errors import require

    for module in ("torch", "safetensors"):
        require(module, extra="export")
    from emtnet.protocol import KINDS
    from emtnet.recipe import default_recipe

    if cross_validate:
        require("matplotlib", extra="train")
        require("scipy", extra="train")
    if cross_validate and (folds or selection_folds or operating_point):
        raise typer.BadParameter("--cross-validate takes the data's own folds; leave the other fold options out")
    if not cross_validate and (runs or model_card):
        raise typer.BadParameter("--runs and --model-card belong to --cross-validate")
    recipe = default_recipe(network.value)
    recipe = replace(
        recipe,
        epochs=epochs or recipe.epochs,
        batch_size=batch_size or recipe.batch_size,
        learning_rate=learning_rate or recipe.learning_rate,
        balance=balance or recipe.balance,
        seed=seed,
    )
    if cross_validate:
        kinds = [kind for kind in KINDS if runs is None or Runs(kind) in runs]
        _cross_validate(data, kinds, recipe, encoder, teacher, resume=resume, model_card=model_card, out=out)
    else:
        if operating_point is None:
            folds, selection_folds = folds or "1,2,3", selection_folds or "4"
        _train(data, folds, selection_folds, operating_point, recipe, encoder, teacher, resume=resume, out=out)


def _train(
    data: Sequence[Path],
    folds: str | None,
    selection_folds: str | None,
    operating_point: Path | None,
    recipe: "Recipe",
    encoder: Path | None,
    teacher: Path | None,
    *,
    resume: bool,
    out: Path,
) -> None:
    from calibration.dataset import Dataset, parse_folds
    from edgekit.console import interruptible
    from edgekit.console import out as console
    from emtnet.calls import read_calls
    from emtnet.teacher import Teacher
    from emtnet.train import Start
    from emtnet.train import train as run

    calls = read_calls(operating_point, recipe) if operating_point else None
    learned = Dataset.open(data, folds=parse_folds(folds))
    selection = Dataset.open(data, folds=parse_folds(selection_folds)) if selection_folds else None
    start = Start(encoder, Teacher.open(teacher) if teacher else None)
    with interruptible(f"{out} holds the last finished epoch; go on with --resume"), _bar() as reporter:
        checkpoint = run(
            learned, selection, out, recipe=recipe, start=start, calls=calls, resume=resume, reporter=reporter
        )
    which = "the best epoch's" if selection else "the last epoch's"
    console.print(f"{checkpoint}: {which} averaged weights")


def _cross_validate(
    data: Sequence[Path],
    kinds: "Sequence[Kind]",
    recipe: "Recipe",
    encoder: Path | None,
    teachers: Path | None,
    *,
    resume: bool,
    model_card: Path | None,
    out: Path,
) -> None:
    from calibration.dataset import Dataset
    from calibration.reliability import draw_reliability
    from edgekit.console import err, interruptible, notice, write_json
    from edgekit.console import out as console
    from edgekit.tables import validation_tables
    from emtnet.calls import store_calls
    from emtnet.model_card import require_markers, update_model_card
    from emtnet.protocol import Run, plan
    from emtnet.report import summarise_validation
    from emtnet.validation import PREDICTIONS, validate

    if model_card is not None:
        require_markers(model_card, recipe.network)
    dataset = Dataset.open(data)
    wanted = plan(dataset, kinds, passed_over=notice)
    # What this folder holds of an earlier call stays in the report.
    runs = [run for run in plan(dataset) if run in wanted or (out / run.name / PREDICTIONS).exists()]

    def started(run: Run) -> None:
        err.print(f"{run.name}: {len(run.training)} cases to learn from, {len(run.test)} held out", markup=False)

    with interruptible(f"{out} holds what is finished; go on with --resume"), _bar() as reporter:
        answers = validate(
            runs,
            out,
            recipe=recipe,
            encoder=encoder,
            teachers=teachers,
            resume=resume,
            reporter=reporter,
            started=started,
        )
    report = summarise_validation(runs, answers, recipe)
    if report.uncalibrated and report.calibrated:
        draw_reliability(report.uncalibrated, report.calibrated, out / "reliability.svg")
    for name, calls in report.fold_calls.items():
        store_calls(out / name / f"{recipe.network}.safetensors", calls)
    write_json(out / "report.json", report.to_json())
    validation_tables(report)
    if model_card is not None:
        update_model_card(model_card, report)
    console.print(f"{out / 'report.json'}: every figure, and the operating point for --operating-point", markup=False)


@contextmanager
def _bar() -> "Iterator[Reporter]":
    """Progress of trainings, one after the other."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from edgekit.console import err, number
    from edgekit.console import out as console
    from emtnet.train import Reporter

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    # Without a terminal there is no bar to redraw, only its empty lines.
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading", total=None)

        def step(epoch: int, epochs: int, fraction: float) -> None:
            bar.update(task, description=f"epoch {epoch}/{epochs}", total=epochs, completed=epoch - 1 + fraction)

        def finished(report: "EpochReport") -> None:
            metrics = report.metrics
            figures = f"  AUC {number(metrics.auc)}  Dice {number(metrics.dice_mean)}" if metrics else ""
            console.print(
                f"epoch {report.epoch:3d}/{report.epochs}  loss {report.loss:.3f}{figures}{'  best' if report.best else ''}"
            )

        yield Reporter(step, finished)
