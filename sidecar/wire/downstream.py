"""The connection from a caller: reads requests one after the other, writes their responses in the same order.

While one exchange is under way the bytes of the next request wait, and reading stops (RFC 9112 section 9.3). A request
that is refused before its body was read ends the connection, so that a body never becomes a request. The caller's
half-close is an end of patience, not an end: what is on its way is delivered as long as it keeps coming.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Final, cast

from sidecar.errors import Refusal
from sidecar.headers import persists
from sidecar.message import Peer
from sidecar.wire import body, capacity
from sidecar.wire.body import BodyReader, BrokenBodyError
from sidecar.wire.context import NEVER, Wire
from sidecar.wire.exchange import Exchange
from sidecar.wire.framing import EMPTY, request_framing
from sidecar.wire.head import parse_request
from sidecar.wire.problem import problem
from sidecar.wire.tunnel import End, end_writing, join, reset

if TYPE_CHECKING:
    import asyncio

    from sidecar.wire.upstream import Upstream

_END: Final = b"\r\n\r\n"
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 9110, 5.6.2
_AROUND_TARGET: Final = 64 + len(b"  HTTP/1.1\r\n")  # bytes of a request line beside its target; 64 for the method
_ALL: Final = sys.maxsize  # bytes: as many as an answer can have
LINGER = 2.0  # seconds to let a caller read our answer while it still sends
MOST_REFUSED = 64  # connections beyond the limit that are being told so
MOST_AT_ONCE = 16  # requests that are refused, and empty lines skipped, before others have their turn
HALF_CLOSED_PATIENCE = 0.8  # seconds between two pieces of a response for a caller that has closed its side


class Downstream:
    """One connection. `app` is the application that the listener belongs to.

    An asyncio.Protocol in everything but its base: a compiled class has none that is not (docs/decisions/0009).
    """

    __slots__ = (
        "_app", "_at", "_brought", "_buffer", "_half_closed", "_judged", "_lingering", "_looked", "_paused", "_reader",
        "_reading", "_transport", "_tunnel", "_unwritten", "blocked", "bound", "deadline", "exchange", "keep_alive",
        "ours", "peer", "wire",
    )  # fmt: skip

    def __init__(self, wire: Wire, app: str | None) -> None:
        self.wire = wire
        self._app = app
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._buffer = b""
        self._at = 0  # where the next message starts in the buffer
        self._reader: BodyReader | None = None
        self._brought = 0  # bytes of body since the pace was last judged
        self._judged = NEVER  # when it is judged next
        self._looked = 0  # up to where the buffer has been searched for the end of a head
        self._paused = False  # reading
        self.blocked = False  # writing: the caller does not read
        self._reading = False
        self._lingering = False
        self._unwritten = _ALL  # bytes of an answer still to be written when it was last looked
        self._tunnel: End | None = None
        self._half_closed = False
        self.ours: bool | None = None  # what `is_ours` found
        self.bound: Upstream | None = None  # a connection that its upstream knows as this caller's, while idle
        self.exchange: Exchange | None = None
        self.keep_alive = True
        self.deadline = NEVER
        self.peer = Peer()

    # -- the exchange's side ------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        if self._half_closed:
            self.deadline = self.wire.deadlines.now + HALF_CLOSED_PATIENCE

    def exchange_over(self, exchange: Exchange) -> None:
        """The response has been written whole: go on to the next request, or close."""
        self.exchange = None
        self._unwritten = _ALL
        if not exchange.complete:
            self._linger()
        elif self.keep_alive and not self._half_closed:
            self.deadline = self.wire.deadlines.now + self.wire.limits.idle_timeout
            if (self._buffer or self._paused or self.blocked) and not self._reading:
                self._read_on()
        elif self._buffer or self._paused:
            self._linger()
        else:
            self.deadline = self.wire.deadlines.now + self.wire.limits.idle_timeout
            self._transport.close()

    def abort(self) -> None:
        """Break off in a way that cannot be taken for a clean end."""
        if self._tunnel is not None:
            self._tunnel.abort()
        else:
            reset(self._transport)

    def failed(self, exchange: Exchange, _exc: BaseException | None) -> None:
        """A task of the exchange ended in an exception that nobody foresaw: answer, or break off."""
        if exchange.errand is not None:
            exchange.errand.refuse(exchange, Refusal("internal", close=True))
        else:
            exchange.abort()
        self.wire.loop.call_exception_handler({"message": "an exchange failed", "exception": _exc})

    def pause(self) -> None:
        """Read no more for now. The caller is not to be blamed for what it cannot send."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
            if self._reader is not None:
                self.deadline = NEVER

    def resume(self) -> None:
        """Read on, unless the bytes of a next request are waiting already."""
        if self._reader is not None:
            if self._paused:
                self.deadline = self._judged = self.wire.deadlines.now + self.wire.limits.idle_timeout
                self._brought = 0
            self._unpause()
        elif not self._buffer or self.exchange is None:
            self._unpause()

    def tunnel(self, upstream: Upstream, out: bytes, rest: bytes) -> None:
        """From here on pass bytes between this connection and `upstream`, both ways, as they come."""
        exchange, self.exchange = self.exchange, None
        waiting = self._buffer[self._at :]
        self._buffer = b""
        self.deadline = NEVER
        here, there = join(self, self._transport, upstream, upstream.yield_transport(), self._watch)
        self._tunnel = here
        self._unpause()
        if self.blocked:  # before the tunnel, so that its end is not told
            here.pause_writing()
        here.write(out + rest)
        if waiting:
            there.write(waiting)
        if self._half_closed:
            here.eof_received()
        if exchange is not None:
            exchange.tunnelled()

    def is_ours(self) -> bool:
        """Say whether this connection comes from one of our own upstream connections."""
        if self.ours is None:
            # Both ends: the system gives one local port to connections with different destinations.
            ends = (self._transport.get_extra_info("peername"), self._transport.get_extra_info("sockname"))
            self.ours = ends in self.wire.outgoing
        return self.ours

    def ends_alike(self) -> bool:
        """Say whether the caller cannot tell an abort from a clean end: a unix socket has no reset."""
        sock = cast("socket.socket | None", self._transport.get_extra_info("socket"))
        return sock is not None and sock.family == socket.AF_UNIX  # none: it has ended, and nobody is told anything

    # -- asyncio's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.peer = _peer(transport, self._app)
        wire = self.wire
        wire.accepted += 1
        wire.downstreams.add(self)
        wire.deadlines.add(self)
        self.deadline = wire.deadlines.now + wire.limits.head_timeout
        surplus = len(wire.downstreams) - wire.most_connections
        if surplus > MOST_REFUSED:
            self.abort()  # those that are being told already hold all that there is for it
        elif surplus > 0:
            self._answer_and_close(Refusal("overloaded", "Too many connections.", retry_after=1, close=True))

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            if self._lingering:
                return
            if self._is_one_head(data):
                self._take(data, more=False)
                return
            if self._buffer:
                self._looked = len(self._buffer) - self._at
                self._buffer = self._buffer[self._at :] + data
            else:
                self._buffer = data
                self._looked = 0
            self._at = 0
            self._read()
        elif self._reader is not None:
            self._read_body(data)
        else:
            self._buffer = self._buffer[self._at :] + data
            self._at = 0
            self._looked = 0
            self.pause()

    def eof_received(self) -> bool:
        exchange = self.exchange
        if exchange is None or self._lingering:
            return False
        if not exchange.complete:
            exchange.abort()
            return False
        self._half_closed = True
        self.deadline = self.wire.deadlines.now + HALF_CLOSED_PATIENCE
        return True

    def connection_lost(self, _exc: Exception | None) -> None:
        self.wire.downstreams.discard(self)
        self.wire.deadlines.discard(self)
        if self.bound is not None:
            self.bound.close()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.downstream_lost()
        elif self._tunnel is not None:  # the upstream may not be taking what it still has to be sent
            self._tunnel.other.expire_at(self.wire.deadlines.now + self.wire.limits.idle_timeout)

    def pause_writing(self) -> None:
        self.blocked = True
        self._unwritten = _ALL
        if self.exchange is not None:
            self.exchange.pause_response()
            self.deadline = self.wire.deadlines.now + self.wire.limits.idle_timeout

    def resume_writing(self) -> None:
        self.blocked = False
        if self.exchange is None:
            self._read_on()
            return
        if self._half_closed:
            self.deadline = self.wire.deadlines.now + HALF_CLOSED_PATIENCE
        elif self._reader is None:
            self.deadline = NEVER
        self.exchange.resume_response()

    def expire(self) -> None:
        """Too slow: with a request head, with a body, with reading, or idle."""
        exchange = self.exchange
        if self._lingering or self._tunnel or (exchange is None and (self.blocked or not self._buffer)):
            self._give_up()
        elif exchange is None:
            refusal = Refusal("timeout", "The request head took too long to arrive.", close=True)
            self._answer_and_close(refusal, self._buffer[self._at :])
        elif not exchange.complete and not exchange.responded and exchange.errand is not None:
            refusal = Refusal("timeout", "The request body took too long to arrive.", close=True)
            exchange.errand.refuse(exchange, refusal)
        elif not (self.blocked and self._is_taking()):
            exchange.abort()

    def drain(self) -> None:
        """Close if idle; otherwise after the response that is under way."""
        self.keep_alive = False
        if self.exchange is None and not (self._tunnel or self._lingering or self._buffer):
            self._transport.close()

    # -- inside -------------------------------------------------------------------------------------------------

    def _unpause(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _watch(self, closing: bool) -> None:
        """Give a tunnel a deadline, or take it back."""
        self._unwritten = _ALL
        self.deadline = self.wire.deadlines.now + self.wire.limits.idle_timeout if closing else NEVER

    def _give_up(self) -> None:
        """Close a connection that has been idle too long, or on which the rest is not taken: by the caller, mostly."""
        if self._is_taking():
            return
        if self._tunnel or capacity.unsent(self._transport):
            self.abort()
        else:  # it has all that we had for it
            self._transport.close()

    def _is_taking(self) -> bool:
        """Say whether some of what was written has been taken since this was last asked; then ask again later."""
        unwritten = self._tunnel.unwritten() if self._tunnel else capacity.unsent(self._transport)
        if not 0 < unwritten < self._unwritten:
            return False
        self._unwritten = unwritten
        self.deadline = self.wire.deadlines.now + self.wire.limits.idle_timeout
        return True

    def _read_on(self) -> None:
        """Go on to the next request after an answer."""
        if (self._buffer or self.blocked) and self._read():
            return
        if self.exchange is None and not self.blocked:
            self._unpause()

    def _read(self) -> bool:
        """Read requests from the buffer until one is under way or more bytes are needed; True: it goes on by itself."""
        if self.blocked:  # no further answers for a caller that does not read those it has
            self.pause()
            return False
        self._reading = True
        left = MOST_AT_ONCE
        while self.exchange is None and self._at < len(self._buffer) and not (self._lingering or self.blocked):
            if not left or self._transport.is_closing() or not self._read_request():
                break
            left -= 1
        self._reading = False
        if self._at >= len(self._buffer):
            self._buffer = b""
            self._at = 0
        elif not left or self.exchange is not None or self.blocked:
            self.pause()
        if left or not self._buffer or self.exchange is not None or self.blocked:
            return False
        self.wire.loop.call_soon(self._read_on)
        return True

    def _read_request(self) -> bool:
        """Read one request's head, and what is here of its body; False if more bytes are needed."""
        buffer = self._buffer
        start = self._at
        if buffer[start] in b"\r\n":
            return self._skip_empty_line()
        end = buffer.find(_END, max(start, self._looked - 3)) + 4
        limits = self.wire.limits
        if end == 3 or end - start > limits.headers:  # noqa: PLR2004 - find() gave -1
            return self._head_incomplete(buffer, start, ends=end != 3)  # noqa: PLR2004
        self._at = end
        exchange = self._take(buffer[start:end], more=end < len(buffer))
        if self._reader is not None and self.exchange is exchange and self._at < len(buffer):
            rest = buffer[self._at :]
            self._buffer = b""
            self._at = 0
            self._read_body(rest)
        return exchange is not None

    def _is_one_head(self, data: bytes) -> bool:
        """Say whether this is a request head and nothing else, at a moment when one is expected: the usual case."""
        return (
            not (self._buffer or self.blocked)
            and 3 < data.find(_END) + 4 == len(data) <= self.wire.limits.headers  # noqa: PLR2004 - find() may give -1
            and data[0] not in b"\r\n"
        )

    def _take(self, received: bytes, *, more: bool) -> Exchange | None:
        """Begin the exchange of a request head; None where it was refused. `more`: bytes follow it already."""
        wire = self.wire
        try:
            head = parse_request(received, wire.limits, wire.requests)
            framing = request_framing(head)
        except Refusal as refusal:
            self._answer_and_close(refusal, received)
            return None
        if wire.begin is None:  # no exchange: what follows is thrown away as it comes
            self._answer_and_close(Refusal("overloaded", "No memory is left.", retry_after=1, close=True), received)
            return None
        self.deadline = NEVER
        if self._paused and (framing is not EMPTY or not more):
            self._unpause()
        self.keep_alive = head.minor == 1 and not wire.draining and persists(head.headers, 1)
        self.exchange = exchange = Exchange(self, head, framing)
        if not exchange.complete:
            self._reader = body.reader(framing)
            self.deadline = self._judged = wire.deadlines.now + wire.limits.idle_timeout
            self._brought = 0
        try:
            wire.begin(exchange)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets an answer and the loop its report
            self.failed(exchange, error)
        return exchange

    def _skip_empty_line(self) -> bool:
        """RFC 9112 section 2.2: an empty line before a request line is ignored; a bare CR or LF is not one."""
        if self._buffer.startswith(b"\r\n", self._at):
            self._at += 2
            return True
        if self._buffer[self._at :] == b"\r":
            return False
        self._answer_and_close(Refusal("bad_request", "A request begins with its method.", close=True))
        return False

    def _head_incomplete(self, buffer: bytes, start: int, *, ends: bool) -> bool:
        limits = self.wire.limits
        longest = limits.target + _AROUND_TARGET
        line_end = buffer.find(b"\r\n", start, start + longest)  # no further: it is looked for with every piece
        size = len(buffer) - start
        if ends or size > limits.headers or (line_end < 0 and size >= longest):
            name = "target_too_large" if line_end < 0 or line_end - start > limits.target else "headers_too_large"
            self._answer_and_close(Refusal(name, close=True), buffer[start:])
        elif _hopeless(buffer, start, line_end, max(start, self._looked)):
            self._answer_and_close(Refusal("bad_request", "The request head is malformed.", close=True), buffer[start:])
        else:
            self._await_head()
        return False

    def _await_head(self) -> None:
        """The head's deadline counts from its first byte and is not prolonged by further ones."""
        now = self.wire.deadlines.now
        self._buffer = self._buffer[self._at :]
        self._at = 0
        self.deadline = min(self.deadline, now + self.wire.limits.head_timeout)

    def _read_body(self, data: bytes) -> None:
        exchange = cast("Exchange", self.exchange)
        reader = cast("BodyReader", self._reader)
        try:
            piece = reader.feed(data)
        except BrokenBodyError:
            self._body_broken(exchange)
            return
        if not self._paused:
            self.deadline = self.wire.deadlines.now + self.wire.limits.idle_timeout
        self._brought += len(piece.data)
        exchange.request_data(piece.data)
        if self.exchange is not exchange:
            return  # refused: what is set now is the deadline of the connection's end
        if not piece.done:
            if self.wire.deadlines.now >= self._judged:
                self._judge_rate(exchange)
            return
        self._reader = None
        if not self.blocked:
            self.deadline = NEVER
        if piece.rest:
            self._buffer = piece.rest
            self._at = 0
            self._looked = 0
        exchange.request_end(reader.trailers)
        if self._buffer and self.exchange is not None:
            self.pause()

    def _judge_rate(self, exchange: Exchange) -> None:
        """Refuse a body that trickles. One whose response has begun is a conversation, and takes its time."""
        limits = self.wire.limits
        if self._brought < limits.body_rate * limits.idle_timeout and not exchange.responded and not self._paused:
            self.expire()
        self._judged = self.wire.deadlines.now + limits.idle_timeout
        self._brought = 0

    def _body_broken(self, exchange: Exchange) -> None:
        """The upstream must not take what it has for a whole request, and nothing after it is a request of ours."""
        if exchange.responded or exchange.errand is None:
            exchange.abort()
            return
        refusal = Refusal("bad_request", "The request body does not follow its framing.", close=True)
        exchange.errand.refuse(exchange, refusal)

    def _answer_and_close(self, refusal: Refusal, received: bytes = b"") -> None:
        """Answer what was `received` of a request; one for HEAD without a body, whatever else is wrong with it."""
        self.keep_alive = False
        self.wire.refused(refusal.code)
        self._transport.write(problem(refusal, close=True, head_only=received.startswith(b"HEAD ")))
        self._linger()

    def _linger(self) -> None:
        """Close so that the caller can still read what we wrote, although it goes on sending (RFC 9112 section 9.6)."""
        self._lingering = True
        self._reader = None
        self._buffer = b""
        self._at = 0
        self.deadline = self.wire.deadlines.now + LINGER
        if self._transport.is_closing():
            return
        self._unpause()
        if self._transport.can_write_eof():
            end_writing(self._transport)


def _hopeless(buffer: bytes, start: int, line_end: int, new: int) -> bool:
    """Say whether an incomplete head can never become a request.

    A wrong first byte, a bare CR or LF at `new` or later, or a request line that ends in no version of ours.
    """
    if buffer[start] not in _TOKEN:
        return True
    near = max(start, new - 1)
    ends = buffer.count(b"\r\n", near)
    if buffer.count(b"\n", new) != ends or buffer.count(b"\r", near, len(buffer) - 1) != ends:
        return True
    return line_end >= 0 and not buffer.endswith((b" HTTP/1.1", b" HTTP/1.0"), start, line_end)


def _peer(transport: asyncio.BaseTransport, app: str | None) -> Peer:
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return Peer(loopback=True, app=app)
    host = str(name[0])
    return Peer(loopback=host.startswith(("127.", "::ffff:127.")) or host == "::1", app=app)
