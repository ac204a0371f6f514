"""Raw requests that are rare and right, disguises of what is ours, and every case behind, before and between others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.corridor import Corridor, LoopKind, cut_at
from tests.support.judge import SMUGGLED, VARIANTS, Case, Expected, Variant, fill, requests, run, sound, start, table
from tests.support.recording_upstream import Fin, reread, response
from tests.wire.test_raw_framing import BAD_CL, BOTH, CHUNK_LINES, CHUNK_SIZES, HEADER_LINES, REQUEST_LINES, TE_VALUES

if TYPE_CHECKING:
    from collections.abc import Iterator

POST = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\n"
GET = b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n"
NEXT = b"GET @/next@ HTTP/1.1\r\nHost: @host@\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SEES_GET = (Expected(b"GET", b"/x"),)
SEES_NEXT = Expected(b"GET", b"/next")
HELLO = (Expected(b"POST", b"/x", b"hello"), SEES_NEXT)


# -- right, if rare: to be forwarded --------------------------------------------------------------------------------

RARE_HEADS = [
    Case(f"HD-12-rare-{name}", GET + lines + b"\r\n", SEES_GET)
    for name, lines in {
        "no-space-after-colons": b"A:b\r\nC:d\r\n",
        "tabs-around-values": b"A:\tb\t\r\n",
        "spaces-only": b"A:     \r\n",
        "obs-text-only": b"A: \x80\xff\r\n",
        "colon-in-value": b"A: :\r\nB: a:b:c\r\n",
        "one-letter-names": b"a: 1\r\nb: 2\r\n0: 3\r\n_: 4\r\n~: 5\r\n",
        "long-name": b"X" * 1000 + b": y\r\n",
        "long-value": b"A: " + b"x" * 30_000 + b"\r\n",
        "same-line-thrice": b"A: b\r\nA: b\r\nA: b\r\n",
        "200-connection-options": b"Connection: " + b", ".join(b"a%d" % n for n in range(200)) + b"\r\n",
        "connection-empty": b"Connection:\r\n",
        "connection-commas": b"Connection: ,,keep-alive,,\r\n",
        "connection-unknown": b"Connection: made-up\r\n",
        "te-trailers": b"TE: trailers\r\nConnection: TE\r\n",
        "te-trailers-and-weights": b"TE: trailers, deflate;q=0.5\r\nConnection: te, close\r\n",
        "trailer-without-body": b"Trailer: X\r\n",
        "upgrade-alone": b"Upgrade: websocket\r\n",
        "upgrade-to-tls": b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n",
        "expect-unknown": b"Expect: something\r\n",
        "expect-without-body": b"Expect: 100-continue\r\n",
        "length-zero": b"Content-Length: 0\r\n",
        "length-zeros": b"Content-Length: 0000\r\n",
        "date-1994": b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "range-absurd": b"Range: bytes=9-1,-,0-\r\n",
        "comment-in-agent": b"User-Agent: a (b; (c)) d/1\r\n",
        "quoted-pairs": b'A: "b\\"c\\\\"\r\n',
        "request-in-value": b"A: GET /smuggled HTTP/1.1\r\n",
        "forwarded-ipv6": b'Forwarded: for="[2001:db8::1]:80";by=_x\r\n',
    }.items()
]
RARE_TARGETS = [
    Case(f"HD-22-rare-{name}", b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host), (Expected(b"GET", seen),))
    for name, target, host, seen in (
        ("empty-port", b"http://app.internal:/x", b"app.internal:", b"/x"),
        ("empty-port-no-path", b"http://app.internal:", b"app.internal", b"/"),
        ("empty-port-and-query", b"http://app.internal:?x", b"app.internal", b"/?x"),
        ("empty-port-in-host", b"/x", b"app.internal:", b"/x"),
        ("port-zeros", b"http://app.internal:00080/x", b"app.internal:00080", b"/x"),
        ("dot-and-port", b"/x", b"APP.internal.:80", b"/x"),
        ("ipv6-in-host", b"http://app.internal/x", b"[::1]:8080", b"/x"),
        ("ipv4-mapped-in-host", b"http://app.internal/x", b"[::ffff:1.2.3.4]", b"/x"),
        ("underscore-in-host", b"http://app.internal/x", b"a_b.c", b"/x"),
        ("empty-query", b"http://app.internal?", b"app.internal", b"/?"),
        ("question-marks", b"http://app.internal???", b"app.internal", b"/???"),
        ("slashes-in-query", b"http://app.internal?/../x", b"app.internal", b"/?/../x"),
        ("all-sub-delims", b"/!$&'()*+,;=:@-._~", b"app.internal", b"/!$&'()*+,;=:@-._~"),
        ("dots-that-are-names", b"/.../..a/a../.a", b"app.internal", b"/.../..a/a../.a"),
        ("many-slashes", b"http://app.internal////", b"app.internal", b"////"),
        ("absolute-in-path", b"/http://other/x", b"app.internal", b"/http://other/x"),
        ("encoded-at-and-colon", b"/a%40b%3Ac", b"app.internal", b"/a%40b%3Ac"),
        ("longest", b"/" + b"a" * 8000, b"app.internal", b"/" + b"a" * 8000),
    )
]
RARE_BODIES = [
    Case("SM-06-length-zeros", POST + b"Content-Length: 000000000000005\r\n\r\nhello" + NEXT, HELLO),
    Case("SM-06-length-beyond-body-of-get", GET + b"Content-Length: 5\r\n\r\nhello" + NEXT,
         (Expected(b"GET", b"/x", b"hello"), SEES_NEXT)),
    Case("SM-14-extension-method-chunked",
         b"FOO @/x@ HTTP/1.1\r\nHost: @host@\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + NEXT,
         (Expected(b"FOO", b"/x", b"hello"), SEES_NEXT)),
    Case("SM-14-lower-case-method-with-length",
         b"post @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 5\r\n\r\nhello" + NEXT,
         (Expected(b"post", b"/x", b"hello"), SEES_NEXT)),
    Case("SM-24-many-empty-lines", b"\r\n" * 20 + NEXT + b"\r\n" * 20 + NEXT, (SEES_NEXT, SEES_NEXT)),
    Case("HD-21-http10-chunk-less-post", b"POST @/x@ HTTP/1.0\r\nContent-Length: 5\r\nHost: @host@\r\n\r\nhello",
         (Expected(b"POST", b"/x", b"hello"),)),
    Case("HD-21-http10-expect", b"POST @/x@ HTTP/1.0\r\nHost: @host@\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
         (Expected(b"POST", b"/x", b"hello"),)),
    *(Case(f"SM-11-{name}", CHUNKED + body + NEXT, HELLO) for name, body in {
        "size-zeros": b"0" * 60 + b"5\r\nhello\r\n0\r\n\r\n",
        "last-size-zeros": b"5\r\nhello\r\n" + b"0" * 60 + b"\r\n\r\n",
        "ext-quoted-escape": b'5;a="x\\"y"\r\nhello\r\n0\r\n\r\n',
        "ext-quoted-obs-text": b'5;a="\xe9"\r\nhello\r\n0\r\n\r\n',
        "ext-quoted-tab": b'5;a="x\ty"\r\nhello\r\n0\r\n\r\n',
        "ext-quoted-request": b'5;a="GET /smuggled HTTP/1.1"\r\nhello\r\n0\r\n\r\n',
        "ext-many": b'5;a;b=c;d="e";f\r\nhello\r\n0;g=h\r\n\r\n',
        "trailer-empty-value": b"5\r\nhello\r\n0\r\nA:\r\n\r\n",
        "trailer-connection-upgrade": b"5\r\nhello\r\n0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "trailer-connection-close": b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n",
        "one-byte-and-mixed-case": b"1\r\nh\r\n0004;X\r\nello\r\n00\r\n\r\n",
    }.items()),
]  # fmt: skip
RARE_TARGETS_ONCE = tuple(variant for variant in VARIANTS if variant.form == "absolute")


@table(RARE_HEADS, RARE_BODIES)
def test_rare_but_valid_request_is_forwarded(both: dict[str, Corridor], case: Case, variant: Variant):
    """What the grammar allows is no reason to refuse: method, target and body arrive, and the next request after it."""
    run(both, case, variant)


@table(RARE_TARGETS, variants=RARE_TARGETS_ONCE)
def test_rare_but_valid_target_is_forwarded(both: dict[str, Corridor], case: Case, variant: Variant):
    """[HD-22] Empty ports, odd queries and odd segments are valid: the path arrives as it came."""
    run(both, case, variant)


# -- wrong: not to be forwarded -------------------------------------------------------------------------------------

WRONG = [
    *(Case(f"HD-22-host-{name}", b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host) + SMUGGLED)
      for name, target, host in (
        ("dot-only", b"/x", b"."), ("dot-only-in-target", b"http://./x", b"app.internal"),
        ("empty-for-a-path", b"/base/x", b""), ("spaces-for-a-path", b"/base/x", b"   "),
        ("colon-only", b"/x", b":80"), ("two-colons", b"/x", b"app.internal::80"), ("at-end", b"/x", b"app.internal@"),
        ("future-ip", b"/x", b"[v1.a]"), ("encoded-dot", b"/x", b"app%2einternal"), ("minus-port", b"/x", b"app.internal:-1"),
        ("port-and-comma", b"/x", b"app.internal:80,"), ("bracket-in-name", b"/x", b"app.internal]"),
        ("semicolon", b"/x", b"app.internal;x"), ("quote", b"/x", b'"app.internal"'), ("ipv6-bare", b"/x", b"::1"),
        ("hundred-digit-port", b"/x", b"app.internal:" + b"8" * 100),
      )),
    Case("HD-22-host-empty-for-star", b"OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n" + SMUGGLED),
    Case("LK-05-trace-with-body",
         b"TRACE @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 2\r\n\r\nhi" + SMUGGLED, host=b"none.internal"),
    Case("LK-05-trace-with-chunks",
         b"TRACE @/x@ HTTP/1.1\r\nHost: @host@\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
         host=b"none.internal"),
    *(Case(f"SM-11-{name}", CHUNKED + body + SMUGGLED, partly=True) for name, body in {
        "ext-bare-semicolon": b"5;\r\nhello\r\n0\r\n\r\n",
        "ext-bare-semicolon-of-last": b"5\r\nhello\r\n0;\r\n\r\n",
        "ext-term-lf": b"2;\nxx\r\n4c\r\n0\r\n\r\n",
        "ext-cr-then-data": b"5;\rabc\r\nhello\r\n0\r\n\r\n",
        "ext-unclosed-quote": b'5;a="x\r\nhello\r\n0\r\n\r\n',
        "ext-crlf-in-quote": b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n',
        "ext-control": b'5;a="\x01"\r\nhello\r\n0\r\n\r\n',
        "ext-comma": b"5,a\r\nhello\r\n0\r\n\r\n",
        "ext-hash": b"5#a\r\nhello\r\n0\r\n\r\n",
        "ext-name-paren": b"5;a(b\r\nhello\r\n0\r\n\r\n",
        "ext-name-latin1": b"5;\xe9\r\nhello\r\n0\r\n\r\n",
        "spill": b"5\r\nhelloXX0\r\n\r\n",
        "one-byte-line-end": b"5\r\nhello\n\n0\r\n\r\n",
        "two-byte-line-end": b"5\r\nhelloX\n0\r\n\r\n",
        "size-of-17-digits": b"10000000000000000\r\nhello\r\n0\r\n\r\n",
        "trailer-length": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
        "trailer-coding": b"5\r\nhello\r\n0\r\nTransfer-Encoding: gzip\r\n\r\n",
        "trailer-empty-name": b"5\r\nhello\r\n0\r\n: x\r\n\r\n",
        "trailer-control": b"5\r\nhello\r\n0\r\nA: \x01\r\n\r\n",
    }.items()),
]  # fmt: skip


@table(WRONG)
def test_wrong_request_reaches_nobody(both: dict[str, Corridor], case: Case, variant: Variant):
    """Hosts that name nobody, TRACE with a body, chunk extensions in disguise: refused, and the connection closed."""
    run(both, case, variant)


# -- disguises of what is ours --------------------------------------------------------------------------------------

HOSTS_AS = {"app": b"app.internal", "user": b"user.internal", "none": b"none.internal"}
DISGUISES: dict[str, tuple[bytes, bytes]] = {
    "HD-08-comma": (b"Cookie: a=1, sidecar_session=alice\r\n", b"Cookie: a=1\r\n"),
    "HD-08-comma-between": (b"Cookie: a=1,sidecar_session=alice,b=2; c=3\r\n", b"Cookie: a=1,b=2; c=3\r\n"),
    "HD-08-nbsp": (b"Cookie: a=1;\xa0sidecar_session=alice\r\n", b"Cookie: a=1\r\n"),
    "HD-08-nel": (b"Cookie: a=1;\x85sidecar_session=alice\r\n", b"Cookie: a=1\r\n"),
    "HD-08-quoted-name": (b'Cookie: a=1; "sidecar_session"=alice\r\n', b"Cookie: a=1\r\n"),
    "HD-08-tab": (b"Cookie: a=1;\tsidecar_session\t=alice\r\n", b"Cookie: a=1\r\n"),
    "HD-08-no-equals": (b"Cookie: a=1; sidecar_session\r\n", b"Cookie: a=1\r\n"),
    "HD-08-similar": (b"Cookie: a=sidecar_session; x_sidecar_session=1\r\n", b"Cookie: a=sidecar_session; x_sidecar_session=1\r\n"),
    "HD-07-dots": (b"X.Session.Id: alice\r\n", b""),
    "HD-07-tildes": (b"X~Session|Id: alice\r\n", b""),
    "HD-07-mixed": (b"x_SESSION.iD: alice\r\n", b""),
    "HD-07-longer": (b"X_Session_Ids: a\r\n", b"X_Session_Ids: a\r\n"),
    "SM-05-dots": (b"Content.Length: 5\r\nTransfer.Encoding: chunked\r\n", b""),
    "SM-05-tildes": (b"Content~Length: 5\r\nTransfer`Encoding: chunked\r\n", b""),
    "SM-06-zeros": (b"Content-Length: 00\r\n", b"Content-Length: 0\r\n"),
    "SM-06-zeros-and-case": (b"cONTENT-lENGTH:000 \r\n", b"cONTENT-lENGTH: 0\r\n"),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", DISGUISES)
def test_what_some_readers_take_for_ours_stays_behind(both: dict[str, Corridor], case: str, variant: Variant):
    """[HD-07, HD-08] No reader finds a session or a framing in what is forwarded, on routes of every kind."""
    lines, kept = DISGUISES[case]
    corridor = start(both, variant)
    port = b"%d" % corridor.upstream.port
    for as_, host in HOSTS_AS.items():
        with corridor.client() as client:
            client.send(fill(GET + b"x-session-id: alice\r\n" + lines + b"\r\n", variant.form, host))
            answer = client.answer()
        assert answer is not None
        assert answer.status == 200, (as_, answer)
    tokens = {b"app": b"app", b"user": b"alice"}
    for stream, as_ in zip(corridor.streams(), (b"app", b"user", b"none"), strict=True):
        token = b"Authorization: Bearer token-of-%b-1\r\n" % tokens[as_] if as_ in tokens else b""
        assert stream == b"GET /x HTTP/1.1\r\nHost: 127.0.0.1:%b\r\n%b%b\r\n" % (port, kept, token)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_http_1_0_request_asks_the_upstream_for_no_100(both: dict[str, Corridor], variant: Variant):
    """[STR-03] Expect of an HTTP/1.0 request stays behind (RFC 9110 section 10.1.1); that of HTTP/1.1 goes on."""
    corridor = start(both, variant)
    for version in (b"0", b"1"):
        head = b"POST @/x@ HTTP/1.%b\r\nHost: @host@\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi" % version
        with corridor.client() as client:
            assert client.send(fill(head, variant.form, b"app.internal")).answer(b"POST") is not None
    found = [request.all(b"expect") for stream in corridor.streams() for request in reread(stream).requests]
    assert sorted(found) == [[], [b"100-continue"]]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_trailer_that_connection_names_stays_behind(both: dict[str, Corridor], variant: Variant):
    """[HD-01, HD-18] Connection's options name trailers as well as headers, both ways (RFC 9110 section 7.6.1)."""
    corridor = start(both, variant)
    chunks = b"Connection: x-hop\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Hop: 1\r\nX-End: 2\r\n\r\n"
    corridor.do(lambda: corridor.upstream.play([b"HTTP/1.1 200 OK\r\n" + chunks]))
    with corridor.client() as client:
        answer = client.send(fill(POST + chunks, variant.form, b"app.internal")).answer(b"POST")
    assert answer is not None
    assert answer.trailers == [(b"X-End", b"2")]
    assert [request.trailers for request in requests(corridor)] == [[(b"X-End", b"2")]]


# -- on every kind of route, before and behind others, cut anywhere -------------------------------------------------

BAD = [*BAD_CL, *TE_VALUES, *BOTH, *CHUNK_SIZES, *CHUNK_LINES, *REQUEST_LINES, *HEADER_LINES, *WRONG]
BAD = [case for case in BAD if not case.sees and case.host == b"app.internal" and len(case.stream) < 10_000]
GOOD = b"POST @/good@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: alice\r\nContent-Length: 2\r\n\r\nhi"


def _blocks(cases: list[Case], size: int) -> Iterator[list[Case]]:
    return (cases[at : at + size] for at in range(0, len(cases), size))


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("block", range(9))
def test_bad_request_behind_a_good_one_reaches_nobody(both: dict[str, Corridor], block: int, variant: Variant):
    """[SM-24] The good one is answered, on a user's route and on one without tokens; the bad one is never seen whole."""
    blocks = list(_blocks(BAD, -(-len(BAD) // 9)))
    for case in blocks[block]:
        for host in (b"user.internal", b"none.internal"):
            corridor = start(both, variant)
            with corridor.client() as client:
                bad = fill(case.stream.replace(b"app.internal", host), variant.form, host)
                client.send(fill(GOOD, variant.form, host) + bad)
                answers = client.answers([b"POST", b"GET"])
            assert answers, case
            assert (answers[0].status, answers[0].body) == (200, b"POST /good"), (case, answers)
            assert [answer.status for answer in answers[1:]] in ([], [400], [401], [403], [413], [414], [505]), case
            assert {(seen.method, seen.target, seen.body) for seen in requests(corridor)} == {
                (b"POST", b"/good", b"hi")
            }
            assert corridor.faults == []


SPLIT: dict[str, tuple[bytes, tuple[Expected, ...]]] = {
    "length": (POST + b"Content-Length: 5\r\n\r\nhello" + NEXT, HELLO),
    "chunked": (CHUNKED + b'3;a="b"\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n' + NEXT, HELLO),
    "extension-method": (b"FOO @/x@ HTTP/1.1\r\nHost: @host@\r\n\r\n" + NEXT, (Expected(b"FOO", b"/x"), SEES_NEXT)),
    "empty-lines": (b"\r\n\r\n" + NEXT + b"\r\n" + NEXT, (SEES_NEXT, SEES_NEXT)),
    "two-framings": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, ()),
    "bare-lf": (GET + b"A: b\nC: d\r\n\r\n" + SMUGGLED, ()),
    "bad-chunk": (CHUNKED + b"5\r\nhello\n0\r\n\r\n" + SMUGGLED, ()),
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", SPLIT)
def test_request_cut_at_any_place_is_read_alike(both: dict[str, Corridor], name: str, loop: LoopKind):
    """[SM-29] However the network cuts a stream in two, the same requests are forwarded, or none."""
    stream, expected = SPLIT[name]
    variant = Variant("absolute" if loop == "uvloop" else "origin", loop, False)
    data = fill(stream, variant.form, b"app.internal")
    for place in range(1, len(data)):
        corridor = start(both, variant)
        corridor.cut = cut_at(place)
        with corridor.client() as client:
            answers = client.send(data).answers([b"POST", b"GET"])
        assert [answer.status for answer in answers] == ([200] * len(expected) or [400]), place
        readings = [reread(seen) for seen in corridor.streams()]
        found = tuple(Expected(seen.method, seen.target, seen.body) for one in readings for seen in one.requests)
        assert found == expected, place
        sound(corridor, readings, whole=bool(expected))


# -- early answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_early_answer_arrives_though_the_upload_was_reset(both: dict[str, Corridor], framing: str, loop: LoopKind):
    """[UP-05] An upstream that answers 413 and closes with the upload unread: the caller gets the 413, not a 502."""
    piece = b"x" * 1_000_000
    body = b"Content-Length: 4000000\r\n\r\n" + piece * 4
    if framing == "chunked":
        body = b"Transfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n%b\r\n" % (len(piece), piece)) * 4 + b"0\r\n\r\n"
    corridor = both[loop]
    for _ in range(5):
        corridor.fresh()
        corridor.do(lambda: corridor.upstream.play([response(b"big", 413, b"Connection: close"), Fin], at="head"))
        with corridor.client() as client:
            answer = client.send(b"POST /x HTTP/1.1\r\nHost: app.internal\r\n" + body).answer(b"POST")
        assert answer is not None
        assert (answer.status, answer.body, answer.whole) == (413, b"big", True)
        assert corridor.until(lambda: not corridor.wire.downstreams)
    assert corridor.faults == []
