"""OpenIGTLink as a source: a client of PLUS, 3D Slicer or any other sender of IMAGE messages. Needs no package.

Pictures are of one device: the named one, or else the first that sends an image. Other messages are read past. Whatever is wrong
with a message ends the connection, since nobody can tell where the next one begins; the stream then connects again.
"""

import math
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlsplit

from edge.errors import SourceError
from edge.sources import Picture
from edge.sources.igtl_messages import (
    HEADER_BYTES,
    MAX_BODY_BYTES,
    MAX_SKIPPED_BYTES,
    Header,
    Window,
    parse_header,
    parse_image,
)

if TYPE_CHECKING:
    from edge.sources.opening import SourceOptions

PORT: Final = 18944
TIMEOUT_S: Final = 5.0
MESSAGE_S: Final = 60.0
"""What a whole message may take, however steadily its bytes drip."""
_LOOK_S: Final = 0.25
_PIECE_BYTES: Final = 1 << 18
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
"""A sender that lost its power says no farewell: it is missed after eleven seconds of silence."""


class _Closed(Exception):  # noqa: N818 (an end, not a fault)
    """`close` was called."""


def open_igtl(url: str, options: "SourceOptions | None" = None) -> "IgtlSource":
    """Connect to igtl://host[:port][?device=NAME][&window=BLACK,WHITE]. Raises SourceError.

    options: `open_timeout_s` for the connection, `read_timeout_s` for the next piece of a message that has begun (5 s each
    without options); the rest has no meaning here. window: as in `igtl_messages.parse_image`.
    """
    host, port, device, window = _parse_url(url)
    timeout_s = TIMEOUT_S if options is None else options.open_timeout_s
    try:
        connection = socket.create_connection((host, port), timeout_s)
    except TimeoutError as error:
        raise SourceError(f"{url}: no answer within {timeout_s:g} s; check the address and the sender") from error
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{url}: cannot be reached ({reason}); check the address and the sender") from error
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not every system has them
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return IgtlSource(
        connection,
        url,
        device=device,
        window=window,
        read_timeout_s=TIMEOUT_S if options is None else options.read_timeout_s,
    )


class IgtlSource:
    """Pictures of the IMAGE messages that come over a connection. Their time is the sender's, counted from the first picture."""

    def __init__(
        self,
        connection: socket.socket,
        name: str,
        *,
        device: str | None = None,
        window: Window | None = None,
        read_timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.name, self.live = name, True
        self._connection, self._device, self._window = connection, device, window
        self._read_timeout_s = read_timeout_s
        self._closed = threading.Event()
        connection.settimeout(min(_LOOK_S, read_timeout_s))

    def __iter__(self) -> Iterator[Picture]:
        """Raises SourceError when a message is malformed or does not go on, and when the sender goes away."""
        start_s: float | None = None
        try:
            while True:
                header, body = self._message()
                if body is None:
                    continue
                image = parse_image(header, body, self._window)
                self._device = header.device
                time_s = None
                if header.timestamp_s is not None:
                    start_s = header.timestamp_s if start_s is None else start_s
                    time_s = header.timestamp_s - start_s
                yield Picture(image.pixels, time_s, image.spacing_mm)
        except _Closed:
            return
        except SourceError as error:
            raise SourceError(f"{self.name}: {error}") from error

    def close(self) -> None:
        self._closed.set()
        with suppress(OSError):  # the sender was faster, or this is the second time
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes a reader
        self._connection.close()

    def _message(self) -> tuple[Header, bytearray | None]:
        """The next message, with its body if that is a picture's."""
        head = bytearray(HEADER_BYTES)
        self._fill(memoryview(head)[:1], began_s=None)
        began_s = time.monotonic()
        self._fill(memoryview(head)[1:], began_s)
        header = parse_header(bytes(head))
        if header.kind == "IMAGE" and self._device in (None, header.device):
            if header.body_bytes > MAX_BODY_BYTES:
                raise SourceError(f"{header}: claims {header.body_bytes} bytes; a picture has at most {MAX_BODY_BYTES}")
            body = bytearray(header.body_bytes)
            self._fill(memoryview(body), began_s)
            return header, body
        if header.body_bytes > MAX_SKIPPED_BYTES:
            raise SourceError(f"{header}: claims {header.body_bytes} bytes; at most {MAX_SKIPPED_BYTES} are read past")
        past = memoryview(bytearray(min(header.body_bytes, _PIECE_BYTES)))
        for start in range(0, header.body_bytes, _PIECE_BYTES):
            self._fill(past[: header.body_bytes - start], began_s)
        return header, None

    def _fill(self, view: memoryview, began_s: float | None) -> None:
        """Fill `view` with what comes. began_s: when the message began; before that, silence is no fault."""
        heard_s = time.monotonic()
        while view:
            if self._closed.is_set():
                raise _Closed
            try:
                count = self._connection.recv_into(view)
            except TimeoutError:
                count = -1
            except OSError as error:
                if self._closed.is_set():
                    raise _Closed from error
                raise SourceError(f"the connection broke ({error.strerror})") from error
            now_s = time.monotonic()
            if count > 0:
                view, heard_s = view[count:], now_s
            elif count == 0 and not self._closed.is_set():
                raise SourceError("the sender went away" + ("" if began_s is None else " in the middle of a message"))
            elif began_s is not None and now_s - heard_s >= self._read_timeout_s:
                raise SourceError(f"half a message, then nothing for {self._read_timeout_s:g} s")
            if began_s is not None and now_s - began_s > MESSAGE_S:
                raise SourceError(f"a message took longer than {MESSAGE_S:g} s")


def _parse_url(url: str) -> tuple[str, int, str | None, Window | None]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, PORT if parts.port is None else parts.port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise SourceError(f"{url}: not an address ({error}); use igtl://HOST:PORT") from error
    if parts.scheme != "igtl" or not host or parts.path not in ("", "/"):
        raise SourceError(f"{url}: not an address of OpenIGTLink; use igtl://HOST:PORT?device=NAME")
    settings = dict(query)
    if len(settings) < len(query) or settings.keys() - {"device", "window"}:
        raise SourceError(f"{url}: takes ?device=NAME and ?window=BLACK,WHITE, each once")
    device, window = settings.get("device"), settings.get("window")
    return host, port, device, None if window is None else _parse_window(url, window)


def _parse_window(url: str, text: str) -> Window:
    try:
        low, high = (float(value) for value in text.split(","))
    except ValueError:
        low = high = math.nan
    if not (-1e9 <= low <= high - 1e-6 and high <= 1e9):
        raise SourceError(f"{url}: window={text} is not two numbers, the value of black and the greater one of white")
    return low, high
