"""What the runtime takes of a device: memory of a run, time to import it, room on the disk.

    python benchmarks/scripts/footprint.py --environment .venv --json footprint.json

Memory is the largest resident set of `edgekit run phantom:` with LiteRT, in a process of its own. An import is timed inside fresh
interpreters; files are in the system's page cache. The environment's size is what `du` says of its folder. Exits with 1 where a
limit is exceeded. Under an emulator the times mean nothing and its own memory counts too: --no-limits.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

PEAK_LIMIT_BYTES: Final = 200_000_000
IMPORT_LIMIT_S: Final = 0.3
INSTALLED_LIMIT_BYTES: Final = 250_000_000
MODULES: Final = ("edge", "edge.predictor", "edge.stream")
"""Imported one by one: the package, what a frame needs, what a run needs."""
_LIMIT_S: Final = 300
_TIMED: Final = """
import time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""
_WATCHED: Final = """
import sys
from pathlib import Path
from edgekit.cli import main
try:
    main()
finally:
    Path({report!r}).write_text(Path("/proc/self/status").read_text())
"""


@dataclass(frozen=True, slots=True)
class Footprint:
    """peak_bytes: resident set of a run. import_s: the shortest, by module. installed_bytes: on the disk, None if not asked."""

    peak_bytes: int
    import_s: dict[str, float]
    installed_bytes: int | None

    def rows(self) -> list[tuple[str, float, float, str]]:
        """What was measured, its figure, its limit, the unit of both."""
        rows = [("peak memory of a run", self.peak_bytes / 1e6, PEAK_LIMIT_BYTES / 1e6, "MB")]
        rows += [
            (f"import {name}", seconds * 1e3, IMPORT_LIMIT_S * 1e3, "ms") for name, seconds in self.import_s.items()
        ]
        if self.installed_bytes is not None:
            rows.append(("installed", self.installed_bytes / 1e6, INSTALLED_LIMIT_BYTES / 1e6, "MB"))
        return rows

    @property
    def exceeded(self) -> tuple[str, ...]:
        """Sentences about the limits that were not kept."""
        return tuple(f"{what}: {is_:.0f} {unit} > {most:.0f}" for what, is_, most, unit in self.rows() if is_ > most)

    def markdown(self) -> str:
        lines = ["| | measured | limit |", "| --- | ---: | ---: |"]
        lines += [f"| {what} | {is_:.0f} {unit} | {most:.0f} {unit} |" for what, is_, most, unit in self.rows()]
        return "\n".join(lines)


def peak_bytes(*, seconds: float) -> int:
    """The largest resident set of `edgekit run phantom:` that takes so many seconds. Raises RuntimeError where the run fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = str(Path(folder, "status"))
        options = ["run", "phantom:", "--engine", "litert", "--duration", str(seconds)]
        _python(_WATCHED.format(report=report), *options, cwd=folder)
        lines = Path(report).read_text().splitlines()
    (told,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(told.split()[1]) * 1024


def import_seconds(module: str, *, rounds: int) -> float:
    """The shortest of some fresh interpreters: what other programs take away is not the module's."""
    return min(float(_python(_TIMED.format(module=module))) for _ in range(rounds))


def installed_bytes(folder: Path) -> int:
    """Room that a folder takes on the disk: whole blocks, hard links once."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            told = os.lstat(os.path.join(place, name))  # noqa: PTH118
            found[told.st_dev, told.st_ino] = told.st_blocks * 512
    return sum(found.values())


def measure(*, environment: Path | None, rounds: int, seconds: float) -> Footprint:
    """All of it; the environment last, when what compiles itself has done so."""
    peak = peak_bytes(seconds=seconds)
    imports = {module: import_seconds(module, rounds=rounds) for module in MODULES}
    return Footprint(peak, imports, None if environment is None else installed_bytes(environment))


def _python(program: str, *arguments: str, cwd: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=_LIMIT_S,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise RuntimeError(f"{' '.join(arguments) or program.split()[-2]}: {lines[-1]}")
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="folder of the Python environment to weigh")
    parser.add_argument("--rounds", type=int, default=9, help="timed imports of each module")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the run")
    parser.add_argument("--no-limits", action="store_true", help="only report")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = measure(environment=asked.environment, rounds=asked.rounds, seconds=asked.seconds)
    print(found.markdown())
    if asked.json is not None:
        record: dict[str, Any] = asdict(found) | {"python": sys.version.split()[0], "exceeded": list(found.exceeded)}
        asked.json.write_text(json.dumps(record, indent=1) + "\n")
    if found.exceeded and not asked.no_limits:
        print(f"error: {'; '.join(found.exceeded)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
