"""Which engine of a device a bundle runs on: each one's self-test in a process of its own, so that it dies alone if it does."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge.bundle import Bundle
from edge.choice import by_preference
from edge.engines import is_installed
from edge.errors import EngineError
from edge.golden import SelfTest
from edge.manifest import Artifact
from edge.own_python import own_python

LIMIT_S: Final = 300.0
"""What a self-test may take; on a Raspberry Pi 4 it takes seconds."""
_WHY: Final = {"SIGILL": ", an instruction that this processor does not have"}


def trial(bundle: Bundle, *, say: Callable[[str], None] = lambda line: None, limit_s: float = LIMIT_S) -> SelfTest:
    """The self-test of the first artifact that passes, in the order in which `Bundle.choose` takes them.

    say: is told what became of each. Raises EngineError when none passes, with every reason.
    """
    there = [artifact for artifact in bundle.runs() if is_installed(artifact.engine)]
    if not there:
        engines = ", ".join(sorted({artifact.engine for artifact in bundle.manifest.artifacts}))
        raise EngineError(f"{bundle.path}: none of its engines is installed here ({engines})")
    failures = []
    for artifact in by_preference(there, weight_range=bundle.manifest.weight_range):
        try:
            test = tested_apart(bundle.path, artifact, limit_s=limit_s)
        except EngineError as error:
            failures.append(str(error))
            say(str(error))
            continue
        say(str(test))
        if test.passed:
            return test
        failures.append(str(test))
    raise EngineError(f"{bundle.path}: no engine passes the self-test: {'; '.join(failures)}")


def tested_apart(folder: Path, artifact: Artifact, *, limit_s: float = LIMIT_S) -> SelfTest:
    """The self-test of an artifact in another process. Raises EngineError where that dies, hangs or cannot run the network."""
    name = f"{artifact.engine} {artifact.precision}"
    options = (str(folder.resolve()), artifact.engine, artifact.precision)
    command, environment = own_python("-m", "edge.golden", *options)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False, env=environment
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise EngineError(f"{name} gives no answer within {limit_s:.0f} s") from None
    if done.returncode < 0:
        died = signal.Signals(-done.returncode).name
        raise EngineError(f"{name} dies with {died}{_WHY.get(died, '')}")
    try:
        record = json.loads(done.stdout.splitlines()[-1])
        if "error" in record:
            raise EngineError(f"{name} does not run: {record['error']}")
        fields = record["test"]
        return SelfTest(**{**fields, "reasons": tuple(fields["reasons"])})
    except (ValueError, LookupError, TypeError):
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise EngineError(f"{name} does not run (exit code {done.returncode}): {last[0]}") from None
