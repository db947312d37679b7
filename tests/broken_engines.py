"""Engines that take their process with them, as a wheel for a newer processor does: packages of the real ones' names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import edge.probe

PACKAGES: Final = {"openvino": "openvino", "litert": "ai_edge_litert", "onnx": "onnxruntime"}


def dies(signal: str) -> str:
    """A package that ends its process by a signal, such as SIGILL, when it is imported."""
    return f"import os, signal\nos.kill(os.getpid(), signal.{signal})\n"


class FakeEngines:
    """A folder that stands first on the path, here and in children."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        self._forget = monkeypatch.delitem

    def install(self, engine: str, source: str) -> Path:
        """Put a package in the place of an engine's; returns its file."""
        import sys

        package = PACKAGES.get(engine, engine)
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            self._forget(sys.modules, name)
        file = self.folder / package / "__init__.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        return file


@pytest.fixture(autouse=True)
def another_process() -> Iterator[None]:
    """What this process knows of engines is forgotten before and after a test."""
    edge.probe._known_fault.cache_clear()
    yield
    edge.probe._known_fault.cache_clear()


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngines:
    """Fake engines, and an empty cache."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "engines"
    folder.mkdir()
    return FakeEngines(folder, monkeypatch)
