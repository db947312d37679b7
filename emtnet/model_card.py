"""The tables of a model card: Markdown between two markers, made from a validation's report and from nothing else."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from calibration.bootstrap import Interval
from calibration.metrics import SPECIFICITY_AT
from calibration.reliability import draw_reliability
from edge.atomic import write_text
from edge.errors import DataError
from emtnet.report import POOLED, Row, ValidationReport

COLUMNS: Final = {
    "AUC": "auc",
    "accuracy": "accuracy",
    "accuracy at p = 0.5": "accuracy_at_half",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "spec. at 94.1 %": SPECIFICITY_AT,
    "Dice": "dice_mean",
    "IoU": "iou_mean",
    "HD95 px": "hd95_mean",
    "missed": "lesions_missed_rate",
    "false alarms": "normal_false_alarm_rate",
}
"""Headings of the tables, and the public names of their figures. "spec. at 94.1 %": specificity at that sensitivity."""
KIND_TITLES: Final = {
    "folds": "Cross-validation by folds",
    "sources": "One data set left out",
    "scanners": "One scanner left out",
}
_PIXELS: Final = ("hd95_mean",)


def cells(row: Row, *, intervals: bool) -> list[str]:
    """The figures of a row in the order of `COLUMNS`, with or without their 95 % intervals."""
    figures, bounds = row.metrics.to_json(), row.intervals if intervals else {}
    return [_cell(figures[name], bounds.get(name), 1 if name in _PIXELS else 3) for name in COLUMNS.values()]


def title(row: Row) -> str:
    """What a row's cases are."""
    if row.kind == "folds":
        return "all data" if row.cases == POOLED else row.cases
    return f"without {row.cases}, tried on it"


def update_model_card(path: Path, report: ValidationReport) -> None:
    """Replace the tables of the report's network in the Markdown file at `path`, and the picture that they show beside it.

    Raises DataError without its markers, SinkError.
    """
    replace_between(path, report.recipe.network, markdown(report))
    if report.uncalibrated and report.calibrated:
        picture = path.parent / reliability_picture(report.recipe.network)
        draw_reliability(report.uncalibrated, report.calibrated, picture)


def reliability_picture(network: str) -> str:
    """Where the reliability diagram of a network is, from the model card."""
    return f"images/{network}-reliability.svg"


def replace_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of `name` in the Markdown file at `path`. Raises DataError, SinkError."""
    before, after = require_markers(path, name)
    write_text(path, f"{before}\n\n{text}\n{after}")


def require_markers(path: Path, name: str) -> tuple[str, str]:
    """The text up to and from the markers of `name` in the Markdown file at `path`. Raises DataError without them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    try:
        whole = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); name the Markdown file that holds the tables") from error
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise DataError(f"{path}: has no lines {begin} and {end} for the tables to stand between")
    return before + begin, end + after


def markdown(report: ValidationReport) -> str:
    """All tables of a report, figures with 95 % intervals."""
    parts = []
    for kind, heading in KIND_TITLES.items():
        rows = [row for row in report.rows if row.kind == kind]
        if rows:
            parts += [f"**{heading}**", _grid(rows)]
        parts += [_in_words(row) for row in rows if row.cases == POOLED]
    if report.calls is not None and report.uncalibrated is not None and report.calibrated is not None:
        point, presence = report.calls.operating_point, report.calls.presence
        lines = [
            f"Expected calibration error of p(malignant) {report.uncalibrated.error:.3f} as the networks say it, "
            f"{report.calibrated.error:.3f} after the temperature of the other folds. Fitted to all folds, for the shipped "
            f"checkpoint: temperature {point.temperature:.3f}, malignant from p = {point.threshold:.3f}"
        ]
        if presence is not None:
            lines.append(f", lesion from p = {presence.threshold:.3f}")
        parts.append("".join(lines) + f" ({point.chosen_on}).")
        parts.append(f"![Reliability of p(malignant) before and after]({reliability_picture(report.recipe.network)})")
    return "\n\n".join(parts) + "\n"


def _in_words(row: Row) -> str:
    """What an answer is worth: the figures that a reader of answers, not of lesions, asks for."""
    figures = row.metrics
    said = (
        ('of the malignant lesions are answered "no lesion"', figures.malignant_missed_rate),
        ("of the lesions answered malignant are malignant", figures.positive_predictive_value),
        ("of the normal images are answered malignant", figures.normal_malignant_rate),
    )
    return (
        "Over all data " + ", ".join(f"{100.0 * value:.1f} % {what}" for what, value in said if value is not None) + "."
    )


def grid(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table without a final line break; its first column is words, the others are figures."""
    rule = ("---", *["---:"] * (len(head) - 1))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def _grid(rows: Sequence[Row]) -> str:
    return grid(
        ("cases", "lesions", "normals", *COLUMNS),
        [(title(row), str(row.lesions), str(row.normals), *cells(row, intervals=True)) for row in rows],
    )


def _cell(value: float | int | None, bounds: Interval | None, digits: int) -> str:
    if value is None:
        return "–"
    shown = f"{value:.{digits}f}"
    return shown if bounds is None else f"{shown} ({bounds[0]:.{digits}f}–{bounds[1]:.{digits}f})"
