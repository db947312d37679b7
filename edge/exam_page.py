"""The exam summary as one HTML page: no scripts, nothing from elsewhere, light and dark, and for paper."""

import base64
from html import escape
from typing import Final

from edge.exam import ExamSummary, KeyFrame, LesionSummary
from edge.interpretation import LESION
from edge.overlay import DISCLAIMER

GRAPH: Final = (420.0, 130.0)
"""Width and height of the graph's own units."""
_LEFT, _TOP, _RIGHT, _BOTTOM = 34.0, 8.0, 8.0, 22.0

_STYLE: Final = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1b1f24; --soft: #5b6470; --rule: #d8dce2;
  --positive: #b35c00; --other: #00609c; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1d2127; --ink: #e8eaed; --soft: #a0a8b3;
  --rule: #363c45; --positive: #f0a830; --other: #58b0ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 .8rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .notice { border-left: 4px solid var(--positive); padding: .3rem .8rem;
  margin: 1rem 0; background: var(--card); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.1rem 1.25rem;
  margin: 1.1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .6rem; border-bottom: 1px solid var(--rule);
  vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
th { color: var(--soft); font-weight: 600; }
tbody tr:last-child td { border-bottom: 0; }
.lesion { display: grid; grid-template-columns: minmax(0, 1.1fr) minmax(0, 1fr); gap: 1.25rem; align-items: start; }
@media (max-width: 44rem) { .lesion { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .87rem; margin-top: .35rem; }
figure svg { display: block; width: 100%; height: auto; }
.picture { background: #000; border-radius: 6px; max-height: 30rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 0 1rem; }
dt { color: var(--soft); }
dd { margin: 0; font-variant-numeric: tabular-nums; }
.positive { color: var(--positive); font-weight: 600; }
.other { color: var(--other); font-weight: 600; }
.graph text { fill: var(--soft); font-size: 11px; }
.graph .axis { stroke: var(--rule); }
.graph .call { stroke: var(--positive); stroke-dasharray: 4 3; }
.graph .line { fill: none; stroke: var(--other); stroke-width: 1.8; stroke-linejoin: round; }
.graph .key { fill: var(--card); stroke: var(--other); stroke-width: 2; }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; --positive: #b35c00;
  --other: #00609c; } body { padding: 0; max-width: none; font-size: 11px; } td { white-space: normal; }
  .wide { overflow: visible; } section { break-inside: avoid; }
  .picture { max-height: 9cm; } .picture, .notice { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def exam_page(summary: ExamSummary) -> str:
    """The whole page as text."""
    heading = f"Exam summary{' – ' + escape(summary.source) if summary.source else ''}"
    parts = [
        f"<h1>{heading}</h1>",
        f'<p class="soft">{escape("; ".join(_course(summary)))}</p>',
        f'<p class="notice">{escape(DISCLAIMER)}</p>',
        _overview(summary),
        *(_lesion(lesion, summary) for lesion in summary.lesions),
        _notes(summary),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _course(summary: ExamSummary) -> list[str]:
    said = [f"started {summary.started}"] if summary.started else []
    said += [f"duration {clock(summary.duration_s)}", f"{summary.frames} frames analysed"]
    if summary.rejected:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in sorted(summary.rejected.items()))
        said.append(f"{sum(summary.rejected.values())} not analysed ({reasons})")
    return said


def _overview(summary: ExamSummary) -> str:
    calls = ", ".join(
        f"{call}: {count}" for call, count in sorted(summary.decisions.items(), key=lambda item: -item[1])
    )
    frames = f'<p class="soft">Frames by call – {escape(calls)}</p>' if calls else ""
    if not summary.lesions:
        said = "No lesion was outlined for long enough to be listed."
        if not summary.frames:  # no lesion listed must not read as none there
            said = "No frame was analysed: nothing is known of lesions."
        return f"<section><h2>Lesions</h2><p>{said}</p>{frames}</section>"
    label = escape(f"p({summary.positive})")
    head = ["Lesion", "Longest diameter", "Area", "Call at key frame"]
    if summary.positive is not None:
        head += [f"{label} at key frame", f"Mean {label}", f"Frames called {escape(summary.positive)}"]
    else:
        head.append("Frames")
    rows = []
    for lesion in summary.lesions:
        cells = [f"{lesion.track}", diameter(lesion.key), area(lesion.key), _call(lesion.key, summary)]
        if summary.positive is not None:
            cells += [_probability(lesion.key.probability), _probability(lesion.probability)]
            cells.append(f"{lesion.calls.get(summary.positive, 0)} of {lesion.frames}")
        else:
            cells.append(f"{lesion.frames}")
        cells.append(f"{clock(lesion.first_s)} – {clock(lesion.last_s)}")
        rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head.append("Seen")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return (
        f'<section><h2>Lesions</h2><div class="wide"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{frames}</section>"
    )


def _lesion(lesion: LesionSummary, summary: ExamSummary) -> str:
    key = lesion.key
    facts = [("Call at key frame", _call(key, summary)), ("Longest diameter", diameter(key)), ("Area", area(key))]
    if summary.positive is not None:
        facts.append((escape(f"p({summary.positive})"), _probability(key.probability)))
        called = f"{lesion.calls.get(summary.positive, 0)} of {lesion.frames} frames"
        facts.append((escape(f"Called {summary.positive}"), called))
    if key.lesion.certainty is not None:
        facts.append(("Certainty of the outline", _probability(key.lesion.certainty)))
    facts.append(("Seen", f"{clock(lesion.first_s)} – {clock(lesion.last_s)}, {lesion.frames} frames"))
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    remark = "" if key.sound else " No still, sharp and certain frame was seen: this is the largest outline of all."
    remark += " The outline touches the edge of the picture: the lesion may be larger." if key.cut else ""
    return (
        f'<section><h2>Lesion {lesion.track}</h2><div class="lesion"><figure>{_picture(lesion, summary)}'
        f"<figcaption>Key frame: frame {key.number} at {clock(key.time_s)}.{remark}</figcaption></figure>"
        f"<div><dl>{listed}</dl>{_graph(lesion, summary)}</div></div></section>"
    )


def _picture(lesion: LesionSummary, summary: ExamSummary) -> str:
    """The key frame with outline and caliper as vectors over the bare picture."""
    key = lesion.key
    height, width = key.size
    colour = "#f0a000" if key.decision == summary.positive else "#4fb4ff"

    def place(point: tuple[int, int]) -> tuple[float, float]:
        x, y = ((point[axis] - key.corner[axis] + 0.5) * key.scale[axis] for axis in (0, 1))
        return x, y

    outline = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, key.lesion.contour))
    (x0, y0), (x1, y1) = (place(end) for end in key.lesion.diameter)
    arm = max(width, height) / 90
    crosses = "".join(
        f"M{x - arm:.1f} {y:.1f}h{2 * arm:.1f}M{x:.1f} {y - arm:.1f}v{2 * arm:.1f}" for x, y in ((x0, y0), (x1, y1))
    )
    picture = base64.b64encode(key.jpeg).decode()
    return (
        f'<svg class="picture" viewBox="0 0 {width} {height}" role="img" aria-label="Lesion {lesion.track}, outlined">'
        f'<image href="data:image/jpeg;base64,{picture}" width="{width}" height="{height}"/>'
        f'<g fill="none"><polygon points="{outline}" stroke="{colour}" stroke-width="2" '
        f'stroke-linejoin="round" vector-effect="non-scaling-stroke"/>'
        f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#fff" stroke-width="1.2" stroke-dasharray="2 4" '
        f'vector-effect="non-scaling-stroke"/>'
        f'<path d="{crosses}" stroke="#fff" stroke-width="1.6" vector-effect="non-scaling-stroke"/></g></svg>'
    )


def _graph(lesion: LesionSummary, summary: ExamSummary) -> str:
    """Probability over time, with the threshold of the call and the key frame."""
    points = [(moment.time_s, moment.probability) for moment in lesion.moments if moment.probability is not None]
    if summary.positive is None or not points:
        return ""
    width, height = GRAPH
    start, span = lesion.first_s, max(lesion.last_s - lesion.first_s, 1e-3)

    def across(time_s: float) -> float:
        return _LEFT + (width - _LEFT - _RIGHT) * (time_s - start) / span

    def down(probability: float) -> float:
        return height - _BOTTOM - (height - _TOP - _BOTTOM) * probability

    line = " ".join(f"{across(time_s):.1f},{down(probability):.1f}" for time_s, probability in points)
    drawn = [
        f'<line class="axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{down(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in (0.0, 0.5, 1.0)
    ]
    caption = f"p({summary.positive}) over time; ring: key frame"
    if summary.threshold is not None:
        level = f"{down(summary.threshold):.1f}"
        drawn.append(f'<line class="call" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{level}" y2="{level}"/>')
        caption += f"; dashed: called {summary.positive} at {summary.threshold:.3f} and above"
    drawn.append(f'<polyline class="line" points="{line}"/>')
    if lesion.key.probability is not None:
        drawn.append(
            f'<circle class="key" cx="{across(lesion.key.time_s):.1f}" cy="{down(lesion.key.probability):.1f}" r="4"/>'
        )
    drawn.append(f'<text x="{_LEFT}" y="{height - 5}">{clock(lesion.first_s)}</text>')
    drawn.append(f'<text x="{width - _RIGHT}" y="{height - 5}" text-anchor="end">{clock(lesion.last_s)}</text>')
    return (
        f'<figure><svg class="graph" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(caption)}">'
        f"{''.join(drawn)}</svg><figcaption>{escape(caption)}.</figcaption></figure>"
    )


def _notes(summary: ExamSummary) -> str:
    notes = []
    if any(lesion.key.lesion.diameter_mm is None for lesion in summary.lesions):
        notes.append("The pixel spacing is not known where sizes are given in pixels: they are no lengths of tissue.")
    if summary.positive is not None and summary.lesions:
        notes.append(
            f"p({summary.positive}) is of the whole picture, given that it shows a lesion; two lesions of one picture "
            "share it. Values are smoothed over the frames that showed the same place."
        )
    if summary.left_out:
        notes.append(f"Outlines seen too shortly to be listed: {summary.left_out}.")
    notes.append("A lesion that is seen again after the picture jumped, or after a pause, has a new number.")
    return f'<div class="soft">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>'


def _call(key: KeyFrame, summary: ExamSummary) -> str:
    kind = "positive" if key.decision == summary.positive else "soft" if key.decision == LESION else "other"
    return f'<span class="{kind}">{escape(key.decision)}</span>'


def diameter(key: KeyFrame) -> str:
    """The longest diameter in words."""
    lesion = key.lesion
    return f"{lesion.diameter_px:.0f} pixels" if lesion.diameter_mm is None else f"{lesion.diameter_mm:.1f} mm"


def area(key: KeyFrame) -> str:
    """The area in words."""
    lesion = key.lesion
    return f"{lesion.area_px} pixels" if lesion.area_mm2 is None else f"{lesion.area_mm2:.0f} mm²"


def clock(time_s: float) -> str:
    """Minutes, seconds and tenths since the exam began: 0:07.3."""
    tenths = round(10 * time_s)
    return f"{tenths // 600}:{tenths % 600 // 10:02d}.{tenths % 10}"


def _probability(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
