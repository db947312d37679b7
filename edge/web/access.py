"""Who may ask for what: token, cookie, Host and Origin, and the headers that keep the page to itself.

On a loopback address the Host header must name this computer (a foreign page that makes its own name point here, DNS
rebinding, is refused). Anywhere else every path but /healthz needs the token, which crosses once in the address and then lives
in a cookie that scripts cannot read and other sites cannot send.
"""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN: Final = "/healthz"
"""The one path that needs no token: it says fresh or stale, and nothing of a patient."""
TOKEN_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~")
TOKEN_LENGTH: Final = 16
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
    (b"cache-control", b"no-store"),
)


class Access:
    """Lets a request through to `app` or refuses it in one line, and sets the headers of every answer.

    token: None where none is needed. local: names of the Host header that are taken; None takes any. cookie: its name.
    secure: TLS.
    """

    def __init__(self, app: App, *, token: str | None, local: frozenset[str] | None, cookie: str, secure: bool) -> None:
        self._app, self._token, self._local = app, token, local
        self._cookie, self._secure = cookie, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        extra = list(_HEADERS)
        by_address = scope["path"] == "/" and self._token_in_address(scope)
        if by_address:
            extra.append((b"set-cookie", self._set_cookie().encode()))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refused = self._refusal(scope, headers, by_address=by_address)
        if refused is None:
            await self._app(scope, receive, answer)
            return
        status, line = refused
        if status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        start = {"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]}
        await answer(start)
        await answer({"type": "http.response.body", "body": f"{line}\n".encode()})

    def _refusal(self, scope: Scope, headers: dict[str, str], *, by_address: bool) -> tuple[int, str] | None:
        """Status and line, None for a request that may pass."""
        host = headers.get("host", "")
        if self._local is not None and _name(host) not in self._local:
            return 421, "this page is for the computer it runs on; open it as localhost or 127.0.0.1"
        if scope["path"] == OPEN:
            return None
        bearer = self._is_token(headers.get("authorization", "").removeprefix("Bearer "))
        if self._token is not None and not (by_address or bearer or self._is_token(self._from_cookie(headers))):
            return 401, "this page needs its token: open the whole address that edgekit gave when it started"
        if scope["path"] != "/" and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return 403, "another site may not ask for this"
        own = bool(host) and headers.get("origin", "").lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
        if scope["method"] not in ("GET", "HEAD") and not (bearer or own):
            return 403, "only the page itself may ask for this (its Origin header must name this server)"
        return None

    def _token_in_address(self, scope: Scope) -> bool:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return self._is_token(given)

    def _from_cookie(self, headers: dict[str, str]) -> str:
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self._cookie:
                return value
        return ""

    def _set_cookie(self) -> str:
        return f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if self._secure else "")

    def _is_token(self, given: str) -> bool:
        if self._token is None:
            return False
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode())


def local_names(host: str) -> frozenset[str]:
    """Names of the Host header that a server on the loopback address `host` takes."""
    return _LOCAL | {host.lower()}


def _name(host: str) -> str:
    """The name in a Host header, without its port and brackets."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


__all__ = ["OPEN", "TOKEN_CHARACTERS", "TOKEN_LENGTH", "Access", "local_names"]
