"""Bare Debian systems to install into and to run in: made once by debootstrap, kept in a cache, used as copies, without network.

    with debian_root("arm64") as root:
        root.run("python3", "-c", "print(1)", qemu_cpu="cortex-a72")

One for another processor runs in QEMU's user mode: instructions, their absence and answers are those of that processor, times are
not. Needs Linux, root's rights and Debian's debootstrap; for arm64 on x86 also qemu-user-static and a kernel with binfmt_misc.
"""

import fcntl
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

RELEASE: Final = "bookworm"
_PACKAGES: Final = "python3"
"""Beside Debian's essential packages. Without python3-venv and pip, as many a small system is."""
_MACHINES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_EMULATOR: Final = "qemu-aarch64-static"
_HANDLER: Final = "edgekit-aarch64"
# The head of a 64-bit little-endian ELF program or library for machine 183 (elf.h, EM_AARCH64), and which bits of it count.
_MAGIC: Final = "7f454c460201010000000000000000000200b700"
_MASK: Final = "ffffffffffffff00fffffffffffffffffeffffff"
_FETCH_LIMIT_S: Final = 400
_CONFIGURE_LIMIT_S: Final = 1200
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1

Say = Callable[[str], None]


class RootUnavailableError(Exception):
    """This machine cannot have such a root; the message says what is missing, and is a reason to skip."""


class RootError(Exception):
    """Something that should have worked in a root did not. said: what it had printed."""

    def __init__(self, message: str, said: str = "") -> None:
        super().__init__(message)
        self.said = said


@dataclass(frozen=True, slots=True)
class Root:
    """A copy of a root that is one's own. path: where it lies. arch: Debian's word."""

    path: Path
    arch: str

    def run(
        self,
        *command: str,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        files: Mapping[str, str] | None = None,
        qemu_cpu: str | None = None,
        limit_s: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root, with a loopback device and no other network; what it starts ends with it.

        files: contents by path, shown in place of what the kernel says there, such as /proc/cpuinfo. qemu_cpu: which processor to
        emulate. What it prints is returned, errors too. Raises RootError when it takes longer than limit_s.
        """
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        environment |= {"LANG": "C.UTF-8", **({"QEMU_CPU": qemu_cpu} if qemu_cpu else {}), **(env or {})}
        inside = {
            "root": str(self.path),
            "command": command,
            "env": environment,
            "cwd": cwd,
            "files": dict(files or {}),
        }
        outside = ["unshare", "--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
        try:
            return subprocess.run(
                [*outside, sys.executable, __file__, json.dumps(inside)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            said = "".join(
                part.decode(errors="replace") for part in (error.stdout, error.stderr) if isinstance(part, bytes)
            )
            last = (said.strip().splitlines() or ["nothing was printed"])[-1]
            raise RootError(f"no end after {limit_s:.0f} s: {' '.join(command)[:60]} …; last: {last}", said) from None


def roots_folder() -> Path:
    """Where roots are kept: EDGEKIT_ROOTS, else in the user's cache."""
    told = os.environ.get("EDGEKIT_ROOTS")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(told).absolute() if told else cache / "edgekit" / "roots"


@contextmanager
def debian_root(arch: str, *, say: Say = lambda line: None) -> Iterator[Root]:
    """Yield a fresh copy of the cached root for amd64 or arm64, which is made first where there is none.

    Raises RootUnavailableError where this machine cannot have one, RootError when making it fails.
    """
    _require(arch)
    folder = roots_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with _emulation(arch), _alone(folder / f".{arch}.lock"):
        place = folder / f"{RELEASE}-{arch}"
        if not place.is_dir():
            _make(arch, place, say)
        _sweep(folder)
        copy = Path(tempfile.mkdtemp(prefix=f".copy-{os.getpid()}-", dir=folder))
        try:
            _checked(["cp", "-a", "--reflink=auto", f"{place}/.", str(copy)], RootError, limit_s=300)
        except BaseException:
            _remove(copy)
            raise
    with _emulation(arch):
        try:
            yield Root(copy, arch)
        finally:
            _remove(copy)


def _require(arch: str) -> None:
    """Raise RootUnavailableError with what this machine lacks."""
    machine = platform.machine()
    if sys.platform != "linux" or os.geteuid() != 0:
        raise RootUnavailableError("needs Linux and root's rights")
    if machine != _MACHINES[arch] and not (arch == "arm64" and machine == "x86_64"):
        raise RootUnavailableError(
            f"a root of {arch} needs a processor of that kind, or arm64 on x86; this one is {machine}"
        )
    tools = ["debootstrap", "unshare", "chroot", *([] if machine == _MACHINES[arch] else [_EMULATOR])]
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        packages = {_EMULATOR: "qemu-user-static", "unshare": "util-linux", "chroot": "coreutils"}
        raise RootUnavailableError(f"apt-get install {' '.join(packages.get(tool, tool) for tool in missing)}")
    _checked(["unshare", "--mount", "--net", "--pid", "--fork", "true"], RootUnavailableError, limit_s=20)


def _make(arch: str, place: Path, say: Say) -> None:
    """Fetch and configure Debian at `place`, all or nothing."""
    building = place.parent / f".{place.name}.building"
    _remove(building)
    say(f"fetching Debian {RELEASE} for {arch}")
    start = time.monotonic()
    # Both stages mount things in the root: in a mount namespace of their own these are gone with it.
    apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
    fetch = ["debootstrap", f"--arch={arch}", "--foreign", "--variant=minbase", f"--include={_PACKAGES}"]
    _checked([*apart, *fetch, RELEASE, str(building)], RootUnavailableError, limit_s=_FETCH_LIMIT_S)
    emulated = "" if platform.machine() == _MACHINES[arch] else ", which takes some minutes under emulation"
    say(f"fetched in {time.monotonic() - start:.0f} s; configuring it{emulated}")
    second = ["chroot", str(building), "/debootstrap/debootstrap", "--second-stage"]
    _checked([*apart, *second], RootError, limit_s=_CONFIGURE_LIMIT_S)
    for package in (building / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    building.rename(place)
    say(f"made in {time.monotonic() - start:.0f} s, kept in {place}")


def _checked(command: list[str], kind: type[Exception], *, limit_s: float) -> str:
    """Run a command of this system and return what it prints; raise `kind` with its last line when it fails."""
    environment = os.environ | {"LC_ALL": "C", "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=environment,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise kind(f"{' '.join(command)}: no end after {limit_s:.0f} s") from None
    if done.returncode != 0:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise kind(f"{' '.join(command)}: {lines[-1] if lines else f'ended with {done.returncode}'}")
    return done.stdout


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _sweep(folder: Path) -> None:
    """Remove copies whose process was killed."""
    for copy in folder.glob(".copy-*"):
        if not Path("/proc", copy.name.split("-")[1]).exists():
            _remove(copy)


def _remove(folder: Path) -> None:
    # Nothing is ever mounted in there but in namespaces that have ended; --one-file-system all the same.
    if folder.exists():
        _checked(["rm", "-rf", "--one-file-system", str(folder)], RootError, limit_s=120)


# The kernel starts arm64 programs by itself


@contextmanager
def _emulation(arch: str) -> Iterator[None]:
    """See to it that programs of `arch` start; who leaves last takes back what was registered for that."""
    if platform.machine() == _MACHINES[arch]:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        _checked(["mount", "-t", "binfmt_misc", "binfmt_misc", folder], RootUnavailableError, limit_s=20)
        lock = os.open(folder, os.O_RDONLY)  # one and the same folder for all processes of this machine
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)  # held by all that use the handler
            while not _registered(Path(folder)):
                fcntl.flock(lock, fcntl.LOCK_EX)
                _register(Path(folder))
                fcntl.flock(lock, fcntl.LOCK_SH)  # gives the lock up for a moment, in which another may unregister
            yield
        finally:
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (own := Path(folder, _HANDLER)).exists():
                    own.write_text("-1")
            os.close(lock)
            _checked(["umount", folder], RootError, limit_s=20)


def _register(folder: Path) -> None:
    if _registered(folder):
        return
    magic, mask = ("".join(f"\\x{byte:02x}" for byte in bytes.fromhex(text)) for text in (_MAGIC, _MASK))
    try:
        (folder / "register").write_text(f":{_HANDLER}:M::{magic}:{mask}:{shutil.which(_EMULATOR)}:F")
    except OSError as error:
        raise RootUnavailableError(f"the kernel takes no handler for arm64 programs ({error.strerror})") from error


def _registered(folder: Path) -> bool:
    """Whether a handler for arm64 is there whose emulator the kernel holds open (flag F), so that a root needs none in it."""
    for entry in folder.iterdir():
        if entry.name in ("register", "status"):
            continue
        lines = entry.read_text().splitlines()
        told = dict(line.partition(" ")[::2] for line in lines)
        if lines[0] == "enabled" and told.get("magic") == _MAGIC and "F" in told.get("flags:", ""):
            return True
    return False


# Within the namespaces


def _enter(root: Path, command: list[str], env: dict[str, str], cwd: str, files: dict[str, str]) -> int:
    """Mount what a system has, run the command and return its status."""
    _mount("-t", "proc", "proc", root / "proc")
    _mount("-t", "sysfs", "-o", "ro", "sysfs", root / "sys")
    _mount("--rbind", "/dev", root / "dev")
    with tempfile.TemporaryDirectory() as scratch:
        for index, (path, content) in enumerate(files.items()):
            _show(root / path.lstrip("/"), content, Path(scratch, str(index)))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
        child = os.fork()
        if child == 0:
            try:
                os.chroot(root)
                os.chdir(cwd)
                os.execvpe(command[0], command, env)
            except OSError as error:
                print(f"{command[0]}: {error}", file=sys.stderr)
            os._exit(127)
        while True:  # as the first process here, it also inherits children that others leave behind
            ended, status = os.wait()
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code


def _show(target: Path, content: str, scratch: Path) -> None:
    """Let `target` hold `content`, for this mount namespace only."""
    if target.exists():
        scratch.write_text(content)
        _mount("--bind", scratch, target)
        return
    there = next(parent for parent in target.parents if parent.is_dir())
    _mount("-t", "tmpfs", "tmpfs", there)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)


def _mount(*arguments: Any) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


if __name__ == "__main__":
    told = json.loads(sys.argv[1])
    sys.exit(_enter(Path(told["root"]), told["command"], told["env"], told["cwd"], told["files"]))
