"""The window to an authorization server: HTTP by `wire.client`, and every failure translated at one place.

Sends exactly the header lines it is given, Host, Content-Length and three of its own. Never follows a redirect (it
would carry the client's secret away), keeps no cookie, reads neither the environment's proxies nor .netrc. Never sends
a request again: a refresh token may have been spent although no answer came. Knows no OAuth.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ssl
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode, urlsplit

from sidecar.model import DEFAULT_PORTS, Form, Invalid, Origin, Unavailable
from sidecar.oauth.document import MAX_BYTES
from sidecar.wire import client
from sidecar.wire.body import BrokenBodyError
from sidecar.wire.client import NoAddressError, TooLargeError
from sidecar.wire.dial import client_context
from sidecar.wire.head import InvalidResponseError
from sidecar.wire.names import Names

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.settings import ProviderSettings, Tls

OWN_HEADERS = (("Accept", "application/json"), ("Accept-Encoding", "gzip, deflate"), ("User-Agent", "sidecar"))
KEEP_ALIVE = 4.0
"""Seconds. Below the shortest common server side (5 s): a request on a connection just closed would be lost."""
_CODINGS = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}


class Answer(NamedTuple):
    """A response: header names in lower case (the first of repeated ones), body content-decoded."""

    status: int
    headers: dict[str, str]
    body: bytes


Reply = Answer | Unavailable | Invalid
Wanted = Callable[[], bool]
"""Asked in the moment of sending: says whether the request is still to be sent."""
NOT_SENT = Unavailable("not_sent")


class _Place(NamedTuple):
    """Where a URL leads: to an origin, and there to a target."""

    origin: Origin
    target: str


class Http:
    """A client of one provider: its own connections, timeouts and TLS settings.

    Making it reads the TLS files (OSError, ssl.SSLError) and opens nothing.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        self._timeout = settings.timeout
        self._tls = settings.tls
        self._tls_files = _contents(settings.tls)  # first: what is written meanwhile is read again
        self._own_tls = client_context(settings.tls) if settings.tls else None
        self._server_name = settings.tls.server_name if settings.tls else None
        self._names = Names()
        self._idle: dict[Origin, list[client.Line]] = {}
        self._busy: set[client.Line] = set()
        self._sending = 0
        self._closed = False

    def outdated(self) -> bool:
        """Say whether the TLS files have changed since they were read."""
        return self._tls_files != _contents(self._tls)

    @property
    def at_rest(self) -> bool:
        """Say whether there are neither requests under way nor connections."""
        return not self._sending and not any(self._idle.values())

    async def get(self, url: str) -> Reply:
        """Fetch a document."""
        try:
            async with asyncio.timeout(self._timeout.total):
                return await self._send("GET", url, OWN_HEADERS, None)
        except TimeoutError:
            return Unavailable("timeout")

    async def post(
        self, url: str, headers: Iterable[tuple[str, str]], form: Form, wanted: Wanted | None = None
    ) -> Reply:
        """Send a form, repeated names in their order. Who asks says how long it waits: an answer may be precious.

        Returns `NOT_SENT` where it was not `wanted` any more.
        """
        media_type = ("Content-Type", "application/x-www-form-urlencoded")
        body = urlencode(form).encode("ascii")
        return await self._send("POST", url, (*OWN_HEADERS, media_type, *headers), body, wanted)

    async def close(self) -> None:
        """Close every connection; later requests are refused."""
        self._closed = True
        for line in [*self._busy, *(line for idle in self._idle.values() for line in idle)]:
            line.close()
        self._idle.clear()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | None,
        wanted: Wanted | None = None,
    ) -> Reply:
        place = _place(url)
        if isinstance(place, Invalid) or self._closed:
            return place if isinstance(place, Invalid) else Unavailable("closed")
        line: client.Line | None = None
        self._sending += 1
        try:
            line = self._kept(place.origin) or await self._connected(place.origin)
            self._busy.add(line)
            request = _request(method, place, headers, body)
            if wanted is not None and not wanted():  # nothing may come between this and the writing
                self._keep(place.origin, line)
                return NOT_SENT
            response = await line.ask(request, MAX_BYTES)
            self._keep(place.origin, line)
            return Answer(response.status, response.headers, _decoded(response))
        except _FAILURES as error:
            return _translate(error, connected=line is not None)
        finally:
            self._sending -= 1
            if line is not None:
                self._busy.discard(line)

    # -- connections --------------------------------------------------------------------------------------------

    async def _connected(self, origin: Origin) -> client.Line:
        secure = origin.scheme == "https"
        tls = (self._own_tls or _default_context()) if secure else None
        async with asyncio.timeout(self._timeout.connect):
            line = await client.connect(self._names, origin.host, origin.port, tls, self._server_name or origin.host)
        if self._closed:
            line.close()
        return line

    def _kept(self, origin: Origin) -> client.Line | None:
        """Return the freshest idle connection; one that may be about to be closed is no use."""
        idle = self._idle.get(origin)
        while idle:
            line = idle.pop()
            if line.reusable and asyncio.get_running_loop().time() - line.idle_since < KEEP_ALIVE:
                return line
            line.close()
        return None

    def _keep(self, origin: Origin, line: client.Line) -> None:
        if not line.reusable or self._closed:
            line.close()
            return
        loop = asyncio.get_running_loop()
        line.idle_since = loop.time()
        self._idle.setdefault(origin, []).append(line)
        loop.call_later(KEEP_ALIVE, self._tidy, origin)

    def _tidy(self, origin: Origin) -> None:
        """Close what has been idle too long: the oldest stand first."""
        idle = self._idle.get(origin, [])
        while idle and asyncio.get_running_loop().time() - idle[0].idle_since >= KEEP_ALIVE:
            idle.pop(0).close()


def _contents(tls: Tls | None) -> list[bytes | None]:
    """Return what tells the contents of the TLS files from later ones; None for one that cannot be read."""
    found: list[bytes | None] = []
    for name in (tls.ca, tls.cert, tls.key) if tls else ():
        try:
            found.append(hashlib.sha256(Path(name).read_bytes()).digest() if name else b"")
        except OSError:
            found.append(None)
    return found


def _place(url: str) -> _Place | Invalid:
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        origin = Origin(parts.scheme, parts.hostname or "", port)
    except (ValueError, KeyError):
        return Invalid("url")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    whole = target.isascii() and target.isprintable() and " " not in target
    return _Place(origin, target) if whole and origin.host and origin.host.isascii() else Invalid("url")


def _request(method: str, place: _Place, headers: Iterable[tuple[str, str]], body: bytes | None) -> bytes:
    lines = [f"{method} {place.target} HTTP/1.1", f"Host: {place.origin.authority}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + (body or b"")


def _decoded(response: client.Response) -> bytes:
    """Undo a content coding that was asked for, but never into more than may be read."""
    window = _CODINGS.get(response.headers.get("content-encoding", "").strip().lower())
    body = response.body
    if window is None or not body:
        return body
    if window == zlib.MAX_WBITS and body[0] & 0x0F != zlib.DEFLATED:
        window = -window  # RFC 9110 section 8.4.1.2: some send it without the zlib wrapper
    decoder = zlib.decompressobj(window)
    text = decoder.decompress(body, MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise TooLargeError
    if not decoder.eof:
        raise ConnectionResetError
    return text


_MEANINGS: dict[type[Exception], Unavailable | Invalid] = {
    ssl.SSLError: Unavailable("tls"),
    TimeoutError: Unavailable("timeout"),
    NoAddressError: Unavailable("dns"),
    TooLargeError: Invalid("too_large"),
    InvalidResponseError: Invalid("not_http"),
    BrokenBodyError: Invalid("not_http"),
    zlib.error: Unavailable("broken_off"),
}
_FAILURES: tuple[type[Exception], ...] = (*_MEANINGS, OSError)


def _translate(error: Exception, *, connected: bool) -> Unavailable | Invalid:
    """Return what a failure means. Its text is dropped: it may quote the URL (RFC 9110 section 17.12)."""
    known = next((meaning for kind, meaning in _MEANINGS.items() if isinstance(error, kind)), None)
    return known or Unavailable("broken_off" if connected else "connect")


@functools.cache
def _default_context() -> ssl.SSLContext:
    return client_context(None)  # the same for every provider; made when the first one needs it
