"""The pip of this environment, run apart, and what it says when it fails, in one line."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import PathFinder
from typing import Final

from edge.errors import EdgekitError

_NO_WHEEL: Final = re.compile(
    r"No matching distribution found for (\S+)|Could not find a version that satisfies the requirement (\S+)"
)
_NO_NETWORK: Final = re.compile(
    r"Failed to establish a new connection|name resolution|NameResolutionError|Max retries exceeded|ConnectTimeout|ProxyError"
)

Say = Callable[[str], None]


def run_pip(
    arguments: Iterable[str], variables: Mapping[str, str] | None = None, *, say: Say | None = None
) -> str | None:
    """Run pip. None when it went well, else all it said. say: is told each package it looks at.

    Raises EdgekitError where there is no pip.
    """
    if PathFinder.find_spec("pip") is None:  # not importlib.util's, at which setuptools puts itself in distutils' place
        raise EdgekitError(f"{sys.prefix}: has no pip, which gathers the wheels; python -m ensurepip")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    environment = {**os.environ, **(variables or {}), "PYTHONWARNINGS": "ignore", "PIP_PROGRESS_BAR": "off"}
    lines = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
    ) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line)
            if say is not None and line.startswith("Collecting "):
                say(line.split("(from", maxsplit=1)[0].strip())
    return "".join(lines) if pip.returncode else None


def explained(output: str, where: str) -> str:
    """What pip said, as one line of what, where and what to do. where: as "for aarch64 and Python 3.11"."""
    if _NO_NETWORK.search(output):
        return f"wheels {where} cannot be downloaded: no network; connect, or pack where they were downloaded before"
    if found := _NO_WHEEL.search(output):
        package = next(group for group in found.groups() if group)
        return f"no wheel of {package} {where}; choose another --python or --target"
    if "No space left" in output:
        return "wheels cannot be downloaded: no space left on the disk; free it"
    return f"pip cannot gather the wheels {where}: {last_error(output)}"


def last_error(output: str) -> str:
    """The last line that pip calls an error, else its last."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR:").strip()
