"""Bundles on a device: installed beside each other, tested, switched in one step, and back again.

In the folder that they are installed to:

    bundles/ID/     a bundle, ID its network and the hash of its manifest, and `device.env`: the engine that passed the self-test
    bundle          symbolic link to the one in use
    previous        symbolic link to the one before

Whatever ends an installation, and be it a power cut, `bundle` names the old bundle or the new one, whole and tested.
"""

import fcntl
import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from edge.atomic import make_folder, new_folder, refused, replace_link, write_text
from edge.bundle import Bundle
from edge.errors import BundleError, EdgekitError, SinkError
from edge.golden import SelfTest
from edge.manifest import MANIFEST
from edge.trial import trial

PLACE: Final = Path("/opt/edgekit/current")
"""Where the install script of `edgekit pack` has put the runtime; the service runs the `bundle` in it."""
SERVICE: Final = "edgekit"
"""The service's unit, as systemctl takes it."""
CURRENT: Final = "bundle"
PREVIOUS: Final = "previous"
DEVICE_ENV: Final = "device.env"
_BUNDLES: Final = "bundles"
_ROOM_BYTES: Final = 16 << 20
_RESTART_LIMIT_S: Final = 180.0

Say = Callable[[str], None]
Restart = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Installed:
    """The bundle now in use, how it did in the self-test, and whether the service was restarted with it."""

    path: Path
    test: SelfTest
    restarted: bool


def install_bundle(
    source: Path, to: Path = PLACE, *, say: Say = lambda line: None, restart: Restart | None = None
) -> Installed:
    """Copy a bundle to the folder `to`, test it there, make it the one in use and restart the service where it runs.

    say: is told what is done. restart: restarts the service, False where it does not run; None: `restart_service`. When the
    self-test or the restart fails, the bundle of before is in use again. Raises BundleError, IntegrityError, EngineError,
    SinkError; EdgekitError for a service that does not start.
    """
    bundle = Bundle.open(source)
    with _alone(to):
        name = bundle_id(bundle)
        place = to / _BUNDLES / name
        fresh = not _whole(place)
        if fresh:
            _copy(bundle, place, say)
        try:
            test = _tested(Bundle.open(place), say)
        except EdgekitError:
            if fresh:
                shutil.rmtree(place, ignore_errors=True)
            raise
        return _switched(to, place, test, restart or partial(restart_service, to), say)


def roll_back(to: Path = PLACE, *, say: Say = lambda line: None, restart: Restart | None = None) -> Installed:
    """Make the bundle of before the one in use; the one in use becomes the one of before. Raises as `install_bundle` does."""
    with _alone(to):
        place = _named(to / PREVIOUS)
        if place is None or place == _named(to / CURRENT):
            raise BundleError(f"{to}: there is no other bundle to go back to; edgekit install BUNDLE")
        return _switched(to, place, _tested(Bundle.open(place), say), restart or partial(restart_service, to), say)


def bundle_id(bundle: Bundle) -> str:
    """The name of a bundle's folder on a device: its network and the first digits of its manifest's sha256."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", bundle.manifest.network).strip(".-") or "network"
    return f"{name[:40]}-{hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()[:12]}"


def restart_service(to: Path = PLACE) -> bool:
    """Restart the service where systemd runs it or tried to, and from the folder `to`; else False. Raises EdgekitError."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or to.resolve() != PLACE.resolve():
        return False
    state = subprocess.run(
        [systemctl, "is-active", SERVICE], capture_output=True, text=True, check=False
    ).stdout.strip()
    if state not in ("active", "activating", "reloading", "failed"):
        return False
    try:
        done = subprocess.run(
            [systemctl, "restart", SERVICE], capture_output=True, text=True, timeout=_RESTART_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise EdgekitError(
            f"{SERVICE}.service has not started after {_RESTART_LIMIT_S:.0f} s; journalctl -u edgekit"
        ) from None
    if done.returncode:
        raise EdgekitError(f"{SERVICE}.service does not start; journalctl -u edgekit says why")
    return True


def _copy(bundle: Bundle, place: Path, say: Say) -> None:
    """Copy the files that the manifest names, each checked as it is read. Raises IntegrityError, SinkError."""
    size = sum(file.size_bytes for file in bundle.files())
    make_folder(place.parent)
    free = shutil.disk_usage(place.parent).free
    if free < size + _ROOM_BYTES:
        raise SinkError(
            f"{place.parent}: {free / 1e6:.0f} MB free, the bundle needs {(size + _ROOM_BYTES) / 1e6:.0f} MB; free the disk"
        )
    say(f"copying {bundle.manifest.network}, {size / 1e6:.1f} MB")
    with new_folder(place) as folder:
        bundle.copy_to(folder)
        for item in folder.rglob("*"):
            item.chmod(0o755 if item.is_dir() else 0o644)  # the service is not the user who installs


def _whole(place: Path) -> bool:
    """Whether a bundle is here already with every file as its manifest says."""
    try:
        bundle = Bundle.open(place)
        for file in bundle.files():
            bundle.read(file)
    except BundleError:
        return False
    return True


def _tested(bundle: Bundle, say: Say) -> SelfTest:
    """Test a bundle and note the engine that passed, for the service's environment."""
    test = trial(bundle, say=say)
    write_text(bundle.path / DEVICE_ENV, f"EDGEKIT_ENGINE={test.engine}\nEDGEKIT_PRECISION={test.precision}\n")
    return test


def _switched(to: Path, place: Path, test: SelfTest, restart: Restart, say: Say) -> Installed:
    """Make `place` the bundle in use; back to the one of before where the service does not start with it."""
    before, older = _named(to / CURRENT), _named(to / PREVIOUS)
    if before is not None and before != place:
        replace_link(to / PREVIOUS, f"{_BUNDLES}/{before.name}")
    replace_link(to / CURRENT, f"{_BUNDLES}/{place.name}")
    try:
        restarted = restart()
    except EdgekitError as error:
        if before is None or before == place:
            raise
        replace_link(to / CURRENT, f"{_BUNDLES}/{before.name}")
        if older is not None:
            replace_link(to / PREVIOUS, f"{_BUNDLES}/{older.name}")
        say(f"{error}; going back to {before.name}")
        with suppress(EdgekitError):  # the first error is the one to mend
            restart()
        raise EdgekitError(f"{error}; {before.name} is in use again") from error
    _forget(to)
    return Installed(to / CURRENT, test, restarted)


def _named(link: Path) -> Path | None:
    """The bundle that a link names, None where there is no link or no bundle."""
    if not link.is_symlink():
        return None
    place = link.parent / link.readlink()
    return place if (place / MANIFEST).is_file() else None


def _forget(to: Path) -> None:
    """Remove bundles that are neither in use nor the one of before, and what a killed installation left."""
    kept = {_named(to / CURRENT), _named(to / PREVIOUS)}
    for item in (to / _BUNDLES).iterdir():
        if item not in kept:
            shutil.rmtree(item, ignore_errors=True)
    for name in (CURRENT, PREVIOUS):
        for item in to.glob(f".{name}.*"):
            item.unlink(missing_ok=True)


@contextmanager
def _alone(to: Path) -> Iterator[None]:
    """One installation at a time. Raises SinkError where another runs, the folder cannot be written, or `PLACE` is not there."""
    if to == PLACE and not to.is_dir():  # a folder of that name would bar the way to the install script
        raise SinkError(
            f"{to}: no edgekit is installed there; run the install.sh of a pack, or name a folder with --to"
        )
    make_folder(to)
    try:
        with (to / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SinkError(f"{to}: another installation is running; wait for it") from None
            yield
    except OSError as error:
        raise refused(to, error) from error
