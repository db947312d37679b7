"""`edgekit doctor`."""

from typing import TYPE_CHECKING

from edgekit.commands.options import Json

if TYPE_CHECKING:
    from edge.doctor import Checkup


def doctor(json: Json = None) -> None:
    """Look at this computer: what it is, what works on it, and what to run. Exits with 1 where nothing can run."""
    from edge.doctor import examine
    from edge.errors import EdgekitError
    from edgekit.console import live, write_json

    with live() as show:
        checkup = examine(say=show)
    _print(checkup)
    write_json(json, checkup.to_json())
    if checkup.problems:
        first = checkup.problems[0]
        more = f" (and {len(checkup.problems) - 1} more above)" if len(checkup.problems) > 1 else ""
        raise EdgekitError(f"edgekit cannot run here: {first.said}; {first.advice}{more}")


def _print(checkup: "Checkup") -> None:
    from rich.markup import escape

    from edgekit.console import out, table

    table("Computer", ("", ""), _facts(checkup), words=True)
    table(
        "Engines",
        ("engine", "state", "version", "why"),
        [(e.engine, e.state, e.version or "–", escape(e.detail)) for e in (*checkup.packages, *checkup.engines)],
        words=True,
    )
    if checkup.openvino_devices:
        table("OpenVINO devices", ("device", "name"), checkup.openvino_devices.items(), words=True)
    if checkup.cameras:
        rows = [(camera.path, escape(camera.name), escape(camera.fault or "ok")) for camera in checkup.cameras]
        table("Cameras", ("device", "name", ""), rows, words=True)
    table(
        "Findings",
        ("topic", "", "what", "what to do"),
        [(f.topic, _COLOURED[f.level], escape(f.said), escape(f.advice)) for f in checkup.findings],
        words=True,
    )
    advised = checkup.recommendation
    if advised is not None:
        out.print(
            f"recommended: --engine {advised.engine} --threads {advised.threads} --network {advised.network}",
            style="bold",
        )
        out.print(f"  {advised.reason}", markup=False)


_COLOURED = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "problem": "[bold red]problem[/]"}


def _facts(checkup: "Checkup") -> list[tuple[str, str]]:
    from edgekit.console import number

    device, system = checkup.device, checkup.system
    memory = [None if size is None else size / 1e9 for size in (device.memory_bytes, device.memory_available_bytes)]
    throttled = device.throttled
    clock = [] if device.clock_mhz is None else [f"{device.clock_mhz:.0f} MHz"]
    clock += [] if device.clock_max_mhz is None else [f"at most {device.clock_max_mhz:.0f}"]
    clock += [] if device.governor is None else [f"governor {device.governor}"]
    return [
        ("board", device.board or "–"),
        ("processor", f"{device.cpu}, {device.cores} cores"),
        ("features", ", ".join(device.features) or "–"),
        ("memory", f"{number(memory[0], 1)} GB, {number(memory[1], 1)} free"),
        ("clock", ", ".join(clock) or "–"),
        ("temperature", "–" if device.temperature_c is None else f"{device.temperature_c:.1f} °C"),
        ("throttled", "–" if throttled is None else ", ".join(throttled.now) or "no"),
        ("throttled since boot", "–" if throttled is None else ", ".join(throttled.since_boot) or "no"),
        ("system", f"{system['system']}, kernel {system['kernel']}, {system['libc']}, {device.bits} bit"),
        ("Python", system["python"]),
    ]
