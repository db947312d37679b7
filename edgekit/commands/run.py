"""`edgekit run`."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.commands.options import (
    BundleFolder,
    Device,
    Engine,
    EngineName,
    Network,
    PrecisionOption,
    Threads,
    open_bundle,
    wished,
)

if TYPE_CHECKING:
    from edge.stream import StreamStatus


class PolicyName(StrEnum):
    """Which frames are analysed."""

    newest = "newest"
    all = "all"


def run(
    source: Annotated[
        str,
        typer.Argument(
            envvar="EDGEKIT_SOURCE",  # an address may hold a password, which a command line would show to everybody
            help="Camera number or /dev/videoN, video, image, folder, DICOM file, rtsp://, http:// (MJPEG), igtl:// or phantom:",
        ),
    ],
    bundle: BundleFolder = None,
    network: Network = None,
    engine: Engine = None,
    precision: PrecisionOption = None,
    threads: Threads = None,
    device: Annotated[Device, typer.Option("--device", help="gpu, npu and auto are OpenVINO's.")] = Device.cpu,
    policy: Annotated[
        PolicyName,
        typer.Option("--policy", help="newest: live, frames that come too fast are dropped. all: every frame."),
    ] = PolicyName.newest,
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait for a camera or sender that is away, also at the beginning and the end."),
    ] = False,
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
        Path | None,
        typer.Option(
            "--record", help="Record to this new .mkv or .mp4 file; %Y%m%d-%H%M%S is now.", show_default=False
        ),
    ] = None,
    outlines: Annotated[bool, typer.Option("--outlines/--no-outlines", help="Draw findings into recordings.")] = True,
    results: Annotated[
        Path | None,
        typer.Option(
            "--results", help="Write one JSON line a frame to this new file; %Y%m%d-%H%M%S is now.", show_default=False
        ),
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
        Path | None,
        typer.Option("--exam", help="Folder for the exam summary; %Y%m%d-%H%M%S is now.", show_default=False),
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
    from edge.device import read_throttled
    from edge.guard import Guard
    from edge.overlay import DISCLAIMER
    from edge.predictor import Predictor
    from edge.roi import parse_roi
    from edge.runner import Outputs, WebAddress, leave_cores_to_engine
    from edge.sources.opening import SourceOptions, is_live, is_synthetic, open_source
    from edge.stream import Stream
    from edge.watchdog import Notifier, Watchdog
    from edgekit.console import describe, live, notice, out, say
    from edgekit.journal import Summaries, in_service
    from edgekit.run_report import News, conclude

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
    artifact = opened.choose(**wished(engine if device is Device.cpu else engine or EngineName.openvino, precision))
    throttled = read_throttled()
    if throttled is not None and throttled.now:
        notice(f"this computer is slowed down ({', '.join(throttled.now)}); edgekit doctor says what to do")
    region = parse_roi(roi)
    width, height = _camera_size(size)
    options = SourceOptions(width=width, height=height, fps=fps, spacing_mm=spacing)
    awaits = wait and is_live(source)
    outputs = Outputs(
        results=_dated(results),
        record=_dated(record),
        outlines=outlines,
        dicom=dicom,
        worklist=worklist,
        accession=accession,
        patient_id=patient_id,
        patient_name=patient_name,
        exam=_dated(exam),
        web=None if web is None else WebAddress.parse(web, token=token, certificate=certificate, key=key),
    )
    if json is not None:
        check_place(json)
    describe(opened)
    notice(DISCLAIMER)
    predictor = Predictor.of(opened, artifact, threads=threads, device=device.value, clock=time.monotonic_ns)
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
        outputs.plans(info, now, lambda url: out.print(f"page: {_page(url, given=token is not None)}")),
        policy=policy.value,
        awaits=awaits,
    )
    watchdog = Watchdog(Notifier.from_environment())
    summaries = Summaries(say)
    with closing(analyser), _ended_by_signals(stream.stop), live() as show:
        news = News(summaries.tell if in_service() else lambda _, line: show(line), notice, watchdog)
        status = stream.run(duration_s=duration, tick=news.tell, tick_s=watchdog.tick_s, ending=watchdog.stopping)
    conclude(status, stream.error, json, awaits=awaits)


def _page(url: str, *, given: bool) -> str:
    """The page's address as it is told: a log keeps no token that the user knows anyway."""
    from edgekit.journal import in_service

    return url.partition("?")[0] if given and in_service() else url


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


def _dated(path: Path | None) -> Path | None:
    """The path with strftime's %Y, %m, %d, %H, %M, %S replaced by now: a service is started again and writes over nothing."""
    if path is None or "%" not in str(path):
        return path
    from datetime import datetime

    return Path(datetime.now().strftime(str(path)))


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
