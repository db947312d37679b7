"""The runtime stays light, and imports between the packages run downwards only."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
RANK = {"edgekit": 4, "quantize": 3, "emtnet": 2, "calibration": 1, "benchmarks": 1, "edge": 0}
"""A package may import those of lower rank and itself."""
TRAINING = {"torch", "torchvision", "onnx", "onnxscript", "nncf", "sklearn", "scipy", "PIL", "pandas", "matplotlib"}
ENGINES = {"onnxruntime", "openvino", "ai_edge_litert", "tensorflow"}
COMMAND_LINE = {"typer", "rich", "click"}
OUTSIDE = {ROOT / "benchmarks/zoo"}
"""Packages for tests and scripts: they look into all rooms, no room may look into them, and they are not distributed."""
HEAVY = TRAINING | ENGINES | COMMAND_LINE | RANK.keys() - {"edge"}
NAME = re.compile(rf"({'|'.join(RANK)})(\.\w+)+(:\w+)?")
"""A late-bound name, such as "edge.engines.openvino:open_model"."""


def modules_after(statement: str) -> set[str]:
    """Top-level modules a fresh interpreter holds after a statement."""
    probe = f"{statement}\nimport json, sys\nprint(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules_of(package: str) -> list[str]:
    files = _modules(package)
    return [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]


def _modules(package: str) -> list[Path]:
    """The package's modules; scripts in folders that are no package have an environment of their own."""
    return sorted(
        path
        for path in (ROOT / package).rglob("*.py")
        if (path.parent / "__init__.py").is_file() and path.parent not in OUTSIDE
    )


@pytest.mark.parametrize(
    "module",
    [
        "edge",
        "edge.predictor",
        "edge.bundle",
        "edge.overlay",
        "edge.files",
        "edge.phantom",
        "edge.engines",
        "edge.stream",
        "edge.analysis",
    ],
)
def test_the_runtime_imports_nothing_heavy(module: str) -> None:
    assert not HEAVY & modules_after(f"import {module}")


def test_no_module_of_the_runtime_imports_anything_heavy() -> None:
    modules = modules_of("edge")
    assert {"edge", "edge.bundle", "edge.engines", "edge.engines.openvino"} <= set(modules)
    assert not HEAVY & modules_after(f"import {', '.join(modules)}")


def test_the_probe_would_notice() -> None:
    assert "typer" in modules_after("import typer")
    assert "calibration" in modules_after("import edge.bundle, calibration")


# The architecture


def imports(tree: ast.AST, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Every module that `module` imports, names in functions and late-bound names in strings too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = module.split(".")[: len(module.split(".")) - node.level + is_package]
            yield ".".join([*base, node.module or ""])
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value):
            yield node.value


def upward(module: str, imported: str) -> bool:
    """Whether an import runs up, or across to a package of the same rank."""
    source, target = module.partition(".")[0], imported.partition(".")[0]
    return target in RANK and source != target and RANK[target] >= RANK[source]


def parsed(package: str) -> Iterator[tuple[str, ast.Module, bool]]:
    for file in _modules(package):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(file.read_text(encoding="utf-8")), file.name == "__init__.py"


def test_the_packages_are_those_of_the_distribution() -> None:
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} == set(RANK)


def test_all_packages_are_distributed_but_those_outside() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {file.parent for package in RANK for file in (ROOT / package).rglob("__init__.py")}
    assert {ROOT / name.replace(".", "/") for name in declared} == there - OUTSIDE


@pytest.mark.parametrize("package", RANK)
def test_no_room_imports_what_stands_outside(package: str) -> None:
    outside = tuple(".".join(folder.relative_to(ROOT).parts) for folder in OUTSIDE)
    for module, tree, is_package in parsed(package):
        assert not [name for name in imports(tree, module, is_package=is_package) if name.startswith(outside)], module


@pytest.mark.parametrize("package", RANK)
def test_imports_run_downwards(package: str) -> None:
    found = {
        module: sorted({name for name in imports(tree, module, is_package=is_package) if upward(module, name)})
        for module, tree, is_package in parsed(package)
    }
    assert package in found
    assert not {module: names for module, names in found.items() if names}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edge.bundle", "import quantize.export"),
        ("edge.bundle", "import numpy, calibration as c"),
        ("edge.bundle", "from edgekit.console import say"),
        ("edge.bundle", "def f():\n    from emtnet.weights import load\n"),
        ("edge.bundle", "if TYPE_CHECKING:\n    from benchmarks import bench\n"),
        ("edge.bundle", "OPEN = {'x': 'quantize.export:export'}"),
        ("calibration.drift", "import benchmarks.latency"),
        ("benchmarks.bench", "from calibration import dataset"),
        ("emtnet.train", "from quantize.pipeline import x"),
        ("quantize.export", "import edgekit"),
    ],
)
def test_the_walk_would_notice(module: str, source: str) -> None:
    assert any(upward(module, name) for name in imports(ast.parse(source), module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("edgekit.cli", "import quantize.export, benchmarks, edge"),
        ("quantize.export", "from emtnet.weights import load\nfrom calibration import subset"),
        ("emtnet.train", "from edge.preprocess import preprocess"),
        ("edge.bundle", "import numpy, edge.atomic\nfrom . import errors\nfrom .engines import onnx"),
        ("edge.bundle", "'the calibration. benchmarks'"),
    ],
)
def test_the_walk_allows_downward_imports(module: str, source: str) -> None:
    assert not any(upward(module, name) for name in imports(ast.parse(source), module))


def test_relative_imports_are_resolved() -> None:
    source = ast.parse("from . import onnx\nfrom ..errors import require\nfrom .onnx import open_model")
    assert list(imports(source, "edge.engines.litert")) == ["edge.engines.", "edge.errors", "edge.engines.onnx"]
    assert list(imports(source, "edge.engines", is_package=True)) == [
        "edge.engines.",
        "edge.errors",
        "edge.engines.onnx",
    ]


def test_modules_of_the_runtime_load_only_the_standard_library_numpy_and_opencv() -> None:
    """Module level only: an engine or adapter is imported where it is opened."""
    allowed = sys.stdlib_module_names | {"numpy", "cv2", "edge"}
    for module, tree, is_package in parsed("edge"):
        statements = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in statements:
            for name in imports(node, module, is_package=is_package):
                assert name.partition(".")[0] in allowed, f"{module} imports {name}"
