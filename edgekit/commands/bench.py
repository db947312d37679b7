"""`edgekit bench`."""

from pathlib import Path
from typing import Annotated

import typer

from edgekit.commands.options import Device, Engines, Json, Network, Threads, open_bundle


def bench(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Bundle folder.", show_default="edgekit-bundle/ if there, else the built-in one"),
    ] = None,
    network: Network = None,
    device: Annotated[Device, typer.Option("--device", help="gpu, npu and auto are OpenVINO's.")] = Device.cpu,
    engine: Engines = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Timed rounds.")] = 100,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also measure how far each artifact is from what this machine could do.")
    ] = False,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Also time fresh processes from their start to the first result.")
    ] = False,
    soak: Annotated[
        float | None,
        typer.Option(
            "--soak", metavar="MIN", help="Then keep one artifact busy for so many minutes.", show_default=False
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            "--compare",
            metavar="OLD.json",
            help="Exit with 3 where it is slower than in this report.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0.0, help="Share that --compare lets latency grow by.")
    ] = 0.10,
    json: Json = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write the report with plots to this file.", show_default=False)
    ] = None,
) -> None:
    """Time every artifact of a bundle on this machine, interleaved."""
    from edgekit.benching import Wishes, run_bench

    if soak is not None and not 0 < soak < float("inf"):
        raise typer.BadParameter(f"--soak {soak:g}: give minutes, more than 0")
    wishes = Wishes(
        engines=tuple(name.value for name in engine or ()),
        device=device.value,
        threads=threads,
        rounds=rounds,
        cold_start=cold_start,
        soak_s=None if soak is None else 60.0 * soak,
        compare=compare,
        tolerance=tolerance,
        json=json,
        html=html,
        roofline=roofline,
    )
    run_bench(open_bundle(bundle, network), wishes)
