"""`edgekit run` inside a test: what it says, its exit code and its ledger."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from edgekit_command import in_this_process


@dataclass(frozen=True)
class Ran:
    """A run that has ended. code: its exit code. out, err: what it printed. ledger: None where it wrote none."""

    code: int
    out: str
    err: str
    ledger: dict[str, Any] | None

    @property
    def error(self) -> str:
        """The one line that tells why it ended badly, empty where it did not."""
        lines = [line.removeprefix("error: ") for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == (1 if self.code == 1 else 0), self.err
        assert "Traceback" not in self.err
        return "".join(lines)

    @property
    def frames(self) -> dict[str, Any]:
        """The ledger, which adds up."""
        assert self.ledger is not None, self.err
        counted = sum(self.ledger[key] for key in ("processed", "dropped", "rejected", "failed", "in_flight"))
        assert counted == self.ledger["captured"]
        return self.ledger


class EdgekitRun:
    """Runs the command in this process, in `folder`."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._edgekit = folder, in_this_process(capsys, monkeypatch)
        monkeypatch.chdir(folder)
        for name in ("OPENCV_LOG_LEVEL", "OPENCV_FFMPEG_LOGLEVEL"):  # the command sets them; taken back after the test
            monkeypatch.setenv(name, "ERROR" if name == "OPENCV_LOG_LEVEL" else "-8")

    def __call__(self, *arguments: object) -> Ran:
        ledger = self.folder / "ledger.json"
        ledger.unlink(missing_ok=True)
        own = () if "--json" in arguments else ("--json", ledger)
        code, out, err = self._edgekit("run", *arguments, *own, "--engine", "litert", "--threads", 1)
        return Ran(code, out, err, json.loads(ledger.read_text()) if ledger.exists() else None)
