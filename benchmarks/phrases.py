"""What a bench report says in words, on the terminal and in the page."""

from benchmarks.bench import BenchReport, BenchResult
from benchmarks.compare import Comparison
from benchmarks.machine import State
from benchmarks.soak import Interval, Soak, median_ms


def paradox_lines(report: BenchReport) -> list[str]:
    """What to say of engines whose INT8 is slower here than their float."""
    fastest = report.fastest
    return [
        f"{found.engine} int8 is slower on this machine than {found.engine} fp32: {found.ratio.value:.2f} times its latency "
        f"(99 % interval {found.ratio.low:.2f} to {found.ratio.high:.2f}). Use {fastest.name}, the fastest here "
        f"({fastest.latency.p50_ms:.2f} ms)."
        for found in report.paradoxes
    ]


def soak_line(soak: Soak) -> str:
    """A soak in a sentence."""
    slope = soak.slope_percent_per_min
    parts = [
        f"{soak.artifact} for {clock(soak.duration_s)}{' (interrupted)' if soak.interrupted else ''}",
        f"cold {median_ms(soak.cold):.2f} ms, steady {median_ms(soak.steady):.2f} ms, {soak.slowdown:.2f} times",
    ]
    if slope is not None:
        parts.append(f"in the steady part {slope:+.1f} % a minute")
    parts.append("temperature not readable" if soak.hottest_c is None else f"up to {soak.hottest_c:.0f} °C")
    return "; ".join(parts)


def interval_line(found: Interval) -> str:
    """A stretch in which the processor was held back."""
    return f"{clock(found.start_s)} to {clock(found.end_s)}: {', '.join(found.reasons)}"


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def precision_cell(result: BenchResult) -> str:
    """What ran in which precision, in words."""
    return "–" if result.effective_precision is None else str(result.effective_precision["text"])


def state_line(state: State) -> str:
    """Temperature and clock, as far as they are known."""
    said = []
    if state.temperature_c is not None:
        said.append(f"{state.temperature_c:.0f} °C")
    if state.clock_mhz is not None:
        said.append(f"{state.clock_mhz:.0f} MHz")
    return ", ".join((*said, *state.limits)) or "not readable"


def comparison_notes(comparison: Comparison) -> list[str]:
    """What else differs between the two reports."""
    notes = []
    if comparison.other_bundle:
        notes.append("the bundle is another one of the same network")
    notes += [
        f"{name} {then or 'not installed'} → {now or 'not installed'}"
        for name, (then, now) in comparison.packages.items()
    ]
    if comparison.machine is None:
        notes.append("another numpy: its yardstick is not comparable, so latencies were judged by the clock alone")
    if comparison.gone:
        notes.append(f"not measured now: {', '.join(comparison.gone)}")
    return notes
