"""The life of tokens as applications, an upstream and the authorization server see it: storms, races, rejections."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from typing import TYPE_CHECKING

import pytest

from sidecar.app import serve
from sidecar.config import load
from sidecar.credentials import records
from tests.support.authorization_server import CLIENTS, AuthorizationServer
from tests.support.program import BOTH, ENVIRON, bearer, guarded, head, subject_of, until, whole
from tests.support.recording_upstream import Wait, response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.recording_upstream import Seen, Step

STATS, PROFILES = "http://stats.internal/x", "http://profiles.internal/x"
REJECTED = response(b"rejected", 401, b'WWW-Authenticate: Bearer error="invalid_token"', b"X-Kept:  kept ")
TWO_SCOPES = """
  - {name: stats, match: {host: stats.internal}, upstream: "UPSTREAM", as: app, scope: stats.read}
  - {match: {host: profiles.internal}, upstream: "UPSTREAM", as: user, scope: profiles.read}
  - {match: {host: mail.internal},     upstream: "UPSTREAM", as: user, scope: "mail.read mail.write"}
"""


# -- storms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_", ["app", "user"])
async def test_200_callers_on_a_cold_key_cost_one_token_request_and_are_all_served(as_: str, tmp_path: Path) -> None:
    """[RF-01, PD-03] Nobody is refused, nobody starts a second token request, all get the same token."""
    async with whole(tmp_path, patience="10s") as run:
        await run.sign_in("alice", "a-session", expires_in=1)
        run.clock.ahead = 5.0
        run.server.faults.change(slow=0.2)
        url, session = (STATS, "") if as_ == "app" else (PROFILES, "a-session")
        replies = await asyncio.gather(*(run.ask(url, session=session) for _ in range(200)))
        assert [reply.status for reply in replies] == [200] * 200
        assert len(run.server.token_requests()) == 1
        assert len(run.tokens) == 200
        assert len(set(run.tokens)) == 1


@pytest.mark.parametrize("as_", ["app", "user"])
async def test_50_concurrent_rejections_cost_one_renewal(as_: str, tmp_path: Path) -> None:
    """[PD-07, RF-13, RF-14] All 50 requests are at the upstream when it rejects them; each is served at its second try."""
    async with whole(tmp_path, patience="10s") as run:
        await run.sign_in("alice", "a-session")
        url, session = (STATS, "") if as_ == "app" else (PROFILES, "a-session")
        assert (await run.ask(url, session=session)).status == 200
        run.server.revoke()
        before, arrived, good = len(run.server.token_requests()), [0], guarded(run.server)

        def answer(one: Seen) -> list[Step]:
            arrived[0] += 1
            return [Wait(0.15), *good(one)] if arrived[0] <= 50 else good(one)

        run.upstream.default = answer
        replies = await asyncio.gather(*(run.ask(url, session=session) for _ in range(50)))
        assert [reply.status for reply in replies] == [200] * 50
        assert len(run.server.token_requests()) == before + 1
        assert arrived == [100]
        assert run.program.metrics.routes["stats" if as_ == "app" else "profiles"].replays == 50


async def test_rejection_of_a_token_that_was_renewed_meanwhile_costs_no_token_request(tmp_path: Path) -> None:
    """[RF-13] The late 401 is for the old token: the new one is used."""
    async with whole(tmp_path) as run:
        assert (await run.ask(STATS)).status == 200
        run.upstream.play([Wait(0.3), REJECTED])
        slow = asyncio.create_task(run.ask("http://stats.internal/slow"))
        await until(lambda: any(b"GET /slow" in stream for stream in run.upstream.streams()))
        run.server.revoke()
        assert (await run.ask(STATS)).status == 200
        renewed = len(run.server.token_requests())
        assert (await slow).status == 200
        assert len(run.server.token_requests()) == renewed == 2


async def test_users_at_once_never_see_each_others_token(tmp_path: Path) -> None:
    """[ID-08, ID-09, PD-12] Users share connections, tokens expire and are revoked, callers leave: no answer is mixed up."""
    users = [f"user-{number}" for number in range(8)]
    chance = random.Random(7)  # noqa: S311 - a scenario, not a secret
    async with whole(tmp_path, patience="10s") as run:
        for user in users:
            await run.sign_in(user, f"session-of-{user}", expires_in=30)

        async def use() -> int:
            caller, served = await run.caller(), 0
            for _ in range(25):
                user = chance.choice(users)
                headers = [("X-Session-Id", f"session-of-{user}")]
                if chance.random() < 0.05:
                    caller.writer.write(head("GET", PROFILES, headers))
                    caller.reset()
                    caller = await run.caller()
                    continue
                reply = await caller.ask("GET", PROFILES, headers)
                if reply.status == 401 and reply.body == b"rejected":
                    continue  # revoked again while it was replayed: the upstream's own answer
                assert (reply.status, reply.document["subject"]) == (200, user)
                served += 1
            return served

        async def disturb() -> None:
            for _ in range(6):
                await asyncio.sleep(0.03)
                run.server.revoke(chance.choice(users))
                run.clock.ahead += 8.0

        *served, _ = await asyncio.gather(*(use() for _ in range(8)), disturb())
        assert sum(served) > 150
        assert {record.outcome for record in run.server.token_requests()} == {"ok"}


async def test_two_routes_share_one_refresh_chain_under_load(tmp_path: Path) -> None:
    """[RF-01] Rotation with reuse detection, two scopes, five expiries, 40 callers each: the session survives them all."""
    async with whole(tmp_path, TWO_SCOPES, patience="10s") as run:
        await run.sign_in("alice", "a-session", "profiles.read mail.read mail.write", expires_in=1)
        for round_ in range(5):
            run.clock.ahead += 400.0
            hosts = ["profiles", "mail"] * 20
            replies = await asyncio.gather(
                *(run.ask(f"http://{host}.internal/{host}", session="a-session") for host in hosts)
            )
            assert {reply.status for reply in replies} == {200}, round_
        scopes = {(one.target, run.server.state.ledger.access[bearer(one)].claims["scope"]) for one in run.seen}
        assert scopes == {(b"/profiles", "profiles.read"), (b"/mail", "mail.read mail.write")}
        asked = run.server.token_requests(grant_type="refresh_token")
        assert [record.outcome for record in asked] == ["ok"] * 10


async def test_two_instances_on_one_store_spend_a_refresh_token_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[PD-10, RF-02, RF-03] The provider takes four times the lock's lease: the lease is renewed, the session survives."""
    monkeypatch.setattr(records, "LOCK_LEASE", 0.3)
    store = f'store: {{url: "sqlite:{tmp_path}/sidecar.db"}}\n'
    async with whole(tmp_path, more=store, patience="10s") as run:
        await run.sign_in("alice", "a-session", expires_in=1)
        run.clock.ahead = 5.0
        run.server.faults.change(slow=1.2)
        async with serve(load(run.program.path, ENVIRON), clock=run.clock) as second:
            ports = [run.program.proxy_port, second.proxy_port] * 10
            replies = await asyncio.gather(*(run.ask(PROFILES, session="a-session", port=port) for port in ports))
        assert [reply.status for reply in replies] == [200] * 20
        assert [record.outcome for record in run.server.token_requests()] == ["ok"]
        assert len(set(run.tokens)) == 1


# -- renewal -------------------------------------------------------------------------------------------------------


async def test_token_is_renewed_before_its_expiry_in_the_background(tmp_path: Path) -> None:
    """[RF-16] Inside the early window the request goes at once with the old token, the next one has the new token."""
    async with whole(tmp_path, patience="10s") as run:
        old = (await run.sign_in("alice", "a-session"))["access_token"]
        assert (await run.ask(PROFILES, session="a-session")).status == 200
        run.clock.ahead = 300.0 - 40.0  # the early window of 300 s is at least 60 s
        run.server.faults.change(slow=0.5)
        assert (await run.ask(PROFILES, session="a-session")).status == 200
        assert run.server.token_requests() == []  # it is not answered yet
        await until(lambda: len(run.server.token_requests()) == 1)
        await until(lambda: not run.program.broker.states()["renewing"])
        assert (await run.ask(PROFILES, session="a-session")).status == 200
        first, second, third = run.tokens
        assert first == second == old != third
        assert subject_of(run.server, third) == "alice"


@pytest.mark.parametrize(("life", "renewed"), [(30, True), (24 * 3600, False)], ids=["token of 30 s", "token of a day"])
async def test_renewal_follows_the_tokens_life_not_the_sessions_age(life: int, renewed: bool, tmp_path: Path) -> None:
    """[PD-16] Sessions of one age: the one with the short token is renewed, the other is not."""
    async with whole(tmp_path) as run:
        old = (await run.sign_in("alice", "a-session", expires_in=life))["access_token"]
        run.clock.ahead = 31.0
        assert (await run.ask(PROFILES, session="a-session")).status == 200
        assert (run.tokens != [old]) == renewed
        assert len(run.server.token_requests()) == int(renewed)


async def test_answer_without_a_new_refresh_token_keeps_the_old_one(tmp_path: Path) -> None:
    """[RF-09] RFC 6749 section 6: the refresh token goes on where no other is given."""
    async with whole(tmp_path) as run:
        run.server.policy.rotate = False
        await run.sign_in("alice", "a-session")
        for _ in range(3):
            run.clock.ahead += 400.0
            assert (await run.ask(PROFILES, session="a-session")).status == 200
        assert [record.outcome for record in run.server.token_requests()] == ["ok"] * 3


async def test_renewal_goes_on_and_is_kept_although_every_caller_has_left(tmp_path: Path) -> None:
    """[RF-11] The refresh token was spent for them: what came of it must not be lost."""
    async with whole(tmp_path, patience="10s") as run:
        await run.sign_in("alice", "a-session", expires_in=1)
        run.clock.ahead = 5.0
        run.server.faults.change(slow=0.2)
        caller = await run.caller()
        caller.writer.write(head("GET", PROFILES, [("X-Session-Id", "a-session")]))
        await until(lambda: run.program.broker.states()["renewing"] == 1)
        caller.reset()
        await until(lambda: len(run.server.token_requests()) == 1)
        await until(lambda: not run.program.broker.states()["renewing"])
        run.server.faults.clear()
        assert (await run.ask(PROFILES, session="a-session")).status == 200
        assert len(run.server.token_requests()) == 1


# -- rejection -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_", ["app", "user"])
@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_revoked_token_is_renewed_after_a_401_and_the_request_replayed_once(
    as_: str, method: str, tmp_path: Path
) -> None:
    """[RT-01, RT-02, RT-10, PD-05] The caller sees 200 only; the upstream saw the old token, then a new one."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", "a-session")
        url, session = (STATS, "") if as_ == "app" else (PROFILES, "a-session")
        assert (await run.ask(url, session=session)).status == 200
        run.forget()
        run.server.revoke()
        body = None if method == "GET" else os.urandom(500)
        reply = await run.ask(url, method=method, body=body, session=session)
        assert (reply.status, reply.document["bytes"]) == (200, len(body or b""))
        old, new = run.tokens
        assert old != new
        assert [one.body for one in run.seen] == [body or b""] * 2
        assert {subject_of(run.server, token) for token in (old, new)} == {"legacy-app" if as_ == "app" else "alice"}


async def test_second_401_is_passed_on_unchanged_and_costs_no_storm(tmp_path: Path) -> None:
    """[RT-05, RF-14] An API that rejects every token gets one renewal, and its own answer reaches the caller."""
    async with whole(tmp_path) as run:
        assert (await run.ask(STATS)).status == 200
        run.forget()
        run.upstream.default = lambda _: [REJECTED]
        reply = await run.ask(STATS)
        assert (reply.status, reply.body, reply.code) == (401, b"rejected", "")
        assert reply.one("www-authenticate") == 'Bearer error="invalid_token"'
        assert (len(run.tokens), len(set(run.tokens))) == (2, 2)
        for _ in range(20):
            assert (await run.ask(STATS)).body == b"rejected"
        assert len(run.server.token_requests()) == 2
        assert len(run.tokens) == 22


async def test_request_is_sent_twice_at_most_whatever_the_time(tmp_path: Path) -> None:
    """[RT-05, RT-06] The second 401 is the caller's, although a renewal would be tried again by now."""
    async with whole(tmp_path) as run:

        def reject(_one: Seen) -> list[Step]:
            run.clock.ahead += 400.0  # every pause between renewals for rejections is over
            return [REJECTED]

        await run.sign_in("alice", "a-session")
        run.upstream.default = reject
        reply = await run.ask(PROFILES, session="a-session")
        assert (reply.status, reply.body, reply.code) == (401, b"rejected", "")
        assert len(run.tokens) == 2
        assert len(run.server.token_requests()) == 1


@pytest.mark.parametrize("as_", ["app", "user"])
async def test_token_that_has_just_helped_is_renewed_when_it_is_rejected_too(as_: str, tmp_path: Path) -> None:
    """[RF-14] Each was accepted before it was revoked: no pause, a second try each time."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", "a-session")
        url, session = (STATS, "") if as_ == "app" else (PROFILES, "a-session")
        for _ in range(4):
            assert (await run.ask(url, session=session)).status == 200
            run.server.revoke()
        assert (await run.ask(url, session=session)).status == 200


@pytest.mark.parametrize("as_", ["app", "user"])
async def test_token_used_while_its_renewal_fails_is_refused_from_its_expiry_on(as_: str, tmp_path: Path) -> None:
    """[IDP-01, IDP-02] It rests from renewals for longer than it has to live: the rest ends with it."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", "a-session")
        url, session = (STATS, "") if as_ == "app" else (PROFILES, "a-session")
        assert (await run.ask(url, session=session)).status == 200
        run.server.faults.change(status=500)
        before, (credential,) = len(run.tokens), run.program.broker._hot.values()
        end = credential.usable_until - run.clock() + run.clock.ahead
        for left in (4.0, 3.0):
            run.clock.ahead = end - left
            assert (await run.ask(url, session=session)).status == 200
            await until(lambda: not run.program.broker._flights.tasks())
        (credential,) = run.program.broker._hot.values()
        assert credential.fresh(run.clock())  # STILL_USE: no renewal is tried for a while
        run.clock.ahead = end + 0.2
        reply = await run.ask(url, session=session)
        assert (reply.status, reply.code) == (503, "provider_unavailable")
        assert len(run.tokens) == before + 2


@pytest.mark.parametrize(
    ("method", "status", "challenge", "sent"),
    [
        pytest.param("GET", 403, 'Bearer error="insufficient_scope"', 1, id="403 [RT-09, PD-06]"),
        pytest.param("GET", 403, 'Bearer error="invalid_token"', 1, id="403 invalid_token [RT-09]"),
        pytest.param("GET", 407, "Bearer", 1, id="407 [RT-09]"),
        pytest.param("GET", 500, 'Bearer error="invalid_token"', 1, id="500 [RT-09]"),
        pytest.param("GET", 401, 'Basic realm="api"', 1, id="401 Basic [UP-12]"),
        pytest.param("GET", 401, 'Bearer error="insufficient_scope"', 1, id="401 insufficient_scope [UP-12]"),
        pytest.param("GET", 401, 'DPoP error="use_dpop_nonce"', 1, id="401 DPoP nonce [UP-13]"),
        pytest.param("GET", 401, "", 2, id="401 without a challenge"),
        pytest.param("GET", 401, 'Bearer realm="a, b", error="invalid_token"', 2, id="401 invalid_token"),
        pytest.param("GET", 401, 'Basic realm="x", Bearer error=invalid_token', 2, id="401 among others"),
        pytest.param("POST", 401, "", 1, id="POST without a challenge [PD-06]"),
        pytest.param("POST", 401, "Bearer", 1, id="POST without invalid_token [PD-06]"),
        pytest.param("PATCH", 401, "Bearer", 1, id="PATCH without invalid_token"),
        pytest.param("POST", 401, 'Bearer error="invalid_token"', 2, id="POST with invalid_token [RT-02]"),
        pytest.param("DELETE", 401, "Bearer", 2, id="DELETE, which is idempotent"),
    ],
)
async def test_only_a_401_for_our_token_is_acted_on(
    method: str, status: int, challenge: str, sent: int, tmp_path: Path
) -> None:
    """Every other answer goes to the caller as it is, and the request was sent once."""
    async with whole(tmp_path) as run:
        assert (await run.ask(STATS)).status == 200
        run.forget()
        line = [f"WWW-Authenticate: {challenge}".encode()] if challenge else []
        run.upstream.default = lambda _: [response(b"theirs", status, *line)]
        reply = await run.ask(STATS, method=method, body=b"x" if method in ("POST", "PATCH") else None)
        assert (reply.status, reply.body, reply.one("www-authenticate")) == (status, b"theirs", challenge)
        assert len(run.seen) == sent
        assert len(set(run.tokens)) == sent


async def test_rejected_post_that_may_not_be_replayed_gets_the_next_one_a_new_token(tmp_path: Path) -> None:
    """[RT-03] The 401 goes to the caller, the renewal happens all the same."""
    async with whole(tmp_path) as run:
        assert (await run.ask(STATS)).status == 200
        run.server.revoke()
        run.upstream.play([response(b"no", 401)])
        assert (await run.ask(STATS, method="POST", body=b"x")).status == 401
        assert (await run.ask(STATS)).status == 200
        assert len(run.seen) == 3
        assert len(run.server.token_requests()) == 2


# -- the end of a session ------------------------------------------------------------------------------------------


async def test_invalid_grant_ends_that_session_and_nothing_else(tmp_path: Path) -> None:
    """[RF-07, PD-18] Alice must sign in again, and the provider is not asked again for her; Bob and the app go on."""
    async with whole(tmp_path) as run:
        for user in ("alice", "bob"):
            await run.sign_in(user, f"{user}s-session", expires_in=1)
        run.server.kill("alice")
        run.clock.ahead = 5.0
        for _ in range(3):
            reply = await run.ask(PROFILES, session="alices-session")
            assert (reply.status, reply.code) == (401, "login_required")
        assert [record.outcome for record in run.server.token_requests()] == ["invalid_grant"]
        assert (await run.admin("GET", "/v1/sessions/alices-session")).status == 404
        assert (await run.ask(PROFILES, session="bobs-session")).document["subject"] == "bob"
        assert (await run.ask(STATS)).document["subject"] == "legacy-app"
        await run.sign_in("alice", "alices-session")
        assert (await run.ask(PROFILES, session="alices-session")).document["subject"] == "alice"


@pytest.mark.parametrize(
    "fault",
    [
        {"error": "invalid_client"}, {"error": "invalid_scope"}, {"error": "unauthorized_client"},
        {"error": "temporarily_unavailable"}, {"error": "server_error"}, {"status": 401}, {"status": 400},
    ],
    ids=str,
)  # fmt: skip
async def test_other_errors_of_the_provider_end_no_session(fault: dict[str, object], tmp_path: Path) -> None:
    """[PD-18] The session outlives the fault, with the refresh token it had."""
    async with whole(tmp_path) as run:
        await run.sign_in("alice", "a-session", expires_in=1)
        run.clock.ahead = 5.0
        run.server.faults.change(**fault)
        reply = await run.ask(PROFILES, session="a-session")
        assert reply.status in (502, 503), reply
        assert run.seen == []
        run.server.faults.clear()
        run.clock.ahead += 120.0  # the back-off is over
        assert (await run.ask(PROFILES, session="a-session")).document["subject"] == "alice"


# -- what other proxies got wrong ----------------------------------------------------------------------------------


async def test_inbound_authorization_is_replaced_not_merged(tmp_path: Path) -> None:
    """[PD-02, HD-04] One Authorization line arrives, and it is ours, however many the caller sent."""
    async with whole(tmp_path) as run:
        lines = [("Authorization", "Bearer theirs"), ("authorization", "Basic dGhlaXJz"), ("DPoP", "proof")]
        assert (await run.ask(STATS, lines)).status == 200
        (one,) = run.seen
        assert len(one.all(b"authorization")) == 1
        assert subject_of(run.server, bearer(one)) == "legacy-app"
        assert one.all(b"dpop") == []


async def test_scopes_are_asked_for_as_words_with_spaces(tmp_path: Path) -> None:
    """[PD-03] A list and a text ask for the same words; two scopes of one audience are two tokens."""
    routes = """
  - {match: {host: a.internal}, upstream: "UPSTREAM", as: app, scope: "one two", audience: same}
  - {match: {host: b.internal}, upstream: "UPSTREAM", as: app, scope: [three, four], audience: same}
"""
    async with whole(tmp_path, routes) as run:
        await run.ask("http://a.internal/")
        await run.ask("http://b.internal/")
        assert [set(record.scope.split(" ")) for record in run.server.token_requests()] == [
            {"one", "two"}, {"three", "four"},
        ]  # fmt: skip
        assert len(set(run.tokens)) == 2


async def test_slow_provider_does_not_delay_the_routes_of_another(tmp_path: Path) -> None:
    """[PD-08, IDP-17] While one provider's token requests hang, another's routes are served at once."""
    async with AuthorizationServer(CLIENTS) as second:
        routes = (
            BOTH.replace("as:", "provider: idp, as:")
            + """
  - {match: {host: other.internal}, upstream: "UPSTREAM", provider: other, as: app, scope: a}
"""
        )
        other = f'  other: {{issuer: "{second.issuer}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}"}}\n'
        async with whole(tmp_path, routes, patience="10s", providers=other) as run:
            run.upstream.default = lambda _: [response(b"ok")]
            run.server.faults.change(slow=1.5)
            hanging = [asyncio.create_task(run.ask(STATS)) for _ in range(5)]
            await until(lambda: run.program.broker.states()["renewing"] == 1)
            assert (await run.ask("http://other.internal/x")).status == 200
            assert not any(task.done() for task in hanging)
            assert {reply.status for reply in await asyncio.gather(*hanging)} == {200}


async def test_streams_are_not_cut_by_the_time_for_a_response(tmp_path: Path) -> None:
    """[PD-09, PD-14] Events come for longer than `timeout.response` and `timeout.idle`, each as soon as it is sent."""
    routes = BOTH.replace("scope: stats.read", "scope: stats.read, timeout: {response: 200ms, idle: 200ms}")
    async with whole(tmp_path, routes) as run:
        start = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        run.upstream.default = lambda _: [start, b"8\r\ndata: 1\n\r\n", Wait(0.6), b"8\r\ndata: 2\n\r\n", b"0\r\n\r\n"]
        caller = await run.caller()
        caller.writer.write(head("GET", STATS))
        await caller.reader.readuntil(b"\r\n\r\n")
        began = time.monotonic()
        assert await caller.reader.readexactly(13) == b"8\r\ndata: 1\n\r\n"
        assert time.monotonic() - began < 0.55
        assert await caller.reader.readexactly(18) == b"8\r\ndata: 2\n\r\n0\r\n\r\n"


async def test_bytes_that_are_no_text_arrive_as_they_are(tmp_path: Path) -> None:
    """[PD-13] A megabyte of random bytes goes there and back."""
    async with whole(tmp_path) as run:
        body = os.urandom(1 << 20)
        run.upstream.default = lambda one: [response(one.body)]
        reply = await run.ask(STATS, method="POST", body=body)
        assert reply.body == body
        assert run.seen[0].body == body


async def test_session_page_never_shows_a_token(tmp_path: Path) -> None:
    """[LK-11] What the session API answers about a session is metadata."""
    async with whole(tmp_path) as run:
        tokens = await run.sign_in("alice", "a-session")
        for path in ("/v1/sessions", "/v1/sessions/a-session", "/", "/metrics", "/readyz"):
            body = (await run.admin("GET", path)).body
            assert body
            for secret in (tokens["access_token"], tokens["refresh_token"], "a-session"):
                assert secret.encode() not in body
        assert json.loads((await run.admin("GET", "/v1/sessions/a-session")).body)["providers"][0]["provider"] == "idp"
