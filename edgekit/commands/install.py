"""`edgekit install`."""

from pathlib import Path
from typing import Annotated

import typer


def install(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder to install.", show_default=False)] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder it is installed in.", show_default="/opt/edgekit/current")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the bundle of before.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Restart the service where it runs this one.")
    ] = True,
) -> None:
    """Put a bundle into use on this device, after a self-test; the old one stays until then, and for a rollback."""
    from edge.install import PLACE, install_bundle, roll_back
    from edgekit.console import interruptible, out

    def say(line: str) -> None:
        out.print(line, markup=False)

    if (bundle is None) != rollback:
        raise typer.BadParameter("give a BUNDLE to install, or --rollback without one")
    place = to or PLACE
    restarting = None if restart else lambda: False
    with interruptible(f"{place / 'bundle'} is the old bundle or the new one"):
        if bundle is None:
            installed = roll_back(place, say=say, restart=restarting)
        else:
            installed = install_bundle(bundle, place, say=say, restart=restarting)
    service = "the service was restarted with it" if installed.restarted else "no service was restarted"
    say(f"{installed.path} is {installed.path.resolve().name}; {service}")
