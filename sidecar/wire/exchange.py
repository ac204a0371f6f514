"""One request and its response on their way through: who reads from whom, and who may still be answered.

Owns no socket. It joins a `Downstream` and an `Upstream`, keeps the request body as long as it may have to be sent
again, and turns every ending into one of four: answered, refused by us, broken off (the other side learns of it as an
abort, never as a clean end), or tunnelled. The corridor (`proxy`) decides; this carries out.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.errors import Refusal
from sidecar.headers import connection_tokens
from sidecar.message import IDEMPOTENT
from sidecar.wire.awaiting import settle
from sidecar.wire.body import chunk, last_chunk
from sidecar.wire.framing import EMPTY

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sidecar.headers import RequestRules, ResponseRules
    from sidecar.message import RequestHead, ResponseHead
    from sidecar.model import Target, TokenKey
    from sidecar.settings import UpstreamTimeout
    from sidecar.wire.downstream import Downstream
    from sidecar.wire.framing import Framing
    from sidecar.wire.pool import Pool
    from sidecar.wire.upstream import Upstream

SWITCHING: Final = 101
MOST_INTERIM: Final = 32  # 1xx responses to one request
UNSENT_LIMIT: Final = 64 * 1024  # bytes of body taken from the caller before there is an upstream to give them to

_NO_NAMES: Final[frozenset[bytes]] = frozenset()
_NO_TRAILERS: Final[list[tuple[bytes, bytes]]] = []

_APART: set[asyncio.Task[None]] = set()  # keeps the tasks of `wait_apart` alive


class Errand(Protocol):
    """What the corridor attached to the exchange: its plan for the response."""

    rules: RequestRules
    response_rules: ResponseRules
    timeout: UpstreamTimeout
    body_limit: int  # bytes kept for a second try
    longest_body: int | None  # bytes that a request's body may have

    def responded(self, exchange: Exchange, head: ResponseHead) -> bool:
        """Look at a final response head; True holds the response back until `resume` or `send` is called."""

    def over(self, exchange: Exchange) -> None:
        """Take note that the exchange has ended."""

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        """Answer a failure that the wire found."""


class Exchange:
    """The state of one request. Defaults stand on the class: most exchanges change few of them.

    `target`, `key`, `credential`, `replayed`, `request_id` and `began` are the corridor's notes: the wire does not
    look at them.
    """

    errand: Errand | None = None
    target: Target | None = None
    key: TokenKey | None = None
    credential: Any = None
    replayed = False
    request_id = ""
    began = 0.0  # time.perf_counter()

    status = 0  # of the final response, once its head is on the way to the caller
    responded = False
    refused = False  # the answer is ours
    binds = False  # the upstream takes whoever uses this connection from now on for this caller
    upgrade = False

    _kept: list[bytes] | None = None  # the body so far
    _kept_size = 0
    _size = 0  # of a chunked body so far, where it is limited
    _whole = True  # whether all of the body that came is kept
    _upstream: Upstream | None = None
    _task: asyncio.Task[None] | None = None
    _pool: Pool
    _request: bytes
    _chunked_out = False
    _nominated: frozenset[bytes] = _NO_NAMES  # the response's trailers that stay here
    _interims = 0
    _over = False
    _retried = False
    _started = False  # whether the caller's body is being passed on
    _unwanted = False  # whether the rest of the caller's body is thrown away: it has been answered already
    _trailers: list[tuple[bytes, bytes]] = _NO_TRAILERS  # replaced, never changed

    def __init__(self, downstream: Downstream, head: RequestHead, framing: Framing) -> None:
        self.downstream = downstream
        self.head = head
        self.framing = framing
        if framing is EMPTY:
            self.complete = True
        else:
            self.complete = not (framing.length or framing.chunked)  # whether the request has arrived whole
            self._kept = []

    # -- the corridor's side ------------------------------------------------------------------------------------

    def send(self, pool: Pool, request: bytes) -> None:
        """Send the request head (and what is kept of the body) on a connection of `pool`; may be called again.

        What is over is not sent: whoever waited for the token may have been deaf to being called off.
        """
        if self._over:
            return
        self._pool = pool
        self._request = request
        upstream = pool.take() if self.downstream.bound is None else pool.take_bound(self.downstream)
        if upstream is None:
            self.wait(self._connect(pool))
        elif self.framing is EMPTY and not self._interims:
            self._upstream = upstream
            self._started = True
            upstream.start(self, request)
        else:
            self._attach(upstream)

    def wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what needs awaiting in a task that ends with the caller's interest."""
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._waited)

    def wait_apart(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what needs awaiting in a task that does not end with the caller's interest."""
        task = asyncio.get_running_loop().create_task(work)
        _APART.add(task)
        task.add_done_callback(_APART.discard)

    def refuse(self, response: bytes, status: int) -> None:
        """Answer the caller ourselves, unless an answer is under way; then break off."""
        if self._over:
            return
        self._drop_upstream()
        if self.responded:
            self.abort()
            return
        self.responded = self.refused = True
        self.status = status
        self.downstream.write(response)
        self._finish()
        self.downstream.exchange_over(self)

    def resume(self) -> None:
        """Pass on the response that `Errand.responded` held back."""
        if not self.complete:
            self._unwanted = True
            self._let_go()
            self.downstream.resume()
        if self._upstream is not None:
            self._upstream.release_held()

    def whole(self) -> bool:
        """Say whether what came of the request so far can be sent again byte for byte."""
        return self._whole

    def untouched(self) -> bool:
        """Say whether no byte of a body has come from the caller yet."""
        return not self.complete and self._kept == []

    def detach(self) -> None:
        """Let go of the upstream connection whose response is not wanted: what is sent next is another request."""
        self._drop_upstream()
        self._started = self._retried = False

    def abort(self) -> None:
        """Break off both sides."""
        if not self._over:
            self._drop_upstream()
            self._finish()
            self.downstream.abort()

    # -- the caller's side --------------------------------------------------------------------------------------

    def request_data(self, data: bytes) -> None:
        """Take a piece of the request's body."""
        if not data or self._unwanted or (self.framing.chunked and self._too_long(len(data))):
            return
        self._keep(data)
        upstream = self._upstream
        if upstream is not None and self._started:
            upstream.write_body(chunk(data) if self.framing.chunked else data)
        elif self._kept_size > UNSENT_LIMIT or not self.downstream.wire.may_keep():
            self.downstream.pause()

    def request_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """Take note that the request has arrived whole."""
        self.complete = True
        self._trailers = trailers
        if self._upstream is not None and self._started:
            self._send_end(self._upstream)

    def downstream_lost(self) -> None:
        """The caller has gone: nobody wants the response."""
        if not self._over:
            self._drop_upstream()
            self._finish()

    def tunnelled(self) -> None:
        """The two connections are a tunnel now, and no exchange any more."""
        self._upstream = None
        self._finish()

    def pause_response(self) -> None:
        if self._upstream is not None:
            self._upstream.pause()

    def resume_response(self) -> None:
        if self._upstream is not None:
            self._upstream.resume()

    # -- the upstream's side ------------------------------------------------------------------------------------

    def interim(self, head: ResponseHead) -> bool:
        """Pass on a 1xx response; False where there were too many."""
        self._interims += 1
        if self._interims > MOST_INTERIM:
            return False
        errand = self.errand
        if self.head.minor and errand is not None:
            section = errand.response_rules.section(head.headers, chunked=False, upgrade=False)
            self.downstream.write(b"%b%b\r\n" % (_status_line(head), section))
        return True

    def response(self, head: ResponseHead, framing: Framing) -> bytes | None:
        """Take the final response's head; return the bytes for the caller, None where it is held back."""
        errand = self.errand
        if errand is None or errand.responded(self, head):
            self._started = False  # what comes of the body from here on is for the next attempt
            return None
        return self.response_head(head, framing, errand.response_rules)

    def response_head(self, head: ResponseHead, framing: Framing, rules: ResponseRules) -> bytes:
        """Return the head as the caller gets it."""
        self.responded = True
        self.status = head.status
        modern = self.head.minor == 1
        downstream = self.downstream
        if framing.chunked:
            self._chunked_out = modern
            self._nominated = connection_tokens(head.headers)
        if framing.until_close or not self.complete or (framing.chunked and not modern):
            downstream.keep_alive = False
        upgraded = head.status == SWITCHING
        start = _status_line(head)
        section = rules.section(head.headers, chunked=modern, upgrade=upgraded)
        if downstream.keep_alive or upgraded:
            return start + section + b"\r\n"
        if framing.until_close and modern and downstream.ends_alike():
            self._chunked_out = True
            section += b"Transfer-Encoding: chunked\r\n"
        return b"%b%bConnection: close\r\n\r\n" % (start, section)

    def unsay(self) -> None:
        """Take back a head that has not gone to the caller yet: its body is broken where it begins."""
        self.responded = self._chunked_out = False
        self.status = 0

    def response_data(self, head: bytes, data: bytes) -> None:
        """Pass on the head, if it is still to go, and a piece of the body."""
        if data and self._chunked_out:
            data = chunk(data)
        if head or data:
            self.downstream.write(head + data if head and data else head or data)

    def response_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The response has been passed on whole."""
        self._upstream = None
        if self._chunked_out and self.errand is not None:
            self.downstream.write(last_chunk(self.errand.rules.trailers(trailers, self._nominated)))
        self._finish()
        self.downstream.exchange_over(self)

    def upstream_lost(self, refusal: Refusal, *, untouched: bool) -> None:
        """The upstream connection broke. `untouched`: it had been used before and gave no byte for this request."""
        if self._over:
            return
        self._upstream = None
        again = untouched and not self._retried and self.head.method in IDEMPOTENT and self.whole()
        if again:
            self._retried = True
            self._started = False
            self.wait(self._connect(self._pool))
        elif self.errand is not None:
            self.errand.refuse(self, refusal)

    def pause_request(self) -> None:
        self.downstream.pause()

    def resume_request(self) -> None:
        self.downstream.resume()

    # -- inside -------------------------------------------------------------------------------------------------

    def _connect(self, pool: Pool) -> Coroutine[Any, Any, None]:
        return settle(pool.connect, partial(self._connected, pool), self._not_connected, Refusal)

    def _not_connected(self, refusal: Refusal) -> None:
        if self.errand is not None:
            self.errand.refuse(self, refusal)

    def _connected(self, pool: Pool, upstream: Upstream) -> None:
        if self._over:
            pool.give_back_unused(upstream)
        else:
            self._attach(upstream)

    def _attach(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._started = True
        body = self._kept
        upstream.start(self, self._request)
        if self.downstream.blocked:  # by the interim responses of an earlier attempt
            upstream.pause()
        if body or self.framing.chunked or not self.complete:
            for piece in body or ():
                upstream.write_body(chunk(piece) if self.framing.chunked else piece)
            if self.complete:
                self._send_end(upstream)
            self._forget_if_large()
            if not upstream.blocked:
                self.downstream.resume()

    def _send_end(self, upstream: Upstream) -> None:
        if self.framing.chunked and self.errand is not None:
            upstream.write_body(
                last_chunk(self.errand.rules.trailers(self._trailers, connection_tokens(self.head.headers)))
            )
        upstream.request_sent()

    def _keep(self, data: bytes) -> None:
        kept = self._kept
        if kept is None:
            return
        size = len(data)
        if self._started and not self._may_keep(size):
            self._let_go()
            return
        kept.append(data)
        self._kept_size += size
        self.downstream.wire.replay_memory += size

    def _too_long(self, size: int) -> bool:
        """Count a chunked body; beyond the route's limit refuse it, and let the upstream see an abort."""
        errand = self.errand
        if errand is None or errand.longest_body is None:
            return False
        self._size += size
        if self._size <= errand.longest_body:
            return False
        if self.responded:
            self.abort()
        else:
            errand.refuse(self, too_large(errand.longest_body))
        return True

    def _may_keep(self, size: int) -> bool:
        limit = self.errand.body_limit if self.errand is not None else 0
        return self._kept_size + size <= limit and self.downstream.wire.may_keep(size)

    def _forget_if_large(self) -> None:
        if self._kept is not None and not self._may_keep(0):
            self._let_go()

    def _let_go(self) -> None:
        self.downstream.wire.replay_memory -= self._kept_size
        self._kept = None
        self._kept_size = 0
        self._whole = False

    def _drop_upstream(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.drop()

    def _waited(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if not task.cancelled() and task.exception() is not None:
            self.downstream.failed(self, task.exception())

    def _finish(self) -> None:
        self._over = True
        task, self._task = self._task, None
        if task is not None and not task.done():
            task.cancel()
        if self._kept_size:
            self._let_go()
        if self.errand is not None:
            self.errand.over(self)


def too_large(limit: int) -> Refusal:
    """Return the refusal of a body that is longer than its route allows."""
    return Refusal("too_large", f"The request body exceeds {limit} bytes.", close=True)


def _status_line(head: ResponseHead) -> bytes:
    """Return the status line with our own version (RFC 9112 section 2.3)."""
    return head.status_line if head.minor else b"HTTP/1.1" + head.status_line[8:]
