"""The computer: what is read of boards that are not here, and of the one that is."""

import os
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.device import Device, Throttled, cpu_features, cpu_name, read_device, temperature_c
from edge.device import clock_mhz as read_clock_mhz

A72 = "fp asimd evtstrm crc32 cpuid"
A76 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def cpuinfo_arm(part: str, features: str, cores: int = 4) -> str:
    one = "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU part\t: {}\n\n"
    return "".join(one.format(core, features, part) for core in range(cores)) + "Revision\t: c03111\n"


@pytest.fixture
def pi4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Raspberry Pi 4 that runs hot on a weak supply."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.1\0")
    write(tmp_path, "proc/cpuinfo", cpuinfo_arm("0xd08", A72))
    write(
        tmp_path, "proc/meminfo", "MemTotal:        3884224 kB\nMemFree:         100 kB\nMemAvailable:    3000000 kB\n"
    )
    for core, mhz in enumerate((600, 1500, 600, 600)):
        folder = f"sys/devices/system/cpu/cpu{core}"
        write(tmp_path, f"{folder}/cpufreq/scaling_governor", "ondemand\n")
        write(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", f"{mhz}000\n")
        write(tmp_path, f"{folder}/cpufreq/cpuinfo_max_freq", "1800000\n")
        write(tmp_path, f"{folder}/topology/thread_siblings_list", f"{core}\n")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "83200\n")
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n")
    return tmp_path


def test_a_raspberry_pi_is_read_as_it_is(pi4: Path) -> None:
    assert read_device(pi4) == Device(
        board="Raspberry Pi 4 Model B Rev 1.1",
        machine="aarch64",
        bits=64,
        cpu="Cortex-A72",
        cores=4,
        features=("asimd",),
        memory_bytes=3884224 * 1024,
        governor="ondemand",
        clock_mhz=1500.0,
        clock_max_mhz=1800.0,
        temperature_c=83.2,
        throttled=Throttled(0x50005),
        memory_available_bytes=3000000 * 1024,
        physical_cores=4,
    )


def test_the_features_of_a_raspberry_pi_5_tell_it_from_a_4(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo_arm("0xd0b", A76))
    assert cpu_features(tmp_path, "aarch64") == ("asimd", "fphp", "asimdhp", "asimddp")
    assert cpu_name(tmp_path, "aarch64") == "Cortex-A76"


def test_two_kinds_of_core_and_an_unknown_one_are_named(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo_arm("0xd03", A72, 2) + cpuinfo_arm("0xfff", A72, 2))
    assert cpu_name(tmp_path, "aarch64") == "Cortex-A53 + Arm part 0xfff"


def test_a_nuc_is_read_from_dmi_and_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    flags = "fpu sse sse4_1 avx f16c fma avx2 avx_vnni serialize"
    write(tmp_path, "sys/class/dmi/id/sys_vendor", "Intel(R) Client Systems\n")
    write(tmp_path, "sys/class/dmi/id/product_name", "NUC12WSHi5\n")
    core = f"model name\t: 12th Gen Intel(R) Core(TM) i5-1240P\ncpu MHz\t\t: 2100.5\nflags\t\t: {flags}\n\n"
    write(tmp_path, "proc/cpuinfo", "".join(f"processor\t: {n}\n{core}" for n in range(4)))
    for number, siblings in enumerate(("0-1", "0-1", "2-3", "2-3")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", f"{siblings}\n")
    found = read_device(tmp_path)
    assert (found.board, found.cpu) == ("Intel(R) Client Systems NUC12WSHi5", "12th Gen Intel(R) Core(TM) i5-1240P")
    assert found.features == ("sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni")
    assert (found.cores, found.physical_cores, found.clock_mhz) == (4, 2, 2100.5)
    assert found.throttled is None
    assert not found.is_arm


def test_the_clock_that_is_scaled_comes_before_the_one_of_cpuinfo(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor : 0\ncpu MHz : 1000.0\n")
    assert read_clock_mhz(tmp_path) == 1000.0
    write(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "800000")
    assert read_clock_mhz(tmp_path) == 800.0


@pytest.mark.parametrize(
    ("group", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "500000000"}, 500_000_000),
        ("0::/\n", {"memory.max": "700000000"}, 700_000_000),
        ("5:memory:/box\n", {"memory/box/memory.limit_in_bytes": "600000000"}, 600_000_000),
        ("5:memory:/box\n", {"memory/box/memory.limit_in_bytes": "9223372036854771712"}, 1024_000_000),
        ("0::/a\n", {"a/memory.max": "90000000000"}, 1024_000_000),
        ("", {}, 1024_000_000),
    ],
)
def test_memory_is_what_the_control_group_leaves_of_it(
    tmp_path: Path, group: str, files: dict[str, str], limit: int
) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:  1000000 kB\n")
    write(tmp_path, "proc/self/cgroup", group)
    for name, text in files.items():
        write(tmp_path, f"sys/fs/cgroup/{name}", text)
    assert read_device(tmp_path).memory_bytes == limit


def test_a_computer_that_tells_nothing_is_read_all_the_same(tmp_path: Path) -> None:
    found = read_device(tmp_path)
    assert (found.board, found.features, found.cores, found.memory_bytes) == (None, (), 1, None)
    assert (found.governor, found.clock_mhz, found.temperature_c, found.throttled) == (None, None, None, None)


def test_an_emulated_arm_processor_is_not_called_by_its_hosts_name(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor : 0\nmodel name : Big Iron\nflags : sse avx2\n")
    assert cpu_name(tmp_path, "aarch64") == "emulated aarch64 on Big Iron"
    assert cpu_features(tmp_path, "aarch64") == ()


def test_temperature_is_that_of_the_hottest_sensible_zone(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for name, text in {"0": "45200\n", "1": "61700\n", "2": "broken", "3": "-273000", "4": "999000"}.items():
        write(tmp_path, f"sys/class/thermal/thermal_zone{name}/temp", text)
    (tmp_path / "sys/class/thermal/thermal_zone5/temp").mkdir(parents=True)  # cannot be read
    assert temperature_c(tmp_path) == 61.7


# Throttling


def test_all_eight_bits_of_the_firmware_have_their_own_word() -> None:
    words = ("under-voltage", "clock capped", "throttled", "soft temperature limit")
    for bit, word in enumerate(words):
        assert (Throttled(1 << bit).now, Throttled(1 << bit).since_boot) == ((word,), ())
        assert (Throttled(1 << bit + 16).now, Throttled(1 << bit + 16).since_boot) == ((), (word,))
    state = Throttled.parse("throttled=0xa0005\n")
    assert (state.now, state.since_boot) == (("under-voltage", "throttled"), ("clock capped", "soft temperature limit"))


@given(st.integers(0, 2**32 - 1))
def test_vcgencmd_and_the_firmwares_file_say_the_same(bits: int) -> None:
    assert Throttled.parse(f"throttled={bits:#x}\n") == Throttled.parse(f"{bits:x}\n") == Throttled(bits)


@pytest.mark.parametrize("text", ["", "throttled=", "throttled=what", "error=1 error_msg=x", "1ffffffff", "-1"])
def test_what_is_no_set_of_bits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"bits|invalid literal"):
        Throttled.parse(text)


def test_a_firmware_file_that_is_broken_is_no_throttling(tmp_path: Path) -> None:
    write(tmp_path, "sys/devices/platform/soc/soc:firmware/get_throttled", "broken\n")
    assert read_device(tmp_path).throttled is None


def test_vcgencmd_is_asked_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "vcgencmd"
    program.write_text('#!/bin/sh\n[ "$1" = get_throttled ] && echo throttled=0x50000\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if read_device().board is not None and "Raspberry" in str(read_device().board):
        pytest.skip("this is a Raspberry Pi with a firmware of its own")
    assert read_device().throttled == Throttled(0x50000)
    program.write_text("#!/bin/sh\necho 'VCHI initialization failed'\nexit 255\n")
    assert read_device().throttled is None


# This computer


def test_this_computer_is_read() -> None:
    found = read_device()
    assert found.machine == platform.machine()
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes is not None
    assert found.memory_available_bytes is not None
    assert found.features
    assert set(found.features) <= set(Path("/proc/cpuinfo").read_text().split()) or found.is_arm


@pytest.mark.parametrize(("bits", "cores"), [(16, 1), (64, 0)])
def test_a_computer_that_cannot_be_is_refused(bits: int, cores: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Device(None, "x86_64", bits, "", cores, (), None, None, None, None, None, None)
