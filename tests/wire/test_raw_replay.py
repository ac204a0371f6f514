"""A 401 for a token that the sidecar put there: renewed once, replayed once, with the same bytes (design section 3.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.corridor import REPLAY_LIMIT
from tests.support.judge import VARIANTS, Variant, fill, requests, sound, start
from tests.support.recording_upstream import Fin, Rst, Seen, Wait, reread, response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.corridor import Corridor
    from tests.support.recording_upstream import Step

INVALID = b'WWW-Authenticate: Bearer realm="x", error="invalid_token"'
PLAIN = b"WWW-Authenticate: Bearer"
SMALL, LARGE = b"x" * 100, b"x" * (REPLAY_LIMIT + 1)


def _401(*headers: bytes) -> bytes:
    return response(b"denied", 401, *headers)


def _request(method: bytes, body: bytes | None = None, *, chunked: bool = False, trailers: bytes = b"") -> bytes:
    head = method + b" @/x@ HTTP/1.1\r\nHost: @host@\r\nA: b\r\n"
    if body is None:
        return head + b"\r\n"
    if chunked:
        middle = len(body) // 2
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]) if part)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@dataclass(frozen=True)
class Case:
    """`renewed`: a new token was asked for. `replayed`: the upstream saw the request again."""

    id: str
    request: bytes
    challenge: tuple[bytes, ...]
    renewed: bool
    replayed: bool
    host: bytes = b"app.internal"


CASES = (
    Case("RT-01-get-invalid-token", _request(b"GET"), (INVALID,), True, True),
    Case("RT-01-get-plain-bearer", _request(b"GET"), (PLAIN,), True, True),
    Case("RT-01-get-no-challenge", _request(b"GET"), (), True, True),
    Case("RT-01-head", _request(b"HEAD"), (), True, True),
    Case("RT-01-delete", _request(b"DELETE"), (PLAIN,), True, True),
    Case("RT-01-odd-case", _request(b"GET"), (b"wWw-AuthenTicate:bEARER eRROR=invalid_token",), True, True),
    Case("RT-01-two-challenges", _request(b"GET"), (b'WWW-Authenticate: Basic realm="a, b", ' + INVALID[18:],), True, True),
    Case("RT-01-two-lines", _request(b"GET"), (b"WWW-Authenticate: Basic", INVALID), True, True),
    Case("RT-02-put-small", _request(b"PUT", SMALL), (PLAIN,), True, True),
    Case("RT-02-post-small-invalid-token", _request(b"POST", SMALL), (INVALID,), True, True),
    Case("RT-02-post-empty", _request(b"POST", b""), (INVALID,), True, True),
    Case("RT-02-post-at-limit", _request(b"POST", b"x" * REPLAY_LIMIT), (INVALID,), True, True),
    Case("RT-02-post-chunked", _request(b"POST", SMALL, chunked=True), (INVALID,), True, True),
    Case("RT-02-post-chunked-empty", _request(b"POST", b"", chunked=True), (INVALID,), True, True),
    Case("RT-07-chunked-trailers", _request(b"POST", SMALL, chunked=True, trailers=b"X-Sum: 1\r\n"), (INVALID,), True, True),
    Case("RT-02-patch-always", _request(b"PATCH", SMALL), (PLAIN,), True, True, b"always.internal"),
    Case("PD-06-post-plain-bearer", _request(b"POST", SMALL), (PLAIN,), True, False),
    Case("PD-06-post-no-challenge", _request(b"POST", SMALL), (), True, False),
    Case("PD-06-patch-plain-bearer", _request(b"PATCH", SMALL), (PLAIN,), True, False),
    Case("RT-03-post-over-limit", _request(b"POST", LARGE), (INVALID,), True, False),
    Case("RT-03-put-over-limit", _request(b"PUT", LARGE), (PLAIN,), True, False),
    Case("RT-03-chunked-over-limit", _request(b"POST", LARGE, chunked=True), (INVALID,), True, False),
    Case("UP-12-insufficient-scope", _request(b"GET"), (b'WWW-Authenticate: Bearer error="insufficient_scope"',), False, False),
    Case("UP-12-basic", _request(b"GET"), (b'WWW-Authenticate: Basic realm="Bearer"',), False, False),
    Case("UP-12-basic-with-bearer-in-it", _request(b"GET"), (b'WWW-Authenticate: Basic realm="Bearer, x"',), False, False),
    Case("UP-12-negotiate", _request(b"GET"), (b"WWW-Authenticate: Negotiate YII=",), False, False),
    Case("UP-12-claims-challenge", _request(b"GET"), (b'WWW-Authenticate: Bearer error="insufficient_claims"',), False, False),
    Case("UP-13-dpop-nonce", _request(b"GET"), (b'WWW-Authenticate: DPoP error="use_dpop_nonce"',), False, False),
    Case("RT-09-no-token-route", _request(b"GET"), (INVALID,), False, False, b"none.internal"),
)  # fmt: skip


def _same_but_for_the_token(one: bytes, other: bytes) -> bool:
    return one.replace(b"token-of-app-1", b"T") == other.replace(b"token-of-app-2", b"T")


def _halves(stream: Iterable[bytes]) -> list[bytes]:
    """Split what all connections saw into requests, each as its bytes."""
    found = []
    for each in stream:
        starts = [at for at in range(len(each)) if each.startswith((b"GET /", b"HEAD /", b"P", b"DELETE /"), at)
                  and (at == 0 or each[at - 1 : at] == b"\n" or each[at - 1 : at] == b"x")
                  and b" HTTP/1.1\r\n" in each[at : at + 40]]  # fmt: skip
        found += [each[begin:end] for begin, end in zip(starts, [*starts[1:], len(each)], strict=True)]
    return found


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_401_is_renewed_and_replayed_by_the_policy(both: dict[str, Corridor], case: Case, variant: Variant):
    """One renewal, at most one replay with byte-equal head and body but for the token; else the 401 is the caller's."""
    corridor = start(both, variant)
    method = case.request.split(b" ", 1)[0]
    denial = _401(*case.challenge) if method != b"HEAD" else b"HTTP/1.1 401 No\r\nContent-Length: 6\r\n\r\n"
    corridor.do(lambda: corridor.upstream.play([denial]))
    with corridor.client() as client:
        client.send(fill(case.request, variant.form, case.host))
        answer = client.answer(method)
        assert answer is not None
        assert answer.status == (200 if case.replayed else 401)
        assert case.replayed or answer.body == b"denied"
        assert corridor.until(lambda: sum(corridor.broker.obtained.values()) == case.renewed)
        seen = list(requests(corridor))
        assert len(seen) == 1 + case.replayed
        if case.replayed:
            assert _same_but_for_the_token(*_halves(corridor.streams()))
            assert seen[1].all(b"authorization") == [b"Bearer token-of-app-2"]
            assert (seen[0].body, seen[0].trailers) == (seen[1].body, seen[1].trailers)
        client.send(fill(b"GET @/next@ HTTP/1.1\r\nHost: @host@\r\n\r\n", variant.form, case.host))
        after = client.answer()
        assert after is not None
        assert after.body == b"GET /next"
    assert corridor.until(lambda: corridor.wire.replay_memory == 0)
    sound(corridor, [])


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("status", [400, 402, 403, 407, 429, 500, 503])
def test_other_statuses_renew_nothing(both: dict[str, Corridor], status: int, variant: Variant):
    """[RT-09] Only a 401 is about the token; 403 and the rest go to the caller."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([response(b"no", status, INVALID)]))
    with corridor.client() as client:
        answer = client.send(fill(_request(b"GET"), variant.form, b"app.internal")).answer()
    assert answer is not None
    assert (answer.status, answer.body) == (status, b"no")
    assert not corridor.broker.obtained


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize(
    ("session", "second", "status"),
    [
        pytest.param(b"alice", [_401(INVALID)], 401, id="RT-05-second-401"),
        pytest.param(b"alice", [_401()], 401, id="RT-05-second-401-no-challenge"),
        pytest.param(b"stuck", [], 401, id="RT-05-still-rejected"),
        pytest.param(b"gone-later", [], 401, id="RT-05-session-ended"),
        pytest.param(b"alice", [Fin], 502, id="RT-06-fin-on-replay"),
        pytest.param(b"alice", [Rst], 502, id="RT-06-reset-on-replay"),
        pytest.param(b"alice", [response(b"x", 500)], 500, id="RT-06-500-on-replay"),
    ],
)
def test_replay_happens_once(
    both: dict[str, Corridor], session: bytes, second: list[Step], status: int, variant: Variant
):
    """[RT-05, RT-06] Whatever comes of the replay is the end of it."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([_401(INVALID)], second))
    with corridor.client() as client:
        head = b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: " + session + b"\r\n\r\n"
        answer = client.send(fill(head, variant.form, b"user.internal")).answer()
    assert answer is not None
    assert answer.status == status
    assert len(list(requests(corridor))) == (2 if session == b"alice" else 1) or session == b"gone-later"
    assert sum(corridor.broker.obtained.values()) == 1
    sound(corridor, [])


HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
EXPECT = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("when", ["after", "during"])
@pytest.mark.parametrize("challenge", [INVALID, PLAIN])
def test_401_instead_of_100_is_replayed_for_free(
    both: dict[str, Corridor], when: str, challenge: bytes, variant: Variant
):
    """[RT-08] No byte of the body has gone to the upstream: it comes once, on the second attempt, whole."""
    corridor = start(both, variant)
    corridor.broker.delay = 0.08
    corridor.do(lambda: corridor.upstream.play([_401(challenge)], [b"HTTP/1.1 100 Continue\r\n\r\n"], at="head"))
    with corridor.client() as client:
        client.send(fill(EXPECT, variant.form, b"app.internal"))
        assert corridor.until(lambda: bool(corridor.broker.obtained))
        if when == "during":
            client.send(b"hel")
        if when == "after":
            assert corridor.until(lambda: len(corridor.upstream.connections) == 2)
        client.send(b"hello" if when == "after" else b"lo")
        corridor.until(
            lambda: len(corridor.upstream.connections) == 2 and b"hello" in corridor.upstream.connections[1].saw
        )
        streams = corridor.streams()
    assert [request.body for stream in streams for request in reread(stream).requests] == [b"hello"]
    assert not any(b"hel" in stream for stream in streams[:-1])
    assert corridor.until(lambda: corridor.wire.replay_memory == 0)
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_body_that_comes_while_a_401_is_held_is_not_cut(both: dict[str, Corridor], variant: Variant):
    """[RT-08] A body larger than the replay limit that begins during the renewal arrives whole on the second attempt."""
    corridor = start(both, variant._replace(bytewise=False))
    corridor.broker.delay = 0.1
    body = bytes(range(256)) * 1200
    corridor.do(lambda: corridor.upstream.play([_401(INVALID)], at="head"))
    with corridor.client() as client:
        head = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.send(fill(head, variant.form, b"app.internal"))
        assert corridor.until(lambda: bool(corridor.broker.obtained))
        answer = client.send(body).answer(b"POST")
    assert answer is not None
    assert answer.status == 200
    assert [request.body for request in requests(corridor) if request.body] == [body]
    assert corridor.until(lambda: corridor.wire.replay_memory == 0)


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_token_that_comes_although_it_was_called_off_sends_nothing(both: dict[str, Corridor], variant: Variant):
    """The caller left while its token was got; whoever got it was deaf to that. The upstream sees no request."""
    corridor = start(both, variant._replace(bytewise=False))
    corridor.broker.delay = 5.0
    head = fill(b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\nCookie: sidecar_session=", variant.form, b"user.internal")
    with corridor.client() as client:
        answer = client.send(head + b"alice\r\n\r\n").answer()  # leaves a connection that the next request could take
        assert answer is not None
        assert answer.status == 200
        client.send(head + b"cold-deaf\r\n\r\n")
        assert corridor.until(lambda: bool(corridor.broker.obtained))
    assert corridor.until(lambda: len(corridor.broker.held) == 2 and not corridor.wire.downstreams)
    corridor.settle()
    assert [request.all(b"authorization") for request in requests(corridor)] == [[b"Bearer token-of-alice-1"]]
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_401_during_upload_is_passed_on_and_the_connections_closed(both: dict[str, Corridor], variant: Variant):
    """[RT-04] Part of the body has gone, so nothing is replayed; the token is renewed for the next request."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([Wait(0.05), _401(INVALID)], at="head"))
    with corridor.client() as client:
        head = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\nContent-Length: 10\r\n\r\nhel"
        answer = client.send(fill(head, variant.form, b"app.internal")).answer(b"POST")
        assert answer is not None
        assert (answer.status, answer.all(b"connection")) == (401, [b"close"])
        assert client.ends()
    assert list(requests(corridor)) == []
    assert corridor.until(lambda: sum(corridor.broker.obtained.values()) == 1)
    assert corridor.until(lambda: corridor.upstream.connections[0].ended != "")


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("session", [b"alice", b"stuck"])
@pytest.mark.parametrize("after", [[Fin], [Rst], [b"rest", Fin]], ids=["fin", "rst", "rest-fin"])
def test_upstream_that_closes_while_its_401_is_held(
    both: dict[str, Corridor], session: bytes, after: list[Step], variant: Variant
):
    """A held 401 can still be replaced, or given to the caller as far as it came, though its connection has ended."""
    corridor = start(both, variant)
    corridor.broker.delay = 0.1
    whole = b"rest" not in after
    says = b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n%b\r\n\r\nfirst" % (5 if whole else 9, INVALID)
    corridor.do(lambda: corridor.upstream.play([says, Wait(0.02), *after]))
    with corridor.client() as client:
        head = b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\nX-Session-Id: " + session + b"\r\n\r\n"
        answer = client.send(fill(head, variant.form, b"user.internal")).answer()
    assert answer is not None
    if session == b"alice":
        assert (answer.status, answer.body) == (200, b"GET /x")
    else:
        assert (answer.status, answer.body, answer.whole) == (401, b"first" if whole else b"firstrest", True)
    assert corridor.faults == []


def test_interims_before_a_held_401_pass_and_the_replay_is_clean(both: dict[str, Corridor]):
    """[SM-18, RT-01] A 103 goes to the caller at once; the 401 after it is replaced by the replay's answer."""
    for corridor in both.values():
        corridor.fresh()
        corridor.do(lambda corridor=corridor: corridor.upstream.play([HINTS, _401(INVALID)]))
        with corridor.client() as client:
            answer = client.send(fill(_request(b"GET"), "origin", b"app.internal")).answer()
        assert answer is not None
        assert (answer.status, [status for status, _ in answer.interims]) == (200, [103])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("method", "status"), [(b"GET", 200), (b"HEAD", 200), (b"PUT", 200), (b"POST", 502), (b"PATCH", 502)]
)
@pytest.mark.parametrize("end", [Fin, Rst])
def test_pooled_connection_that_dies_is_retried_only_for_idempotent_methods(
    both: dict[str, Corridor], loop: str, method: bytes, status: int, end: type[Fin | Rst]
):
    """[UP-04] The upstream closes the connection under the second request: GET goes again once, POST does not."""
    corridor = both[loop]
    corridor.fresh()
    body = None if method in (b"GET", b"HEAD") else b"hi"
    corridor.do(lambda: corridor.upstream.play([response(b"one")], [end]))
    with corridor.client() as client:
        first = client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n").answer()
        second = client.send(fill(_request(method, body), "origin", b"app.internal")).answer(method)
    assert first is not None
    assert first.body == b"one"
    assert second is not None
    assert second.status == status
    seen: list[Seen] = list(requests(corridor))
    assert len(seen) == (3 if status == 200 else 2)
    sound(corridor, [])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_body_that_was_not_kept_is_never_sent_again(both: dict[str, Corridor], loop: str):
    """[UP-04] A PUT is idempotent, but half of its body is not: where it was not kept whole, the answer is 502."""
    corridor = both[loop]
    corridor.fresh()
    corridor.do(lambda: corridor.upstream.play([response(b"one")], [Fin]))
    with corridor.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n").answer()
        second = client.send(fill(_request(b"PUT", LARGE), "origin", b"app.internal")).answer(b"PUT")
    assert second is not None
    assert second.status == 502
    assert [len(request.body) for request in requests(corridor)] == [0, len(LARGE)]
    sound(corridor, [])


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_retry_is_not_repeated(both: dict[str, Corridor], loop: str):
    """[UP-04] A second connection that dies as well is a 502: three requests would be a storm."""
    corridor = both[loop]
    corridor.fresh()
    corridor.do(lambda: corridor.upstream.play([response(b"one")], [Fin], [Fin], [Fin]))
    with corridor.client() as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n").answer()
        second = client.send(b"GET /y HTTP/1.1\r\nHost: app.internal\r\n\r\n").answer()
    assert second is not None
    assert second.status == 502
    assert [request.target for request in requests(corridor)] == [b"/x", b"/y", b"/y"]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_replay_is_retried_like_a_first_request(both: dict[str, Corridor], loop: str):
    """[UP-04, RT-01] The upstream has closed all pooled connections: the request and its replay meet one dead one each."""
    corridor = both[loop]
    corridor.fresh()
    one, two = [Wait(0.05), response(b"one")], [Wait(0.05), response(b"two")]
    corridor.do(lambda: corridor.upstream.play(one, two, [Fin], [_401(INVALID)], [Fin]))
    with corridor.client() as client, corridor.client() as other:
        for each in (client, other):
            each.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n")
        assert all(each.answer() is not None for each in (client, other))
        answer = client.send(fill(_request(b"GET"), "origin", b"app.internal")).answer()
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"GET /x")
    assert len(list(requests(corridor))) == 6
    sound(corridor, [])


def test_replay_memory_is_capped_over_all_requests(both: dict[str, Corridor]):
    """[RT-11] Bodies beyond the common cap are not kept: their 401 is passed on, and nothing is left behind."""
    corridor = both["uvloop"]
    corridor.fresh()
    limits = corridor.wire.limits
    corridor.do(lambda: setattr(corridor.wire, "limits", limits.__class__(replay_memory=50)))
    try:
        corridor.do(lambda: corridor.upstream.play([_401(INVALID)]))
        with corridor.client() as client:
            answer = client.send(fill(_request(b"POST", SMALL), "origin", b"app.internal")).answer(b"POST")
        assert answer is not None
        assert answer.status == 401
        assert corridor.until(lambda: corridor.wire.replay_memory == 0)
    finally:
        corridor.do(lambda: setattr(corridor.wire, "limits", limits))
