"""A live source whose device blocks: it is read in a thread of its own, so that whoever waits for a picture can leave at once.

A call into a driver or into FFmpeg can take a whole time-out and cannot be broken off. The thread that is caught in one is left
to itself: it comes out when its time-out ends and then releases the device. The interpreter waits for it at exit, because a
thread that wakes inside OpenCV while Python shuts down ends the process by SIGABRT (seen in 3 of 4 exits timed to hit it).
"""

import atexit
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from edge.errors import SourceError
from edge.handover import Closed, Handover
from edge.sources import Picture


class Device(Protocol):
    """What blocks; used by one thread."""

    def read(self) -> Picture:
        """The next picture. Raises SourceError when there is none any more."""
        ...

    def release(self) -> None: ...


class BackgroundSource:
    """A live source that reads `open_device()` in the background.

    The constructor returns once the device is open. Raises SourceError when it does not open within `open_timeout_s`; the
    iteration raises it when no picture comes for `read_timeout_s`. The device should keep these time-outs itself too, so that its
    thread ends soon after.
    """

    live = True

    def __init__(
        self, name: str, open_device: Callable[[], Device], *, open_timeout_s: float, read_timeout_s: float
    ) -> None:
        self.name = name
        self._open_device = open_device
        self._timeout_s = read_timeout_s
        self._settle_s = open_timeout_s + 3.0 * read_timeout_s
        self._pictures: Handover[Picture] = Handover(1, replace=False)
        self._opened = threading.Event()
        self._closed = threading.Event()
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"reader of {name}", daemon=True)
        atexit.register(self._settle)
        self._thread.start()
        try:
            answered = self._opened.wait(open_timeout_s)
        except BaseException:  # Ctrl-C
            self.close()
            raise
        if not answered:
            self.close()
            raise SourceError(f"{name}: no answer within {open_timeout_s:g} s; check that it is on and can be reached")
        if self._fault is not None:
            raise self._fault

    def __iter__(self) -> Iterator[Picture]:
        try:
            while True:
                try:
                    picture = self._pictures.get(self._timeout_s)
                except Closed:
                    if self._fault is not None and not self._closed.is_set():
                        raise self._fault from None
                    return
                except TimeoutError:
                    raise SourceError(f"{self.name}: no picture for {self._timeout_s:g} s; it stalled") from None
                yield picture
        finally:
            self.close()

    def close(self) -> None:
        self._closed.set()
        self._pictures.close(discard=True)

    def _run(self) -> None:
        try:
            device = self._open_device()
            try:
                self._opened.set()
                while not self._closed.is_set():
                    self._pictures.put(device.read())
            finally:
                device.release()
        except Closed:
            pass
        except Exception as error:  # raised where pictures are waited for
            self._fault = error
        finally:
            self._pictures.close()
            self._opened.set()
            atexit.unregister(self._settle)

    def _settle(self) -> None:
        """At exit: wait for the thread to come out of OpenCV."""
        self.close()
        self._thread.join(self._settle_s)
