"""The paths of the page: what a request is answered with.

/          the page, with /page.css, /page.js and /icon.svg; it loads nothing from elsewhere
/frame     the newest picture with what was found, once it is not the one that the viewer names (see `Pages.frame`)
/record    POST {"recording": true or false}: start or stop a recording
/healthz   200 while results are fresh, 503 otherwise; needs no token
/metrics   figures in Prometheus' text format
"""

import asyncio
import json
import struct
import time
from collections.abc import Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Final, Protocol

from edge.errors import EdgekitError
from edge.web.hub import Hub
from edge.web.metrics import Metrics

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

WAIT_S: Final = 0.5
"""How long a request for a picture waits for one."""
BODY_BYTES: Final = 1024
STATIC: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Recorder(Protocol):
    """What the page's record button starts and stops; called in a thread, one call at a time."""

    @property
    def recording(self) -> bool: ...

    def start(self) -> None:
        """Raises SinkError, which the page shows."""
        ...

    def stop(self) -> None:
        """Raises SinkError, which the page shows."""
        ...


class Pages:
    """Answers requests. stale_s: age of a picture from which it is stale. info: shown as it stands."""

    def __init__(
        self, hub: Hub, metrics: Metrics, *, recorder: Recorder | None, info: Mapping[str, str], stale_s: float
    ) -> None:
        self._hub, self._metrics, self._recorder = hub, metrics, recorder
        self._info, self._stale_s = dict(info), stale_s
        self._recording = asyncio.Lock()
        folder = files("edge.web") / "static"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in STATIC.items()}

    def app(self) -> "Starlette":
        """The application, without its guard (`edge.web.access`)."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                *(Route(path, self.static) for path in STATIC),
                Route("/frame", self.frame),
                Route("/record", self.record, methods=["POST"]),
                Route("/healthz", self.healthz),
                Route("/metrics", self.metrics),
            ]
        )

    async def static(self, request: "Request") -> "Response":
        from starlette.responses import Response

        body, kind = self._static[request.url.path]
        return Response(body, media_type=kind)

    async def frame(self, request: "Request") -> "Response":
        """Answer within half a second, with a new picture or without one.

        Query: `after`, the key of the picture that the viewer has; `state`, that of the state it has; `viewer`, a name it
        chose. The body is the length of a JSON text (4 bytes, big-endian), the text, and a JPEG that may be empty. The JSON's
        age_ms is the picture's when the answer left, handled_ms the time that the server had the request: the viewer adds what
        its own clock measured beyond that, so that the age it shows is never too small.
        """
        from starlette.responses import PlainTextResponse, Response

        arrived_s = time.monotonic()
        query = request.query_params
        if not self._hub.admit(query.get("viewer", "")[:64]):
            return PlainTextResponse(f"{self._hub.limit} pages look already; close one of them\n", 503)
        shot = await self._hub.next(query.get("after", ""), WAIT_S)
        told: list[bytes] = []
        jpeg = b""
        if shot is not None and shot.key != query.get("after"):
            picture = await self._hub.encoded(shot)
            jpeg = picture.jpeg
            told += [b'"key":', json.dumps(shot.key).encode(), b',"frame":', picture.told, b","]
        told += self._state(query.get("state", ""))
        age_s = 0.0 if shot is None else self._hub.age_of(shot)
        handled_s = time.monotonic() - arrived_s
        told.append(f'"age_ms":{1000 * age_s:.1f},"handled_ms":{1000 * handled_s:.1f}'.encode())
        text = b"".join((b"{", *told, b"}"))
        return Response(struct.pack(">I", len(text)) + text + jpeg, media_type="application/octet-stream")

    def _state(self, known: str) -> list[bytes]:
        """The run's state as part of a JSON object, nothing where the viewer knows it."""
        sample = self._metrics.sample
        recording = None if self._recorder is None else self._recorder.recording
        key = f"{self._hub.run}-{sample.version}-{recording}"
        if key == known:
            return []
        told = {
            "state_key": key,
            "state": {
                **sample.to_json(),
                "recording": recording,
                "viewers": self._hub.viewers(),
                "stale_ms": 1000.0 * self._stale_s,
                "info": self._info,
            },
        }
        return [json.dumps(told, allow_nan=False)[1:-1].encode(), b","]

    async def record(self, request: "Request") -> "Response":
        """Start or stop the recording; 409 with a line where that fails."""
        from starlette.responses import JSONResponse, PlainTextResponse

        if self._recorder is None:
            return PlainTextResponse("this run cannot record\n", 404)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > BODY_BYTES:
                return PlainTextResponse("too long\n", 413)
        try:
            wanted = json.loads(body)["recording"]
        except (ValueError, TypeError, KeyError):
            wanted = None
        if not isinstance(wanted, bool):
            return PlainTextResponse('send {"recording": true} or {"recording": false}\n', 400)
        async with self._recording:
            try:
                if wanted != self._recorder.recording:  # another page may have been faster
                    await asyncio.to_thread(self._recorder.start if wanted else self._recorder.stop)
            except EdgekitError as error:
                return PlainTextResponse(f"{error}\n", 409)
        return JSONResponse({"recording": self._recorder.recording})

    async def healthz(self, request: "Request") -> "Response":
        """waiting, fresh, stale or error. It names no fault: an address in its text may hold a password."""
        from starlette.responses import JSONResponse

        sample, age_s = self._metrics.sample, self._hub.age_s()
        if sample.error is not None:
            state = "error"
        elif age_s is None:
            state = "waiting"
        else:
            state = "fresh" if age_s <= self._stale_s else "stale"
        told = {"state": state, "age_s": None if age_s is None else round(age_s, 3)}
        return JSONResponse(told, 200 if state == "fresh" else 503)

    async def metrics(self, request: "Request") -> "Response":
        from starlette.responses import Response

        return Response(self._metrics.text(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})


__all__ = ["Pages", "Recorder"]
