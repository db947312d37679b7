"""Printing for a service manager: a priority before each line (sd-daemon(3)), one line a thing, nothing that is drawn anew."""

import os
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from edge.stream import StreamStatus

SUMMARY_S: Final = 300.0
APART_S: Final = 10.0
"""At least between two of them, however often a loose plug changes the source's state."""


class Level(IntEnum):
    """Priorities as syslog(3) counts them."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


def in_service() -> bool:
    """Whether a service manager started this and reads what it prints."""
    return not sys.stderr.isatty() and ("NOTIFY_SOCKET" in os.environ or is_journal(sys.stderr))


def is_journal(stream: TextIO) -> bool:
    """Whether journald reads this stream: JOURNAL_STREAM names its device and inode. A shell hands the variable on to what it
    starts, so that it alone says nothing.
    """
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file, or a closed one
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def marked(text: str, level: Level, stream: TextIO | None = None) -> str:
    """A line as it goes to `stream`, stderr unless said: for journald with its priority and in one piece, else as it is."""
    if not is_journal(sys.stderr if stream is None else stream):
        return text
    return f"<{level.value}>{' '.join(text.split())}"


class Summaries:
    """Says how a run goes every few minutes, and when its source comes or goes. clock: seconds, monotonic."""

    def __init__(self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self._state: object = None
        self._said_s = -float("inf")

    def tell(self, status: "StreamStatus", line: str) -> None:
        """Called now and then; `line` is what there is to say."""
        now_s = self._clock()
        if now_s - self._said_s >= (APART_S if status.source != self._state else SUMMARY_S):
            self._state, self._said_s = status.source, now_s
            self._say(line)
