"""The raw suite's essence before an upstream that speaks TLS, where an end of stream may be anybody's."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest
import trustme

from sidecar.settings import Tls
from sidecar.wire.upstream import _TAKES_IT_ALL
from tests.support.corridor import Corridor, UpstreamTls
from tests.support.judge import (
    SMUGGLED,
    VARIANTS,
    Case,
    Expected,
    Variant,
    fill,
    only_request,
    run,
    start,
    strictly_read,
    table,
)
from tests.support.recording_upstream import Cut, Fin, Rst, Wait, response
from tests.wire.test_raw_framing import BOTH, GOOD_CHUNKS, GOOD_CL, GOOD_TE, HTTP_1_0

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.corridor import LoopKind
    from tests.support.recording_upstream import Step

GET = b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Corridor]]:
    """The proxy on each kind of event loop, its upstream behind TLS."""
    authority, bundle = trustme.CA(), tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    how = UpstreamTls(context, Tls(ca=str(bundle)))
    with Corridor("asyncio", tls=how) as plain, Corridor("uvloop", tls=how) as fast:
        yield {"asyncio": plain, "uvloop": fast}


@table(GOOD_CL, GOOD_TE, GOOD_CHUNKS, BOTH, HTTP_1_0, variants=VARIANTS[:2])
def test_framing_is_the_same_before_tls(secure: dict[str, Corridor], case: Case, variant: Variant):
    """What is forwarded over TLS is what is forwarded without it."""
    run(secure, case, variant)
    strictly_read(secure[variant.loop])


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_https_target_goes_to_the_tls_upstream(secure: dict[str, Corridor], variant: Variant):
    """[SS-07] https:// in the target is taken where the route's upstream speaks TLS, with the port that it implies."""
    case = Case("", b"GET https://app.internal/x HTTP/1.1\r\nHost: app.internal\r\n\r\n", (Expected(b"GET", b"/x"),))
    run(secure, case, variant)
    assert only_request(secure[variant.loop]).all(b"authorization") == [b"Bearer token-of-app-1"]


ENDS: dict[str, tuple[tuple[Step, ...], bool]] = {
    "HD-14-length": ((response(b"hi"),), True),
    "HD-14-chunked": ((CHUNKED + b"0\r\n\r\n",), True),
    "UP-11-until-close": ((HEAD + b"\r\nhi", Fin), True),
    "UP-11-until-close-later": ((HEAD + b"\r\nhi", Wait(0.02), Fin), True),
    "UP-03-until-close-without-alert": ((HEAD + b"\r\nhi", Cut), False),
    "UP-03-until-close-without-alert-later": ((HEAD + b"\r\nhi", Wait(0.02), Cut), False),
    "UP-03-until-close-reset": ((HEAD + b"\r\nhi", Wait(0.02), Rst), False),
    "UP-03-length-without-alert": ((HEAD + b"Content-Length: 3\r\n\r\nhi", Cut), False),
    "UP-03-length-whole-without-alert": ((response(b"hi"), Cut), True),
    "UP-03-chunked-without-alert": ((CHUNKED, Cut), False),
}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", ENDS)
def test_end_without_closure_alert_is_no_end_of_a_body(secure: dict[str, Corridor], case: str, variant: Variant):
    """[UP-03] RFC 9112 section 9.8: a body that only the end delimits is whole with TLS's own end, and cut without it."""
    says, whole = ENDS[case]
    corridor = start(secure, variant)
    corridor.do(lambda: corridor.upstream.play(says))
    with corridor.client() as client:
        answer = client.send(fill(GET, variant.form, b"app.internal")).answer()
        if whole:
            assert answer is not None
            assert (answer.status, answer.body, answer.whole) == (200, b"hi", True)
        else:
            assert answer is None or not answer.whole
            assert client.ended == "reset"
    with corridor.client() as client:
        answer = client.send(fill(GET.replace(b"/x", b"/next"), variant.form, b"app.internal")).answer()
        assert answer is not None
        assert answer.body == b"GET /next"
    assert corridor.faults == []


CLOSING: dict[str, tuple[Step, ...]] = {
    "RT-01-closed-at-once": (Fin,),
    "RT-01-closed-later": (Wait(0.02), Fin),
    "RT-01-cut-off": (Wait(0.02), Cut),
    "RT-01-reset": (Wait(0.02), Rst),
}


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", CLOSING)
@pytest.mark.parametrize(("session", "told"), [(b"alice", (200, b"GET /x")), (b"stuck", (401, b"denied"))])
def test_401_whose_connection_ends_at_once_is_still_replayed_or_passed_on(
    secure: dict[str, Corridor], case: str, session: bytes, told: tuple[int, bytes], variant: Variant
):
    """[RT-01] Many upstreams close after a 401; under TLS that is heard of while the new token is awaited."""
    corridor = start(secure, variant)
    corridor.broker.delay = 0.1
    denied = response(b"denied", 401, b'WWW-Authenticate: Bearer error="invalid_token"', b"Connection: close")
    corridor.do(lambda: corridor.upstream.play([denied, *CLOSING[case]]))
    with corridor.client() as client:
        request = GET.replace(b"\r\n\r\n", b"\r\nX-Session-Id: " + session + b"\r\n\r\n")
        answer = client.send(fill(request, variant.form, b"user.internal")).answer()
    assert answer is not None
    assert (answer.status, answer.body, answer.whole) == (*told, True)
    assert corridor.until(lambda: corridor.wire.upstreams == (told[0] == 200))
    assert corridor.faults == []


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_401_of_a_connection_that_has_carried_much_is_passed_on(secure: dict[str, Corridor], loop: str):
    """[RT-01] With the body of a held 401 enough has passed for a larger window, but the connection has ended."""
    corridor = secure[loop]
    corridor.fresh()
    corridor.broker.delay = 0.1
    denied = b"HTTP/1.1 401 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndenied\r\n0\r\n\r\n"
    corridor.do(lambda: corridor.upstream.play([response(b"first")], [denied, Fin]))
    request = b"GET /x HTTP/1.1\r\nHost: user.internal\r\nX-Session-Id: stuck\r\n\r\n"
    with corridor.client() as client:
        assert client.send(request).answer() is not None
        corridor.do(
            lambda: [setattr(one, "_taken", _TAKES_IT_ALL - 1) for pool in corridor._pools for one in pool.idle()]
        )
        answer = client.send(request).answer()
    assert answer is not None
    assert (answer.status, answer.body, answer.whole) == (401, b"denied", True)
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_body_of_an_answered_upload_is_no_request_over_tls(secure: dict[str, Corridor], variant: Variant):
    """[SM-17] An early answer over TLS is relayed, both connections end, and what follows is nobody's request."""
    corridor = start(secure, variant)
    corridor.do(lambda: corridor.upstream.play([response(b"big", 413)], at="head"))
    with corridor.client() as client:
        head = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 1000\r\n\r\nabc"
        answer = client.send(fill(head, variant.form, b"app.internal")).answer(b"POST")
        assert answer is not None
        assert (answer.status, answer.body) == (413, b"big")
        client.send(SMUGGLED)
        assert client.ends()
    assert corridor.until(lambda: corridor.upstream.connections[0].ended != "")
    assert b"smuggled" not in b"".join(corridor.streams())


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_pool_is_known_to_the_process_as_long_as_it_has_a_connection(secure: dict[str, Corridor], loop: str):
    """Idle connections are looked for in the pools that are known; one without any is not kept alive by that."""
    corridor = secure[loop]
    corridor.fresh()
    with corridor.client() as client:
        assert client.send(fill(GET, VARIANTS[0].form, b"app.internal")).answer() is not None
    assert corridor.do(lambda: (len(corridor.wire.pools), corridor.wire.upstreams)) == (1, 1)
    corridor.fresh()
    assert corridor.until(lambda: not (corridor.wire.pools or corridor.wire.upstreams or corridor.wire.outgoing))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connection_whose_handshake_fails_is_never_counted(secure: dict[str, Corridor], loop: LoopKind):
    """It is lost before it was made: what is counted when it is made must not be taken back when it is not."""
    assert secure[loop].tls is not None
    with Corridor(loop, tls=UpstreamTls(secure[loop].tls.server, Tls())) as corridor, corridor.client() as client:
        answer = client.send(fill(GET, VARIANTS[0].form, b"app.internal")).answer()
        assert answer is not None
        assert answer.status == 502
        wire = corridor.wire
        assert corridor.do(lambda: (wire.pools, wire.upstreams, wire.outgoing)) == (set(), 0, set())
        assert corridor.faults == []
