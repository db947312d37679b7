"""Streaming load: what a run costs beside the engine, whether frames are lost, and whether it stays so.

Everything is measured against the engine's own time in the same run, on pictures made beforehand:
`python -m benchmarks.streaming`.
"""

import argparse
import gc
import json
import multiprocessing
import multiprocessing.process
import os
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edge.analysis import Analysis, FrameAnalyser
from edge.atomic import write_text
from edge.bundle import Bundle
from edge.delivery import SinkPlan
from edge.guard import Guard
from edge.ledger import LedgerSummary
from edge.phantom import phantom_case
from edge.predictor import Predictor
from edge.runner import Outputs, WebAddress
from edge.sources import Picture
from edge.stream import Policy, Result, Stream, StreamStatus

SIZES: Final = ((480, 640), (1080, 1920))
RATES: Final = (30.0, 60.0)
MARGIN: Final = 64
"""Pixels that the window moves over, out and back."""


class Cine:
    """A source of ready pictures. They come by the clock, or as fast as they are taken.

    fps: pictures a second of a live source; None for a recording of `count` pictures.
    """

    def __init__(self, pictures: Sequence[NDArray[np.uint8]], *, fps: float | None, count: int | None = None) -> None:
        self.name, self.live = "cine", fps is not None
        self._pictures, self._fps, self._count = pictures, fps, count
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Picture]:
        started_s, number = time.monotonic(), 0
        while not self._closed.is_set() and (self._count is None or number < self._count):
            lost = 0
            if self._fps is not None:
                early_s = started_s + number / self._fps - time.monotonic()
                if early_s > 0 and self._closed.wait(early_s):
                    return
                lost = max(0, int(-early_s * self._fps))
                number += lost
            time_s = number / (self._fps or 30.0)
            yield Picture(self._pictures[number % len(self._pictures)], time_s=time_s, lost=lost)
            number += 1

    def close(self) -> None:
        self._closed.set()


def pictures(size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Grey pictures of a moving window with fresh noise, (H, W) uint8, ready in memory."""
    height, width = size
    wide = phantom_case(5, size=(height, width + MARGIN)).pixels
    rng = np.random.default_rng(0)
    noise = rng.normal(0.0, 6.0, (height, width + 2 * MARGIN)).astype(np.float32)
    made = []
    for step in (*range(0, MARGIN, 2), *range(MARGIN, 0, -2)):
        shift = int(rng.integers(2 * MARGIN))
        grain = noise[:, shift : shift + width]
        made.append(np.clip(wide[:, step : step + width] + grain, 0, 255).astype(np.uint8))
    return made


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


@dataclass(frozen=True, slots=True)
class Load:
    """One run. own: all work on a frame but the engine's call. bound_ms: engine p99 + one frame interval + own p50."""

    name: str
    frames: int
    dropped: int
    rejected: int
    lost_by_source: int
    engine_p50_ms: float
    engine_p99_ms: float
    own_p50_ms: float
    latency_p50_ms: float
    latency_p99_ms: float
    bound_ms: float | None

    @property
    def own_share(self) -> float:
        """Own work as a multiple of the engine's call."""
        return self.own_p50_ms / self.engine_p50_ms


def measure(
    name: str,
    frames: Sequence[NDArray[np.uint8]],
    bundle: Bundle,
    *,
    fps: float | None,
    duration_s: float | None = None,
    count: int | None = None,
    policy: Policy = "newest",
    outputs: Outputs | None = None,
    slow: float = 1.0,
    told: Callable[[str], None] = lambda url: None,
    tick: Callable[[StreamStatus], None] | None = None,
) -> Load:
    """Run once and return what it cost. slow: the engine is made to take so many times as long, for overload."""
    stages = Stages()
    with Predictor.open(bundle.path, clock=time.monotonic_ns) as predictor:
        if slow != 1.0:
            predictor.engine = _Slow(predictor.engine, slow)
        analyser = FrameAnalyser(predictor, guard=Guard())

        def now() -> StreamStatus:
            return stream.status()

        plans = [SinkPlan("stages", lambda: stages, capacity=10_000)]
        plans += (outputs or Outputs()).plans({"source": name}, now, told)
        stream = Stream(lambda: Cine(frames, fps=fps, count=count), analyser, plans, policy=policy)
        status = stream.run(duration_s=duration_s, tick=tick)
    if stream.error is not None:
        raise stream.error
    return _load(name, np.array(stages.rows[len(stages.rows) // 10 :]), status.ledger, fps)


def _load(name: str, rows: NDArray[np.float64], ledger: LedgerSummary, fps: float | None) -> Load:
    """The first tenth, in which engine and caches warm up, is left out."""
    infer, own = rows[:, 2], rows[:, 1] + rows[:, 3]
    latency = rows.sum(axis=1)
    engine_p50, engine_p99 = np.percentile(infer, (50, 99))
    own_p50 = float(np.median(own))
    counts = {outcome.value: count for outcome, count in ledger.counts.items()}
    return Load(
        name=name,
        frames=ledger.captured,
        dropped=counts["dropped"],
        rejected=counts["rejected"],
        lost_by_source=ledger.lost,
        engine_p50_ms=float(engine_p50),
        engine_p99_ms=float(engine_p99),
        own_p50_ms=own_p50,
        latency_p50_ms=float(np.percentile(latency, 50)),
        latency_p99_ms=float(np.percentile(latency, 99)),
        bound_ms=None if fps is None else float(engine_p99) + 1000.0 / fps + own_p50,
    )


class _Slow:
    """An engine that takes longer than it needs."""

    def __init__(self, engine: Any, times: float) -> None:
        self._engine, self._times = engine, times

    def infer(self, image: Any) -> Any:
        started_s = time.monotonic()
        outputs = self._engine.infer(image)
        time.sleep((self._times - 1.0) * (time.monotonic() - started_s))
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


def with_viewers(frames: Sequence[NDArray[np.uint8]], bundle: Bundle, *, viewers: int, duration_s: float) -> Load:
    """A live run at 30 frames a second with so many viewers of the page, in processes of their own."""
    context = multiprocessing.get_context("spawn")
    looking: list[multiprocessing.process.BaseProcess] = []

    def told(url: str) -> None:
        for index in range(viewers):
            looking.append(context.Process(target=view, args=(url, f"viewer{index}"), daemon=True))
            looking[-1].start()

    try:
        outputs = Outputs(web=WebAddress("127.0.0.1", 0))
        name = f"page with {viewers} viewers"
        return measure(name, frames, bundle, fps=30.0, duration_s=duration_s, outputs=outputs, told=told)
    finally:
        for process in looking:
            process.terminate()
            process.join(10)


def growth(frames: Sequence[NDArray[np.uint8]], bundle: Bundle, *, count: int) -> tuple[Load, float]:
    """A run over `count` frames with every sink on; MB that the process grew by after the first tenth."""
    samples: list[tuple[int, float]] = []

    def sample(status: StreamStatus) -> None:
        gc.collect()
        samples.append((status.ledger.captured, _resident_mb()))

    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        outputs = Outputs(
            results=folder / "results.jsonl",
            record=folder / "recording.mkv",
            dicom=folder / "dicom",
            exam=folder / "exam",
            web=WebAddress("127.0.0.1", 0),
        )
        load = measure(
            f"{count} frames, every sink",
            frames,
            bundle,
            fps=None,
            count=count,
            policy="all",
            outputs=outputs,
            tick=sample,
        )
    late = [megabytes for captured, megabytes in samples if captured >= 0.1 * count]
    return load, late[-1] - late[0] if len(late) > 1 else float("nan")


def _resident_mb() -> float:
    """Memory of this process, by proc_pid_statm(5)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="bundle folder; the built-in one without it")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each live run")
    parser.add_argument("--frames", type=int, default=20_000, help="of the run with every sink on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    bundle = Bundle.open_or_builtin(options.bundle)
    loads: list[Load] = []
    for size in SIZES:
        ready = pictures(size)
        for fps in RATES:
            name = f"{size[1]}×{size[0]}, {fps:g}/s"
            loads.append(measure(name, ready, bundle, fps=fps, duration_s=options.seconds))
            _show(loads[-1])
    ready = pictures(SIZES[0])
    for viewers in (0, 4):
        loads.append(with_viewers(ready, bundle, viewers=viewers, duration_s=options.seconds))
        _show(loads[-1])
    loads.append(measure("overload", ready, bundle, fps=60.0, duration_s=options.seconds, slow=30.0))
    _show(loads[-1])
    load, grown_mb = growth(ready, bundle, count=options.frames)
    loads.append(load)
    _show(load)
    print(f"grown by {grown_mb:.1f} MB")
    if options.json is not None:
        record = {"loads": [asdict(each) for each in loads], "grown_mb": grown_mb, "argv": sys.argv[1:]}
        write_text(options.json, json.dumps(record, indent=1) + "\n")


def _show(load: Load) -> None:
    bound = "" if load.bound_ms is None else f" (bound {load.bound_ms:.1f})"
    print(
        f"{load.name}: {load.frames} frames, {load.dropped} dropped, {load.rejected} rejected; engine p50 "
        f"{load.engine_p50_ms:.1f} ms, own work {load.own_share:.2f}× that; latency p50 {load.latency_p50_ms:.1f}, "
        f"p99 {load.latency_p99_ms:.1f} ms{bound}",
        flush=True,
    )


if __name__ == "__main__":
    main()
