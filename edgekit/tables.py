"""Tables of drift and bench reports."""

from typing import TYPE_CHECKING

from benchmarks.bench import BenchReport
from calibration.drift import DriftReport
from calibration.metrics import Metrics
from edgekit.console import notice, number, table

if TYPE_CHECKING:
    from emtnet.report import ValidationReport

_METRICS = ("AUC", "sensitivity", "specificity", "Dice", "false alarms")


def metric_cells(metrics: Metrics) -> list[str]:
    """The figures of `_METRICS`."""
    values = (
        metrics.auc,
        metrics.sensitivity,
        metrics.specificity,
        metrics.dice_mean,
        metrics.normal_false_alarm_rate,
    )
    return [number(value) for value in values]


def metrics_table(title: str, rows: dict[str, Metrics]) -> None:
    """One row of figures a network."""
    table(title, ("", "cases", *_METRICS), [(name, m.n, *metric_cells(m)) for name, m in rows.items()])


def drift_tables(report: DriftReport) -> None:
    """Figures against the reference where there are labels, agreement always."""
    for name in report.skipped:
        notice(f"{name} was not checked: its engine is not installed")
    if report.labelled and report.reference is not None:
        rows: list[tuple[object, ...]] = [("onnx fp32 (reference)", *metric_cells(report.reference), "", "")]
        for a in report.artifacts:
            assert a.metrics is not None
            flips = f"{a.flips['malignant_to_benign']} / {a.flips['benign_to_malignant']}" if a.flips else number(None)
            rows.append((f"{a.engine} {a.precision}", *metric_cells(a.metrics), flips, "yes" if a.passed else "NO"))
        table(
            f"Drift on {report.frames} frames",
            ("", *_METRICS, "flips m→b / b→m", "passed"),
            rows,
        )
    else:
        notice("the frames have no labels, or the network no mask or class output: agreement only")
    table(
        f"Agreement on {report.frames} frames",
        (
            "",
            "against",
            "mean |Δmask|",
            "mask Dice min",
            "1 %",
            "median",
            "mean |Δp|",
            "99 %",
            "max |Δp|",
            "|Δ| / range",
        ),
        [
            (
                f"{a.engine} {a.precision}",
                against,
                number(g.mask_mean, 5),
                number(g.mask_dice_min),
                number(g.mask_dice_p01),
                number(g.mask_dice_median),
                number(g.malignancy_mean, 5),
                number(g.malignancy_p99),
                number(g.malignancy_max),
                number(g.worst_output, 5),
            )
            for a in report.artifacts
            for against, g in (("FP32", a.agreement), ("INT8 referee", a.engine_agreement))
            if g is not None
        ],
    )


def bench_table(report: BenchReport) -> None:
    """Latency, memory, size and speed-up of every artifact."""
    environment = report.environment
    first = report.results[0]
    table(
        f"{environment['cpu']}, {first.device}, {first.threads} threads, {environment['rounds']} interleaved rounds",
        ("", "p50 ms", "p90 ms", "p99 ms", "frames/s", "peak MB", "file MB", "× own FP32", "× fastest FP32"),
        [
            (
                f"{r.engine} {r.precision}",
                number(r.latency.p50_ms, 2),
                number(r.latency.p90_ms, 2),
                number(r.latency.p99_ms, 2),
                number(r.latency.fps, 0),
                number(r.peak_rss_bytes / 1e6, 0),
                number(r.size_bytes / 1e6, 2),
                number(r.speedup_vs_fp32, 2),
                number(r.speedup_vs_fastest_fp32, 2),
            )
            for r in report.results
        ],
    )
    for name in report.skipped:
        notice(f"{name} was not timed: its engine is not installed")


def validation_tables(report: "ValidationReport") -> None:
    """One row for each set of held-out cases."""
    from emtnet.model_card import COLUMNS, KIND_TITLES, cells, title

    for kind, heading in KIND_TITLES.items():
        rows = [
            (title(row), row.lesions, row.normals, *cells(row, intervals=False))
            for row in report.rows
            if row.kind == kind
        ]
        if rows:
            table(heading, ("cases", "lesions", "normals", *COLUMNS), rows)
