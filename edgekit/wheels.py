"""Wheels for another computer: with pip's help all that our own asks for there, pinned to the versions used here."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser
from importlib.metadata import distribution, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zipfile import BadZipFile, ZipFile

from edge.errors import EdgekitError
from edgekit.own_wheel import NAME
from edgekit.pip import Say, explained, run_pip

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_ROUNDS: Final = 4


@dataclass(frozen=True, slots=True)
class Platform:
    """What wheels are for. machine: of its kernel; python: as "3.11"; tags: platform tags of wheels that run there."""

    machine: str
    python: str
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"3\.\d{1,2}", self.python):
            raise ValueError(f"Python {self.python!r} is no version like 3.11")

    @property
    def environment(self) -> dict[str, str]:
        """What dependency markers see there, but for the extra."""
        full = f"{self.python}.0"
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "platform_release": "",
            "platform_version": "",
            "python_full_version": full,
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel file and what its metadata says."""

    path: Path
    name: str
    version: str
    requires: "tuple[Requirement, ...]"

    @classmethod
    def read(cls, path: Path) -> "Wheel":
        """Read a wheel's metadata. Raises EdgekitError for a file that is none."""
        from packaging.requirements import Requirement
        from packaging.utils import canonicalize_name

        try:
            with ZipFile(path) as archive:
                (name,) = (n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
                told = HeaderParser().parsestr(archive.read(name).decode())
        except (ValueError, OSError, EOFError, BadZipFile) as error:
            raise EdgekitError(f"{path}: not a wheel ({error}); remove it and pack again") from error
        requires = tuple(Requirement(line) for line in told.get_all("Requires-Dist", []))
        return cls(path, canonicalize_name(told["Name"]), told["Version"], requires)


def check_python(python: str) -> None:
    """Raise EdgekitError where edgekit does not run on this version of Python."""
    from packaging.specifiers import SpecifierSet

    supported = distribution(NAME).metadata["Requires-Python"]
    if f"{python}.0" not in SpecifierSet(supported):
        raise EdgekitError(f"--python {python}: edgekit needs Python {supported}")


def gather(own: Path, extras: Iterable[str], platform: Platform, folder: Path, cache: Path, *, say: Say) -> list[Wheel]:
    """Put `own` and the wheels of all that it needs on `platform` into `folder`, and pip's beside; returned without pip's.

    Versions are those installed here where there are such. cache: folder of downloads, used before the network is. Raises
    EdgekitError where a wheel cannot be had.
    """
    wanted = [f"{own}[{','.join(sorted(extras))}]", "pip"]
    with tempfile.TemporaryDirectory() as work:
        pins = Path(work) / "constraints.txt"
        pins.write_text("".join(f"{line}\n" for line in _pins()), encoding="utf-8")
        for turn in range(_ROUNDS):
            fresh = Path(work) / str(turn)
            _download(wanted, pins, platform, fresh, cache, say)
            wheels = {wheel.name: wheel for wheel in map(Wheel.read, sorted(fresh.glob("*.whl")))}
            needed, absent = closure(wheels, NAME, extras, platform.environment)
            if not absent:
                break
            wanted += absent  # markers that pip answered for this machine and not for that one
        else:
            raise EdgekitError(
                f"{', '.join(absent)}: cannot be resolved for {platform.machine} and Python {platform.python}"
            )
        for wheel in wheels.values():
            if wheel.name != NAME:
                _keep(wheel.path, cache)
        shutil.copy(wheels["pip"].path, folder.parent / wheels["pip"].path.name)
        return [Wheel.read(Path(shutil.copy(wheels[name].path, folder))) for name in sorted(needed)]


def closure(
    wheels: Mapping[str, Wheel], name: str, extras: Iterable[str], environment: Mapping[str, str]
) -> tuple[set[str], list[str]]:
    """What `name` with `extras` needs in a marker environment: names of wheels, and requirements that no wheel meets."""
    from packaging.utils import canonicalize_name

    needed: set[str] = set()
    absent: list[str] = []
    seen: set[tuple[str, str]] = set()
    ahead = [(name, extra) for extra in ("", *extras)]
    while ahead:
        here = ahead.pop()
        if here in seen:
            continue
        seen.add(here)
        needed.add(here[0])
        for requirement in wheels[here[0]].requires:
            if requirement.marker and not requirement.marker.evaluate({**environment, "extra": here[1]}):
                continue
            other = canonicalize_name(requirement.name)
            if other not in wheels or not requirement.specifier.contains(wheels[other].version, prereleases=True):
                absent.append(f"{requirement.name}{requirement.specifier}")
                continue
            ahead += [(other, extra) for extra in ("", *requirement.extras)]
    return needed, sorted(set(absent))


def _pins() -> Iterator[str]:
    """What is installed here, at its version; what others cannot download, under a local version as of torch's, is left open."""
    for installed in distributions():
        name, version = installed.metadata["Name"], installed.version
        if name and name.lower() not in (NAME, "pip", "setuptools", "wheel") and "+" not in version:
            yield f"{name}=={version}"


def _download(wanted: list[str], pins: Path, platform: Platform, folder: Path, cache: Path, say: Say) -> None:
    arguments = [
        *("download", "--only-binary=:all:", "--dest", str(folder), "--constraint", str(pins)),
        *("--implementation", "cp", "--python-version", platform.python, "--find-links", str(cache)),
        *(part for tag in platform.tags for part in ("--platform", tag)),
        *wanted,
    ]
    cache.mkdir(parents=True, exist_ok=True)
    if any(cache.iterdir()) and run_pip([*arguments, "--no-index"]) is None:
        return
    say(f"downloading wheels for {platform.machine} and Python {platform.python}")
    failed = run_pip(arguments, say=say)
    if failed is not None:
        raise EdgekitError(explained(failed, f"for {platform.machine} and Python {platform.python}"))


def _keep(path: Path, cache: Path) -> None:
    if not (cache / path.name).exists():
        partial = cache / f".{path.name}"
        shutil.copy(path, partial)
        partial.replace(cache / path.name)
