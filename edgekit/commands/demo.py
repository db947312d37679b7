"""`edgekit demo`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import Folds


def demo(
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="A real data set; repeatable.", show_default="phantoms")
    ] = None,
    calibration_folds: Annotated[
        str, typer.Option("--calibration-folds", help="Folds of --data to calibrate on.")
    ] = "1,2,3",
    folds: Folds = "5",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds.")] = 50,
    out: Annotated[Path, typer.Option("-o", "--out", help="Report folder.")] = Path("edgekit-report"),
) -> None:
    """Export the shipped network to INT8, check drift, time it, segment a sample cine, and write a report with pictures."""
    from edge.errors import require
    from edgekit.console import interruptible

    for module in ("torch", "onnx", "nncf", "onnxruntime", "openvino", "ai_edge_litert"):
        require(module, extra="export")
    from calibration.dataset import parse_folds
    from edgekit.demo import run_demo

    with interruptible(f"{out} holds what was finished"):
        run_demo(
            data or [],
            out,
            calibration_folds=parse_folds(calibration_folds),
            folds=parse_folds(folds),
            rounds=rounds,
        )
