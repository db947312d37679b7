"""How a device holds up: one artifact without a pause for minutes, its latency beside temperature, clock and throttling."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import ReadState, State, read_state
from edge.bundle import Bundle
from edge.engines import open_artifact
from edge.frame import GreyImage
from edge.manifest import Artifact

WINDOW_S: Final = 1.0
COLD_S: Final = 10.0
"""The first seconds, in which a device is as cool as it will be; at most a quarter of the soak."""
STEADY_SHARE: Final = 1 / 3
"""The last share of a soak, in which it should have settled."""
SLOWED: Final = 0.9
"""A clock below this share of that of the cold part counts as slowed, whether the firmware says so or not."""

Clock = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Window:
    """About a second of a soak. Times in seconds since its begin, latencies in milliseconds, the state at its end."""

    start_s: float
    end_s: float
    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    temperature_c: float | None
    clock_mhz: float | None
    limits: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch in which the device held its processor back. reasons: in the firmware's words, and "clock slowed"."""

    start_s: float
    end_s: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Soak:
    """A soak. artifact: engine and precision. asked_s: how long it was to last; interrupted: it ended before by Ctrl-C."""

    artifact: str
    asked_s: float
    interrupted: bool
    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        if not self.windows:
            raise ValueError("a soak has at least one window")

    @property
    def duration_s(self) -> float:
        return self.windows[-1].end_s

    @property
    def cold(self) -> tuple[Window, ...]:
        until_s = min(COLD_S, self.duration_s / 4)
        return tuple(w for w in self.windows if w.start_s < until_s)

    @property
    def steady(self) -> tuple[Window, ...]:
        from_s = self.duration_s * (1 - STEADY_SHARE)
        return tuple(w for w in self.windows if w.end_s > from_s)

    @property
    def slowdown(self) -> float:
        """Median latency of the steady part as a multiple of that of the cold part."""
        return median_ms(self.steady) / median_ms(self.cold)

    @property
    def slope_percent_per_min(self) -> float | None:
        """How the latency of the steady part still changes: Theil–Sen slope (Sen, JASA 63 (1968) 1379) of the windows' medians.

        None where the steady part is shorter than a minute, or has fewer than five windows.
        """
        steady = self.steady
        if len(steady) < 5 or steady[-1].end_s - steady[0].start_s < 60:
            return None
        minutes = np.array([(w.start_s + w.end_s) / 120 for w in steady])
        medians = np.array([w.p50_ms for w in steady])
        return float(_theil_sen(minutes, medians) / np.median(medians) * 100)

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """Stretches with one and the same set of limits, in order."""
        clocks = [w.clock_mhz for w in self.cold if w.clock_mhz is not None]
        least_mhz = SLOWED * float(np.median(clocks)) if clocks else 0.0
        found = []
        for reasons, group in groupby(self.windows, key=lambda w: _reasons(w, least_mhz)):
            if reasons:
                held = list(group)
                found.append(Interval(held[0].start_s, held[-1].end_s, reasons))
        return tuple(found)

    @property
    def hottest_c(self) -> float | None:
        return max((w.temperature_c for w in self.windows if w.temperature_c is not None), default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "asked_s": self.asked_s,
            "duration_s": self.duration_s,
            "interrupted": self.interrupted,
            "cold_p50_ms": median_ms(self.cold),
            "steady_p50_ms": median_ms(self.steady),
            "slowdown": self.slowdown,
            "slope_percent_per_min": self.slope_percent_per_min,
            "hottest_c": self.hottest_c,
            "intervals": [asdict(interval) for interval in self.intervals],
            "windows": [asdict(window) for window in self.windows],
        }


def soak(
    step: Callable[[], object],
    artifact: str,
    *,
    seconds: float,
    tell: Callable[[Window], None] = lambda window: None,
    clock: Clock = time.perf_counter_ns,
    read: ReadState = read_state,
    window_s: float = WINDOW_S,
) -> Soak | None:
    """Run `step` over and over for so many seconds. Ctrl-C ends it early and keeps what there is, None where there is nothing.

    tell: called with every window. The machine's state is read between two calls, once a window, and is in no latency.
    clock: nanoseconds, monotonic. Raises ValueError unless seconds > 0.
    """
    if not seconds > 0:
        raise ValueError(f"a soak takes some time, got {seconds} s")
    windows: list[Window] = []
    samples: list[float] = []
    begun = opened = clock()
    interrupted = False
    try:
        while (now := clock()) - begun < seconds * 1e9:
            step()
            samples.append((clock() - now) / 1e6)
            if clock() - opened >= window_s * 1e9:
                windows.append(_window(samples, opened - begun, clock() - begun, read()))
                samples, opened = [], clock()
                tell(windows[-1])
    except KeyboardInterrupt:
        interrupted = True
    if len(samples) > 1 or (samples and not windows):  # one call alone has no median worth its name
        windows.append(_window(samples, opened - begun, clock() - begun, read()))
    return Soak(artifact, seconds, interrupted, tuple(windows)) if windows else None


def soak_artifact(
    bundle: Bundle,
    artifact: Artifact,
    image: GreyImage,
    *,
    seconds: float,
    threads: int,
    device: str = "cpu",
    tell: Callable[[Window], None] = lambda window: None,
) -> Soak | None:
    """`soak` of the engine's call on one image, (height, width) uint8 of the network's input.

    Raises EngineError, IntegrityError.
    """
    try:
        engine = open_artifact(bundle, artifact, threads=threads, device=device)
    except KeyboardInterrupt:
        return None
    try:
        name = f"{artifact.engine} {artifact.precision}"
        return soak(lambda: engine.infer(image), name, seconds=seconds, tell=tell)
    finally:
        engine.close()


def median_ms(windows: Sequence[Window]) -> float:
    """Median of the windows' median latencies."""
    return float(np.median([window.p50_ms for window in windows]))


def _window(samples: Sequence[float], start_ns: int, end_ns: int, state: State) -> Window:
    p50, p99 = np.percentile(samples, (50, 99))
    return Window(
        start_ns / 1e9, end_ns / 1e9, len(samples), float(p50), float(p99), max(samples),
        state.temperature_c, state.clock_mhz, state.limits,
    )  # fmt: skip


def _reasons(window: Window, least_mhz: float) -> tuple[str, ...]:
    slowed = window.clock_mhz is not None and window.clock_mhz < least_mhz
    return (*window.limits, *(("clock slowed",) if slowed else ()))


def _theil_sen(x: NDArray[np.float64], y: NDArray[np.float64], most: int = 600) -> float:
    """Median slope of all pairs of points, of at most so many of them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).round().astype(int))
    x, y = x[kept], y[kept]
    one, other = np.triu_indices(len(x), 1)
    return float(np.median((y[other] - y[one]) / (x[other] - x[one])))
