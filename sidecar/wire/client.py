"""One connection to a server that the configuration names, for small requests whose answer is read whole.

Reads by the rules of the data path (`head`, `framing`, `body`): after any doubt the connection ends. Never sends a
request again and never follows anything. Knows no OAuth; who asks bounds the time.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, NamedTuple, cast

from sidecar.headers import persists
from sidecar.wire import race
from sidecar.wire.body import BrokenBodyError, CloseReader, reader
from sidecar.wire.framing import response_framing
from sidecar.wire.head import InvalidResponseError, parse_response
from sidecar.wire.hearing import Hearing
from sidecar.wire.names import Found, Names

if TYPE_CHECKING:
    import ssl

    from sidecar.message import ResponseHead
    from sidecar.wire.body import BodyReader

LONGEST_HEAD = 64 * 1024  # bytes
MOST_INTERIM = 1000  # 1xx responses to one request
_SPEAKING = frozenset([b"transfer-encoding", b"connection"])
_START, _END = b"HTTP/1.", b"\r\n\r\n"


class Response(NamedTuple):
    """A response: header names in lower case (the first of repeated ones), the body as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes


class TooLargeError(Exception):
    """The response's body is longer than who asked wants to read."""


class NoAddressError(OSError):
    """The server's name has no address."""


async def connect(names: Names, host: str, port: int, tls: ssl.SSLContext | None, server_name: str | None) -> Line:
    """Return a new connection; raise `NoAddressError`, another OSError, ssl.SSLError."""
    try:
        found = _literal(host) or await names.resolve(host)
    except OSError as error:
        raise NoAddressError(error.errno, "the name has no address") from None
    sock = await race.connect(found, port)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(Line, sock=sock, ssl=tls, server_hostname=server_name if tls else None)
    return line


def _literal(host: str) -> tuple[Found, ...]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ()
    return (Found(socket.AF_INET if address.version == 4 else socket.AF_INET6, str(address)),)  # noqa: PLR2004


class Line(asyncio.Protocol):
    """A connection: one request at a time, by `ask`. `reusable` says whether another may follow."""

    __slots__ = (
        "_answer", "_body", "_buffer", "_head", "_interims", "_most", "_reader", "_transport", "idle_since", "reusable",
    )  # fmt: skip

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._answer: asyncio.Future[Response] | None = None
        self._buffer = b""
        self._head: ResponseHead | None = None
        self._reader: BodyReader | None = None
        self._body = bytearray()
        self._most = 0
        self._interims = 0
        self.reusable = True
        self.idle_since = 0.0  # the event loop's time

    async def ask(self, request: bytes, most: int) -> Response:
        """Send a whole request, and return its response with a body of at most so many bytes.

        Raises `TooLargeError`, `InvalidResponseError`, `BrokenBodyError`, OSError. Whatever it raises, CancelledError
        included, the connection is gone.
        """
        self._answer = asyncio.get_running_loop().create_future()
        self._most, self._interims = most, 0
        try:
            self._transport.write(request)  # of no effect on a connection that has ended: `connection_lost` will say
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None

    def close(self) -> None:
        """End the connection at once."""
        self.reusable = False
        self._transport.abort()

    # -- asyncio's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # what nobody asked for is no answer to the next request
            return
        self._buffer += data
        try:
            while self._buffer and not self._answer.done() and self._step():
                pass
        except (TooLargeError, InvalidResponseError, BrokenBodyError) as error:
            self._fail(error)

    def eof_received(self) -> bool:
        self.reusable = False
        if self._head is not None and isinstance(self._reader, CloseReader):
            self._done()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fail(exc or ConnectionResetError())

    # -- inside -------------------------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def _step(self) -> bool:
        """Read on; False where more bytes are needed."""
        return self._take_head() if self._head is None else self._take_body()

    def _take_head(self) -> bool:
        end = self._buffer.find(_END) + len(_END)
        if not self._buffer.startswith(_START[: len(self._buffer)]):
            raise InvalidResponseError
        if (end if end >= len(_END) else len(self._buffer)) > LONGEST_HEAD:
            raise InvalidResponseError
        if end < len(_END):
            return False
        text, self._buffer = self._buffer[:end], self._buffer[end:]
        head = parse_response(text, Hearing(_SPEAKING, frozenset()))
        framing = response_framing(head, b"POST")
        if head.status < 200:  # noqa: PLR2004 - RFC 9110 section 15.2
            self._interims += 1
            if head.status == 101 or self._interims > MOST_INTERIM:  # noqa: PLR2004 - nobody asked to switch
                raise InvalidResponseError
            return True
        if framing.length > self._most:
            raise TooLargeError
        self._body.clear()
        self._head, self._reader = head, reader(framing)
        self.reusable = self.reusable and persists(head.headers, head.minor) and not framing.until_close
        if self._reader is None:
            self._done()
        return True

    def _take_body(self) -> bool:
        piece = cast("BodyReader", self._reader).feed(self._buffer)
        self._buffer = piece.rest
        self._body += piece.data
        if len(self._body) > self._most:
            raise TooLargeError
        if piece.done:
            self._done()
        return piece.done

    def _done(self) -> None:
        head, body = cast("ResponseHead", self._head), bytes(self._body)
        self._head = self._reader = None
        self._body.clear()
        if self._buffer:  # more than was asked for
            self._buffer, self.reusable = b"", False
        headers: dict[str, str] = {}
        for name, value in zip(head.names, head.headers.values, strict=True):
            headers.setdefault(name.decode("ascii"), value.decode("utf-8", "surrogateescape"))
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Response(head.status, headers, body))
