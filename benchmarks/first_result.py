"""A start from nothing to the first result, told stage by stage. Run in a fresh process by `benchmarks.coldstart`.

Run as `python -m benchmarks.first_result SPAWNED_NS BUNDLE ENGINE PRECISION THREADS DEVICE`; SPAWNED_NS by CLOCK_MONOTONIC, which
is the same in every process.
"""

import sys
import time
from itertools import pairwise


def main(spawned_ns: str, path: str, engine: str, precision: str, threads: str, device: str) -> None:
    """Print milliseconds: interpreter, imports, opening bundle and engine, first inference."""
    marks = [int(spawned_ns), time.monotonic_ns()]
    import numpy as np

    from edge.bundle import Bundle
    from edge.engines import open_artifact
    from edge.preprocess import preprocess

    marks.append(time.monotonic_ns())
    bundle = Bundle.open(path)
    artifact = bundle.choose(engine=engine, precision=precision)
    opened = open_artifact(bundle, artifact, threads=int(threads), device=device)
    marks.append(time.monotonic_ns())
    given = bundle.manifest.input
    opened.infer(preprocess(np.full((480, 640), 64, np.uint8), given.size, resize=given.resize))
    marks.append(time.monotonic_ns())
    print(*((after - before) / 1e6 for before, after in pairwise(marks)))


if __name__ == "__main__":
    main(*sys.argv[1:])
