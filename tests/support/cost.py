"""What one exchange costs the interpreter, counted in its own instructions: the same on every machine, however busy.

Beside the sidecar's real corridor stands the least that could be called a proxy: llhttp on both sides, one header line
inserted, nothing decided. Both handle the same bytes over transports without a network.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Protocol

import httptools

from sidecar.assembly import assemble
from sidecar.callers.cookie import Cookie
from sidecar.metrics import Metrics
from sidecar.model import Origin
from sidecar.settings import Limits, Match, Route, Settings
from sidecar.wire.context import Wire
from sidecar.wire.downstream import Downstream
from sidecar.wire.upstream import Upstream
from tests.support.credentials import USER, Bench, keyed

if TYPE_CHECKING:
    from types import FrameType

SESSIONS = 20
_REQUEST = (
    b"GET /v1/items/%d?x=1 HTTP/1.1\r\nHost: profiles.internal\r\n"
    b"Cookie: theme=dark; sidecar_session=session-%d; lang=en\r\nUser-Agent: legacy-app/1.0\r\n"
    b"Accept: application/json\r\nX-Request-Id: %032x\r\n\r\n"
)
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 23:27:38 GMT\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 170\r\nConnection: keep-alive\r\nX-Request-Id: %032x\r\n\r\n" + b"x" * 170
)


def messages(number: int) -> tuple[bytes, bytes]:
    """Return a request and its response, whose heads no other number has."""
    return _REQUEST % (number % 10, number % SESSIONS, number), _RESPONSE % number


class Pair(Protocol):
    """A proxy's two connections; `sent` and `answered` are what it wrote last."""

    def exchange(self, request: bytes, response: bytes) -> tuple[bytes, bytes]:
        """Carry one exchange; return what the upstream and the caller got."""


class Pipe:
    """A transport without a network, for a peer that takes everything at once."""

    def __init__(self, **ends: object) -> None:
        self.last = b""
        self._ends = ends

    def write(self, data: bytes) -> None:
        self.last = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: object = None) -> Any:
        return self._ends.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0


class Bare:
    """The least proxy."""

    def __init__(self) -> None:
        self.upstream, self.caller = Pipe(), Pipe()

    def exchange(self, request: bytes, response: bytes) -> tuple[bytes, bytes]:
        _BareSide(httptools.HttpRequestParser, self.upstream, b"Authorization: Bearer x\r\n").feed(request)
        _BareSide(httptools.HttpResponseParser, self.caller, b"").feed(response)
        return self.upstream.last, self.caller.last


class _BareSide:
    def __init__(self, parser: Any, out: Pipe, line: bytes) -> None:
        self._parser = parser(self)
        self._out = out
        self._lines: list[bytes] = []
        self._line = line
        self._start = b""

    def feed(self, data: bytes) -> None:
        self._start = data[: data.find(b"\r\n") + 2]
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append(name + b": " + value + b"\r\n")

    def on_body(self, body: bytes) -> None:
        self._body = body

    def on_message_complete(self) -> None:
        body = getattr(self, "_body", b"")
        self._out.write(self._start + b"".join(self._lines) + self._line + b"\r\n" + body)


class Whole:
    """The sidecar's own: from `Downstream` to `Upstream`, with sessions that hold their tokens."""

    def __init__(self, wire: Wire, upstream: Upstream, there: Pipe) -> None:
        self._upstream, self._there = upstream, there
        self._here = Pipe(peername=("127.0.0.1", 40000), sockname=("127.0.0.1", 8080))
        self._downstream = Downstream(wire, None)
        self._downstream.connection_made(self._here)  # type: ignore[arg-type]

    def exchange(self, request: bytes, response: bytes) -> tuple[bytes, bytes]:
        self.asked(request).data_received(response)
        return self._there.last, self._here.last

    def asked(self, request: bytes) -> Upstream:
        """Send a request; return the connection that waits for its response."""
        self._downstream.data_received(request)
        return self._upstream


async def whole(bench: Bench) -> Whole:
    """Return the corridor of one `as: user` route with sessions that have been used."""
    route = Route("profiles", Match("profiles.internal"), Origin("http", "127.0.0.1", 9000), "user", spec=USER)
    settings = Settings(routes=(route,), sessions=(Cookie("sidecar_session"),))
    wire = Wire(asyncio.get_running_loop(), Limits())
    corridor = assemble(settings, wire, bench.broker, Metrics(), None, None, (), bench.clock)
    wire.configure(Limits(), corridor.proxy)
    for number in range(SESSIONS):
        await bench.sign_in(f"session-{number}")
        await bench.broker.obtain(keyed(USER, f"session-{number}"))
    (pool,) = corridor.pools
    upstream, there = Upstream(pool), Pipe(sockname=("127.0.0.1", 50000), peername=("127.0.0.1", 9000))
    upstream.connection_made(there)  # type: ignore[arg-type]
    pool.give_back(upstream)
    return Whole(wire, upstream, there)


def instructions(pair: Pair, exchanges: int, warm_up: int) -> float:
    """Return how many instructions of the interpreter one exchange takes, after a warm-up of so many."""
    for number in range(warm_up):
        pair.exchange(*messages(number))
    prepared = [messages(warm_up + number) for number in range(exchanges)]
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for request, response in prepared:
            pair.exchange(request, response)
    finally:
        sys.settrace(before)
    return count / exchanges
