"""The web page as a sink: a server in a thread of its own that shows the newest result to whoever looks."""

import asyncio
import ipaddress
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge.analysis import Analysis
from edge.device import temperature_c
from edge.errors import SinkError, require
from edge.stream import Result, StreamStatus
from edge.web.access import TOKEN_CHARACTERS, TOKEN_LENGTH, Access, local_names
from edge.web.app import Pages, Recorder
from edge.web.hub import Clock, Hub
from edge.web.metrics import Metrics

if TYPE_CHECKING:
    import uvicorn

PORT: Final = 8765
SAMPLE_S: Final = 1.0
CLOSE_S: Final = 4.0
UNREAD_MS: Final = 10_000
"""A connection whose other end takes nothing for so long is cut off by the kernel."""


class WebSink:
    """Shows results on a page; an `edge.delivery.Sink`. It serves from construction to `close`.

    host, port: where it listens; port 0 takes a free one. On an address that other computers reach a token is needed; it is
    drawn where `token` is None, and `url` tells it. On a loopback address there is none unless given: whoever is logged in here
    may look. certificate, key: PEM files for TLS; a certificate file may hold its key. Without TLS token and pictures cross the
    network in clear. status: of the run, for the state, /healthz and /metrics. info: words to show, as engine, precision,
    network, source. recorder: what the record button drives; without one there is no button. stale_s: age from which a picture
    is stale. viewers: pages at a time. quality: of the JPEG. clock: of the run.
    Raises SinkError when it cannot listen or a file cannot be used, MissingDependencyError.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = PORT,
        *,
        token: str | None = None,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        status: Callable[[], StreamStatus] | None = None,
        info: Mapping[str, str] | None = None,
        recorder: Recorder | None = None,
        temperature: Callable[[], float | None] = temperature_c,
        stale_s: float = 1.0,
        viewers: int = 16,
        quality: int = 90,
        clock: Clock = time.monotonic_ns,
    ) -> None:
        for module in ("starlette", "uvicorn", "prometheus_client"):
            require(module, extra="web")
        self._name = f"web page on {host}:{port}"
        if token is not None and (len(token) < TOKEN_LENGTH or not TOKEN_CHARACTERS.issuperset(token)):
            raise SinkError(f"{self._name}: a token is {TOKEN_LENGTH} or more of the characters A-Z a-z 0-9 - _ . ~")
        context = self._tls(certificate, key)
        self._socket = self._listen(host, port)
        address = ipaddress.ip_address(self._socket.getsockname()[0])
        self._host = socket.gethostname() if address.is_unspecified else host
        self.port: int = self._socket.getsockname()[1]
        """The port that it listens on."""
        self._secure = context is not None
        self.token = token or (None if address.is_loopback else secrets.token_urlsafe(24))
        """What a viewer needs; None where none is needed."""
        self._hub = Hub(clock=clock, limit=viewers, quality=quality)
        self._metrics = Metrics(
            status=status, temperature=temperature, age_s=self._hub.age_s, viewers=self._hub.viewers
        )
        self._pages = Pages(self._hub, self._metrics, recorder=recorder, info=info or {}, stale_s=stale_s)
        self._server = self._configured(
            Access(
                self._pages.app(),
                token=self.token,
                local=local_names(host) if address.is_loopback else None,
                cookie=f"edgekit-{self.port}",
                secure=self._secure,
            ),
            context,
            connections=4 * viewers + 16,
        )
        self._fault: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="web page", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address to open, with the token where one is needed."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        query = "" if self.token is None else f"?token={self.token}"
        return f"http{'s' if self._secure else ''}://{host}:{self.port}/{query}"

    def write(self, result: Result[Analysis]) -> None:
        """Show this result from now on. A failed one changes no picture: the one before grows stale. Raises SinkError once the
        server has ended by a fault.
        """
        if self._fault is not None:
            raise SinkError(f"{self._name}: the server ended ({self._fault})") from self._fault
        self._metrics.note(result.record)
        if result.found is not None:
            self._hub.put(result.found)

    def close(self) -> None:
        """End the server, viewers or not, within four seconds; may be called twice. Raises SinkError where it did not end."""
        self._closed = True
        self._server.should_exit = True
        self._hub.close()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            raise SinkError(f"{self._name}: the server did not end within {CLOSE_S:g} s")

    def _tls(self, certificate: Path | str | None, key: Path | str | None) -> ssl.SSLContext | None:
        if certificate is None:
            if key is not None:
                raise SinkError(f"{self._name}: a key needs its certificate")
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # An empty answer to the question for a passphrase, so that nobody is asked on a terminal.
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except OSError as error:
            files = f"certificate {certificate}" + ("" if key is None else f" with key {key}")
            said = f"{self._name}: {files} cannot be used ({error.strerror or error}); "
            raise SinkError(said + "give PEM files, the key without a passphrase") from error
        return context

    def _listen(self, host: str, port: int) -> socket.socket:
        if not 0 <= port <= 65535:
            raise SinkError(f"{self._name}: a port is 0 to 65535")
        listening = None
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listening = socket.socket(family, kind)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
            listening.bind(address)
            listening.listen(128)
        except OSError as error:
            if listening is not None:
                listening.close()
            said = f"{self._name}: cannot listen there ({error.strerror})"
            raise SinkError(f"{said}; choose another port, or an address of this computer") from error
        return listening

    def _configured(self, app: Access, context: ssl.SSLContext | None, *, connections: int) -> "uvicorn.Server":
        import uvicorn

        config = uvicorn.Config(
            app,
            loop="asyncio",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,  # a log of addresses would hold the token
            proxy_headers=False,
            server_header=False,
            limit_concurrency=connections,
            timeout_graceful_shutdown=1,
        )
        config.load()
        config.ssl = context
        return uvicorn.Server(config)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
            if not self._closed:
                raise SinkError("it was told to stop")
        except BaseException as fault:  # told by `write`
            self._fault = fault
        finally:
            self._socket.close()

    async def _serve(self) -> None:
        sampling = asyncio.create_task(self._sample())
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        try:
            await asyncio.wait((sampling, serving), return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                self._server.should_exit = True
            await serving
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
            for connection in list(self._server.server_state.connections):  # those that read nothing any more
                connection.transport.abort()
            await asyncio.sleep(0.01)  # for their ends
        if not sampling.cancelled():
            sampling.result()

    async def _sample(self) -> None:
        while True:
            await asyncio.to_thread(self._metrics.take)
            await asyncio.sleep(SAMPLE_S)


__all__ = ["Recorder", "WebSink"]
