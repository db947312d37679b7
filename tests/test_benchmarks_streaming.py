"""The streaming benchmark: its figures follow from what a run measured, and a real overloaded run is counted rightly."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cine import Cine, bare_scan, console
from benchmarks.load import WAITING, Load, Scene, Tally, run
from benchmarks.streaming import Check, checks, main
from edge.bundle import Bundle
from edge.capture import REPLACED, STOPPED, SourceState
from edge.ledger import FrameRecord, Ledger, Outcome
from edge.stream import StreamStatus

Rows = list[tuple[float, ...]]

ROWS: Rows = [(1.0, 2.0, 10.0, 1.0)] * 100


def load(rows: Rows, *, fps: float | None = 50.0, **counts: int) -> Load:
    tally = Tally()
    tally.rows.append(np.array(rows))
    tally.counts.update({"captured": len(rows)} | counts)
    return Load.of("load", tally, fps)


def test_own_work_is_all_but_the_engine_and_the_wait() -> None:
    found = load(ROWS)
    assert (found.own_p50_ms, found.engine_p50_ms, found.latency_p50_ms) == (3.0, 10.0, 14.0)
    assert found.own_share == pytest.approx(0.3)
    assert found.bound_ms == pytest.approx(10.0 + 20.0 + 3.0)


def test_a_growing_latency_is_seen() -> None:
    assert load(ROWS).steady == 1.0
    assert load([(float(index), 2.0, 10.0, 1.0) for index in range(90)]).steady > 3.0


def test_what_is_missed_is_said() -> None:
    scene = Scene("scan", bare_scan((480, 640)), 50.0)
    good = checks("live", scene, load(ROWS), {})
    assert all(check.holds for check in good)
    late: Rows = [(60.0, 8.0, 10.0, 1.0)] * 90
    slow = checks("live", scene, load(late, dropped=3), {})
    assert [check.holds for check in slow] == [True, False, False, False]
    assert not Check("growth", float("nan"), 5.0).holds


def test_viewers_are_compared_with_a_page_without_any() -> None:
    scene = Scene("watched", bare_scan((480, 640)), 30.0, viewers=4)
    late: Rows = [(3.0, 2.0, 10.0, 1.0)] * 100
    alone, watched = load(ROWS), load(late)
    ratio = checks("viewers", scene, watched, {"alone": alone, "watched": watched})[-1]
    assert ratio.figure == pytest.approx(16.0 / 14.0)
    assert not ratio.holds


def test_lost_frames_are_those_of_source_and_stream() -> None:
    assert load(ROWS, **{"dropped": 3, "lost by the source": 2}).lost == 5


def test_a_frame_that_waits_when_a_round_is_stopped_is_not_lost() -> None:
    ledger = Ledger()
    for reason in (REPLACED, STOPPED):
        ledger.end(FrameRecord(ledger.capture(), Outcome.DROPPED, captured_ns=0, reason=reason))
    tally = Tally()
    tally.add(ROWS, StreamStatus(SourceState.ENDED, None, 0, None, ledger.summary(), (), None))
    assert (tally.counts["captured"], tally.counts["dropped"], tally.counts[WAITING]) == (2, 1, 1)
    assert tally.unbalanced == 0
    assert Load.of("load", tally, 30.0).lost == 1


def test_ready_pictures_have_the_size_asked_for_and_move() -> None:
    for made, shape in ((bare_scan((480, 640)), (480, 640)), (console((480, 640)), (480, 640, 3))):
        assert {picture.shape for picture in made} == {shape}
        assert len({picture.tobytes() for picture in made}) == len(made)


def test_an_overloaded_run_drops_frames_and_accounts_for_all() -> None:
    tally = Tally()
    cine = Cine(bare_scan((480, 640)), fps=60.0)
    run(cine, Bundle.open_or_builtin(None), tally, duration_s=1.5, slow_s=0.15)
    assert tally.unbalanced == 0
    assert tally.counts["dropped"] > tally.counts["processed"] > 0
    assert (
        sum(tally.counts[name] for name in ("processed", "dropped", WAITING, "rejected", "failed"))
        == tally.counts["captured"]
    )


def test_figures_and_their_checks_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "streaming.json"
    main(["--only", "growth", "--frames", "40", "--json", str(out)])
    record = json.loads(out.read_text())
    (measured,) = record["loads"]
    assert measured["counts"]["captured"] == 40
    assert {check["name"].split(": ")[1] for check in record["checks"]} == {
        "growth, MB",
        "frames that the ledger does not account for",
    }
    assert "own/engine" in capsys.readouterr().out
