"""Upgrades, tunnels, pipelines, limits and slow peers, in raw bytes."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.settings import Limits, UpstreamTimeout
from sidecar.wire import downstream
from tests.support.corridor import Corridor, LoopKind
from tests.support.judge import SMUGGLED, VARIANTS, Variant, fill, only_request, requests, sound, start
from tests.support.recording_upstream import Fin, Rst, Wait, reread, response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.raw import Raw
    from tests.support.recording_upstream import Step

UPGRADE = (
    b"GET @/ws@ HTTP/1.1\r\nHost: @host@\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n"
)
LOOPS = ("asyncio", "uvloop")


def _switch(corridor: Corridor, *after: Step) -> None:
    corridor.do(lambda: corridor.upstream.play([SWITCH, *after]))


def _tunnel_bytes(corridor: Corridor) -> bytes:
    return bytes(corridor.upstream.connections[-1].saw).partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_upgrade_becomes_a_tunnel_and_loses_no_byte(both: dict[str, Corridor], variant: Variant):
    """[WS-06] Bytes right behind the 101, and bytes that the caller sent before it, arrive on the other side."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([Wait(0.03), SWITCH + b"first frame"]))
    with corridor.client() as client:
        client.send(fill(UPGRADE, variant.form, b"app.internal") + b"eager frame")
        answer = client.answer(upgrade=True)
        assert answer is not None
        assert answer.status == 101
        assert answer.all(b"upgrade") == [b"websocket"]
        assert answer.all(b"connection") == [b"Upgrade"]
        assert client.exactly(11) == b"first frame"
        client.send(b" and \x00\xff" + SMUGGLED)
        assert corridor.until(lambda: len(_tunnel_bytes(corridor)) == 11 + 7 + len(SMUGGLED))
        assert _tunnel_bytes(corridor) == b"eager frame and \x00\xff" + SMUGGLED
    seen = reread(corridor.streams()[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\n").requests[0]
    assert seen.all(b"connection") == [b"Upgrade"]
    assert seen.all(b"authorization") == [b"Bearer token-of-app-1"]
    assert corridor.until(lambda: corridor.upstream.connections[-1].ended != "")
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("offer", [b"WebSocket", b"chat, websocket", b"websocket\r\nUpgrade: chat"])
def test_switch_to_one_of_the_offers_is_a_tunnel(both: dict[str, Corridor], offer: bytes, variant: Variant):
    """[WS-01] Protocol names are compared without case, and one of several may be chosen."""
    corridor = start(both, variant)
    _switch(corridor)
    with corridor.client() as client:
        request = UPGRADE.replace(b"Upgrade: websocket", b"Upgrade: " + offer)
        answer = client.send(fill(request, variant.form, b"app.internal")).answer(upgrade=True)
    assert answer is not None
    assert answer.status == 101


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("status", [200, 400, 403, 404, 426])
def test_refused_upgrade_stays_http(both: dict[str, Corridor], status: int, variant: Variant):
    """[WS-03, SM-25] What follows a refused upgrade goes through the whole corridor, as a request of its own."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([response(b"no", status)]))
    with corridor.client() as client:
        client.send(
            fill(
                UPGRADE + b"GET @/next@ HTTP/1.1\r\nHost: @host@\r\nAuthorization: evil\r\n\r\n",
                variant.form,
                b"app.internal",
            )
        )
        first, second = client.answers([b"GET", b"GET"])
    assert (first.status, first.body) == (status, b"no")
    assert second.body == b"GET /next"
    for request in requests(corridor):
        assert request.all(b"authorization") == [b"Bearer token-of-app-1"]


SWITCHES: dict[str, bytes] = {
    "WS-07-other-protocol": SWITCH.replace(b": websocket", b": chat"),
    "SM-26-h2c": SWITCH.replace(b": websocket", b": h2c"),
    "WS-07-one-more": SWITCH.replace(b": websocket", b": websocket, h2c"),
    "WS-07-one-more-line": SWITCH.replace(b"Sec-", b"Upgrade: h2c\r\nSec-"),
    "WS-07-versioned": SWITCH.replace(b": websocket", b": websocket/14"),
    "WS-07-none": SWITCH.replace(b"Upgrade: websocket\r\n", b""),
    "WS-07-empty": SWITCH.replace(b": websocket", b":"),
    "WS-07-no-connection": SWITCH.replace(b"Connection: Upgrade\r\n", b""),
    "WS-07-of-1.0": SWITCH.replace(b"/1.1", b"/1.0"),
    "WS-07-with-length": SWITCH.replace(b"Sec-", b"Content-Length: 3\r\nSec-"),
    "WS-07-with-coding": SWITCH.replace(b"Sec-", b"Transfer-Encoding: chunked\r\nSec-"),
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", SWITCHES)
def test_switch_to_what_was_not_offered_is_no_tunnel(both: dict[str, Corridor], case: str, variant: Variant):
    """[WS-07] A 101 that does not name exactly what was offered is a 502 (RFC 9110 section 7.8)."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([SWITCHES[case] + b"raw"]))
    with corridor.client() as client:
        answer = client.send(fill(UPGRADE, variant.form, b"app.internal")).answer(upgrade=True)
    assert answer is not None
    assert answer.status == 502


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_upgrade_answered_by_401_is_replayed(both: dict[str, Corridor], variant: Variant):
    """[WS-02] The handshake goes again with a new token, and becomes the tunnel."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([response(b"", 401, b"WWW-Authenticate: Bearer")], [SWITCH + b"hi"]))
    with corridor.client() as client:
        answer = client.send(fill(UPGRADE, variant.form, b"app.internal")).answer(upgrade=True)
        assert answer is not None
        assert answer.status == 101
        assert client.exactly(2) == b"hi"
        client.send(b"yo")
        assert corridor.until(lambda: _tunnel_bytes(corridor) == b"yo")
    assert b"token-of-app-2" in corridor.streams()[1]


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_upgrade_with_a_length_of_zero_is_a_tunnel(both: dict[str, Corridor], variant: Variant):
    """[WS-01] POST without a body, as Go's clients send it (kubectl exec); one with a body before it changes nothing."""
    corridor = start(both, variant)
    head = b"POST @/exec@ HTTP/1.1\r\nHost: @host@\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: "
    corridor.do(lambda: corridor.upstream.play([response(b"ok")], [SWITCH.replace(b"websocket", b"SPDY/3.1") + b"hi"]))
    with corridor.client() as client:
        first = client.send(fill(head + b"2\r\n\r\nno", variant.form, b"app.internal")).answer(b"POST")
        second = client.send(fill(head + b"0\r\n\r\nraw", variant.form, b"app.internal")).answer(upgrade=True)
        assert (first and first.status, second and second.status) == (200, 101)
        assert client.exactly(2) == b"hi"
        assert corridor.until(lambda: _tunnel_bytes(corridor).endswith(b"\r\n\r\nraw"))


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(b"Content-Length: 2\r\n\r\nhi", id="SM-25-with-body"),
        pytest.param(b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", id="SM-25-with-chunked-body"),
    ],
)
def test_upgrade_with_a_body_is_an_ordinary_request(both: dict[str, Corridor], lines: bytes, variant: Variant):
    """Upgrade and Connection stay behind, so that no 101 can come in the middle of a body; one that comes is a 502."""
    corridor = start(both, variant)
    head = b"POST @/ws@ HTTP/1.1\r\nHost: @host@\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + lines
    corridor.do(lambda: corridor.upstream.play([response(b"ok")], [SWITCH]))
    with corridor.client() as client:
        first = client.send(fill(head, variant.form, b"app.internal")).answer(b"POST")
        seen = only_request(corridor)
        second = client.send(fill(head, variant.form, b"app.internal")).answer(b"POST")
    assert first is not None
    assert first.status == 200
    assert seen.all(b"upgrade") == []
    assert seen.body == b"hi"
    assert second is not None
    assert second.status == 502


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("kind", ["upgrade", "connect"])
def test_tunnel_passes_half_closes_and_closes_when_both_are_done(
    both: dict[str, Corridor], kind: str, variant: Variant
):
    """[WS-05] A FIN goes on as a FIN, bytes the other way still pass, and then both connections end."""
    corridor = start(both, variant)
    with corridor.client() as client:
        _open(corridor, client, kind, variant)
        upstream = corridor.upstream.connections[-1]
        corridor.do(lambda: setattr(upstream, "eof_received", lambda: setattr(upstream, "ended", "fin") or True))
        client.send(b"last words").half_close()
        assert corridor.until(lambda: upstream.ended == "fin", 1.0)
        assert bytes(upstream.saw).endswith(b"last words")
        corridor.do(lambda: upstream.transport.write(b"answer"))
        assert client.exactly(6) == b"answer"
        corridor.do(upstream.transport.close)
        assert client.ends(1.0)
        assert client.ended == "fin"
    assert corridor.until(lambda: not corridor.wire.downstreams and corridor.wire.upstreams == 0)
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("kind", ["upgrade", "connect"])
def test_tunnel_whose_upstream_closes_first_passes_the_rest(both: dict[str, Corridor], kind: str, variant: Variant):
    """[WS-05] The upstream half-closes: the caller sees it, may still send, and its close ends both."""
    corridor = start(both, variant)
    with corridor.client() as client:
        _open(corridor, client, kind, variant)
        upstream = corridor.upstream.connections[-1]
        corridor.do(lambda: upstream.transport.write(b"bye"))
        corridor.do(upstream.transport.write_eof)
        assert client.until_end(1.0) == b"bye"
        client.send(b"still here").half_close()
        assert corridor.until(lambda: bytes(upstream.saw).endswith(b"still here"), 1.0)
    assert corridor.until(lambda: not corridor.wire.downstreams and corridor.wire.upstreams == 0, 1.0)
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("kind", ["upgrade", "connect"])
@pytest.mark.parametrize("who", ["caller", "upstream"])
def test_reset_of_one_tunnel_end_resets_the_other(both: dict[str, Corridor], kind: str, who: str, variant: Variant):
    """[WS-05] An abort is passed on as an abort, within a second."""
    corridor = start(both, variant)
    with corridor.client() as client:
        _open(corridor, client, kind, variant)
        upstream = corridor.upstream.connections[-1]
        if who == "caller":
            client.reset()
            assert corridor.until(lambda: upstream.ended == "reset", 1.0)
        else:
            corridor.do(lambda: upstream._do(Rst))
            assert client.ends(1.0)
            assert client.ended == "reset"
    assert corridor.until(lambda: not corridor.wire.downstreams and corridor.wire.upstreams == 0, 1.0)
    assert corridor.faults == []


def _open(corridor: Corridor, client: Raw, kind: str, variant: Variant) -> None:
    if kind == "upgrade":
        _switch(corridor)
        answer = client.send(fill(UPGRADE, variant.form, b"app.internal")).answer(upgrade=True)
        assert answer is not None
        assert answer.status == 101
        return
    client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % corridor.upstream.port)
    assert client.receive().startswith(b"HTTP/1.1 200 ")
    assert corridor.until(lambda: bool(corridor.upstream.connections))
    corridor.do(corridor.upstream.connections[-1].tunnel)


@pytest.mark.parametrize("loop", LOOPS)
def test_connect_carries_no_token_and_every_byte(both: dict[str, Corridor], loop: LoopKind):
    """[SS-08] An allowed tunnel is untouched: what the caller sends, at once or later, is what arrives."""
    corridor = both[loop]
    corridor.fresh()
    with corridor.client() as client:
        client.send(
            b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\nGET /in HTTP/1.1\r\nHost: y\r\n\r\n"
            % corridor.upstream.port
        )
        assert client.receive().startswith(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        assert corridor.until(lambda: bool(corridor.upstream.streams()))
    assert corridor.streams() == [b"GET /in HTTP/1.1\r\nHost: y\r\n\r\n"]


# -- pipelines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("depth", [2, 10, 100])
def test_pipelined_requests_are_answered_in_order(both: dict[str, Corridor], depth: int, variant: Variant):
    """[SM-23] With bodies by length and chunked, with refusals and cold tokens in between, whole in one segment."""
    corridor = start(both, variant)
    kinds = (
        b"GET @/%d@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: a\r\n\r\n",
        b"POST @/%d@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: b\r\nContent-Length: 5\r\n\r\nhello",
        b"PUT @/%d@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: cold\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET @/%d@ HTTP/1.1\r\nHost: @host@\r\n\r\n",
        b"DELETE @/%d@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: a\r\nContent-Length: 0\r\n\r\n",
    )
    stream = b"".join(kinds[n % 5] % n for n in range(depth))
    with corridor.client() as client:
        client.send(fill(stream, variant.form, b"user.internal"))
        answers = client.answers([b"GET"] * depth)
    expected = [(401, None) if n % 5 == 3 else (200, kinds[n % 5].split(b" ")[0] + b" /%d" % n) for n in range(depth)]
    assert [(answer.status, None if answer.status == 401 else answer.body) for answer in answers] == expected
    sound(corridor, [reread(seen) for seen in corridor.streams()])


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_pipeline_then_half_close_is_answered_whole(both: dict[str, Corridor], variant: Variant):
    """Several requests and a FIN in one go: each is answered, then the connection ends."""
    corridor = start(both, variant)
    stream = b"".join(b"POST @/%d@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 2\r\n\r\nhi" % n for n in range(5))
    with corridor.client() as client:
        client.send(fill(stream, variant.form, b"app.internal")).half_close()
        answers = client.answers([b"POST"] * 5)
        assert [answer.body for answer in answers] == [b"POST /%d" % n for n in range(5)]
        assert client.ends()


@pytest.mark.parametrize("loop", LOOPS)
def test_caller_that_never_reads_stops_its_own_pipeline(both: dict[str, Corridor], loop: LoopKind):
    """[OV-07] Answers that nobody reads are bounded: no further request is forwarded until they have been read."""
    corridor = both[loop]
    corridor.fresh()
    corridor.upstream.default = [response(b"x" * 100_000)]
    request = b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n"
    with corridor.client(buffer=4096) as client:
        client.send(request * 2000)
        time.sleep(0.3)
        first = len(list(requests(corridor)))
        time.sleep(0.2)
        assert len(list(requests(corridor))) == first < 100
        answers = client.answers([b"GET"] * 150)
    assert [len(answer.body) for answer in answers] == [100_000] * 150


@pytest.mark.parametrize("loop", LOOPS)
def test_last_answer_arrives_whole_though_the_caller_goes_on_sending(both: dict[str, Corridor], loop: LoopKind):
    """RFC 9112 section 9.6: bytes that nobody reads any more must not reset the answer that is still on its way."""
    corridor = both[loop]
    corridor.fresh()
    corridor.upstream.default = [response(b"x" * 1_000_000)]
    with corridor.client(buffer=16384) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\nConnection: close\r\n\r\n" + b"y" * 300_000)
        time.sleep(0.2)
        got = client.until_end()
        assert client.ended == "fin"
    assert len(got.partition(b"\r\n\r\n")[2]) == 1_000_000
    assert corridor.faults == []


# -- refused requests with bodies (SM-15), Expect (SM-16) -----------------------------------------------------------

REFUSED = {
    "no-route": (b"POST /x HTTP/1.1\r\nHost: nowhere.internal\r\n", 403),
    "no-session": (b"POST /x HTTP/1.1\r\nHost: user.internal\r\n", 401),
    "gone-session": (b"POST /x HTTP/1.1\r\nHost: user.internal\r\nX-Session-Id: gone\r\n", 401),
    "unclear-path": (b"POST /a/../b HTTP/1.1\r\nHost: app.internal\r\n", 400),
    "unreachable": (b"POST /x HTTP/1.1\r\nHost: dead.internal\r\n", 502),
    "trace": (b"TRACE /x HTTP/1.1\r\nHost: app.internal\r\n", 403),
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("framing", ["length", "chunked", "unfinished", "expect"])
def test_body_of_a_refused_request_is_no_request(both: dict[str, Corridor], case: str, framing: str, variant: Variant):
    """[SM-15, SM-16] Whatever refuses it, and however much of the body has come, the inner request is never processed."""
    head, status = REFUSED[case]
    corridor = start(both, variant)
    size = len(SMUGGLED)
    rest = {
        "length": b"Content-Length: %d\r\n\r\n%b" % (size, SMUGGLED),
        "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, SMUGGLED),
        "unfinished": b"Content-Length: %d\r\n\r\n%b" % (size + 100, SMUGGLED),
        "expect": b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % size,
    }[framing]
    with corridor.client() as client:
        answer = client.send(head + rest).answer(head.split(b" ")[0])
        assert answer is not None
        assert answer.status == status
        if framing == "expect":
            client.send(SMUGGLED)
        assert answer.all(b"connection") != [b"close"] or client.ends()
    assert corridor.streams() == []
    assert corridor.until(lambda: corridor.wire.replay_memory == 0)
    assert corridor.faults == []


EXPECTS = (
    b"100-continue",
    b"100-Continue",
    b"100-continue ",
    b"y 100-continue",
    b"100-continue, x",
    b"x",
    b"",
    b"100",
    b"\t100-continue",
)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("value", EXPECTS)
@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
def test_expect_in_every_disguise_leaves_one_request(
    both: dict[str, Corridor], value: bytes, length: bool, variant: Variant
):
    """[SM-16] Expect is passed on; a body that is a request stays a body."""
    corridor = start(both, variant)
    size = len(SMUGGLED)
    body = b"Content-Length: %d\r\n\r\n%b" % (size, SMUGGLED) if length else (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, SMUGGLED))  # fmt: skip
    with corridor.client() as client:
        head = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nExpect: " + value + b"\r\n"
        answer = client.send(fill(head, variant.form, b"app.internal") + body).answer(b"POST")
    assert answer is not None
    assert answer.status == 200
    assert only_request(corridor).body == SMUGGLED
    sound(corridor, [reread(seen) for seen in corridor.streams()])


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_expect_waits_for_the_upstreams_100(both: dict[str, Corridor], variant: Variant):
    """[STR-03] The upstream's 100 comes through before the body is sent, once; then the body, then the answer."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([b"HTTP/1.1 100 Continue\r\n\r\n"], at="head"))
    with corridor.client() as client:
        head = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        client.send(fill(head, variant.form, b"app.internal"))
        assert client.receive() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert corridor.until(lambda: bytes(corridor.upstream.connections[0].saw).endswith(b"hello"))
    assert only_request(corridor).body == b"hello"


# -- limits ---------------------------------------------------------------------------------------------------------


def _of_size(size: int) -> bytes:
    head = b"GET /x HTTP/1.1\r\nHost: app.internal\r\nA: "
    return head + b"x" * (size - len(head) - 4) + b"\r\n\r\n"


LIMITS: dict[str, tuple[bytes, int]] = {
    "OV-01-head-at-limit": (_of_size(65536), 200),
    "OV-01-head-over-limit": (_of_size(65537), 431),
    "OV-01-head-far-over": (_of_size(300_000), 431),
    "OV-01-100-headers": (b"GET /x HTTP/1.1\r\nHost: app.internal\r\n" + b"A: b\r\n" * 99 + b"\r\n", 200),
    "OV-01-101-headers": (b"GET /x HTTP/1.1\r\nHost: app.internal\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    "OV-01-10000-headers": (b"GET /x HTTP/1.1\r\nHost: app.internal\r\n" + b"A: b\r\n" * 9000 + b"\r\n", 431),
    "OV-01-target-at-limit": (b"GET /" + b"x" * 8191 + b" HTTP/1.1\r\nHost: app.internal\r\n\r\n", 200),
    "OV-01-target-over-limit": (b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\nHost: app.internal\r\n\r\n", 414),
    "OV-01-target-far-over": (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: app.internal\r\n\r\n", 414),
    "OV-01-target-never-ends": (b"GET /" + b"x" * 70_000, 414),
    "OV-01-header-never-ends": (b"GET /x HTTP/1.1\r\nA: " + b"x" * 70_000, 431),
    "OV-01-header-name-never-ends": (b"GET /x HTTP/1.1\r\n" + b"x" * 70_000, 431),
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["whole", "bytewise"])
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("case", LIMITS)
def test_head_limits_hold_at_and_beyond(both: dict[str, Corridor], case: str, loop: LoopKind, bytewise: bool):
    """[OV-01] At the limit the request passes, one byte beyond it is refused by the right status, however it is cut."""
    stream, status = LIMITS[case]
    if bytewise and len(stream) > 10_000 and loop == "asyncio":
        pytest.skip("once is enough, byte by byte")
    corridor = start(both, Variant("origin", loop, bytewise))
    with corridor.client() as client:
        answer = client.send(stream).answer()
        assert answer is not None
        assert answer.status == status
        assert status == 200 or client.ends()
    assert len(list(requests(corridor))) == (status == 200)


WRONG_HEADS: dict[str, tuple[bytes, int]] = {
    "HD-19-malformed": (b"HEAD /x HTTP/1.1\r\nHost : app.internal\r\n\r\n", 400),
    "HD-19-malformed-first-line": (b"HEAD /x HTTP/1.1\n", 400),
    "HD-19-ambiguous": (b"HEAD /x HTTP/1.1\r\nHost: app.internal\r\nContent-Length: 1, 1\r\n\r\n", 400),
    "HD-19-no-host": (b"HEAD /x HTTP/1.1\r\n\r\n", 400),
    "HD-19-unrouted": (b"HEAD /x HTTP/1.1\r\nHost: nowhere.internal\r\nConnection: close\r\n\r\n", 403),
    "HD-19-too-many-headers": (b"HEAD /x HTTP/1.1\r\nHost: app.internal\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    "HD-19-target-too-large": (b"HEAD /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: app.internal\r\n\r\n", 414),
    "HD-19-slow": (b"\r\nHEAD /x HTTP/1.1\r\nHost: app.int", 408),
}


@pytest.mark.parametrize("case", WRONG_HEADS)
def test_refused_head_is_answered_without_a_body(impatient: Corridor, case: str):
    """[HD-19] Whatever refuses it, a response to HEAD has no body, and tells its date (RFC 9110 sections 9.3.2, 6.6.1)."""
    request, status = WRONG_HEADS[case]
    impatient.fresh()
    with impatient.client() as client:
        got = client.send(request).until_end()
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert re.search(rb"\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n", head)
    assert int(head.partition(b"Content-Length: ")[2].split()[0]) > 0
    assert rest == b""


@pytest.fixture(scope="module", params=LOOPS)
def impatient(request: pytest.FixtureRequest) -> Iterator[Corridor]:
    """A proxy with short deadlines and few connections."""
    limits = Limits(head_timeout=0.4, idle_timeout=0.4, connections=20)
    with Corridor(request.param, limits=limits, timeout=UpstreamTimeout(connect=1, response=0.4, idle=0.4)) as made:
        yield made


def _dripped(client: Raw, parts: list[bytes]) -> float:
    began = time.monotonic()
    for part in parts:
        client.send(part)
        try:
            if client.ends(0.05):
                break
        except TimeoutError:
            continue
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("name", "first", "drip", "status"),
    [
        pytest.param("nothing", b"", b"", None, id="SL-04-nothing"),
        pytest.param("request-line", b"GET /x", b"x", 408, id="SL-01-request-line"),
        pytest.param("headers", b"GET /x HTTP/1.1\r\nHost: a\r\n", b"A: b\r\n", 408, id="SL-01-headers"),
        pytest.param("value", b"GET /x HTTP/1.1\r\nHost: a\r\nA: ", b"x", 408, id="SL-01-value"),
        pytest.param("empty-lines", b"\r\n", b"\r\n", None, id="SL-01-empty-lines"),
        pytest.param("half-empty-line", b"\r", b"", 408, id="SL-01-half-empty-line"),
    ],
)
def test_slow_head_is_ended_by_one_deadline(
    impatient: Corridor, name: str, first: bytes, drip: bytes, status: int | None
):
    """[SL-01] The head's deadline runs from its first byte and no further byte prolongs it."""
    impatient.fresh()
    began = time.monotonic()
    with impatient.client(deadline=0.1) as client:
        client.send(first)
        got = b""
        while time.monotonic() - began < 3 and not client.ended:
            try:
                got += client.receive(0.05)
            except TimeoutError:
                client.send(drip)
    assert 0.2 < time.monotonic() - began < 1.2, name
    assert got.startswith(b"HTTP/1.1 %d" % status) if status else got == b""


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
def test_stalled_body_gives_408_and_never_a_whole_request(impatient: Corridor, framing: bytes):
    """[SL-02] A body that stops coming is a 408, or an abort; the upstream never takes it for whole."""
    impatient.fresh()
    with impatient.client() as client:
        answer = client.send(b"POST /x HTTP/1.1\r\nHost: app.internal\r\n" + framing).answer(b"POST")
        assert answer is not None
        assert answer.status == 408
        assert client.ends()
    assert list(requests(impatient)) == []
    assert impatient.until(lambda: impatient.upstream.connections[0].ended != "")


def test_keep_alive_connection_is_closed_when_idle(impatient: Corridor):
    """[SL-05] An idle connection is ended after the idle timeout, not before."""
    impatient.fresh()
    with impatient.client() as client:
        assert client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n").answer() is not None
        began = time.monotonic()
        assert client.ends(2)
        assert 0.2 < time.monotonic() - began < 1.2
        assert client.ended == "fin"


@pytest.mark.parametrize("last", [b"", b"Connection: close\r\n"], ids=["idle", "last-of-a-pipeline"])
def test_rest_that_only_the_kernel_holds_still_arrives(
    impatient: Corridor, monkeypatch: pytest.MonkeyPatch, last: bytes
):
    """[SL-03] An answer that has been written and is taken slowly is not over: no deadline resets what is left of it."""
    monkeypatch.setattr(downstream, "LINGER", 0.4)
    impatient.fresh()
    impatient.upstream.default = [response(b"x" * 40_000)]
    with impatient.client(buffer=8192) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n" + last + b"\r\n\r\n")
        got = b""
        while len(got) < 40_000 and (data := client.exactly(2000)):
            got += data
            time.sleep(0.04)
        got += client.until_end(2)
        assert client.ended == "fin"
        assert len(got) > 40_000


def test_slow_reader_of_a_second_answer_gets_it_whole(impatient: Corridor):
    """[SL-03] What was left of the first answer at an earlier deadline says nothing about the second one."""
    impatient.fresh()
    answers = [response(b"x" * 40_000), response(b"y" * 60_000)]
    impatient.upstream.play(*([answer] for answer in answers))
    with impatient.client(buffer=8192) as client:
        for answer in answers:
            client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n")
            got = b""
            for _ in range(12):
                got += client.exactly(2000)
                time.sleep(0.04)
            got += client.exactly(len(answer) - len(got))
            assert got == answer


def test_slow_reader_is_given_up_and_its_upstream_released(impatient: Corridor):
    """[SL-03] A caller that does not read keeps neither memory nor an upstream connection for long."""
    impatient.fresh()
    impatient.upstream.default = [response(b"x" * 8_000_000)]
    with impatient.client(buffer=4096) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n")
        assert impatient.until(
            lambda: bool(impatient.upstream.connections) and impatient.upstream.connections[0].ended != ""
        )
        assert impatient.until(lambda: not impatient.wire.downstreams)
        client.until_end()
        assert client.ended == "reset"


def test_reader_that_is_slow_but_steady_gets_everything(impatient: Corridor):
    """[SL-03] Slowness alone is no fault: as long as something is read between two deadlines, all of it arrives."""
    impatient.fresh()
    impatient.upstream.default = [b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 900_000, Fin]
    with impatient.client(buffer=65536) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n")
        got = 0
        while data := client.receive():
            got += len(data)
            time.sleep(0.03)
        assert client.ended == "fin"
    assert got > 900_000


def test_reader_that_takes_little_at_a_time_gets_everything(impatient: Corridor):
    """[SL-03] Also where what is taken between two deadlines makes no room for anything further."""
    impatient.fresh()
    impatient.upstream.default = [response(b"x" * 600_000)]
    with impatient.client(buffer=8192) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\nConnection: close\r\n\r\n")
        got = b""
        for _ in range(25):
            got += client.exactly(2000)
            time.sleep(0.04)
        got += client.until_end()
    assert client.ended == "fin"
    assert len(got) > 600_000


def test_pipeline_of_a_slow_reader_is_answered(impatient: Corridor):
    """[SL-03] A request that waits behind an answer that is taken slowly has not come too late: no 408 for it."""
    impatient.fresh()
    impatient.upstream.play([response(b"x" * 260_000)], [response(b"second")])
    with impatient.client(buffer=8192) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n" * 2)
        got = b""
        for _ in range(18):
            got += client.exactly(2000)
            time.sleep(0.04)
        got += client.until_end(2)
    assert got.endswith(b"\r\n\r\nsecond")
    assert client.ended == "fin"


def test_caller_that_resets_as_it_is_answered_is_no_fault(both: dict[str, Corridor], monkeypatch: pytest.MonkeyPatch):
    """[SM-15] It has read the refusal and reset before the sidecar, waiting for the body, has ended its own side."""
    corridor = both["asyncio"]
    corridor.fresh()
    with corridor.client() as client:
        kind = asyncio.selector_events._SelectorSocketTransport
        write = kind.write

        def answer_and_be_reset(transport: asyncio.WriteTransport, data: bytes) -> None:
            write(transport, data)
            if data.startswith(b"HTTP/1.1 401"):
                client.reset()
                time.sleep(0.02)

        monkeypatch.setattr(kind, "write", answer_and_be_reset)
        client.send(b"POST /x HTTP/1.1\r\nHost: user.internal\r\nX-Session-Id: gone\r\nContent-Length: 9\r\n\r\n")
        assert corridor.until(lambda: corridor.broker.obtained["gone"] == 1 and not corridor.wire.downstreams)
    assert corridor.faults == []


def test_request_whose_head_is_cut_by_a_drain_is_told_that_it_is_the_last(both: dict[str, Corridor]):
    """The head's end comes after the drain: the answer says that the connection closes, and it does."""
    for corridor in both.values():
        corridor.fresh()
        with corridor.client() as client:
            client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n")
            assert corridor.until(lambda corridor=corridor: any(one._buffer for one in corridor.wire.downstreams))
            try:
                corridor.do(lambda corridor=corridor: _drain(corridor))
                answer = client.send(b"\r\n").answer()
                assert client.ends()
            finally:
                corridor.wire.draining = False
        assert answer is not None
        assert (answer.status, answer.all(b"connection")) == (200, [b"close"])


def _drain(corridor: Corridor) -> None:
    corridor.wire.draining = True
    for one in list(corridor.wire.downstreams):
        one.drain()


def test_connection_over_the_limit_is_told_so_and_the_others_go_on(impatient: Corridor):
    """[OV-01] The connection beyond the limit gets 503 with Retry-After; when one leaves, the next is served."""
    impatient.fresh()
    assert impatient.until(lambda: not impatient.wire.downstreams)
    clients = [impatient.client() for _ in range(20)]
    assert impatient.until(lambda: len(impatient.wire.downstreams) == 20)
    with impatient.client() as late:
        answer = late.answer()
        assert answer is not None
        assert (answer.status, answer.all(b"retry-after")) == (503, [b"1"])
    good = clients[0].send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n").answer()
    assert good is not None
    assert good.status == 200
    for client in clients:
        client.__exit__()
    assert impatient.until(lambda: not impatient.wire.downstreams)


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_caller_that_leaves_frees_the_upstream(both: dict[str, Corridor], variant: Variant):
    """[SSE-03] A caller that closes, or is reset, while its answer streams or is awaited: the upstream is let go at once."""
    corridor = start(both, variant)
    for says in ([], [b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"]):
        for how in ("close", "reset"):
            corridor.fresh()
            corridor.do(lambda says=says: corridor.upstream.play(says))
            with corridor.client() as client:
                client.send(fill(b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n", variant.form, b"app.internal"))
                assert corridor.until(lambda: bool(corridor.upstream.streams()))
                if says:
                    got = client.receive()
                    while b"data: 1" not in got:
                        got += client.receive()
                if how == "reset":
                    client.reset()
            assert corridor.until(lambda: corridor.upstream.connections[0].ended != "", 1.0)
            assert corridor.until(lambda: not corridor.wire.downstreams)


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_half_closed_caller_still_gets_its_answer(both: dict[str, Corridor], variant: Variant):
    """A caller that closes its sending side after the request is answered as long as the answer keeps coming."""
    corridor = start(both, variant)
    steps: list[Step] = [b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"]
    for n in range(10):
        steps += [Wait(0.05), b"%02d" % n]
    corridor.do(lambda: corridor.upstream.play(steps))
    with corridor.client() as client:
        client.send(fill(b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n", variant.form, b"app.internal")).half_close()
        answer = client.answer()
        assert answer is not None
        assert answer.body == b"00010203040506070809"
        assert client.ends()


@pytest.mark.parametrize("loop", LOOPS)
def test_request_through_the_sidecar_to_itself_is_a_loop(loop: LoopKind):
    """[HD-10] One hop, then 508: no storm."""
    with Corridor(loop, unmatched="forward") as corridor, corridor.client() as client:
        url = b"http://127.0.0.1:%d/x" % corridor.port
        answer = client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % url).answer()
        assert answer is not None
        assert answer.status == 508
        assert corridor.faults == []
