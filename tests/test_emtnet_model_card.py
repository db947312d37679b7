"""The model card: tables between two markers, and nothing else of the file."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_answers import answers, by_fold, dataset, fold_runs

from edge.errors import DataError
from emtnet.model_card import COLUMNS, cells, markdown, title, update_model_card
from emtnet.protocol import Run
from emtnet.recipe import Recipe
from emtnet.report import ValidationReport, summarise_validation

CARD = """# Networks

Before.

<!-- emtnet: begin -->
the other network's
<!-- emtnet: end -->

Between — with ümlauts.
<!-- emtnet-s: begin -->
old table
<!-- emtnet-s: end -->

After.
"""


@pytest.fixture(scope="module")
def report() -> ValidationReport:
    """Folds, a source and a scanner left out."""
    cases = answers(sources=("New", "Old"), each=12)
    tried = [answer for answer in cases if answer.source == "New"]
    rest = dataset([answer for answer in cases if answer.source == "Old"])
    others = [
        Run("sources", "source-new", "New", rest, dataset(tried)),
        Run("scanners", "scanner-new-a", "New A", rest, dataset(tried)),
    ]
    given = by_fold(cases) | {run.name: tried for run in others}
    return summarise_validation([*fold_runs(cases), *others], given, Recipe(network="emtnet-s"))


def test_the_tables_take_the_place_between_their_markers(tmp_path: Path, report: ValidationReport) -> None:
    card = tmp_path / "card.md"
    card.write_text(CARD, encoding="utf-8")
    update_model_card(card, report)
    text = card.read_text(encoding="utf-8")
    before, after = CARD.split("old table\n")
    assert text.startswith(before)
    assert text.endswith(after)
    assert text[len(before) : -len(after)].strip() == markdown(report).strip()
    update_model_card(card, report)
    assert card.read_text(encoding="utf-8") == text, "a second time changes nothing"


def test_each_network_has_its_own_place(tmp_path: Path, report: ValidationReport) -> None:
    card = tmp_path / "card.md"
    card.write_text(CARD, encoding="utf-8")
    update_model_card(card, replace(report, recipe=Recipe(network="emtnet")))
    text = card.read_text(encoding="utf-8")
    assert "old table" in text
    assert "the other network's" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        CARD.replace("emtnet-s: begin", "x"),
        CARD.replace("emtnet-s: end", "x"),
        "<!-- emtnet-s: end -->\n<!-- emtnet-s: begin -->\n",
    ],
)
def test_a_file_without_both_markers_in_order_stays_as_it_is(
    tmp_path: Path, report: ValidationReport, text: str
) -> None:
    card = tmp_path / "card.md"
    card.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"card\.md: has no lines <!-- emtnet-s: begin --> and <!-- emtnet-s: end -->"):
        update_model_card(card, report)
    assert card.read_text(encoding="utf-8") == text


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, report: ValidationReport) -> None:
    (tmp_path / "latin.md").write_bytes(CARD.encode("latin-1", "replace"))
    for path in (tmp_path / "none.md", tmp_path, tmp_path / "latin.md"):
        with pytest.raises(DataError, match=r"cannot be read .*; name the Markdown file"):
            update_model_card(path, report)


def test_the_tables_are_tables(report: ValidationReport) -> None:
    lines = markdown(report).splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")]
    assert {len(row) for row in rows} == {3 + len(COLUMNS)}
    assert len(rows) == 3 * 2 + len(report.rows)
    first = [row[0].strip() for row in rows if row[0].strip() not in ("cases", "---")]
    assert first == ["all data", "New", "Old", "without New, tried on it", "without New A, tried on it"]
    assert [line for line in lines if line.startswith("**")] == [
        "**Cross-validation by folds**",
        "**One data set left out**",
        "**One scanner left out**",
    ]


def test_a_cell_is_a_figure_with_its_interval(report: ValidationReport) -> None:
    row = report.rows[0]
    low, high = row.intervals["auc"]
    assert cells(row, intervals=True)[0] == f"{row.metrics.auc:.3f} ({low:.3f}–{high:.3f})"
    assert cells(row, intervals=False)[0] == f"{row.metrics.auc:.3f}"
    hd95 = list(COLUMNS.values()).index("hd95_mean")
    assert cells(row, intervals=False)[hd95] == f"{row.metrics.hd95_mean:.1f}"
    assert len(cells(row, intervals=True)) == len(COLUMNS)
    assert set(COLUMNS.values()) <= row.metrics.to_json().keys()


def test_a_figure_that_does_not_exist_is_a_dash(report: ValidationReport) -> None:
    row = replace(report.rows[0], metrics=replace(report.rows[0].metrics, normal_false_alarm_rate=None), intervals={})
    assert cells(row, intervals=True)[-1] == "–"
    assert title(row) == "all data"


def test_what_the_answers_are_worth_is_told_in_a_sentence(report: ValidationReport) -> None:
    figures = report.rows[0].metrics
    assert figures.malignant_missed_rate is not None and figures.positive_predictive_value is not None
    told = (
        f'Over all data {100 * figures.malignant_missed_rate:.1f} % of the malignant lesions are answered "no lesion", '
        f"{100 * figures.positive_predictive_value:.1f} % of the lesions answered malignant are malignant"
    )
    assert markdown(report).count(told) == 1


def test_the_operating_point_is_told_in_a_sentence(report: ValidationReport) -> None:
    assert report.calls is not None
    assert report.calls.presence is not None
    told, _, picture = markdown(report).splitlines()[-3:]
    assert f"temperature {report.calls.operating_point.temperature:.3f}" in told
    assert f"malignant from p = {report.calls.operating_point.threshold:.3f}" in told
    assert f", lesion from p = {report.calls.presence.threshold:.3f} (72 out-of-fold" in told
    assert picture == "![Reliability of p(malignant) before and after](images/emtnet-s-reliability.svg)"
    unseen = replace(report, calls=replace(report.calls, presence=None))
    assert "lesion from" not in markdown(unseen)


def test_without_folds_there_is_no_such_sentence(report: ValidationReport) -> None:
    rows = tuple(row for row in report.rows if row.kind != "folds")
    text = markdown(replace(report, rows=rows, calls=None, uncalibrated=None, calibrated=None))
    assert "temperature" not in text
    assert "reliability" not in text
