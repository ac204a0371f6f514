"""An upstream that records exactly the bytes it saw, per connection, and answers by script.

It reads requests with h11, a strict reader that shares no code with the sidecar. What was forwarded is judged twice:
by the recorded bytes, and by `reread`, which says which requests a strict reader finds in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

import h11

if TYPE_CHECKING:
    import ssl

LONGEST_HEAD = 1 << 20


class Fin:
    """Ends the connection cleanly after what was written."""


class Eof:
    """Closes the sending side only; the receiving side stays open."""


class Rst:
    """Resets the connection."""


class Cut:
    """Closes the connection below TLS, which is not told of it: no close_notify."""


class Wait(NamedTuple):
    """Waits some seconds."""

    seconds: float


Step = bytes | type[Fin] | type[Eof] | type[Rst] | type[Cut] | Wait


class Seen(NamedTuple):
    """One request as a strict reader reads it. Header names are as received."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    version: bytes

    def all(self, name: bytes) -> list[bytes]:
        """The values of every line called `name`."""
        return [value for found, value in self.headers if found.lower() == name.lower()]


class Reading(NamedTuple):
    """What a strict reader makes of a stream: whole requests, what is left over, and whether it is not HTTP at all."""

    requests: list[Seen]
    rest: bytes
    broken: str


Answer = Iterable[Step] | Callable[[Seen], Iterable[Step]]


def response(body: bytes = b"", status: int = 200, *headers: bytes) -> bytes:
    """Return a response with Content-Length."""
    lines = [b"HTTP/1.1 %d Some Reason" % status, *headers, b"Content-Length: %d" % len(body), b"", body]
    return b"\r\n".join(lines)


def echo(seen: Seen) -> list[Step]:
    """Answer with the request's method and target, so that a caller can tell its own answer."""
    body = b"" if seen.method == b"HEAD" else b"%b %b" % (seen.method, seen.target)
    return [response(body)]


class Reader:
    """Reads requests one after the other."""

    def __init__(self) -> None:
        self.head: Seen | None = None
        self._h11 = _server()
        self._body = bytearray()

    def feed(self, data: bytes) -> Iterable[Seen]:
        """Take bytes, give whole requests; raise `h11.RemoteProtocolError`."""
        self._h11.receive_data(data)
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
            if isinstance(event, h11.Request):
                self.head = Seen(event.method, event.target, event.headers.raw_items(), b"", [], event.http_version)
            elif isinstance(event, h11.Data):
                self._body += event.data
            elif isinstance(event, h11.EndOfMessage):
                whole = cast("Seen", self.head)._replace(body=bytes(self._body), trailers=event.headers.raw_items())
                rest = self._h11.trailing_data[0]
                self.head = None
                self._body.clear()
                self._h11 = _server()
                if rest:  # b"" would be the end of the stream
                    self._h11.receive_data(rest)
                yield whole

    @property
    def rest(self) -> bytes:
        """What no whole request has taken."""
        return self._h11.trailing_data[0]


def _server() -> h11.Connection:
    return h11.Connection(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)


def reread(stream: bytes) -> Reading:
    """Read a whole stream as a strict reader does."""
    reader = Reader()
    found: list[Seen] = []
    try:
        found.extend(reader.feed(stream))
    except h11.RemoteProtocolError as error:
        return Reading(found, reader.rest, str(error))
    return Reading(found, reader.rest if reader.head is None else b"(an incomplete request)", "")


class RecordingUpstream:
    """Answers `play`ed answers in turn, then `default`. All of it happens on one event loop."""

    def __init__(self) -> None:
        self.port = 0
        self.default: Answer = echo
        self.protocol: Callable[[], asyncio.Protocol] | None = None  # something else than a recording `Connection`
        self.connections: list[Connection] = []
        self._answers: deque[tuple[str, Answer]] = deque()
        self._server: asyncio.Server | None = None

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end()

    def play(self, *answers: Answer, at: str = "end") -> None:
        """Give the next requests these answers: at the `end` of the request, or at its `head`."""
        self._answers.extend((at, answer) for answer in answers)

    def reset(self) -> None:
        """Forget what was recorded and what was to be played, and close every connection."""
        self._answers.clear()
        self.default = echo
        self.protocol = None
        for connection in self.connections:
            connection.end()
        self.connections = []

    def messages(self) -> list[bytes]:
        """Return what each connection saw as long as it was HTTP."""
        return [bytes(connection.saw[: connection.tunnel_at]) for connection in self.connections]

    def streams(self) -> list[bytes]:
        """Return what each connection saw, empty ones left out."""
        return [bytes(connection.saw) for connection in self.connections if connection.saw]

    def _accept(self) -> asyncio.Protocol:
        return Connection(self) if self.protocol is None else self.protocol()

    def next_answer(self, at: str) -> Answer | None:
        if self._answers and self._answers[0][0] == at:
            return self._answers.popleft()[1]
        return self.default if at == "end" and not self._answers else None


class Connection(asyncio.Protocol):
    """One connection: `saw` is every byte that came, `ended` how it ended ("fin", "reset" or "")."""

    def __init__(self, upstream: RecordingUpstream) -> None:
        self.saw = bytearray()
        self.ended = ""
        self.tunnel_at: int | None = None  # how much it had seen when it became a tunnel
        self._upstream = upstream
        self._reader: Reader | None = Reader()
        self._task: asyncio.Task[None] | None = None
        self._answered_at_head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._upstream.connections.append(self)

    def data_received(self, data: bytes) -> None:
        self.saw += data
        if self._reader is None:
            return
        try:
            for seen in self._reader.feed(data):
                self._whole(seen)
        except h11.RemoteProtocolError:
            self._reader = None
            self.transport.write(b"HTTP/1.1 400 Not For A Strict Reader\r\nContent-Length: 0\r\n\r\n")
            return
        if self._reader is None:
            return
        head = self._reader.head
        if head is not None and not self._answered_at_head:
            answer = self._upstream.next_answer("head")
            if answer is not None:
                self._answered_at_head = True
                self._say(answer, head)

    def eof_received(self) -> bool:
        self.ended = self.ended or "fin"
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = self.ended or ("reset" if exc else "fin")

    def tunnel(self) -> None:
        """Read no more requests: what comes is recorded only."""
        self.tunnel_at = len(self.saw)
        self._reader = None

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self.transport.abort()

    def _whole(self, seen: Seen) -> None:
        if self._answered_at_head:
            self._answered_at_head = False
            return
        answer = self._upstream.next_answer("head") or self._upstream.next_answer("end")
        if answer is not None:
            self._say(answer, seen)

    def _say(self, answer: Answer, seen: Seen) -> None:
        steps = list(answer(seen) if callable(answer) else answer)
        if any(isinstance(step, Wait) for step in steps):
            self._task = asyncio.get_running_loop().create_task(self._say_slowly(steps))
            return
        for step in steps:
            self._do(step)

    async def _say_slowly(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            else:
                self._do(step)

    def _do(self, step: Step) -> None:
        if isinstance(step, bytes):
            if step.startswith(b"HTTP/1.1 101"):
                self.tunnel()
            self.transport.write(step)
        elif step is Fin:
            self.transport.close()
        elif step is Eof:
            self.transport.write_eof()
        elif step is Cut:
            fd = os.dup(self.transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=fd) as sock:
                sock.shutdown(socket.SHUT_WR)
        elif step is Rst:
            reset(self.transport)


def reset(transport: asyncio.Transport) -> None:
    """Close with a TCP reset, after what the kernel has taken already."""
    with contextlib.suppress(OSError):
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
