"""`edgekit drift`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import AllowOverlap, Data, Folds, Json, Threads


def drift(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder with the FP32 ONNX in it.")],
    data: Data,
    folds: Folds = None,
    threads: Threads = None,
    max_dice_loss: Annotated[float, typer.Option(min=0, help="Largest loss of mean Dice.")] = 0.005,
    max_sensitivity_loss: Annotated[float, typer.Option(min=0, help="Largest loss of sensitivity.")] = 0.01,
    max_auc_loss: Annotated[float, typer.Option(min=0, help="Largest loss of AUC.")] = 0.005,
    max_flips: Annotated[float, typer.Option(min=0, help="Largest share of malignant cases that turn benign.")] = 0.01,
    allow_overlap: AllowOverlap = False,
    record: Annotated[bool, typer.Option("--record", help="Keep the figures in the bundle's manifest.")] = False,
    json: Json = None,
) -> None:
    """Check every artifact against the FP32 ONNX on the same frames. Exits with 3 when a limit is exceeded."""
    from calibration.dataset import Dataset, parse_folds
    from calibration.drift import Limits, check_drift, require_unused
    from edge.bundle import Bundle, record_drift
    from edge.errors import DriftExceeded
    from edgekit.console import describe, notice, progress, write_json
    from edgekit.tables import drift_tables

    opened = Bundle.open(bundle)
    describe(opened)
    dataset = Dataset.open(data, folds=parse_folds(folds))
    if used := require_unused(dataset, opened.manifest.forbidden_frames(), allow=allow_overlap):
        notice(f"{used} of {len(dataset)} frames were trained, tuned or calibrated on: do not quote these figures")
    limits = Limits(max_dice_loss, max_sensitivity_loss, max_auc_loss, max_flips)
    report = check_drift(opened, dataset, limits=limits, threads=threads, progress=progress("drift"))
    drift_tables(report)
    write_json(
        json,
        report.to_json() | {"overlapping_frames": used, "phantom_calibrated": opened.manifest.phantom_calibrated},
    )
    if record:
        record_drift(opened, report.summary() | {"overlapping_frames": used})
    if not report.passed:
        failed = [f"{a.engine} {a.precision}: {', '.join(a.reasons)}" for a in report.artifacts if not a.passed]
        raise DriftExceeded(f"{bundle}: {'; '.join(failed)}; calibrate on more or better matching frames")
