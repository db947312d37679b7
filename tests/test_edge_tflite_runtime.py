"""tflite-runtime where it is not, or cannot work: what it runs by name, when it is chosen, what is said."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_bundles import bundle, manifest_of

import edge.bundle
import edge.choice
from edge.bundle import Bundle
from edge.choice import engine_order
from edge.device import VNNI
from edge.engines import ENGINES, is_installed, is_present, obstacle, open_model
from edge.errors import BundleError, EngineError, MissingDependencyError
from edge.manifest import ARTIFACTS_OF, ENGINE_ORDER, Artifact
from edgekit.commands.options import EngineName

__all__ = ["bundle"]  # the fixture

Have = Callable[..., None]


@pytest.fixture
def have(monkeypatch: pytest.MonkeyPatch) -> Have:
    """Say which engines are there, and which of them cannot work; INT8 saturates on none."""
    monkeypatch.setattr(edge.choice, "engine_fault", lambda name: None)
    monkeypatch.setattr(edge.choice, "cpu_features", lambda: VNNI)

    def say(*engines: str, broken: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(edge.choice, "is_present", lambda name: name in (*engines, *broken))
        for module in (edge.choice, edge.bundle):
            monkeypatch.setattr(module, "is_installed", lambda name: name in engines)

    return say


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    """Install a tflite-runtime of some version that must not be imported beyond its empty package; None: without metadata."""

    def install(version: str | None) -> None:
        package = tmp_path / "tflite_runtime"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "interpreter.py").write_text("raise SystemExit('imported')")
        if version is not None:
            info = tmp_path / f"tflite_runtime-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tflite-runtime\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("tflite_runtime", None)


# Which artifact


def test_every_engine_has_an_opener_an_option_and_a_rank() -> None:
    assert {*ENGINES} == {*ARTIFACTS_OF} == {*ENGINE_ORDER} == {*EngineName} == {*engine_order("aarch64")}


def test_it_runs_the_files_of_litert_under_its_own_name(bundle: Bundle) -> None:
    for precision in ("int8", "fp32"):
        litert, ours = (bundle.choose(engine=name, precision=precision) for name in ("litert", "tflite-runtime"))
        assert ours == replace(litert, engine="tflite-runtime")
        assert bundle.verified_paths(ours) == bundle.verified_paths(litert)


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (("litert", "tflite-runtime"), "litert"),
        (("tflite-runtime",), "tflite-runtime"),
        ((), None),
    ],
)
def test_auto_takes_it_where_litert_is_not(
    bundle: Bundle,
    have: Have,
    there: tuple[str, ...],
    chosen: str | None,
    machine: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    have(*there)
    artifact = bundle.choose()
    assert artifact.engine == (chosen or engine_order(machine)[0])
    assert artifact.precision == "int8"


def test_one_that_cannot_work_is_passed_over_and_alone_is_chosen_to_say_why(bundle: Bundle, have: Have) -> None:
    have("onnx", broken=("tflite-runtime",))
    assert bundle.choose().engine == "onnx"
    have(broken=("tflite-runtime",))
    assert bundle.choose().engine == "tflite-runtime"


def test_a_bundle_without_litert_files_has_none_for_it(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    rest = tuple(artifact for artifact in manifest.artifacts if artifact.engine != "litert")
    with pytest.raises(BundleError, match=r"no artifact for engine tflite-runtime, .* it has onnx int8, openvino fp32"):
        Bundle(tmp_path, replace(manifest, artifacts=rest)).choose(engine="tflite-runtime")


def test_it_is_listed_where_it_is_installed_or_named(bundle: Bundle, have: Have) -> None:
    have("litert")
    assert bundle.runs() == list(bundle.manifest.artifacts)
    assert {(a.engine, a.precision) for a in bundle.runs(["tflite-runtime"])} == {
        ("tflite-runtime", "int8"),
        ("tflite-runtime", "fp32"),
    }
    have("litert", "tflite-runtime")
    assert [a.engine for a in bundle.runs() if a.precision == "int8"] == [
        "onnx",
        "litert",
        "tflite-runtime",
        "openvino",
    ]


def test_a_manifest_calls_files_by_their_format(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path)
    ours = [artifact.run_by("tflite-runtime") for artifact in manifest.artifacts if artifact.engine == "litert"]
    with pytest.raises(ValueError, match="an artifact for tflite-runtime is written as one of litert"):
        replace(manifest, artifacts=tuple(ours))


def test_files_are_run_by_engines_of_their_format_only(bundle: Bundle) -> None:
    openvino: Artifact = bundle.choose(engine="openvino")
    with pytest.raises(ValueError, match="tflite-runtime does not run artifacts of openvino"):
        openvino.run_by("tflite-runtime")
    ours = bundle.choose(engine="tflite-runtime")
    assert ours.run_by("litert") in bundle.manifest.artifacts


# What is said


def refused(tmp_path: Path) -> str:
    with pytest.raises(EngineError) as caught:
        open_model("tflite-runtime", tmp_path / "model.tflite")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_with_numpy_2_it_is_refused_before_it_is_imported(
    tmp_path: Path, installed: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("2.14.0")
    monkeypatch.setattr(np, "__version__", "2.0.0")
    story = refused(tmp_path)
    assert story.startswith("tflite-runtime 2.14.0 is built for numpy 1, and numpy 2.0.0 is installed; ")
    assert "pip install 'edgekit-ultrasound[tflite-runtime]'" in story
    assert obstacle("tflite-runtime") == story
    assert is_present("tflite-runtime")
    assert not is_installed("tflite-runtime")


@pytest.mark.parametrize("version", ["2.13.0", "2.15.0", "2.5.0.post1", None])
def test_another_release_is_refused_before_it_is_imported(
    tmp_path: Path,
    installed: Callable[[str | None], None],
    version: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(version)
    monkeypatch.setattr(np, "__version__", "1.26.4")
    found = version or "of an unknown version"
    assert refused(tmp_path).startswith(f"tflite-runtime {found} is installed, edgekit runs 2.14 only; ")
    assert not is_installed("tflite-runtime")


def test_where_nothing_is_in_its_way_it_is_imported(
    tmp_path: Path, installed: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed("2.14.0")
    monkeypatch.setattr(np, "__version__", "1.26.4")
    assert is_installed("tflite-runtime")
    with pytest.raises(SystemExit, match="imported"):
        open_model("tflite-runtime", tmp_path / "model.tflite")


@pytest.mark.skipif(is_present("tflite-runtime"), reason="tflite-runtime is installed in this environment")
@pytest.mark.parametrize(
    ("python", "story"),
    [
        ((3, 11, 7), r"not installed; .*edgekit-ultrasound\[tflite-runtime\]"),
        ((3, 13, 1), r"no wheel for Python 3\.13; install it with Python 3\.11, or use --engine litert"),
    ],
)
def test_where_it_is_absent_the_way_to_it_is_told(
    tmp_path: Path, python: tuple[int, ...], story: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "version_info", python)
    with pytest.raises(MissingDependencyError, match=story):
        open_model("tflite-runtime", tmp_path / "model.tflite")
