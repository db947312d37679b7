"""The plots of a bench report. An engine has one colour everywhere; INT8 is drawn full, FP32 faint."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks import svg
from benchmarks.bench import BenchResult
from benchmarks.coldstart import STAGES, ColdStart
from benchmarks.compare import Change, Comparison
from benchmarks.layers import PRECISIONS
from benchmarks.ratio import Ratio
from benchmarks.soak import Soak, Window, median_ms

WIDTH: Final = 920.0
LEFT: Final = 150.0
_LABELS: Final = 190.0
"""Room on the right for what stands beside lines."""
WANTED_START_MS: Final = 1500.0
"""What a start to the first result should stay within."""
_SMOOTH: Final = 9
"""Rounds of the running median."""


def latency_plot(results: Sequence[BenchResult]) -> str:
    """Latency of every round as a dot, and the running median; artifacts named at the end of their lines."""
    rounds = len(results[0].latency.samples_ms)
    top_ms = max(float(np.percentile(result.latency.samples_ms, 99)) for result in results)
    x = svg.Scale(0, max(1, rounds - 1), 60, WIDTH - _LABELS)
    y = svg.Scale(0, top_ms * 1.08, 330, 24)
    parts = [
        svg.left_axis(y, x.start, x.end, "ms"),
        svg.bottom_axis(x, 24, 330, "round", rules=False),
    ]
    for result in results:
        shown = [(x(i), y(ms)) for i, ms in enumerate(result.latency.samples_ms) if ms <= y.high]
        parts.append(svg.dots(shown, colour(result.engine, result.precision) + " cloud"))
    ends = []
    for result in results:
        smooth = _running_median(result.latency.samples_ms)
        parts.append(
            svg.polyline(
                [(x(i), y(min(ms, y.high))) for i, ms in enumerate(smooth)],
                f"curve {colour(result.engine, result.precision)}",
            )
        )
        ends.append(y(min(smooth[-1], y.high)))
    for result, end, place in zip(results, ends, svg.spread(ends, 16), strict=True):
        parts.append(svg.line(x.end + 2, end, x.end + 14, place, f"lead {colour(result.engine, result.precision)}"))
        parts.append(svg.text(x.end + 18, place + 4, f"{result.name}  {result.latency.p50_ms:.2f}"))
    return svg.drawing(WIDTH, 370, parts, "latency of every artifact over the rounds")


def distribution_plot(results: Sequence[BenchResult]) -> str:
    """A histogram of each artifact's latencies on one axis, with marks at p50, p90 and p99."""
    row = 58.0
    bottom = 14 + row * len(results)
    high = max(result.latency.p99_ms for result in results) * 1.1
    x = svg.Scale(0, high, LEFT, WIDTH - 70)
    bins = np.linspace(0, high, 161)
    parts = [svg.bottom_axis(x, 8, bottom, "ms")]
    for index, result in enumerate(results):
        base = 14 + row * (index + 1)
        latency, kind = result.latency, colour(result.engine, result.precision)
        counts, _ = np.histogram(latency.samples_ms, bins)
        heights = counts / max(1, counts.max()) * (row - 16)
        outline = [(x(0), base)]
        for height, low, up in zip(heights, bins[:-1], bins[1:], strict=True):
            outline += [(x(low), base - height), (x(up), base - height)]
        parts.append(svg.polygon([*outline, (x(high), base)], f"area {kind}"))
        parts.append(svg.text(LEFT - 10, base - 6, result.name, anchor="end"))
        for percent, ms in ((50, latency.p50_ms), (90, latency.p90_ms), (99, latency.p99_ms)):
            parts.append(svg.line(x(ms), base, x(ms), base - (row - 12 if percent == 50 else 12), f"mark p{percent}"))
        beyond = sum(ms > high for ms in latency.samples_ms)
        if beyond:
            parts.append(svg.text(WIDTH - 2, base - 6, f"+{beyond} beyond", anchor="end", kind="soft"))
    return svg.drawing(WIDTH, bottom + 40, parts, "distribution of latencies by artifact")


def soak_plot(soak: Soak) -> str:
    """Latency, temperature and clock over the soak's minutes, with the cold and the steady part and every limited stretch."""
    panels: list[tuple[str, Callable[[Window], float | None]]] = [
        ("°C", lambda w: w.temperature_c),
        ("MHz", lambda w: w.clock_mhz),
    ]
    told = [(unit, get) for unit, get in panels if any(get(w) is not None for w in soak.windows)]
    unit_s, unit_name = (60, "minutes") if soak.duration_s >= 180 else (1, "seconds")
    x = svg.Scale(0, soak.duration_s / unit_s, 60, WIDTH - 20)
    high = float(np.percentile([w.p99_ms for w in soak.windows], 98)) * 1.15
    y = svg.Scale(0, high, 250, 44)
    bottom = 250 + 130.0 * len(told)
    parts = []
    for stretch in soak.intervals:
        start, end = x(stretch.start_s / unit_s), x(min(stretch.end_s, soak.duration_s) / unit_s)
        parts.append(svg.rect(start, 30, max(2, end - start), bottom - 30, "held", title=", ".join(stretch.reasons)))
        if end - start > 60:
            parts.append(svg.text(start + 3, 26, ", ".join(stretch.reasons), kind="heldname"))
    parts.append(svg.left_axis(y, x.start, x.end, "ms"))
    drawn = _thinned(soak.windows)
    middle = [x((w.start_s + w.end_s) / 2 / unit_s) for w in drawn]
    upper = [(at, y(min(w.p99_ms, high))) for at, w in zip(middle, drawn, strict=True)]
    lower = [(at, y(min(w.p50_ms, high))) for at, w in zip(middle, drawn, strict=True)]
    parts += [svg.polygon([*upper, *reversed(lower)], "band"), svg.polyline(lower, "curve main")]
    for name, part in (("cold", soak.cold), ("steady", soak.steady)):
        start, end, ms = x(part[0].start_s / unit_s), x(part[-1].end_s / unit_s), median_ms(part)
        parts.append(svg.line(start, y(min(ms, high)), end, y(min(ms, high)), "level"))
        anchor, at = ("start", start + 4) if name == "cold" else ("end", end)
        parts.append(svg.text(at, y(min(ms, high)) + 18, f"{name} {ms:.2f} ms", anchor=anchor, kind="level"))
    for index, (unit, get) in enumerate(told):
        values = [get(w) for w in drawn]
        known = [value for value in values if value is not None]
        low, top = min(known), max(known)
        pad = max(0.08 * (top - low), 0.02 * top, 1.0)
        scale = svg.Scale(low - pad, top + pad, 250 + 130.0 * (index + 1) - 8, 250 + 130.0 * index + 34)
        parts.append(svg.left_axis(scale, x.start, x.end, unit, most=4))
        parts.append(
            svg.polyline([(at, scale(v)) for at, v in zip(middle, values, strict=True) if v is not None], "curve other")
        )
    parts.append(svg.bottom_axis(x, 44, bottom, unit_name, rules=False))
    return svg.drawing(WIDTH, bottom + 40, parts, f"{soak.artifact} under load for {soak.duration_s / 60:.1f} minutes")


def cold_start_plot(starts: Sequence[ColdStart]) -> str:
    """Bars of the median stages from the start of a process to its first result."""
    most = max(*(sum(start.stages_ms.values()) for start in starts), WANTED_START_MS) * 1.05
    x = svg.Scale(0, most, LEFT + 60, WIDTH - 70)
    row, top = 36.0, 34.0
    bottom = top + row * len(starts)
    parts = [svg.bottom_axis(x, top - 6, bottom, "ms")]
    place = x.start
    for index, stage in enumerate(STAGES):
        parts.append(svg.rect(place, 2, 12, 12, f"stage{index}"))
        parts.append(svg.text(place + 18, 12, stage, kind="soft"))
        place += 42 + 7.4 * len(stage)
    for index, start in enumerate(starts):
        base = top + row * index
        parts.append(svg.text(x.start - 10, base + 19, start.name, anchor="end"))
        done = 0.0
        for number, (stage, ms) in enumerate(start.stages_ms.items()):
            parts.append(
                svg.rect(x(done), base + 4, x(done + ms) - x(done), 22, f"stage{number}", title=f"{stage} {ms:.0f} ms")
            )
            done += ms
        parts.append(svg.text(x(done) + 6, base + 20, f"{start.total_ms:.0f} ms"))
    parts.append(svg.line(x(WANTED_START_MS), top - 6, x(WANTED_START_MS), bottom, "limit"))
    return svg.drawing(WIDTH, bottom + 40, parts, "time to the first result of a fresh process")


def comparison_plot(comparison: Comparison) -> str:
    """Every artifact's ratio now over then with its interval, by the clock and by the yardstick, and the tolerance."""
    changes = comparison.changes
    shown = [ratio for change in changes for ratio in (change.ratio, change.adjusted) if ratio is not None]
    machine = comparison.machine
    low = min(*(r.low for r in shown), 1 / (1 + comparison.tolerance), machine.low if machine else 1.0)
    high = max(*(r.high for r in shown), 1 + comparison.tolerance, machine.high if machine else 1.0)
    pad = 0.06 * (high - low)
    x = svg.Scale(low - pad, high + pad, LEFT, WIDTH - 150)
    row, top = 40.0, 30.0
    bottom = top + row * (len(changes) + (machine is not None))
    limits = x(1 / (1 + comparison.tolerance)), x(1 + comparison.tolerance)
    parts = [svg.rect(limits[0], top - 8, limits[1] - limits[0], bottom - top + 8, "tolerated")]
    parts += [svg.bottom_axis(x, top - 8, bottom, "latency now / then", rules=False)]
    parts += [svg.line(x(1.0), top - 8, x(1.0), bottom, "limit")]
    parts += [svg.text(limits[1] + 4, top - 12, "slower →", kind="soft")]
    parts += [svg.text(limits[0] - 4, top - 12, "← faster", anchor="end", kind="soft")]
    rows: list[tuple[str, Ratio, Ratio | None, str]] = [
        (change.artifact, change.ratio, change.adjusted, verdict(change)) for change in changes
    ]
    if machine is not None:
        rows.append(("yardstick", machine, None, ""))
    for index, (name, ratio, adjusted, said) in enumerate(rows):
        base = top + row * (index + 0.5)
        parts.append(svg.text(LEFT - 10, base + 4, name, anchor="end"))
        parts += _interval(x, ratio, base - (6 if adjusted else 0), "clock")
        if adjusted is not None:
            parts += _interval(x, adjusted, base + 6, "adjusted")
        parts.append(svg.text(WIDTH - 140, base + 4, said))
    return svg.drawing(WIDTH, bottom + 40, parts, "latency now over then by artifact")


def roofline_plot(results: Sequence[BenchResult]) -> str:
    """The floor that the machine allows, inside the latency in the same rounds; only artifacts that have one."""
    known = [(result, result.roofline) for result in results if result.roofline is not None]
    x = svg.Scale(0, max(float(found["p50_ms"]) for _, found in known) * 1.08, LEFT, WIDTH - 300)
    row = 36.0
    parts = [svg.bottom_axis(x, 8, 14 + row * len(known), "ms")]
    for index, (result, found) in enumerate(known):
        base = 14 + row * index
        p50, floor, alone = (float(found[key]) for key in ("p50_ms", "floor_ms", "undisturbed_distance"))
        said = f"{floor:.2f} of {p50:.2f} ms: {float(found['distance']):.2f}×, {alone:.2f}× in rounds left alone"
        kind = colour(result.engine, result.precision)
        parts += [
            svg.text(LEFT - 10, base + 19, result.name, anchor="end"),
            svg.rect(x.start, base + 4, x(p50) - x.start, 22, f"bar faint {kind}", title=f"measured {p50:.2f} ms"),
            svg.rect(x.start, base + 4, x(floor) - x.start, 22, f"bar {kind}", title=f"floor {floor:.2f} ms"),
            svg.text(x(p50) + 6, base + 20, said),
        ]
    return svg.drawing(WIDTH, 54 + row * len(known), parts, "floor and latency by artifact")


def precision_plot(results: Sequence[BenchResult]) -> str:
    """Share of the multiply-accumulates that ran in each precision; only artifacts that have it."""
    known = [(result, result.effective_precision) for result in results if result.effective_precision is not None]
    x = svg.Scale(0, 100, LEFT, WIDTH - 210)
    row, top = 36.0, 34.0
    parts = [svg.bottom_axis(x, top - 6, top + row * len(known), "% of the multiply-accumulates")]
    for index, name in enumerate(PRECISIONS):
        parts.append(svg.rect(LEFT + 80 * index, 2, 12, 12, f"stage{index}"))
        parts.append(svg.text(LEFT + 80 * index + 18, 12, name, kind="soft"))
    for index, (result, found) in enumerate(known):
        base, done = top + row * index, 0.0
        parts.append(svg.text(LEFT - 10, base + 19, result.name, anchor="end"))
        for number, name in enumerate(PRECISIONS):
            share = 100 * float(found["shares"].get(name, 0.0))
            parts.append(
                svg.rect(
                    x(done), base + 4, x(done + share) - x(done), 22, f"stage{number}", title=f"{name} {share:.1f} %"
                )
            )
            done += share
        parts.append(svg.text(x.end + 10, base + 20, str(found["text"])))
    return svg.drawing(WIDTH, top + 40 + row * len(known), parts, "effective precision by artifact")


def colour(engine: str, precision: str) -> str:
    """The class of an artifact's colour."""
    return f"{engine} {precision}"


def verdict(change: Change) -> str:
    return f"×{change.ratio.value:.2f} {change.verdict}"


def _interval(x: svg.Scale, ratio: Ratio, y: float, kind: str) -> list[str]:
    return [
        svg.line(x(ratio.low), y, x(ratio.high), y, f"interval {kind}"),
        svg.dots([(x(ratio.value), y)], kind, radius=4),
    ]


def _running_median(samples: Sequence[float]) -> list[float]:
    half = _SMOOTH // 2
    return [float(np.median(samples[max(0, i - half) : i + half + 1])) for i in range(len(samples))]


def _thinned(windows: Sequence[Window], most: int = 900) -> list[Window]:
    """At most so many windows, of each stretch the slowest: a page for eight hours stays small and hides no spike."""
    if len(windows) <= most:
        return list(windows)
    edges: NDArray[Any] = np.linspace(0, len(windows), most + 1).round().astype(int)
    return [max(windows[start:end], key=lambda w: w.p99_ms) for start, end in pairwise(edges.tolist())]
