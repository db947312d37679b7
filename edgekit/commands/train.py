"""`edgekit train`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import Data


def train(
    data: Data,
    folds: Annotated[str, typer.Option("--folds", help="Folds to learn from.")] = "1,2,3",
    selection_folds: Annotated[
        str, typer.Option("--selection-folds", help="Folds that choose the epoch and the operating point.")
    ] = "4",
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 20,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 32,
    learning_rate: Annotated[float, typer.Option("--learning-rate", min=1e-6, max=1.0)] = 1.5e-3,
    balance: Annotated[
        float,
        typer.Option("--balance", min=0.01, max=0.99, help="Above 0.5 favours sensitivity, below it specificity."),
    ] = 0.5,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    encoder: Annotated[
        Path | None, typer.Option("--encoder", help="ImageNet MobileNetV1 weights (.npz).", show_default="random")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the run.")] = Path("runs/emtnet"),
) -> None:
    """Train an EMT-Net. Fold 5 is left for reporting unless you name it."""
    from edge.errors import require

    for module in ("torch", "safetensors"):
        require(module, extra="export")
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from calibration.dataset import Dataset, parse_folds
    from edgekit.console import err, interruptible, number
    from edgekit.console import out as console
    from emtnet.train import EpochReport, Recipe, Reporter
    from emtnet.train import train as run

    recipe = Recipe(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, balance=balance, seed=seed)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("reading", total=epochs)

        def step(epoch: int, fraction: float) -> None:
            bar.update(task, description=f"epoch {epoch}/{epochs}", completed=epoch - 1 + fraction)

        def finished(report: EpochReport) -> None:
            metrics = report.metrics
            console.print(
                f"epoch {report.epoch:3d}  loss {report.loss:.3f}  AUC {number(metrics.auc)}  Dice {number(metrics.dice_mean)}"
                f"{'  best' if report.best else ''}"
            )

        with interruptible(f"{out} holds the last finished epoch; go on with --resume"):
            checkpoint = run(
                Dataset.open(data, folds=parse_folds(folds)),
                Dataset.open(data, folds=parse_folds(selection_folds)),
                out,
                recipe=recipe,
                encoder=encoder,
                resume=resume,
                reporter=Reporter(step, finished),
            )
    console.print(f"{checkpoint}: the best epoch's averaged weights")
