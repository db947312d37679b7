"""`edgekit pack`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import TargetName


def pack(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle folder.", show_default="the target's built-in one")
    ] = None,
    target: Annotated[
        TargetName, typer.Option("--target", help="The computer it is for.", show_default="here")
    ] = TargetName.here,
    python: Annotated[
        str, typer.Option("--python", help="Python version there: 3.11 in Debian 12, 3.13 in Debian 13.")
    ] = "3.11",
    minimal: Annotated[
        bool, typer.Option("--minimal", help="Without what the page, recordings and DICOM need.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Archive to write.", show_default="edgekit-NETWORK-TARGET-pyVERSION.tar.gz"),
    ] = None,
) -> None:
    """Write one archive that installs runtime, bundle and service on a device without network."""
    from edge.bundle import Bundle
    from edge.device import read_device
    from edge.targets import find_target
    from edgekit.console import describe, interruptible, notice, table
    from edgekit.console import out as console
    from edgekit.pack import folder_name, write_pack

    if not python.startswith("3.") or not python[2:].isdecimal():
        raise typer.BadParameter(f"--python {python}: give a version like 3.11")
    wanted = find_target(target.value, read_device() if target is TargetName.here else None)
    opened = Bundle.open_or_builtin(bundle, network=wanted.network)
    describe(opened)
    if wanted.weight_range == "half" and opened.manifest.weight_range == "full":
        notice(f"INT8 of this bundle saturates on {wanted.title}; export again with --target {wanted.name}")
    place = out or Path(f"{folder_name(opened, wanted, python)}.tar.gz")
    with interruptible(f"{place} was not written"):
        written = write_pack(
            opened, wanted, place, python=python, minimal=minimal, say=lambda line: console.print(line, markup=False)
        )
    table(
        f"{written.path}: {opened.manifest.network} for {wanted.title}, Python {python}",
        ("", "MB"),
        [("archive", f"{written.size_bytes / 1e6:.1f}"), ("free space it needs", f"{written.needed_bytes / 1e6:.0f}")],
    )
    told = f"{len(written.wheels)} wheels, {written.seconds:.0f} s; on the device: tar -xzf, then sudo install.sh"
    console.print(told, markup=False)
