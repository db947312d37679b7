"""`edgekit bench` from begin to end: refuse what cannot be, measure, print, write, judge."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bench import BenchReport, artifacts_to_time, bench, network_input
from benchmarks.coldstart import cold_starts
from benchmarks.compare import HARDWARE, Baseline, compare, require_comparable
from benchmarks.explain import with_precision, with_rooflines
from benchmarks.machine import environment
from benchmarks.phrases import clock
from benchmarks.report_html import bench_page
from benchmarks.roofline import Roofline
from benchmarks.soak import Soak, Window, soak_artifact
from edge.atomic import check_place, write_text
from edge.bundle import Bundle
from edge.errors import RegressionFound
from edgekit.console import describe, interruptible, notice, progress, ticker, write_json
from edgekit.tables import bench_table, roofline_table


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for. threads: None for every core. compare: an earlier report; json, html: files to write."""

    engines: tuple[str, ...]
    device: str
    threads: int | None
    rounds: int
    cold_start: bool
    soak_s: float | None
    compare: Path | None
    tolerance: float
    json: Path | None
    html: Path | None
    roofline: bool = False


def run_bench(bundle: Bundle, wishes: Wishes) -> BenchReport:
    """Measure, print and write. Raises RegressionFound at the very end, DataError before anything is measured."""
    describe(bundle)
    threads = wishes.threads or os.cpu_count() or 1
    old = None if wishes.compare is None else Baseline.open(wishes.compare)
    if old is not None:
        require_comparable(old, settings(bundle, threads=threads, device=wishes.device))
    for place in (wishes.json, wishes.html):
        if place is not None:
            check_place(place)
    rooflines: list[Roofline] = []
    with interruptible("nothing was written"):
        report = bench(
            bundle,
            engines=wishes.engines,
            device=wishes.device,
            threads=threads,
            rounds=wishes.rounds,
            progress=progress("bench"),
        )
        report = with_precision(report, bundle)
        if wishes.roofline:
            report, rooflines = with_rooflines(report, bundle, progress=progress)
        if wishes.cold_start:
            _, artifacts = artifacts_to_time(bundle, engines=wishes.engines, device=wishes.device)
            starts = cold_starts(
                bundle, artifacts, threads=threads, device=wishes.device, progress=progress("cold starts")
            )  # fmt: skip
            report = replace(report, cold_starts=starts)
    if wishes.soak_s is not None:
        report = replace(report, soak=_soak(bundle, wishes, threads, wishes.soak_s))
    if old is not None:
        report = replace(report, comparison=compare(report, old, tolerance=wishes.tolerance))
    bench_table(report)
    for roofline in rooflines:
        roofline_table(roofline)
    write_json(wishes.json, report.to_json() | {"phantom_calibrated": bundle.manifest.phantom_calibrated})
    if wishes.html is not None:
        write_text(wishes.html, bench_page(report))
    if report.comparison is not None and report.comparison.slower:
        slower = [f"{change.artifact} {100 * (change.ratio.value - 1):.0f} %" for change in report.comparison.slower]
        raise RegressionFound(
            f"{wishes.compare}: slower than then by more than noise and {100 * wishes.tolerance:g} %: {', '.join(slower)}"
        )
    return report


def settings(bundle: Bundle, *, threads: int, device: str) -> dict[str, object]:
    """What a run of now will say of itself, as far as a comparison asks for it: known before anything is timed."""
    hardware = environment()["device"]
    given = bundle.manifest.input
    return {name: hardware[name] for name in HARDWARE} | {
        "network": bundle.manifest.network,
        "input": [given.height, given.width],
        "threads": threads,
        "device": device,
    }


def _soak(bundle: Bundle, wishes: Wishes, threads: int, seconds: float) -> Soak | None:
    """Keep busy what `edgekit run` would take."""
    engine = next(iter(wishes.engines), "auto" if wishes.device == "cpu" else "openvino")
    artifact = bundle.choose(engine=engine)
    with ticker() as show:

        def tell(window: Window) -> None:
            parts = [f"soak {clock(window.end_s)} of {clock(seconds)}", f"p50 {window.p50_ms:.2f} ms"]
            if window.temperature_c is not None:
                parts.append(f"{window.temperature_c:.0f} °C")
            if window.clock_mhz is not None:
                parts.append(f"{window.clock_mhz:.0f} MHz")
            show(", ".join((*parts, *window.limits, "Ctrl-C keeps what there is")))

        made = soak_artifact(
            bundle, artifact, network_input(bundle), seconds=seconds, threads=threads, device=wishes.device, tell=tell
        )  # fmt: skip
    if made is None:
        notice("the soak was interrupted before its first result")
    elif made.interrupted:
        notice(f"the soak was interrupted after {clock(made.duration_s)} of {clock(seconds)}; what it gave is kept")
    return made
