"""Time from the start of a process to its first result, in fresh processes that take turns.

The files stand in the system's page cache, as they do after a restart of the program; after power-on reading them comes on top.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.apart import run_apart
from edge.bundle import Bundle
from edge.cache import VARIABLE
from edge.engines import CACHING
from edge.errors import EngineError
from edge.manifest import PRECISIONS, Artifact
from edge.probe import PROBES

REPEATS: Final = 5
STAGES: Final = ("interpreter", "imports", "open", "first inference")
_LIMIT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Starts of one artifact. cached: with the engine's compiled network kept on disk (`edge.cache`).

    samples_ms: of every start the milliseconds of each of `STAGES`.
    """

    engine: str
    precision: str
    cached: bool
    samples_ms: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if not self.samples_ms or any(len(sample) != len(STAGES) for sample in self.samples_ms):
            raise ValueError(f"a start has the stages {', '.join(STAGES)}, and there is at least one")

    @property
    def name(self) -> str:
        return f"{self.engine} {self.precision}{', kept network' if self.cached else ''}"

    @property
    def total_ms(self) -> float:
        """Median over the starts."""
        return float(np.median([sum(sample) for sample in self.samples_ms]))

    @property
    def stages_ms(self) -> dict[str, float]:
        """Median of each stage; they need not sum to the median of the whole."""
        return dict(zip(STAGES, np.median(self.samples_ms, axis=0).tolist(), strict=True))

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "precision": self.precision,
            "cached": self.cached,
            "total_ms": self.total_ms,
            "stages_ms": self.stages_ms,
            "samples_ms": [list(sample) for sample in self.samples_ms],
        }


def cold_starts(
    bundle: Bundle,
    artifacts: Sequence[Artifact],
    *,
    threads: int,
    device: str = "cpu",
    repeats: int = REPEATS,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> tuple[ColdStart, ...]:
    """Start every engine's artifact of the best precision so many times, in turns; with and without a kept network where it
    can keep one.

    The user's own cache is not touched. Raises EngineError.
    """
    chosen = {
        artifact.engine: artifact for artifact in sorted(artifacts, key=lambda a: -PRECISIONS.index(a.precision))
    }.values()
    variants = [(a, cached) for a in chosen for cached in ((False, True) if a.engine in CACHING else (False,))]
    samples: list[list[tuple[float, ...]]] = [[] for _ in variants]
    with tempfile.TemporaryDirectory(prefix="edgekit-cold-") as folder:
        for artifact, cached in variants:  # fills the cache, and the system's with every file
            _start(bundle, artifact, threads, device, Path(folder, str(cached)))
        for turn in progress(range(repeats)):
            for step in range(len(variants)):
                index = (turn + step) % len(variants)
                artifact, cached = variants[index]
                if not cached:
                    _forget_networks(Path(folder, str(cached)))
                samples[index].append(_start(bundle, artifact, threads, device, Path(folder, str(cached))))
    return tuple(
        ColdStart(artifact.engine, artifact.precision, cached, tuple(taken))
        for (artifact, cached), taken in zip(variants, samples, strict=True)
    )


def _forget_networks(cache: Path) -> None:
    """Empty a cache but for what is known of the engines: that one works is found out once on a machine, not at each start."""
    for kind in cache.glob("*"):
        if kind.name != PROBES:
            shutil.rmtree(kind)


def _start(bundle: Bundle, artifact: Artifact, threads: int, device: str, cache: Path) -> tuple[float, ...]:
    name = f"{artifact.engine} {artifact.precision}"
    options = [str(bundle.path.resolve()), artifact.engine, artifact.precision, str(threads), device]
    began = str(time.monotonic_ns())
    try:
        said = run_apart(
            name, "benchmarks.first_result", began, *options, variables={VARIABLE: str(cache)}, limit_s=_LIMIT_S
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{name}: no first result within {_LIMIT_S:.0f} s") from error
    return tuple(float(word) for word in said.split())
