"""Whether an engine works on this machine, found out in a process of its own.

A wheel built for a newer processor ends the program with an illegal instruction, which no `try` catches. So each engine is
imported once in a child that opens the smallest built-in network and runs it; what came of it is kept (`edge.cache`) until
engine, Python or processor is another one. The parent's side needs the standard library only.
"""

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, get_args

from edge.cache import read_cached, write_cached
from edge.device import cpu_features, cpu_name
from edge.engines import ENGINES, is_installed, is_present, obstacle, package_of
from edge.errors import EdgekitError
from edge.own_python import own_python

State = Literal["ok", "absent", "broken", "died"]
LIMIT_S: Final = 60.0
PROBES: Final = "engine-probe"
"""The kind of files in the cache that say whether an engine works."""
_MARK: Final = "edgekit-probe "
"""Begins a line of the child's; engines print lines of their own."""
_NETWORK: Final = Path(__file__).parent / "data/emtnet-s-int8"
_QUIET: Final = {"OPENVINO_TELEMETRY_DISABLE": "1", "DO_NOT_TRACK": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
_DEATHS: Final = {
    signal.SIGILL: "an illegal instruction: its wheel is built for a newer processor",
    signal.SIGSEGV: "invalid memory access",
    signal.SIGBUS: "invalid memory access",
    signal.SIGFPE: "arithmetic fault",
    signal.SIGABRT: "it gave up",
}
"""Ways to die that lie in program and processor: they come again. SIGKILL may be a lack of memory that is over tomorrow."""


@dataclass(frozen=True, slots=True)
class EngineProbe:
    """What came of trying an engine, or another package with machine code of its own.

    state: ok, it imported and ran a network; absent, not installed; broken, it said what is wrong; died, it took its process with
    it or gave no answer. version: of its distribution, where known. detail: what is wrong, in one line; empty where it is ok.
    """

    engine: str
    state: State
    version: str | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        if self.state not in get_args(State) or (self.state == "ok") == bool(self.detail):
            raise ValueError(f"{self.engine}: state {self.state!r} with detail {self.detail!r} cannot be")

    @property
    def fault(self) -> str | None:
        """Why the engine cannot be used, in one line; None where it can."""
        return None if self.state == "ok" else f"{self.engine} {self.detail}"


def probe_engine(engine: str, *, limit_s: float = LIMIT_S) -> EngineProbe:
    """Import an engine in a child process and run the smallest built-in INT8 network on it; keep what came of it.

    engine: a name in `edge.engines.ENGINES`. limit_s: after so many seconds without an end it counts as dead. An engine that does
    not work raises nothing; ValueError for an unknown name.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r} is none of {', '.join(ENGINES)}")
    package = package_of(engine)
    if not is_present(engine):
        return EngineProbe(engine, "absent", None, "is not installed")
    if (known := obstacle(engine)) is not None:
        return EngineProbe(engine, "broken", version_of(package), f"cannot work here: {known}")
    probe, lasting = _try(engine, package, "engine", limit_s)
    write_cached(PROBES, _key(engine), json.dumps({"lasting": lasting, **asdict(probe)}).encode())
    return probe


def probe_package(package: str, *, limit_s: float = LIMIT_S) -> EngineProbe:
    """Import a package in a child process; for those that every command needs, such as numpy and cv2."""
    if find_spec(package) is None:
        return EngineProbe(package, "absent", None, "is not installed")
    return _try(package, package, "package", limit_s)[0]


def openvino_devices(*, limit_s: float = LIMIT_S) -> dict[str, str]:
    """Devices that OpenVINO sees, by name with what they are; asked for in a child too, as that loads drivers."""
    _, _, told = _run("openvino-devices", "openvino", limit_s)
    found: dict[str, str] = json.loads(told.get("devices", "{}"))
    return found


def engine_fault(engine: str) -> str | None:
    """Why an installed engine cannot be used here, in one line; None where it can, and where it is not installed.

    The engine is tried once on a machine (`probe_engine`); afterwards this costs a look at a small file. A fault that may pass,
    such as a missing library or too little memory, is tried again by every process.
    """
    return _known_fault(engine, _key(engine)) if is_installed(engine) else None


def works(engine: str) -> bool:
    """Whether an engine is installed and can be used here."""
    return is_installed(engine) and engine_fault(engine) is None


@functools.cache
def _known_fault(engine: str, key: str) -> str | None:
    content = read_cached(PROBES, key)
    if content is not None:
        try:
            kept: dict[str, Any] = json.loads(content)
            if kept.pop("lasting"):
                return EngineProbe(**kept).fault
        except (ValueError, TypeError, KeyError, AttributeError):
            pass  # of another edgekit
    return probe_engine(engine).fault


def _key(engine: str) -> str:
    """What a verdict holds for: the files of engine and numpy, Python and the processor."""
    packages = [_stamp(package_of(engine)), _stamp("numpy")]
    return json.dumps([engine, *packages, sys.version, cpu_name(), cpu_features()])


def _stamp(package: str) -> tuple[str, int, int]:
    """A package's first file, when it was written and its size: another one after every upgrade."""
    spec = find_spec(package)
    if spec is None:
        return "", 0, 0
    file = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    try:
        status = Path(file).stat()
    except OSError:
        return file, 0, 0
    return file, status.st_mtime_ns, status.st_size


def _try(name: str, package: str, what: str, limit_s: float) -> tuple[EngineProbe, bool]:
    """The verdict of a child, and whether it would come again."""
    version = version_of(package)
    try:
        returned, error, told = _run(what, name, limit_s)
    except OSError as fault:
        return EngineProbe(name, "broken", version, f"could not be tried: {fault.strerror}"), False
    stage = told.get("stage", "while Python started")
    if returned is None:
        return EngineProbe(name, "died", version, f"gave no answer within {limit_s:g} s, {stage}"), False
    if returned < 0:
        ended = signal.Signals(-returned)
        why = _DEATHS.get(ended, "ended from outside, as for lack of memory")
        return EngineProbe(name, "died", version, f"died of {ended.name} ({why}) {stage}"), ended in _DEATHS
    if "broken" in told:
        return EngineProbe(name, "broken", version, f"failed {stage}: {told['broken']}"), False
    if told.get("done") != "yes":
        said = f", {error}" if error else ""
        return EngineProbe(name, "broken", version, f"ended with exit code {returned} {stage}{said}"), False
    return EngineProbe(name, "ok", version), True


def _run(what: str, name: str, limit_s: float) -> tuple[int | None, str, Mapping[str, str]]:
    """Exit code of a child, None after the limit; its last line on stderr; what it said. Raises OSError."""
    command, environment = own_python("-m", "edge.probe", what, name)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False, env=environment | _QUIET
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return None, "", _told(error.stdout or b"")
    lines = done.stderr.decode("utf-8", "replace").split("\n")
    return done.returncode, next((line.strip() for line in reversed(lines) if line.strip()), ""), _told(done.stdout)


def _told(output: bytes) -> Mapping[str, str]:
    """What a child said, the last of each kind."""
    lines = [line for line in output.decode("utf-8", "replace").splitlines() if line.startswith(_MARK)]
    return dict(line.removeprefix(_MARK).split(" ", 1) for line in lines if line.count(" ") >= 2)


def version_of(package: str) -> str | None:
    """The version of the distribution that a package comes with."""
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    try:
        return version(package.replace("_", "-"))  # of its own name, as engines are: to ask for all takes a while
    except PackageNotFoundError:
        owners = packages_distributions().get(package, [])
        return version(owners[0]) if owners else None


def child(what: str, name: str) -> None:
    """The child's side: says where it is, then what came of it, and ends the process."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core file for a death that was asked for
    try:
        if what == "engine":
            _run_network(name)
        elif what == "openvino-devices":
            _list_devices()
        else:
            _say("stage", "while it was imported")
            importlib.import_module(name)
        _say("done", "yes")
    except BaseException as error:  # also what a broken package raises at its import
        _say("broken", _line(error))
    os._exit(0)  # engines take long to let go, and some die at it


def _run_network(engine: str) -> None:
    import numpy as np

    from edge.engines import open_model
    from edge.manifest import ARTIFACTS_OF

    _say("stage", "while it was imported")
    importlib.import_module(package_of(engine))
    _say("stage", "while it opened a network")
    manifest = json.loads((_NETWORK / "manifest.json").read_bytes())
    files = [a["files"] for a in manifest["artifacts"] if a["engine"] == ARTIFACTS_OF[engine]]
    if not files:
        return  # none of the built-in networks is for it
    opened = open_model(engine, _NETWORK / files[0][0]["path"], threads=1)
    _say("stage", "while it ran a network")
    opened.infer(np.zeros((manifest["input"]["height"], manifest["input"]["width"]), np.uint8))


def _list_devices() -> None:
    from edge.engines.openvino import shared_core

    core = shared_core()
    names = {device: str(core.get_property(device, "FULL_DEVICE_NAME")) for device in core.available_devices}
    _say("devices", json.dumps(names))


def _say(kind: str, text: str) -> None:
    print(f"\n{_MARK}{kind} {text}", flush=True)


def _line(error: BaseException) -> str:
    """The telling line of an error; of a long explanation the last, which Python shows too."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if any(map(str.isalpha, line))]
    if isinstance(error, EdgekitError):
        return lines[0] if lines else type(error).__name__
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


if __name__ == "__main__":
    child(*sys.argv[1:])
