"""`edgekit evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import AllowOverlap, Data, Engine, Folds, Json, PrecisionOption, Threads, wished


def evaluate(
    target: Annotated[Path, typer.Argument(help="Bundle folder or checkpoint (.safetensors).")],
    data: Data,
    folds: Folds = None,
    engine: Engine = None,
    precision: PrecisionOption = None,
    threads: Threads = None,
    allow_overlap: AllowOverlap = False,
    json: Json = None,
) -> None:
    """Measure a bundle's artifact or a checkpoint on labelled frames."""
    from calibration.dataset import Dataset, parse_folds
    from calibration.drift import require_unused
    from calibration.evaluation import evaluate as run
    from edge.bundle import Bundle
    from edge.errors import DataError, require
    from edge.predictor import Predictor
    from edgekit.console import describe, notice, progress, write_json
    from edgekit.tables import metrics_table

    dataset = Dataset.open(data, folds=parse_folds(folds))
    if not dataset.labelled:
        raise DataError("the data have no labels; use edgekit predict, or edgekit drift for agreement")
    if not target.exists():
        raise DataError(f"{target}: no such checkpoint or bundle")
    if target.is_file():
        require("torch", extra="export")
        from emtnet.engine import torch_predictor
        from emtnet.weights import load_checkpoint

        network, info = load_checkpoint(target)
        forbidden = info.used_frames()
        predictor = torch_predictor(network, operating_point=info.operating_point, presence=info.presence)
        name = f"{target.name} (PyTorch fp32)"
        phantom = False
        if engine or precision or threads:
            notice("a checkpoint runs in PyTorch; --engine, --precision and --threads are for bundles")
    else:
        bundle = Bundle.open(target)
        describe(bundle)
        choice = wished(engine, precision)
        artifact = bundle.choose(**choice)
        forbidden = dict(bundle.manifest.forbidden_frames())
        predictor = Predictor.open(target, threads=threads, **choice)
        name = f"{artifact.engine} {artifact.precision}"
        phantom = bundle.manifest.phantom_calibrated
    with predictor:
        if used := require_unused(dataset, forbidden, allow=allow_overlap):
            notice(f"{used} of {len(dataset)} frames were trained, tuned or calibrated on: do not quote these figures")
        evaluation = run(predictor, dataset, progress=progress("evaluate"))
    threshold = evaluation.metrics.threshold
    title = f"{target}" if threshold is None else f"{target} at threshold {threshold:.3f}"
    metrics_table(title, {name: evaluation.metrics})
    record = {"target": name, "overlapping_frames": used, "phantom_calibrated": phantom}
    write_json(json, evaluation.to_json() | record)
