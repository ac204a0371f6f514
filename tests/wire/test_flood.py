"""Overload and slow peers: what is bounded, who is refused, who goes on, and how it ends by itself."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.lane import Prepared
from sidecar.model import Origin
from sidecar.settings import Limits, Match, Route, UpstreamTimeout
from sidecar.wire import capacity
from sidecar.wire.context import LOOK, Deadlines
from sidecar.wire.downstream import LINGER, MOST_REFUSED
from tests.support.corridor import LIMITS, Corridor
from tests.support.cost import messages, whole
from tests.support.credentials import Bench
from tests.support.recording_upstream import Seen, Wait, reread, response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.raw import Raw

IDLE, RATE, LIMIT, MOST = 0.6, 1000, 2000, 3
SHORT = UpstreamTimeout(connect=IDLE, response=IDLE, idle=IDLE)
GET = b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def _post(host: bytes, framing: bytes) -> bytes:
    return b"POST /x HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (host, framing)


@pytest.fixture(scope="module")
def tight() -> Iterator[Corridor]:
    """A corridor with short times, a pace for bodies, and routes with limits of their own."""
    corridor = Corridor(
        limits=Limits(head_timeout=IDLE, idle_timeout=IDLE, body_rate=RATE, connections=64), timeout=SHORT
    )

    async def routed() -> None:
        here = Origin("http", "127.0.0.1", corridor.upstream.port)
        limited = Route("limited", Match("limited.internal"), here, "none", body_limit=LIMIT, timeout=SHORT)
        narrow = Route("narrow", Match("narrow.internal"), here, "none", requests=MOST)
        corridor._more_routes = (limited, narrow)
        corridor.wire.configure(corridor._limits, corridor._proxy())

    with corridor:
        corridor.run(routed())
        yield corridor


def _saw(corridor: Corridor) -> bytes:
    return b"".join(corridor.streams())


# -- bodies over a limit ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"], ids=["OV-02-told", "OV-02-told-expect"])
def test_body_whose_length_exceeds_the_limit_is_refused_before_it_is_read(tight: Corridor, expect: bytes):
    """413 at once, the connection ends, and the upstream hears nothing of it."""
    tight.fresh()
    with tight.client() as client:
        answer = client.send(_post(b"limited.internal", expect + b"Content-Length: %d" % (LIMIT + 1))).answer()
        assert answer is not None
        assert (answer.status, answer.interims) == (413, [])
        assert b'"code":"too_large"' in answer.body
        assert client.ends(2)
    assert _saw(tight) == b""


@pytest.mark.parametrize("first", [b"x" * LIMIT, b""], ids=["OV-02-streamed-later", "OV-02-streamed-at-once"])
def test_chunked_body_that_grows_beyond_the_limit_breaks_off_at_the_upstream(tight: Corridor, first: bytes):
    """Lengths that nobody told are counted: the caller gets 413, the upstream an abort, never a clean end."""
    tight.fresh()
    with tight.client() as client:
        client.send(_post(b"limited.internal", b"Transfer-Encoding: chunked"))
        if first:
            client.send(b"%x\r\n%b\r\n" % (len(first), first))
            assert tight.until(lambda: b"xxx" in b"".join(tight.upstream.streams()))
        more = b"y" * (LIMIT + 1 - len(first))
        answer = client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(more), more)).answer()
        assert answer is not None
        assert answer.status == 413
        assert client.ends(3)
    assert tight.until(lambda: tight.wire.upstreams == 0)
    assert all(not reread(stream).requests for stream in tight.streams())


def test_caller_that_stays_after_413_does_not_keep_its_connection(tight: Corridor):
    """[OV-02, SL-05] Also where the body's end came in the same piece as what was too much of it."""
    tight.fresh()
    with tight.client() as client:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (LIMIT + 1, b"x" * (LIMIT + 1))
        answer = client.send(_post(b"limited.internal", b"Transfer-Encoding: chunked") + body).answer()
        assert answer is not None
        assert answer.status == 413
        assert tight.until(lambda: not tight.wire.downstreams, 4)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_body_of_exactly_the_limit_passes(tight: Corridor, framing: str):
    """[OV-02] The limit itself is allowed."""
    tight.fresh()
    body = b"x" * LIMIT
    told = b"Content-Length: %d" % LIMIT if framing == "length" else b"Transfer-Encoding: chunked"
    sent = body if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (LIMIT, body)
    with tight.client() as client:
        answer = client.send(_post(b"limited.internal", told) + sent).answer()
    assert answer is not None
    assert answer.status == 200
    assert reread(tight.streams()[0]).requests[0].body == body


# -- slow bodies and long streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["SL-02-length", "SL-02-one-byte-chunks"])
def test_body_that_trickles_is_refused_although_it_never_pauses(tight: Corridor, chunked: bool):
    """A byte now and then prolongs nothing: below the pace, 408, and an abort for the upstream."""
    tight.fresh()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 100000"
    with tight.client() as client:
        client.send(_post(b"app.internal", framing))
        until = time.monotonic() + 3
        while time.monotonic() < until and tight.do(
            lambda: bool(tight.wire.upstreams or not tight.upstream.connections)
        ):
            client.send(b"1\r\nx\r\n" if chunked else b"x")
            time.sleep(0.05)
        assert time.monotonic() < until  # it was refused while it was still coming
        answer = client.answer()
    assert answer is not None
    assert answer.status == 408
    assert not reread(tight.streams()[0]).requests


def test_body_that_trickles_while_its_answer_streams_is_a_conversation(tight: Corridor):
    """[SL-02] Once the upstream has begun to answer, the caller may take its time; silence alone ends it."""
    tight.fresh()
    tight.upstream.protocol = _Conversation
    with tight.client() as client:
        client.send(_post(b"app.internal", b"Transfer-Encoding: chunked"))
        client.send(b"1\r\nx\r\n")
        for _ in range(12):
            client.send(b"1\r\nx\r\n", pause=0.1)
        client.send(b"0\r\n\r\n")
        got = client.until_end(2)
    assert got.count(b"heard") >= 12
    assert got.endswith(b"0\r\n\r\n")


class _Conversation(asyncio.Protocol):
    """Answers each piece of a body with a piece of its own."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"POST"):
            self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")  # type: ignore[attr-defined]
        self._transport.write(b"5\r\nheard\r\n")  # type: ignore[attr-defined]
        if data.endswith(b"0\r\n\r\n"):
            self._transport.write(b"0\r\n\r\n")  # type: ignore[attr-defined]


def test_tunnel_stays_open_longer_than_any_timeout(tight: Corridor):
    """[WS-05] An upgraded connection may be silent: no deadline of the request that it was ends it."""
    tight.fresh()
    tight.upstream.play([SWITCH, Wait(2 * IDLE), b"late"])
    with tight.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert client.exactly(len(SWITCH)).startswith(b"HTTP/1.1 101")
        assert client.exactly(4) == b"late"


def test_events_come_after_silences_longer_than_any_timeout(tight: Corridor):
    """[SSE-02, PD-09] What says that it is a stream of events is not ended by silence."""
    tight.fresh()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    tight.upstream.play([head + b"data: 1\n\n", Wait(2 * IDLE), b"data: 2\n\n"])
    with tight.client() as client:
        client.send(GET)
        got = b""
        while b"data: 2" not in got and (data := client.receive()):
            got += data
    assert b"data: 2" in got


@pytest.mark.parametrize(
    "headers",
    [b"Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n", b"Sec-WebSocket-Version: 12\r\n", b""],
    ids=["WS-07-key", "WS-07-version", "WS-07-none"],
)
def test_odd_websocket_handshake_is_the_upstreams_to_judge_and_no_tunnel_without_101(tight: Corridor, headers: bytes):
    """It passes as it came; what the upstream answers is a response like any other, and the next request is one."""
    tight.fresh()
    tight.upstream.play([response(b"no", 400, b"Sec-WebSocket-Version: 13")])
    offer = b"GET /ws HTTP/1.1\r\nHost: app.internal\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    with tight.client() as client:
        refused = client.send(offer + headers + b"\r\n").answer()
        followed = client.send(GET).answer()
    assert refused is not None
    assert followed is not None
    assert (refused.status, followed.status) == (400, 200)
    seen = [one for stream in tight.streams() for one in reread(stream).requests]
    assert [one.target for one in seen] == [b"/ws", b"/x"]
    assert all(line in tight.streams()[0] for line in headers.split(b"\r\n"))


# -- too much at once ------------------------------------------------------------------------------------------------


def test_route_that_is_saturated_leaves_the_others_their_share(tight: Corridor):
    """[OV-06] Requests beyond `requests` of the route get 503; other routes, and later ones, are served."""
    tight.fresh()
    tight.upstream.default = _hanging
    narrow = b"GET /hang HTTP/1.1\r\nHost: narrow.internal\r\n\r\n"
    with ExitStack() as stack:
        waiting = [stack.enter_context(tight.client()).send(narrow) for _ in range(MOST)]
        assert tight.until(lambda: len(tight.upstream.connections) == MOST)
        with tight.client() as client:
            refused = client.send(narrow).answer()
            served = client.send(GET).answer()
        assert refused is not None
        assert served is not None
        assert (refused.status, refused.all(b"retry-after"), served.status) == (503, [b"1"], 200)
        waiting[0].reset()
        assert tight.until(lambda: tight.wire.upstreams <= MOST)
        with tight.client() as client:
            again = client.send(narrow.replace(b"/hang", b"/now")).answer()
    assert again is not None
    assert again.status == 200


def _hanging(seen: Seen) -> list[bytes | Wait]:
    return [Wait(5)] if seen.target == b"/hang" else [response(b"ok")]


def test_every_way_a_request_ends_gives_its_place_back(tight: Corridor):
    """[OV-06] Answers, refusals, aborts and tunnels: whatever ends a request, its route can take the next."""
    tight.fresh()
    narrow = b"Host: narrow.internal\r\n"
    for number in range(3 * MOST):
        tight.upstream.play([SWITCH] if number % 3 == 0 else [response(b"ok")])
        with tight.client() as client:
            if number % 3 == 0:
                client.send(b"GET /x HTTP/1.1\r\n" + narrow + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                client.exactly(12)
            elif number % 3 == 1:
                client.send(b"POST /x HTTP/1.1\r\n" + narrow + b"Transfer-Encoding: chunked\r\n\r\nbroken\r\n").answer()
            else:
                client.send(b"POST /x HTTP/1.1\r\n" + narrow + b"Content-Length: 5\r\n\r\nx").reset()
    assert tight.until(lambda: not tight.wire.downstreams)
    tight.fresh()
    with tight.client() as client:
        answer = client.send(b"GET /x HTTP/1.1\r\n" + narrow + b"\r\n").answer()
    assert answer is not None
    assert answer.status == 200


def test_flood_of_connections_beyond_the_limit_is_told_or_cut_and_over_when_it_is_over(tight: Corridor):
    """[SL-04] A few are told, the rest is reset, so that refusing takes no descriptors; then the next is served."""
    tight.fresh()
    assert tight.until(lambda: not tight.wire.downstreams)
    with ExitStack() as stack:
        inside = stack.enter_context(tight.client())
        assert inside.send(GET).answer() is not None
        crowd: list[Raw] = []
        for _ in range(64 + 2 * MOST_REFUSED):
            with suppress(ConnectionResetError):  # cut before it knew that it was there
                crowd.append(stack.enter_context(tight.client()))
        assert tight.until(lambda: tight.wire.accepted >= len(crowd))
        assert tight.do(lambda: len(tight.wire.downstreams)) <= 64 + MOST_REFUSED + 1
        outcomes = {_outcome(one) for one in crowd[70:]}
        assert outcomes <= {"503", "reset"}
        assert inside.send(GET).answer() is not None
    assert tight.until(lambda: not tight.wire.downstreams, 5)
    with tight.client() as client:
        answer = client.send(GET).answer()
    assert answer is not None
    assert answer.status == 200


def _outcome(client: Raw) -> str:
    got = client.until_end(3)
    return "503" if got.startswith(b"HTTP/1.1 503") else client.ended


def test_process_above_its_memory_refuses_new_requests_and_serves_again_below(tight: Corridor):
    """[OV-04] 503 with Retry-After while there is no memory, to uploads too; what is under way ends; no restart is needed."""
    tight.fresh()
    tight.upstream.play([b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab", Wait(0.2), b"cd"])
    full = [False]
    told: list[bool] = []

    def arrange() -> None:
        tight.wire._above = lambda: full[0]
        tight.wire.strained = told.append

    tight.do(arrange)
    with tight.client() as streaming:
        streaming.send(GET)
        assert tight.until(lambda: bool(tight.upstream.connections))
        full[0] = True
        tight.do(lambda: setattr(tight.wire, "_next_look", 0.0))
        assert tight.until(lambda: tight.wire.begin is None)
        with tight.client() as client:
            refused = client.send(GET).answer()
        finished = streaming.answer()
        with tight.client() as client:
            began = time.monotonic()
            client.send(_post(b"app.internal", b"Content-Length: 30000000"), *[b"x" * 1_000_000] * 30)
            upload = client.answer(b"POST")
            assert time.monotonic() - began < LINGER / 2
    full[0] = False
    assert tight.until(lambda: tight.wire.begin is not None, LOOK + 2)
    assert refused is not None
    assert upload is not None
    assert upload.status == 503
    assert finished is not None
    assert (refused.status, refused.all(b"retry-after"), finished.body) == (503, [b"1"], b"abcd")
    with tight.client() as client:
        served = client.send(GET).answer()
    assert served is not None
    assert (served.status, told) == (200, [True, False])


def test_standstill_of_the_loop_is_noticed_and_nobody_is_blamed_for_it(
    tight: Corridor, monkeypatch: pytest.MonkeyPatch
):
    """[OV-05] What came while this process stood still counts as having come: it is read before deadlines are judged."""
    tight.fresh()
    stalls: list[float] = []
    monkeypatch.setattr("sidecar.wire.context.STALL", 0.5)
    tight.do(lambda: setattr(tight.wire.deadlines, "stalled", stalls.append))
    with tight.client() as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: app.internal\r\nContent-Length: 4\r\n\r\nab")
        assert tight.until(lambda: bool(tight.upstream.connections))
        tight._loop.call_soon_threadsafe(time.sleep, 2 * IDLE)
        client.send(b"cd", pause=0.05)
        answer = client.answer()
    assert answer is not None
    assert answer.status == 200
    assert stalls
    assert stalls[0] > 0.5


async def test_deadline_that_fails_leaves_the_others_theirs():
    """The ticking goes on whatever a connection does with its deadline."""
    deadlines = Deadlines(asyncio.get_running_loop())
    expired: list[str] = []

    class One:
        def __init__(self, fails: bool) -> None:
            self.fails = fails
            self.deadline = 0.0

        def expire(self) -> None:
            if self.fails:
                raise ZeroDivisionError
            expired.append("other")

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    deadlines.add(One(True))
    await asyncio.sleep(0.15)
    deadlines.add(One(False))
    await asyncio.sleep(0.25)
    deadlines.stop()
    assert expired == ["other"]
    assert [type(error) for error in reported] == [ZeroDivisionError]


# -- descriptors and memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "descriptors", "connections"),
    [(10_000, 20_256, 10_000), (10_000, 20_000, 9_872), (10_000, 1024, 384), (10_000, 256, 96), (10_000, 64, 16),
     (10_000, 10, 8), (5, 10, 5), (100, 1 << 50, 100)],
)  # fmt: skip
def test_connections_are_as_many_as_descriptors_can_serve(wanted: int, descriptors: int, connections: int):
    """[OV-03] Each may need one to an upstream, and the store, the provider and the admin listener need some."""
    assert capacity.connections_for(wanted, descriptors) == connections


def test_memory_in_use_is_measured(monkeypatch: pytest.MonkeyPatch):
    """[OV-04] Resident memory against the limit; the container's limit where none is configured."""
    now = capacity.use()
    assert now is not None
    assert capacity.memory_check(now.resident // 2)()
    assert not capacity.memory_check(now.resident * 2)()
    monkeypatch.setattr(capacity, "_of_container", lambda: now.resident // 2)
    assert capacity.memory_check(None)()


def test_pooled_connection_is_closed_when_it_has_been_idle_for_long(monkeypatch: pytest.MonkeyPatch):
    """Idle connections to upstreams hold descriptors: they are not kept until somebody asks."""
    monkeypatch.setattr("sidecar.wire.pool.IDLE_LIFE", 0.2)
    with Corridor(limits=LIMITS) as corridor:
        with corridor.client() as client:
            assert client.send(GET).answer() is not None
        assert corridor.do(lambda: corridor.wire.upstreams) == 1
        assert corridor.until(lambda: corridor.wire.upstreams == 0, 2)


def test_pipeline_of_ten_thousand_is_answered_in_order_by_bounded_means(both: dict[str, Corridor]):
    """[OV-07, SM-23] Refusals need no upstream and come at once: neither stack nor buffers grow with their number."""
    corridor = both["uvloop"]
    corridor.fresh()
    count = 10_000
    one = b"GET /x HTTP/1.1\r\nHost: nowhere.internal\r\nX-Request-Id: r%d\r\n\r\n"
    stream = b"".join(one % number for number in range(count))
    with corridor.client(deadline=20) as client:
        sending = threading.Thread(target=client.send, args=(stream,))
        sending.start()
        got = bytearray()
        while b'"r%d"' % (count - 1) not in got[-2000:]:
            data = client.receive()
            assert data
            got += data
        sending.join()
    found = [int(number) for number in re.findall(rb'"request_id":"r(\d+)"', bytes(got))]
    assert found == list(range(count))
    assert corridor.faults == []


def test_sessions_by_routes_are_remembered_up_to_a_bound_for_both(monkeypatch: pytest.MonkeyPatch):
    """A caller that makes up sessions and goes from route to route with each fills no memory, and gets what is right."""
    most, hosts, sessions = 8, (b"app", b"user", b"always", b"none"), range(16)
    monkeypatch.setattr("sidecar.wire.hearing.MOST_DERIVED", most)
    with Corridor(limits=LIMITS) as corridor, corridor.client() as client:
        before = corridor.do(_prepared)
        for session in (*sessions, *sessions):
            for host in hosts:
                get = b"GET http://%b.internal/%d HTTP/1.1\r\nHost: same.internal\r\nX-Session-Id: s%d\r\n\r\n"
                assert client.send(get % (host, session, session)).answer() is not None
        assert 0 < corridor.do(_prepared) - before <= 2 * (most + len(hosts))
        found = re.findall(rb"GET /(\d+) [^\0]*?token-of-s(\d+)-1\r\n", _saw(corridor))
        assert {(path, token) for path, token in found} == {(b"%d" % n, b"%d" % n) for n in sessions}


def _prepared() -> int:
    return sum(type(one) is Prepared for one in gc.get_objects())


async def test_response_head_that_trickles_is_looked_at_once():
    """[SL-01] A long head whose end comes byte by byte costs what keeping it costs, not a search through it each time."""
    start = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000
    bench = Bench()
    upstream = (await whole(bench)).asked(messages(1)[0])
    upstream.data_received(start)

    def kept() -> None:
        nonlocal start
        start += b"a"

    assert _cost(lambda: upstream.data_received(b"a")) < 8 * _cost(kept)
    await bench.broker.close(1)


def _cost(work: Callable[[], None]) -> float:
    """CPU seconds of a hundred times, the least of three."""
    found = []
    for _ in range(3):
        began = time.process_time()
        for _ in range(100):
            work()
        found.append(time.process_time() - began)
    return min(found)
