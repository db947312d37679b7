"""Runs the gate: exit 0 when all holds, 1 when something does not, 77 when this machine cannot run it (0 with --may-skip)."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from roots import Root, RootError, RootUnavailableError, debian_root, roots_folder

from arm64 import packing, wheels
from arm64.agreement import phantom_frames
from arm64.answers import answers
from arm64.boards import BOARDS, PI4, Board
from arm64.on_board import OnBoard, install
from arm64.record import GateError, Record

SKIPPED: Final = 77
_FRAMES: Final = 24
_IMAGES: Final = 3
_LIMIT_MIN: Final = 25.0
_FOOTPRINT: Final = wheels.REPOSITORY / "benchmarks/scripts/footprint.py"


def gate(record: Record, logs: Path, *, pack: bool) -> None:
    """All steps. Raises RootUnavailableError where a root or a wheel cannot be had."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with debian_root("arm64", say=record.say) as root:
            _wheels(record, folder)
            reference: dict[str, Any] = {}
            record.step("here", "answers", lambda: _reference(root, reference))
            record.step("here", "footprint", lambda: _footprint(record, folder))
            if not record.step("arm64", "install", lambda: install(root, folder / "wheels", record)):
                return
            with ThreadPoolExecutor(len(BOARDS)) as both:
                for done in [both.submit(_board, root, board, record, logs, reference) for board in BOARDS]:
                    done.result()
            record.step("here", "size", lambda: _size(record))
            if pack:
                _pack("pi4", root, record, folder, PI4)
        if pack:
            with debian_root("amd64", say=record.say) as bare:
                _pack("nuc", bare, record, folder, None)


def _wheels(record: Record, folder: Path) -> None:
    unavailable: list[RootUnavailableError] = []

    def work() -> str:
        try:
            return wheels.gather(folder / "wheels", roots_folder() / "wheels-aarch64").name
        except RootUnavailableError as error:
            unavailable.append(error)
            raise

    if not record.step("here", "wheels", work):
        if unavailable:
            raise unavailable[0]
        raise GateError("without wheels there is nothing to install")


def _reference(root: Root, reference: dict[str, Any]) -> str:
    """Frames for both machines, and this one's answers."""
    frames = phantom_frames(_FRAMES)
    images = root.path / "gate/images"
    images.mkdir(parents=True)
    for index, frame in enumerate(frames[:_IMAGES]):
        cv2.imwrite(str(images / f"{index}.png"), frame)
    np.savez_compressed(root.path / "gate/frames.npz", frames=frames)
    reference.update(answers(frames))
    return f"x86 LiteRT on {_FRAMES} phantom frames"


def _footprint(record: Record, folder: Path) -> str:
    out = folder / "footprint.json"
    command = [sys.executable, str(_FOOTPRINT), "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=record.left_s(200), check=False)
    if out.exists():
        record.figures.setdefault("footprint", {})["x86"] = told = json.loads(out.read_text())
    if done.returncode != 0:
        raise GateError((done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1])
    slowest = max(told["import_s"].values())
    return f"peak {told['peak_bytes'] / 1e6:.0f} MB, slowest import {slowest * 1e3:.0f} ms"


def _board(root: Root, board: Board, record: Record, logs: Path, reference: dict[str, Any]) -> None:
    on = OnBoard(root, board, record, logs)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("doctor", on.doctor),
        ("predict", on.predict),
        ("bench", on.bench),
        ("run", on.run),
        ("answers", lambda: on.answers(reference)),
        ("footprint", on.footprint),
        ("tests", on.tests),
    ]
    for name, work in steps:
        record.step(board.name, name, work)


def _size(record: Record) -> str:
    told = record.figures["footprint"].get(PI4.name)
    if told is None:
        raise GateError("was not weighed")
    beyond = [text for text in told["exceeded"] if text.startswith("installed")]
    if beyond:
        raise GateError(beyond[0])
    return f"{told['installed_bytes'] / 1e6:.0f} MB on a Raspberry Pi"


def _pack(target: str, root: Root, record: Record, folder: Path, board: Board | None) -> None:
    if record.step("here", f"pack {target}", lambda: packing.make(target, folder, record)) and record.step(
        target, "install.sh", lambda: packing.install(target, folder, root, record, board)
    ):
        seconds = 12.0 if board is None else 40.0
        record.step(target, "ExecStart", lambda: packing.start(target, root, record, board, seconds=seconds))


def main() -> int:
    parser = argparse.ArgumentParser(prog="arm64", description=__doc__)
    parser.add_argument("--may-skip", action="store_true", help="end well where this machine cannot run the gate")
    parser.add_argument("--no-pack", action="store_true", help="leave out packs and their services")
    parser.add_argument("--limit", type=float, default=_LIMIT_MIN, metavar="MIN", help="minutes for all of it")
    parser.add_argument("--json", type=Path, help="report; else arm64-report.json beside the cached roots")
    asked = parser.parse_args()
    record = Record(limit_s=60 * asked.limit, say=lambda line: print(line, flush=True))
    logs = roots_folder()
    try:
        logs.mkdir(parents=True, exist_ok=True)
        gate(record, logs, pack=not asked.no_pack)
    except RootUnavailableError as reason:
        print(f"arm64 gate SKIPPED, nothing was proved: {reason}", flush=True)
        return 0 if asked.may_skip else SKIPPED
    except (GateError, RootError) as error:
        record.fail("gate", "all", str(error))
    report = asked.json or logs / "arm64-report.json"
    record.write(report)
    if not record.passed:
        failed = [f"{step.where} {step.name}" for step in record.steps if not step.passed]
        print(f"arm64 gate FAILED: {', '.join(failed)}; {report}", flush=True)
        return 1
    print(f"arm64 gate passed: {len(record.steps)} steps; {report}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
