"""The app, and the one place where errors become a line and an exit code."""

import sys
from typing import Annotated

import typer

from edge.errors import EdgekitError
from edgekit.commands import bench, demo, drift, evaluate, export, predict, run, train

app = typer.Typer(
    name="edgekit",
    help="Takes a trained multitask ultrasound network to the small computer beside the scanner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (export, drift, bench, predict, run, evaluate, train, demo):
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


def main() -> None:
    """Run the app. Errors a user can cause: one line on stderr, exit code 1 or 3; usage errors exit with 2."""
    try:
        app()
    except EdgekitError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if "--debug" in sys.argv:
            raise
        print(f"error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
