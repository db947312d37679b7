"""Runs a service's ExecStart for some seconds as systemd would: its user, environment and notifications. Standard library only.

    python3 service.py UNIT SECONDS

Prints a JSON object: the messages of sd_notify(3) with their times, the exit status after SIGTERM, and the end of its log. What
systemd adds to that, such as the sandbox, is not there.
"""

import json
import os
import pwd
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def settings(unit: Path) -> dict[str, list[str]]:
    """Values by key of the section [Service], in their order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in unit.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.setdefault(key.strip(), []).append(value.strip())
    return found


def environment(told: dict[str, list[str]]) -> dict[str, str]:
    """Environment= first, then EnvironmentFile=, as systemd.exec(5) has it."""
    pairs = [pair for value in told.get("Environment", []) for pair in shlex.split(value)]
    for name in told.get("EnvironmentFile", []):
        file = Path(name.removeprefix("-"))
        if file.exists() or not name.startswith("-"):
            lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
            pairs += [line for line in lines if line and not line.startswith(("#", ";"))]
    return dict(pair.split("=", 1) for pair in pairs)


def words(command: str, variables: dict[str, str]) -> list[str]:
    """The command's words: a word $NAME becomes the words of that variable, ${NAME} within a word its text."""
    found: list[str] = []
    for word in shlex.split(command):
        if match := re.fullmatch(r"\$(\w+)", word):
            found += variables.get(match[1], "").split()
        else:
            found.append(re.sub(r"\$\{(\w+)\}", lambda named: variables.get(named[1], ""), word))
    return found


def run(unit: Path, seconds: float) -> dict[str, Any]:
    told = settings(unit)
    user = pwd.getpwnam(told["User"][-1])
    variables = environment(told)
    for key, base in (("StateDirectory", "/var/lib"), ("CacheDirectory", "/var/cache")):
        for name in told.get(key, []):
            (Path(base) / name).mkdir(parents=True, exist_ok=True)
            os.chown(Path(base) / name, user.pw_uid, user.pw_gid)
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        os.chmod(folder, 0o755)  # noqa: PTH101
        address = f"{folder}/notify"
        notified.bind(address)
        os.chmod(address, 0o777)  # noqa: PTH101
        passed = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "HOME": user.pw_dir,
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": address,
        }
        if watchdog := told.get("WatchdogSec"):
            passed["WATCHDOG_USEC"] = str(int(float(watchdog[-1].removesuffix("s")) * 1_000_000))
        if emulated := os.environ.get("QEMU_CPU"):
            passed["QEMU_CPU"] = emulated
        with Path(folder, "log").open("w+", encoding="utf-8", errors="replace") as log:
            started = time.monotonic()
            process = subprocess.Popen(
                words(told["ExecStart"][-1], variables),
                env=passed | variables,
                cwd=told.get("WorkingDirectory", ["/"])[-1],
                user=user.pw_uid,
                group=user.pw_gid,
                extra_groups=[],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            messages = list(_messages(notified, process, started, seconds))
            stopped_early = process.poll() is not None
            if not stopped_early:
                process.send_signal(signal.SIGTERM)
            try:
                code = process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            log.seek(0)
            said = log.read().splitlines()
    return {"messages": messages, "stopped_early": stopped_early, "code": code, "log": said[-40:]}


def _messages(
    notified: socket.socket, process: "subprocess.Popen[bytes]", started: float, seconds: float
) -> Iterator[tuple[float, str]]:
    notified.settimeout(0.5)
    while time.monotonic() - started < seconds and process.poll() is None:
        try:
            text = notified.recv(4096).decode()
        except TimeoutError:
            continue
        for line in text.splitlines():
            yield round(time.monotonic() - started, 2), line


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), float(sys.argv[2]))))
