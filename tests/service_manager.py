"""systemd itself, as process 1 of namespaces of its own, to try the units in; nothing of the machine around it is touched."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
UNITS = REPOSITORY / "edge" / "systemd"
SYSTEMD = Path("/lib/systemd/systemd")
WAIT_S = 90.0

# What a service's default dependencies name, and a journal that listens to services alone.
_TARGETS = ("sysinit.target", "basic.target", "shutdown.target", "network.target", "multi-user.target", "timers.target")
_WANTS = {
    "multi-user.target": "Wants=edgekit.service\n",
    "sysinit.target": "Requires=systemd-journald.service\nAfter=systemd-journald.service\n",
}
_JOURNAL = {
    "systemd-journald.socket": """[Unit]
DefaultDependencies=no
[Socket]
ListenStream=/run/systemd/journal/stdout
ListenDatagram=/run/systemd/journal/socket
PassCredentials=yes
""",
    "systemd-journald.service": """[Unit]
DefaultDependencies=no
Requires=systemd-journald.socket
[Service]
Type=notify
ExecStart=/lib/systemd/systemd-journald
Sockets=systemd-journald.socket
StandardOutput=null
""",
}
# /etc, /opt, /var and /tmp are laid over, the repository and its packages stand in /srv, the kernel's settings cannot be written.
_BOOT = """set -e
mount --make-rprivate /
mount -t tmpfs tmpfs {scratch}
for name in etc opt var; do
    mkdir -p {scratch}/$name {scratch}/work-$name
    mount -t overlay overlay -o lowerdir=/$name,upperdir={scratch}/$name,workdir={scratch}/work-$name /$name
done
mount -t tmpfs -o mode=755 tmpfs /srv
mkdir /srv/repository /srv/packages
mount --bind {repository} /srv/repository
mount --bind {packages} /srv/packages
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/log/journal
sh {files}/install
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind /dev/null /dev/kmsg
if [ -e /dev/console ]; then mount --bind /dev/null /dev/console; fi
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs -o mode=1777 tmpfs /tmp
export container=edgekit-test SYSTEMD_UNIT_PATH=/etc/edgekit-units
exec {systemd} --system --unit=multi-user.target --log-target=journal --show-status=no
"""
_INSTALL = """set -e
mkdir -p /etc/edgekit-units /etc/edgekit /opt/edgekit/current/bin /var/lib/edgekit
cp -r {files}/units/. /etc/edgekit-units
cp {files}/edgekit.env /etc/edgekit/edgekit.env
cp {files}/edgekit /opt/edgekit/current/bin/edgekit
chmod 755 /opt/edgekit/current/bin/edgekit
chmod 600 /etc/edgekit/edgekit.env
getent group edgekit >/dev/null || echo edgekit:x:64321: >> /etc/group
getent passwd edgekit >/dev/null || echo edgekit:x:64321:64321::/var/lib/edgekit:/usr/sbin/nologin >> /etc/passwd
ln -sfn /srv/repository/edge/data/emtnet-int8 /opt/edgekit/current/bundle
"""


class ServiceManager:
    """A systemd with edgekit's units in it, as they are but for the lines that a test gives. init: its process id out here."""

    def __init__(self, init: int) -> None:
        self.init = init

    def inside(self, *command: str) -> str:
        """What a command in there prints."""
        entered = ["nsenter", "--target", str(self.init), "--all", *command]
        return subprocess.run(entered, capture_output=True, text=True, timeout=WAIT_S, check=False).stdout

    def systemctl(self, *arguments: str) -> str:
        return self.inside("systemctl", *arguments)

    def state(self, unit: str = "edgekit.service") -> dict[str, str]:
        """The properties of a unit."""
        return dict(line.split("=", 1) for line in self.systemctl("show", unit).splitlines() if "=" in line)

    def journal(self, unit: str = "edgekit.service") -> list[dict[str, Any]]:
        """What the unit logged, and systemd of it, oldest first."""
        lines = self.inside("journalctl", "-o", "json", "-u", unit, "--no-pager").splitlines()
        return [json.loads(line) for line in lines]

    def said(self) -> str:
        """The text of the journal."""
        return "\n".join(str(entry["MESSAGE"]) for entry in self.journal())

    def wait(self, what: str, holds: Callable[[], Any]) -> Any:
        """Wait until `holds`; returns what it returned."""
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            if found := holds():
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what}: did not come within {WAIT_S:g} s; {self.state()['ActiveState']}\n{self.said()}")

    def wait_active(self) -> int:
        """Wait until the service is up; returns the main process as it is numbered in there."""
        state = self.wait(
            "the service", lambda: self.state().get("ActiveState") in ("active", "failed") and self.state()
        )
        assert state["ActiveState"] == "active", self.said()
        return int(state["MainPID"])


def _python() -> str:
    """A Python that the service's user can run: homes are closed to it, and this one may lie in one."""
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for path in (Path(sys.executable).resolve(), Path("/usr/bin") / wanted):
        if path.exists() and path.parts[1] not in ("root", "home", "tmp"):
            return str(path)
    pytest.skip(f"needs a {wanted} outside of homes, which the service may not read")


def _group() -> Path:
    """The control group of this process; the mount of the second version that it is seen by."""
    if os.geteuid():
        pytest.skip("needs root, to make namespaces and control groups")
    for tool in ("unshare", "nsenter", str(SYSTEMD)):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}, of Debian's packages util-linux and systemd")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    if not found or not own:
        pytest.skip("needs control groups of version 2")
    return found[0] / own[0].lstrip("/")


@contextmanager
def service_manager(
    folder: Path, environment: Mapping[str, str], *, service: str = "", timer: str = "", script: str = ""
) -> Iterator[ServiceManager]:
    """Boot systemd with edgekit enabled. Skips where that cannot be.

    environment: edgekit.env. service, timer: lines of drop-ins, with their sections. script: lines of Python run in the service's
    process before edgekit, for faults in it.
    """
    python, parent = _python(), _group()
    files = folder / "files"
    shutil.copytree(UNITS, files / "units", ignore=shutil.ignore_patterns("edgekit.env", "optional"))
    for name in _TARGETS:
        (files / "units" / name).write_text(f"[Unit]\n{_WANTS.get(name, '')}")
    for name, text in _JOURNAL.items():
        (files / "units" / name).write_text(text)
    for name, lines in (("edgekit.service", service), ("edgekit-retry.timer", timer)):
        (files / "units" / f"{name}.d").mkdir(exist_ok=True)
        (files / "units" / f"{name}.d" / "test.conf").write_text(lines)
    (files / "edgekit.env").write_text("".join(f"{name}={value}\n" for name, value in environment.items()))
    code = f"{script}\nfrom edgekit.cli import main\nmain()\n"
    (files / "units" / "started.py").write_text(code)
    started = f"exec {python} /etc/edgekit-units/started.py"
    (files / "edgekit").write_text(f'#!/bin/sh\nexport PYTHONPATH=/srv/repository:/srv/packages\n{started} "$@"\n')
    (files / "install").write_text(_INSTALL.format(files=files))
    scratch = folder / "scratch"
    scratch.mkdir()
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    (files / "boot").write_text(
        _BOOT.format(scratch=scratch, repository=REPOSITORY, packages=packages, files=files, systemd=SYSTEMD)
    )
    group = parent / f"edgekit-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"needs a control group of its own ({error.strerror})")
    entered = f"echo $$ > {group}/cgroup.procs && exec unshare -m -p -u -i -C --fork --mount-proc --kill-child sh {files}/boot"
    outside = subprocess.Popen(["sh", "-c", entered], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield ServiceManager(_booted(outside))
    finally:
        outside.kill()
        outside.communicate()
        _remove(group)


def _booted(outside: "subprocess.Popen[str]") -> int:
    """Wait until systemd runs; its process id. Skips where this machine lets it not."""
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s and outside.poll() is None:
        with suppress(OSError):
            for child in children.read_text().split():
                manager = ServiceManager(int(child))
                if Path(f"/proc/{child}/comm").read_text().strip() == "systemd" and manager.systemctl(
                    "is-system-running"
                ):
                    return manager.init
        time.sleep(0.1)
    outside.kill()
    said, _ = outside.communicate()
    pytest.skip(f"systemd does not boot in namespaces here: {said.strip().splitlines()[-1:]}")


def _remove(group: Path) -> None:
    """Remove a control group once its processes, which their namespace takes with it, are gone."""
    deadline_s = time.monotonic() + 10.0
    while group.exists() and time.monotonic() < deadline_s:
        for path in sorted(group.rglob("*"), reverse=True):
            if path.is_dir():
                with suppress(OSError):
                    path.rmdir()
        with suppress(OSError):
            group.rmdir()
        time.sleep(0.05)
