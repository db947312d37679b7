"""A report against an earlier one: what is slower, what is only noise, and what cannot be compared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_reports import DEVICE, MEDIANS_MS, bench_report

from benchmarks.bench import SCHEMA, BenchReport
from benchmarks.compare import FASTER, MACHINE, SAME, SLOWER, Baseline, compare, require_comparable
from edge.errors import DataError


def baseline(report: BenchReport) -> Baseline:
    return Baseline.from_json(json.loads(json.dumps(report.to_json())), "old.json")


def verdicts(report: BenchReport, old: BenchReport, **options: float) -> dict[str, str]:
    return {c.artifact: c.verdict for c in compare(report, baseline(old), **options).changes}


def test_a_second_run_of_the_same_is_within_noise() -> None:
    assert set(verdicts(bench_report(seed=1), bench_report(seed=1000)).values()) == {SAME}


def test_only_the_artifact_that_became_slower_is_named() -> None:
    new = bench_report(MEDIANS_MS | {"litert int8": 4.4}, seed=1)
    found = compare(new, baseline(bench_report(seed=1000)))
    assert [change.artifact for change in found.slower] == ["litert int8"]
    assert found.slower[0].ratio.value == pytest.approx(4.4 / 3.5, rel=0.02)


def test_a_faster_one_is_told() -> None:
    assert verdicts(bench_report(MEDIANS_MS | {"openvino int8": 3.0}), bench_report())["openvino int8"] == FASTER


def test_the_tolerance_decides_what_counts() -> None:
    new = bench_report(MEDIANS_MS | {"litert int8": 3.5 * 1.07}, seed=1)
    assert verdicts(new, bench_report())["litert int8"] == SAME
    assert verdicts(new, bench_report(), tolerance=0.02)["litert int8"] == SLOWER


def test_a_machine_that_was_slower_as_a_whole_is_not_the_networks_fault() -> None:
    new = bench_report(seed=1, slower=1.5)
    assert set(verdicts(new, bench_report()).values()) == {MACHINE}
    found = compare(new, baseline(bench_report()))
    assert not found.slower
    assert found.machine is not None
    assert found.machine.value == pytest.approx(1.5, rel=0.03)


def test_a_slower_network_on_a_slower_machine_is_still_found() -> None:
    new = bench_report(MEDIANS_MS | {"litert int8": 3.5 * 1.4}, seed=1, slower=1.5)
    assert verdicts(new, bench_report())["litert int8"] == SLOWER


def test_another_numpy_makes_another_yardstick_and_the_clock_alone_judges() -> None:
    new = bench_report(seed=1, slower=1.5, packages={"numpy": "3.0.0", "openvino": "2026.4.1"})
    found = compare(new, baseline(bench_report()))
    assert found.machine is None
    assert {change.verdict for change in found.changes} == {SLOWER}
    assert found.packages == {"numpy": ("2.4.0", "3.0.0")}


@pytest.mark.parametrize(
    ("new", "named"),
    [
        (bench_report(device=replace(DEVICE, cpu="Cortex-A72")), "cpu is 'Cortex-A72' now and was 'Cortex-A76'"),
        (bench_report(device=replace(DEVICE, governor="performance")), "governor"),
        (bench_report(device=replace(DEVICE, board=None)), "board is None now"),
        (bench_report(network="emtnet-s"), "network is 'emtnet-s' now and was 'emtnet'"),
        (bench_report(input=[256, 256]), r"input is \[256, 256\]"),
        (bench_report(results=[replace(r, threads=2) for r in bench_report().results]), "threads is 2 now and was 4"),
        (bench_report(results=[replace(r, device="gpu") for r in bench_report().results]), "device is 'gpu'"),
    ],
)
def test_what_makes_a_comparison_meaningless_is_refused_by_name(new: BenchReport, named: str) -> None:
    with pytest.raises(DataError, match=rf"old\.json: cannot be compared with this run: .*{named}") as caught:
        compare(new, baseline(bench_report()))
    assert "\n" not in str(caught.value)


def test_what_is_known_before_a_run_is_checked_before_it() -> None:
    old = baseline(bench_report())
    require_comparable(old, {"threads": 4, "network": "emtnet"})
    with pytest.raises(DataError, match="threads is 1 now"):
        require_comparable(old, {"threads": 1, "network": "emtnet"})


def test_another_export_of_the_network_is_compared_and_told() -> None:
    found = compare(bench_report(manifest_sha256="cd" * 32), baseline(bench_report()))
    assert found.other_bundle
    assert not compare(bench_report(), baseline(bench_report())).other_bundle


def test_the_artifacts_of_both_are_compared_and_what_is_gone_is_told() -> None:
    new = bench_report({"litert int8": 3.5, "onnx int8": 6.0})
    found = compare(new, baseline(bench_report()))
    assert [change.artifact for change in found.changes] == ["litert int8"]
    assert found.gone == ("openvino fp32", "litert fp32", "openvino int8")
    with pytest.raises(DataError, match=r"none of the artifacts of this run \(onnx int8\)"):
        compare(bench_report({"onnx int8": 6.0}), baseline(bench_report()))


def old_format(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "schema"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (old_format, f"report of schema none, this edgekit reads {SCHEMA}; measure again with this edgekit"),
        (lambda r: r | {"schema": SCHEMA + 1}, f"report of schema {SCHEMA + 1}, .*; upgrade edgekit"),
        (lambda r: r | {"schema": "1"}, "report of schema 1, .*; measure again"),
        (lambda r: {"artifacts": []}, "not a report of edgekit bench --json"),
        (lambda r: [r], "not a report"),
        (lambda r: r | {"results": []}, r"damaged report \(IndexError"),
        (lambda r: r | {"yardstick_ms": []}, "damaged report .*positive"),
        (lambda r: r | {"yardstick_ms": ["x"]}, "damaged report"),
        (lambda r: r | {"bundle": {}}, r"damaged report \(KeyError: 'network'"),
        (lambda r: r | {"environment": {"device": None}}, "damaged report"),
    ],
)
def test_a_file_that_is_not_such_a_report_is_refused_in_one_line(tmp_path: Path, change: Any, message: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(json.dumps(change(bench_report().to_json())))
    with pytest.raises(DataError, match=message) as caught:
        Baseline.open(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_no_file_and_no_json_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        Baseline.open(tmp_path / "gone.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\x00")
    with pytest.raises(DataError, match="not valid JSON"):
        Baseline.open(tmp_path / "bytes.json")


def test_a_negative_tolerance_is_a_programmers_mistake() -> None:
    with pytest.raises(ValueError, match="tolerance"):
        compare(bench_report(), baseline(bench_report()), tolerance=-0.1)
