"""tflite-runtime against LiteRT on the same files, each in an environment and a process of its own, in turn in one run.

    python3.11 -m venv old && old/bin/pip install '.[tflite-runtime]' -c constraints-tflite-runtime.txt
    edgekit export --int8 --engine litert -o bundle
    python benchmarks/scripts/tflite_runtime.py bundle --python old/bin/python --rounds 100

Times are of the engine's call, taken inside the process that runs it; between two calls all threads rest. "as it comes" is an
INT8 file opened like an FP32 one: without the delegate that edgekit gives it. "× litert" is the ratio of medians on one file,
"× at best" that of the least times, which other work on the machine spoils less.
"""

import argparse
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from benchmarks.latency import Latency
from benchmarks.peer import Peer
from edge.bundle import Bundle
from edge.phantom import phantom_case
from edge.preprocess import preprocess
from emtnet.model_card import grid

WARMUP: Final = 5
REST_S: Final = 0.02
"""Longer than the engines' threads spin after a call; else one would be timed while the other's still hold the cores."""

Row = tuple[str, str, int]
"""Precision, what ran it, threads."""


def compare(bundle: Bundle, python: Path, *, threads: list[int], rounds: int) -> dict[Row, Latency]:
    """Latency by precision, runner and threads."""
    given = bundle.manifest.input
    image = preprocess(phantom_case(0).pixels, given.size, resize=given.resize)
    precisions = [artifact.precision for artifact in bundle.manifest.artifacts if artifact.engine == "litert"]
    with ExitStack() as opened:
        peers: dict[Row, Peer] = {}
        for precision in precisions:
            path = bundle.verified_paths(bundle.choose(engine="litert", precision=precision))[0]
            for count in threads:
                runners = {
                    "litert": (Path(sys.executable), "litert", precision),
                    "tflite-runtime": (python, "tflite-runtime", precision),
                }
                if precision == "int8":
                    runners["tflite-runtime as it comes"] = (python, "tflite-runtime", "fp32")
                for name, (interpreter, engine, opened_as) in runners.items():
                    peers[precision, name, count] = opened.enter_context(
                        Peer(interpreter, engine, path, precision=opened_as, threads=count)
                    )
        samples: dict[Row, list[float]] = {row: [] for row in peers}
        for turn in range(WARMUP + rounds):
            for row, peer in peers.items():
                time.sleep(REST_S)
                peer.infer(image)
                if turn >= WARMUP:
                    samples[row].append(peer.infer_ms)
        return {row: Latency(tuple(values)) for row, values in samples.items()}


def markdown(found: Mapping[Row, Latency]) -> str:
    """A row for each file, runner and number of threads."""
    rows = []
    for (precision, runner, threads), latency in found.items():
        litert = found[precision, "litert", threads]
        ratio = latency.p50_ms / litert.p50_ms
        least, litert_least = min(latency.samples_ms), min(litert.samples_ms)
        rows.append(
            (
                precision,
                runner,
                str(threads),
                f"{least:.1f}",
                f"{latency.p50_ms:.1f}",
                f"{latency.p90_ms:.1f}",
                f"{ratio:.2f}",
                f"{least / litert_least:.2f}",
            )
        )
    return grid(("file", "engine", "threads", "least ms", "p50 ms", "p90 ms", "× litert", "× at best"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with LiteRT artifacts")
    parser.add_argument("--python", type=Path, required=True, help="interpreter of an environment with tflite-runtime")
    parser.add_argument("--threads", type=int, action="append", help="repeatable; 1 and 2 without it")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    print(
        markdown(
            compare(
                Bundle.open(options.bundle), options.python, threads=options.threads or [1, 2], rounds=options.rounds
            )
        )
    )


if __name__ == "__main__":
    main()
