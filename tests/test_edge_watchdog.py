"""The service manager's watchdog: fed while a run progresses or knows that it waits, hungry where a frame has no end."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_parts import ListSource, Notes, picture

from edge.backoff import Backoff
from edge.capture import Frame, SourceState
from edge.errors import SourceError
from edge.ledger import Ledger
from edge.stream import Stream, StreamStatus
from edge.watchdog import AWAITED_S, FRAME_S, OPEN_S, STATUS_S, Notifier, Watchdog, stalled

STATUS = StreamStatus(SourceState.WAITING, None, 0, None, Ledger().summary(), (), None)
RUNNING = replace(STATUS, source=SourceState.RUNNING, age_s=0.1)
AWAY = replace(STATUS, source=SourceState.RECONNECTING, trouble="away")
WAIT_S = 60.0

seconds = st.none() | st.floats(0.0, 1e6)


class Manager:
    """The other end of a notification socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every message since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with closing(Manager(str(tmp_path / "notify"))) as manager:
        yield manager


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


# The rule


@given(seconds, seconds, st.sampled_from(SourceState), st.none() | st.text(min_size=1))
def test_only_a_frame_or_an_opening_without_end_is_a_stall_whatever_the_source_does(
    analysing_s: float | None, opening_s: float | None, source: SourceState, trouble: str | None
) -> None:
    status = replace(STATUS, source=source, trouble=trouble, analysing_s=analysing_s, opening_s=opening_s)
    assert (stalled(status) is not None) == ((analysing_s or 0.0) > FRAME_S or (opening_s or 0.0) > OPEN_S)


def test_a_stall_is_told_in_words_that_stay_while_it_lasts() -> None:
    first, later = (stalled(replace(RUNNING, analysing_s=FRAME_S + more_s)) for more_s in (0.1, 60.0))
    assert first == later == "the analysis of a frame has not ended for 5 s"


def until(status: Callable[[], StreamStatus], holds: Callable[[StreamStatus], bool]) -> StreamStatus:
    deadline_s = time.monotonic() + WAIT_S
    while not holds(found := status()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return found


def test_the_status_says_how_long_a_frame_has_been_in_analysis_and_forgets_it_at_its_end() -> None:
    go_on = threading.Event()

    def hang(frame: Frame) -> None:
        if frame.number == 1:
            assert go_on.wait(WAIT_S)

    source = ListSource([picture(), picture()], live=True)
    source._steps = [*source._steps, source.wait]
    running = Stream(lambda: source, Notes(hang), policy="all")
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        before = until(running.status, lambda status: (status.analysing_s or 0.0) > 0.05)
        after = until(running.status, lambda status: (status.analysing_s or 0.0) > (before.analysing_s or 0.0))
        assert after.source is SourceState.RUNNING
        go_on.set()
        until(running.status, lambda status: status.analysing_s is None)
    finally:
        go_on.set()
        running.stop()
        thread.join(WAIT_S)


def test_the_status_says_how_long_a_source_has_been_being_opened_again() -> None:
    let_go = threading.Event()
    openings: list[ListSource] = []

    def open_source() -> ListSource:
        if openings:
            assert let_go.wait(WAIT_S)
        openings.append(ListSource([picture()], live=True))
        return openings[-1]

    running = Stream(open_source, Notes(), backoff=lambda: Backoff(first_s=0.001, most_s=0.001))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        stuck = until(running.status, lambda status: (status.opening_s or 0.0) > 0.05)
        assert stuck.source is SourceState.RECONNECTING
        let_go.set()
        until(running.status, lambda status: len(openings) > 2 and status.opening_s is None)
    finally:
        let_go.set()
        running.stop()
        thread.join(WAIT_S)


def test_a_source_that_is_away_at_the_beginning_is_awaited_where_that_is_wanted_and_an_error_where_not() -> None:
    tries: list[ListSource] = []

    def open_source() -> ListSource:
        tries.append(ListSource([picture()], live=True))
        if len(tries) < 3:
            raise SourceError("camera: no such device")
        tries[-1]._steps = [picture(), tries[-1].wait]
        return tries[-1]

    with pytest.raises(SourceError, match="no such device"):
        Stream(open_source, Notes()).run()
    running = Stream(open_source, Notes(), awaits=True, backoff=lambda: Backoff(first_s=0.001, most_s=0.001))
    seen: list[StreamStatus] = []

    def tick(status: StreamStatus) -> None:
        seen.append(status)
        if status.age_s is not None:
            running.stop()

    ended = running.run(tick=tick, tick_s=0.01, duration_s=WAIT_S)
    assert ended.error is None and ended.trouble is None
    assert ended.fault == "camera: no such device"
    assert ended.ledger.captured == 1


def test_who_is_told_of_the_ending_hears_it_once_and_before_the_sinks_are_waited_for() -> None:
    told: list[int] = []
    analyser = Notes()
    running = Stream(lambda: ListSource([picture()]), analyser, policy="all")
    running.run(ending=lambda: told.append(running.status().ledger.captured))
    assert told == [1]


# The messages


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_reaches_the_socket_by_its_path_or_its_abstract_name(abstract: bool, manager: Manager) -> None:
    other = Manager(f"@edgekit-test-{os.getpid()}") if abstract else manager
    with closing(other):
        assert Notifier(other.address).send("READY=1", "STATUS=two\nlines")
        assert other.heard() == ["READY=1\nSTATUS=two lines"]


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative", "@", "/nowhere/at/all", "/" + 200 * "x"])
def test_where_nobody_listens_nothing_is_sent_and_nothing_breaks(address: str | None) -> None:
    assert not Notifier(address).send("READY=1")


def test_a_service_manager_that_does_not_read_holds_nothing_up_and_is_told_again_later(manager: Manager) -> None:
    notifier = Notifier(manager.address, watchdog_s=1.0)
    while notifier.send("WATCHDOG=1"):
        pass
    watchdog = Watchdog(notifier)
    started_s = time.monotonic()
    watchdog.tick(RUNNING, "line")
    assert time.monotonic() - started_s < 1.0
    manager.heard()
    watchdog.tick(RUNNING, "line")
    assert "READY=1" in manager.heard()


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog_s"),
    [
        ("3000000", None, 3.0),
        ("3000000", os.getpid(), 3.0),
        ("3000000", os.getpid() + 1, None),
        ("0", None, None),
        ("soon", None, None),
        ("²", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_that_of_the_environment_and_of_this_process(
    usec: str | None, pid: int | None, watchdog_s: float | None
) -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": usec, "WATCHDOG_PID": None if pid is None else str(pid)}
    found = Notifier.from_environment({name: value for name, value in environment.items() if value is not None})
    assert found.watchdog_s == watchdog_s


@given(st.floats(1e-3, 1e4))
def test_ticks_are_wanted_more_than_twice_within_the_patience_of_the_service_manager(watchdog_s: float) -> None:
    assert 0.0 < Watchdog(Notifier("/x", watchdog_s=watchdog_s)).tick_s < watchdog_s / 2
    assert Watchdog(Notifier(None)).tick_s == 1.0


# A run as the service manager sees it


def test_the_run_is_ready_with_its_first_result_and_is_said_so_once(manager: Manager) -> None:
    watchdog = Watchdog(Notifier(manager.address, watchdog_s=5.0))
    first = replace(STATUS, source=SourceState.RUNNING, analysing_s=0.4)
    assert watchdog.tick(first, "starting") is None
    assert manager.heard() == ["WATCHDOG=1", "STATUS=starting"]
    watchdog.tick(RUNNING, "running")
    watchdog.tick(RUNNING, "running")
    heard = manager.heard()
    assert heard.count("READY=1") == 1
    assert heard.count("WATCHDOG=1") == 2


def test_a_source_that_is_away_is_a_reason_to_be_ready_and_one_that_is_silent_after_a_while(manager: Manager) -> None:
    clock = Clock()
    Watchdog(Notifier(manager.address), clock=clock).tick(AWAY, "away")
    assert "READY=1" in manager.heard()
    silent = Watchdog(Notifier(manager.address), clock=clock)
    silent.tick(STATUS, "waiting")
    assert "READY=1" not in manager.heard()
    clock.now_s += AWAITED_S
    silent.tick(STATUS, "waiting")
    assert "READY=1" in manager.heard()


def test_a_frame_without_end_starves_the_watchdog_until_it_ends(manager: Manager) -> None:
    watchdog = Watchdog(Notifier(manager.address, watchdog_s=5.0))
    watchdog.tick(RUNNING, "running")
    manager.heard()
    stuck = replace(RUNNING, analysing_s=FRAME_S + 1)
    assert watchdog.tick(stuck, "running") == stalled(stuck)
    assert manager.heard() == [f"STATUS={stalled(stuck)}"]
    watchdog.tick(RUNNING, "running")
    assert manager.heard() == ["WATCHDOG=1", "STATUS=running"]


def test_the_status_line_comes_now_and_then_and_when_the_state_changes(manager: Manager) -> None:
    clock = Clock()
    watchdog = Watchdog(Notifier(manager.address), clock=clock)
    for status, later_s, said in ((RUNNING, 1, True), (RUNNING, 1, False), (AWAY, 1, True), (AWAY, STATUS_S, True)):
        clock.now_s += later_s
        watchdog.tick(status, "line")
        assert ("STATUS=line" in manager.heard()) == said
    watchdog.stopping()
    assert manager.heard() == ["STOPPING=1\nSTATUS=ending"]
