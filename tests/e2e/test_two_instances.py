"""Two whole sidecars on one Redis, between an authorization server that rotates refresh tokens and punishes reuse."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from sidecar.app import serve
from sidecar.config import load
from sidecar.credentials.vault import generate_key
from tests.support import redis_server
from tests.support.authorization_server import CLIENTS, AuthorizationServer
from tests.support.program import BOTH, ENVIRON, Clock, Whole, guarded, text
from tests.support.recording_upstream import RecordingUpstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.demo.issuer.state import Received

PROFILES = "http://profiles.internal/x"
KINDS = {
    "redis": redis_server.standalone_url,
    "redis+cluster": redis_server.cluster_url,
}


@asynccontextmanager
async def instances(folder: Path, url: str, number: int = 2) -> AsyncIterator[list[Whole]]:
    """Run sidecars that share a store, an authorization server, an upstream and a clock."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(AuthorizationServer(CLIENTS))
        server.policy.rotate, server.policy.leeway = True, 0.0
        upstream = RecordingUpstream()
        await upstream.start()
        stack.push_async_callback(upstream.stop)
        upstream.default = guarded(server)
        store = f'store: {{url: "{url}", keys: ["{generate_key()}"]}}'
        path = folder / "sidecar.yaml"
        path.write_text(text(server, upstream, BOTH, store, "10s"))
        clock, running = Clock(), []
        for _ in range(number):
            program = await stack.enter_async_context(serve(load(str(path), ENVIRON), clock=clock))
            running.append(Whole(server, upstream, program, clock))
            stack.callback(running[-1].close)
        yield running


def renewals(run: Whole) -> list[Received]:
    """Return the token requests that spent a refresh token."""
    return run.server.token_requests(grant_type="refresh_token")


@pytest.mark.parametrize("kind", [*KINDS])
async def test_100_callers_of_each_instance_at_an_expiry_cost_one_token_request(kind: str, tmp_path: Path) -> None:
    """[RF-02] All are served; the refresh token is spent once and rotated once, so the family lives; and so again."""
    async with instances(tmp_path, KINDS[kind]()) as (one, two):
        await one.sign_in("alice", "a-session", expires_in=60)
        for expiry in range(1, 4):
            one.clock.ahead += 1000.0
            one.server.faults.change(slow=0.1)
            both = itertools.islice(itertools.cycle((one, two)), 200)
            replies = await asyncio.gather(*(run.ask(PROFILES, session="a-session") for run in both))
            assert [reply.status for reply in replies] == [200] * 200
            assert [request.outcome for request in renewals(one)] == ["ok"] * expiry


async def test_a_session_deleted_on_one_instance_is_refused_on_the_other_within_a_second(tmp_path: Path) -> None:
    """[ID-05] While the other has its token at hand and is using it."""
    async with instances(tmp_path, redis_server.standalone_url()) as (one, two):
        await one.sign_in("alice", "a-session")
        assert (await two.ask(PROFILES, session="a-session")).status == 200
        deleted = asyncio.create_task(one.admin("DELETE", "/v1/sessions/a-session"))
        assert (await deleted).status in (200, 204)
        started = time.monotonic()
        while (await two.ask(PROFILES, session="a-session")).status == 200:
            assert time.monotonic() - started < 1.0
            await asyncio.sleep(0.01)
        reply = await two.ask(PROFILES, session="a-session")
        assert (reply.status, reply.code) == (401, "login_required")


async def test_what_one_instance_renewed_is_used_by_the_other(tmp_path: Path) -> None:
    """[RF-13] After a renewal on one instance the other goes on with the new token, without a token request."""
    async with instances(tmp_path, redis_server.standalone_url()) as (one, two):
        await one.sign_in("alice", "a-session", expires_in=60)
        assert (await two.ask(PROFILES, session="a-session")).status == 200
        one.clock.ahead = 1000.0
        assert (await one.ask(PROFILES, session="a-session")).status == 200
        assert (await two.ask(PROFILES, session="a-session")).status == 200
        assert len(renewals(one)) == 1
        assert one.tokens[-1] == one.tokens[-2] != one.tokens[0]


async def test_a_request_with_a_fresh_token_asks_the_store_nothing(tmp_path: Path) -> None:
    """500 requests make no command; what the server counts meanwhile are the looks for changes, a few a second."""
    shared = redis_server.standalone()
    async with instances(tmp_path, shared.url) as (one, two):
        await one.sign_in("alice", "a-session")
        callers = [await run.caller() for run in (one, two)]
        for caller in callers:
            assert (await caller.ask("GET", PROFILES, [("X-Session-Id", "a-session")])).status == 200
        started, before = time.monotonic(), commands(shared)
        for _ in range(250):
            for caller in callers:
                assert (await caller.ask("GET", PROFILES, [("X-Session-Id", "a-session")])).status == 200
        seconds = time.monotonic() - started
        spent = commands(shared)
        assert sum(spent.values()) - sum(before.values()) < 20 + 20 * seconds
        assert {name for name in spent if spent[name] != before.get(name, 0)} <= LOOKING


LOOKING = {"evalsha", "eval", "xrange", "xrevrange", "info", "ping"}
"""What a store that is only watching makes Redis do."""


def commands(server: redis_server.Server) -> dict[str, int]:
    """Return how often each command was called."""
    return {name.removeprefix("cmdstat_"): told["calls"] for name, told in server.info("commandstats").items()}


async def test_an_outage_of_the_store_leaves_valid_tokens_in_use_on_both(tmp_path: Path) -> None:
    """[RD-02] [RD-03] [RD-05] Hung: who has a fresh token goes on at full speed; who has none is refused by name; then all is well."""
    with redis_server.server() as redis:
        async with instances(tmp_path, f"redis://127.0.0.1:{redis.port}/0") as (one, two):
            await one.sign_in("alice", "a-session")
            assert (await two.ask(PROFILES, session="a-session")).status == 200
            redis.pause()
            try:
                for _ in range(20):
                    started = time.monotonic()
                    assert (await two.ask(PROFILES, session="a-session")).status == 200
                    assert time.monotonic() - started < 0.5
                reply = await two.ask(PROFILES, session="another")
                assert (reply.status, reply.code) == (503, "store_unavailable")
                assert reply.one("retry-after")
            finally:
                redis.go_on()
            recovered = time.monotonic() + 3
            while (await two.ask(PROFILES, session="another")).code != "login_required":
                assert time.monotonic() < recovered
                await asyncio.sleep(0.05)
