"""What a request with a fresh token costs the store: nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio

from sidecar.credentials.vault import generate_key
from tests.support import redis_server
from tests.support.program import whole

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = "http://profiles.internal/me"
PERIODIC = {
    "evalsha",
    "eval",
    "xrange",
    "xrevrange",
    "ping",
    "info",
    "client|setinfo",
    "subscribe",
    "hello",
    "script|load",
}
"""Commands of an idle instance: the look at the log of changes, which no request causes."""


async def commands(server: Any) -> dict[str, int]:
    """Return how often each command was run so far, those inside scripts included."""
    told = await server.info("commandstats")
    return {name.removeprefix("cmdstat_"): counted["calls"] for name, counted in told.items()}


@pytest.mark.parametrize("requests", [200, pytest.param(2000, marks=pytest.mark.slow)])
async def test_requests_of_a_warm_session_ask_redis_nothing(tmp_path: Path, requests: int) -> None:
    """[RD-02] No record is read, none written, no lock taken."""
    url = redis_server.standalone_url()
    store = f'store: {{url: "{url}", keys: [{generate_key()}]}}'
    server = redis.asyncio.Redis.from_url(url.partition("?")[0])
    async with whole(tmp_path, more=store) as run:
        await run.sign_in("alice", "a-session")
        assert (await run.ask(PROFILES, session="a-session")).status == 200
        caller = await run.caller()
        before = await commands(server)
        statuses = {
            (await caller.ask("GET", PROFILES, [("X-Session-Id", "a-session")])).status for _ in range(requests)
        }
        after = await commands(server)
        caller.close()
    await server.aclose()
    assert statuses == {200}
    more = {name: calls - before.get(name, 0) for name, calls in after.items() if calls != before.get(name, 0)}
    assert set(more) <= PERIODIC
    assert before["get"] == after["get"]
