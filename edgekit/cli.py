"""The app, and the one place where errors become a line and an exit code."""

import sys
import warnings
from typing import Annotated, TextIO

import typer

from edge.engines import EngineWarning
from edge.errors import EdgekitError
from edgekit.commands import bench, demo, doctor, drift, evaluate, export, install, pack, predict, run, train
from edgekit.journal import Level, in_service, marked

app = typer.Typer(
    name="edgekit",
    help="Takes a trained multitask ultrasound network to the small computer beside the scanner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None if in_service() else "rich",
)
for command in (export, drift, bench, predict, run, pack, install, doctor, evaluate, train, demo):
    app.command()(getattr(command, command.__name__.rpartition(".")[2]))


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"edgekit {version('edgekit-ultrasound')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Read the options before the command; `main` looks for --debug itself."""
    del debug, version


def _tell_engine_warnings() -> None:
    """Have EngineWarnings printed as notes; all others as Python does."""
    as_before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, EngineWarning):
            as_before(message, category, filename, lineno, file, line)
            return
        from edgekit.console import notice

        notice(str(message))

    warnings.showwarning = show


def main() -> None:
    """Run the app. Errors a user can cause: one line on stderr, exit code 1 or 3; usage errors exit with 2."""
    _tell_engine_warnings()
    try:
        app()
    except EdgekitError as error:
        if "--debug" in sys.argv:
            raise
        print(marked(f"error: {error}", Level.ERROR), file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except ImportError as error:
        if "--debug" in sys.argv:
            raise
        line = (
            f"error: a package does not import: {str(error).strip().partition(chr(10))[0]}; edgekit doctor says which"
        )
        print(marked(line, Level.ERROR), file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        line = f"error: {error.filename or 'system'}: {error.strerror or error}"
        print(marked(line, Level.ERROR), file=sys.stderr)
        sys.exit(1)
