"""What is right and wrong with this computer for a run, and what to run on it.

Only the standard library is needed: it must answer where numpy, OpenCV or an engine is broken. Each judgement is a function of
what was read, so that a test can put any computer before it.
"""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from edge.device import ROOT, SOFT_LIMIT, UNDER_VOLTAGE, Device, read_device
from edge.engines import ENGINES
from edge.errors import EdgekitError, how_to_install
from edge.probe import EngineProbe, openvino_devices, probe_engine, probe_package
from edge.targets import saturates, target_of

Level = Literal["ok", "warning", "problem"]
DISTRIBUTION: Final = "edgekit-ultrasound"
PACKAGES: Final = ("edge", "edgekit", "quantize", "emtnet", "calibration", "benchmarks")
NEEDED: Final = ("numpy", "cv2")
NEWEST_PYTHON: Final = (3, 13)
"""The newest for which all engines have wheels."""
_HOT_C: Final = {True: 80.0, False: 95.0}
"""Where a Raspberry Pi, and where a NUC begins to slow down."""
_MEMORY_BYTES: Final = 300_000_000
"""A run with its page and recording takes 200 MB."""
_DISK_BYTES: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement. problem: nothing runs before it is mended; warning: it runs, less well. advice: what to do, empty where ok."""

    topic: str
    level: Level
    said: str
    advice: str = ""

    def __post_init__(self) -> None:
        if (self.level == "ok") == bool(self.advice):
            raise ValueError(f"{self.topic}: a finding that is {self.level} with the advice {self.advice!r}")


@dataclass(frozen=True, slots=True)
class CameraFound:
    """A video device. fault: why no pictures can be taken from it, None where they can."""

    path: str
    name: str
    fault: str | None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What to run with on this computer, and why."""

    engine: str
    threads: int
    network: str
    reason: str


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that was found."""

    device: Device
    system: dict[str, str]
    packages: tuple[EngineProbe, ...]
    engines: tuple[EngineProbe, ...]
    openvino_devices: dict[str, str]
    cameras: tuple[CameraFound, ...]
    findings: tuple[Finding, ...]
    recommendation: Recommendation | None

    @property
    def problems(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "problem")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(*, weight_range: str = "full", say: Callable[[str], None] = lambda line: None) -> Checkup:
    """Look at this computer; takes some seconds, most of them for the engines.

    weight_range: of the bundle that is to run; the default is the built-in ones'. say: is told what is tried.
    """
    from importlib.metadata import packages_distributions

    device = read_device()
    packages = []
    for name in NEEDED:
        say(f"trying {name}")
        packages.append(probe_package(name))
    sound = all(probe.state == "ok" for probe in packages)
    engines = []
    for name in ENGINES:
        say(f"trying {name}")
        engines.append(probe_engine(name))
    say("looking for devices")
    found = openvino_devices() if any(e.engine == "openvino" and e.state == "ok" for e in engines) else {}
    cameras = find_cameras() if sound else ()
    findings = (
        *of_python(sys.version_info[:2], device),
        *of_device(device),
        *of_packages(packages),
        *of_engines(engines),
        *of_saturation(engines, device, weight_range),
        *of_owners(packages_distributions()),
        *of_places(PACKAGES, Path(__file__).parents[1]),
        *of_cameras(cameras),
        *of_access(Path("/dev/dri")),
        *of_disk({folder: shutil.disk_usage(folder).free for folder in (Path.cwd(), Path.home()) if folder.is_dir()}),
    )
    advised = recommend(engines, device, weight_range) if sound else None
    return Checkup(device, _system(), tuple(packages), tuple(engines), found, cameras, findings, advised)


def recommend(engines: Sequence[EngineProbe], device: Device, weight_range: str = "full") -> Recommendation | None:
    """Engine, threads and network for a computer; None where no engine works or the computer is of an unknown kind."""
    from edge.choice import engine_order

    order = engine_order(device.machine)
    working = sorted((probe.engine for probe in engines if probe.state == "ok"), key=order.index)
    if not working:
        return None
    try:
        target = target_of(device)
    except EdgekitError:
        return None
    safe = [e for e in working if weight_range != "full" or not saturates(e, device.machine, device.features)]
    engine = (safe or working)[0]
    if engine != working[0]:
        why = f"INT8 of {working[0]} would saturate without VNNI"
    elif engine == target.engine:
        why = f"the first choice on {target.title}"
    else:
        why = "the best of those that work here"
    threads = min(device.cores, device.physical_cores or device.cores)
    cores = "one thread a core" if threads == device.cores else "one thread a core, not one a hyper-thread"
    speed = (
        "the network of a quarter of the work" if target.network == "emtnet-s" else "fast enough for the larger network"
    )
    return Recommendation(engine, threads, target.network, f"{engine}: {why}; {cores}; {speed}")


def of_python(version: Sequence[int], device: Device) -> Iterator[Finding]:
    """Python and the width of the system."""
    said = f"Python {version[0]}.{version[1]}, {device.bits} bit on {device.machine}"
    if device.bits == 32:
        advice = "install the 64-bit system, such as Raspberry Pi OS (64-bit)"
        yield Finding("system", "problem", f"{said}: no engine has a package for 32 bit", advice)
    elif tuple(version) > NEWEST_PYTHON:
        newest = ".".join(map(str, NEWEST_PYTHON))
        yield Finding("system", "warning", f"{said}: engines may have no package for it yet", f"use Python {newest}")
    else:
        yield Finding("system", "ok", said)


def of_device(device: Device) -> Iterator[Finding]:
    """Memory, clock, heat and supply."""
    free = device.memory_available_bytes
    if free is not None and min(free, device.memory_bytes or free) < _MEMORY_BYTES:
        yield Finding(
            "memory", "warning", f"{free / 1e9:.1f} GB free", "end other programs; a run with its page takes 200 MB"
        )
    elif free is not None:
        yield Finding("memory", "ok", f"{free / 1e9:.1f} GB free")
    if device.governor == "powersave" and device.is_arm:
        advice = "set it to performance or ondemand in /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        yield Finding("clock", "warning", "the governor powersave keeps the clock at its least", advice)
    elif device.governor is not None:
        yield Finding("clock", "ok", f"governor {device.governor}")
    if device.temperature_c is not None:
        said = f"{device.temperature_c:.0f} °C"
        if device.temperature_c >= _HOT_C[device.is_arm]:
            yield Finding(
                "temperature", "warning", f"{said}: it slows down at this", "give it a fan or a larger cooler"
            )
        else:
            yield Finding("temperature", "ok", said)
    yield from _of_throttling(device)


def _of_throttling(device: Device) -> Iterator[Finding]:
    state = device.throttled
    if state is None:
        return
    if not state.bits:
        yield Finding("throttling", "ok", "none since it was started")
        return
    supply = "use the maker's power supply and a short cable"
    cooling = "give it a fan or a larger cooler"
    known = {*state.now, *state.since_boot}
    weak = UNDER_VOLTAGE in known
    hot = SOFT_LIMIT in known or not weak
    advice = " and ".join([*([supply] if weak else []), *([cooling] if hot else [])])
    now = f"now: {', '.join(state.now)}; " if state.now else ""
    since = f"since it was started: {', '.join(state.since_boot) or 'none'}"
    yield Finding("throttling", "warning", now + since, f"{advice}; latency is not what it could be")


def of_packages(probes: Sequence[EngineProbe]) -> Iterator[Finding]:
    """Packages that every command needs."""
    for probe in probes:
        if probe.state != "ok":
            advice = f"{how_to_install(again=True)} brings versions that go together"
            yield Finding("packages", "problem", str(probe.fault), advice)


def of_engines(probes: Sequence[EngineProbe]) -> Iterator[Finding]:
    """Engines that are there and do not work, and whether one does."""
    working = [probe.engine for probe in probes if probe.state == "ok"]
    for probe in probes:
        if probe.state == "died":
            advice = "another engine is used; an older version of it may be built for this processor"
            yield Finding("engines", "warning", str(probe.fault), advice)
        elif probe.state == "broken":
            advice = f"{how_to_install(probe.engine, again=True)}; until then another engine is used"
            yield Finding("engines", "warning", str(probe.fault), advice)
    if working:
        yield Finding("engines", "ok", f"working: {', '.join(working)}")
    else:
        advice = f"{how_to_install('litert')}, or openvino on an Intel machine"
        yield Finding("engines", "problem", "no inference engine works here", advice)


def of_saturation(probes: Sequence[EngineProbe], device: Device, weight_range: str) -> Iterator[Finding]:
    """Whether INT8 of the full weight range saturates in an engine that is here."""
    working = [probe.engine for probe in probes if probe.state == "ok"]
    cut = [engine for engine in working if saturates(engine, device.machine, device.features)]
    if not cut or weight_range != "full":
        return
    rest = [engine for engine in working if engine not in cut]
    way = f"leave --engine out, {rest[0]} is used" if rest else how_to_install("litert")
    yield Finding(
        "INT8",
        "warning",
        f"no VNNI: INT8 of the full weight range, as in the built-in bundles, saturates in {', '.join(cut)}",
        f"{way}, or export with --target here",
    )


def of_owners(owners: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """Other distributions that have packages of our names, as importlib.metadata.packages_distributions() tells them."""
    clashes = {name: sorted(set(owners.get(name, ())) - {DISTRIBUTION}) for name in PACKAGES}
    for name, others in clashes.items():
        if others:
            advice = f"pip uninstall {' '.join(others)}, then {how_to_install(again=True)}"
            yield Finding("names", "warning", f"the package {name} comes with {', '.join(others)} too", advice)
    if not any(clashes.values()):
        yield Finding("names", "ok", "no other distribution has a package of the same name")


def of_places(packages: Sequence[str], ours: Path) -> Iterator[Finding]:
    """Packages that are imported from elsewhere than from `ours`, as from a folder of that name where Python was started."""
    for name in packages:
        spec = find_spec(name)
        file = spec.origin if spec is not None else None
        if file is not None and Path(file).resolve().parents[1] != ours.resolve():
            advice = "start in another folder, or rename that one"
            yield Finding("names", "warning", f"the package {name} is imported from {Path(file).parent}", advice)


def find_cameras(root: Path = ROOT) -> tuple[CameraFound, ...]:
    """Every video device with the name that its driver gives it, and whether it can be opened."""
    from edge.errors import SourceError
    from edge.sources.camera import cameras, check_camera

    found = []
    for path in map(Path, cameras(root / "dev")):
        try:
            name = (root / "sys/class/video4linux" / path.name / "name").read_text().strip()
        except OSError:
            name = ""
        try:
            check_camera(path)
            fault = None
        except SourceError as error:
            fault = str(error).removeprefix(f"camera {path}: ")
        found.append(CameraFound(str(path), name, fault))
    return tuple(found)


def of_cameras(cameras: Sequence[CameraFound]) -> Iterator[Finding]:
    """Cameras that are there and may not be opened; none at all is no fault, pictures come from elsewhere too."""
    forbidden = [camera.path for camera in cameras if camera.fault is not None and "no permission" in camera.fault]
    if forbidden:
        advice = "sudo usermod -aG video $USER, then log in again"
        yield Finding("cameras", "warning", f"no permission for {', '.join(forbidden)}", advice)
    usable = [camera.path for camera in cameras if camera.fault is None]
    if usable or not cameras:
        yield Finding("cameras", "ok", f"usable: {', '.join(usable)}" if usable else "none connected")


def of_access(folder: Path) -> Iterator[Finding]:
    """Graphics devices that this user may not open: OpenVINO then sees no GPU."""
    nodes = sorted(folder.glob("renderD*"))
    closed = [str(node) for node in nodes if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        advice = "sudo usermod -aG render $USER, then log in again"
        yield Finding("GPU", "warning", f"no permission for {', '.join(closed)}", advice)


def of_disk(free_bytes: Mapping[Path, int]) -> Iterator[Finding]:
    """Space for recordings and bundles."""
    for folder, free in free_bytes.items():
        said = f"{free / 1e9:.1f} GB free at {folder}"
        if free < _DISK_BYTES:
            yield Finding("disk", "warning", said, "recordings will end early; make room")
        else:
            yield Finding("disk", "ok", said)


def _system() -> dict[str, str]:
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    return {
        "system": name,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }
