"""What `edgekit bench` adds to latencies: effective precision always, the roofline where an engine has one."""

import json
from collections.abc import Iterable
from dataclasses import replace

import pytest

import benchmarks.explain as explain_module
from benchmarks.bench import BenchReport, bench, network_input
from benchmarks.explain import with_precision, with_rooflines
from benchmarks.peaks import SHAPES
from benchmarks.roofline import measure_roofline
from edge.bundle import BUILTIN, Bundle
from edgekit.tables import bench_table, roofline_table

BUNDLE = Bundle.open(BUILTIN["emtnet-s"])


@pytest.fixture(scope="module")
def report() -> BenchReport:
    return bench(BUNDLE, engines=["litert", "onnx"], threads=1, rounds=1)


def test_every_result_tells_what_it_ran_in(report: BenchReport, capsys: pytest.CaptureFixture[str]) -> None:
    explained = with_precision(report, BUNDLE)
    assert [result.name for result in explained.results] == [result.name for result in report.results]
    for result in explained.results:
        assert result.effective_precision is not None
        assert result.effective_precision["shares"]["int8"] > 0.99
    assert json.loads(json.dumps(explained.to_json()))["results"][0]["effective_precision"]["float_layers"]
    bench_table(explained)
    assert "ran in" in capsys.readouterr().out


def test_results_of_other_devices_are_left_alone(report: BenchReport) -> None:
    elsewhere = replace(report, results=tuple(replace(result, device="gpu") for result in report.results))
    assert with_precision(elsewhere, BUNDLE) == elsewhere
    assert with_rooflines(elsewhere, BUNDLE, progress=lambda title: iter) == (elsewhere, [])


def test_engines_that_have_a_roofline_get_it_and_the_others_none(
    report: BenchReport, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = []

    def progress(title: str) -> type[list[int]]:
        titles.append(title)
        return list

    def short(*given: object, **named: object) -> object:
        return measure_roofline(*given, **named, rounds=2, shapes=SHAPES[:1])  # type: ignore[arg-type]

    monkeypatch.setattr(explain_module, "measure_roofline", short)
    explained, found = with_rooflines(report, BUNDLE, progress=progress)
    by_engine = {result.engine: result.roofline for result in explained.results}
    assert by_engine["onnx"] is None
    assert by_engine["litert"] is not None
    assert by_engine["litert"]["distance"] == pytest.approx(found[0].distance)
    assert titles == ["roofline of litert int8"]
    roofline_table(found[0])
    assert f"{found[0].distance:.2f} × the floor" in capsys.readouterr().out


def test_progress_is_asked_for_the_rounds(report: BenchReport) -> None:
    """What shows the rounds must hand them on: without it nothing would be measured."""
    seen: list[int] = []

    def show(rounds: Iterable[int]) -> Iterable[int]:
        for turn in rounds:
            seen.append(turn)
            yield turn

    path = BUNDLE.path / "int8.tflite"
    image = network_input(BUNDLE)
    measure_roofline("litert", path, image, precision="int8", threads=1, rounds=3, shapes=SHAPES[:1], progress=show)
    assert seen == [0, 1, 2]
