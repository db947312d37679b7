"""`edgekit` inside a test: a command line run in this process."""

import sys
from collections.abc import Callable

import pytest

from edgekit.cli import main

Edgekit = Callable[..., tuple[int, str, str]]


def in_this_process(capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Edgekit:
    """A function that runs the app with its arguments; exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, arguments)])
        capture.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capture.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return run


def one_line(text: str) -> str:
    """The error line; anything an engine's library logged before it is not ours."""
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]
