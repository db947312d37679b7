"""Streaming load: what a run costs beside the engine, whether frames are lost, and whether it stays so.

Everything is measured against the engine's own time in the same run, in rounds that take every load in turn, so that a machine
that slows down slows all of them. On an idle machine:

    python -m benchmarks.streaming --json runs/streaming.json     # a quarter of an hour
    python -m benchmarks.streaming --quick                        # a minute and a half
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cine import bare_scan, console
from benchmarks.load import Load, Scene, Tally, growth
from edge.atomic import write_text
from edge.bundle import Bundle

SMALL: Final = (480, 640)
LARGE: Final = (1080, 1920)
RATES: Final = (30.0, 60.0)
VIEWERS: Final = 4
OVERLOAD: Final = 10.0
"""Frame intervals that the engine's call takes in the overloaded run."""
OWN_SHARE: Final = {SMALL: 0.8, LARGE: 1.8}
"""Most work beside the engine's call, as a multiple of it."""
GROWTH_MB: Final = 5.0
VIEWERS_SHARE: Final = 1.1
"""Most that viewers may bring the latency's p99 to, as a multiple of that of a page without any."""
STEADY: Final = 1.1
"""Most that the latency of an overloaded run may come to at its end, as a multiple of that at its begin."""
QUICK: Final = {"rounds": 1, "seconds": 5.0, "frames": 1500}
GROUPS: Final = ("live", "viewers", "overload", "growth")


@dataclass(frozen=True, slots=True)
class Check:
    """A figure beside its limit, which it may not be above."""

    name: str
    figure: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit


def scenes(groups: Sequence[str]) -> dict[str, list[Scene]]:
    """The live loads of each group."""
    small = bare_scan(SMALL)
    made: dict[str, list[Scene]] = {}
    if "live" in groups:
        large, grabs = bare_scan(LARGE), [console(SMALL), console(LARGE)]
        kinds = [("scan", small), ("scan", large), ("console", grabs[0]), ("console", grabs[1])]
        made["live"] = [Scene(_name(what, shown, fps), shown, fps) for what, shown in kinds for fps in RATES]
    if "viewers" in groups:
        made["viewers"] = [Scene(f"page, {count} viewers", small, 30.0, viewers=count) for count in (0, VIEWERS)]
    if "overload" in groups:
        made["overload"] = [Scene(f"{OVERLOAD:g}× overload", small, 60.0, slow_s=OVERLOAD / 60.0)]
    return made


def checks(group: str, scene: Scene, load: Load, others: Mapping[str, Load]) -> list[Check]:
    """What a load of a group must hold. others: the loads of the same group by name."""
    found = [Check(f"{scene.name}: frames that the ledger does not account for", load.unbalanced, 0)]
    if group == "live":
        found.append(Check(f"{scene.name}: own work / engine", load.own_share, OWN_SHARE[scene.pictures[0].shape[:2]]))
        if load.bound_ms is not None:
            found.append(Check(f"{scene.name}: latency p99, ms", load.latency_p99_ms, load.bound_ms))
        if load.engine_p99_ms < 1000.0 / scene.fps:
            found.append(Check(f"{scene.name}: frames lost", load.lost, 0))
    if group == "viewers" and scene.viewers:
        alone = next(other for name, other in others.items() if name != scene.name)
        found.append(
            Check(f"{scene.name}: latency p99 / alone", load.latency_p99_ms / alone.latency_p99_ms, VIEWERS_SHARE)
        )
    if group == "overload":
        found.append(Check(f"{scene.name}: latency, end / begin", load.steady, STEADY))
        found.append(
            Check(f"{scene.name}: share of frames analysed", 1.0 - load.lost / load.counts["captured"], 1.5 / OVERLOAD)
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print tables, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle folder; the built-in one without it")
    parser.add_argument(
        "--quick", action="store_true", help="one short round and fewer frames; its percentiles are rough"
    )
    parser.add_argument("--only", choices=GROUPS, action="append", help="measure this group of loads; may be repeated")
    parser.add_argument("--rounds", type=int, help="through all loads, 3 without it")
    parser.add_argument("--seconds", type=float, help="of each live run in a round, 10 without it")
    parser.add_argument("--frames", type=int, help="of the run with every sink on, 20000 without it")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    said = {name: value for name in QUICK if (value := getattr(options, name)) is not None}
    how = {"rounds": 3, "seconds": 10.0, "frames": 20_000} | (QUICK if options.quick else {}) | said
    groups = options.only or GROUPS
    bundle = Bundle.open_or_builtin(options.bundle)
    asked = scenes(groups)
    tallies = {scene.name: Tally() for group in asked.values() for scene in group}
    for _ in range(int(how["rounds"])):
        for group in asked.values():
            for scene in group:
                scene.measure(bundle, tallies[scene.name], float(how["seconds"]))
                print(".", end="", flush=True)
    print()
    loads: list[Load] = []
    found: list[Check] = []
    for name, members in asked.items():
        measured = {scene.name: Load.of(scene.name, tallies[scene.name], scene.fps) for scene in members}
        loads += measured.values()
        for scene in members:
            found += checks(name, scene, measured[scene.name], measured)
    if "growth" in groups:
        count = int(how["frames"])
        tally = Tally()
        grown_mb = growth(bare_scan(SMALL), bundle, tally, count=count)
        loads.append(Load.of(f"{count} frames, every sink", tally, None))
        found.append(Check(f"{loads[-1].name}: growth, MB", grown_mb, GROWTH_MB))
        found.append(Check(f"{loads[-1].name}: frames that the ledger does not account for", loads[-1].unbalanced, 0))
    _print(loads, found)
    if options.json is not None:
        record = {
            "argv": sys.argv[1:] if arguments is None else list(arguments),
            "bundle": bundle.manifest.source_sha256,
            "how": how,
            "loads": [asdict(load) | {"own_share": load.own_share, "lost": load.lost} for load in loads],
            "checks": [asdict(check) | {"holds": check.holds} for check in found],
        }
        write_text(options.json, dumps(record, indent=1) + "\n")


def _name(what: str, shown: Sequence[NDArray[np.uint8]], fps: float) -> str:
    height, width = shown[0].shape[:2]
    return f"{what} {width}×{height}, {fps:g}/s"


def _print(loads: Sequence[Load], found: Sequence[Check]) -> None:
    columns = (
        "frames",
        "lost",
        "rejected",
        "engine p50",
        "p99",
        "own p50",
        "p99",
        "own/engine",
        "latency p50",
        "p99",
        "bound",
    )
    print(f"{'milliseconds':32s}" + "".join(f"{column:>12s}" for column in columns))
    for load in loads:
        counts = (load.counts["captured"], load.lost, load.counts.get("rejected", 0))
        times = (load.engine_p50_ms, load.engine_p99_ms, load.own_p50_ms, load.own_p99_ms)
        bound = "" if load.bound_ms is None else f"{load.bound_ms:.1f}"
        print(
            f"{load.name:32s}"
            + "".join(f"{count:12d}" for count in counts)
            + "".join(f"{ms:12.2f}" for ms in times)
            + f"{load.own_share:12.2f}{load.latency_p50_ms:12.1f}{load.latency_p99_ms:12.1f}{bound:>12s}"
        )
    print()
    for check in found:
        print(f"{'holds ' if check.holds else 'MISSED'} {check.name}: {check.figure:.2f}, at most {check.limit:.2f}")


if __name__ == "__main__":
    main()
