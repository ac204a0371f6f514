"""Our own HTTP client under mutated responses of an authorization server: the real `provider_http.Http` and `client.Line`.

What it asks: only the declared outcomes, nothing hangs once the server has ended, bounded memory, and an answer (so a
token) only where h11 reads the same whole response. The limits are small, so that they are reached.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

from fuzz.case import Answer, Case, collected
from fuzz.clockwork import Clockwork
from fuzz.mutate import RESPONSE_LINES, Kind, answer, numbered, seeds
from fuzz.reading import Response, h11_requests, h11_response
from fuzz.transport import EOF, FakeTransport
from sidecar import provider_http
from sidecar.model import Granted, Invalid, Unavailable
from sidecar.oauth import token_response
from sidecar.provider_http import Http, Reply
from sidecar.settings import ProviderSettings, ProviderTimeout
from sidecar.wire import client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.model import Origin

MOST = 600  # bytes of a body
LONGEST_HEAD = 3000  # bytes
_LINES = [
    b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Content-Encoding: identity", b"Content-Encoding: gzip, gzip", b"Retry-After: 5",
    b"Retry-After: -1", b"Cache-Control: no-store", b"Connection: enclosed", b"Connection: keep-alive, Close",
]  # fmt: skip
KIND = Kind(True, seeds("provider"), [*_LINES * 2, *RESPONSE_LINES])


def make(seed: int, number: int) -> Case:
    """Return case `number` of `seed`: what one authorization server says to one request after the other."""
    rng = numbered(seed, number)
    return Case((), tuple(answer(rng, KIND) for _ in range(1 + int(rng.random() * 3))))


class _Line(client.Line):
    """A line that says how much it held at most."""

    held = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answer is not None and not self._answer.done():
            self.held = max(self.held, len(self._buffer) + len(self._body))


class _Http(Http):
    """Connects to the fuzzer."""

    def __init__(self, loop: Clockwork) -> None:
        super().__init__(ProviderSettings("idp", "app", timeout=ProviderTimeout(1, 5)))
        self._loop = loop
        self.transports: list[FakeTransport] = []

    async def _connected(self, _origin: Origin) -> client.Line:
        await asyncio.sleep(0)
        line = _Line()
        self.transports.append(FakeTransport(self._loop, line, {}, lambda _data: None))
        return line


class Exchanges:
    """One client after the other, on a loop without sockets."""

    def __init__(self) -> None:
        self.tally: Counter[str] = Counter()
        self._loop = Clockwork()
        asyncio._set_running_loop(self._loop)
        provider_http.MAX_BYTES = MOST
        client.LONGEST_HEAD = LONGEST_HEAD

    def close(self) -> None:
        """Leave the loop."""
        asyncio._set_running_loop(None)

    def problems(self, case: Case) -> list[str]:
        """Play a case; return what is wrong with the outcome."""
        return collected(self._problems(case))

    def _problems(self, case: Case) -> Iterator[str]:
        self._loop.faults.clear()
        http = _Http(self._loop)
        for number, said in enumerate(case.answers):
            yield from self._exchange(http, number, said)
        closing = self._loop.create_task(http.close())
        self._loop.run()
        self._loop.advance(1000.0)
        if not closing.done() or any(not transport.lost for transport in http.transports) or http._busy or http._idle:
            yield "a closed client has connections left"
        if any(not timer.cancelled() for _, _, timer in self._loop._timers):
            yield "timers are left"
        if self._loop.faults:
            yield f"the loop was told of {self._loop.faults}"

    def _exchange(self, http: _Http, number: int, said: Answer) -> Iterator[str]:
        """Ask once, and have the server say its piece."""
        steps = list(said.steps)
        idle = [transport for transport in http.transports if not transport.is_closing()]
        if said.at == "head" and idle and steps and isinstance(steps[0], bytes):
            idle[0].deliver(steps.pop(0))  # before it was asked
            self._loop.run()
            if not idle[0].is_closing():
                yield "bytes that nobody asked for leave a connection open"
        task = self._loop.create_task(http.post("http://idp.example/token", (), [("n", str(number))]))
        self._loop.run()
        transport = next((one for one in reversed(http.transports) if not one.is_closing()), None)
        if transport is None:
            yield "nothing was asked"
            return
        yield from self._asked(transport, number)
        sent, ended = self._say(transport, steps)
        reply = _result(task, self._loop)
        self.tally["requests"] += 1
        yield from self._judged(transport, reply, sent, ended)

    def _asked(self, transport: FakeTransport, number: int) -> Iterator[str]:
        heard = h11_requests(bytes(transport.written))
        if heard.broken or not heard.requests or heard.requests[-1].body != b"n=%d" % number:
            yield f"h11 reads another request: {heard}"
        transport.written.clear()

    def _say(self, transport: FakeTransport, steps: list[Any]) -> tuple[bytes, str]:
        sent, ended = bytearray(), ""
        for step in steps:
            if ended:
                break
            if isinstance(step, bytes):
                if not transport.is_closing():
                    sent += step
                transport.deliver(step)
            elif step in ("eof", "reset"):
                ended = step
                transport.deliver(EOF if step == "eof" else ConnectionResetError())
            else:
                self._loop.run()
        self._loop.run()
        return bytes(sent), ended

    def _judged(self, transport: FakeTransport, reply: Any, sent: bytes, ended: str) -> Iterator[str]:
        line = transport.protocol
        if line.held > LONGEST_HEAD + MOST:
            yield f"{line.held} bytes were kept"
        theirs = h11_response(sent, b"POST", ended == "eof")
        if reply is None:
            whole = not isinstance(theirs, str) and theirs.whole and theirs.status != 101 and not theirs.rest
            if ended or (whole and sent.count(b"\n") == sent.count(b"\r\n")):
                yield f"an answer that never comes, although the server has {ended or 'said it all'}: {theirs}"
        elif isinstance(reply, BaseException) or not isinstance(reply, Reply):
            yield f"not a declared outcome: {reply!r}"
        elif isinstance(reply, provider_http.Answer):
            self.tally["answers"] += 1
            yield from self._answer(reply, theirs, sent)
        if not transport.is_closing():
            self.tally["connections kept"] += 1
            if ended or isinstance(theirs, str) or not theirs.whole or theirs.rest or _says_close(theirs):
                yield f"a connection after {reply!r} and {ended!r} is kept"

    def _answer(self, reply: provider_http.Answer, theirs: Response | str, sent: bytes) -> Iterator[str]:
        if (
            isinstance(theirs, str)
            or not theirs.whole
            or (theirs.status, _decoded(theirs)) != (reply.status, reply.body)
        ):
            yield f"h11 does not read this answer: {theirs} · {reply}"
        outcome = token_response.judge(
            reply.status, reply.headers, reply.body, requested_at=0.0, asked=frozenset(), now=1.0
        )
        if isinstance(outcome, Granted):
            self.tally["tokens"] += 1
            if "canary" in repr(outcome):
                yield "an outcome shows its token"
        elif not isinstance(outcome, Unavailable | Invalid) and b"error" not in reply.body:
            yield f"{outcome} out of {sent!r}"


def _result(task: asyncio.Task[Reply], loop: Clockwork) -> Any:
    """Return the outcome; None where it did not come, and whoever asked does not wait any longer."""
    if not task.done():
        task.cancel()
        loop.run()
        return None if task.cancelled() else task.exception() or RuntimeError("a cancellation got lost")
    return task.exception() or task.result()


def _says_close(response: Response) -> bool:
    tokens = b",".join(response.all(b"connection")).lower().split(b",")
    return any(token.strip() == b"close" for token in tokens)


def _decoded(response: Response) -> bytes:
    coding = (response.all(b"content-encoding") or [b""])[0].lower()
    if coding not in (b"gzip", b"x-gzip", b"deflate") or not response.body:
        return response.body
    for window in (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS):
        decoder = zlib.decompressobj(window)
        try:
            return decoder.decompress(response.body)
        except zlib.error:
            continue
    return b"(not in that coding)"
