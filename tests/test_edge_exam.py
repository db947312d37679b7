"""The exam: what was seen is summed up in bounded memory, and the page stands alone."""

import json
import re
import shutil
import tracemalloc
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from edge.analysis import Analysis
from edge.errors import SinkError
from edge.exam import LESIONS, POINTS, Exam, ExamSummary, write_exam
from edge.exam_page import clock, exam_page
from edge.findings import Finding, Lesion
from edge.measure import lesions_of
from edge.overlay import DISCLAIMER
from edge.phantom import phantom_case
from edge.preprocess import Box

REGION = Box(20, 40, 240, 320)
GREY = phantom_case(4, size=(240, 320)).pixels
BLURRED = np.asarray(cv2.GaussianBlur(GREY, (0, 0), 3.0), np.uint8)
FRAME = np.zeros((300, 400), np.uint8)
FRAME[REGION.pixels] = GREY


def lesion(track: int = 1, radius: int = 30, *, spacing: tuple[float, float] | None = (0.1, 0.1)) -> Lesion:
    mask = np.zeros(GREY.shape, np.uint8)
    cv2.ellipse(mask, (160, 120), (radius, radius // 2), 0, 0, 360, 1, -1)
    (outline,) = lesions_of(mask > 0, spacing)
    return outline.lesion(track, origin=(REGION.left, REGION.top), certainty=0.9)


def finding(*lesions: Lesion, malignancy: float = 0.8, shift: tuple[float, float] = (0.0, 0.0)) -> Finding:
    labels = {"benign": 1 - malignancy, "malignant": malignancy}
    decision = ("malignant" if malignancy >= 0.5 else "benign") if lesions else "no lesion"
    return Finding(decision, None, labels, "malignant", 0.5, lesions, shift)


def analysis(number: int, found: Finding | None, *, rate_hz: float = 10.0, reason: str = "") -> Analysis:
    return Analysis(number, int(number / rate_hz * 1e9), None, FRAME, GREY, REGION, found, reason)


def exam_of(*findings: Finding, rate_hz: float = 10.0) -> Exam:
    exam = Exam("a probe", started="today")
    for number, found in enumerate(findings):
        exam.add(analysis(number, found, rate_hz=rate_hz))
    return exam


def test_a_lesion_is_summed_up() -> None:
    summary = exam_of(finding(), *(finding(lesion(), malignancy=p) for p in (0.2, 0.9, 0.7, 0.6))).summary()
    (found,) = summary.lesions
    assert (found.track, found.frames) == (1, 4)
    assert [found.first_s, found.last_s, summary.duration_s] == pytest.approx([0.1, 0.4, 0.4])
    assert found.probability == pytest.approx(0.6)
    assert found.calls == {"benign": 1, "malignant": 3}
    assert [moment.probability for moment in found.moments] == [0.2, 0.9, 0.7, 0.6]
    assert found.in_mm
    assert found.moments[0].diameter == lesion().diameter_mm
    assert (summary.frames, summary.decisions) == (5, {"no lesion": 1, "benign": 1, "malignant": 3})
    assert summary.left_out == 0


def test_the_key_frame_is_the_largest_outline_that_was_still() -> None:
    sizes = [(30, 0.0), (30, 0.0), (36, 0.0), (45, 20.0), (33, 0.0), (32, 0.0)]
    (found,) = exam_of(*(finding(lesion(radius=size), shift=(moved, 0)) for size, moved in sizes)).summary().lesions
    assert (found.key.number, found.key.sound) == (2, True)
    assert found.key.lesion == lesion(radius=36)


def test_a_blurred_frame_is_no_key_frame() -> None:
    exam = Exam()
    for number, (size, grey) in enumerate([(30, GREY), (30, GREY), (36, GREY), (45, BLURRED), (31, GREY), (31, GREY)]):
        exam.add(replace(analysis(number, finding(lesion(radius=size))), grey=grey))
    assert exam.summary().lesions[0].key.number == 2


def test_an_uncertain_outline_is_no_key_frame() -> None:
    exam = exam_of(*(finding(lesion()) for _ in range(4)), finding(replace(lesion(radius=45), certainty=0.6)))
    assert exam.summary().lesions[0].key.number == 1


def test_where_no_frame_was_still_the_largest_is_shown_and_said_so() -> None:
    exam = exam_of(*(finding(lesion(radius=size), shift=(30, 0)) for size in (30, 31, 40, 35)))
    (found,) = exam.summary().lesions
    assert (found.key.number, found.key.sound) == (2, False)
    assert "No still, sharp and certain frame" in exam_page(exam.summary())


def test_the_key_picture_is_the_region_with_nothing_drawn_on_it() -> None:
    (found,) = exam_of(*(finding(lesion()) for _ in range(4))).summary().lesions
    picture = cv2.imdecode(np.frombuffer(found.key.jpeg, np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture is not None and picture.shape == GREY.shape
    assert np.abs(picture.astype(int) - GREY).mean() < 4


def test_an_outline_at_the_edge_of_the_picture_is_called_cut() -> None:
    whole = lesion()
    touching = replace(whole, contour=tuple((x - min(p[0] for p in whole.contour) + 40, y) for x, y in whole.contour))
    for shown, cut in ((whole, False), (touching, True)):
        summary = exam_of(*(finding(shown) for _ in range(4))).summary()
        assert summary.lesions[0].key.cut is cut
        assert ("touches the edge" in exam_page(summary)) is cut


@pytest.mark.parametrize(("frames", "rate_hz", "listed"), [(2, 1.0, 0), (3, 1.0, 1), (10, 60.0, 0), (30, 60.0, 1)])
def test_what_was_seen_too_shortly_is_left_out_and_counted(frames: int, rate_hz: float, listed: int) -> None:
    shown = [finding(lesion())] * frames + [finding()] * 100
    summary = exam_of(*shown, rate_hz=rate_hz).summary()
    assert (len(summary.lesions), summary.left_out) == (listed, 1 - listed)


def test_rejected_frames_are_counted_by_reason_and_a_kept_finding_is_no_new_one() -> None:
    exam = exam_of(*(finding(lesion()) for _ in range(4)))
    exam.add(analysis(4, finding(lesion(radius=60)), reason="frozen"))
    exam.add(analysis(5, None, reason="too dark"))
    summary = exam.summary()
    assert summary.rejected == {"frozen": 1, "too dark": 1}
    assert (summary.frames, summary.lesions[0].frames) == (4, 4)


def test_a_recording_goes_by_its_own_time() -> None:
    exam = Exam()
    for number in range(4):
        exam.add(replace(analysis(number, finding(lesion())), captured_ns=number, time_s=2.0 * number))
    assert exam.summary().duration_s == 6.0
    exam.add(replace(analysis(4, finding()), captured_ns=1_000_000_003, time_s=0.0))
    assert exam.summary().duration_s == 7.0


def test_a_long_series_keeps_its_course() -> None:
    same = lesion()
    shown = [finding(same, malignancy=0.1 + 0.8 * index / 1499) for index in range(1500)]
    (found,) = exam_of(*shown, rate_hz=60.0).summary().lesions
    assert len(found.moments) <= POINTS
    times = [moment.time_s for moment in found.moments]
    assert times == sorted(times)
    values = [moment.probability for moment in found.moments if moment.probability is not None]
    assert values == pytest.approx([0.1 + 0.8 * time * 60 / 1499 for time in times], abs=0.002)


def test_memory_does_not_grow_with_the_run() -> None:
    exam = Exam()
    big = np.asarray(cv2.resize(GREY, (640, 480)), np.uint8)
    box = Box(0, 0, 480, 640)
    base = lesion(radius=100)
    tracemalloc.start()
    for number in range(1000):
        size = replace(base, track=1 + number // 20 + number % 5, area_px=base.area_px + 40 * (number % 100))
        exam.add(Analysis(number, number * 16_000_000, None, big, big, box, finding(size)))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used < 5e6
    summary = exam.summary()
    assert len(summary.lesions) <= LESIONS
    assert summary.left_out > 20


def summary_with(**changes: object) -> ExamSummary:
    shown = [finding(lesion(1), replace(lesion(2, 20), track=2), malignancy=0.3 + 0.05 * index) for index in range(8)]
    return replace(exam_of(*shown).summary(), **changes)  # type: ignore[arg-type]


def test_the_files_are_written_and_the_folder_keeps_its_others(tmp_path: Path) -> None:
    (tmp_path / "recording.mkv").write_bytes(b"kept")
    write_exam(tmp_path, summary_with())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["exam.html", "exam.json", "recording.mkv"]
    told = json.loads((tmp_path / "exam.json").read_text())
    assert told == summary_with().to_json()
    assert told["notice"] == DISCLAIMER
    assert [each["track"] for each in told["lesions"]] == [1, 2]
    assert told["lesions"][0]["key_frame"]["lesion"]["diameter_mm"] == pytest.approx(lesion().diameter_mm, abs=0.01)


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"exam\.json"):
        write_exam(tmp_path / "file", summary_with())


class Page(HTMLParser):
    """Every tag and attribute of a page; fails on tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Page:
    page = Page()
    page.feed(text)
    assert page.open == []
    return page


def test_the_page_stands_alone_and_says_what_it_is() -> None:
    text = exam_page(summary_with())
    page = read(text)
    assert DISCLAIMER in text
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.links) == 2
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text and "@media print" in text
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_sizes_are_in_millimetres_only_where_the_spacing_is_known() -> None:
    known = exam_page(summary_with())
    assert f"{lesion().diameter_mm:.1f} mm" in known
    assert "pixels" not in known
    unknown = exam_page(exam_of(*(finding(lesion(spacing=None)) for _ in range(4))).summary())
    assert f"{lesion().diameter_px:.0f} pixels" in unknown
    assert " mm" not in unknown
    assert "spacing is not known" in unknown


def test_names_cannot_break_the_page() -> None:
    text = exam_page(summary_with(source="<script>alert(1)</script> & co", rejected={"<b>": 1}, positive="<malignant>"))
    assert "script" not in read(text).tags
    assert "&lt;script&gt;" in text


def test_an_exam_without_lesions_or_classes_has_a_page() -> None:
    assert "No lesion was outlined" in exam_page(replace(Exam("nothing").summary(), frames=1))
    bare = replace(finding(lesion()), decision="lesion", probabilities={}, positive=None, threshold=None)
    text = exam_page(exam_of(*[bare] * 4).summary())
    read(text)
    assert "Lesion 1" in text and "p(" not in text


def test_an_exam_of_which_no_frame_was_analysed_does_not_read_as_one_without_lesions() -> None:
    text = exam_page(replace(Exam().summary(), rejected={"the first 30% of the picture": 33, "frozen": 2}))
    assert "No frame was analysed" in text and "No lesion was outlined" not in text
    assert "35 not analysed (2 × frozen, 33 × the first 30% of the picture)" in text


def test_times_read_as_minutes_and_seconds() -> None:
    assert [clock(time_s) for time_s in (0.0, 7.34, 59.96, 754.0)] == ["0:00.0", "0:07.3", "1:00.0", "12:34.0"]


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs Chromium")
    return found


def test_a_browser_draws_it_in_both_schemes_without_a_request(chromium: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    write_exam(tmp_path, summary_with(source="/a/long/way/to/" + "recording" * 20 + ".mp4"))
    address = (tmp_path / "exam.html").as_uri()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme, dark in (("light", False), ("dark", True)):
            page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
            asked: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(address, wait_until="load")
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) is dark
            outlined = page.evaluate("document.querySelector('.picture polygon').getBoundingClientRect().width")
            assert outlined > 20
        browser.close()
