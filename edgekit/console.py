"""What the commands print: tables, progress and notices."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from edge.atomic import write_text
from edge.errors import EdgekitError
from edgekit.journal import Level, marked

if TYPE_CHECKING:  # edgekit doctor prints also where numpy or OpenCV is broken
    from edge.bundle import Bundle

Item = TypeVar("Item")
_WIDTH = None if sys.stdout.isatty() else 160
"""Tables in a file or a pipe are not cut to 80 columns."""

out = Console(highlight=False, soft_wrap=True, width=_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def progress(what: str) -> Callable[[Iterable[Item]], Iterable[Item]]:
    """A progress bar on stderr for an iterable of known length; a plain pass-through when stderr is no terminal."""

    def wrapped(items: Iterable[Item]) -> Iterable[Item]:
        if not sys.stderr.isatty():
            return items
        return track(items, description=what, console=err, transient=True)

    return wrapped


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[object]], *, words: bool = False) -> None:
    """Print a table; numbers stand right, and what is not in the first column is one, unless words are said to be there."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if words or index == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(str(cell) for cell in row))
    out.print(grid)


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A figure, or an en dash where there is none."""
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def notice(text: str) -> None:
    """A line on stderr that must not be missed."""
    err.print(marked(f"note: {text}", Level.WARNING), style="yellow", markup=False)


def say(text: str) -> None:
    """A line on stderr of how things go."""
    err.print(marked(text, Level.INFO), markup=False)


def warning(text: str) -> None:
    """A line on stderr in the strongest words there are: something is the wrong way round."""
    err.print(marked(f"WARNING: {text}", Level.WARNING), style="bold red", markup=False)


@contextmanager
def ticker() -> Iterator[Callable[[str], None]]:
    """A line on stderr, written anew by each call and only then: what is being timed shares the processor with no spinner.

    Nothing where stderr is no terminal.
    """
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    try:
        yield lambda text: print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\x1b[2K", end="", file=sys.stderr, flush=True)


def write_json(path: Path | None, record: Any) -> None:
    """Write a report, all or nothing; no path, no report."""
    if path is not None:
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def describe(bundle: "Bundle", *, guesses: bool = False) -> None:
    """Say what must be known of a bundle: calibrated on synthetic images, guessed outputs, artifacts it lacks.

    guesses: each of them, as its export does; else how many.
    """
    from edge.manifest import MANIFEST

    manifest = bundle.manifest
    if manifest.phantom_calibrated:
        notice(
            f"{bundle.path.name} was calibrated on phantoms, not on real frames; "
            "calibrate with --calibration DIR before anyone relies on it"
        )
    for guess in manifest.guesses if guesses else ():
        notice(f"guessed: {guess}")
    if manifest.guesses and not guesses:
        notice(f"{bundle.path.name}: guesses made at export: {len(manifest.guesses)}, listed in its {MANIFEST}")
    for missing in manifest.missing:
        notice(f"{missing.engine} {missing.precision} is missing: {missing.reason}")


@contextmanager
def live() -> Iterator[Callable[[str], None]]:
    """A line on stderr that is written anew by each call; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    with err.status("starting") as shown:
        yield lambda text: shown.update(escape(text))


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """Ctrl-C ends the command with `message` instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise EdgekitError(f"interrupted; {message}") from error
