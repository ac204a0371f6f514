"""The session API's side: what is taken, shown, deleted and revoked, and how sessions end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials import session_record
from sidecar.credentials.sessions import TOUCH_EVERY, Life
from sidecar.errors import Refusal
from sidecar.model import Granted, Identity, Secret, Token
from tests.support.credentials import OTHER_ROUTE, USER, Bench, Clock, keyed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DAY = 86_400


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Return a broker that is closed at the end."""
    made = Bench()
    yield made
    await asyncio.wait_for(made.broker.close(1), 5)


async def refusal(bench: Bench, session: str = "alice") -> str:
    """Return the name of the refusal that a request gets."""
    with pytest.raises(Refusal) as caught:
        await bench.token(USER, session)
    return caught.value.name


async def test_put_session_is_shown_without_its_tokens(bench: Bench) -> None:
    """Metadata only; the id is not shown either, and a part of its hash tells sessions apart."""
    await bench.sign_in("alice", scope="read openid")
    info = await bench.broker.sessions.info("alice")
    assert info is not None
    provider = info.providers[0]
    assert (provider.provider, provider.scopes, provider.seconds_left) == ("idp", ("openid", "read"), 3600)
    assert provider.has_refresh_token
    assert (info.created, info.last_used, info.subject) == (bench.clock(), bench.clock(), None)
    assert info.expires_at == bench.clock() + session_record.IDLE_LIFE
    assert len(info.identifier) == 12
    assert all(text not in repr(info) for text in ("alice", "access.", "refresh."))
    assert await bench.broker.sessions.all() == [info]
    assert await bench.broker.sessions.info("bob") is None


async def test_put_over_a_sign_in_of_the_sidecars_own_leaves_nobodys_name_on_it(bench: Bench) -> None:
    """The application may have handed over another user's tokens: it alone knows whose they are."""
    token = Token(Secret("an-access-token"), bench.clock(), bench.clock() + 3600, frozenset({"read"}))
    sessions = bench.broker.sessions
    name = await sessions.name("a-session")
    await sessions.open(name, "idp", Granted(token, Secret("rt"), None), Identity("https://idp.test", "alice", "s1"))
    before, _ = await sessions.info("a-session"), await bench.sign_in("a-session")
    after = await sessions.info("a-session")
    assert before is not None
    assert after is not None
    assert (before.subject, after.subject) == ("alice", None)


@pytest.mark.parametrize(
    ("provider", "response"),
    [
        pytest.param("nobody", {}, id="unknown provider"),
        pytest.param("idp", {"access_token": ""}, id="IDP-09-empty"),
        pytest.param("idp", {"access_token": "a\r\nb"}, id="IDP-09-line feed"),
        pytest.param("idp", {"access_token": None}, id="IDP-09-missing"),
        pytest.param("idp", {"token_type": "mac"}, id="IDP-10"),
        pytest.param("idp", {"expires_in": -1}, id="IDP-11-negative"),
        pytest.param("idp", {"expires_in": "soon"}, id="IDP-11-text"),
        pytest.param("idp", {"error": "invalid_grant"}, id="IDP-14"),
        pytest.param("idp", {"refresh_token": 1}, id="refresh token"),
        pytest.param("idp", {"audience": 1}, id="audience"),
        pytest.param("idp", {"resource": [1]}, id="resource"),
        pytest.param("idp", {"access_token": {1, 2}}, id="not JSON"),
    ],
)
async def test_put_refuses_what_is_no_token_response(bench: Bench, provider: str, response: dict[str, object]) -> None:
    """As strictly as an authorization server's own answer; nothing of it is repeated or stored."""
    with pytest.raises(Refusal) as caught:
        await bench.broker.sessions.put("alice", provider, {**bench.server.sign_in("alice"), **response})
    assert caught.value.name == "bad_request"
    assert "access." not in caught.value.detail
    assert await bench.store.keys("session:") == []


@pytest.mark.parametrize("session", ["", "a b", "a\nb", "é", "x" * 513])
async def test_put_refuses_an_id_that_no_request_can_present(bench: Bench, session: str) -> None:
    """The same rule as for the ids in requests."""
    with pytest.raises(Refusal) as caught:
        await bench.broker.sessions.put(session, "idp", bench.server.sign_in("alice"))
    assert caught.value.name == "bad_request"


async def test_store_holds_neither_tokens_nor_ids(bench: Bench) -> None:
    """[LK-10] Sealed values under hashed names."""
    await bench.sign_in("alice-canary")
    rows = bench.store._rows
    text = b"".join(name.encode() + (row.value or b"") for name, row in rows.items())
    assert all(canary not in text for canary in (b"alice", b"access.", b"refresh.", b"idp"))
    assert all(name.startswith("session:{") for name in rows if name != "pepper")


async def test_audience_of_a_put_token_is_respected(bench: Bench) -> None:
    """[LK-03] A token for one audience serves no route of another, or of none."""
    await bench.sign_in("alice", audience="https://api.test", scope="read")
    assert await bench.token(USER, "alice") == "access.alice.read.2"


async def test_scope_decides_whether_the_sign_ins_token_serves_a_route(bench: Bench) -> None:
    """Otherwise the refresh token buys one for the route."""
    await bench.sign_in("alice", scope="read")
    assert await bench.token(USER, "alice") == "access.alice.sign-in.1"
    assert await bench.token(OTHER_ROUTE, "alice") == "access.alice.write.2"
    assert bench.server.forms == [
        {"grant_type": "refresh_token", "refresh_token": "refresh.alice.1", "scope": "write"},
    ]


async def test_delete_ends_the_session_then_revokes(bench: Bench) -> None:
    """[ID-03] No request in between is served; a second deletion finds nothing."""
    refresh_token = await bench.sign_in("alice")
    await bench.token(USER, "alice")
    seen: list[str] = []

    async def revoke(token: Secret, _hint: str) -> bool:
        seen.append(token.reveal())
        seen.append(await refusal(bench))
        return True

    bench.server.revoke = revoke
    assert await bench.broker.sessions.delete("alice")
    assert seen == [refresh_token, "login_required"]
    assert not await bench.broker.sessions.delete("alice")
    assert await bench.broker.sessions.info("alice") is None


async def test_provider_that_hangs_does_not_hold_up_a_deletion(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Revocation is best effort, and bounded."""
    monkeypatch.setattr("sidecar.credentials.sessions.REVOCATION_TIME", 0.01)

    async def revoke(_token: Secret, _hint: str) -> bool:
        await asyncio.sleep(60)
        return True

    bench.server.revoke = revoke
    await bench.sign_in("alice")
    assert await asyncio.wait_for(bench.broker.sessions.delete("alice"), 5)


async def test_session_can_be_put_again_at_the_very_moment_of_its_deletion(bench: Bench) -> None:
    """Also where another instance's clock was ahead of ours when it wrote."""
    for ahead in (0.0, 5.0, 900.0, 3600.0):
        bench.clock.now += ahead
        await bench.sign_in("alice")
        bench.clock.now -= ahead
        await bench.broker.sessions.delete("alice")
        await bench.sign_in("alice")
        assert (await bench.token(USER, "alice")).startswith("access.alice.sign-in.")


async def test_listed_session_is_deleted_by_what_is_shown_of_it(bench: Bench) -> None:
    """An operator does not know the id; what is too short to be one session's deletes nothing."""
    await bench.sign_in("alice")
    await bench.sign_in("bob")
    info = await bench.broker.sessions.info("alice")
    assert info is not None
    for wrong in ("", info.identifier[:11], "0" * 12):
        assert not await bench.broker.sessions.delete_listed(wrong)
    assert await bench.broker.sessions.delete_listed(info.identifier)
    assert await refusal(bench) == "login_required"
    assert await bench.token(USER, "bob")


async def test_list_is_bounded(bench: Bench) -> None:
    """However many sessions there are."""
    for number in range(5):
        await bench.sign_in(f"user{number}")
    assert len(await bench.broker.sessions.all(3)) == 3


async def test_unused_session_ends_and_a_used_one_does_not(bench: Bench) -> None:
    """Idle lifetime: seven days; the use is stored now and then, not for every request."""
    bench.server.life = DAY
    for session in ("alice", "bob"):
        await bench.sign_in(session)
    for _ in range(20):
        bench.clock.now += DAY / 2
        await bench.token(USER, "alice")
        await bench.idle()
        await bench.broker.sessions.flush_last_used()
    assert await refusal(bench, "bob") == "login_required"
    assert await bench.broker.sessions.info("bob") is None
    for _ in range(41):
        bench.clock.now += DAY / 2
        credential = bench.broker.ready(keyed(USER, "alice"), bench.clock())
        if credential is None and bench.clock() >= Clock().now + 30 * DAY:
            break
        await bench.token(USER, "alice")
        await bench.idle()
        await bench.broker.sessions.flush_last_used()
    assert bench.clock() == Clock().now + 30 * DAY  # absolute lifetime, however busy
    assert await refusal(bench) == "login_required"
    assert not bench.server.killed


async def test_last_use_is_stored_lazily(bench: Bench) -> None:
    """The hot path writes nothing; a flush writes what lags by more than ten minutes, once."""
    bench.server.life = DAY
    await bench.sign_in("alice")
    key = keyed(USER, "alice")
    await bench.token(USER, "alice")
    writes = 0
    put = bench.store.put

    async def counted(*args: object, **options: object) -> bool:
        nonlocal writes
        writes += 1
        return await put(*args, **options)

    bench.store.put = counted
    start = bench.clock.now
    for second in range(0, int(TOUCH_EVERY) + 60, 30):
        bench.clock.now = start + second
        assert bench.broker.ready(key, bench.clock())
        await bench.broker.sessions.flush_last_used()
    assert writes == 1
    info = await bench.broker.sessions.info("alice")
    assert info is not None
    assert info.last_used == start + TOUCH_EVERY + 30
    assert bench.broker.ready(key, bench.clock())


async def test_session_of_a_shorter_idle_life_goes_on_after_a_reload_with_a_longer_one(bench: Bench) -> None:
    """[HR-01] It keeps the lifetime of its sign-in, so its uses are stored as often as that one needs."""
    bench.server.life = DAY
    bench.broker.sessions.life = Life(idle=300)
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    bench.broker.sessions.life = Life()
    for _ in range(20):
        bench.clock.now += 60
        await bench.token(USER, "alice")
        await bench.broker.sessions.flush_last_used()


async def test_use_before_the_end_is_stored_by_close(bench: Bench) -> None:
    """A restart does not shorten a session."""
    bench.server.life = DAY
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    bench.clock.now += 3600
    bench.broker.ready(keyed(USER, "alice"), bench.clock())
    await bench.broker.close(1)
    info = await bench.another().sessions.info("alice")
    assert info is not None
    assert info.last_used == bench.clock()


async def test_restart_serves_what_was_stored(bench: Bench) -> None:
    """[ST-09] Without a token request."""
    await bench.sign_in("alice")
    await bench.broker.close(1)
    bench.broker = bench.another()
    assert await bench.token(USER, "alice") == "access.alice.sign-in.1"
    assert bench.server.calls == 0


async def test_memory_stays_bounded_and_keeps_what_is_in_use(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest unused session is read from the store again; nothing is lost."""
    monkeypatch.setattr("sidecar.credentials.memory.MOST_ENTRIES", 10)
    for number in range(30):
        bench.clock.now += 1
        await bench.sign_in(f"user{number}")
        await bench.token(USER, f"user{number}")
        assert bench.broker.ready(keyed(USER, "user0"), bench.clock())
    assert len(bench.broker._memory) == 10
    assert len(bench.broker._memory.hot) == 10
    assert await bench.token(USER, "user1") == "access.user1.sign-in.2"


async def test_sweep_frees_expired_tokens_and_ended_sessions(bench: Bench) -> None:
    """So a process that runs for months does not grow."""
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    bench.clock.now += 4000
    bench.broker._memory.sweep(bench.clock())
    assert not bench.broker._memory.hot
    bench.clock.now += session_record.IDLE_LIFE
    bench.broker._memory.sweep(bench.clock())
    assert len(bench.broker._memory) == 0
