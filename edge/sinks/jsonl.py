"""Results as JSON Lines: a header, then one object a frame, each written at once, so that a killed run loses one line at most."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from edge.analysis import Analysis
from edge.atomic import refused
from edge.errors import DataError, SinkError
from edge.ledger import STAGES
from edge.overlay import DISCLAIMER
from edge.sinks.newfile import open_new, write_whole
from edge.sinks.version import edgekit_version
from edge.stream import Result

FORMAT: Final = "edgekit results"
SCHEMA: Final = 1
HEADER_KEYS: Final = frozenset({"format", "schema", "edgekit", "bundle", "started_utc", "started_ns", "notice"})
FRAME_KEYS: Final = frozenset(
    {"number", "captured_ns", "time_s", "outcome", "reason", "latency_ms", "stages_ms", "finding"}
)


class JsonLinesSink:
    """Writes each result as one line, at once.

    bundle: what ran, as the caller knows it: hash, network, precision, engine. Nothing is synchronised with the disk itself,
    which would wear out a memory card: a process that dies loses nothing, a power cut what the system had not written yet.
    Raises SinkError where the file exists and holds something, and where it cannot be written.
    """

    def __init__(
        self, path: Path | str, bundle: Mapping[str, Any], *, clock: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._path = Path(path)
        self._descriptor: int | None = open_new(self._path, empty=True)
        self._regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._bytes = 0
        try:
            self._line(
                {
                    "format": FORMAT,
                    "schema": SCHEMA,
                    "edgekit": edgekit_version(),
                    "bundle": dict(bundle),
                    "started_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "started_ns": clock(),
                    "notice": DISCLAIMER,
                }
            )
        except BaseException:
            self.close()
            raise

    def write(self, result: Result[Analysis]) -> None:
        self._line(frame_json(result))

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        try:
            os.close(descriptor)
        except OSError as error:
            raise refused(self._path, error) from error

    def _line(self, content: Mapping[str, Any]) -> None:
        if self._descriptor is None:
            raise SinkError(f"{self._path}: is closed")
        line = json.dumps(content, allow_nan=False, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        try:
            write_whole(self._descriptor, line)
        except OSError as error:
            if self._regular:
                os.ftruncate(self._descriptor, self._bytes)  # whole lines only
            raise refused(self._path, error) from error
        self._bytes += len(line)


@dataclass(frozen=True, slots=True)
class ResultsFile:
    """A file of results. Iterating reads its frames one by one, in the order they were written. Raises DataError."""

    path: Path
    header: Mapping[str, Any]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lines = _lines(self.path)
        next(lines, None)
        for number, line in lines:
            frame = _object(self.path, number, line)
            _check_keys(self.path, number, frame, FRAME_KEYS)
            yield frame


def read_results(path: Path | str) -> ResultsFile:
    """Open a file that `JsonLinesSink` wrote.

    A last line without an end, as a killed run leaves it, is passed over. Raises DataError for any other damage, another
    schema or another kind of file, here or while the frames are read.
    """
    path = Path(path)
    number, line = next(_lines(path), (1, b""))
    if not line:
        raise DataError(f"{path}: has no header; not a file of results, or its run was killed as it began")
    header = _object(path, number, line)
    if header.get("format") != FORMAT:
        raise DataError(f"{path}: not a file of edgekit's results")
    if header.get("schema") != SCHEMA:
        raise DataError(f"{path}: schema {header.get('schema')!r} is not known here; use the edgekit that wrote it")
    _check_keys(path, number, header, HEADER_KEYS)
    return ResultsFile(path, header)


def frame_json(result: Result[Analysis]) -> dict[str, Any]:
    """One result as JSON has it.

    latency_ms: from capture to delivery. stages_ms: by `edge.ledger.STAGES`, null unless the frame was processed. finding: null
    where there is none; its `age_s` is 0 unless it was kept from an earlier frame. Numbers left out are frames that were dropped,
    or results that a disk was too slow for: the ledger tells.
    """
    record, found = result.record, result.found
    finding = None
    if found is not None and found.finding is not None:
        finding = {**found.finding.to_json(), "age_s": found.finding_age_s}
    stages = record.stages_ms
    return {
        "number": record.number,
        "captured_ns": record.captured_ns,
        "time_s": None if found is None else found.time_s,
        "outcome": record.outcome.value,
        "reason": record.reason,
        "latency_ms": record.latency_ms,
        "stages_ms": None if stages is None else dict(zip(STAGES, stages, strict=True)),
        "finding": finding,
    }


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Whole lines, counted from 1."""
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.endswith(b"\n"):
                    yield number, line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _object(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:  # also what is no UTF-8
        raise DataError(f"{path}: line {number} is damaged; restore the file from a copy") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: line {number} is no object; not a file of edgekit's results")
    return value


def _check_keys(path: Path, number: int, found: Mapping[str, Any], wanted: frozenset[str]) -> None:
    if unknown := found.keys() - wanted:
        raise DataError(f"{path}: line {number} has unknown keys {sorted(unknown)}; written by a newer edgekit?")
    if absent := wanted - found.keys():
        raise DataError(f"{path}: line {number} lacks {sorted(absent)}; the file is damaged")
