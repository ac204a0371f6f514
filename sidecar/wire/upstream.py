"""The connection to an upstream: sends requests, reads responses, one exchange at a time.

A connection goes back to its pool only after a response that ended where its framing says, to a request that was sent
whole. Bytes that nobody asked for, a broken head or body, an unasked-for 101: the connection is closed, so that no
response becomes another caller's (RFC 9112 sections 6.3, 9.3 and 9.6).
"""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from typing import TYPE_CHECKING, Final, cast

from sidecar.errors import Refusal
from sidecar.headers import persists, switches_as_offered
from sidecar.wire import body, framing
from sidecar.wire.body import BodyReader, BrokenBodyError, CloseReader
from sidecar.wire.capacity import free_window, unsent
from sidecar.wire.context import NEVER
from sidecar.wire.exchange import SWITCHING
from sidecar.wire.head import LONGEST_RESPONSE_HEAD, InvalidResponseError, parse_response
from sidecar.wire.tunnel import reset

if TYPE_CHECKING:
    import asyncio

    from sidecar.message import ResponseHead
    from sidecar.wire.downstream import Downstream
    from sidecar.wire.exchange import Exchange
    from sidecar.wire.pool import Pool

_END: Final = b"\r\n\r\n"
_FINAL: Final = 200
_UNAUTHORIZED: Final = 401
_PIECE: Final = 64 * 1024  # bytes
_TAKES_IT_ALL: Final = 512 * 1024  # bytes in a row: more than what this process and the kernel keep for a caller
_NOT_JUDGED: Final = -1  # nothing has waited to be sent: it is for its answer that the upstream has to hurry
_NO_TRAILERS: Final[list[tuple[bytes, bytes]]] = []


class Upstream:
    """One connection. `used` counts the requests it has carried.

    An asyncio.Protocol in everything but its base: a compiled class has none that is not (docs/decisions/0009).
    """

    __slots__ = (
        "_closes_well", "_doubtful", "_endless", "_ends", "_fresh", "_gone", "_held", "_partial", "_paused",
        "_persistent", "_pool", "_reader", "_received", "_sent", "_streaming", "_taken", "_transport", "_unsent",
        "blocked", "deadline", "exchange", "owner", "used",
    )  # fmt: skip

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._partial = b""
        self._fresh = True  # made for somebody who has not taken it yet
        self._reader: BodyReader | None = None
        self._held: tuple[ResponseHead, bytes] | None = None
        self._gone: tuple[Exception | None] | None = None  # why the connection has ended, while a response is held
        self._paused = False  # reading, by a slow caller
        self.blocked = False  # writing, by a slow upstream
        self._endless = False  # a response whose pieces may be far apart
        self._sent = False  # the request has been sent whole
        self._received = False  # a byte of this response has come
        self._streaming = False
        self._persistent = False
        self._doubtful = False  # a body may still come that the response should not have
        self._taken = 0  # bytes of bodies without a pause, until there are enough of them
        self._closes_well = False  # it has said that nothing more will come
        self._unsent = _NOT_JUDGED  # bytes still to be sent when it was last looked whether they are taken
        self._ends: tuple[object, object] = (None, None)
        self.exchange: Exchange | None = None
        self.owner: Downstream | None = None  # whom the upstream takes it for: see `Pool.keep_for`
        self.deadline = NEVER
        self.used = 0

    # -- the exchange's side ------------------------------------------------------------------------------------

    def start(self, exchange: Exchange, request: bytes) -> None:
        """Send a request head; the body follows by `write_body` and `request_sent`."""
        self.exchange = exchange
        self.used += 1
        self._received = False
        if self._fresh:
            self._fresh = False
            if self._partial:
                self._pool.wire.loop.call_soon(self._read_first_words)
        self._transport.write(request)
        if exchange.framing is framing.EMPTY:
            self._sent = True
            self.deadline = self._pool.wire.deadlines.now + exchange.errand.timeout.response  # type: ignore[union-attr]
        else:
            self._sent = False  # as long as the upstream takes what there is, it is the caller that is waited for
            self.deadline = NEVER

    def write_body(self, data: bytes) -> None:
        self._transport.write(data)
        if self._streaming:
            self._be_patient()

    def request_sent(self) -> None:
        """The response is due from now on."""
        self._sent = True
        exchange = self.exchange
        if exchange is not None and exchange.errand is not None and not self._streaming:
            self.deadline = self._pool.wire.deadlines.now + exchange.errand.timeout.response

    def pause(self) -> None:
        """Read no more for now: the caller is slow, for which the upstream is not to be blamed."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()
            self.deadline = NEVER
            if self._taken < _TAKES_IT_ALL:
                self._taken = 0

    def resume(self) -> None:
        if self._paused and not self._transport.is_closing():
            self._paused = False
            if self._held is None:
                self._transport.resume_reading()
                self._be_patient()

    def release_held(self) -> None:
        """Pass on the response that was held back."""
        held, self._held = self._held, None
        gone, self._gone = self._gone, None
        exchange = self.exchange
        if held is None or exchange is None or exchange.errand is None:
            return
        head, rest = held
        if not (self._paused or gone):
            self._transport.resume_reading()
        try:
            frame = framing.response_framing(head, exchange.head.method)
            out = exchange.response_head(head, frame, exchange.errand.response_rules)
            self._pass_on(exchange, head, frame, out, rest)
        except (InvalidResponseError, BrokenBodyError):
            self._invalid()
        if gone:
            self._lost(*gone)

    def drop(self) -> None:
        """Close: the response in progress is not wanted, or not to be trusted."""
        self.exchange = None
        self.close()

    def close(self) -> None:
        self.deadline = NEVER
        self._pool.forget(self)
        self._transport.abort()

    def lie_idle(self) -> bool:
        """Begin to wait for a request; False where none may come here, as bytes came that answer none."""
        self._fresh = self._doubtful = False
        return not (self._partial or self._transport.is_closing())

    def first_words(self) -> bytes:
        """Return what came before anybody took the new connection: it belongs to the tunnel that it becomes."""
        self._fresh = False
        words, self._partial = self._partial, b""
        return words

    def yield_transport(self) -> asyncio.Transport:
        """Return the connection itself, for a tunnel, which has no deadline."""
        self.deadline = NEVER
        self._unsent = sys.maxsize
        free_window(self._transport.get_extra_info("socket"))
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return self._transport

    # -- asyncio's side -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._pool.opened()
        wire = self._pool.wire
        wire.deadlines.add(self)
        self._ends = (transport.get_extra_info("sockname"), transport.get_extra_info("peername"))
        wire.outgoing.add(self._ends)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            if self._fresh:
                self._hear_first_words(data)
            else:
                self.close()  # bytes that answer no request: nobody may take what follows them for an answer
            return
        if self._held is not None:
            self._held = (self._held[0], self._held[1] + data)
            return
        self._received = True
        try:
            if self._reader is None:
                if self._partial:
                    self._read_on(exchange, data)
                else:
                    self._read_head(exchange, data)
            else:
                self._read_body(exchange, b"", data)
        except (InvalidResponseError, BrokenBodyError):
            self._invalid()

    def eof_received(self) -> bool:
        self._pool.forget(self)
        self._closes_well = _closes_well(self._transport)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        wire = self._pool.wire
        wire.deadlines.discard(self)
        wire.outgoing.discard(self._ends)
        self._pool.ended(self)
        if self.exchange is not None:
            if exc is not None:
                self._read_last_words()
            if self._held is None:
                self._lost(exc)
            else:  # TLS tells of an end also while reading is paused; what is held may still be replaced or passed on
                self._gone = (exc,)

    def pause_writing(self) -> None:
        self.blocked = True
        if self.exchange is not None:
            self._unsent = unsent(self._transport)
            self.exchange.pause_request()
            self._be_patient()

    def resume_writing(self) -> None:
        self.blocked = False
        if self.exchange is not None:
            if not (self._sent or self._streaming):
                self.deadline = NEVER
            self.exchange.resume_request()

    def expire(self) -> None:
        """The upstream took too long: for its head, between two pieces of a body, or with a tunnel's last bytes."""
        if self._is_taking():
            return
        exchange = self.exchange
        self.exchange = None
        if exchange is None and self._unsent:
            reset(self._transport)  # a tunnel without its last bytes has no clean end
        self.close()
        if exchange is not None:
            refusal = Refusal("upstream_timeout", "The upstream did not answer in time.")
            exchange.upstream_lost(refusal, untouched=False)

    # -- inside -------------------------------------------------------------------------------------------------

    def _is_taking(self) -> bool:
        """Say whether some of what was written has been taken since this was last looked at; then wait on."""
        before, self._unsent = self._unsent, unsent(self._transport)
        if before == _NOT_JUDGED or self._unsent in (
            0,
            before,
        ):  # more than before is a change, too: TLS hides what waits for the socket
            return False
        if self.exchange is None:
            self.deadline = self._pool.wire.deadlines.now + self._pool.wire.limits.idle_timeout
        elif self._sent and not self._streaming:
            self.request_sent()
        else:
            self._be_patient()
        return True

    def _hear_first_words(self, data: bytes) -> None:
        """Keep what comes as soon as the connection is there: a refusal of it, or the greeting of what CONNECT is for.

        Nobody has used it before, so nobody else's answer can be among it.
        """
        self._partial += data
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _read_first_words(self) -> None:
        words, self._partial = self._partial, b""
        if self.exchange is None:
            return
        if not self._transport.is_closing():  # where our writing has met a reset already, the words are all there is
            self._paused = False
            self._transport.resume_reading()
        Upstream.data_received(self, words)

    def _read_last_words(self) -> None:
        """Read what came before a reset that our writing met first: an answer to a request that was not wanted whole.

        The socket is open until `connection_lost` returns. Under TLS what it holds cannot be read here.
        """
        if self._transport.get_extra_info("sslcontext") is not None:
            return
        fd = self._transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while self.exchange is not None and (data := os.read(fd, _PIECE)):
                Upstream.data_received(self, data)

    def _be_patient(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.errand is not None and not self._endless:
            self.deadline = self._pool.wire.deadlines.now + exchange.errand.timeout.idle

    def _read_on(self, exchange: Exchange, data: bytes) -> None:
        """Take a further piece of a head. Only that is looked at: pieces may be small, and what is here large."""
        known = len(self._partial)
        data = self._partial + data
        if data.find(_END, max(0, known - 3)) < 0:
            self._keep_partial(data, known, ends=False)
        else:
            self._read_head(exchange, data)

    def _read_head(self, exchange: Exchange, data: bytes) -> None:
        """Read the final response's head, and those of 1xx responses before it."""
        hearing = exchange.errand.response_rules.hearing  # type: ignore[union-attr]
        while True:
            end = data.find(_END) + 4
            if not 3 < end <= LONGEST_RESPONSE_HEAD:  # noqa: PLR2004 - find() gave -1
                self._keep_partial(data, 0, ends=end > 3)  # noqa: PLR2004
                return
            self._partial = b""
            head = parse_response(data[:end], hearing)
            data = data[end:]
            frame = framing.response_framing(head, exchange.head.method)
            if head.status >= _FINAL:
                break
            if head.status == SWITCHING:
                if not (exchange.upgrade and switches_as_offered(exchange.head, head)):
                    raise InvalidResponseError
                break
            if not exchange.interim(head):
                raise InvalidResponseError
            if not data:
                return
        out = exchange.response(head, frame)
        if self.exchange is not exchange:
            return  # refused or sent elsewhere meanwhile
        if out is None:
            self._hold(head, data)
        else:
            self._pass_on(exchange, head, frame, out, data)

    def _keep_partial(self, data: bytes, known: int, *, ends: bool) -> None:
        if ends or len(data) > LONGEST_RESPONSE_HEAD or _hopeless(data, known):
            raise InvalidResponseError
        self._partial = data

    def _hold(self, head: ResponseHead, rest: bytes) -> None:
        self._held = (head, rest)
        if not self._paused:
            self._transport.pause_reading()
        self.deadline = NEVER

    def _pass_on(self, exchange: Exchange, head: ResponseHead, frame: framing.Framing, out: bytes, rest: bytes) -> None:
        if head.status == SWITCHING:
            self.exchange = None
            exchange.downstream.tunnel(self, out, rest)
            return
        self._persistent = persists(head.headers, head.minor)
        length = frame.length
        if len(rest) == length and not frame.chunked and not frame.until_close:  # all of it came in one read
            if not length:
                self._doubtful = framing.announces_body(head.headers)
            exchange.downstream.write(out + rest)
            self._finish(exchange, _NO_TRAILERS, b"")
            return
        reader = body.reader(frame)
        if reader is None:
            exchange.response_data(out, b"")
            self._finish(exchange, _NO_TRAILERS, rest)
            return
        self._reader = reader
        self._streaming = True
        if rest:
            self._read_body(exchange, out, rest)
        else:
            exchange.response_data(out, b"")
        if self._reader is reader:
            self._stay_patient(head)

    def _stay_patient(self, head: ResponseHead) -> None:
        if any(map(_is_events, head.all(b"content-type")[:1])):
            self._endless = True  # events may be far apart; the caller's leaving ends it
            self.deadline = NEVER
        elif not self._paused:
            self._be_patient()

    def _read_body(self, exchange: Exchange, out: bytes, data: bytes) -> None:
        reader = cast("BodyReader", self._reader)
        if self._taken < _TAKES_IT_ALL:
            self._take(len(data))
        try:
            piece = reader.feed(data)
        except BrokenBodyError:
            if out:
                exchange.unsay()
            raise
        exchange.response_data(out, piece.data)
        if piece.done:
            self._reader = None
            self._streaming = self._endless = False
            self._finish(exchange, reader.trailers, piece.rest)
        elif not self._paused:
            self._be_patient()

    def _take(self, size: int) -> None:
        """Let the kernel read ahead for a caller that takes all there is; for one that does not it holds the more."""
        self._taken += size
        if self._taken >= _TAKES_IT_ALL:
            free_window(self._transport.get_extra_info("socket"))

    def _finish(self, exchange: Exchange, trailers: list[tuple[bytes, bytes]], surplus: bytes) -> None:
        self.exchange = None
        self._unsent = _NOT_JUDGED
        self.deadline = NEVER
        if self._persistent and self._sent and not (surplus or self.blocked or self._transport.is_closing()):
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            if exchange.binds or self.owner is not None:
                # A handshake's next step can go nowhere else, and the body of a 401 is the upstream's own text.
                doubtful = self._doubtful and exchange.status != _UNAUTHORIZED
                self._pool.keep_for(exchange.downstream, self, doubtful=doubtful)
            elif self._doubtful:
                self._pool.give_back_later(self)
            else:
                self._pool.give_back(self)
        else:
            self.close()
        exchange.response_end(trailers)

    def _invalid(self) -> None:
        exchange, self.exchange = self.exchange, None
        self.close()
        if exchange is not None:
            refusal = Refusal("upstream_invalid", "The upstream's response was invalid.")
            exchange.upstream_lost(refusal, untouched=False)

    def _lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            return
        if isinstance(self._reader, CloseReader) and exc is None and self._closes_well:
            exchange.response_end([])
            return
        refusal = Refusal("upstream_invalid", "The upstream closed the connection before its response was complete.")
        exchange.upstream_lost(refusal, untouched=self.used > 1 and not self._received)


def _is_events(content_type: bytes) -> bool:
    """Say whether it is that of server-sent events, with or without parameters (RFC 9110 section 8.3.1)."""
    return content_type.partition(b";")[0].rstrip(b" \t").lower() == b"text/event-stream"


def _closes_well(transport: asyncio.Transport) -> bool:
    """Say whether an end of stream is the upstream's own: under TLS anybody can make one that has no closure alert.

    What only the end of the connection delimits is complete with it, and not without (RFC 9112 section 9.8).
    """
    tls = transport.get_extra_info("ssl_object")
    try:
        return tls is None or tls.read(1) == b""
    except ssl.SSLError:
        return False


def _hopeless(head: bytes, known: int) -> bool:
    """Say whether an incomplete head can never become a response: another protocol, or a bare LF from `known` on."""
    return not b"HTTP/1".startswith(head[:6]) or head.count(b"\n", known) != head.count(b"\r\n", max(0, known - 1))
