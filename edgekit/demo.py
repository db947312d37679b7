"""The whole way in one command: export, drift, bench, a sample cine, and a report folder with pictures."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.bench import BenchReport
from benchmarks.bench import bench as run_bench
from calibration.dataset import Dataset
from calibration.drift import DriftReport, check_drift, require_unused
from calibration.subset import calibration_frames, phantom_frames
from edge.atomic import write_bytes, write_text
from edge.bundle import Bundle
from edge.errors import DriftExceeded
from edge.overlay import DISCLAIMER, draw_overlay, tile
from edge.phantom import phantom_case, phantom_cine
from edge.predictor import Predictor
from edgekit.console import describe, err, notice, number, out, progress, table, write_json
from edgekit.tables import bench_table, drift_tables
from emtnet.weights import SHIPPED
from quantize import export

PHANTOM_COUNT: Final = 40
PHANTOM_SEED: Final = 900_000
"""Check phantoms start here, apart from those that calibrate."""
CINE_FRAMES: Final = 48


def run_demo(
    data: Sequence[Path],
    folder: Path,
    *,
    calibration_folds: tuple[int, ...] | None,
    folds: tuple[int, ...] | None,
    rounds: int,
) -> None:
    """Run the pipeline on the shipped checkpoint and write the report into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.open(data, folds=folds) if data else _phantom_dataset(folder / "phantoms")
    if data:
        source = Dataset.open(data, folds=calibration_folds)
        calibration = calibration_frames(source, progress=progress("calibration frames"))
    else:
        calibration = phantom_frames(progress=progress("phantoms"))
    bundle = export(
        SHIPPED["emtnet"],
        folder / "bundle",
        calibration=calibration,
        int8=True,
        stage=lambda text: err.print(f"  {text}", style="dim", markup=False),
    )
    describe(bundle)
    if used := require_unused(dataset, bundle.manifest.forbidden_frames(), allow=True):
        notice(f"{used} of {len(dataset)} frames were trained, tuned or calibrated on: do not quote these figures")
    drift = check_drift(bundle, dataset, progress=progress("drift"))
    write_json(folder / "drift.json", drift.to_json() | {"overlapping_frames": used})
    drift_tables(drift)
    timing = run_bench(bundle, rounds=rounds, progress=progress("bench"))
    write_json(folder / "bench.json", timing.to_json())
    bench_table(timing)
    err.print("  sample cine and pictures", style="dim")
    _write_pictures(bundle, dataset, folder)
    rows = _summary(drift, timing)
    table("In one table", _COLUMNS, rows)
    write_text(folder / "index.html", _page(rows, drift, timing, bundle))
    out.print(f"report: {folder / 'index.html'}", markup=False)
    if not drift.passed:
        failed = [f"{a.engine} {a.precision}: {', '.join(a.reasons)}" for a in drift.artifacts if not a.passed]
        raise DriftExceeded(f"{folder}: {'; '.join(failed)}")


def _phantom_dataset(folder: Path) -> Dataset:
    """Phantoms as image files without labels: a network trained on patients is not to be graded on synthetic tumours."""
    for index in range(PHANTOM_COUNT):
        done, encoded = cv2.imencode(".png", phantom_case(PHANTOM_SEED + index).pixels)
        assert done
        write_bytes(folder / f"phantom_{index:02d}.png", encoded.tobytes())
    return Dataset.open([folder])


def _write_pictures(bundle: Bundle, dataset: Dataset, folder: Path) -> None:
    """Overlays of eight cases with the true outline, and a swept phantom as an animation and a contact sheet."""
    with Predictor.open(bundle.path) as predictor:
        pictures = []
        step = max(1, len(dataset) // 8)
        for case in dataset.cases[::step][:8]:
            sample = case.read()
            pictures.append(draw_overlay(sample.pixels, predictor.predict(sample.pixels), true_mask=sample.mask))
        _write_png(folder / "cases.png", tile(pictures, columns=4))
        sweep = [
            draw_overlay(frame.pixels, predictor.predict(frame.pixels), true_mask=frame.mask)
            for frame in phantom_cine(PHANTOM_SEED, frames=CINE_FRAMES)
        ]
    _write_png(folder / "cine.png", tile(sweep[:: CINE_FRAMES // 8], columns=4))
    animation = cv2.Animation()
    animation.frames = sweep
    animation.durations = [50] * len(sweep)
    done, encoded = cv2.imencodeanimation(".webp", animation)
    if done:
        write_bytes(folder / "cine.webp", np.asarray(encoded).tobytes())


def _write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(".png", picture)
    assert done
    write_bytes(path, encoded.tobytes())


_COLUMNS: Final = ("artifact", "file MB", "p50 ms", "× own FP32", "Dice", "AUC", "mean |Δp|", "max |Δp|", "drift")


def _summary(drift: DriftReport, timing: BenchReport) -> list[tuple[str, ...]]:
    """One row an artifact: size, speed, figures, difference from the FP32 ONNX."""
    found = {(a.engine, a.precision): a for a in drift.artifacts}
    rows: list[tuple[str, ...]] = []
    for result in timing.results:
        artifact = found.get((result.engine, result.precision))
        metrics = artifact.metrics if artifact else drift.reference
        rows.append(
            (
                f"{result.engine} {result.precision}",
                number(result.size_bytes / 1e6, 2),
                number(result.latency.p50_ms, 2),
                number(result.speedup_vs_fp32, 2),
                number(metrics.dice_mean if metrics else None),
                number(metrics.auc if metrics else None),
                number(artifact.agreement.malignancy_mean if artifact else None, 4),
                number(artifact.agreement.malignancy_max if artifact else None),
                "reference" if artifact is None else "passed" if artifact.passed else "FAILED",
            )
        )
    return rows


def _page(rows: list[tuple[str, ...]], drift: DriftReport, timing: BenchReport, bundle: Bundle) -> str:
    """A self-contained page: the table and the pictures."""
    manifest = bundle.manifest
    calibration = manifest.calibration
    assert calibration is not None
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
    graded = (
        f"{drift.frames} labelled frames"
        if drift.labelled
        else f"{drift.frames} unlabelled frames, so agreement with FP32 only"
    )
    warning = "<p class=warn>Calibrated on phantoms, not on real frames.</p>" if manifest.phantom_calibrated else ""
    pictures = "".join(
        f"<h2>{title}</h2><img alt='{title}' src='data:image/{kind};base64,{_encoded(bundle.path.parent / name)}'>"
        for title, name, kind in (
            (f"Cases: coloured outline predicted{', white true' if drift.labelled else ''}", "cases.png", "png"),
            ("A swept phantom: coloured outline predicted, white true", "cine.webp", "webp"),
        )
        if (bundle.path.parent / name).is_file()
    )
    return f"""<!doctype html><html lang=en><meta charset=utf-8><title>edgekit report</title>
<meta name=viewport content="width=device-width">
<style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{padding:.3em .8em;text-align:right;border-bottom:1px solid #8885}}
td:first-child,th:first-child{{text-align:left}}img{{max-width:100%}}.warn{{color:#b45309;font-weight:bold}}</style>
<h1>edgekit: {html.escape(manifest.network)}</h1>{warning}
<p>Calibrated on {calibration.count} {html.escape(calibration.source)} frames; drift on {graded}; timed on
{html.escape(timing.environment["device"]["cpu"])}, {timing.results[0].threads} threads, {timing.rounds} interleaved rounds.</p>
<table><tr>{head}</tr>{body}</table>{pictures}<p>{DISCLAIMER}</p></html>
"""


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
