"""Drawing with SVG: what the plots of a report are made of. Colours are classes, so that a page's style decides them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

Points = Iterable[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear axis: values low..high lie at start..end in the drawing's units."""

    low: float
    high: float
    start: float
    end: float

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"an axis from {self.low} to {self.high} has no length")

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Round values within the axis, `most` at most: steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / max(1, most - 1)
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def label(value: float) -> str:
    """A tick's number without needless zeros."""
    return f"{value:.6g}"


def text(x: float, y: float, said: str, *, anchor: str = "start", kind: str = "") -> str:
    """Text whose baseline starts, has its middle or ends at (x, y)."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{_kind(kind)}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{_kind(kind)}/>'


def rect(x: float, y: float, width: float, height: float, kind: str, *, title: str = "") -> str:
    """A rectangle; its title shows under the pointer."""
    inside = f"<title>{escape(title)}</title>" if title else ""
    size = f'width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size}{_kind(kind)}>{inside}</rect>'


def polyline(points: Points, kind: str) -> str:
    return f'<polyline points="{_points(points)}"{_kind(kind)}/>'


def polygon(points: Points, kind: str) -> str:
    return f'<polygon points="{_points(points)}"{_kind(kind)}/>'


def dots(points: Points, kind: str, radius: float = 1.6) -> str:
    """Small discs as one path: a hundred elements less for each hundred points."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path d="{path}" stroke-width="{2 * radius:g}"{_kind(f"dots {kind}")}/>'


def left_axis(scale: Scale, left: float, right: float, unit: str, *, most: int = 6) -> str:
    """Ticks of a vertical axis with rules across the plot; the unit above it."""
    parts = [text(left - 8, min(scale.start, scale.end) - 8, unit, anchor="end", kind="soft")]
    for tick in scale.ticks(most):
        y = scale(tick)
        parts += [line(left, y, right, y, "rule"), text(left - 8, y + 4, label(tick), anchor="end", kind="soft")]
    return "".join(parts)


def bottom_axis(scale: Scale, top: float, bottom: float, unit: str, *, most: int = 9, rules: bool = True) -> str:
    """Ticks of a horizontal axis, rules up to `top` if wanted; the unit stands at its end."""
    parts = [line(scale.start, bottom, scale.end, bottom, "rule")]
    for tick in scale.ticks(most):
        x = scale(tick)
        if rules:
            parts.append(line(x, top, x, bottom, "rule"))
        parts.append(text(x, bottom + 16, label(tick), anchor="middle", kind="soft"))
    parts.append(text(scale.end, bottom + 32, unit, anchor="end", kind="soft"))
    return "".join(parts)


def drawing(width: float, height: float, parts: Iterable[str], about: str) -> str:
    """The element. about: what it shows, for who cannot see it."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places moved as little as this needs for neighbours to be `gap` apart, in the order they had; for labels beside lines."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    for before, index in pairwise(order):
        moved[index] = max(moved[index], moved[before] + gap)
    shift = sum(moved[index] - places[index] for index in order) / len(order) if order else 0.0
    return [place - shift for place in moved]


def _points(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _kind(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
