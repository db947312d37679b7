"""Errors: each has an exit code, and what is absent is told apart from what is broken."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import errors
from edge.errors import (
    BundleError,
    DriftExceeded,
    EdgekitError,
    EngineError,
    IntegrityError,
    MissingDependencyError,
    how_to_install,
    require,
)


def subclasses(kind: type[EdgekitError]) -> Iterator[type[EdgekitError]]:
    for sub in kind.__subclasses__():
        yield sub
        yield from subclasses(sub)


def test_every_error_has_its_exit_code() -> None:
    """1: could not do it; 3: did it and found drift or a regression. 2 belongs to usage errors."""
    codes = {kind.__name__: kind.exit_code for kind in subclasses(EdgekitError)}
    assert len(codes) >= 10
    assert EdgekitError.exit_code == 1
    assert codes.pop("DriftExceeded") == codes.pop("RegressionFound") == 3
    assert set(codes.values()) == {1}


def test_every_error_of_the_module_is_caught_by_the_one_handler() -> None:
    kinds = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, BaseException)]
    assert DriftExceeded in kinds
    assert all(issubclass(kind, EdgekitError) for kind in kinds)
    assert not issubclass(EdgekitError, (ValueError, RuntimeError, OSError))  # no `except` for those may swallow one


def test_the_tree() -> None:
    assert issubclass(IntegrityError, BundleError)
    assert issubclass(MissingDependencyError, EngineError)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package's __init__.py, to be written."""
    folder = tmp_path / "edgekit_probe_package"
    folder.mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder / "__init__.py"


def test_require_gives_the_module() -> None:
    assert require("json.decoder", extra="none").__name__ == "json.decoder"


@pytest.mark.parametrize("module", ["edgekit_no_such_package", "edgekit_no_such_package.interpreter"])
def test_an_absent_package_names_the_extra(module: str) -> None:
    with pytest.raises(MissingDependencyError, match=r"edgekit-ultrasound\[litert\]") as caught:
        require(module, extra="litert")
    assert module in str(caught.value)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("import edgekit_dependency_of_it", ModuleNotFoundError, "edgekit_dependency_of_it"),
        ("raise ImportError('libengine.so.3: cannot open')", ImportError, "libengine"),
        ("raise OSError('illegal instruction')", OSError, "illegal instruction"),
    ],
)
def test_a_broken_package_shows_its_own_error(package: Path, source: str, kind: type[Exception], message: str) -> None:
    package.write_text(source)
    with pytest.raises(kind, match=message) as caught:
        require(package.parent.name, extra="litert")
    assert not isinstance(caught.value, EdgekitError)


def test_a_package_without_the_module_is_broken_not_absent(package: Path) -> None:
    package.write_text("")
    with pytest.raises(ModuleNotFoundError, match="interpreter"):
        require(f"{package.parent.name}.interpreter", extra="litert")


def test_an_environment_without_pip_is_not_told_to_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.errors.PathFinder.find_spec", lambda name: object())
    assert how_to_install("litert", again=True) == "pip install --force-reinstall 'edgekit-ultrasound[litert]'"
    monkeypatch.setattr("edge.errors.PathFinder.find_spec", lambda name: None)
    assert (
        how_to_install("litert")
        == "there is no pip here: install a pack with edgekit-ultrasound[litert] (edgekit pack)"
    )
