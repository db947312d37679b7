"""The doctor's judgements, of computers that are not here."""

import importlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from edge import doctor
from edge.device import Device, Throttled
from edge.doctor import CameraFound, Finding, recommend
from edge.probe import EngineProbe

GB = 1_000_000_000
PI = Device(
    *("Raspberry Pi 4 Model B", "aarch64", 64, "Cortex-A72", 4, ("asimd",), 4 * GB, "ondemand", 1500.0, 1800.0, 55.0),
    Throttled(0),
    3 * GB,
    4,
)
NUC = replace(
    PI,
    machine="x86_64",
    features=("avx2", "avx_vnni"),
    governor="powersave",
    throttled=None,
    cores=8,
    physical_cores=4,
)
OLD_NUC = replace(NUC, features=("avx2",))
ALL = [EngineProbe(engine, "ok", "1") for engine in ("openvino", "litert", "onnx")]
DEAD = EngineProbe("openvino", "died", "1", "died of SIGILL (an illegal instruction) while it was imported")
BROKEN = EngineProbe("litert", "broken", "1", "failed while it was imported: ImportError: no libm")
ABSENT = EngineProbe("onnx", "absent", None, "is not installed")


def only(findings: Iterable[Finding]) -> Finding:
    (one,) = findings
    return one


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    return {each.topic: each.level for each in findings}


# System and Python


def test_a_32_bit_system_is_a_problem_whatever_its_kernel_is() -> None:
    found = only(doctor.of_python((3, 11), replace(PI, bits=32)))
    assert found.level == "problem"
    assert "32 bit on aarch64" in found.said
    assert "64-bit" in found.advice


@pytest.mark.parametrize(
    ("version", "level"), [((3, 11), "ok"), ((3, 13), "ok"), ((3, 14), "warning"), ((4, 0), "warning")]
)
def test_a_python_without_wheels_is_told(version: tuple[int, int], level: str) -> None:
    assert only(doctor.of_python(version, PI)).level == level


# The device


@pytest.mark.parametrize(
    ("device", "topic", "level"),
    [
        (PI, "memory", "ok"),
        (replace(PI, memory_available_bytes=100_000_000), "memory", "warning"),
        (replace(PI, memory_bytes=200_000_000), "memory", "warning"),  # by its control group
        (PI, "clock", "ok"),
        (replace(PI, governor="powersave"), "clock", "warning"),
        (NUC, "clock", "ok"),  # intel_pstate's powersave goes up with the load
        (PI, "temperature", "ok"),
        (replace(PI, temperature_c=80.0), "temperature", "warning"),
        (replace(NUC, temperature_c=85.0), "temperature", "ok"),
        (replace(NUC, temperature_c=96.0), "temperature", "warning"),
        (PI, "throttling", "ok"),
    ],
)
def test_memory_clock_and_heat_are_judged(device: Device, topic: str, level: str) -> None:
    assert levels(doctor.of_device(device))[topic] == level


def test_a_device_that_tells_nothing_is_not_judged() -> None:
    blind = replace(PI, governor=None, temperature_c=None, throttled=None, memory_available_bytes=None)
    assert not list(doctor.of_device(blind))


@pytest.mark.parametrize(
    ("bits", "said", "advice"),
    [
        (0x50005, "now: under-voltage, throttled; since it was started: under-voltage, throttled", "power supply"),
        (0x10000, "since it was started: under-voltage", "power supply"),
        (0x8, "now: soft temperature limit; since it was started: none", "fan"),
        (0x60000, "since it was started: clock capped, throttled", "fan"),
    ],
)
def test_a_throttled_device_is_told_with_the_cure(bits: int, said: str, advice: str) -> None:
    (found,) = [f for f in doctor.of_device(replace(PI, throttled=Throttled(bits))) if f.topic == "throttling"]
    assert (found.level, found.said) == ("warning", said)
    assert advice in found.advice
    assert ("power supply" in found.advice) == ("under-voltage" in said)


# Packages and engines


def test_a_package_that_all_need_is_a_problem_when_it_does_not_import() -> None:
    ok, broken = EngineProbe("numpy", "ok", "2"), replace(BROKEN, engine="cv2")
    assert only(doctor.of_packages([ok, broken])).level == "problem"
    assert not list(doctor.of_packages([ok]))


def test_engines_that_do_not_work_are_warnings_as_long_as_one_does() -> None:
    found = list(doctor.of_engines([DEAD, BROKEN, EngineProbe("onnx", "ok", "1")]))
    assert [f.level for f in found] == ["warning", "warning", "ok"]
    assert "SIGILL" in found[0].said
    assert "edgekit-ultrasound[litert]" in found[1].advice


@pytest.mark.parametrize("probes", [[], [ABSENT], [DEAD, BROKEN, ABSENT]])
def test_no_engine_that_works_is_a_problem(probes: list[EngineProbe]) -> None:
    found = list(doctor.of_engines(probes))[-1]
    assert (found.level, found.said) == ("problem", "no inference engine works here")
    assert "litert" in found.advice


@pytest.mark.parametrize(
    ("device", "probes", "weight_range", "said"),
    [
        (OLD_NUC, ALL, "full", "openvino, onnx"),
        (OLD_NUC, ALL[:1], "full", "openvino"),
        (OLD_NUC, ALL, "half", None),
        (OLD_NUC, ALL[1:2], "full", None),
        (NUC, ALL, "full", None),
        (PI, ALL, "full", None),
    ],
)
def test_saturation_is_told_where_an_engine_that_is_here_would(
    device: Device, probes: list[EngineProbe], weight_range: str, said: str | None
) -> None:
    found = list(doctor.of_saturation(probes, device, weight_range))
    if said is None:
        assert not found
        return
    assert only(found).level == "warning"
    assert only(found).said.endswith(f"saturates in {said}")
    assert "--target here" in only(found).advice
    assert ("litert is used" in only(found).advice) == (len(probes) > 1)


# Names


def test_another_distribution_with_a_package_of_ours_is_told_and_ours_is_not() -> None:
    owners = {"edge": ["edgekit-ultrasound", "edge-toolkit"], "edgekit": ["edgekit-ultrasound"], "numpy": ["numpy"]}
    found = only(doctor.of_owners(owners))
    assert (found.level, found.said) == ("warning", "the package edge comes with edge-toolkit too")
    assert "pip uninstall edge-toolkit" in found.advice
    assert only(doctor.of_owners({"edge": ["edgekit-ultrasound"] * 2})).level == "ok"


def test_a_package_that_is_imported_from_elsewhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("ours", "theirs"):
        (tmp_path / place / f"edgekit_test_{place}").mkdir(parents=True)
        (tmp_path / place / f"edgekit_test_{place}/__init__.py").touch()
        monkeypatch.syspath_prepend(tmp_path / place)
    importlib.invalidate_caches()
    names = ("edgekit_test_ours", "edgekit_test_theirs", "edgekit_test_absent")
    found = only(doctor.of_places(names, tmp_path / "ours"))
    assert found.said == f"the package edgekit_test_theirs is imported from {tmp_path}/theirs/edgekit_test_theirs"


def test_our_own_packages_are_where_they_should_be() -> None:
    assert not list(doctor.of_places(doctor.PACKAGES, Path(doctor.__file__).parents[1]))


# Cameras, graphics, disk


def test_cameras_are_listed_with_their_drivers_names_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    for number in (0, 10, 2):
        (tmp_path / f"dev/video{number}").touch()
    name = tmp_path / "sys/class/video4linux/video2/name"
    name.parent.mkdir(parents=True)
    name.write_text("USB3. 0 capture\n")
    found = doctor.find_cameras(tmp_path)
    assert [Path(camera.path).name for camera in found] == ["video0", "video2", "video10"]
    assert [camera.name for camera in found] == ["", "USB3. 0 capture", ""]
    assert all(camera.fault is not None and camera.fault.startswith("not a camera") for camera in found)


def test_a_camera_that_may_not_be_opened_names_the_group() -> None:
    forbidden = CameraFound("/dev/video0", "USB", "no permission; add the user to the group 'video'")
    found = only(doctor.of_cameras([forbidden]))
    assert (found.level, found.said) == ("warning", "no permission for /dev/video0")
    assert "usermod -aG video" in found.advice
    both = list(doctor.of_cameras([forbidden, CameraFound("/dev/video2", "USB", None)]))
    assert [f.level for f in both] == ["warning", "ok"]
    assert only(doctor.of_cameras([])).said == "none connected"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_graphics_device_that_may_not_be_opened_names_the_group(tmp_path: Path) -> None:
    (tmp_path / "renderD128").touch(mode=0o000)
    assert "usermod -aG render" in only(doctor.of_access(tmp_path)).advice


def test_a_graphics_device_that_may_be_opened_is_no_finding(tmp_path: Path) -> None:
    (tmp_path / "renderD128").touch()
    assert not list(doctor.of_access(tmp_path))


def test_a_disk_that_is_nearly_full_is_told() -> None:
    found = list(doctor.of_disk({Path("/a"): 10 * GB, Path("/b"): GB // 10}))
    assert [(f.level, f.said) for f in found] == [("ok", "10.0 GB free at /a"), ("warning", "0.1 GB free at /b")]


# What to run


@pytest.mark.parametrize(
    ("device", "probes", "wanted"),
    [
        (PI, ALL, ("litert", 4, "emtnet-s")),
        (replace(PI, features=("asimd", "asimddp")), ALL, ("litert", 4, "emtnet")),
        (PI, [ALL[2]], ("onnx", 4, "emtnet-s")),
        (NUC, ALL, ("openvino", 4, "emtnet")),  # threads: one a core of four, not one a hyper-thread
        (replace(NUC, cores=2), ALL, ("openvino", 2, "emtnet")),  # no more than the process may use
        (NUC, [DEAD, ALL[1]], ("litert", 4, "emtnet")),
        (OLD_NUC, ALL, ("litert", 4, "emtnet")),
        (OLD_NUC, ALL[:1], ("openvino", 4, "emtnet")),
    ],
)
def test_engine_threads_and_network_are_recommended(
    device: Device, probes: list[EngineProbe], wanted: tuple[str, int, str]
) -> None:
    advised = recommend(probes, device)
    assert advised is not None
    assert (advised.engine, advised.threads, advised.network) == wanted
    assert advised.reason.startswith(f"{advised.engine}: ")


def test_the_reason_says_what_spoke_against_the_first_choice() -> None:
    old, half = recommend(ALL, OLD_NUC), recommend(ALL, OLD_NUC, "half")
    assert old is not None
    assert half is not None
    assert "INT8 of openvino would saturate" in old.reason
    assert half.engine == "openvino"


@pytest.mark.parametrize(("probes", "device"), [([DEAD, ABSENT], PI), (ALL, replace(PI, machine="riscv64"))])
def test_nothing_is_recommended_where_nothing_is_known_to_work(probes: list[EngineProbe], device: Device) -> None:
    assert recommend(probes, device) is None


@pytest.mark.parametrize(("level", "advice"), [("ok", "do this"), ("warning", ""), ("problem", "")])
def test_a_finding_has_advice_where_something_is_wrong_and_only_there(level: str, advice: str) -> None:
    with pytest.raises(ValueError, match="a finding that is"):
        Finding("memory", level, "said", advice)  # type: ignore[arg-type]
