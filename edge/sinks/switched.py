"""A recording that is started and stopped in the middle of a run, as by the page's button: each time a new file."""

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from edge.analysis import Analysis
from edge.delivery import Sink
from edge.errors import SinkError
from edge.stream import Result


class SwitchedRecording:
    """An `edge.delivery.Sink` that passes results on while it is switched on; `edge.web.app.Recorder` drives it.

    folder: where edgekit-YYYYMMDD-HHMMSS.mkv files go. open_file: makes the recording of one file.
    """

    def __init__(
        self,
        folder: Path,
        open_file: Callable[[Path], Sink[Result[Analysis]]],
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._folder, self._open, self._now = folder, open_file, now
        self._lock = threading.Lock()
        self._sink: Sink[Result[Analysis]] | None = None

    @property
    def recording(self) -> bool:
        return self._sink is not None

    def start(self) -> None:
        """Begin a new file; does nothing while one is being written. Raises SinkError."""
        with self._lock:
            if self._sink is None:
                self._sink = self._open(self._folder / f"edgekit-{self._now():%Y%m%d-%H%M%S}.mkv")

    def stop(self) -> None:
        """Finish the file. Raises SinkError."""
        with self._lock:
            sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()

    def write(self, result: Result[Analysis]) -> None:
        """Record the result while switched on. Raises SinkError; the recording has ended then."""
        with self._lock:
            if self._sink is None:
                return
            try:
                self._sink.write(result)
            except SinkError:
                self._sink = None
                raise

    def close(self) -> None:
        """Finish what is being recorded."""
        self.stop()
