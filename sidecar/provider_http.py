"""The window to an authorization server: HTTP by aiohttp's client, and its exceptions translated at one place.

Sends exactly the header lines it is given and three of its own. Never follows a redirect (it would carry the client's
secret away), keeps no cookie, reads neither the environment's proxies nor .netrc. Never sends a request again:
a refresh token may have been spent although no answer came. Knows no OAuth; `provider` imports this when it is first
needed, because aiohttp takes 200 ms.
"""

from __future__ import annotations

import functools
import ssl
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

import aiohttp
import yarl

from sidecar.model import Form, Invalid, Unavailable
from sidecar.oauth.document import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.settings import ProviderSettings, Tls

OWN_HEADERS = (("Accept", "application/json"), ("Accept-Encoding", "gzip, deflate"), ("User-Agent", "sidecar"))
KEEP_ALIVE = 4.0
"""Seconds. Below the shortest common server side (5 s): a request on a connection just closed would be lost."""


class Answer(NamedTuple):
    """A response: header names in lower case (the first of repeated ones), body content-decoded."""

    status: int
    headers: dict[str, str]
    body: bytes


Reply = Answer | Unavailable | Invalid


class Http:
    """A client of one provider: its own connections, timeouts and TLS settings.

    Making it reads the TLS files (OSError, ssl.SSLError) and opens nothing.
    """

    def __init__(self, settings: ProviderSettings) -> None:
        self._timeout = aiohttp.ClientTimeout(total=settings.timeout.total, connect=settings.timeout.connect)
        self._patience = aiohttp.ClientTimeout(total=None, connect=settings.timeout.connect)
        self._tls = _tls_context(settings.tls)
        self._server_name = settings.tls.server_name if settings.tls else None
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def get(self, url: str) -> Reply:
        """Fetch a document."""
        return await self._send("GET", url, OWN_HEADERS, None, self._timeout)

    async def post(self, url: str, headers: Iterable[tuple[str, str]], form: Form) -> Reply:
        """Send a form, repeated names in their order. Who asks says how long it waits: an answer may be precious."""
        media_type = ("Content-Type", "application/x-www-form-urlencoded")
        body = urlencode(form).encode("ascii")
        return await self._send("POST", url, (*OWN_HEADERS, media_type, *headers), body, self._patience)

    async def close(self) -> None:
        """Close every connection; later requests are refused."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _send(
        self,
        method: str,
        url: str,
        headers: Iterable[tuple[str, str]],
        body: bytes | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own kind
    ) -> Reply:
        if self._closed:
            return Unavailable("closed")
        try:
            async with self._open().request(
                method,
                yarl.URL(url, encoded=True),
                headers=list(headers),
                data=body,
                timeout=timeout,
                allow_redirects=False,
                server_hostname=self._server_name,
            ) as response:
                return await _read(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return _translate(error)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, limit=0, keepalive_timeout=KEEP_ALIVE),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
            )
        return self._session


async def _read(response: aiohttp.ClientResponse) -> Answer | Invalid:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_BYTES:
            response.close()
            return Invalid("too_large")
    headers: dict[str, str] = {}
    for name, value in response.headers.items():
        headers.setdefault(name.lower(), value)
    return Answer(response.status, headers, bytes(body))


_MEANINGS: tuple[tuple[type[Exception], Unavailable | Invalid], ...] = (
    (ssl.SSLError, Unavailable("tls")),
    (TimeoutError, Unavailable("timeout")),
    (aiohttp.ClientConnectorDNSError, Unavailable("dns")),
    (aiohttp.ClientConnectorError, Unavailable("connect")),
    (aiohttp.ClientResponseError, Invalid("not_http")),
    (aiohttp.InvalidURL, Invalid("url")),
)


def _translate(error: Exception) -> Unavailable | Invalid:
    """Return what a foreign exception means. Its text is dropped: it may quote the URL (RFC 9110 section 17.12)."""
    for cause in (error.__cause__, error):
        for kind, meaning in _MEANINGS:
            if isinstance(cause, kind):
                return meaning
    return Unavailable("broken_off")


def _tls_context(tls: Tls | None) -> ssl.SSLContext:
    if tls is None:
        return _default_context()
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context


@functools.cache
def _default_context() -> ssl.SSLContext:
    return ssl.create_default_context()  # 10 ms, the same for every provider
