"""`edgekit bench --html`: the report as one page, no scripts, nothing from elsewhere, light and dark."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from benchmarks import plots
from benchmarks.bench import BenchReport
from benchmarks.compare import FASTER, MACHINE, SLOWER, Comparison
from benchmarks.phrases import comparison_notes, interval_line, paradox_lines, soak_line, state_line
from benchmarks.soak import Soak

_STYLE: Final = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1b1f24; --soft: #5b6470; --rule: #e1e4e9;
  --blue: #0068b5; --orange: #c85a00; --green: #2b7a3f; --plum: #9a4c95; --bad: #b3261e; --held: #c85a0026; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2127; --ink: #e8eaed; --soft: #a0a8b3;
  --rule: #323841; --blue: #58b0ee; --orange: #f0a14a; --green: #72c487; --plum: #d39bd0; --bad: #ff8a80; --held: #f0a14a2e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 64rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .3rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); }
.notice { border-left: 4px solid var(--orange); padding: .5rem .9rem; margin: 1rem 0; background: var(--card); font-weight: 600; }
.notice.bad { border-color: var(--bad); }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.1rem 1.25rem;
  margin: 1.1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .45rem; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; } tbody tr:last-child td { border-bottom: 0; }
td.words { white-space: normal; text-align: left; } .best td { font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: .4rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; min-width: 40rem; }
svg text { fill: var(--ink); font-size: 12px; font-variant-numeric: tabular-nums; }
svg .soft { fill: var(--soft); } svg .rule { stroke: var(--rule); }
.openvino { --c: var(--blue); } .litert { --c: var(--orange); } .onnx { --c: var(--green); } .tflite-runtime { --c: var(--plum); }
.main { --c: var(--blue); } .other { --c: var(--plum); }
.curve { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; } .curve.fp32 { stroke-dasharray: 5 3; }
.lead { stroke: var(--c); } .dots { stroke: var(--c); stroke-linecap: round; fill: none; } .cloud { opacity: .35; }
.area { fill: var(--c); stroke: var(--c); } .area.fp32 { fill-opacity: .25; } .bar { fill: var(--c); } .bar.faint { opacity: .3; }
.mark { stroke: var(--ink); } .p50 { stroke-width: 2; } .p90, .p99 { stroke-width: 1; stroke-dasharray: 2 2; }
.band { fill: var(--blue); opacity: .2; } line.level { stroke: var(--ink); stroke-width: 1.5; }
svg text.level { font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
.held { fill: var(--held); } svg text.heldname { fill: var(--orange); font-weight: 600; }
.limit { stroke: var(--ink); stroke-dasharray: 4 3; } .tolerated { fill: var(--rule); opacity: .6; }
.clock { --c: var(--blue); } .adjusted { --c: var(--soft); }
.interval { stroke: var(--c); stroke-width: 3; stroke-linecap: round; }
.stage0 { fill: var(--blue); } .stage1 { fill: var(--green); } .stage2 { fill: var(--orange); } .stage3 { fill: var(--plum); }
@media print { :root { --page: #fff; --card: #fff; } body { padding: 0; max-width: none; } section { break-inside: avoid; }
  svg, .notice { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def bench_page(report: BenchReport) -> str:
    """The whole page as text."""
    heading = f"Bench – {report.bundle['network']}"
    results = report.results
    device = report.environment["device"]
    where = device["board"] or device["cpu"]
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f'<p class="soft">{escape(where)}, {escape(report.created)}</p>',
        *(f'<p class="notice bad">{escape(text)}</p>' for text in paradox_lines(report)),
        _section("Artifacts", _summary(report), _results(report)),
    ]
    if report.comparison is not None:
        parts.append(_comparison(report.comparison))
    parts += [
        _section("Latency, round by round", "A dot is one call; lines are running medians.", plots.latency_plot(results)),
        _section(
            "Distribution", "The full mark is the median, dashed ones the 90th and 99th percentile.",
            plots.distribution_plot(results),
        ),
    ]  # fmt: skip
    if report.soak is not None:
        parts.append(_soak(report.soak))
    if report.cold_starts:
        said = (
            f"Medians of {len(report.cold_starts[0].samples_ms)} fresh processes each, which took turns; "
            f"the dashed line is at {plots.WANTED_START_MS / 1000:g} s. Files were in the page cache."
        )
        parts.append(_section("Start to first result", said, plots.cold_start_plot(report.cold_starts)))
    if any(result.effective_precision is not None for result in results):
        said = "Share of the multiply-accumulates by the precision that they really ran in."
        parts.append(_section("Effective precision", said, plots.precision_plot(results)))
    if any(result.roofline is not None for result in results):
        said = "Full: the least time that this machine's peak and bandwidth allow; faint: measured."
        parts.append(_section("Distance from the floor", said, plots.roofline_plot(results)))
    parts.append(_machine(report))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _summary(report: BenchReport) -> str:
    first = report.results[0]
    said = f"{report.rounds} interleaved rounds on {first.device}, {first.threads} threads. "
    return said + f"Fastest: {report.fastest.name}, {report.fastest.latency.p50_ms:.2f} ms."


def _results(report: BenchReport) -> str:
    head = ["", "p50 ms", "p90 ms", "p99 ms", "frames/s", "peak MB", "file MB", "× own FP32", "× fastest FP32"]
    floors = any(result.roofline is not None for result in report.results)
    rows, best = [], None
    for index, result in enumerate(report.results):
        latency = result.latency
        cells = [result.name, *(f"{ms:.2f}" for ms in (latency.p50_ms, latency.p90_ms, latency.p99_ms))]
        cells += [f"{latency.fps:.0f}", f"{result.peak_rss_bytes / 1e6:.0f}", f"{result.size_bytes / 1e6:.2f}"]
        cells += [
            "–" if ratio is None else f"{ratio:.2f}"
            for ratio in (result.speedup_vs_fp32, result.speedup_vs_fastest_fp32)
        ]
        if floors:
            cells.append("–" if result.roofline is None else f"{float(result.roofline['distance']):.2f}")
        rows.append(cells)
        if result is report.fastest:
            best = index
    return _table([*head, *(["× floor"] if floors else [])], rows, best=best)


def _comparison(comparison: Comparison) -> str:
    slower = ", ".join(change.artifact for change in comparison.slower)
    said = f"With {comparison.where} of {comparison.created}; {100 * comparison.tolerance:g} % are tolerated. "
    said += f"Slower: {slower}." if slower else "Nothing is slower beyond noise."
    notes = comparison_notes(comparison)
    words = {SLOWER: "slower", FASTER: "faster", MACHINE: "the machine was slower, not the network"}
    rows = [
        [
            change.artifact,
            f"{change.ratio.value:.3f}",
            f"{change.ratio.low:.3f} – {change.ratio.high:.3f}",
            "–" if change.adjusted is None else f"{change.adjusted.value:.3f}",
            words.get(change.verdict, change.verdict),
        ]
        for change in comparison.changes
    ]
    table = _table(["", "now / then", "99 % interval", "by the yardstick", "verdict"], rows)
    listed = "".join(f"<p>{escape(note)}</p>" for note in notes)
    what = '<p class="soft">Blue: by the clock; grey: in multiples of the yardstick. Shaded: tolerated.</p>'
    return _section("Now and then", said, plots.comparison_plot(comparison) + what + table + listed)


def _soak(soak: Soak) -> str:
    held = "".join(f"<p>{escape(interval_line(found))}</p>" for found in soak.intervals)
    if not held:
        told = any(window.clock_mhz is not None for window in soak.windows)
        said = "No throttling was told and the clock held." if told else "Clock and throttling are not readable here."
        held = f"<p>{said}</p>"
    what = '<p class="soft">Line: median of each second; band: up to its 99th percentile.</p>'
    return _section("Under load", f"{soak_line(soak)}.", plots.soak_plot(soak) + what + held)


def _machine(report: BenchReport) -> str:
    environment = report.environment
    device = environment["device"]
    memory = device["memory_bytes"]
    facts = {
        "Board": device["board"],
        "Processor": f"{device['cpu']}, {device['cores']} cores",
        "Features": ", ".join(device["features"]),
        "Memory": None if memory is None else f"{memory / 1e9:.1f} GB",
        "Governor": device["governor"],
        "Before / after": f"{state_line(report.before)} / {state_line(report.after)}",
        "System": f"{environment['system']}, Python {environment['python']}",
        "Versions": ", ".join(f"{name} {version}" for name, version in environment["packages"].items()),
        "Bundle": f"{report.bundle['path']} (manifest sha256 {report.bundle['manifest_sha256'][:16]}…)",
        "Not timed": ", ".join(f"{name}: engine not installed" for name in report.skipped),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(str(fact))}</dd>" for name, fact in facts.items() if fact)
    return f"<section><h2>Machine</h2><dl>{listed}</dl></section>"


def _section(title: str, said: str, body: str) -> str:
    return (
        f'<section><h2>{escape(title)}</h2><p class="soft">{escape(said)}</p><div class="wide">{body}</div></section>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, best: int | None = None) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = [
        f"<tr{' class=best' if index == best else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for index, cells in enumerate(rows)
    ]
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
