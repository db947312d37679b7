"""The page in a real browser: what a sonographer sees, and when it warns."""

import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from web_results import Recorder, case, result

from edge.capture import SourceState
from edge.delivery import SinkStatus
from edge.ledger import FrameRecord, Ledger, Outcome
from edge.overlay import DISCLAIMER, POSITIVE_COLOUR
from edge.stream import StreamStatus
from edge.web.server import WebSink

api = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs {CHROMIUM}")

Page = Any
DESKTOP = (1280, 800)
PHONE = (375, 667)
WAIT_MS = 60_000


class Feed:
    """Writes a result every 50 ms until it is told to pause; `given` says what kind."""

    def __init__(self, sink: WebSink) -> None:
        self.given: dict[str, Any] = {}
        self._sink, self._going, self._ended = sink, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed")
        self._going.set()
        self._thread.start()

    def pause(self) -> None:
        self._going.clear()

    def go(self, **given: Any) -> None:
        self.given = given
        self._going.set()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ended.wait(0.05):
            if self._going.is_set():
                self._sink.write(result(number, margin=8, **self.given))
                number += 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextlib.contextmanager
def looking(
    browser: Any,
    *,
    size: tuple[int, int] = DESKTOP,
    scheme: str = "light",
    recorder: Recorder | None = None,
    **options: Any,
) -> Iterator[tuple[Page, Feed, WebSink]]:
    """A page that shows a running feed. Every fault of the page and every request elsewhere fails the test."""
    # A loaded computer that shows few pictures a second is none that shows stale ones.
    sink = WebSink(
        port=0, stale_s=1.5, recorder=recorder, temperature=lambda: 61.0, info={"engine": "openvino"}, **options
    )
    feed = Feed(sink)
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    context.set_default_timeout(WAIT_MS)
    try:
        page = context.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.append(request.url) if f":{sink.port}/" not in request.url else None)
        page.goto(sink.url, wait_until="domcontentloaded")
        mode(page, "live")
        yield page, feed, sink
        assert not [fault for fault in faults if not fault.startswith("blob:")]
    finally:
        context.close()
        feed.close()
        sink.close()


def mode(page: Page, name: str) -> None:
    """Wait for a state of the page."""
    page.wait_for_selector(f"body[data-mode={name}]")


def says(page: Page, selector: str, text: str) -> None:
    """Wait for a visible text."""
    api.expect(page.locator(selector)).to_contain_text(re.compile(text), timeout=WAIT_MS)
    api.expect(page.locator(selector)).to_be_visible(timeout=WAIT_MS)


def drawn(page: Page) -> str:
    """What the canvas shows."""
    return str(page.locator("#picture").evaluate("canvas => canvas.toDataURL()"))


def orange(page: Page) -> int:
    """Pixels of the outline of a malignant call on the canvas."""
    return int(
        page.locator("#picture").evaluate(
            """(canvas) => {
                const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                let count = 0;
                for (let at = 0; at < data.length; at += 4) {
                    const off = [230, 159, 0].map((part, n) => Math.abs(data[at + n] - part));
                    count += Math.max(...off) < 12;
                }
                return count;
            }"""
        )
    )


@pytest.fixture(scope="module")
def shared(browser: Any) -> Iterator[tuple[Page, Feed, Recorder]]:
    recorder = Recorder()
    with looking(browser, recorder=recorder) as (page, feed, _):
        yield page, feed, recorder


@pytest.fixture
def desk(shared: tuple[Page, Feed, Recorder]) -> tuple[Page, Feed, Recorder]:
    """A page on a desktop that shows a running feed, as it was at first."""
    page, feed, _ = shared
    feed.go()
    if page.locator("body").get_attribute("data-mode") == "held":
        page.keyboard.press("f")
    if page.locator("#outline").get_attribute("aria-pressed") == "false":
        page.keyboard.press("o")
    mode(page, "live")
    return shared


def test_the_picture_comes_with_its_outline_and_answer(desk: tuple[Page, Feed, Recorder]) -> None:
    page, _, _ = desk
    assert orange(page) > 50
    says(page, "#decision", "malignant")
    says(page, "#positive-value", r"0\.87")
    says(page, "#presence-value", r"0\.96")
    says(page, "#threshold", r"0\.42")
    says(page, "#lesions tbody", r"1.* mm.* cm²")
    says(page, "#disclaimer", DISCLAIMER)
    says(page, "#temperature", "61 °C")
    says(page, "#info", "Engine.*openvino")
    says(page, "#rate", r"\d /s")
    says(page, "#latency", r"\d ms")
    says(page, "#age", r"^0\.\d s$|^1\.\d s$")
    assert page.locator("#rate-graph .line").get_attribute("d")
    assert "malignant" in page.locator("#picture").get_attribute("aria-label")


def test_a_result_that_grows_old_turns_stale_and_a_new_one_mends_it(desk: tuple[Page, Feed, Recorder]) -> None:
    page, feed, _ = desk
    feed.pause()
    mode(page, "stale")
    says(page, "#banner", r"STALE.*[1-9]\.\d s old.*No new result")
    assert float(page.locator("#picture").evaluate("canvas => getComputedStyle(canvas).opacity")) < 0.4
    says(page, "#answer-note", "Last result, .* old")
    says(page, "#spoken", "stale")
    first = float(page.locator("#banner-age").inner_text().split()[0])
    says(page, "#banner-age", rf"{int(first) + 1}\.\d s old")
    feed.go()
    mode(page, "live")
    assert not page.locator("#banner").is_visible()


def test_a_picture_turns_stale_when_the_server_is_gone(browser: Any) -> None:
    with looking(browser) as (page, feed, sink):
        feed.close()
        sink.close()
        mode(page, "stale")
        says(page, "#banner", r"STALE.*No connection to edgekit for")
        says(page, "#source-state", "no connection")


def test_a_picture_turns_stale_when_the_server_hangs(browser: Any) -> None:
    with looking(browser) as (page, _, sink):
        held = threading.Event()
        assert sink._hub._loop is not None
        sink._hub._loop.call_soon_threadsafe(held.wait, 20)
        mode(page, "stale")
        says(page, "#banner-word", "STALE")
        held.set()
        mode(page, "live")


def test_a_rejected_picture_tells_the_reason_and_no_answer(desk: tuple[Page, Feed, Recorder]) -> None:
    page, feed, _ = desk
    feed.go(reason="the picture is too dark")
    mode(page, "rejected")
    says(page, "#badge", "NOT ANALYSED.*the picture is too dark")
    says(page, "#decision", "No answer")
    assert not page.locator("#bars b").first.is_visible()
    assert orange(page) == 0


def test_a_frozen_picture_tells_the_age_of_its_finding(desk: tuple[Page, Feed, Recorder]) -> None:
    page, feed, _ = desk
    feed.go(reason="the picture does not change", frozen_s=125.0)
    mode(page, "frozen")
    says(page, "#badge", r"FROZEN.*finding 2 min \d s old")
    says(page, "#answer-note", "the picture does not change")
    says(page, "#decision", "malignant")
    assert orange(page) > 50


def test_freeze_holds_the_picture_and_tells_its_age(desk: tuple[Page, Feed, Recorder]) -> None:
    page, feed, _ = desk
    page.get_by_role("button", name="Freeze view").click()
    mode(page, "held")
    says(page, "#badge", r"HELD.*\d\.\d s old.*live view goes on")
    before = drawn(page)
    feed.go(of=case(1, "benign"))
    says(page, "#badge", r"HELD.*[2-9]\.\d s old")
    assert drawn(page) == before
    says(page, "#decision", "malignant")
    feed.pause()
    says(page, "#badge", "HELD.*live view: STALE")
    feed.go(of=case(1, "benign"))
    says(page, "#badge", "live view goes on")
    page.keyboard.press("f")
    mode(page, "live")
    says(page, "#decision", "benign")


def test_the_outline_can_be_switched_off_and_on(desk: tuple[Page, Feed, Recorder]) -> None:
    page, _, _ = desk
    page.keyboard.press("o")
    button = page.get_by_role("button", name="Outline")
    assert button.get_attribute("aria-pressed") == "false" and "off" in button.inner_text()
    assert orange(page) == 0
    button.click()
    assert orange(page) > 50


def test_a_snapshot_is_what_is_shown_with_words(desk: tuple[Page, Feed, Recorder], tmp_path: Path) -> None:
    page, _, _ = desk
    page.keyboard.press("f")
    mode(page, "held")
    with page.expect_download() as waiting:
        page.keyboard.press("s")
    name = waiting.value.suggested_filename
    assert re.fullmatch(r"edgekit-\d{8}-\d{6}-frame\d+\.png", name)
    waiting.value.save_as(tmp_path / name)
    shown = cv2.imread(str(tmp_path / name))
    assert shown is not None and shown.shape == (480 + 84, 640, 3)
    assert (np.abs(shown[:480].astype(int) - POSITIVE_COLOUR).max(axis=2) < 12).sum() > 50
    wide = cv2.resize(case().pixels, (640, 480))
    assert np.abs(shown[:480, :, 0].astype(int) - wide)[case().mask.repeat(2, 0).repeat(2, 1) == 0].mean() < 8
    assert all(np.ptp(shown[top : top + 20]) > 200 for top in (494, 518, 542))  # three lines of words
    says(page, "#notice", "Snapshot of frame")


def test_recording_is_started_and_stopped_and_its_fault_shown(desk: tuple[Page, Feed, Recorder]) -> None:
    page, _, recorder = desk
    page.keyboard.press("r")
    says(page, "#recording", "REC")
    assert recorder.recording
    page.get_by_role("button", name="Stop recording").click()
    api.expect(page.locator("#recording")).to_be_hidden(timeout=WAIT_MS)
    assert not recorder.recording
    api.expect(page.locator("#record")).to_be_enabled(timeout=WAIT_MS)
    recorder.full = True
    page.keyboard.press("r")
    says(page, "#notice", "could not be started: clip.mkv: the disk is full")


def test_the_record_button_is_hidden_where_the_run_cannot_record(browser: Any) -> None:
    with looking(browser) as (page, _, _):
        assert not page.locator("#record").is_visible()
        page.keyboard.press("r")
        assert page.locator("#notice").inner_text() == ""


def test_every_button_is_reached_by_tab_with_a_visible_focus(browser: Any) -> None:
    with looking(browser, recorder=Recorder()) as (page, _, _):
        for wanted in ("hold", "outline", "snapshot", "record", "keys"):
            page.keyboard.press("Tab")
            focus = page.locator(":focus")
            assert focus.get_attribute("id") == wanted
            assert focus.evaluate("element => getComputedStyle(element).outlineStyle") != "none"
        page.keyboard.press("Space")  # single-letter keys off
        page.keyboard.press("f")
        assert page.locator("body").get_attribute("data-mode") == "live"


def test_keys_with_a_modifier_are_left_to_the_browser(desk: tuple[Page, Feed, Recorder]) -> None:
    page, _, _ = desk
    page.keyboard.press("Control+o")
    assert page.locator("#outline").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll_and_shows_picture_answer_and_disclaimer(browser: Any, scheme: str) -> None:
    with looking(browser, size=PHONE, scheme=scheme, recorder=Recorder()) as (page, _, _):
        assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE[0]
        for selector in ("#stage", "#controls", "#decision", "#positive-value", "#disclaimer"):
            box = page.locator(selector).bounding_box()
            assert box["y"] >= 0 and box["y"] + box["height"] <= PHONE[1], selector
        page.locator("#keys").scroll_into_view_if_needed()
        assert page.locator("#disclaimer").bounding_box()["y"] < PHONE[1]


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2 of a computed colour."""
    parts = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(browser: Any, scheme: str) -> None:
    with looking(browser, scheme=scheme) as (page, feed, _):
        panel = page.locator("#answer").evaluate("element => getComputedStyle(element).backgroundColor")
        assert (luminance(panel) > 0.5) == (scheme == "light")
        for given, name in (
            ({}, "live"),
            ({"reason": "dark"}, "rejected"),
            ({"reason": "same", "frozen_s": 3.0}, "frozen"),
        ):
            feed.go(**given)
            mode(page, name)
            for selector in (
                "#word",
                "#source",
                "#decision-word",
                "#answer-note",
                "#run dt",
                "#disclaimer",
                "#hold",
                *(["#badge"] if name != "live" else []),
            ):
                colours = page.locator(selector).first.evaluate(
                    """(element) => {
                        const colour = getComputedStyle(element).color;
                        let behind = element;
                        while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
                        return [colour, getComputedStyle(behind).backgroundColor];
                    }"""
                )
                low, high = sorted(luminance(colour) for colour in colours)
                assert (high + 0.05) / (low + 0.05) >= 4.5, (name, selector, colours)


def test_what_source_and_sinks_missed_is_told_in_words(browser: Any) -> None:
    ledger = Ledger()
    ledger.end(FrameRecord(ledger.capture(lost=3), Outcome.DROPPED, 0, "a newer frame came"))
    sinks = (SinkStatus("results", 8, 1, 0, None), SinkStatus("recording", 7, 2, 0, None))
    status = StreamStatus(SourceState.RUNNING, None, 0, None, ledger.summary(), sinks, None)
    with looking(browser, status=lambda: status) as (page, _, _):
        says(page, "#ledger", "1 skipped, 0 failed; 3 more missed by the source")
        says(page, "#troubles", "results: 1 result was lost.*recording: 2 results were lost")


def test_the_token_does_not_stay_in_the_address(browser: Any) -> None:
    with looking(browser, token="a-token-of-the-tests") as (page, _, sink):
        assert page.url == f"http://127.0.0.1:{sink.port}/"
        assert page.evaluate("() => document.cookie") == ""
        page.reload(wait_until="domcontentloaded")
        mode(page, "live")


def test_a_page_too_many_says_so(browser: Any) -> None:
    with looking(browser, viewers=1) as (page, _, sink):
        other = page.context.new_page()
        other.goto(sink.url, wait_until="domcontentloaded")
        says(other, "#banner", "No picture yet.*1 pages look already; close one of them")
        other.close()


def test_a_page_without_a_picture_says_what_it_waits_for(browser: Any) -> None:
    sink = WebSink(port=0)
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(sink.url, wait_until="domcontentloaded")
        says(page, "#banner", "No picture yet.*Waiting for the first picture")
        assert page.locator("#snapshot").is_disabled()
    finally:
        context.close()
        sink.close()
