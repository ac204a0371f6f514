"""What callers get, and what the upstream sees, while the authorization server is at fault: one table.

Each fault meets four states of the token: none yet, valid, stale (inside the early window) and expired. Whatever the
fault: a valid token goes on, an expired one never does, nothing is sent without a token, no session ends, and all is
well again once the fault is gone.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sidecar.provider import BACKED_OFF
from tests.support.authorization_server import MISSING
from tests.support.program import subject_of, until, whole
from tests.support.scripted_server import ScriptedServer, response

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.program import Whole
    from tests.support.scripted_server import Received

STATS, PROFILES = "http://stats.internal/x", "http://profiles.internal/x"
AWAY = (503, "provider_unavailable")
NONSENSE = (502, "provider_invalid")
OURS = (502, "provider_refused")
LATE = 5000.0  # seconds after which every token of this table is expired and every back-off over


class Fault(NamedTuple):
    """Switches of the authorization server, and what a caller gets who needs a token while they are set."""

    switches: dict[str, Any]
    outcome: tuple[int, str]

    @property
    def patience(self) -> str:
        """The provider's time-out: short where it is what the fault is about."""
        return "150ms" if "slow" in self.switches else "3s"


FAULTS = {
    "IDP-02 closes the connection": Fault({"down": True}, AWAY),
    "IDP-03 answers too late": Fault({"slow": 0.5}, AWAY),
    "IDP-05 500": Fault({"status": 500}, AWAY),
    "IDP-05 502": Fault({"status": 502}, AWAY),
    "IDP-05 503": Fault({"status": 503}, AWAY),
    "IDP-06 429 with Retry-After": Fault({"status": 429, "retry_after": "7"}, AWAY),
    "IDP-06 429 with an absurd Retry-After": Fault({"status": 429, "retry_after": "99999999"}, AWAY),
    "IDP-07 empty 200": Fault({"empty": True}, NONSENSE),
    "IDP-08 HTML": Fault({"html": True}, NONSENSE),
    "IDP-08 truncated JSON": Fault({"truncated": True}, NONSENSE),
    "IDP-09 a token with a line feed": Fault({"line_feed": True}, NONSENSE),
    "IDP-11 expires_in 0": Fault({"expires_in": 0}, NONSENSE),
    "IDP-11 expires_in -1": Fault({"expires_in": -1}, NONSENSE),
    "IDP-11 expires_in abc": Fault({"expires_in": "abc"}, NONSENSE),
    "IDP-11 expires_in true": Fault({"expires_in": True}, NONSENSE),
    "IDP-13 invalid_client": Fault({"error": "invalid_client"}, OURS),
    "IDP-13 unauthorized_client": Fault({"error": "unauthorized_client"}, OURS),
    "IDP-13 invalid_scope": Fault({"error": "invalid_scope"}, OURS),
    "IDP-05 temporarily_unavailable": Fault({"error": "temporarily_unavailable"}, AWAY),
}
SCRIPTED = {
    "IDP-12 redirect": Fault({"answer": response(b"", 302, "Location: http://127.0.0.1:1/token")}, NONSENSE),
    "IDP-12 permanent redirect": Fault({"answer": response(b"", 308, "Location: /token2")}, NONSENSE),
    "IDP-14 error in 200": Fault({"answer": response(b'{"error": "bad_verification_code"}')}, OURS),
    "IDP-08 array": Fault({"answer": response(b"[]")}, NONSENSE),
    "IDP-08 duplicate members": Fault(
        {"answer": response(b'{"access_token": "a", "access_token": "b", "token_type": "Bearer"}')}, NONSENSE
    ),
    "IDP-09 no token": Fault({"answer": response(b'{"token_type": "Bearer", "expires_in": 60}')}, NONSENSE),
    "IDP-09 a token with a space": Fault(
        {"answer": response(b'{"access_token": "a b", "token_type": "Bearer"}')}, NONSENSE
    ),
    "IDP-10 another token type": Fault({"answer": response(b'{"access_token": "a", "token_type": "mac"}')}, NONSENSE),
}
LIVES = {"IDP-11 expires_in missing": MISSING, 'IDP-11 expires_in "3600"': "3600", "IDP-11 expires_in 1e99": 1e99}


def cases(faults: dict[str, Fault]) -> list[Any]:
    """Return the faults as parameters with their ids."""
    return [pytest.param(fault, id=name) for name, fault in faults.items()]


async def check_refused(run: Whole, fault: Fault, url: str, session: str) -> None:
    """Nothing goes to the upstream, and the refusal is the table's, with a time to come again where that helps."""
    reply = await run.ask(url, session=session)
    assert (reply.status, reply.code) == fault.outcome
    assert run.upstream.streams() == []
    if fault.outcome == AWAY:
        assert 1 <= int(reply.one("retry-after")) <= 3961  # an hour at most, and some jitter
    if fault.switches.get("retry_after") == "7":
        assert 7 <= int(reply.one("retry-after")) <= 8
    asked = sent(run)
    again = await run.ask(url, session=session)
    assert again.status in (502, 503)
    assert sent(run) == asked  # fails fast: nobody is asked again so soon
    assert run.upstream.streams() == []


def sent(run: Whole) -> int:
    """Return how many token requests were sent, to any provider."""
    counts = [provider.requests for provider in run.program.providers.values()]
    return sum(number for count in counts for result, number in count.items() if result != BACKED_OFF)


async def check_recovers(run: Whole, url: str, session: str, user: str) -> None:
    """The fault is gone and the back-off over: a new token comes, the session is as it was."""
    run.server.faults.clear()
    await until(lambda: not run.program.broker._work())  # an answer that comes too late is waited for all the same
    run.clock.ahead += LATE
    run.forget()
    reply = await run.ask(url, session=session)
    assert (reply.status, reply.document["subject"]) == (200, user)


@pytest.mark.parametrize("fault", cases(FAULTS))
async def test_fault_with_no_token_yet_refuses_and_recovers(fault: Fault, tmp_path: Path) -> None:
    """The application's first token cannot be had: refused by the table, served once the provider is well."""
    async with whole(tmp_path, patience=fault.patience) as run:
        run.server.faults.change(**fault.switches)
        await check_refused(run, fault, STATS, "")
        await check_recovers(run, STATS, "", "legacy-app")


@pytest.mark.parametrize("as_", ["app", "user"])
@pytest.mark.parametrize("fault", cases(FAULTS))
async def test_fault_with_a_valid_or_stale_token_harms_nobody(fault: Fault, as_: str, tmp_path: Path) -> None:
    """[IDP-01] A valid token is used without asking; a stale one goes on being used while its renewal fails."""
    async with whole(tmp_path, patience=fault.patience) as run:
        await run.sign_in("alice", "a-session")
        url, session, user = (STATS, "", "legacy-app") if as_ == "app" else (PROFILES, "a-session", "alice")
        assert (await run.ask(url, session=session)).status == 200
        (old,) = run.tokens
        asked = len(run.server.requests)
        run.server.faults.change(**fault.switches)
        assert (await run.ask(url, session=session)).status == 200
        assert len(run.server.requests) == asked
        run.clock.ahead = 300.0 - 30.0  # stale for sure, and still valid
        for _ in range(3):
            assert (await run.ask(url, session=session)).status == 200
            await until(lambda: not run.program.broker.states()["renewing"])
        if "slow" not in fault.switches:  # its answer comes in the end, and is taken
            assert set(run.tokens) == {old}
        assert len(run.server.token_requests()) <= (1 if as_ == "app" else 0) + 1  # one try, then a rest
        await check_recovers(run, url, session, user)


@pytest.mark.parametrize("as_", ["app", "user"])
@pytest.mark.parametrize("fault", cases(FAULTS))
async def test_fault_with_an_expired_token_refuses_and_recovers(fault: Fault, as_: str, tmp_path: Path) -> None:
    """[IDP-02] An expired token is never sent, whatever the fault; the session is there when the provider is back."""
    async with whole(tmp_path, patience=fault.patience) as run:
        await run.sign_in("alice", "a-session")
        url, session, user = (STATS, "", "legacy-app") if as_ == "app" else (PROFILES, "a-session", "alice")
        assert (await run.ask(url, session=session)).status == 200
        run.forget()
        run.clock.ahead = 301.0
        run.server.faults.change(**fault.switches)
        await check_refused(run, fault, url, session)
        await check_recovers(run, url, session, user)


@pytest.mark.parametrize("expires_in", [pytest.param(value, id=name) for name, value in LIVES.items()])
async def test_odd_life_is_given_a_bound(expires_in: Any, tmp_path: Path) -> None:
    """The token is used, and renewed in the end: no life is for ever (5 minutes where none was named, a day at most)."""
    async with whole(tmp_path) as run:
        run.server.faults.change(expires_in=expires_in)
        for ahead in (0.0, 100.0):
            run.clock.ahead = ahead
            assert (await run.ask(STATS)).document["subject"] == "legacy-app"
        assert len(run.server.token_requests()) == 1
        run.clock.ahead = {MISSING: 301.0, "3600": 3601.0}.get(expires_in, 24 * 3600 + 1.0)
        assert (await run.ask(STATS)).status == 200
        assert len(run.server.token_requests()) == 2


async def test_short_life_makes_no_hot_loop(tmp_path: Path) -> None:
    """[IDP-11] Tokens of three seconds: renewed when they need it, not with every request."""
    async with whole(tmp_path) as run:
        run.server.faults.change(expires_in=3)
        for _ in range(50):
            assert (await run.ask(STATS)).status == 200
        assert len(run.server.token_requests()) <= 2


@pytest.mark.parametrize("fault", cases(SCRIPTED))
async def test_strange_answer_refuses_and_leaves_the_session_alone(fault: Fault, tmp_path: Path) -> None:
    """Answers that the demo's server cannot give: the same rules, and a redirect is not followed with our secret."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(good[0] if good else fault.switches["answer"])
        asked.append(received)

    good: list[bytes] = []
    asked: list[Received] = []
    async with ScriptedServer(answer) as provider:
        routes = STATS_AND_PROFILES.replace("as:", "provider: odd, as:")
        line = f'  odd: {{token_endpoint: "{provider.url}/token", client_id: c, client_secret: "${{CLIENT_SECRET}}"}}\n'
        async with whole(tmp_path, routes, providers=line) as run:
            tokens = {"access_token": "at", "token_type": "Bearer", "expires_in": 1, "refresh_token": "rt"}
            put = await run.admin("PUT", "/v1/sessions/a-session", {**tokens, "provider": "odd"})
            assert put.status == 200
            run.clock.ahead = 5.0
            await check_refused(run, fault, STATS, "")
            await check_refused(run, fault, PROFILES, "a-session")
            assert [received.path for received in asked] == ["/token", "/token"]
            run.clock.ahead += LATE
            run.upstream.default = lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]
            fine = {"access_token": "new", "token_type": "bEARER", "expires_in": 60}
            good.append(response(json.dumps(fine).encode()))
            assert (await run.ask(PROFILES, session="a-session")).status == 200
            assert run.tokens == ["new"]


STATS_AND_PROFILES = """
  - {name: stats, match: {host: stats.internal}, upstream: "UPSTREAM", as: app}
  - {name: profiles, match: {host: profiles.internal}, upstream: "UPSTREAM", as: user}
"""


async def test_byte_by_byte_answer_meets_the_total_deadline(tmp_path: Path) -> None:
    """[IDP-04] The time is for the whole request, not for each piece of the answer."""

    async def drip(_received: Received, writer: asyncio.StreamWriter) -> None:
        for byte in response(b'{"access_token": "at", "token_type": "Bearer", "expires_in": 60}'):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)

    async with ScriptedServer(drip) as provider:
        routes = STATS_AND_PROFILES.replace("as:", "provider: odd, as:")
        line = f'  odd: {{token_endpoint: "{provider.url}/token", client_id: c, client_auth: none, timeout: {{total: 300ms}}}}\n'
        async with whole(tmp_path, routes, providers=line) as run:
            began = time.monotonic()
            reply = await run.ask(STATS)
            assert (reply.status, reply.code) == AWAY
            assert time.monotonic() - began < 2.0
            assert run.upstream.streams() == []


async def test_provider_that_is_not_there_yet_is_found_when_it_comes(tmp_path: Path) -> None:
    """[IDP-02, PD-15, LC-04] Connection refused at discovery: refused with a time to come again, then served."""
    async with whole(tmp_path) as run:
        await run.server.stop()
        reply = await run.ask(STATS)
        assert (reply.status, reply.code) == AWAY
        ready = await run.admin("GET", "/readyz")
        assert (ready.status, ready.document["checks"]["provider idp"]["state"]) == (200, "failing")
        await run.server.start()
        await check_recovers(run, STATS, "", "legacy-app")
        ready = await run.admin("GET", "/readyz")
        assert ready.document["checks"]["provider idp"]["state"] == "ok"


async def test_provider_that_lost_its_answer_costs_at_most_that_session(tmp_path: Path) -> None:
    """[RF-08] The refresh token was spent, the answer never came: nobody else is harmed, nothing wrong is sent."""
    async with whole(tmp_path) as run:
        for user in ("alice", "bob"):
            await run.sign_in(user, f"{user}s-session", expires_in=1)
        run.clock.ahead = 5.0
        run.server.faults.change(lost=True, next=1)
        reply = await run.ask(PROFILES, session="alices-session")
        assert (reply.status, reply.code) == AWAY
        run.clock.ahead += 120.0
        reply = await run.ask(PROFILES, session="alices-session")
        assert (reply.status, reply.code) == (401, "login_required")
        assert (await run.ask(PROFILES, session="bobs-session")).document["subject"] == "bob"
        assert {subject_of(run.server, token) for token in run.tokens} == {"bob"}
