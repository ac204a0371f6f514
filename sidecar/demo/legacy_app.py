"""The legacy application: what urllib does, in a thread, knowing sessions and no OAuth at all.

It speaks plain HTTP in either form: through a proxy (absolute-form, what HTTP_PROXY makes of every program) or to a
base URL (origin-form). It keeps the bytes that it really sent. Standard library only.
"""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message

TIMEOUT = 10.0


class Exchange(NamedTuple):
    """One request as its bytes left, and the answer that came back."""

    sent: bytes
    status: int
    headers: dict[str, str]  # names in lower case
    body: bytes


class _Recorded(http.client.HTTPConnection):
    """A connection that keeps the request head as it goes out."""

    def __init__(self, host: str, timeout: float = TIMEOUT) -> None:
        super().__init__(host, timeout=timeout)
        self.sent = b""

    def send(self, data: bytes) -> None:  # type: ignore[override] # heads and our bodies are bytes
        self.sent += data
        super().send(data)


class _Handler(urllib.request.HTTPHandler):
    """Opens plain HTTP over a recorded connection."""

    def __init__(self) -> None:
        super().__init__()
        self.connection: _Recorded | None = None

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connect, req)  # type: ignore[arg-type] # any callable that connects will do

    def _connect(self, host: str, *, timeout: float = TIMEOUT) -> _Recorded:
        self.connection = _Recorded(host, timeout)
        return self.connection


async def get(url: str, headers: Mapping[str, str], proxy: str = "") -> Exchange:
    """GET `url`, through `proxy` ("HOST:PORT") where one is named, from a thread as a legacy application would."""
    return await asyncio.to_thread(_get, url, headers, proxy)


def _get(url: str, headers: Mapping[str, str], proxy: str) -> Exchange:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the demo's own addresses
    if proxy:
        request.set_proxy(proxy, "http")
    handler = _Handler()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
    try:
        with opener.open(request, timeout=TIMEOUT) as response:
            return _exchange(handler, response.status, response.headers, response.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return _exchange(handler, refused.code, refused.headers, refused.read())


def _exchange(handler: _Handler, status: int, headers: Message, body: bytes) -> Exchange:
    sent = handler.connection.sent if handler.connection else b""
    return Exchange(sent, status, {name.lower(): value for name, value in headers.items()}, body)
