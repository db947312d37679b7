"""An engine in a process of another Python: for two engines that no environment can hold together.

The child runs `python -m benchmarks.peer ENGINE PRECISION THREADS FILE` and answers one frame at a time over its pipes; what an
engine prints goes to its stderr. A message is a line of JSON with the length of what follows, and that, in numpy's own format.
"""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

import numpy as np
from numpy.typing import NDArray

from edge.engines import open_model
from edge.errors import EdgekitError, EngineError
from edge.frame import GreyImage

_CHECKOUT: Final = Path(__file__).resolve().parents[1]


class Peer:
    """An `edge.predictor.Engine` that another Python runs, and that says how long the last call took there.

    python: an interpreter with edgekit's base and the engine; run from a checkout, it uses this checkout. Raises EngineError with
    the child's own words, and when it ends.
    """

    def __init__(self, python: Path, engine: str, path: Path, *, precision: str, threads: int) -> None:
        command = [str(python), "-P", "-m", "benchmarks.peer", engine, precision, str(threads), str(path)]
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if (_CHECKOUT / "pyproject.toml").is_file():
            environment["PYTHONPATH"] = str(_CHECKOUT)
        self._name = engine
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.infer_ms = 0.0
        try:
            self._answer()
        except EngineError:
            self.close()
            raise

    def infer(self, image: GreyImage) -> Mapping[str, NDArray[np.float32]]:
        """As `Engine.infer`; afterwards `infer_ms` has what the call took, without the way there and back."""
        try:
            _send(_pipe(self._child.stdin), {}, {"image": image})
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def close(self) -> None:
        """End the child."""
        self._child.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self) -> Mapping[str, NDArray[np.float32]]:
        message = _receive(_pipe(self._child.stdout))
        if message is None:
            raise self._ended()
        head, arrays = message
        if "error" in head:
            raise EngineError(head["error"]) from RuntimeError(head["cause"])
        self.infer_ms = head["ms"]
        return arrays

    def _ended(self) -> EngineError:
        return EngineError(f"{self._name}: its process ended with status {self._child.wait()}; what it said is above")


def _pipe(end: Any) -> BinaryIO:
    pipe: BinaryIO = end
    return pipe


def _send(pipe: BinaryIO, head: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    content = io.BytesIO()
    if arrays:
        np.savez(content, **arrays)  # type: ignore[arg-type]
    pipe.write(json.dumps(head | {"bytes": content.tell()}).encode() + b"\n" + content.getvalue())
    pipe.flush()


def _receive(pipe: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """The next message, None when there is none to come."""
    line = pipe.readline()
    if not line:
        return None
    head = json.loads(line)
    content = pipe.read(head["bytes"])
    return head, dict(np.load(io.BytesIO(content), allow_pickle=False)) if content else {}


def _serve(engine: str, precision: str, threads: str, path: str) -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        opened = open_model(engine, Path(path), precision=precision, threads=int(threads))
        _send(answers, {"ms": 0.0}, {})
        while (message := _receive(sys.stdin.buffer)) is not None:
            try:
                started = time.perf_counter_ns()
                outputs = opened.infer(message[1]["image"])
                _send(answers, {"ms": (time.perf_counter_ns() - started) / 1e6}, outputs)
            except EngineError as error:
                _send(answers, _told(error), {})
    except EdgekitError as error:
        _send(answers, _told(error), {})


def _told(error: EdgekitError) -> dict[str, str]:
    return {"error": str(error), "cause": repr(error.__cause__)}


if __name__ == "__main__":
    _serve(*sys.argv[1:])
