"""What stands behind the latencies of a bench report: the precision that layers really ran in, and the machine's floor."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from benchmarks.bench import BenchReport, BenchResult, network_input
from benchmarks.precision import effective_precision
from benchmarks.roofline import Roofline, has_roofline, measure_roofline
from edge.bundle import Bundle

Progress = Callable[[str], Callable[[Iterable[int]], Iterable[int]]]


def with_precision(report: BenchReport, bundle: Bundle) -> BenchReport:
    """The report with the effective precision of every result that was taken on the CPU.

    Raises EngineError, IntegrityError.
    """
    results = [
        result
        if result.device != "cpu"
        else replace(
            result,
            effective_precision=effective_precision(
                result.engine, _file(bundle, result), precision=result.precision, threads=result.threads
            ).to_json(),
        )
        for result in report.results
    ]
    return replace(report, results=tuple(results))


def with_rooflines(report: BenchReport, bundle: Bundle, *, progress: Progress) -> tuple[BenchReport, list[Roofline]]:
    """The report with the roofline of every result that has one, and these rooflines.

    progress: of a title, what shows how the rounds go. Raises EngineError, IntegrityError.
    """
    results, found = [], []
    for result in report.results:
        if result.device == "cpu" and has_roofline(result.engine):
            roofline = measure_roofline(
                result.engine,
                _file(bundle, result),
                network_input(bundle),
                precision=result.precision,
                threads=result.threads,
                progress=progress(f"roofline of {result.name}"),
            )
            found.append(roofline)
            result = replace(result, roofline=roofline.to_json())  # noqa: PLW2901
        results.append(result)
    return replace(report, results=tuple(results)), found


def _file(bundle: Bundle, result: BenchResult) -> Path:
    """The model file that a result is of."""
    (artifact,) = (a for a in bundle.runs([result.engine]) if a.precision == result.precision)
    return bundle.verified_paths(artifact)[0]
