"""The computer itself: board, processor and what it can do, memory, clocks, temperature, throttling.

Read from /proc and /sys beneath `root`, which a test replaces; what a machine does not tell is None. Standard library only, so
that it works where an engine, numpy or OpenCV does not.
"""

import ctypes
import os
import platform
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path("/")
ARM: Final = ("aarch64", "arm64")
X86: Final = ("x86_64", "amd64")

# What matters to inference, in the kernel's words: with the bit of each in arm64's uapi/asm/hwcap.h, as in /proc/cpuinfo of x86.
_ARM_HWCAP: Final = {"asimd": 1, "fphp": 9, "asimdhp": 10, "asimddp": 20, "sve": 22}
_ARM_HWCAP2: Final = {"sve2": 1, "i8mm": 13, "bf16": 14}
_X86_FEATURES: Final = (
    *("sse4_1", "avx", "f16c", "fma", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16"),
)
VNNI: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""x86 features with INT8 products that are summed in 32 bits at once."""

# Main ID register, part number of implementer 0x41 (Arm): those of small computers; `lscpu` has the whole list.
_ARM_PARTS: Final = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
UNDER_VOLTAGE: Final = "under-voltage"
"""The supply gives less than 4.63 V."""
SOFT_LIMIT: Final = "soft temperature limit"
_UNLIMITED: Final = 1 << 60
"""A cgroup of version 1 without a limit says a number near 2⁶³."""
_ASK_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Throttled:
    """What the firmware of a Raspberry Pi says of its supply and heat: now, and at some time since it was started.

    Bits after the documentation of `vcgencmd get_throttled`: 0 to 3 now, 16 to 19 since boot.
    """

    bits: int

    def __post_init__(self) -> None:
        if not 0 <= self.bits < 1 << 32:
            raise ValueError(f"{self.bits:#x} is no set of 32 bits")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read vcgencmd's `throttled=0x50005`, or the hexadecimal number of the firmware's file. Raises ValueError."""
        return cls(int(text.strip().rpartition("=")[2], 16))

    @property
    def now(self) -> tuple[str, ...]:
        """What holds at this moment, in words."""
        return self._words(0)

    @property
    def since_boot(self) -> tuple[str, ...]:
        """What held at some time since the start, in words."""
        return self._words(16)

    def _words(self, first: int) -> tuple[str, ...]:
        words = (UNDER_VOLTAGE, "clock capped", "throttled", SOFT_LIMIT)
        return tuple(word for bit, word in enumerate(words, first) if self.bits >> bit & 1)


@dataclass(frozen=True, slots=True)
class Device:
    """A computer as it was when it was read.

    machine: of the kernel, such as aarch64. bits: of this Python, 32 also on a 64-bit kernel with a 32-bit system. cores: that
    this process may use, physical_cores: the machine's, without hyper-threads. features: what matters to inference, in the
    kernel's words. memory_bytes: of the machine, or of this process' control group where that is less; memory_available_bytes:
    before it swaps. clock_mhz, clock_max_mhz: the fastest core, now and at most. temperature_c: of the hottest zone.
    """

    board: str | None
    machine: str
    bits: int
    cpu: str
    cores: int
    features: tuple[str, ...]
    memory_bytes: int | None
    governor: str | None
    clock_mhz: float | None
    clock_max_mhz: float | None
    temperature_c: float | None
    throttled: Throttled | None
    memory_available_bytes: int | None = None
    physical_cores: int | None = None

    def __post_init__(self) -> None:
        if self.bits not in (32, 64) or self.cores < 1:
            raise ValueError(f"a computer of {self.bits} bits and {self.cores} cores cannot be")

    @property
    def is_arm(self) -> bool:
        return self.machine.lower() in ARM


def read_device(root: Path = ROOT) -> Device:
    """The computer beneath `root`."""
    machine = platform.machine()
    cores = _cores(root)
    return Device(
        board=_board(root),
        machine=machine,
        bits=struct.calcsize("P") * 8,
        cpu=cpu_name(root, machine),
        cores=cores,
        features=cpu_features(root, machine),
        memory_bytes=_memory_bytes(root),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        clock_mhz=clock_mhz(root),
        clock_max_mhz=_fastest_mhz(root, "cpuinfo_max_freq"),
        temperature_c=temperature_c(root),
        throttled=read_throttled(root),
        memory_available_bytes=_meminfo(root).get("MemAvailable"),
        physical_cores=_physical_cores(root),
    )


def temperature_c(root: Path = ROOT) -> float | None:
    """The hottest of the kernel's thermal zones in °C; None where there is none that can be read."""
    found = []
    for file in (root / "sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(file.read_text()) / 1000)
        except (OSError, ValueError):  # a zone that is switched off says EINVAL or EAGAIN
            continue
    sensible = [value for value in found if 0 < value < 150]
    return max(sensible, default=None)


def clock_mhz(root: Path = ROOT) -> float | None:
    """The clock of the fastest core at this moment, in MHz."""
    scaled = _fastest_mhz(root, "scaling_cur_freq")
    if scaled is not None:
        return scaled
    told = [float(value) for value in _cpuinfo_all(root, "cpu MHz") if value.replace(".", "", 1).isdecimal()]
    return max(told, default=None)


def read_throttled(root: Path = ROOT) -> Throttled | None:
    """A Raspberry Pi's throttling bits, from the firmware's file or from vcgencmd; None on other machines."""
    for file in sorted((root / "sys/devices/platform").glob("soc*/soc*firmware/get_throttled")):
        try:
            return Throttled.parse(file.read_text())
        except (OSError, ValueError):
            continue
    program = shutil.which("vcgencmd") if root == ROOT else None
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "get_throttled"], capture_output=True, text=True, timeout=_ASK_S, check=True, stdin=subprocess.DEVNULL
        )  # fmt: skip
        return Throttled.parse(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # no Raspberry Pi, or no right to ask its firmware


def cpu_features(root: Path = ROOT, machine: str | None = None) -> tuple[str, ...]:
    """What the processor can do of that which matters to inference, in the kernel's words."""
    machine = (machine or platform.machine()).lower()
    if machine in ARM:
        known = {**_ARM_HWCAP, **_ARM_HWCAP2}
        if root == ROOT and (told := _arm_capabilities()) is not None:
            return told
        found = set(_cpuinfo(root, "Features").split())
        return tuple(name for name in known if name in found)
    found = set(_cpuinfo(root, "flags").split())
    return tuple(name for name in _X86_FEATURES if name in found)


def cpu_name(root: Path = ROOT, machine: str | None = None) -> str:
    """The processor's name; of an emulated one what it runs on."""
    machine = (machine or platform.machine()).lower()
    model = _cpuinfo(root, "model name")
    if machine not in ARM:
        return model or machine
    if _cpuinfo(root, "flags"):  # x86's word: the processor of the host shines through an emulator
        return f"emulated {machine} on {model}"
    parts = dict.fromkeys(_cpuinfo_all(root, "CPU part"))
    return " + ".join(_ARM_PARTS.get(part, f"Arm part {part}") for part in parts) or model or machine


def _arm_capabilities() -> tuple[str, ...] | None:
    """From the auxiliary vector, getauxval(3): right under an emulator too, where /proc/cpuinfo is the host's."""
    try:
        ask = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return None
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    first, second = ask(16), ask(26)  # AT_HWCAP, AT_HWCAP2
    return (
        *(name for name, bit in _ARM_HWCAP.items() if first >> bit & 1),
        *(name for name, bit in _ARM_HWCAP2.items() if second >> bit & 1),
    )


def _board(root: Path) -> str | None:
    model = _text(root / "proc/device-tree/model") or _text(root / "sys/firmware/devicetree/base/model")
    if model is not None:
        return model
    told = [_text(root / "sys/class/dmi/id" / name) for name in ("sys_vendor", "product_name")]
    return " ".join(dict.fromkeys(part for part in told if part)) or None


def _cores(root: Path) -> int:
    if root == ROOT and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return max(1, len(_cpuinfo_all(root, "processor")))


def _physical_cores(root: Path) -> int | None:
    """Cores without their hyper-threads: as many as there are different lists of siblings."""
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({text for file in files if (text := _text(file))}) or None


def _memory_bytes(root: Path) -> int | None:
    limits = [_meminfo(root).get("MemTotal"), *_group_limits(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _group_limits(root: Path) -> Iterator[int]:
    """Memory limits of this process' control group and those above it, of both versions of the kernel's interface."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, _, place = line.partition("::") if line.startswith("0::") else line.partition(":memory:")
        name, top = ("memory.max", "") if line.startswith("0::") else ("memory.limit_in_bytes", "memory")
        if not place:
            continue
        base = root / "sys/fs/cgroup" / top
        inside = Path(place.strip("/"))
        for folder in (inside, *inside.parents):
            text = _text(base / folder / name)
            if text is not None and text.isdecimal() and int(text) < _UNLIMITED:
                yield int(text)


def _meminfo(root: Path) -> dict[str, int]:
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _text(root / "proc/meminfo") or "", re.MULTILINE)
    return {name: int(value) * 1024 for name, value in found}


def _fastest_mhz(root: Path, name: str) -> float | None:
    files = (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}")
    told = [int(text) / 1000 for file in files if (text := _text(file)) is not None and text.isdecimal()]
    return max(told, default=None)


def _cpuinfo(root: Path, key: str) -> str:
    return next(iter(_cpuinfo_all(root, key)), "")


def _cpuinfo_all(root: Path, key: str) -> list[str]:
    text = _text(root / "proc/cpuinfo") or ""
    return re.findall(rf"^{re.escape(key)}[ \t]*: *(.*?)[ \t]*$", text, re.MULTILINE)


def _text(path: Path) -> str | None:
    """The content of a small file without its ends, None where there is none to be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n\t") or None
    except OSError:
        return None
