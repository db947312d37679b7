"""`edgekit pack`: every wheel that the device needs and no other, an archive that is the same each time, errors in one line."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from importlib.metadata import Distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from edgekit_command import Edgekit
from foreign_bundles import MASK, write_bundle
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packs import install

from edge.bundle import BUILTIN, Bundle
from edge.errors import BundleError, EdgekitError
from edge.manifest import MANIFEST
from edge.targets import TARGETS
from edgekit import own_wheel as own
from edgekit import pack
from edgekit.pip import explained, run_pip
from edgekit.wheels import Platform, Wheel, check_python, closure

PI = Platform("aarch64", "3.13", ("manylinux_2_28_aarch64",))
HERE = f"3.{sys.version_info[1]}"


def wheel(name: str, *requires: str, version: str = "1.0") -> Wheel:
    return Wheel(Path(f"{name}.whl"), name, version, tuple(map(Requirement, requires)))


def table(*members: Wheel) -> dict[str, Wheel]:
    return {member.name: member for member in members}


# What is needed


def test_markers_are_those_of_the_device() -> None:
    ours = wheel(
        "edgekit-ultrasound",
        "a; python_version < '3.12'",
        "b; python_version >= '3.12'",
        "c; platform_machine == 'aarch64'",
        "d; sys_platform == 'win32'",
        "e; extra == 'web'",
        "f; extra == 'other'",
    )
    there = table(ours, *(wheel(name) for name in "abcdef"))
    needed, absent = closure(there, ours.name, ["web"], PI.environment)
    assert (needed, absent) == ({ours.name, "b", "c", "e"}, [])


def test_what_pip_left_out_for_this_machine_is_asked_for() -> None:
    ours = wheel("edgekit-ultrasound", "Typing_Extensions>=4; python_version >= '3.13'", "rich[fast]>=13")
    rich = wheel("rich", "speed>2; extra == 'fast'", version="15.0")
    needed, absent = closure(table(ours, rich), ours.name, [], PI.environment)
    assert absent == ["Typing_Extensions>=4", "speed>2"]
    old = wheel("speed", version="1.9")
    assert closure(table(ours, rich, old, wheel("typing-extensions", version="4.1")), ours.name, [], PI.environment)[
        1
    ] == ["speed>2"]
    assert needed == {ours.name, "rich"}


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh")), min_size=1))
def test_the_closure_is_what_can_be_reached_and_ends_in_circles(graph: dict[str, set[str]]) -> None:
    start = min(graph)
    members = table(*(wheel(name, *sorted(graph.get(name, ()))) for name in "abcdefgh"))
    needed, absent = closure(members, start, [], PI.environment)
    reached, ahead = {start}, [start]
    while ahead:
        fresh = graph.get(ahead.pop(), set()) - reached
        reached |= fresh
        ahead += fresh
    assert (needed, absent) == (reached, [])


def test_only_a_python_that_edgekit_runs_on_is_packed_for() -> None:
    for python in ("3.11", "3.13"):
        check_python(python)
    for python in ("3.10", "3.14", "3.9"):
        with pytest.raises(EdgekitError, match=rf"--python {python}: edgekit needs Python "):
            check_python(python)
    with pytest.raises(ValueError, match="no version like"):
        Platform("aarch64", "2.7", ())


# pip's words


def test_a_wheel_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    said = run_pip(["download", "--no-index", "--dest", str(tmp_path / "out"), "no-such-package==1.0"])
    assert said is not None
    line = explained(said, "for aarch64 and Python 3.13")
    assert line.startswith("no wheel of no-such-package==1.0 for aarch64 and Python 3.13; ")


def test_a_network_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    arguments = ["download", "--index-url", "http://127.0.0.1:9/", "--retries", "1", "--dest", str(tmp_path), "numpy"]
    said = run_pip(arguments)
    assert said is not None
    assert "no network; connect" in explained(said, "for aarch64 and Python 3.13")


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("x\nERROR: Could not install: [Errno 28] No space left on device\n", "no space left on the disk"),
        (
            "noise\nERROR: ResolutionImpossible: help\nafter\n",
            "pip cannot gather the wheels here: ResolutionImpossible",
        ),
        ("", "it said nothing"),
    ],
)
def test_what_else_pip_says_is_one_line(said: str, line: str) -> None:
    found = explained(said, "here")
    assert line in found
    assert "\n" not in found


# Our own wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = Path(own.__file__).resolve().parents[1]
    before = set(checkout.iterdir())
    made = own.own_wheel(tmp_path_factory.mktemp("own"))
    assert set(checkout.iterdir()) == before
    return made


def test_a_checkout_is_known_by_what_a_build_left_in_it_too(tmp_path: Path) -> None:
    """Started in the checkout, Python finds the egg-info there before the installation, with every file in its list."""
    info = tmp_path / "edgekit_ultrasound.egg-info"
    info.mkdir()
    (info / "PKG-INFO").write_text("Name: edgekit-ultrasound\nVersion: 0\n")
    (info / "SOURCES.txt").write_text("edgekit/own_wheel.py\n")
    assert own._checkout(Distribution.at(info)) == Path(own.__file__).resolve().parents[1]


def names(path: Path) -> set[str]:
    with ZipFile(path) as archive:
        return {name for name in archive.namelist() if not name.endswith("/RECORD")}


def test_our_wheel_has_all_that_a_device_needs(built: Path) -> None:
    inside = names(built)
    folder = BUILTIN["emtnet"]
    for file in [folder / MANIFEST, *(folder / file.path for file in Bundle.open(folder).files())]:
        assert str(file.relative_to(folder.parents[2])) in inside
    assert {"edge/systemd/edgekit.service", "edgekit/pack_files/install.sh", "edgekit/commands/install.py"} <= inside
    assert not any("__pycache__" in name or name.startswith("tests") for name in inside)


def test_an_installation_gives_the_wheel_back_that_it_came_from(built: Path, tmp_path: Path) -> None:
    assert (
        run_pip(["install", "--no-index", "--no-deps", "--no-compile", "--target", str(tmp_path / "lib"), str(built)])
        is None
    )
    (info,) = (tmp_path / "lib").glob("*.dist-info")
    (tmp_path / "again").mkdir()
    again = own._reassembled(Distribution.at(info), tmp_path / "again")
    assert again.name == built.name
    assert names(again) == names(built)
    with ZipFile(again) as one, ZipFile(built) as other:
        assert all(one.read(name) == other.read(name) for name in names(built))
    twice = own._reassembled(Distribution.at(info), tmp_path)
    assert twice.read_bytes() == again.read_bytes()
    assert Wheel.read(again).requires == Wheel.read(built).requires


def test_a_file_that_is_no_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.whl").write_bytes(b"PK")
    with pytest.raises(EdgekitError, match=r"broken\.whl: not a wheel"):
        Wheel.read(tmp_path / "broken.whl")


# The archive


def test_the_same_content_makes_the_same_archive(tmp_path: Path) -> None:
    made: list[Path] = []
    for turn in ("one", "two"):
        folder = tmp_path / turn / "pack"
        (folder / "deep").mkdir(parents=True)
        for name in sorted(("b", "a", "deep/c"), reverse=turn == "two"):
            (folder / name).write_text(name)
            os.utime(folder / name, (len(made) * 1000, len(made) * 1000))
        (folder / "a").chmod(0o755 if turn == "one" else 0o700)
        made.append(tmp_path / f"{turn}.tar.gz")
        pack._archive(folder, made[-1])
    assert made[0].read_bytes() == made[1].read_bytes()
    with tarfile.open(made[0]) as archive:
        entries = {entry.name: (entry.mode, entry.uid, entry.uname) for entry in archive}
    assert entries == {
        "pack": (0o755, 0, "root"),
        "pack/a": (0o755, 0, "root"),
        "pack/b": (0o644, 0, "root"),
        "pack/deep": (0o755, 0, "root"),
        "pack/deep/c": (0o644, 0, "root"),
    }


def test_a_bundle_that_the_target_cannot_run_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", MASK)
    with pytest.raises(BundleError, match=r"has no litert artifact for .*, only onnx, openvino; export again"):
        pack.write_pack(bundle, TARGETS["pi4"], tmp_path / "pack.tar.gz")
    with pytest.raises(BundleError, match="has no golden frames for the device's self-test; export again"):
        pack.write_pack(bundle, TARGETS["nuc"], tmp_path / "pack.tar.gz")
    assert [item.name for item in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (("--target", "toaster"), 2, "'toaster' is not one of 'pi4', 'pi5', 'nuc'"),
        (("--target", "pi4", "--python", "3.10"), 1, "--python 3.10: edgekit needs Python"),
        (("--target", "pi4", "--python", "three"), 2, "give a version like 3.11"),
    ],
)
def test_what_cannot_be_packed_is_told_in_a_line(
    options: tuple[str, ...],
    code: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edgekit: Edgekit,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended, _, err = edgekit("pack", *options)
    assert ended == code
    assert told in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


# For real


@pytest.mark.slow
def test_a_pack_installs_on_this_machine_without_network_and_runs(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "own_wheel", lambda folder: Path(shutil.copy(built, folder)))
    target = replace(TARGETS["nuc"], engine="litert")
    said: list[str] = []
    try:
        written = pack.write_pack(
            Bundle.open(BUILTIN["emtnet-s"]),
            target,
            tmp_path / "pack.tar.gz",
            python=HERE,
            minimal=True,
            say=said.append,
        )
    except EdgekitError as error:
        if "no network" in str(error):
            pytest.skip(f"needs wheels: {error}")
        raise
    again = pack.write_pack(
        Bundle.open(BUILTIN["emtnet-s"]), target, tmp_path / "again.tar.gz", python=HERE, minimal=True, say=said.append
    )
    assert sum(line.startswith("downloading") for line in said) <= 1, (
        "the second pack is made of what the first one kept"
    )
    assert again.path.read_bytes() == written.path.read_bytes()
    with tarfile.open(written.path) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.glob("edgekit-*/")
    sums = dict(line.split("  ")[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    assert sums.keys() == files.keys() - {"SHA256SUMS"}
    assert all(hashlib.sha256(files[name].read_bytes()).hexdigest() == sha256 for name, sha256 in sums.items())

    root = tmp_path / "root"
    done = install(folder, root, "--python", sys.executable, PIP_INDEX_URL="http://127.0.0.1:9/")
    assert done.returncode == 0, done.stderr
    assert "litert int8 passes the self-test" in done.stdout
    unit = (root / "etc/systemd/system/edgekit.service").read_text()
    (start,) = (line.removeprefix("ExecStart=") for line in unit.splitlines() if line.startswith("ExecStart="))
    arguments = [
        str(root / part.lstrip("/")) if part.startswith("/") else part
        for part in start.replace("$EDGEKIT_OPTIONS", "--duration 2 --json ledger.json").split()
    ]
    device = dict(line.split("=") for line in (root / "opt/edgekit/current/bundle/device.env").read_text().split())
    assert device["EDGEKIT_ENGINE"] == "litert"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "EDGEKIT_SOURCE": "phantom:10", **device}
    ran = subprocess.run(
        arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert '"processed": 0' not in (tmp_path / "ledger.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["pi4", "pi5", "nuc"])
@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_every_target_can_be_packed(target: str, python: str, tmp_path: Path) -> None:
    chosen = TARGETS[target]
    try:
        written = pack.write_pack(Bundle.open(BUILTIN[chosen.network]), chosen, tmp_path / "pack.tar.gz", python=python)
    except EdgekitError as error:
        if "no network" in str(error):
            pytest.skip(f"needs wheels: {error}")
        raise
    engine = {"litert": "ai-edge-litert", "openvino": "openvino"}[chosen.engine]
    assert any(line.startswith(f"{engine} ") for line in written.wheels)
    with tarfile.open(written.path) as archive:
        tags = [name for name in archive.getnames() if name.endswith(".whl")]
    other = {"aarch64": "x86_64", "x86_64": "aarch64"}[chosen.machine]
    assert not any(other in name for name in tags)
    assert any(chosen.machine in name for name in tags)
    assert any(line.startswith(f"{own.NAME} ") for line in written.wheels)
