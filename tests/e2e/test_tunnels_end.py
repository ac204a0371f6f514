"""A WebSocket ends with the session that opened it, whoever ends the session."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials import broker
from tests.support.program import Whole, head, until, whole

if TYPE_CHECKING:
    from tests.support.recording_upstream import Seen, Step

CONNECTIONS = Path("/proc/net/tcp")
PROFILES = "http://profiles.internal/me"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def switching(_seen: Seen) -> list[Step]:
    return [SWITCH]


async def opened(run: Whole, session: str) -> asyncio.StreamReader:
    """Open a WebSocket as far as the switch."""
    reader, writer = await asyncio.open_connection("127.0.0.1", run.program.proxy_port)
    asks = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("X-Session-Id", session)]
    writer.write(head("GET", PROFILES, asks))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    reader.writer = writer  # type: ignore[attr-defined] - kept alive
    return reader


async def is_open(reader: asyncio.StreamReader) -> bool:
    """Say whether the tunnel still stands, within a moment."""
    try:
        async with asyncio.timeout(0.3):
            return bool(await reader.read(1))
    except TimeoutError:
        return True
    except ConnectionError:
        return False


async def ends(reader: asyncio.StreamReader) -> bool:
    """Say whether the tunnel ends within five seconds."""
    try:
        async with asyncio.timeout(5):
            return not await reader.read(1)
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("how", ["session API", "another process"])
async def test_websocket_ends_with_its_session(tmp_path: Path, how: str) -> None:
    """[LK-13] That of the session that was ended, and no other; a renewal ends none."""
    async with whole(tmp_path, more=f'store: {{url: "sqlite:{tmp_path}/store.db"}}') as run:
        run.upstream.default = switching
        for name in ("alice", "bob"):
            await run.sign_in(name, f"{name}-of-tunnels-01")
        alice, bob = await opened(run, "alice-of-tunnels-01"), await opened(run, "bob-of-tunnels-01")
        credentials = run.program.broker
        assert len(credentials._attended) == 2
        await run.sign_in("bob", "bob-of-tunnels-01")  # replaced, not ended
        assert await is_open(bob)
        if how == "session API":
            assert (await run.admin("DELETE", "/v1/sessions/alice-of-tunnels-01")).status in (200, 204)
        else:
            name = credentials._records.named("alice-of-tunnels-01")
            assert name is not None
            assert await run.program.store.delete(name)
            credentials._changed(name)  # as the store tells
        assert await ends(alice)
        assert await is_open(bob)
        for reader in (alice, bob):
            reader.writer.close()  # type: ignore[attr-defined]


async def test_tunnel_outlives_the_token_that_opened_it(tmp_path: Path):
    """[WS-04] A token opens a tunnel, it does not keep it: its expiry ends nothing, and no renewal is made for it."""
    async with whole(tmp_path) as run:
        run.upstream.default = switching
        await run.sign_in("ann", "session-of-ann-0123456789")
        tunnel = await opened(run, "session-of-ann-0123456789")
        before = len(run.server.token_requests())
        run.clock.ahead += 7200
        assert await is_open(tunnel)
        tunnel.writer.write(b"still here")  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            while b"still here" not in b"".join(run.upstream.streams()):  # noqa: ASYNC110 - another side to look at
                await asyncio.sleep(0.01)
        assert len(run.server.token_requests()) == before
        tunnel.writer.close()  # type: ignore[attr-defined]


async def test_peers_of_a_silent_tunnel_are_asked_whether_they_are_still_there(tmp_path: Path):
    """[WS-05] A tunnel has no deadline, so the kernel probes both of its connections (TCP keep-alive)."""
    if not CONNECTIONS.exists():  # noqa: ASYNC240 - a look at /proc
        pytest.skip("only Linux says which timer a connection has")
    async with whole(tmp_path) as run:
        run.upstream.default = switching
        await run.sign_in("ann", "session-of-ann-0123456789")
        tunnel = await opened(run, "session-of-ann-0123456789")

        def probed(near: int | None, far: int | None) -> bool:
            for row in CONNECTIONS.read_text("ascii").splitlines()[1:]:
                _, local, remote, state, _, timer, *_ = row.split()
                ours = near in (None, int(local[9:], 16)) and far in (None, int(remote[9:], 16))
                if ours and state == "01" and timer.startswith("02:"):  # established; the timer of keep-alive
                    return True
            return False

        await until(lambda: probed(run.program.proxy_port, None))
        await until(lambda: probed(None, run.upstream.port))
        tunnel.writer.close()  # type: ignore[attr-defined]


async def test_connection_of_ordinary_requests_outlives_their_sessions(tmp_path: Path) -> None:
    """[ID-09] A caller's connection carries many users: only what became a tunnel ends with a session."""
    async with whole(tmp_path) as run:
        for name in ("alice", "bob"):
            await run.sign_in(name, f"{name}-ordinary-0123456789")
        caller = await run.caller()
        for name in ("alice", "bob"):
            reply = await caller.ask("GET", PROFILES, [("X-Session-Id", f"{name}-ordinary-0123456789")])
            assert reply.document["subject"] == name
        assert (await run.admin("DELETE", "/v1/sessions/alice-ordinary-0123456789")).status == 204
        assert len(run.program.broker._attended) == 0
        reply = await caller.ask("GET", PROFILES, [("X-Session-Id", "bob-ordinary-0123456789")])
        assert reply.document["subject"] == "bob"


async def test_websocket_ends_when_its_session_has_had_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[LK-13] Nobody ends the session, and its user asks for nothing any more: the tunnel ends with its lifetime."""
    monkeypatch.setattr(broker, "HOUSEKEEPING_EVERY", 0.02)
    async with whole(tmp_path, more="sessions: {idle: 1h}") as run:
        run.upstream.default = switching
        await run.sign_in("alice", "tunnel-ordinary-0123456789")
        tunnel = await opened(run, "tunnel-ordinary-0123456789")
        run.clock.ahead = 1800.0  # used once more meanwhile: it lives for an hour from now
        assert (await run.ask("http://stats.internal/x")).status
        await run.ask(PROFILES, session="tunnel-ordinary-0123456789")
        await run.program.broker.sessions.flush_last_used()
        run.clock.ahead = 3700.0
        assert await is_open(tunnel)
        run.program.broker._memory.bury(
            run.program.broker._records.named("tunnel-ordinary-0123456789"), 0.0
        )  # forgotten here
        assert await is_open(tunnel)
        run.clock.ahead = 1800.0 + 3700.0
        assert await ends(tunnel)
        tunnel.writer.close()  # type: ignore[attr-defined]


async def test_websocket_that_was_closed_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[WS-05] Whoever closes it: what was kept to end it with its session is forgotten, though the session lives."""
    monkeypatch.setattr(broker, "HOUSEKEEPING_EVERY", 0.02)
    async with whole(tmp_path) as run:
        run.upstream.default = switching
        await run.sign_in("alice", "tunnel-ordinary-0123456789")
        tunnel = await opened(run, "tunnel-ordinary-0123456789")
        attended = run.program.broker._attended
        assert len(attended) == len(attended._open) == 1
        tunnel.writer.close()  # type: ignore[attr-defined]
        await until(lambda: not attended._open)
