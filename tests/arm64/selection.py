"""Which modules of tests can run on a device: those that need nothing but what the runtime brings, and pytest with Hypothesis."""

import ast
import functools
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Final

PROVIDED: Final = frozenset({"numpy", "cv2", "ai_edge_litert", "typer", "rich", "pytest", "hypothesis"})
"""Packages that are there: those of the `litert` extra and of the tests themselves."""
RUNTIME: Final = "test_edge_*.py"


def runnable(
    root: Path, *, pattern: str = RUNTIME, provided: Collection[str] = PROVIDED
) -> tuple[list[Path], dict[str, str]]:
    """Test modules in `root`/tests that match `pattern` and whose imports, followed through the repository, are all provided.

    Returned beside them: by name of each other module, the first package that it lacks. What a function imports is not asked: a
    test that needs more than its module says skips by itself.
    """
    found: list[Path] = []
    lacking: dict[str, str] = {}
    for file in sorted((root / "tests").glob(pattern)):
        missing = sorted(package for package in _needed(root, file) if package not in provided)
        if missing:
            lacking[file.name] = missing[0]
        else:
            found.append(file)
    return found, lacking


def _needed(root: Path, start: Path) -> set[str]:
    """Packages from outside that are imported when `start` is, the standard library left out."""
    outside: set[str] = set()
    seen, waiting = {start}, [start]
    while waiting:
        for name in _imported(waiting.pop()):
            own = _own_files(root, name)
            waiting += [file for file in own if file not in seen]
            seen.update(own)
            if not own and (top := name.partition(".")[0]) not in sys.stdlib_module_names:
                outside.add(top)
    return outside


@functools.cache
def _imported(file: Path) -> tuple[str, ...]:
    """Modules that the module's own statements import; `from a import b` gives a.b too, which may be a module."""
    found: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


@functools.cache
def _own_files(root: Path, name: str) -> tuple[Path, ...]:
    """Files of the repository that importing `name` runs: packages on the way, and the module, also for a name in it."""
    for base in (root / "tests", root):
        parts, files = name.split("."), list[Path]()
        for count in range(1, len(parts) + 1):
            place = base.joinpath(*parts[:count])
            files += [file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()]
        if files:
            return tuple(files)
    return ()
