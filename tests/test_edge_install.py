"""Bundles on a device: the old one or the new one is in use, whole and tested, whatever happens."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from edgekit_command import Edgekit
from foreign_bundles import CLASSES, MASK, write_bundle
from kill_points import killed_at_every_point

from edge import install, trial
from edge.bundle import Bundle, write_manifest
from edge.errors import BundleError, EdgekitError, EngineError, IntegrityError, SinkError
from edge.golden import SelfTest
from edge.install import DEVICE_ENV, Installed, bundle_id, install_bundle, restart_service, roll_back
from edge.manifest import MANIFEST
from quantize.golden import with_golden


def made(folder: Path, *, threshold: float = 0.5) -> Bundle:
    """A small bundle with golden frames; another one for every threshold."""
    bundle = write_bundle(folder, MASK, CLASSES, threshold=threshold)
    write_manifest(folder, with_golden(folder, bundle.manifest))
    return Bundle.open(folder)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    first, second, third = (made(folder / str(index), threshold=0.5 + index / 10) for index in range(3))
    return first, second, third


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> None:
    """No self-test, for tests of what is around it."""
    monkeypatch.setattr(install, "trial", lambda *_, **__: SelfTest("onnx", "int8", 4, 0.1))


def never() -> bool:
    return False


def in_use(place: Path) -> str:
    """The bundle in use, after a look at every file of it."""
    bundle = Bundle.open(place / "bundle")
    for file in bundle.files():
        bundle.read(file)
    assert (bundle.path / DEVICE_ENV).read_text().startswith("EDGEKIT_ENGINE=")
    return bundle.path.resolve().name


def put(bundle: Bundle, place: Path, restart: Callable[[], bool] = never) -> Installed:
    return install_bundle(bundle.path, place, restart=restart)


# Engines, for real


def test_an_installed_bundle_is_a_tested_copy_that_names_its_engine(
    bundles: tuple[Bundle, ...], tmp_path: Path
) -> None:
    said: list[str] = []
    installed = install_bundle(bundles[0].path, tmp_path / "device", say=said.append, restart=never)
    assert in_use(tmp_path / "device") == bundle_id(bundles[0])
    assert installed.test.passed
    assert installed.test.frames == 4
    assert (installed.path / DEVICE_ENV).read_text() == "EDGEKIT_ENGINE=openvino\nEDGEKIT_PRECISION=int8\n"
    assert [line.split()[0] for line in said] == ["copying", "openvino"]
    modes = {item.stat().st_mode & 0o777 for item in (installed.path.resolve()).rglob("*") if item.is_file()}
    assert modes == {0o644}


def test_an_engine_that_fails_the_self_test_is_passed_over(tmp_path: Path) -> None:
    right = made(tmp_path / "right")
    wrong = write_bundle(tmp_path / "wrong", MASK, CLASSES, openvino_brighter=60.0)
    shutil.copytree(right.path / "golden", wrong.path / "golden")
    write_manifest(wrong.path, replace(wrong.manifest, golden=right.manifest.golden))
    said: list[str] = []
    installed = install_bundle(wrong.path, tmp_path / "device", say=said.append, restart=never)
    assert (installed.test.engine, installed.test.precision) == ("onnx", "int8")
    assert any(line.startswith("openvino int8 fails the self-test: ") for line in said)


@pytest.mark.parametrize(
    ("dies", "told"),
    [
        ("import os; os.kill(os.getpid(), 4)", "dies with SIGILL, an instruction that this processor does not have"),
        ("import os; os.kill(os.getpid(), 11)", "dies with SIGSEGV"),
        ("raise SystemExit('no such library')", "does not run .*no such library"),
        ("import time; time.sleep(60)", "gives no answer within 1 s"),
        ("print('[1]')", "does not run"),
    ],
)
def test_an_engine_that_dies_is_one_line_and_the_old_bundle_stays(
    dies: str, told: str, bundles: tuple[Bundle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "device"
    monkeypatch.setattr(install, "trial", lambda *_, **__: SelfTest("onnx", "int8", 4, 0.1))
    put(bundles[0], place)
    monkeypatch.undo()
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{dies}"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(install, "trial", partial(trial.trial, limit_s=1.0))
    with pytest.raises(EngineError, match=f"no engine passes the self-test: .*{told}"):
        put(bundles[1], place)
    assert in_use(place) == bundle_id(bundles[0])
    assert [item.name for item in (place / "bundles").iterdir()] == [bundle_id(bundles[0])]


def test_nothing_is_run_that_lies_in_the_folder_where_the_command_is_given(
    bundles: tuple[Bundle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("edge", "json", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('of another user, run by root')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", "off")  # so that the engine is tried by a process of its own, too
    assert trial.tested_apart(bundles[0].path, bundles[0].choose(engine="onnx")).passed


# Switching


@pytest.mark.usefixtures("untested")
def test_a_rollback_goes_back_and_forth(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    place = tmp_path / "device"
    put(bundles[0], place)
    with pytest.raises(BundleError, match="no other bundle to go back to"):
        roll_back(place, restart=never)
    put(bundles[1], place)
    assert in_use(place) == bundle_id(bundles[1])
    roll_back(place, restart=never)
    assert in_use(place) == bundle_id(bundles[0])
    roll_back(place, restart=never)
    assert in_use(place) == bundle_id(bundles[1])


@pytest.mark.usefixtures("untested")
def test_two_bundles_are_kept_and_installing_again_changes_nothing(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    place = tmp_path / "device"
    for bundle in (*bundles, bundles[2]):
        put(bundle, place)
    assert in_use(place) == bundle_id(bundles[2])
    assert {item.name for item in (place / "bundles").iterdir()} == {bundle_id(bundles[1]), bundle_id(bundles[2])}
    assert (place / "previous").resolve().name == bundle_id(bundles[1])


@pytest.mark.usefixtures("untested")
def test_a_damaged_copy_on_the_device_is_replaced(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    put(bundles[0], tmp_path / "device")
    (tmp_path / "device" / "bundle" / "int8.onnx").write_bytes(b"torn")
    put(bundles[0], tmp_path / "device")
    assert in_use(tmp_path / "device") == bundle_id(bundles[0])


@pytest.mark.usefixtures("untested")
def test_a_damaged_bundle_is_not_installed(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    put(bundles[0], tmp_path / "device")
    shutil.copytree(bundles[1].path, tmp_path / "damaged")
    (tmp_path / "damaged" / "int8.onnx").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match=r"int8\.onnx: not the file its manifest describes"):
        install_bundle(tmp_path / "damaged", tmp_path / "device", restart=never)
    assert in_use(tmp_path / "device") == bundle_id(bundles[0])
    assert len(list((tmp_path / "device" / "bundles").iterdir())) == 1


@pytest.mark.usefixtures("untested")
def test_a_service_that_does_not_start_has_the_old_bundle_again(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    place = tmp_path / "device"
    put(bundles[0], place)
    put(bundles[1], place)
    seen: list[str] = []

    def restart() -> bool:
        seen.append(in_use(place))
        if len(seen) == 1:
            raise EdgekitError("edgekit.service does not start")
        return True

    with pytest.raises(EdgekitError, match=f"does not start; {bundle_id(bundles[1])} is in use again"):
        put(bundles[2], place, restart)
    assert seen == [bundle_id(bundles[2]), bundle_id(bundles[1])]
    assert in_use(place) == bundle_id(bundles[1])
    assert (place / "previous").resolve().name == bundle_id(bundles[0])


@pytest.mark.usefixtures("untested")
def test_a_full_disk_is_told_before_anything_is_copied(
    bundles: tuple[Bundle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "device"
    put(bundles[0], place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(SinkError, match=r"0 MB free, the bundle needs 17 MB; free the disk"):
        put(bundles[1], place)
    assert in_use(place) == bundle_id(bundles[0])


@pytest.mark.usefixtures("untested")
def test_installations_do_not_meet(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    place = tmp_path / "device"
    put(bundles[0], place)
    with subprocess.Popen(["flock", str(place / ".lock"), "sleep", "60"]) as other:
        while not _locked(place):
            assert other.poll() is None
        with pytest.raises(SinkError, match="another installation is running"):
            put(bundles[1], place)
        other.terminate()
    assert in_use(place) == bundle_id(bundles[0])


def _locked(place: Path) -> bool:
    return subprocess.run(["flock", "--nonblock", str(place / ".lock"), "true"], check=False).returncode == 1


@pytest.mark.usefixtures("untested")
def test_a_folder_in_the_place_of_the_link_is_left_alone(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine").write_text("kept")
    with pytest.raises(SinkError, match="bundle: is no symbolic link; move it away"):
        put(bundles[0], tmp_path)
    assert (tmp_path / "bundle" / "mine").read_text() == "kept"


# Killed


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill is no power cut: what was written is there, flushed or not."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.mark.usefixtures("untested", "quick_disk")
def test_killed_at_any_point_the_old_bundle_or_the_new_is_in_use(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    place, seen = tmp_path / "device", set[str]()
    old, new = bundle_id(bundles[0]), bundle_id(bundles[1])

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)
        put(bundles[0], place)

    def check(point: int) -> None:
        found = in_use(place)
        assert found in (old, new), point
        seen.add(found)
        if point % 4:
            return
        put(bundles[1], place)  # what it left does not stand in the way
        assert in_use(place) == new
        assert {item.name for item in (place / "bundles").iterdir()} == {old, new}
        assert sorted(i.name for i in place.iterdir()) == [".lock", "bundle", "bundles", "previous"]

    points = killed_at_every_point(lambda: put(bundles[1], place), place, prepare=prepare, check=check)
    assert points > 30
    assert seen == {old, new}


@pytest.mark.usefixtures("untested", "quick_disk")
def test_killed_in_a_rollback_one_of_the_two_is_in_use(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    place = tmp_path / "device"

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)
        put(bundles[0], place)
        put(bundles[1], place)

    points = killed_at_every_point(
        lambda: roll_back(place, restart=never), place, prepare=prepare, check=lambda point: in_use(place)
    )
    assert points > 5


# The service and the command


def systemctl(folder: Path, state: str, restarts: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that says this state, and whose restart ends with that code; returns the log of its calls."""
    folder.mkdir()
    (folder / "systemctl").write_text(
        f'#!/bin/sh\necho "$@" >> "{folder}/log"\n[ "$1" = is-active ] && echo {state} && exit 0\nexit {restarts}\n'
    )
    (folder / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "log"


@pytest.mark.parametrize(("state", "restarted"), [("active", True), ("failed", True), ("inactive", False)])
def test_a_service_that_is_meant_to_run_is_restarted(
    state: str, restarted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = systemctl(tmp_path / "bin", state, 0, monkeypatch)
    assert restart_service() == restarted
    assert ("restart edgekit" in log.read_text()) == restarted
    log.unlink()
    assert not restart_service(tmp_path), "it runs another bundle than the one installed there"
    assert not log.exists()


def test_a_service_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl(tmp_path / "bin", "active", 1, monkeypatch)
    with pytest.raises(EdgekitError, match=r"edgekit\.service does not start; journalctl -u edgekit says why"):
        restart_service()


def test_without_systemd_nothing_is_restarted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not restart_service()


@pytest.mark.usefixtures("untested")
def test_the_command_installs_and_rolls_back(bundles: tuple[Bundle, ...], tmp_path: Path, edgekit: Edgekit) -> None:
    place = tmp_path / "device"
    for bundle in bundles[:2]:
        code, out, _ = edgekit("install", bundle.path, "--to", place, "--no-restart")
        assert code == 0
        assert f"bundle is {bundle_id(bundle)}; no service was restarted" in out
    assert edgekit("install", "--rollback", "--to", place, "--no-restart")[0] == 0
    assert in_use(place) == bundle_id(bundles[0])
    code, _, err = edgekit("install", tmp_path / "absent", "--to", place)
    assert code == 1
    assert "not a bundle" in err
    assert edgekit("install", "--to", place)[0] == 2
    assert edgekit("install", bundles[0].path, "--rollback", "--to", place)[0] == 2


def test_a_device_without_a_release_is_told_and_left_as_it_is(
    bundles: tuple[Bundle, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgekit: Edgekit
) -> None:
    monkeypatch.setattr("edge.install.PLACE", tmp_path / "current")
    code, _, err = edgekit("install", bundles[0].path)
    assert code == 1
    assert "no edgekit is installed there; run the install.sh of a pack" in err
    assert not (tmp_path / "current").exists()


def test_the_name_of_a_bundle_is_a_plain_file_name(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    assert (bundles[0].path / MANIFEST).is_file()
    for network in ("../../etc", "a b/ü", "...", "x" * 300):
        write_manifest(tmp_path, replace(bundles[0].manifest, network=network))
        name = bundle_id(Bundle.open(tmp_path))
        assert Path(name).name == name
        assert not name.startswith(".")
        assert len(name) < 60
