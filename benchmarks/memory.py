"""Peak memory of an artifact in a process of its own.

Run as `python -m benchmarks.memory ENGINE PRECISION THREADS DEVICE HEIGHT WIDTH FILE`.
"""

import resource
import sys
from pathlib import Path

import numpy as np

from benchmarks.apart import run_apart
from edge.engines import open_model


def peak_rss_bytes(
    engine: str, path: Path, *, height: int, width: int, precision: str, threads: int, device: str
) -> int:
    """Largest resident set of a fresh process that loads the artifact and infers ten times. Raises EngineError.

    height, width: of the network's input.
    """
    options = [engine, precision, str(threads), device, str(height), str(width), str(path)]
    return int(run_apart(f"{engine} {precision}", "benchmarks.memory", *options))


def _main(engine: str, precision: str, threads: str, device: str, height: str, width: str, path: str) -> None:
    opened = open_model(engine, Path(path), precision=precision, threads=int(threads), device=device)
    for _ in range(10):
        opened.infer(np.full((int(height), int(width)), 128, np.uint8))
    print(_high_water_bytes())


def _high_water_bytes() -> int:
    """Peak resident set of this process alone; getrusage's would start from the parent's at the fork."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    _main(*sys.argv[1:])
