"""`edgekit run`."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands.options import BundleFolder, Engine, Network, PrecisionOption, Threads, open_bundle, wished

if TYPE_CHECKING:
    from edge.ledger import LedgerSummary
    from edge.stream import StreamStatus


class PolicyName(StrEnum):
    """Which frames are analysed."""

    newest = "newest"
    all = "all"


def run(
    source: Annotated[
        str,
        typer.Argument(
            help="Camera number or /dev/videoN, video, image, folder, DICOM file, rtsp://, http:// (MJPEG), igtl:// or phantom:"
        ),
    ],
    bundle: BundleFolder = None,
    network: Network = None,
    engine: Engine = None,
    precision: PrecisionOption = None,
    threads: Threads = None,
    policy: Annotated[
        PolicyName,
        typer.Option("--policy", help="newest: live, frames that come too fast are dropped. all: every frame."),
    ] = PolicyName.newest,
    roi: Annotated[
        str, typer.Option("--roi", help="Scan region: auto, x,y,w,h in pixels, or none; all else is blacked out.")
    ] = "auto",
    spacing: Annotated[
        float | None,
        typer.Option("--spacing", min=0.0001, help="Millimetres a pixel.", show_default="as the source says"),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Of a camera: WIDTHxHEIGHT.", show_default="its own")
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", min=0.01, help="Of a camera, or of a folder of images.", show_default="its own"),
    ] = None,
    guard: Annotated[
        bool, typer.Option("--guard/--no-guard", help="Reject frames that no answer should be given on.")
    ] = True,
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Smooth findings over time, along with the probe.")
    ] = True,
    web: Annotated[str | None, typer.Option("--web", help="Serve the page at HOST:PORT.", show_default=False)] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="EDGEKIT_TOKEN", help="What viewers need.", show_default="drawn where needed"),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM file: serve the page by TLS.", show_default=False)
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="PEM file of its key.", show_default=False)] = None,
    record: Annotated[
        Path | None, typer.Option("--record", help="Record to this new .mkv or .mp4 file.", show_default=False)
    ] = None,
    outlines: Annotated[bool, typer.Option("--outlines/--no-outlines", help="Draw findings into recordings.")] = True,
    results: Annotated[
        Path | None, typer.Option("--results", help="Write one JSON line a frame to this new file.", show_default=False)
    ] = None,
    dicom: Annotated[
        Path | None, typer.Option("--dicom", help="Folder for key frames as DICOM.", show_default=False)
    ] = None,
    worklist: Annotated[
        Path | None, typer.Option("--worklist", help="JSON worklist with patient and study.", show_default=False)
    ] = None,
    accession: Annotated[str | None, typer.Option("--accession", help="Accession number.", show_default=False)] = None,
    patient_id: Annotated[
        str | None, typer.Option("--patient-id", help="Patient's number.", show_default="anonymous")
    ] = None,
    patient_name: Annotated[
        str | None, typer.Option("--patient-name", help="Family^Given.", show_default="anonymous")
    ] = None,
    exam: Annotated[
        Path | None, typer.Option("--exam", help="Folder for the exam summary.", show_default=False)
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration", min=0.0, help="Seconds to run.", show_default="until it ends")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write the ledger here.", show_default=False)] = None,
) -> None:
    """Segment and classify live frames. Ctrl-C ends the run well."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # one line of ours, not FFmpeg's beside it
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    import time

    from edge.analysis import FrameAnalyser
    from edge.errors import EdgekitError, SourceError
    from edge.guard import Guard
    from edge.overlay import DISCLAIMER
    from edge.predictor import Predictor
    from edge.roi import parse_roi
    from edge.runner import Outputs, WebAddress
    from edge.sources.opening import SourceOptions, open_source
    from edge.stream import Stream
    from edgekit.console import describe, live, notice, out, write_json

    opened = open_bundle(bundle, network)
    choice = wished(engine, precision)
    artifact = opened.choose(**choice)
    region = parse_roi(roi)
    width, height = _camera_size(size)
    options = SourceOptions(width=width, height=height, fps=fps, spacing_mm=spacing)
    outputs = Outputs(
        results=results,
        record=record,
        outlines=outlines,
        dicom=dicom,
        worklist=worklist,
        accession=accession,
        patient_id=patient_id,
        patient_name=patient_name,
        exam=exam,
        web=None if web is None else WebAddress.parse(web, token=token, certificate=certificate, key=key),
    )
    describe(opened)
    notice(DISCLAIMER)
    with Predictor.open(opened.path, threads=threads, clock=time.monotonic_ns, **choice) as predictor:
        analyser = FrameAnalyser(predictor, roi=region, guard=Guard() if guard else None, smooth=smooth)
        info = {
            "source": _public(source),
            "network": opened.manifest.network,
            "engine": artifact.engine,
            "precision": artifact.precision,
            "bundle": opened.manifest.source_sha256[:12],
        }

        def now() -> "StreamStatus":
            return stream.status()

        stream = Stream(
            lambda: open_source(source, options),
            analyser,
            outputs.plans(info, now, lambda url: out.print(f"page: {url}")),
            policy=policy.value,
        )
        with _ended_by_signals(stream.stop), live() as show:
            status = stream.run(duration_s=duration, tick=lambda status: show(_line(status)))
    _report(status)
    write_json(json, {"status": status.source.value, "error": status.error, **status.ledger.to_json()})
    if isinstance(stream.error, EdgekitError):
        raise stream.error
    if stream.error is not None:
        raise SourceError(f"the run broke off: {status.error}") from stream.error
    lossy = [
        f"{sink.name} lost {sink.lost} results ({sink.error or 'too slow'})" for sink in status.sinks if not sink.sound
    ]
    if any(sink.failures for sink in status.sinks):
        from edge.errors import SinkError

        raise SinkError("; ".join(lossy))
    for line in lossy:
        notice(line)


@contextmanager
def _ended_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and the service manager's SIGTERM end a run well; a second one does what it always does."""
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(name, handler)

    def end(*_: object) -> None:
        restore()
        stop()

    for name in before:
        signal.signal(name, end)
    try:
        yield
    finally:
        restore()


def _camera_size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"--size {text}: give WIDTHxHEIGHT, for example 1280x720")
    return int(width), int(height)


def _public(source: str) -> str:
    """The source without a password."""
    from edge.sources.network import public_name

    return public_name(source) if "://" in source else source


def _line(status: "StreamStatus") -> str:
    ledger = status.ledger
    latency = "–" if ledger.latency_p50_ms is None else f"{ledger.latency_p50_ms:.0f}/{ledger.latency_p99_ms:.0f} ms"
    counts = ", ".join(f"{count} {outcome.value}" for outcome, count in ledger.counts.items() if count)
    trouble = f" – {status.trouble}" if status.trouble else ""
    return (
        f"{status.source.value}: {ledger.captured} frames ({counts or 'none yet'}), latency p50/p99 {latency}{trouble}"
    )


def _report(status: "StreamStatus") -> None:
    from edgekit.console import number, table

    ledger = status.ledger
    rows = [("frames captured", ledger.captured)]
    rows += [(outcome.value, count) for outcome, count in ledger.counts.items()]
    table("Frames", ("", "frames"), rows)
    if any(ledger.reasons.values()):
        reasons = [
            (outcome.value, why, count) for outcome, found in ledger.reasons.items() for why, count in found.items()
        ]
        table("Not processed", ("outcome", "reason", "frames"), reasons)
    figures = [
        ("latency p50", number(ledger.latency_p50_ms, 1)),
        ("latency p90", number(ledger.latency_p90_ms, 1)),
        ("latency p99", number(ledger.latency_p99_ms, 1)),
        ("jitter", number(ledger.jitter_ms, 1)),
        *_stage_rows(ledger),
    ]
    table("Capture to result", ("", "ms"), figures)
    if status.sinks:
        table(
            "Sinks",
            ("sink", "written", "lost", "failures"),
            [(sink.name, sink.written, sink.lost, sink.failures) for sink in status.sinks],
        )


def _stage_rows(ledger: "LedgerSummary") -> list[tuple[str, str]]:
    if ledger.stages_ms is None or ledger.stage_shares is None:
        return []
    return [(f"  {stage}", f"{ms:.1f} ({ledger.stage_shares[stage]:.0%})") for stage, ms in ledger.stages_ms.items()]
