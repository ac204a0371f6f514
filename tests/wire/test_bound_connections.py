"""Who shares connections to an upstream with whom.

NTLM and Negotiate (RFC 4559) authenticate a connection, not a request: nobody else may use it from then on.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.wire import pool
from tests.support.corridor import Corridor
from tests.support.judge import VARIANTS, Variant, fill, start
from tests.support.program import ENVIRON, until, whole
from tests.support.recording_upstream import Rst, Wait, reread, response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.raw import Answer, Raw

NTLM, NEGOTIATE = b"Authorization: NTLM TlRMTVNTUAADAAAA\r\n", b"authorization:\tnEGOTIATE YIIabc==\r\n"
GET = b"GET @/%b@ HTTP/1.1\r\nHost: @host@\r\n%b\r\n"


def ask(client: Raw, variant: Variant, path: bytes, *lines: bytes, host: bytes = b"none.internal") -> Answer:
    request = fill(GET % (path, b"".join(lines)), variant.form, host)
    answer = client.send(request).answer()
    assert answer is not None
    return answer


def paths(corridor: Corridor) -> list[list[bytes]]:
    """What was asked for on each connection to the upstream."""
    return [[request.target for request in reread(stream).requests] for stream in corridor.streams()]


@pytest.mark.parametrize("line", [NTLM, NEGOTIATE], ids=["ntlm", "negotiate"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_connection_on_which_a_caller_authenticated_serves_that_caller_alone(
    both: dict[str, Corridor], variant: Variant, line: bytes
):
    """Its later requests carry nothing, and go there too; another's go elsewhere; it ends with the caller's own."""
    corridor = start(both, variant)
    with corridor.client() as alice:
        assert ask(alice, variant, b"alice-1", line).status == 200
        with corridor.client() as bob:
            assert ask(bob, variant, b"bob").status == 200
        assert ask(alice, variant, b"alice-2").status == 200
        assert ask(alice, variant, b"alice-3", line).status == 200
    assert paths(corridor) == [[b"/alice-1", b"/alice-2", b"/alice-3"], [b"/bob"]]
    assert corridor.until(lambda: corridor.upstream.connections[0].ended != "")
    with corridor.client() as carol:
        assert ask(carol, variant, b"carol").status == 200
    assert paths(corridor)[1:] == [[b"/bob", b"/carol"]]
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_body_that_comes_late_where_there_is_none_is_no_answer_on_a_bound_connection_either(
    both: dict[str, Corridor], variant: Variant
):
    """[SM-21] It answers none of the caller's own requests: one that comes so soon goes elsewhere."""
    corridor = start(both, variant)
    unsaid = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 43\r\n\r\n"
    corridor.do(lambda: corridor.upstream.play([unsaid, Wait(0.15), response(b"poison")], [Wait(0.4), response(b"hi")]))
    with corridor.client() as alice:
        assert ask(alice, variant, b"alice-1", NTLM).status == 304
        assert ask(alice, variant, b"alice-2").body == b"hi"
    assert paths(corridor) == [[b"/alice-1"], [b"/alice-2"]]
    assert corridor.faults == []


@pytest.mark.parametrize(
    ("status", "doubt", "pause"), [(b"401 Unauthorized", 1.0, 0.0), (b"304 Not Modified", 0.1, 0.4)]
)
def test_connection_serves_its_caller_after_an_answer_that_told_of_a_body_it_had_not(
    both: dict[str, Corridor], monkeypatch: pytest.MonkeyPatch, status: bytes, doubt: float, pause: float
):
    """At once in the middle of a handshake, where HEAD is answered by 401; else a moment later."""
    monkeypatch.setattr(pool, "DOUBT", doubt)
    corridor = start(both, VARIANTS[0])
    corridor.do(lambda: corridor.upstream.play([b"HTTP/1.1 " + status + b"\r\nContent-Length: 43\r\n\r\n"]))
    with corridor.client() as alice:
        alice.send(b"HEAD /1 HTTP/1.1\r\nHost: none.internal\r\n" + NTLM + b"\r\n").answer(b"HEAD")
        time.sleep(pause)
        assert ask(alice, VARIANTS[0], b"2", NTLM).status == 200
    assert paths(corridor) == [[b"/1", b"/2"]]


@pytest.mark.parametrize("value", [b" CredSSP TlRM", b"NTLM", b" \xa0NTLM TlRM", b" \xc2\x85Kerberos YII"])
def test_every_scheme_that_an_upstream_may_take_for_one_of_a_connection_binds(both: dict[str, Corridor], value: bytes):
    """Some readers take more off a value than the white space of RFC 9110 section 5.6.3."""
    corridor = start(both, VARIANTS[0])
    with corridor.client() as alice, corridor.client() as bob:
        assert ask(alice, VARIANTS[0], b"alice", b"Authorization:" + value + b"\r\n").status == 200
        assert ask(bob, VARIANTS[0], b"bob").status == 200
    assert paths(corridor) == [[b"/alice"], [b"/bob"]]


@pytest.mark.parametrize(
    "line",
    [b"Authorization: Basic bnRsbTpudGxt\r\n", b"Authorization: Bearer NTLM\r\n", b"X-Authorization: NTLM a\r\n", b""],
)
def test_what_speaks_for_one_request_binds_nothing(both: dict[str, Corridor], line: bytes):
    """The next caller takes the connection, as ever."""
    corridor = start(both, VARIANTS[0])
    with corridor.client() as alice, corridor.client() as bob:
        assert ask(alice, VARIANTS[0], b"alice", line).status == 200
        assert ask(bob, VARIANTS[0], b"bob").status == 200
    assert paths(corridor) == [[b"/alice", b"/bob"]]


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_what_an_ordinary_proxy_forwards_is_bound_as_well(variant: Variant):
    """`unmatched: forward`: the destinations that a caller thought of."""
    with Corridor(variant.loop, unmatched="forward") as corridor:
        host = b"127.0.0.1:%d" % corridor.upstream.port
        full = variant._replace(form="absolute")
        with corridor.client() as alice, corridor.client() as bob:
            assert ask(alice, full, b"alice-1", NTLM, host=host).status == 200
            assert ask(bob, full, b"bob", host=host).status == 200
            assert ask(alice, full, b"alice-2", host=host).status == 200
        assert paths(corridor) == [[b"/alice-1", b"/alice-2"], [b"/bob"]]
        assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_bound_connection_that_died_is_replaced_and_the_new_one_is_everybodys(
    both: dict[str, Corridor], variant: Variant
):
    """What has authenticated nothing on the new connection is not bound to it."""
    corridor = start(both, variant)
    corridor.do(lambda: corridor.upstream.play([response(b"1"), Rst]))
    with corridor.client() as alice, corridor.client() as bob:
        assert ask(alice, variant, b"alice-1", NTLM).status == 200
        assert corridor.until(lambda: corridor.wire.upstreams == 0)
        assert ask(alice, variant, b"alice-2").status == 200
        assert ask(bob, variant, b"bob").status == 200
    assert paths(corridor) == [[b"/alice-1"], [b"/alice-2", b"/bob"]]
    assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_caller_that_authenticates_at_a_second_upstream_keeps_one_bound_connection(variant: Variant):
    """No caller holds more connections than it has requests under way: the first is closed, not given to others."""
    with Corridor(variant.loop, unmatched="forward") as corridor:
        full = variant._replace(form="absolute")
        first, second = (b"%b:%d" % (name, corridor.upstream.port) for name in (b"127.0.0.1", b"localhost"))
        with corridor.client() as alice, corridor.client() as bob:
            assert ask(alice, full, b"alice-1", NTLM, host=first).status == 200
            assert ask(alice, full, b"alice-2", NTLM, host=second).status == 200
            assert corridor.until(lambda: corridor.upstream.connections[0].ended != "")
            assert ask(bob, full, b"bob-1", host=first).status == 200
            assert ask(bob, full, b"bob-2", host=second).status == 200
        assert paths(corridor) == [[b"/alice-1"], [b"/alice-2"], [b"/bob-1"], [b"/bob-2"]]
        assert corridor.faults == []


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
def test_inbound_ntlm_on_a_token_route_stays_behind_and_binds_nothing(both: dict[str, Corridor], variant: Variant):
    """The credential there is ours, and speaks for a request."""
    corridor = start(both, variant)
    with corridor.client() as alice, corridor.client() as bob:
        assert ask(alice, variant, b"alice", NTLM, host=b"app.internal").status == 200
        assert ask(bob, variant, b"bob", host=b"app.internal").status == 200
    assert paths(corridor) == [[b"/alice", b"/bob"]]
    assert b"NTLM" not in b"".join(corridor.streams())


ROUTES = """
  - {name: a, match: {host: a.internal}, upstream: "UPSTREAM", as: app, scope: stats.read}
  - {name: b, match: {host: b.internal}, upstream: "UPSTREAM/v1", as: app, scope: stats.write}
  - {name: c, match: {host: c.internal}, upstream: "UPSTREAM", as: none}
  - {name: d, match: {host: d.internal}, upstream: "UPSTREAM", as: none}
  - {name: e, match: {host: e.internal}, upstream: "UPSTREAM", as: none, timeout: {connect: 1s}}
"""


async def test_routes_to_one_upstream_share_its_connections_but_those_with_a_token_are_apart(tmp_path: Path) -> None:
    """What callers write themselves goes on other connections than our tokens; a different way there has its own, too."""
    async with whole(tmp_path, ROUTES) as run:
        run.upstream.default = lambda _seen: [response(b"ok")]
        for name in "abcdecbade":
            assert (await run.ask(f"http://{name}.internal/{name}")).status == 200
        found = [[one.target for one in reread(bytes(each.saw)).requests] for each in run.upstream.connections]
    assert found == [[b"/a", b"/v1/b", b"/v1/b", b"/a"], [b"/c", b"/d", b"/c", b"/d"], [b"/e", b"/e"]]


async def test_routes_that_share_connections_keep_as_many_as_each_would_alone(tmp_path: Path) -> None:
    """[OV-06] 280 requests at once, then again: none of them has to wait for a new connection the second time."""
    async with whole(tmp_path, ROUTES) as run:
        run.upstream.default = lambda _seen: [Wait(1.5), response(b"ok")]
        callers = [await run.caller() for _ in range(280)]
        for _ in range(2):
            asking = [caller.ask("GET", f"http://{'cd'[n % 2]}.internal/") for n, caller in enumerate(callers)]
            assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
        assert len(run.upstream.connections) == 280


async def test_connection_that_a_caller_has_for_itself_ends_with_its_configuration(tmp_path: Path) -> None:
    """[HR-01] As idle ones do: after a reload nobody could use it. The caller goes on, and authenticates anew."""
    async with whole(tmp_path, ROUTES) as run:
        run.upstream.default = lambda _seen: [response(b"ok")]
        caller = await run.caller()
        ntlm = [("Authorization", "NTLM TlRMTVNTUAADAAAA")]
        assert (await caller.ask("GET", "http://c.internal/1", ntlm)).status == 200
        assert await run.program.reload(ENVIRON)
        await until(lambda: run.program.wire.upstreams == 0)
        assert (await caller.ask("GET", "http://c.internal/2", ntlm)).status == 200
