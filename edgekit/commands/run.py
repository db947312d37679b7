"""`edgekit run`."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
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
    from edge.atomic import check_place
    from edge.guard import Guard
    from edge.overlay import DISCLAIMER
    from edge.predictor import Predictor
    from edge.roi import parse_roi
    from edge.runner import Outputs, WebAddress, leave_cores_to_engine
    from edge.sources.opening import SourceOptions, is_synthetic, open_source
    from edge.stream import Stream
    from edgekit.console import describe, live, notice, out

    identity = {
        "--worklist": worklist,
        "--accession": accession,
        "--patient-id": patient_id,
        "--patient-name": patient_name,
    }
    _needed("--dicom", dicom, identity)
    _needed("--web", web, {"--certificate": certificate, "--key": key})
    leave_cores_to_engine()
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
    if json is not None:
        check_place(json)
    describe(opened)
    notice(DISCLAIMER)
    predictor = Predictor.open(opened.path, threads=threads, clock=time.monotonic_ns, **choice)
    reference = None if is_synthetic(source) else opened.manifest.feature_reference(artifact.precision)
    judge = Guard(reference=reference) if guard else None
    analyser = FrameAnalyser(predictor, roi=region, guard=judge, smooth=smooth)
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
    with closing(analyser), _ended_by_signals(stream.stop), live() as show:
        news = _News(show, notice)
        status = stream.run(duration_s=duration, tick=news.tell)
    _conclude(status, stream.error, json)


def _conclude(status: "StreamStatus", error: Exception | None, json: Path | None) -> None:
    """Write and print how the run went. Raises what ended it, SourceError where the source was away at the end or sent nothing,
    else SinkError where a sink failed.
    """
    from edge.errors import EdgekitError, SinkError, SourceError
    from edgekit.console import notice, write_json

    failed = [str(sink) for sink in status.sinks if sink.failures]
    try:
        write_json(json, _record(status))
    except SinkError as fault:
        failed.append(str(fault))
    _report(status)
    if error is None and status.trouble is not None:
        error = SourceError(f"the source was away at the end: {status.trouble}")
    if error is None and not status.ledger.captured:
        error = SourceError("no picture came from the source; see that it sends")
    for line in (str(sink) for sink in status.sinks if sink.lost and not sink.failures):
        notice(line)
    if error is None and failed:
        raise SinkError("; ".join(failed))
    for line in failed:
        notice(line)
    if isinstance(error, EdgekitError):
        raise error
    if error is not None:
        raise SourceError(f"the run broke off: {status.error}") from error


class _News:
    """Tells how a run goes: on a line that is shown anew, and of each fault, as it comes and goes, in a line that stays."""

    def __init__(self, show: Callable[[str], None], say: Callable[[str], None]) -> None:
        self._show, self._say = show, say
        self._told: dict[str, str] = {}
        self._failures: dict[str, int] = {}

    def tell(self, status: "StreamStatus") -> None:
        """Called now and then: what failed and recovered in between is told too."""
        self._show(_line(status))
        self._of("the source", status.reconnects, status.trouble, status.fault)
        for sink in status.sinks:
            self._of(sink.name, sink.failures, sink.error, sink.fault)

    def _of(self, who: str, failures: int, trouble: str | None, fault: str | None) -> None:
        again = failures > self._failures.get(who, 0)
        if again and fault is not None and fault != self._told.get(who):
            self._say(f"{who} failed: {fault}")
            self._told[who] = fault
        if trouble is None and self._told.pop(who, None) is not None:
            self._say(f"{who} works again")
        self._failures[who] = failures


def _record(status: "StreamStatus") -> dict[str, object]:
    return {
        "status": status.source.value,
        "error": status.error,
        "fault": status.fault,
        "away_at_end": status.trouble,
        "reconnects": status.reconnects,
        **status.ledger.to_json(),
        "sinks": [sink.to_json() for sink in status.sinks],
    }


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


def _needed(option: str, given: object, by: Mapping[str, object]) -> None:
    """Raises BadParameter for options that would do nothing without another, unsaid: a patient's name that reaches no file."""
    for name, value in by.items():
        if value is not None and given is None:
            raise typer.BadParameter(f"{name} has no use without {option}; give that too")


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
    from edgekit.console import number

    ledger = status.ledger
    percentiles = (ledger.latency_p50_ms, ledger.latency_p90_ms, ledger.latency_p99_ms)
    latency = "/".join(number(value, 0) for value in percentiles)
    counts = ", ".join(f"{count} {outcome.value}" for outcome, count in ledger.counts.items() if count)
    missed = f", {ledger.lost} missed by the source" if ledger.lost else ""
    trouble = f" – {status.trouble}" if status.trouble else ""
    return (
        f"{status.source.value}: {ledger.captured} frames ({counts or 'none yet'}){missed}, drop rate {ledger.drop_rate:.0%}, "
        f"latency p50/p90/p99 {latency} ms, jitter {number(ledger.jitter_ms, 0)} ms{trouble}"
    )


def _report(status: "StreamStatus") -> None:
    from edgekit.console import number, table

    ledger = status.ledger
    rows: list[tuple[str, object]] = [("frames captured", ledger.captured)]
    rows += [(outcome.value, count) for outcome, count in ledger.counts.items()]
    rows.append(("drop rate", f"{ledger.drop_rate:.1%}"))
    if ledger.lost:
        rows.append(("missed by the source", ledger.lost))
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
            ("sink", "taken", "superseded", "lost", "failures"),
            [(sink.name, sink.written, sink.superseded, sink.lost, sink.failures) for sink in status.sinks],
        )


def _stage_rows(ledger: "LedgerSummary") -> list[tuple[str, str]]:
    if ledger.stages_ms is None or ledger.stage_shares is None:
        return []
    return [(f"  {stage}", f"{ms:.1f} ({ledger.stage_shares[stage]:.0%})") for stage, ms in ledger.stages_ms.items()]
