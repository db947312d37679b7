"""The pack of a device: made here, installed in a bare root without network, and its service's ExecStart run there."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from roots import Root

from arm64.boards import Board
from arm64.record import GateError, Record
from arm64.wheels import REPOSITORY

LIMIT_S: Final = 90.0
"""For making a pack, and for installing it on x86."""
_UNIT: Final = "/etc/systemd/system/edgekit.service"


def make(target: str, folder: Path, record: Record) -> str:
    """Write the pack of a target with `edgekit pack`."""
    start = time.monotonic()
    command = [sys.executable, "-m", "edgekit", "pack", "--target", target, "--out", str(folder / f"{target}.tar.gz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=record.left_s(600), check=False)
    seconds = time.monotonic() - start
    if done.returncode != 0:
        raise GateError(f"edgekit pack --target {target}: {done.stderr.strip().splitlines()[-1:]}")
    size = (folder / f"{target}.tar.gz").stat().st_size / 1e6
    record.figures.setdefault("pack", {})[target] = {"seconds": seconds, "archive_mb": size}
    if seconds > LIMIT_S:
        raise GateError(f"took {seconds:.0f} s, more than {LIMIT_S:.0f}")
    return f"{size:.0f} MB in {seconds:.0f} s"


def install(target: str, folder: Path, root: Root, record: Record, board: Board | None) -> str:
    """Unpack it in the root and run its install script; timed against the limit where nothing is emulated."""
    work = root.path / "pack"
    work.mkdir()
    shutil.copy(folder / f"{target}.tar.gz", work / "pack.tar.gz")
    start = time.monotonic()
    script = "tar -xzf pack.tar.gz && rm pack.tar.gz && exec sh ./*/install.sh"
    done = _as(root, board, "sh", "-c", script, cwd="/pack", limit_s=record.left_s(900))
    seconds = time.monotonic() - start
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise GateError(f"install.sh ended with {done.returncode}: {lines[-1] if lines else 'nothing was printed'}")
    record.figures["pack"][target]["install_seconds"] = seconds
    if board is None and seconds > LIMIT_S:
        raise GateError(f"took {seconds:.0f} s, more than {LIMIT_S:.0f}")
    size = root.run("du", "-sm", "/opt/edgekit", limit_s=60).stdout.partition("\t")[0]
    record.figures["pack"][target]["installed_mib"] = int(size)
    return f"{seconds:.0f} s, {size} MiB; {done.stdout.strip().splitlines()[-1]}"


def start(target: str, root: Root, record: Record, board: Board | None, *, seconds: float) -> str:
    """Run the installed unit's ExecStart on a phantom as systemd would."""
    settings = root.path / "etc/edgekit/edgekit.env"
    lines = [line for line in settings.read_text().splitlines() if not line.startswith("EDGEKIT_SOURCE=")]
    settings.write_text("\n".join([*lines, "EDGEKIT_SOURCE=phantom:2", ""]))
    shutil.copy(REPOSITORY / "tests/arm64/service.py", root.path / "pack/service.py")
    command = ("python3", "/pack/service.py", _UNIT, str(seconds))
    done = _as(root, board, *command, limit_s=record.left_s(seconds + 120))
    if done.returncode != 0:
        raise GateError(f"{(done.stderr.strip().splitlines() or ['nothing was printed'])[-1]}")
    told: dict[str, Any] = json.loads(done.stdout)
    record.figures["pack"][target]["service"] = told
    ready = [at for at, line in told["messages"] if line == "READY=1"]
    fed = sum(line == "WATCHDOG=1" for _, line in told["messages"])
    last = told["log"][-1] if told["log"] else "an empty log"
    if told["stopped_early"] or told["code"] != 0:
        raise GateError(f"ExecStart ended with {told['code']}: {last}")
    if not ready or not fed:
        raise GateError(
            f"ExecStart sent {'no READY=1' if not ready else 'no WATCHDOG=1'} in {seconds:.0f} s; log: {last}"
        )
    return f"READY after {ready[0]:.1f} s, watchdog fed {fed} times, ended well"


def _as(
    root: Root, board: Board | None, *command: str, cwd: str = "/", limit_s: float
) -> "subprocess.CompletedProcess[str]":
    if board is None:
        return root.run(*command, cwd=cwd, limit_s=limit_s)
    return root.run(*command, cwd=cwd, limit_s=limit_s, files=board.kernel_files(), qemu_cpu=board.qemu_cpu)
