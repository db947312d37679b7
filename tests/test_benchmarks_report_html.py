"""The page of a bench report: complete, safe, nothing from elsewhere."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from bench_reports import bench_report

from benchmarks.bench import BenchReport
from benchmarks.coldstart import ColdStart
from benchmarks.compare import Baseline, compare
from benchmarks.plots import roofline_plot
from benchmarks.report_html import bench_page
from benchmarks.soak import Soak, Window

PARADOX = {"litert fp32": 5.0, "litert int8": 11.0, "openvino int8": 4.0}


def soak(seconds: int) -> Soak:
    def at(second: int) -> Window:
        hot = min(1.0, second / 120)
        limits = ("soft temperature limit",) if 200 <= second < 260 else ()
        ms = 4.0 + hot + bool(limits)
        return Window(
            second, second + 1.0, 200, ms, 1.3 * ms, 2 * ms, 45 + 35 * hot, 2400 - 600.0 * bool(limits), limits
        )

    return Soak("litert int8", float(seconds), False, tuple(map(at, range(seconds))))


def full_report() -> BenchReport:
    """Everything that a report can have."""
    report = bench_report(PARADOX, seed=1)
    old = bench_report({"litert fp32": 5.0, "litert int8": 9.0}, seed=1000, manifest_sha256="cd" * 32)
    floor = {"p50_ms": 3.8, "floor_ms": 2.0, "distance": 1.9, "undisturbed_distance": 1.6}
    precision = {"shares": {"int8": 0.97, "f32": 0.03}, "text": "97 % int8, 3 % f32"}
    results = [replace(result, effective_precision=precision, roofline=floor) for result in report.results]
    starts = [ColdStart("openvino", "int8", cached, ((15.0, 140.0, 900.0, 9.0),) * 3) for cached in (False, True)]
    report = replace(report, results=tuple(results), cold_starts=tuple(starts), soak=soak(600))
    return replace(report, comparison=compare(report, Baseline.from_json(old.to_json(), "old.json")))


def drawings(page: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def words(page: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split())


def test_everything_that_was_measured_is_on_the_page() -> None:
    said = words(bench_page(full_report()))
    for part in (
        "litert int8 is slower on this machine than litert fp32",
        "Use openvino int8, the fastest here",
        "Now and then",
        "old.json",
        "the bundle is another one of the same network",
        "Under load",
        "3:20 to 4:20: soft temperature limit, clock slowed",
        "up to 80 °C",
        "openvino int8, kept network",
        "97 % int8, 3 % f32",
        "2.00 of",
        "Raspberry Pi 5",
        "openvino 2026.4.1",
        "abababab",
    ):
        assert part in said, part
    assert len(drawings(bench_page(full_report()))) == 7


def test_what_was_not_measured_is_not_on_the_page() -> None:
    page = bench_page(bench_report())
    assert len(drawings(page)) == 2
    for title in ("Under load", "Start to first", "Now and then", "Effective", "floor", "slower"):
        assert title not in words(page)


def test_every_drawing_stays_within_its_frame() -> None:
    for drawing in drawings(bench_page(full_report())):
        _, _, width, height = map(float, drawing.attrib["viewBox"].split())
        for element in drawing.iter():
            for name, limit in (
                ("x", width),
                ("x1", width),
                ("x2", width),
                ("y", height),
                ("y1", height),
                ("y2", height),
            ):
                if name in element.attrib:
                    assert -1 <= float(element.attrib[name]) <= limit + 1, ET.tostring(element)
            for pair in element.attrib.get("points", "").split():
                x, y = map(float, pair.split(","))
                assert -1 <= x <= width + 1 and -1 <= y <= height + 1, drawing.attrib["aria-label"]


def test_names_from_outside_are_text_and_not_markup() -> None:
    report = bench_report(network="<script>alert(1)</script>", path="/tmp/<b>&amp;")
    page = bench_page(report)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "/tmp/&lt;b&gt;&amp;amp;" in page


def test_the_page_needs_nothing_from_elsewhere_and_knows_light_and_dark() -> None:
    page = bench_page(full_report())
    assert not re.search(r"(?:src|href)=|url\(|@import|https?:", page)
    assert "prefers-color-scheme: dark" in page


def test_every_colour_that_a_drawing_names_is_in_the_style() -> None:
    page = bench_page(full_report())
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    names = {name for found in re.findall(r'<svg.*?</svg>', page, re.DOTALL) for text in re.findall(r'class="([^"]+)"', found)
             for name in text.split()}  # fmt: skip
    assert not {name for name in names - {"int8"} if f".{name}" not in style[1]}


def test_a_soak_of_a_day_makes_a_page_of_sensible_size_and_keeps_its_spike() -> None:
    long = soak(24 * 3600)
    windows = list(long.windows)
    windows[40_000] = replace(windows[40_000], p50_ms=6.4, p99_ms=8.123)
    page = bench_page(replace(bench_report(), soak=replace(long, windows=tuple(windows))))
    assert len(page) < 300_000
    with_spike = {round(float(pair.split(",")[1]), 1) for pair in re.findall(r"[\d.]+,[\d.]+", page)}
    without = bench_page(replace(bench_report(), soak=long))
    assert with_spike - {round(float(pair.split(",")[1]), 1) for pair in re.findall(r"[\d.]+,[\d.]+", without)}


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_few_rounds_are_drawn_too(rounds: int) -> None:
    assert len(drawings(bench_page(bench_report(rounds=rounds)))) == 2


def test_a_soak_of_one_window_on_a_machine_that_tells_nothing_is_drawn() -> None:
    alone = Soak("x int8", 60.0, True, (Window(0.0, 0.4, 3, 5.0, 5.0, 5.0, None, None, ()),))
    said = words(bench_page(replace(bench_report(), soak=alone)))
    assert "(interrupted)" in said
    assert "not readable here" in said


@pytest.mark.slow
def test_a_browser_shows_it_without_a_complaint(tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = Path("/usr/bin/chromium")
    if not browser.exists():
        pytest.skip("needs Debian's chromium")
    file = tmp_path / "bench.html"
    file.write_text(bench_page(full_report()), encoding="utf-8")
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=str(browser), args=["--no-sandbox"])
        for width in (1280, 420):
            page = opened.new_page(viewport={"width": width, "height": 900})
            complaints: list[str] = []
            page.on("console", lambda message, seen=complaints: seen.append(message.text))
            page.goto(file.as_uri(), wait_until="domcontentloaded")
            assert page.locator("svg").count() == 7
            assert page.evaluate("document.documentElement.scrollWidth") <= width  # plots scroll by themselves
            assert not complaints
        opened.close()


def test_the_distance_is_told_for_undisturbed_rounds_too() -> None:
    assert "2.00 of 3.80 ms: 1.90×, 1.60× in rounds left alone" in roofline_plot(full_report().results)
