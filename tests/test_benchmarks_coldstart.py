"""Starts in fresh processes."""

from pathlib import Path

import pytest
from foreign_bundles import MASK, write_bundle

from benchmarks import coldstart
from benchmarks.coldstart import STAGES, ColdStart, cold_starts
from edge.bundle import BUILTIN, Bundle
from edge.errors import EngineError
from edge.manifest import Artifact
from edge.probe import PROBES


def test_stages_are_medians_and_a_start_has_all_of_them() -> None:
    start = ColdStart("litert", "int8", False, ((1.0, 2.0, 3.0, 4.0), (3.0, 2.0, 1.0, 4.0), (2.0, 9.0, 2.0, 9.0)))
    assert start.total_ms == 10.0
    assert start.stages_ms == {"interpreter": 2.0, "imports": 2.0, "open": 2.0, "first inference": 4.0}
    with pytest.raises(ValueError, match="stages"):
        ColdStart("litert", "int8", False, ((1.0, 2.0),))
    with pytest.raises(ValueError, match="at least one"):
        ColdStart("litert", "int8", False, ())


def test_fresh_processes_start_with_and_without_the_kept_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("EDGEKIT_CACHE", str(cache))
    bundle = write_bundle(tmp_path / "b", MASK)
    starts = cold_starts(bundle, bundle.runs(["openvino", "onnx"]), threads=1, repeats=1)
    assert {(s.engine, s.cached) for s in starts} == {("openvino", False), ("openvino", True), ("onnx", False)}
    for start in starts:
        assert len(start.samples_ms) == 1
        assert all(ms > 0 for ms in start.samples_ms[0])
        assert start.to_json()["stages_ms"].keys() == set(STAGES)
    assert not cache.exists()  # the user's own is left alone


def test_a_start_without_a_kept_network_knows_all_the_same_that_its_engine_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[str, list[str]] = {}

    def start(bundle: Bundle, artifact: Artifact, threads: int, device: str, cache: Path) -> tuple[float, ...]:
        found[f"{artifact.engine} {cache.name}"] = sorted(kind.name for kind in cache.glob("*"))
        for kind in (PROBES, "network"):
            (cache / kind).mkdir(parents=True, exist_ok=True)
        return (1.0,) * len(STAGES)

    monkeypatch.setattr(coldstart, "_start", start)
    bundle = Bundle.open(BUILTIN["emtnet-s"])
    cold_starts(bundle, bundle.runs(["openvino", "litert"]), threads=1, repeats=1)
    kept, fresh = [PROBES, "network"], [PROBES]
    assert found == {"openvino True": kept, "openvino False": fresh, "litert False": fresh}


def test_only_the_best_precision_of_an_engine_is_started(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", MASK)
    artifacts = [a for a in bundle.manifest.artifacts if a.engine == "onnx"]
    assert {a.precision for a in artifacts} == {"fp32", "int8"}
    (start,) = cold_starts(bundle, artifacts, threads=1, repeats=2)
    assert (start.precision, len(start.samples_ms)) == ("int8", 2)


def test_a_start_that_fails_is_an_engine_error_of_one_line(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", MASK)
    (tmp_path / "b/int8.onnx").write_bytes(b"other")
    artifacts = [a for a in bundle.manifest.artifacts if (a.engine, a.precision) == ("onnx", "int8")]
    with pytest.raises(EngineError, match=r"^onnx int8: .*not the file its manifest describes") as caught:
        cold_starts(bundle, artifacts, threads=1, repeats=1)
    assert "\n" not in str(caught.value)
