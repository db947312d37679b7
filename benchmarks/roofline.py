"""The roofline of an artifact: how fast this machine could run it at best, and how far from that its engine is.

A layer cannot take less than its multiply-accumulates over the machine's best, nor less than its traffic over the memory's
(Williams, Waterman & Patterson, "Roofline: an insightful visual performance model for multicore architectures", 2009); the sum
over the layers is the floor. Neither best is read from a data sheet: the engine's own fastest convolution in the precision of the
layer (`benchmarks.peaks`) and a copy in a working set of its size (`benchmarks.bandwidth`) take turns with the network.

What only changes type or layout counts nothing, for a better graph would not need it; and a layer counts with what it reads, its
weights and what it writes, once each, however large the caches are. So the floor is meant to be low, and no engine reaches it.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bandwidth import Bandwidth, bandwidth_for, copies, moved_bytes
from benchmarks.latency import Latency, measure
from benchmarks.layers import Layer, read_layers
from benchmarks.peaks import ENGINES, SHAPES, PeakShape, open_peak
from edge.engines import open_model
from edge.frame import GreyImage

ROUNDS: Final = 30


@dataclass(frozen=True, slots=True)
class Peak:
    """The most multiply-accumulates a second that an engine reached in one precision, and the convolution it was with."""

    precision: str
    macs_per_s: float
    shape: str


@dataclass(frozen=True, slots=True)
class LayerBound:
    """A layer and the least time it can take, milliseconds: `compute_ms` for its arithmetic, `memory_ms` for its traffic.

    measured_ms: what it took: with OpenVINO in the running network, with LiteRT alone; None where it was too short to tell.
    """

    layer: Layer
    compute_ms: float
    memory_ms: float
    measured_ms: float | None = None

    @property
    def floor_ms(self) -> float:
        return 0.0 if self.layer.converts else max(self.compute_ms, self.memory_ms)

    @property
    def excess_ms(self) -> float:
        """Measured time above the floor."""
        return max(0.0, (self.measured_ms or 0.0) - self.floor_ms)

    def to_json(self) -> dict[str, Any]:
        layer = self.layer
        return {
            "name": layer.name,
            "kind": layer.kind,
            "kernel": layer.kernel,
            "shape": list(layer.shape),
            "precision": layer.precision,
            "macs": layer.macs,
            "traffic_bytes": layer.traffic_bytes,
            "floor_ms": self.floor_ms,
            "bound": "nothing" if layer.converts else "compute" if self.compute_ms > self.memory_ms else "memory",
            "measured_ms": self.measured_ms,
        }


@dataclass(frozen=True, slots=True)
class Roofline:
    """What an engine could do with an artifact here, and what it does. latency: of the engine's call, among the peaks."""

    engine: str
    precision: str
    threads: int
    latency: Latency
    peaks: tuple[Peak, ...]
    bandwidths: tuple[Bandwidth, ...]
    layers: tuple[LayerBound, ...]

    def __post_init__(self) -> None:
        if not self.floor_ms > 0:
            raise ValueError("a network without a layer that computes or moves anything has no roofline")

    @property
    def floor_ms(self) -> float:
        """Least time of one frame."""
        return sum(bound.floor_ms for bound in self.layers)

    @property
    def distance(self) -> float:
        """Median latency over the floor."""
        return self.latency.p50_ms / self.floor_ms

    @property
    def undisturbed_distance(self) -> float:
        """The same of rounds that other processes left alone (`Latency.fast_ms`); on an idle machine both are alike."""
        return self.latency.fast_ms / self.floor_ms

    def worst(self, count: int = 10) -> tuple[LayerBound, ...]:
        """The layers that lose most above their floor, the worst first."""
        return tuple(sorted(self.layers, key=lambda bound: -bound.excess_ms)[:count])

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "precision": self.precision,
            "threads": self.threads,
            "p50_ms": self.latency.p50_ms,
            "undisturbed_ms": self.latency.fast_ms,
            "floor_ms": self.floor_ms,
            "distance": self.distance,
            "undisturbed_distance": self.undisturbed_distance,
            "peaks": [
                {"precision": peak.precision, "macs_per_s": peak.macs_per_s, "shape": peak.shape} for peak in self.peaks
            ],
            "bandwidths": [
                {"working_set_bytes": found.working_set_bytes, "bytes_per_s": found.bytes_per_s}
                for found in self.bandwidths
            ],
            "layers": [bound.to_json() for bound in self.layers],
            "samples_ms": list(self.latency.samples_ms),
        }


def has_roofline(engine: str) -> bool:
    """Whether peaks of an engine can be measured: it needs a way to build a network on the device."""
    return engine in ENGINES


def measure_roofline(
    engine: str,
    path: Path,
    image: GreyImage,
    *,
    precision: str,
    threads: int,
    rounds: int = ROUNDS,
    shapes: Sequence[PeakShape] = SHAPES,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Roofline:
    """Measure network, peaks and copies in turns, then each layer.

    path: the model file. image: the network's input, (height, width) uint8. precision: of the artifact.
    Raises EngineError, MissingDependencyError; ValueError for an engine without (`has_roofline`).
    """
    if not has_roofline(engine):
        raise ValueError(f"{engine}: no peaks of it can be measured, only of {', '.join(sorted(ENGINES))}")
    layers = read_layers(engine, path, precision=precision, threads=threads)
    needed = {layer.precision for layer in layers if layer.macs}
    with ExitStack() as stack:
        network = open_model(engine, path, precision=precision, threads=threads)
        stack.callback(network.close)
        steps: dict[Hashable, Callable[[], object]] = {"network": lambda: network.infer(image)}
        for kind in sorted(needed):
            for shape in shapes:
                steps[kind, shape] = open_peak(engine, shape, precision=kind, threads=threads)
        copiers = stack.enter_context(copies(threads))
        steps.update(copiers.items())
        found = measure(steps, rounds=rounds, warmup=2, progress=progress)
    peaks = tuple(_peak(kind, {shape: found[kind, shape] for shape in shapes}) for kind in sorted(needed))
    bandwidths = tuple(Bandwidth(size, moved_bytes(size) / (found[size].fast_ms / 1e3)) for size in sorted(copiers))
    measured = _times_ms(engine, path, image, threads=threads, rounds=rounds)
    bounds = bound_layers(layers, peaks, bandwidths, measured)
    return Roofline(engine, precision, threads, found["network"], peaks, bandwidths, bounds)


def bound_layers(
    layers: Iterable[Layer], peaks: Iterable[Peak], bandwidths: Sequence[Bandwidth], measured_ms: dict[str, float]
) -> tuple[LayerBound, ...]:
    """The least time of each layer. peaks: one for each precision that there are multiply-accumulates in."""
    best = {peak.precision: peak.macs_per_s for peak in peaks}
    return tuple(
        LayerBound(
            layer=layer,
            compute_ms=1e3 * layer.macs / best[layer.precision] if layer.macs else 0.0,
            memory_ms=1e3 * layer.traffic_bytes / bandwidth_for(layer.traffic_bytes, bandwidths),
            measured_ms=measured_ms.get(layer.name),
        )
        for layer in layers
    )


def _peak(precision: str, latencies: dict[PeakShape, Latency]) -> Peak:
    speeds = {shape: shape.macs / (latency.fast_ms / 1e3) for shape, latency in latencies.items()}
    shape = max(speeds, key=lambda shape: speeds[shape])
    return Peak(precision, speeds[shape], shape.text)


def _times_ms(engine: str, path: Path, image: GreyImage, *, threads: int, rounds: int) -> dict[str, float]:
    if engine == "openvino":
        from benchmarks.layers_openvino import node_times_ms

        return node_times_ms(path, image, threads=threads, rounds=rounds)
    from benchmarks.alone import times_alone_ms

    return times_alone_ms(path, threads=threads, rounds=rounds)
