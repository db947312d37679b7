"""The built-in networks side by side: the time of one frame on every INT8 engine, all interleaved.

    python benchmarks/scripts/networks.py --rounds 150

A frame's time is that of preprocessing, the engine's call and the reading of its answer (`Predictor.estimate`), on a phantom of
640×480. Prints a Markdown table; "× emtnet" is the ratio of medians on the same engine.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Final

from benchmarks.latency import Latency, measure
from edge.bundle import BUILTIN, Bundle
from edge.phantom import phantom_case
from edge.predictor import Predictor
from emtnet.model_card import grid

SIZE: Final = (480, 640)


def compare(*, rounds: int) -> dict[tuple[str, str], Latency]:
    """Latency by network and engine."""
    pixels = phantom_case(5, size=SIZE).pixels
    with ExitStack() as opened:
        steps: dict[tuple[str, str], Callable[[], object]] = {}
        for network, folder in BUILTIN.items():
            for artifact in Bundle.open(folder).manifest.artifacts:
                predictor = opened.enter_context(Predictor.open(folder, engine=artifact.engine))
                steps[network, artifact.engine] = partial(predictor.estimate, pixels)
        return measure(steps, rounds=rounds)


def markdown(found: dict[tuple[str, str], Latency]) -> str:
    """A row for each network and engine."""
    first = next(iter(BUILTIN))
    rows = []
    for (network, engine), latency in found.items():
        ratio = latency.p50_ms / found[first, engine].p50_ms
        rows.append((network, engine, f"{latency.p50_ms:.1f}", f"{latency.p99_ms:.1f}", f"{ratio:.2f}"))
    return grid(("network", "engine", "p50 ms", "p99 ms", f"× {first}"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=150)
    print(markdown(compare(rounds=parser.parse_args().rounds)))


if __name__ == "__main__":
    main()
