"""The invariants that can be seen from outside, each as what an upstream, a caller and the authorization server saw.

Numbers 8, 9 and 12 are shown elsewhere: by the imports, by the canaries, and by the configuration's own tests.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.errors import REFUSALS
from tests.support.program import BOTH, bearer, guarded, head, seen, subject_of, until, whole
from tests.support.recording_upstream import RecordingUpstream, response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TWO_PLACES = (
    BOTH
    + """
  - {name: other, match: {host: other.internal}, upstream: "OTHER", as: app, scope: other.read}
  - {name: plain, match: {host: plain.internal}, upstream: "OTHER", as: none}
"""
)


@pytest.fixture
async def other() -> AsyncIterator[RecordingUpstream]:
    """An upstream of another party."""
    upstream = RecordingUpstream()
    await upstream.start()
    yield upstream
    await upstream.stop()


def placed(routes: str, other: RecordingUpstream) -> str:
    """Return routes with the other upstream's address."""
    return routes.replace("OTHER", f"http://127.0.0.1:{other.port}")


# -- 1 -------------------------------------------------------------------------------------------------------------


async def test_invariant_01_no_route_no_token(tmp_path: Path, other: RecordingUpstream) -> None:
    """[SS-01, SS-03, SS-09, PD-04] Without a route nothing is sent: not for look-alikes, not for another port."""
    routes = '\n  - {match: {host: "stats.internal:80", path: /api}, upstream: "UPSTREAM", as: app, scope: a}\n'
    async with whole(tmp_path, routes) as run:
        assert (await run.ask("http://stats.internal/api/x")).status == 200
        run.forget()
        here = f"http://127.0.0.1:{other.port}/api"
        for target in (
            here,
            "http://stats.internal.evil.test/api",
            "http://evil-stats.internal/api",
            "http://stats.internal:81/api",
            "http://stats.internal/apix",
            "http://stats.internal/",
            "http://127.1/api",
            "http://2130706433/api",
            "http://0x7f000001/api",
            "http://[::ffff:127.0.0.1]/api",
            "http://0.0.0.0/api",
            "/api",
        ):
            reply = await run.ask(target)
            assert (reply.status, reply.code) == (403, "no_route"), target
        assert run.seen == seen(other) == []


async def test_invariant_01_unmatched_traffic_is_forwarded_without_a_token(
    tmp_path: Path, other: RecordingUpstream
) -> None:
    """With `unmatched: forward` other destinations are served as by an ordinary proxy, and never get a token."""
    async with whole(tmp_path, more="unmatched: forward") as run:
        await run.sign_in("alice", "a-session")
        reply = await run.ask(f"http://127.0.0.1:{other.port}/x", session="a-session")
        assert reply.body == b"GET /x"
        assert [one.all(b"authorization") for one in seen(other)] == [[]]
        assert [one.all(b"x-session-id") for one in seen(other)] == [[]]
        assert run.server.token_requests() == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_invariant_01_redirects_go_back_to_the_caller_and_are_never_followed(
    status: int, tmp_path: Path, other: RecordingUpstream
) -> None:
    """[LK-01, SS-10] A token does not follow a Location, wherever it points."""
    async with whole(tmp_path) as run:
        where = f"http://127.0.0.1:{other.port}/elsewhere"
        run.upstream.default = lambda _: [response(b"", status, b"Location: " + where.encode())]
        reply = await run.ask("http://stats.internal/x")
        assert (reply.status, reply.one("location")) == (status, where)
        assert len(run.seen) == 1
        assert other.streams() == []


async def test_invariant_01_each_token_goes_to_its_own_route_on_one_connection(
    tmp_path: Path, other: RecordingUpstream
) -> None:
    """[LK-02, ID-09] A connection that alternates between routes brings each upstream its own token and no other."""
    async with whole(tmp_path, placed(TWO_PLACES, other)) as run:
        await run.sign_in("alice", "a-session")
        caller = await run.caller()
        for _ in range(3):
            for host in ("stats", "other", "profiles", "plain"):
                headers = [("X-Session-Id", "a-session")]
                assert (await caller.ask("GET", f"http://{host}.internal/{host}", headers)).status == 200
        claims = run.server.state.ledger.access
        got = {(one.target, claims[token].claims["scope"]) for one in run.seen for token in [bearer(one)]}
        assert got == {(b"/stats", "stats.read"), (b"/profiles", "profiles.read")}
        theirs = [(one.target, bearer(one)) for one in seen(other)]
        assert {claims[token].claims["scope"] for target, token in theirs if target == b"/other"} == {"other.read"}
        assert {token for target, token in theirs if target == b"/plain"} == {""}


# -- 2 -------------------------------------------------------------------------------------------------------------

IDENTIFIED = """callers:
  session: [{cookie: sidecar_session}, {header: X-Session-Id}]
  apps:
    billing: {basic: billing-key}
    reports: {header: X-Api-Key, key: reports-key}
unmatched: forward
"""
BASIC = ("Proxy-Authorization", "Basic YmlsbGluZzpiaWxsaW5nLWtleQ==")
KEY = ("X-Api-Key", "reports-key")
CARRIERS = [
    pytest.param([BASIC, ("X-Session-Id", "a-session")], id="basic and session header"),
    pytest.param([KEY, ("Cookie", "a=1; sidecar_session=a-session; b=2")], id="key and cookie"),
    pytest.param(
        [BASIC, KEY, ("X-Session-Id", "a-session"), ("Cookie", "sidecar_session=a-session")], id="all at once"
    ),
    pytest.param(
        [BASIC, ("x-SESSION-id", "a-session"), ("X_Session_Id", "a-session"), ("X_Api_Key", "reports-key")],
        id="other spellings [HD-07]",
    ),
]


@pytest.mark.parametrize("headers", CARRIERS)
@pytest.mark.parametrize("host", ["stats.internal", "profiles.internal", "plain.internal", "unmatched"])
async def test_invariant_02_what_identifies_the_caller_never_reaches_the_upstream(
    host: str, headers: list[tuple[str, str]], tmp_path: Path, other: RecordingUpstream
) -> None:
    """[HD-08] Whichever source matched, and on routes that use none, all of them stay behind; other lines arrive."""
    async with whole(tmp_path, placed(TWO_PLACES, other), IDENTIFIED) as run:
        await run.sign_in("alice", "a-session")
        authority = f"127.0.0.1:{other.port}" if host == "unmatched" else host
        extra = [("X-Kept", "kept"), ("Authorization", "Bearer callers-own")]
        reply = await run.ask(f"http://{authority}/x", [*headers, *extra])
        assert reply.status == 200
        stream = b"".join(run.upstream.streams() + other.streams())
        assert b"X-Kept: kept" in stream
        for secret in (b"a-session", b"billing", b"YmlsbGluZ", b"reports-key", b"ession", b"pi-Key", b"pi_Key"):
            assert secret not in stream
        # The caller's own Authorization is replaced on a token route and none of our business elsewhere.
        assert (b"callers-own" in stream) == (host in ("plain.internal", "unmatched"))
        if b"a=1; " in str(headers).encode():
            assert b"\r\nCookie: a=1; b=2\r\n" in stream


# -- 3 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "wanted"),
    [
        pytest.param("http://stats.internal/x", "profiles.internal", "stats.internal", id="another route's name"),
        pytest.param("http://STATS.internal.:80/x", "evil.test", "stats.internal", id="spelled otherwise [SS-11]"),
        pytest.param("/x", "stats.internal", "stats.internal", id="origin-form"),
        pytest.param("http://evil.test/x", "stats.internal", "", id="a name without a route"),
    ],
)
async def test_invariant_03_the_request_target_rules(target: str, host: str, wanted: str, tmp_path: Path) -> None:
    """[HD-22] Host never overrules an absolute target; towards the upstream it is the upstream's own name."""
    async with whole(tmp_path) as run:
        reply = await run.ask(target, [("Host", host)])
        assert (reply.code == "no_route") == (not wanted)
        subjects = [subject_of(run.server, token) for token in run.tokens]
        assert subjects == (["legacy-app"] if wanted else [])
        assert [one.all(b"host") for one in run.seen] == [[f"127.0.0.1:{run.upstream.port}".encode()]] * bool(wanted)


async def test_invariant_03_two_hosts_or_none_are_refused(tmp_path: Path) -> None:
    """A request whose Host is not there exactly once has no one meaning."""
    async with whole(tmp_path) as run:
        for lines in (
            "Host: stats.internal\r\nHost: stats.internal\r\n",
            "",
            "Host: a b\r\n",
            "Host: u@stats.internal\r\n",
        ):
            caller = await run.caller()
            caller.writer.write(f"GET http://stats.internal/x HTTP/1.1\r\n{lines}\r\n".encode())
            reply = await caller.reply()
            assert (reply.status, reply.code) == (400, "bad_request"), lines
            assert await caller.ended()
        assert run.upstream.streams() == []


# -- 4, 5 and 6 ----------------------------------------------------------------------------------------------------

MANY = """
  - {match: {host: one.internal},   upstream: "UPSTREAM", as: user, scope: profiles.read}
  - {match: {host: two.internal},   upstream: "UPSTREAM", as: user, scope: "profiles.read mail.read"}
  - {match: {host: three.internal}, upstream: "UPSTREAM", as: user, scope: profiles.read, audience: "https://three.test"}
  - {match: {host: four.internal},  upstream: "UPSTREAM", as: user, scope: profiles.read, resource: "https://four.test"}
  - {match: {host: five.internal},  upstream: "UPSTREAM", as: app,  scope: profiles.read}
  - {match: {host: six.internal},   upstream: "UPSTREAM", as: app,  scope: profiles.read, params: {tenant: six}}
"""
HOSTS = ("one", "two", "three", "four", "five", "six")


async def test_invariant_04_one_key_per_token_one_lock_per_chain(tmp_path: Path) -> None:
    """[LK-03, PD-03] Six routes and two users at once: ten tokens, and not one refresh token spent twice.

    The authorization server rotates and detects reuse: one refresh token spent twice would end a session.
    """
    async with whole(tmp_path, MANY) as run:
        whole_scope = "profiles.read mail.read"
        for user in ("alice", "bob"):
            await run.sign_in(user, f"{user}s-session", whole_scope, expires_in=1)
        run.clock.ahead = 5.0  # everything that was handed over is expired
        asked = [
            run.ask(f"http://{host}.internal/{user}/{host}", session=f"{user}s-session")
            for _ in range(5)
            for user in ("alice", "bob")
            for host in HOSTS
        ]
        assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
        by_key = {(one.target, bearer(one)) for one in run.seen}
        assert len(by_key) == 12
        assert len({token for _, token in by_key}) == 10
        for target, token in by_key:
            user, host = target.decode().split("/")[1:]
            wanted = "legacy-app" if host in ("five", "six") else user
            assert subject_of(run.server, token) == wanted
        assert {record.outcome for record in run.server.token_requests()} == {"ok"}


async def test_invariant_05_one_token_request_per_key_at_a_time(tmp_path: Path) -> None:
    """[RF-15] However many ask for a token that is being asked for, the authorization server is asked once."""
    async with whole(tmp_path, patience="5s") as run:
        run.server.faults.change(slow=0.2)
        replies = await asyncio.gather(*(run.ask("http://stats.internal/x") for _ in range(60)))
        assert {reply.status for reply in replies} == {200}
        assert len(run.server.token_requests()) == 1
        assert len(set(run.tokens)) == 1


async def test_invariant_06_a_leaving_caller_harms_no_other(tmp_path: Path) -> None:
    """[RF-11] The caller that began a token request goes; those who wait with it are served by the same request."""
    async with whole(tmp_path, patience="5s") as run:
        run.server.faults.change(slow=0.3)
        first = await run.caller()
        first.writer.write(head("GET", "http://stats.internal/first"))
        await until(lambda: run.program.broker.states()["renewing"] == 1)
        others = [asyncio.create_task(run.ask("http://stats.internal/other")) for _ in range(10)]
        await asyncio.sleep(0.05)
        first.reset()
        assert {reply.status for reply in await asyncio.gather(*others)} == {200}
        assert len(run.server.token_requests()) == 1
        assert {one.target for one in run.seen} == {b"/other"}


# -- 7 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "headers", "fault", "status", "code"),
    [
        pytest.param("profiles", [], {}, 401, "login_required", id="no session"),
        pytest.param("profiles", [("X-Session-Id", "unknown")], {}, 401, "login_required", id="unknown session [ID-01]"),
        pytest.param("profiles", [("X-Session-Id", "a b")], {}, 401, "login_required", id="malformed session [ID-01]"),
        pytest.param("profiles", [("X-Session-Id", "x" * 5000)], {}, 401, "login_required", id="long session [ID-01]"),
        pytest.param(
            "profiles", [("X-Session-Id", "a-session"), ("X-Session-Id", "b-session")], {}, 400, "bad_request",
            id="two sessions [ID-06]",
        ),
        pytest.param("stats", [], {"down": True}, 503, "provider_unavailable", id="provider down [PD-01]"),
        pytest.param("stats", [], {"empty": True}, 502, "provider_invalid", id="empty answer [PD-01]"),
        pytest.param("stats", [("X-Session-Id", "a-session")], {"down": True}, 503, "provider_unavailable",
                     id="a user's session on an app's route [ID-11]"),
        pytest.param("stats", [("Authorization", "Bearer callers-own")], {"down": True}, 503, "provider_unavailable",
                     id="with the caller's own token"),
    ],
)  # fmt: skip
async def test_invariant_07_fail_closed(
    what: str, headers: list[tuple[str, str]], fault: dict[str, object], status: int, code: str, tmp_path: Path
) -> None:
    """Without its own token a request is not sent: not bare, not with the application's, not with another user's."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", "a-session")
        assert (await run.ask("http://profiles.internal/x", session="a-session")).status == 200
        run.forget()
        run.server.faults.change(**fault)
        reply = await run.ask(f"http://{what}.internal/x", headers)
        assert (reply.status, reply.code) == (status, code)
        assert run.upstream.streams() == []


async def test_invariant_07_a_user_is_never_served_with_the_applications_token(tmp_path: Path) -> None:
    """[PD-17] The application's token is at hand and the user's cannot be renewed: the user's request is refused."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", "a-session", expires_in=1)
        assert (await run.ask("http://stats.internal/x")).status == 200
        run.forget()
        run.clock.ahead = 5.0
        run.server.faults.change(status=500)
        reply = await run.ask("http://profiles.internal/x", session="a-session")
        assert (reply.status, reply.code) == (503, "provider_unavailable")
        assert run.upstream.streams() == []


# -- 10 ------------------------------------------------------------------------------------------------------------


async def test_invariant_10_a_body_passes_in_a_stream(tmp_path: Path) -> None:
    """[PD-14, PD-13] Each piece of a body arrives before the next one is sent, in both directions."""
    async with whole(tmp_path) as run:
        caller = await run.caller()
        caller.writer.write(head("POST", "http://stats.internal/x", [("Content-Length", "6")]))
        for piece in (b"\x00\xff", b"\r\n", b"zz"):
            caller.writer.write(piece)
            await until(lambda piece=piece: run.upstream.streams() and run.upstream.streams()[0].endswith(piece))
        assert (await caller.reply("POST")).status == 200
        run.upstream.default = lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n\x00\xff"]
        caller.writer.write(head("GET", "http://stats.internal/x"))
        assert (await caller.reader.readuntil(b"\r\n\r\n"))[:15] == b"HTTP/1.1 200 OK"
        assert await caller.reader.readexactly(2) == b"\x00\xff"
        for piece in (b"\r\n", b"zz"):
            run.upstream.connections[0].transport.write(piece)
            assert await caller.reader.readexactly(2) == piece


@pytest.mark.parametrize(
    ("size", "challenge", "sent", "status"),
    [
        pytest.param(1000, b'Bearer error="invalid_token"', 2, 200, id="kept whole"),
        pytest.param(65536, b'Bearer error="invalid_token"', 2, 200, id="as long as the limit"),
        pytest.param(65537, b'Bearer error="invalid_token"', 1, 401, id="longer than the limit [RT-03]"),
        pytest.param(1000, b"Bearer", 1, 401, id="not said to be unused [PD-06]"),
    ],
)
async def test_invariant_10_no_replay_unless_the_body_was_kept_whole(
    size: int, challenge: bytes, sent: int, status: int, tmp_path: Path
) -> None:
    """[RT-02] A POST is sent again once, byte for byte, where all of it was kept and the API says it has not acted."""
    async with whole(tmp_path) as run:
        assert (await run.ask("http://stats.internal/warm")).status == 200
        run.forget()
        run.server.revoke()
        good = guarded(run.server)

        def answer(one):
            steps = good(one)
            return [response(b"no", 401, b"WWW-Authenticate: " + challenge)] if b" 401 " in steps[0][:20] else steps

        run.upstream.default = answer
        body = bytes(range(256)) * 256 + b"!"
        reply = await run.ask("http://stats.internal/x", method="POST", body=body[:size])
        assert reply.status == status
        assert [one.body for one in run.seen] == [body[:size]] * sent


# -- 11 ------------------------------------------------------------------------------------------------------------


async def test_invariant_11_every_failure_has_a_name_a_status_and_a_row(tmp_path: Path) -> None:
    """What the sidecar refuses says so: a code of the table, its status, and Proxy-Status. The docs have the row."""
    documented = (Path(__file__).parents[2] / "docs" / "refusals.md").read_text()
    async with whole(tmp_path) as run:
        replies = [
            await run.ask("http://nowhere.internal/x"),
            await run.ask("http://profiles.internal/x"),
            await run.ask("http://stats.internal/%2f"),
            await run.ask("http://stats.internal/x", method="TRACE"),
        ]
    for reply in replies:
        row = REFUSALS[reply.code]
        assert (reply.status, reply.one("proxy-status")) == (row.status, f"sidecar; error={row.proxy_error}")
        assert f"`{reply.code}`" in documented
