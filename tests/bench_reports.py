"""Bench reports of made-up figures."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.bench import BenchReport, BenchResult
from benchmarks.latency import Latency
from benchmarks.machine import State
from edge.device import Device

DEVICE = Device(
    board="Raspberry Pi 5 Model B Rev 1.0",
    machine="aarch64",
    bits=64,
    cpu="Cortex-A76",
    cores=4,
    features=("asimd", "asimddp"),
    memory_bytes=8 * 10**9,
    governor="ondemand",
    clock_mhz=2400.0,
    clock_max_mhz=2400.0,
    temperature_c=51.0,
    throttled=None,
)
MEDIANS_MS = {"openvino fp32": 9.0, "litert fp32": 8.0, "openvino int8": 4.0, "litert int8": 3.5}


def latency(median_ms: float, *, seed: int, rounds: int = 100) -> Latency:
    return Latency(tuple(median_ms * np.random.default_rng(seed).lognormal(0, 0.03, rounds)))


def bench_report(
    medians_ms: dict[str, float] = MEDIANS_MS,
    *,
    seed: int = 0,
    slower: float = 1.0,
    rounds: int = 100,
    device: Device = DEVICE,
    packages: dict[str, str] | None = None,
    results: Sequence[BenchResult] | None = None,
    **bundle: Any,
) -> BenchReport:
    """A report of artifacts with these medians. slower: than that the whole machine is, yardstick included."""
    made = []
    for index, (name, ms) in enumerate(medians_ms.items()):
        engine, precision = name.split()
        taken = latency(slower * ms, seed=seed + index, rounds=rounds)
        made.append(BenchResult(engine, precision, "cpu", 4, taken, 10**8, 4 * 10**6, None, None))
    state = State(51.0, 2400.0, None)
    return BenchReport(
        created="2026-01-02T03:04:05+00:00",
        bundle={"path": "bundle", "manifest_sha256": "ab" * 32, "network": "emtnet", "input": [224, 224]} | bundle,
        environment={
            "device": asdict(device),
            "kernel": "6.6",
            "system": "Linux",
            "python": "3.11.2",
            "packages": packages or {"numpy": "2.4.0", "openvino": "2026.4.1"},
        },
        before=state,
        after=state,
        rounds=rounds,
        yardstick=latency(slower * 1.0, seed=seed + 99, rounds=rounds),
        results=tuple(results or made),
        skipped=(),
    )
