"""What systemd is told of a run, and by which rule its watchdog is fed: sd_notify(3), sd_watchdog_enabled(3), in Python.

The watchdog is fed from the thread that watches over the run, so that it starves where that one hangs, and only while `stalled`
finds nothing. A source that is away is no stall: capture knows it and tries again. Nobody asks whether the run's other threads
live: it ends with them.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from edge.capture import SourceState
from edge.stream import StreamStatus

FRAME_S: Final = 5.0
"""A frame that was analysed for longer has no end; the slowest engine that is any use takes a tenth of it."""
OPEN_S: Final = 60.0
"""A try to open a source has time-outs of its own, all well below; one that takes longer is stuck in a driver."""
AWAITED_S: Final = 2.0
"""A source that is open and gave no picture for so long is one that is waited for."""
STATUS_S: Final = 10.0


def stalled(status: StreamStatus) -> str | None:
    """What the run is stuck in; None while it progresses or knows that it waits for its source."""
    if status.analysing_s is not None and status.analysing_s > FRAME_S:
        return f"the analysis of a frame has not ended for {FRAME_S:g} s"
    if status.opening_s is not None and status.opening_s > OPEN_S:
        return f"opening the source has not ended for {OPEN_S:g} s"
    return None


class Notifier:
    """The service manager's socket.

    address: a path, or "@" and a name for an abstract one; where it is None, or of another kind, nobody is told. watchdog_s: how
    long the service manager waits for a sign of life; None: it has no watchdog.
    """

    def __init__(self, address: str | None, *, watchdog_s: float | None = None) -> None:
        self._address = None
        if address is not None and address[:1] in ("/", "@") and len(address) > 1:
            self._address = "\0" + address[1:] if address[0] == "@" else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Notifier":
        """By NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; the watchdog of another process is not ours."""
        usec, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
        ours = pid == str(os.getpid()) and usec.isascii() and usec.isdecimal() and int(usec) > 0
        return cls(environment.get("NOTIFY_SOCKET"), watchdog_s=int(usec) / 1e6 if ours else None)

    def send(self, *assignments: str) -> bool:
        """Send lines such as READY=1; False where they did not arrive. Never waits: a full socket is one that does not listen."""
        if self._address is None:
            return False
        message = "\n".join(line.replace("\n", " ") for line in assignments).encode("utf-8", "replace")
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            return channel.sendto(message, self._address) == len(message)
        return False


class Watchdog:
    """Tells the service manager how a run goes. clock: seconds, monotonic."""

    def __init__(self, notifier: Notifier, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._notifier, self._clock = notifier, clock
        self._began_s: float | None = None
        self._ready = False
        self._told: tuple[object, ...] = ()
        self._told_s = -float("inf")

    @property
    def tick_s(self) -> float:
        """How often `tick` wants to be called: a second, and at least thrice before the service manager loses patience."""
        limit_s = self._notifier.watchdog_s
        return 1.0 if limit_s is None else min(1.0, limit_s / 3)

    def tick(self, status: StreamStatus, line: str) -> str | None:
        """Say how the run goes, in `line`, and feed the watchdog, unless the run is stuck: then what in."""
        now_s = self._clock()
        self._began_s = now_s if self._began_s is None else self._began_s
        stuck = stalled(status)
        if not self._ready and self._awaited_or_delivered(status, now_s - self._began_s):
            self._ready = self._notifier.send("READY=1")
        if stuck is None and self._notifier.watchdog_s is not None:
            self._notifier.send("WATCHDOG=1")
        state = (status.source, status.trouble, stuck)
        if state != self._told or now_s - self._told_s >= STATUS_S:
            self._told, self._told_s = state, now_s
            self._notifier.send(f"STATUS={stuck or line}")
        return stuck

    def stopping(self) -> None:
        """Say that the run has begun to end."""
        self._notifier.send("STOPPING=1", "STATUS=ending")

    @staticmethod
    def _awaited_or_delivered(status: StreamStatus, since_s: float) -> bool:
        """The engine is open whenever there is a status; so what is left is a first result, or a source that gives none yet."""
        if status.age_s is not None:
            return True
        if status.analysing_s is not None:
            return False
        waits = status.source is SourceState.WAITING and since_s >= AWAITED_S
        return waits or status.source is SourceState.RECONNECTING
