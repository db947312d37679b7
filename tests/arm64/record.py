"""The gate's steps: each a line with its time, all of them a JSON report."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_SHORTEST_S: Final = 1.0


class GateError(Exception):
    """Something does not hold; the message says what."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried. where: the computer. detail: what was found, or what is wrong."""

    where: str
    name: str
    passed: bool
    seconds: float
    detail: str


class Record:
    """Runs steps and remembers them; steps of several threads may run at once. limit_s: for all of them together."""

    def __init__(
        self, *, limit_s: float, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock, self._start, self._limit_s = clock, clock(), limit_s
        self._say, self._lock = say, threading.Lock()
        self.steps: list[Step] = []
        self.figures: dict[str, Any] = {}

    @property
    def passed(self) -> bool:
        return bool(self.steps) and all(step.passed for step in self.steps)

    def left_s(self, wish_s: float) -> float:
        """How long something may take that asks for `wish_s`. Raises GateError when the time is over."""
        left = self._limit_s - (self._clock() - self._start)
        if left < _SHORTEST_S:
            raise GateError(f"the gate's time is over ({self._limit_s / 60:.0f} minutes)")
        return min(wish_s, left)

    def say(self, text: str) -> None:
        with self._lock:
            self._say(f"{self._clock() - self._start:6.0f} s  {text}")

    def step(self, where: str, name: str, work: Callable[[], str]) -> bool:
        """Do it, and tell how it went. Whatever it raises, but what ends the program, is a failure of this step."""
        start = self._clock()
        try:
            detail, passed = work(), True
        except Exception as error:
            kind = "" if isinstance(error, GateError) else f"{type(error).__name__}: "
            detail, passed = kind + str(error), False
        self._add(Step(where, name, passed, round(self._clock() - start, 1), detail))
        return passed

    def fail(self, where: str, name: str, detail: str) -> None:
        """Something went wrong outside the steps."""
        self._add(Step(where, name, False, 0.0, detail))

    def _add(self, step: Step) -> None:
        with self._lock:
            self.steps.append(step)
        told = "ok" if step.passed else "FAILED"
        self.say(f"{step.where:<6} {step.name:<12} {step.seconds:6.1f} s  {told}  {step.detail}")

    def write(self, path: Path) -> None:
        report = {
            "passed": self.passed,
            "seconds": round(self._clock() - self._start, 1),
            "steps": [asdict(step) for step in self.steps],
            **self.figures,
        }
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
