"""A measurement in a fresh process of this Python, and what it says."""

import subprocess
from collections.abc import Mapping

from edge.errors import EngineError
from edge.own_python import own_python


def run_apart(
    name: str, module: str, *options: str, variables: Mapping[str, str] | None = None, limit_s: float | None = None
) -> str:
    """Run a module in a fresh process; returns the last line that it printed.

    name: of the artifact, for errors. variables: set there beside this process's own. Raises EngineError where it fails, with its
    own last words, and subprocess.TimeoutExpired after `limit_s`.
    """
    command, environment = own_python("-m", module, *options)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | dict(variables or {}), check=False, timeout=limit_s
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise EngineError(f"{name}: {lines[-1].rpartition('Error: ')[2]}")
    return done.stdout.splitlines()[-1]
