"""One load on the streaming runner: a source, an engine, sinks and viewers, and what a frame's stages took."""

import gc
import json
import multiprocessing
import multiprocessing.process
import os
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cine import Cine, Pictures
from edge.analysis import Analysis, FrameAnalyser
from edge.bundle import Bundle
from edge.capture import STOPPED
from edge.delivery import SinkPlan
from edge.guard import Guard
from edge.ledger import Outcome
from edge.ood import FeatureReference
from edge.predictor import Predictor
from edge.runner import Outputs, WebAddress, leave_cores_to_engine
from edge.stream import Policy, Result, Stream, StreamStatus

WAITING: Final = "waiting at the stop"
"""Frames that no newer one replaced."""


@dataclass(slots=True, eq=False)
class Stages:
    """A sink that keeps the milliseconds of every frame that went all the way: wait, preprocess, infer, deliver."""

    rows: list[tuple[float, ...]] = field(default_factory=list)

    def write(self, result: Result[Analysis]) -> None:
        stages = result.record.stages_ms
        if stages is not None:
            self.rows.append(stages)

    def close(self) -> None:
        pass


@dataclass(slots=True, eq=False)
class Tally:
    """What the rounds of one load gave.

    rows: of `Stages`; the first tenth of each round, in which caches warm up, is left out. counts: how frames ended; one that
    waits when a round is stopped came not too fast, and is none of "dropped". unbalanced: frames captured less those that ended.
    """

    rows: list[NDArray[np.float64]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    unbalanced: int = 0

    def add(self, rows: list[tuple[float, ...]], status: StreamStatus) -> None:
        self.rows.append(np.array(rows[len(rows) // 10 :], np.float64).reshape(-1, 4))
        ledger = status.ledger
        ended = {outcome.value: count for outcome, count in ledger.counts.items()}
        self.counts += Counter({"captured": ledger.captured, "lost by the source": ledger.lost, **ended})
        self.unbalanced += abs(ledger.captured - sum(ended.values()))
        waiting = ledger.reasons.get(Outcome.DROPPED, {}).get(STOPPED, 0)
        self.counts["dropped"] -= waiting
        self.counts[WAITING] += waiting


@dataclass(frozen=True, slots=True)
class Load:
    """One load over all rounds. Work beside the engine's call is all of a frame but that call and the wait for the frame before.

    bound_ms: engine p99 + one frame interval + own p50, None without a rate. steady: median latency of the last third of a
    round as a multiple of that of the first. unbalanced: of `Tally`.
    """

    name: str
    counts: dict[str, int]
    unbalanced: int
    engine_p50_ms: float
    engine_p99_ms: float
    own_p50_ms: float
    own_p99_ms: float
    latency_p50_ms: float
    latency_p99_ms: float
    bound_ms: float | None
    steady: float

    @classmethod
    def of(cls, name: str, tally: Tally, fps: float | None) -> "Load":
        rows = np.concatenate(tally.rows)
        infer, own, latency = rows[:, 2], rows[:, 1] + rows[:, 3], rows.sum(axis=1)
        own_p50, engine_p99 = float(np.median(own)), float(np.percentile(infer, 99))
        thirds = [np.array_split(each.sum(axis=1), 3) for each in tally.rows]
        first, last = (np.concatenate([parts[index] for parts in thirds]) for index in (0, 2))
        return cls(
            name=name,
            counts=dict(tally.counts),
            unbalanced=tally.unbalanced,
            engine_p50_ms=float(np.median(infer)),
            engine_p99_ms=engine_p99,
            own_p50_ms=own_p50,
            own_p99_ms=float(np.percentile(own, 99)),
            latency_p50_ms=float(np.median(latency)),
            latency_p99_ms=float(np.percentile(latency, 99)),
            bound_ms=None if fps is None else engine_p99 + 1000.0 / fps + own_p50,
            steady=float(np.median(last) / np.median(first)),
        )

    @property
    def own_share(self) -> float:
        """Work beside the engine's call as a multiple of it."""
        return self.own_p50_ms / self.engine_p50_ms

    @property
    def lost(self) -> int:
        """Frames that came and were not analysed."""
        return self.counts.get("dropped", 0) + self.counts.get("lost by the source", 0)


@dataclass(frozen=True, slots=True)
class Scene:
    """A load to measure. slow_s: what the engine's call is made to take. viewers: of the page, None without a page."""

    name: str
    pictures: Pictures
    fps: float
    slow_s: float = 0.0
    viewers: int | None = None

    def measure(self, bundle: Bundle, tally: Tally, seconds: float) -> None:
        """One round: a live run in which the newest frame wins."""
        looking: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context("spawn")

        def told(url: str) -> None:
            for index in range(self.viewers or 0):
                looking.append(context.Process(target=view, args=(url, f"viewer{index}"), daemon=True))
                looking[-1].start()

        try:
            outputs = Outputs() if self.viewers is None else Outputs(web=WebAddress("127.0.0.1", 0))
            source = Cine(self.pictures, fps=self.fps)
            run(source, bundle, tally, duration_s=seconds, outputs=outputs, slow_s=self.slow_s, told=told)
        finally:
            for process in looking:
                process.terminate()
                process.join(10)


def run(
    source: Cine,
    bundle: Bundle,
    tally: Tally,
    *,
    duration_s: float | None = None,
    policy: Policy = "newest",
    outputs: Outputs | None = None,
    slow_s: float = 0.0,
    told: Callable[[str], None] = lambda url: None,
    tick: Callable[[StreamStatus], None] | None = None,
) -> None:
    """Run once and count what it cost."""
    leave_cores_to_engine()
    stages = Stages()
    with Predictor.open(bundle.path, clock=time.monotonic_ns) as predictor:
        if slow_s:
            predictor.engine = _Slow(predictor.engine, slow_s)
        analyser = FrameAnalyser(predictor, guard=Guard(reference=_tolerant(bundle)))

        def now() -> StreamStatus:
            return stream.status()

        plans = [SinkPlan("stages", lambda: stages, capacity=10_000)]
        plans += (outputs or Outputs()).plans({"source": "cine"}, now, told)
        stream = Stream(lambda: source, analyser, plans, policy=policy)
        try:
            status = stream.run(duration_s=duration_s, tick=tick)
        finally:
            analyser.close()
    if stream.error is not None:
        raise stream.error
    tally.add(stages.rows, status)


def _tolerant(bundle: Bundle) -> FeatureReference | None:
    """The reference with every picture familiar: simulated ones are not, and their distance is to be taken all the same."""
    reference = bundle.manifest.feature_reference(bundle.choose().precision)
    return None if reference is None else replace(reference, limit=1e12)


class _Slow:
    """An engine that takes longer than it needs."""

    def __init__(self, engine: Any, seconds: float) -> None:
        self._engine, self._seconds = engine, seconds

    def infer(self, image: Any) -> Any:
        ends_s = time.monotonic() + self._seconds
        outputs = self._engine.infer(image)
        time.sleep(max(0.0, ends_s - time.monotonic()))
        return outputs

    def close(self) -> None:
        self._engine.close()


def view(url: str, name: str) -> None:
    """Take pictures as the page does, each as soon as it is there, until the server is gone."""
    key = ""
    for _ in range(20):  # tries without an answer
        try:
            while True:
                query = urllib.parse.urlencode({"viewer": name, "after": key})
                with urllib.request.urlopen(f"{url}frame?{query}", timeout=5) as answer:
                    body = answer.read()
                length = int.from_bytes(body[:4], "big")
                key = json.loads(body[4 : 4 + length]).get("key", key)
        except OSError:
            time.sleep(0.1)


def growth(pictures: Pictures, bundle: Bundle, tally: Tally, *, count: int) -> float:
    """A run over `count` frames with every sink on; MB that the process grew by from its second tenth to its last."""
    samples: list[tuple[float, float]] = []

    def sample(status: StreamStatus) -> None:
        gc.collect()
        samples.append((status.ledger.captured / count, _resident_mb()))

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        outputs = Outputs(
            results=folder / "results.jsonl",
            record=folder / "recording.mkv",
            dicom=folder / "dicom",
            exam=folder / "exam",
            web=WebAddress("127.0.0.1", 0),
        )
        run(Cine(pictures, fps=None, count=count), bundle, tally, policy="all", outputs=outputs, tick=sample)
    early = [megabytes for share, megabytes in samples if 0.1 <= share < 0.2]
    late = [megabytes for share, megabytes in samples if share >= 0.9]
    return float(np.median(late) - np.median(early)) if early and late else float("nan")


def _resident_mb() -> float:
    """Memory of this process, by proc_pid_statm(5)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
