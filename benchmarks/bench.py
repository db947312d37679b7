"""`edgekit bench`: every artifact of a bundle, timed side by side."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from benchmarks.latency import Latency, measure
from benchmarks.memory import peak_rss_bytes
from edge.bundle import Bundle
from edge.engines import is_installed, open_artifact
from edge.errors import BundleError
from edge.manifest import Artifact
from edge.phantom import phantom_case
from edge.preprocess import preprocess

ROUNDS: Final = 100


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One artifact. Speed-ups are ratios of median latency; None where there is no FP32 artifact to compare with."""

    engine: str
    precision: str
    device: str
    threads: int
    latency: Latency
    peak_rss_bytes: int
    size_bytes: int
    speedup_vs_fp32: float | None
    speedup_vs_fastest_fp32: float | None

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
            "samples_ms": list(latency.samples_ms),
        }


@dataclass(frozen=True, slots=True)
class BenchReport:
    """Results with the machine and versions they were taken on. skipped: artifacts whose engine is not installed."""

    environment: dict[str, Any]
    results: tuple[BenchResult, ...]
    skipped: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "environment": self.environment,
            "results": [result.to_json() for result in self.results],
            "skipped": list(self.skipped),
        }


def bench(
    bundle: Bundle,
    *,
    engines: Sequence[str] = (),
    device: str = "cpu",
    threads: int | None = None,
    rounds: int = ROUNDS,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> BenchReport:
    """Time the engine call of every artifact on one frame, interleaved.

    engines: only these; with none named all that are installed. device: anything but cpu leaves OpenVINO only. threads:
    all cores for None. Raises BundleError when nothing is left to time, EngineError.
    """
    threads = threads or os.cpu_count() or 1
    wanted = [artifact for artifact in bundle.manifest.artifacts if not engines or artifact.engine in engines]
    if device != "cpu":
        wanted = [artifact for artifact in wanted if artifact.engine == "openvino"]
    usable = [artifact for artifact in wanted if is_installed(artifact.engine) or artifact.engine in engines]
    if not usable:
        raise BundleError(
            f"{bundle.path}: no artifact to time for engine {', '.join(engines) or 'any'} on {device}; "
            "install an engine (extra openvino, litert or onnx) or name another"
        )
    given = bundle.manifest.input
    image = preprocess(phantom_case(0).pixels, given.size, resize=given.resize)
    with ExitStack() as stack:
        steps: dict[Artifact, Callable[[], object]] = {}
        for artifact in usable:
            engine = open_artifact(bundle, artifact, threads=threads, device=device)
            stack.callback(engine.close)
            steps[artifact] = lambda engine=engine: engine.infer(image)  # type: ignore[misc]
        latencies = measure(steps, rounds=rounds, progress=progress)
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
    skipped = tuple(f"{a.engine} {a.precision}" for a in wanted if a not in usable)
    return BenchReport(environment() | {"rounds": rounds, "bundle": str(bundle.path)}, results, skipped)


def environment() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    packages = {}
    for package in ("edgekit-ultrasound", "openvino", "ai-edge-litert", "onnxruntime", "numpy"):
        try:
            packages[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": packages,
    }


def _cpu_name() -> str:
    for file, key in ((Path("/proc/cpuinfo"), "model name"), (Path("/proc/device-tree/model"), "")):
        if not file.is_file():
            continue
        text = file.read_text(errors="replace")
        if not key:
            return text.strip("\0\n ")
        for line in text.splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _ratio(reference_ms: float | None, latency: Latency) -> float | None:
    return None if reference_ms is None else reference_ms / latency.p50_ms
