"""A small HTTP/1.1 server for our own doors: each request read whole and answered whole, one after the other.

Reads by the rules of the data path (`head`, `framing`, `body`), so what could be read in two ways is refused here too.
Knows no paths and no permissions: an `Office` answers. Heads, bodies, connections and every wait are bounded.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from sidecar.errors import Refusal
from sidecar.headers import persists
from sidecar.listening import accepting
from sidecar.settings import KIB, Limits
from sidecar.wire.body import BrokenBodyError, reader
from sidecar.wire.framing import request_framing
from sidecar.wire.head import parse_request
from sidecar.wire.hearing import Hearing
from sidecar.wire.tunnel import end_writing

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Mapping

    from sidecar.message import RequestHead
    from sidecar.settings import Address
    from sidecar.wire.body import BodyReader

CONNECTIONS = 512
LINGER = 2.0  # seconds to let a client read our answer while it still sends, and at the end for what is under way
LAST_WORD = 0.05
"""Seconds at the end for what was accepted a moment ago to be read: closed unread, it would be a reset."""
_LIMITS = Limits(headers=32 * KIB, target=8 * KIB)
_SPEAKING = frozenset([b"transfer-encoding", b"connection"])
_END = b"\r\n\r\n"


class Asked(NamedTuple):
    """A request. Header names are lower case, lines of one name joined (RFC 9110 section 5.3)."""

    method: str
    path: str  # as received
    query: str
    headers: Mapping[str, str]
    body: bytes
    sockname: Any  # our end of the connection


class Told(NamedTuple):
    """An answer."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Office(Protocol):
    """Who answers. Neither method raises."""

    body_limit: int

    async def answer(self, request: Asked) -> Told:
        """Answer a request."""

    def refuse(self, refusal: Refusal) -> Told:
        """Answer what could not be read."""


@asynccontextmanager
async def serving(office: Office, where: Address | socket.socket) -> AsyncIterator[Address]:
    """Serve at an address, or on a socket that listens, and yield the address in use (port 0 becomes a port).

    Raises OSError where the address is taken or not ours.
    """
    connections: set[Connection] = set()
    try:
        async with accepting(lambda: Connection(office, connections), where) as address:
            yield address
    finally:
        await _drained(connections)


async def _drained(connections: set[Connection]) -> None:
    await asyncio.sleep(LAST_WORD)
    for connection in list(connections):
        connection.drain()
    tasks = [connection.task for connection in connections if connection.task]
    if tasks:
        await asyncio.wait(tasks, timeout=LINGER)
    for connection in list(connections):
        connection.abort()


class Connection(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_blocked", "_body", "_buffer", "_closing", "_connections", "_deaf", "_eof", "_head", "_heading", "_keep",
        "_office", "_reader", "_timer", "_transport", "task",
    )  # fmt: skip

    def __init__(self, office: Office, connections: set[Connection]) -> None:
        self._office = office
        self._connections = connections
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = b""
        self._head: RequestHead | None = None  # of the request whose body is being read
        self._reader: BodyReader | None = None
        self._body = bytearray()
        self._keep = True
        self._blocked = False  # the client does not read
        self._deaf = False  # we do not read: a next request waits while one is answered
        self._closing = False
        self._heading = False  # a part of a head has come
        self._eof = False  # the client sends no more
        self.task: asyncio.Task[None] | None = None

    # -- asyncio's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._arm(_LIMITS.head_timeout)
        if len(self._connections) > CONNECTIONS:  # one that asks for nothing makes room, so that probes get through
            next((one for one in self._connections if one.task is None and one is not self), self).abort()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._buffer += data
        self._read()

    def eof_received(self) -> bool:
        self._keep, self._eof = False, True
        return self.task is not None  # what was asked whole is answered

    def connection_lost(self, _exc: Exception | None) -> None:
        self._closing = True
        self._connections.discard(self)
        if self._timer:
            self._timer.cancel()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._read()

    def drain(self) -> None:
        """Close if idle, otherwise after the answer that is under way."""
        self._keep = False
        if self.task is None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    # -- inside -------------------------------------------------------------------------------------------------

    def _arm(self, seconds: float | None) -> None:
        """Wait no longer than so many seconds for what comes next."""
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire) if seconds else None

    def _expire(self) -> None:
        if self._closing or self._transport.get_write_buffer_size():
            self.abort()
        elif not (self._buffer or self._head):
            self._transport.close()
        else:
            self._refuse(Refusal("timeout"))

    def _read(self) -> None:
        """Read on until a request is being answered or more bytes are needed."""
        try:
            while self._buffer and not (self.task or self._blocked or self._closing) and self._step():
                pass
        except Refusal as refusal:
            self._refuse(refusal)
        except BrokenBodyError:
            self._refuse(Refusal("bad_request", "The request body does not follow its framing."))
        self._listen()

    def _listen(self) -> None:
        """Stop reading while a next request waits for its turn."""
        deaf = bool(self._buffer and (self.task or self._blocked))
        if deaf != self._deaf and not self._transport.is_closing():
            self._deaf = deaf
            (self._transport.pause_reading if deaf else self._transport.resume_reading)()

    def _step(self) -> bool:
        return self._take_head() if self._head is None else self._take_body()

    def _take_head(self) -> bool:
        if self._buffer.startswith(b"\r\n"):  # RFC 9112 section 2.2
            self._buffer = self._buffer[2:]
            return True
        end = self._buffer.find(_END) + len(_END)
        if max(end, len(self._buffer) if end < len(_END) else 0) > _LIMITS.headers:
            raise Refusal("headers_too_large")
        if end < len(_END):
            if not self._buffer[:1].isalpha() and self._buffer != b"\r":
                raise Refusal("bad_request", "A request begins with its method.")
            if not self._heading:  # its time is not prolonged by further bytes
                self._heading = True
                self._arm(_LIMITS.head_timeout)
            return False
        self._heading = False
        text, self._buffer = self._buffer[:end], self._buffer[end:]
        self._begin(parse_request(text, _LIMITS, Hearing(_SPEAKING, frozenset())))
        return True

    def _begin(self, head: RequestHead) -> None:
        hosts = len(head.all(b"host"))
        if hosts > 1 or (head.minor and not hosts):  # RFC 9112 section 3.2
            raise Refusal("bad_request", "The request needs exactly one Host header.")
        framing = request_framing(head)
        self._keep = self._keep and head.minor == 1 and persists(head.headers, 1)
        if framing.length > self._office.body_limit:
            raise Refusal("too_large")
        self._reader = reader(framing)
        self._body.clear()
        self._head = head
        if self._reader is None:
            self._ask(head)
            return
        self._arm(_LIMITS.idle_timeout)
        if head.minor and b"100-continue" in [value.lower() for value in head.all(b"expect")]:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take_body(self) -> bool:
        piece = cast("BodyReader", self._reader).feed(self._buffer)
        self._buffer = piece.rest
        self._body += piece.data
        if len(self._body) > self._office.body_limit:
            raise Refusal("too_large")
        if piece.done:
            self._ask(cast("RequestHead", self._head))
        return piece.done

    def _ask(self, head: RequestHead) -> None:
        self._arm(None)
        asked = _asked(head, bytes(self._body), self._transport.get_extra_info("sockname"))
        self._head = None
        self.task = asyncio.get_running_loop().create_task(self._answer(asked))

    async def _answer(self, asked: Asked) -> None:
        told = await self._office.answer(asked)
        self.task = None
        if self._closing:
            return
        self._write(told, bare=asked.method == "HEAD")
        if self._keep:
            self._arm(_LIMITS.idle_timeout)
            self._read()
        else:
            self._linger()

    def _refuse(self, refusal: Refusal) -> None:
        self._keep = False
        self._write(self._office.refuse(refusal), bare=False)
        self._linger()

    def _write(self, told: Told, *, bare: bool) -> None:
        lines = [f"HTTP/1.1 {told.status} {HTTPStatus(told.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in told.headers]
        lines += [f"Content-Length: {len(told.body)}"] * (told.status != HTTPStatus.NO_CONTENT)
        lines += ["Connection: close"] * (not self._keep)
        text = "\r\n".join(lines).encode("latin-1") + _END
        self._transport.write(text if bare else text + told.body)

    def _linger(self) -> None:
        """Close so that the client can still read our answer, although it goes on sending (RFC 9112 section 9.6)."""
        self._closing = True
        self._buffer = b""
        self._arm(LINGER)
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
        if self._transport.is_closing():
            return
        if self._deaf:
            self._transport.resume_reading()
        end_writing(self._transport)


def _asked(head: RequestHead, body: bytes, sockname: Any) -> Asked:
    headers: dict[str, str] = {}
    for raw_name, raw_value in zip(head.names, head.headers.values, strict=True):
        name, value = raw_name.decode("ascii"), raw_value.decode("utf-8", "surrogateescape")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    target = head.target.decode("utf-8", "surrogateescape")
    _, absolute, rest = target.partition("://")
    if absolute and not target.startswith("/"):  # RFC 9112 section 3.2.2: its authority rules, not Host
        headers["host"], slash, path = rest.partition("/")
        target = (slash or "/") + path
    path, _, query = target.partition("?")
    return Asked(head.method.decode("ascii"), path, query, headers, body, sockname)
