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
    json: Json = None,
) -> None:
    """Time every artifact of a bundle on this machine, interleaved."""
    from benchmarks.bench import bench as run
    from edgekit.console import describe, progress, write_json
    from edgekit.tables import bench_table

    opened = open_bundle(bundle, network)
    describe(opened)
    report = run(
        opened,
        engines=[name.value for name in engine or ()],
        device=device.value,
        threads=threads,
        rounds=rounds,
        progress=progress("bench"),
    )
    bench_table(report)
    write_json(json, report.to_json() | {"phantom_calibrated": opened.manifest.phantom_calibrated})
