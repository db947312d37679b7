"""Tables of drift and bench reports."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from benchmarks.bench import BenchReport
from benchmarks.coldstart import STAGES, ColdStart
from benchmarks.compare import Comparison
from benchmarks.phrases import comparison_notes, interval_line, paradox_lines, precision_cell, soak_line
from benchmarks.roofline import Roofline
from calibration.drift import DriftReport
from calibration.metrics import Metrics
from edgekit.console import notice, number, out, table, warning

if TYPE_CHECKING:
    from emtnet.report import ValidationReport

WORST: Final = 8
"""Layers of a roofline that are shown."""
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
        notice(f"{name} was not checked: its engine is not installed, or does not work here (edgekit doctor)")
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
    """Latency, memory, size and speed-up of every artifact, and whatever else was measured."""
    first = report.results[0]
    precise = any(r.effective_precision is not None for r in report.results)
    floors = any(r.roofline is not None for r in report.results)
    table(
        f"{report.environment['device']['cpu']}, {first.device}, {first.threads} threads, {report.rounds} interleaved rounds",
        (
            *("", "p50 ms", "p90 ms", "p99 ms", "frames/s", "peak MB", "file MB", "× own FP32", "× fastest FP32"),
            *(("ran in",) if precise else ()),
            *(("× floor",) if floors else ()),
        ),
        [
            (
                r.name,
                number(r.latency.p50_ms, 2),
                number(r.latency.p90_ms, 2),
                number(r.latency.p99_ms, 2),
                number(r.latency.fps, 0),
                number(r.peak_rss_bytes / 1e6, 0),
                number(r.size_bytes / 1e6, 2),
                number(r.speedup_vs_fp32, 2),
                number(r.speedup_vs_fastest_fp32, 2),
                *((precision_cell(r),) if precise else ()),
                *((number(r.roofline["distance"] if r.roofline else None, 2),) if floors else ()),
            )
            for r in report.results
        ],
    )
    for name in report.skipped:
        notice(f"{name} was not timed: its engine is not installed, or does not work here (edgekit doctor)")
    if report.cold_starts:
        _cold_start_table(report.cold_starts)
    if report.soak is not None:
        out.print(f"Soak: {soak_line(report.soak)}", markup=False)
        for found in report.soak.intervals:
            out.print(f"  held back {interval_line(found)}", markup=False)
    if report.comparison is not None:
        _comparison_table(report.comparison)
    for text in paradox_lines(report):
        warning(text)


def roofline_table(roofline: Roofline) -> None:
    """The layers that lose most above what this machine's best convolution and its memory allow."""
    peaks = ", ".join(f"{peak.macs_per_s / 1e9:.0f} GMAC/s {peak.precision}" for peak in roofline.peaks)
    table(
        f"{roofline.engine} {roofline.precision}: {roofline.distance:.2f} × the floor of {roofline.floor_ms:.2f} ms "
        f"({roofline.undisturbed_distance:.2f} × in rounds left alone; best convolutions {peaks}); what loses most",
        ("", "output", "ran in", "MMAC", "floor ms", "took ms"),
        [
            (
                bound.layer.kind,
                "×".join(map(str, bound.layer.shape)),
                bound.layer.kernel,
                number(bound.layer.macs / 1e6, 1),
                number(bound.floor_ms, 3),
                number(bound.measured_ms, 3),
            )
            for bound in roofline.worst(WORST)
        ],
    )


def _cold_start_table(starts: Sequence[ColdStart]) -> None:
    table(
        f"From the start of a process to its first result, medians of {len(starts[0].samples_ms)}",
        ("", "ms", *(f"{stage} ms" for stage in STAGES)),
        [(s.name, number(s.total_ms, 0), *(number(ms, 0) for ms in s.stages_ms.values())) for s in starts],
    )


def _comparison_table(comparison: Comparison) -> None:
    table(
        f"Now and then: {comparison.where}, {100 * comparison.tolerance:g} % tolerated",
        ("", "now / then", "99 % interval", "by the yardstick", "verdict"),
        [
            (
                c.artifact,
                number(c.ratio.value),
                f"{number(c.ratio.low)} – {number(c.ratio.high)}",
                number(c.adjusted.value if c.adjusted else None),
                c.verdict,
            )
            for c in comparison.changes
        ],
    )
    for note in comparison_notes(comparison):
        notice(note)


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
