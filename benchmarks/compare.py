"""Is a bundle slower here than it was? A report against an earlier one, artifact by artifact."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.bench import SCHEMA, BenchReport
from benchmarks.ratio import Ratio, ratio_between
from edge.errors import DataError

TOLERANCE: Final = 0.10
"""What two runs of the same thing on a machine at rest stay within."""
HARDWARE: Final = ("board", "machine", "bits", "cpu", "cores", "governor")
"""Of `edge.device.Device`: where one of them differs, latencies have nothing to do with each other."""

SLOWER: Final = "slower"
FASTER: Final = "faster"
SAME: Final = "not slower"
MACHINE: Final = "machine slower"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a comparison needs of a report. where: its file. settings: what must be equal; samples_ms: by artifact."""

    where: str
    created: str
    manifest_sha256: str
    settings: dict[str, Any]
    packages: dict[str, str]
    yardstick_ms: tuple[float, ...]
    samples_ms: dict[str, tuple[float, ...]]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a report that `edgekit bench --json` wrote. Raises DataError."""
        try:
            record = json.loads(path.read_bytes().decode("utf-8"))
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror}); make it with edgekit bench --json {path}"
            ) from error
        except ValueError as error:
            raise DataError(f"{path}: not valid JSON ({error})") from error
        return cls.from_json(record, str(path))

    @classmethod
    def from_json(cls, record: Any, where: str) -> Self:
        """Read the record of a report. Raises DataError for one of another schema, and for what is no report."""
        if not isinstance(record, dict) or not {"environment", "results"} <= record.keys():
            raise DataError(f"{where}: not a report of edgekit bench --json")
        schema = record.get("schema")
        if schema != SCHEMA:
            newer = type(schema) is int and schema > SCHEMA
            story = "upgrade edgekit" if newer else "measure again with this edgekit"
            raise DataError(f"{where}: report of schema {schema or 'none'}, this edgekit reads {SCHEMA}; {story}")
        try:
            results, bundle, device = record["results"], record["bundle"], record["environment"]["device"]
            settings = {name: device[name] for name in HARDWARE}
            settings |= {"network": bundle["network"], "input": list(bundle["input"])}
            settings |= {"threads": results[0]["threads"], "device": results[0]["device"]}
            return cls(
                where=where,
                created=str(record["created"]),
                manifest_sha256=str(bundle["manifest_sha256"]),
                settings=settings,
                packages=dict(record["environment"]["packages"]),
                yardstick_ms=_samples(record["yardstick_ms"]),
                samples_ms={f"{one['engine']} {one['precision']}": _samples(one["samples_ms"]) for one in results},
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"{where}: a damaged report ({type(error).__name__}: {error}); measure again") from error


@dataclass(frozen=True, slots=True)
class Change:
    """One artifact, then and now. ratio: latency now over then; adjusted: the same in multiples of the yardstick.

    adjusted is None where the yardsticks are not the same work: another numpy.
    """

    artifact: str
    ratio: Ratio
    adjusted: Ratio | None
    tolerance: float

    @property
    def verdict(self) -> str:
        """`SLOWER` or `FASTER` by more than the tolerance, all of the interval, by the clock and by the yardstick; `MACHINE`:
        slower by the clock only, so that it is not the network; else `SAME`.
        """
        limit = 1.0 + self.tolerance
        judged = [self.ratio] if self.adjusted is None else [self.ratio, self.adjusted]
        if all(ratio.above(limit) for ratio in judged):
            return SLOWER
        if all(ratio.below(1.0 / limit) for ratio in judged):
            return FASTER
        return MACHINE if self.ratio.above(limit) else SAME

    def to_json(self) -> dict[str, Any]:
        def shown(ratio: Ratio | None) -> dict[str, float] | None:
            return None if ratio is None else {"value": ratio.value, "low": ratio.low, "high": ratio.high}

        return {
            "artifact": self.artifact,
            "ratio": shown(self.ratio),
            "adjusted": shown(self.adjusted),
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """A report against an earlier one. machine: the yardstick now over then, None where it is not the same work.

    other_bundle: the same network from another export. gone: artifacts that only the earlier report has. packages: versions that
    changed, (then, now), None for absent.
    """

    where: str
    created: str
    tolerance: float
    machine: Ratio | None
    changes: tuple[Change, ...]
    other_bundle: bool
    gone: tuple[str, ...]
    packages: dict[str, tuple[str | None, str | None]]

    @property
    def slower(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.verdict == SLOWER)

    def to_json(self) -> dict[str, Any]:
        machine = self.machine
        return {
            "with": self.where,
            "created": self.created,
            "tolerance": self.tolerance,
            "machine": None if machine is None else {"value": machine.value, "low": machine.low, "high": machine.high},
            "changes": [change.to_json() for change in self.changes],
            "other_bundle": self.other_bundle,
            "gone": list(self.gone),
            "packages": {name: list(versions) for name, versions in self.packages.items()},
        }


def require_comparable(old: Baseline, settings: Mapping[str, Any]) -> None:
    """Raise DataError, naming every setting that differs, where a comparison with `old` would mean nothing.

    settings: those of now that are known; before a run some of them.
    """
    differing = [
        f"{name} is {value!r} now and was {old.settings[name]!r}"
        for name, value in settings.items()
        if value != old.settings[name]
    ]
    if differing:
        raise DataError(
            f"{old.where}: cannot be compared with this run: {'; '.join(differing)}; measure a new one here"
        )


def compare(report: BenchReport, old: Baseline, *, tolerance: float = TOLERANCE) -> Comparison:
    """Compare artifact by artifact. Raises DataError where that would mean nothing, ValueError for a negative tolerance."""
    if not tolerance >= 0:
        raise ValueError(f"a tolerance is not negative, got {tolerance}")
    new = Baseline.from_json(report.to_json(), "this run")
    require_comparable(old, new.settings)
    common = [name for name in new.samples_ms if name in old.samples_ms]
    if not common:
        raise DataError(f"{old.where}: has none of the artifacts of this run ({', '.join(new.samples_ms)})")
    same_work = new.packages.get("numpy") == old.packages.get("numpy")
    changes = []
    for name in common:
        one, other = new.samples_ms[name], old.samples_ms[name]
        adjusted = None
        if same_work:
            adjusted = ratio_between(
                one, other, new_yardstick=new.yardstick_ms, old_yardstick=old.yardstick_ms
            )  # fmt: skip
        changes.append(Change(name, ratio_between(one, other), adjusted, tolerance))
    versions = {name: (old.packages.get(name), new.packages.get(name)) for name in {**old.packages, **new.packages}}
    return Comparison(
        where=old.where,
        created=old.created,
        tolerance=tolerance,
        machine=ratio_between(new.yardstick_ms, old.yardstick_ms) if same_work else None,
        changes=tuple(changes),
        other_bundle=new.manifest_sha256 != old.manifest_sha256,
        gone=tuple(name for name in old.samples_ms if name not in new.samples_ms),
        packages={name: pair for name, pair in versions.items() if pair[0] != pair[1]},
    )


def _samples(values: Any) -> tuple[float, ...]:
    """Positive finite milliseconds, at least one. Raises ValueError, TypeError."""
    samples = tuple(float(value) for value in values)
    if not samples or not all(0.0 < value < float("inf") for value in samples):
        raise ValueError("a latency is positive and finite")
    return samples
