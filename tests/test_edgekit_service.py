"""`edgekit run` as a service: what the service manager is told, and what stands in its log."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from edgekit_run import EdgekitRun
from igtl_messages_sent import image_message

from edge.phantom import phantom_case
from edge.sources.opening import is_live
from edgekit.journal import APART_S, SUMMARY_S, Level, Summaries, in_service, is_journal, marked

pytest.importorskip("ai_edge_litert")

WAIT_S = 90.0
PHANTOM = "phantom:10?size=320x240&seed=3"
PATIENCE_S = 1.5

HANGS = """
import threading
from edge.predictor import Predictor
import edge.watchdog
edge.watchdog.FRAME_S = 0.5
sound, calls = Predictor.estimate, []
def estimate(*given):
    calls.append(given)
    if len(calls) == 5:
        threading.Event().wait()
    return sound(*given)
Predictor.estimate = estimate
"""


class Service:
    """A run with a service manager's socket and a journal's stream, as a test reads them."""

    def __init__(
        self, folder: Path, *arguments: object, script: str = "", environment: dict[str, str] | None = None
    ) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._heard: list[tuple[float, str]] = []
        reading, writing = os.pipe()
        there = os.fstat(writing)
        code = f"import os\nos.environ['WATCHDOG_PID'] = str(os.getpid())\n{script}\nfrom edgekit.cli import main\nmain()\n"
        command = [sys.executable, "-c", code, "run", *arguments, "--engine", "litert", "--threads", 1]
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=folder,
            env=os.environ
            | {
                "OMP_NUM_THREADS": "1",
                "NOTIFY_SOCKET": str(folder / "notify"),
                "WATCHDOG_USEC": str(round(PATIENCE_S * 1e6)),
                "JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}",
                **(environment or {}),
            },
            stdout=writing,
            stderr=writing,
        )
        os.close(writing)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(reading,))
        self._reader.start()

    def _read(self, descriptor: int) -> None:
        with open(descriptor, encoding="utf-8") as log:
            self.lines += (line.rstrip("\n") for line in log)

    def heard(self) -> list[tuple[float, str]]:
        """What the service manager was told so far, line by line, and when."""
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                message = self._socket.recv(4096).decode()
                self._heard += ((time.monotonic(), line) for line in message.splitlines())
        return self._heard

    def times_s(self, what: str) -> list[float]:
        """When it was told so."""
        return [at_s for at_s, line in self.heard() if line.startswith(what)]

    def wait(self, holds: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline_s and self.process.poll() is None, (self._heard, self.lines)
            time.sleep(0.02)

    def end(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(WAIT_S)
        self._socket.close()


@contextmanager
def service(folder: Path, *arguments: object, script: str = "", **environment: str) -> Iterator[Service]:
    begun = Service(folder, *arguments, script=script, environment=environment)
    try:
        yield begun
    finally:
        begun.close()


def test_a_run_says_that_it_is_ready_lives_and_ends(tmp_path: Path) -> None:
    with service(tmp_path, EDGEKIT_SOURCE=PHANTOM) as run:
        run.wait(lambda: len(run.times_s("WATCHDOG=1")) >= 4)
        assert len(run.times_s("READY=1")) == 1
        assert run.times_s("STATUS=running: ")
        assert not run.times_s("STOPPING=1")
        assert run.end() == 0
        fed_s = run.times_s("WATCHDOG=1")
        assert max(after_s - before_s for before_s, after_s in pairwise(fed_s)) < PATIENCE_S
        assert len(run.times_s("STOPPING=1")) == 1


def test_the_log_of_a_service_has_priorities_and_neither_tables_nor_colours(tmp_path: Path) -> None:
    with service(tmp_path, PHANTOM, "--web", "127.0.0.1:0", EDGEKIT_TOKEN="0123456789abcdefgh") as run:
        run.wait(lambda: run.times_s("STATUS=running: "))
        assert run.end() == 0
    ours = [line for line in run.lines if "XNNPACK" not in line]
    assert ours[0] == "<4>note: Research use only - not a medical device"
    assert [line for line in ours if re.fullmatch(r"page: http://127\.0\.0\.1:\d+/", line)], "no token in a log"
    assert [line for line in ours if line.startswith("<6>running: ")]
    assert ours[-1].startswith("<6>ended: ") and "latency p50/p90/p99" in ours[-1]
    assert not set("".join(ours)) & set("\x1b│━┃┏")


def test_an_engine_that_hangs_starves_the_watchdog_and_the_log_says_why(tmp_path: Path) -> None:
    with service(tmp_path, PHANTOM, script=HANGS) as run:
        run.wait(lambda: run.times_s("STATUS=the analysis of a frame has not ended"))
        fed = len(run.times_s("WATCHDOG=1"))
        time.sleep(1.5 * PATIENCE_S)
        assert len(run.times_s("WATCHDOG=1")) == fed, "nothing feeds it any more"
        assert run.process.poll() is None
    assert any(line.startswith("<4>note: no progress: the analysis of a frame") for line in run.lines)


def test_a_sender_that_goes_away_is_awaited_and_the_watchdog_fed_all_the_while(tmp_path: Path) -> None:
    pixels = phantom_case(3, size=(96, 128)).pixels
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"igtl://127.0.0.1:{server.getsockname()[1]}"
        with service(tmp_path, url, "--no-guard") as run:
            connection, _ = server.accept()
            with connection:
                for index in range(3):
                    connection.sendall(image_message(pixels, time_s=0.1 * index))
                run.wait(lambda: run.times_s("READY=1"))
            server.close()
            run.wait(lambda: run.times_s("STATUS=reconnecting: "))
            fed = len(run.times_s("WATCHDOG=1"))
            run.wait(lambda: len(run.times_s("WATCHDOG=1")) >= fed + 3)
            assert run.end() == 1, "a source that is away at the end is a fault, where nobody said to wait for it"
    assert any(re.match("<4>note: the source failed: igtl://.* cannot be reached", line) for line in run.lines)
    assert re.match("<3>error: the source was away at the end: ", run.lines[-1])


def test_with_wait_a_source_that_never_came_is_awaited_from_the_beginning_to_a_good_end(tmp_path: Path) -> None:
    with service(tmp_path, "/dev/video987", "--wait") as run:
        run.wait(lambda: len(run.times_s("WATCHDOG=1")) >= 2)
        assert len(run.times_s("READY=1")) == 1
        assert run.end() == 0
    assert any(
        line.startswith("<4>note: the source failed: camera /dev/video987: no such device") for line in run.lines
    )


def test_a_service_without_a_source_says_so_in_plain_lines(tmp_path: Path) -> None:
    with service(tmp_path) as run:
        assert run.process.wait(WAIT_S) == 2
        run._reader.join(WAIT_S)
    assert any("missing argument 'source'" in line.lower() for line in run.lines)
    assert not set("".join(run.lines)) & set("╭│╰")


def test_wait_is_for_what_can_come_and_a_missing_file_is_an_error_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = EdgekitRun(tmp_path, capsys, monkeypatch)("away.mkv", "--wait")
    assert "away.mkv: no such file" in ran.error
    assert is_live("0") and is_live("rtsp://host/x") and is_live("igtl://host")
    assert not is_live("phantom:10") and not is_live(str(tmp_path))


# The lines


def test_a_stream_is_a_journal_only_where_the_variable_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "log").open("w") as log, (tmp_path / "other").open("w") as other:
        there = os.fstat(log.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        assert is_journal(log) and not is_journal(other)
        assert marked("error: two\n lines", Level.ERROR, log) == "<3>error: two lines"
        assert marked("error: two\n lines", Level.ERROR, other) == "error: two\n lines"
        monkeypatch.setattr(sys, "stderr", other)
        assert not in_service(), "a shell hands the variable on to what it starts"
        monkeypatch.setattr(sys, "stderr", log)
        assert in_service()
    assert not is_journal(log), "a closed stream is nobody's"


def test_a_summary_comes_every_few_minutes_and_when_the_source_comes_or_goes_but_no_flood() -> None:
    from test_edge_watchdog import AWAY, RUNNING, Clock

    clock, said = Clock(), list[str]()
    summaries = Summaries(said.append, clock=clock)
    for later_s, status, line in (
        (0.0, RUNNING, "first"),
        (SUMMARY_S - 1, RUNNING, "too soon"),
        (1.0, RUNNING, "second"),
        (1.0, AWAY, "held back"),
        (APART_S, AWAY, "gone"),
        (APART_S, AWAY, "too soon"),
        (1.0, RUNNING, "back"),
    ):
        clock.now_s += later_s
        summaries.tell(status, line)
    assert said == ["first", "second", "gone", "back"]
