"""What INT8 changes on cases that a network has not seen: every fold's network of a cross-validation, exported and checked.

    python benchmarks/scripts/fold_drift.py --data BUSBRA --data BUSI --runs runs/cv -o runs/drift --model-card docs/model-card.md

Each network is calibrated on three of the folds that it was trained on, those of the lowest numbers, and checked on the one that
was left out, at the operating point of the other folds' answers. A fold that is done is not repeated unless its checkpoint, the
data or a package that makes or runs artifacts is another one; after a change to edgekit itself name another -o. Prints a Markdown
table; exits with 3 when a fold leaves the limits of `edgekit drift`, as that command does.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.dataset import FOLDS, Dataset, parse_folds
from calibration.drift import check_drift, require_unused
from calibration.subset import calibration_frames
from edge.atomic import write_text
from edge.errors import DataError, DriftExceeded, EdgekitError
from edge.versions import versions
from emtnet.model_card import grid, replace_between, require_markers
from quantize import export
from quantize.pipeline import PACKAGES

COLUMNS: Final = {"AUC": "auc", "sensitivity": "sensitivity", "specificity": "specificity", "Dice": "dice_mean"}
FLIPS: Final = ("malignant_to_benign", "benign_to_malignant")
CALIBRATED_ON: Final = 3
"""Folds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of edgekit train --cross-validate")
    parser.add_argument("--network", default="emtnet")
    parser.add_argument("--folds", help="only these, such as 1,2")
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/drift"))
    parser.add_argument("--model-card", type=Path)
    options = parser.parse_args()
    if options.folds and options.model_card:
        parser.error("--model-card takes the table of all folds; leave --folds out")

    try:
        if options.model_card:
            require_markers(options.model_card, f"{options.network} drift")
        folds = parse_folds(options.folds) or tuple(range(1, FOLDS + 1))
        data_sha256 = digest(Dataset.open(options.data))
        reports = {
            fold: fold_report(options.data, options.runs, options.network, fold, options.out, data_sha256=data_sha256)
            for fold in folds
        }
        table = markdown(list(reports.values()))
        print(table)
        if options.model_card:
            replace_between(options.model_card, f"{options.network} drift", table)
        if failed := [f"fold {fold}: {reasons(report)}" for fold, report in reports.items() if not report["passed"]]:
            raise DriftExceeded(f"{'; '.join(failed)}; calibrate on more or better matching frames")
    except EdgekitError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


def fold_report(
    data: Sequence[Path], runs: Path, network: str, fold: int, out: Path, *, data_sha256: str
) -> dict[str, Any]:
    """`DriftReport.summary` of the network that has not seen `fold`, measured on it, or as `out` holds it.

    data_sha256: `digest` of all folds. Raises DataError, BundleError, SinkError and what `quantize.export` raises.
    """
    checkpoint = runs / f"fold-{fold}" / f"{network}.safetensors"
    try:
        sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{checkpoint}: cannot be read ({error.strerror}); cross-validate that fold first") from error
    made_of = {"checkpoint": sha256, "data": data_sha256, "versions": versions(PACKAGES)}
    saved = out / f"{network}-fold-{fold}.json"
    if (kept := _kept(saved, made_of)) is not None:
        return kept
    others = [other for other in range(1, FOLDS + 1) if other != fold]
    bundle = export(
        checkpoint,
        out / f"{network}-fold-{fold}",
        calibration=calibration_frames(Dataset.open(data, folds=others[:CALIBRATED_ON])),
        stage=lambda text: print(f"  fold {fold}: {text}", file=sys.stderr, flush=True),
    )
    held_out = Dataset.open(data, folds=(fold,))
    require_unused(held_out, bundle.manifest.forbidden_frames(), allow=False)
    report = check_drift(bundle, held_out).summary()
    write_text(saved, json.dumps({"made_of": made_of, "report": report}, indent=1) + "\n")
    return report


def _kept(saved: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """The report in `saved`, None where there is none, or one that was made of something else."""
    try:
        record = json.loads(saved.read_text(encoding="utf-8"))
        report: dict[str, Any] = record["report"]
        return report if record["made_of"] == made_of else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def digest(data: Dataset) -> str:
    """Sha256 over every case's fold and `Case.digest`: all that figures on `data` hang on."""
    whole = hashlib.sha256()
    for case in data:
        whole.update(f"{case.fold} {case.digest(case.read())}\n".encode())
    return whole.hexdigest()


def reasons(report: dict[str, Any]) -> str:
    """Which artifacts left which limits."""
    failed = [artifact for artifact in report["artifacts"] if not artifact["passed"]]
    return "; ".join(f"{one['engine']} {one['precision']}: {', '.join(one['reasons'])}" for one in failed)


def markdown(reports: Sequence[dict[str, Any]]) -> str:
    """Mean over the folds of what INT8 changes, the worst fold in brackets; flips are summed up."""
    head = ("", *COLUMNS, "flips m→b / b→m", "folds within the limits")
    fp32 = [np.mean([report["reference"][key] for report in reports]) for key in COLUMNS.values()]
    lines = [("FP32", *(f"{value:.3f}" for value in fp32), "", "")]
    by_engine: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        for artifact in report["artifacts"]:
            if artifact["precision"] == "int8":
                by_engine.setdefault(artifact["engine"], []).append(artifact)
    for engine, every in by_engine.items():
        deltas = [[artifact["delta"][key] for artifact in every] for key in COLUMNS.values()]
        flips = [sum(artifact["flips"][way] for artifact in every) for way in FLIPS]
        lines.append(
            (
                f"INT8 on {engine}: change",
                *(f"{np.mean(values):+.4f} ({min(values):+.4f})" for values in deltas),
                f"{flips[0]} / {flips[1]}",
                f"{sum(artifact['passed'] for artifact in every)} of {len(every)}",
            )
        )
    return grid(head, lines) + "\n"


if __name__ == "__main__":
    main()
