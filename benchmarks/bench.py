"""`edgekit bench`: every artifact of a bundle, timed side by side."""

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from benchmarks.coldstart import ColdStart
from benchmarks.latency import Latency, measure
from benchmarks.machine import ReadState, State, environment, read_state
from benchmarks.memory import peak_rss_bytes
from benchmarks.ratio import Ratio, paired_ratio
from benchmarks.soak import Soak
from benchmarks.yardstick import yardstick
from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.errors import BundleError
from edge.frame import GreyImage
from edge.manifest import MANIFEST, Artifact
from edge.phantom import phantom_case
from edge.preprocess import preprocess
from edge.probe import works

if TYPE_CHECKING:
    from benchmarks.compare import Comparison

SCHEMA: Final = 1
"""Of the JSON record. One without it was written before there was a schema."""
ROUNDS: Final = 100
NOTICEABLE: Final = 1.03
"""INT8 is called slower than float from this ratio on, all of its interval above: below it nobody would act on it."""


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One artifact. Speed-ups are ratios of median latency; None where there is no FP32 artifact to compare with.

    effective_precision: as `benchmarks.precision.EffectivePrecision.to_json` gives it. roofline: the floor that this machine
    allows, with "floor_ms" and "distance", latency over floor. None where it was not looked into.
    """

    engine: str
    precision: str
    device: str
    threads: int
    latency: Latency
    peak_rss_bytes: int
    size_bytes: int
    speedup_vs_fp32: float | None
    speedup_vs_fastest_fp32: float | None
    effective_precision: dict[str, Any] | None = None
    roofline: dict[str, Any] | None = None

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}"

    def to_json(self) -> dict[str, Any]:
        latency = self.latency
        return {
            "engine": self.engine,
            "precision": self.precision,
            "device": self.device,
            "threads": self.threads,
            "p50_ms": latency.p50_ms,
            "p90_ms": latency.p90_ms,
            "p99_ms": latency.p99_ms,
            "fps": latency.fps,
            "peak_rss_bytes": self.peak_rss_bytes,
            "size_bytes": self.size_bytes,
            "speedup_vs_fp32": self.speedup_vs_fp32,
            "speedup_vs_fastest_fp32": self.speedup_vs_fastest_fp32,
            "effective_precision": self.effective_precision,
            "roofline": self.roofline,
            "samples_ms": list(latency.samples_ms),
        }


@dataclass(frozen=True, slots=True)
class Paradox:
    """An engine whose INT8 is slower here than its own FP32. ratio: INT8 over FP32 by median latency."""

    engine: str
    ratio: Ratio


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Results with the machine, the versions and the bundle they were taken on.

    bundle: its path, sha256 of its manifest, network and input. before, after: the machine when the rounds began and ended.
    yardstick: latency of `benchmarks.yardstick` in the same rounds. skipped: artifacts whose engine is not installed or does not
    work here.
    cold_starts, soak: where they were asked for. comparison: with an earlier report (`benchmarks.compare`).
    """

    created: str
    bundle: dict[str, Any]
    environment: dict[str, Any]
    before: State
    after: State
    rounds: int
    yardstick: Latency
    results: tuple[BenchResult, ...]
    skipped: tuple[str, ...]
    cold_starts: tuple[ColdStart, ...] = ()
    soak: Soak | None = None
    comparison: "Comparison | None" = None

    @property
    def fastest(self) -> BenchResult:
        return min(self.results, key=lambda result: result.latency.p50_ms)

    @property
    def paradoxes(self) -> tuple[Paradox, ...]:
        """Engines whose INT8 is slower than their FP32 by more than noise (`NOTICEABLE`)."""
        found = []
        float_of = {result.engine: result for result in self.results if result.precision == "fp32"}
        for result in self.results:
            own = float_of.get(result.engine)
            if result.precision == "int8" and own is not None:
                ratio = paired_ratio(result.latency.samples_ms, own.latency.samples_ms)
                if ratio.above(NOTICEABLE):
                    found.append(Paradox(result.engine, ratio))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "created": self.created,
            "bundle": self.bundle,
            "environment": self.environment,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "rounds": self.rounds,
            "yardstick_ms": list(self.yardstick.samples_ms),
            "results": [result.to_json() for result in self.results],
            "skipped": list(self.skipped),
            "fastest": self.fastest.name,
            "paradoxes": [
                {"engine": found.engine, "int8_over_fp32": found.ratio.value,
                 "interval": [found.ratio.low, found.ratio.high]}
                for found in self.paradoxes
            ],
            "cold_starts": [start.to_json() for start in self.cold_starts],
            "soak": None if self.soak is None else self.soak.to_json(),
            "comparison": None if self.comparison is None else self.comparison.to_json(),
        }  # fmt: skip


def bench(
    bundle: Bundle,
    *,
    engines: Sequence[str] = (),
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = ROUNDS,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    read: ReadState = read_state,
) -> BenchReport:
    """Time the engine call of every artifact on one frame, interleaved.

    engines: only these; with none named all that are installed. device: anything but cpu leaves OpenVINO only. threads:
    all cores for None. Raises BundleError when nothing is left to time, EngineError.
    """
    threads = threads or os.cpu_count() or 1
    wanted, usable = artifacts_to_time(bundle, engines=engines, device=device)
    given = bundle.manifest.input
    image = network_input(bundle)
    with ExitStack() as stack:
        steps: dict[Hashable, Callable[[], object]] = {}
        for artifact in usable:
            engine = open_artifact(bundle, artifact, threads=threads, device=device)
            stack.callback(engine.close)
            steps[artifact] = lambda engine=engine: engine.infer(image)  # type: ignore[misc]
        steps[yardstick] = stack.enter_context(yardstick(threads))
        before = read()
        latencies = measure(steps, rounds=rounds, progress=progress)
        after = read()
    fp32 = {artifact.engine: latencies[artifact].p50_ms for artifact in usable if artifact.precision == "fp32"}
    results = tuple(
        BenchResult(
            artifact.engine,
            artifact.precision,
            device,
            threads,
            latencies[artifact],
            peak_rss_bytes(
                artifact.engine,
                bundle.path / artifact.files[0].path,
                height=given.height,
                width=given.width,
                precision=artifact.precision,
                threads=threads,
                device=device,
            ),
            artifact.size_bytes,
            _ratio(fp32.get(artifact.engine), latencies[artifact]),
            _ratio(min(fp32.values(), default=None), latencies[artifact]),
        )
        for artifact in usable
    )
    return BenchReport(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        bundle=describe_bundle(bundle),
        environment=environment(),
        before=before,
        after=after,
        rounds=rounds,
        yardstick=latencies[yardstick],
        results=results,
        skipped=tuple(f"{a.engine} {a.precision}" for a in wanted if a not in usable),
    )


def artifacts_to_time(
    bundle: Bundle, *, engines: Sequence[str] = (), device: str = "cpu"
) -> tuple[list[Artifact], list[Artifact]]:
    """The artifacts that are asked for, and those of them that can run here. Raises BundleError when none can."""
    wanted = bundle.runs(engines)
    if device != "cpu":
        wanted = [artifact for artifact in wanted if artifact.engine == "openvino"]
    usable = [artifact for artifact in wanted if artifact.engine in engines or works(artifact.engine)]
    if not usable:
        raise BundleError(
            f"{bundle.path}: no artifact to time for engine {', '.join(engines) or 'any'} on {device}; "
            "install an engine (extra openvino, litert, onnx or tflite-runtime) or name another"
        )
    return wanted, usable


def network_input(bundle: Bundle) -> GreyImage:
    """The image that is timed: a phantom as the bundle's network takes it, (height, width) uint8."""
    given = bundle.manifest.input
    return preprocess(phantom_case(0).pixels, given.size, resize=given.resize)


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """What tells one bundle from another in a report."""
    try:
        content = (bundle.path / MANIFEST).read_bytes()
    except OSError:  # taken away while it was timed, or never written
        content = bundle.manifest.to_json().encode()
    return {
        "path": str(bundle.path),
        "manifest_sha256": hashlib.sha256(content).hexdigest(),
        "network": bundle.manifest.network,
        "input": [bundle.manifest.input.height, bundle.manifest.input.width],
    }


def _ratio(reference_ms: float | None, latency: Latency) -> float | None:
    return None if reference_ms is None else reference_ms / latency.p50_ms
