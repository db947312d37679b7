"""What a run is made of: the sinks that its options ask for, and the words about it that pages and files carry."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2

from edge.analysis import Analysis
from edge.delivery import SinkPlan
from edge.errors import SinkError
from edge.stream import Result, StreamStatus

Plan = SinkPlan[Result[Analysis]]


@dataclass(frozen=True, slots=True)
class WebAddress:
    """Where the page is served. token: None lets the page draw one where it needs one. Raises SinkError."""

    host: str
    port: int
    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None

    @classmethod
    def parse(cls, text: str, **options: Any) -> "WebAddress":
        """Read HOST:PORT, [IPV6]:PORT or PORT alone. Raises SinkError."""
        host, _, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
        if not port.isdecimal() or int(port) > 65535:
            raise SinkError(f"--web {text}: give HOST:PORT, for example 127.0.0.1:8765")
        return cls(host, int(port), **options)


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where the results of a run go; None for what is not wanted. recordings: folder of what the page's button records."""

    results: Path | None = None
    record: Path | None = None
    outlines: bool = True
    dicom: Path | None = None
    worklist: Path | None = None
    accession: str | None = None
    patient_id: str | None = None
    patient_name: str | None = None
    exam: Path | None = None
    web: WebAddress | None = None
    recordings: Path = Path("edgekit-recordings")

    def plans(
        self, info: Mapping[str, str], status: Callable[[], StreamStatus], told: Callable[[str], None]
    ) -> list[Plan]:
        """The sinks, in the order they are opened: where a later one cannot be, those before leave nothing in its way the
        next time. told: called with the page's address. Raises DataError.
        """
        plans: list[Plan] = []
        if self.web is not None:
            plans += self._web_plans(self.web, info, status, told)
        if self.record is not None:
            from edge.sinks.recording import RecordingSink

            record = self.record
            plans.append(
                SinkPlan("recording", lambda: RecordingSink(record, outlines=self.outlines), capacity=32, again=False)
            )
        if self.dicom is not None:
            plans.append(self._dicom_plan(self.dicom, info))
        if self.exam is not None:
            from edge.sinks.exam import ExamSink

            exam, started = self.exam, datetime.now().astimezone().isoformat(timespec="seconds")
            source = info.get("source", "")
            plans.append(SinkPlan("exam", lambda: ExamSink(exam, source=source, started=started), again=False))
        if self.results is not None:
            from edge.sinks.jsonl import JsonLinesSink

            results = self.results
            plans.append(
                SinkPlan(
                    "results", lambda: JsonLinesSink(results, info), capacity=256, again=False, kept=_without_pixels
                )
            )
        return plans

    def _dicom_plan(self, folder: Path, info: Mapping[str, str]) -> Plan:
        from edge.sinks.dicom import DicomSink
        from edge.sinks.identity import Identity, read_worklist

        if self.worklist is not None:
            identity = read_worklist(self.worklist, accession=self.accession)
        else:
            said = {
                "patient_id": self.patient_id,
                "patient_name": self.patient_name,
                "accession_number": self.accession,
            }
            identity = Identity(**{name: value for name, value in said.items() if value is not None})
        # A file's path or a host of the clinic is nothing for an archive.
        bundle = {name: value for name, value in info.items() if name != "source"}
        return SinkPlan(
            "DICOM", lambda: DicomSink(folder, identity, bundle=bundle, outlines=self.outlines), drain_s=15.0
        )

    def _web_plans(
        self,
        address: WebAddress,
        info: Mapping[str, str],
        status: Callable[[], StreamStatus],
        told: Callable[[str], None],
    ) -> list[Plan]:
        from edge.sinks.recording import RecordingSink
        from edge.sinks.switched import SwitchedRecording
        from edge.web.server import WebSink

        button = SwitchedRecording(self.recordings, lambda path: RecordingSink(path, outlines=self.outlines))

        def page() -> WebSink:
            sink = WebSink(
                address.host,
                address.port,
                token=address.token,
                certificate=address.certificate,
                key=address.key,
                status=status,
                info=info,
                recorder=button,
            )
            told(sink.url)
            return sink

        return [
            SinkPlan("page", page, capacity=1, newest=True),
            SinkPlan("recording by the page", lambda: button, capacity=32),
        ]


def _without_pixels(result: Result[Analysis]) -> Result[Analysis]:
    return result if result.found is None else replace(result, found=result.found.without_pixels())


def leave_cores_to_engine() -> None:
    """Have OpenCV use one thread, in a process that is there for one run.

    A frame's steps beside the network are short, and OpenCV's helpers for them would wake on the cores that the engine works on:
    own work took a fifth longer with them, on two cores with a recording and the page.
    """
    cv2.setNumThreads(1)
