"""Sessions that the sidecar itself signs in: found by their issuer's word, in whatever order things happen."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.credentials.sessions import Life
from sidecar.credentials.sign_ins import SignedIn
from sidecar.errors import Refusal, StoreUnavailableError
from sidecar.login import backchannel
from sidecar.login.backchannel import LogoutRefusedError
from sidecar.model import Granted, Identity, Secret, Token
from sidecar.oauth.logout_token import Logout
from sidecar.stores.memory import MemoryStore
from tests.support.credentials import USER, Bench, keyed
from tests.support.jwts import part

if TYPE_CHECKING:
    from sidecar.stores.contract import Record

ISSUER = USER.issuer
ALICE = Identity(ISSUER, "alice", "sid-a")


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def opened(bench: Bench, session: str, identity: Identity = ALICE, ago: float = 0.0) -> bool:
    """Open a session as a sign-in does whose tokens were asked for so many seconds ago."""
    response = bench.server.sign_in(identity.subject)
    now = bench.clock() - ago
    token = Token(Secret(str(response["access_token"])), now, now + bench.server.life, frozenset({"read"}))
    granted = Granted(token, Secret(str(response["refresh_token"])), Secret("i.d.t"))
    return await bench.broker.sign_ins.open(session, "idp", granted, identity)


async def alive(bench: Bench, *sessions: str) -> list[str]:
    return [session for session in sessions if await bench.broker.sign_ins.find(session)]


async def test_opened_session_is_known_and_serves(bench: Bench) -> None:
    """Who, since when, until when; the route of the provider has its token."""
    assert await opened(bench, "one")
    start = bench.clock()
    found = await bench.broker.sign_ins.find("one")
    life = bench.broker.sessions.life
    assert found == SignedIn("idp", "alice", start, start + life.idle, Secret("i.d.t"))
    assert (await bench.token(USER, "one")).startswith("access.alice")
    assert await bench.broker.sign_ins.find("two") is None


async def test_session_of_an_application_has_no_subject(bench: Bench) -> None:
    """What the session API put is known too."""
    await bench.sign_in("one")
    found = await bench.broker.sign_ins.find("one")
    assert found is not None
    assert (found.subject, found.id_token) == (None, None)


@pytest.mark.parametrize(
    ("subject", "sid", "left"),
    [
        pytest.param("", "sid-a", ["a2", "b1", "plain"], id="by-sid"),
        pytest.param("alice", "sid-a", ["a2", "b1"], id="by-sid-and-sub-takes-those-without-sid"),
        pytest.param("alice", "", ["b1"], id="by-sub"),
        pytest.param("bob", "sid-a", ["a1", "a2", "b1", "plain"], id="by-sid-of-another"),
        pytest.param("", "sid-x", ["a1", "a2", "b1", "plain"], id="by-unknown-sid"),
        pytest.param("mallory", "", ["a1", "a2", "b1", "plain"], id="by-unknown-sub"),
    ],
)
async def test_issuer_ends_whom_it_names(bench: Bench, subject: str, sid: str, left: list[str]) -> None:
    """One session of a user by `sid`, all by `sub`; nobody else's. The refresh tokens are revoked."""
    await opened(bench, "a1", ALICE)
    await opened(bench, "a2", ALICE._replace(sid="sid-a2"))
    await opened(bench, "plain", ALICE._replace(sid=""))
    await opened(bench, "b1", Identity(ISSUER, "bob", "sid-b"))
    count = await bench.broker.sign_ins.end(ISSUER, subject, sid)
    assert await alive(bench, "a1", "a2", "b1", "plain") == left
    assert count == 4 - len(left)
    await bench.broker.sessions.settle()
    assert len(bench.server.revoked) == count
    assert await bench.broker.sign_ins.end(ISSUER, subject, sid) == 0


async def test_other_issuer_ends_nothing(bench: Bench) -> None:
    """The same subject and sid of another issuer are somebody else's."""
    await opened(bench, "one")
    for subject, sid in (("alice", ""), ("", "sid-a"), ("alice", "sid-a")):
        assert await bench.broker.sign_ins.end("https://evil.example", subject, sid) == 0
    assert await alive(bench, "one") == ["one"]


async def test_ended_session_is_used_by_no_instance(bench: Bench) -> None:
    """[ID-05] The next request of each instance is refused."""
    await opened(bench, "one")
    other = bench.another()
    await bench.token(USER, "one")
    await other.obtain(keyed(USER, "one"))
    await bench.broker.sign_ins.end(ISSUER, "", "sid-a")
    other._changed("")  # the word of the store, which a memory store shared in a test does not give
    for broker in (bench.broker, other):
        with pytest.raises(Refusal) as caught:
            await broker.obtain(keyed(USER, "one"))
        assert caught.value.name == "login_required"


@pytest.mark.parametrize(
    ("user", "behind", "revoked"),
    [
        pytest.param("alice", 0, [], id="again"),
        pytest.param("alice", 4000, [], id="again, by a clock that is behind"),
        pytest.param("bob", 0, ["refresh.alice.1", "refresh.alice.3"], id="another"),
    ],
)
async def test_renewal_that_a_new_sign_in_overtakes_is_revoked_unless_it_is_the_same_users(
    bench: Bench, user: str, behind: float, revoked: list[str]
) -> None:
    """[ID-04] Many servers end with its refresh token all that they have granted to the user, the new tokens too."""
    await opened(bench, "old")
    bench.clock.now += bench.server.life
    bench.server.gate.clear()
    renewal = asyncio.create_task(bench.token(USER, "old"))
    await bench.idle()
    identity, other = Identity(ISSUER, user, "sid-n"), bench.another()
    bench.broker, ours = other, bench.broker
    bench.clock.now -= behind
    assert await opened(bench, "new", identity)
    bench.clock.now += behind
    await other.sessions.delete("old", heir=identity)
    ours._changed(await other.sessions.name("old"))
    bench.server.gate.set()
    with pytest.raises(Refusal) as caught:
        await renewal
    assert (caught.value.name, bench.server.revoked) == ("login_required", revoked)


async def test_logout_during_a_sign_in_ends_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the list and the session comes the logout: the sign-in finds itself off the list and gives up."""
    sessions = bench.broker.sessions
    real = sessions.open

    async def open_late(*args: Any) -> None:
        await bench.broker.sign_ins.end(ISSUER, "alice", "")
        await real(*args)

    monkeypatch.setattr(sessions, "open", open_late)
    assert not await opened(bench, "one")
    assert await alive(bench, "one") == []
    assert len(bench.server.revoked) == 1


@pytest.mark.parametrize(
    ("subject", "sid", "left"),
    [
        pytest.param("", "sid-a", ["plain", "other"], id="by-sid"),
        pytest.param("alice", "sid-a", ["other"], id="by-sid-and-sub-takes-those-without-sid"),
        pytest.param("alice", "", [], id="by-sub"),
        pytest.param("bob", "sid-a", ["a", "plain", "other"], id="by-sid-of-another"),
        pytest.param("bob", "", ["a", "plain", "other"], id="by-sub-of-another"),
    ],
)
async def test_logout_while_the_tokens_are_on_their_way_ends_the_sign_in(
    bench: Bench, subject: str, sid: str, left: list[str]
) -> None:
    """Nothing is stored yet that the logout could find: the sign-in finds the logout. The next sign-in is none of it."""
    await bench.broker.sign_ins.end(ISSUER, subject, sid)
    sids = {"a": "sid-a", "plain": "", "other": "sid-o"}
    kept = [name for name in sids if await opened(bench, name, ALICE._replace(sid=sids[name]), ago=3.0)]
    assert kept == await alive(bench, *sids) == left
    assert len(bench.server.revoked) == 3 - len(left)
    assert await opened(bench, "later")


async def test_tokens_of_another_issuer_than_the_providers_open_no_session(bench: Bench) -> None:
    """A reload has given the provider's name to another server: the refresh token would go there."""
    with pytest.raises(Refusal):
        await opened(bench, "s", ALICE._replace(issuer="https://former.example"))
    assert await alive(bench, "s") == []


async def test_many_sign_ins_at_once_are_all_listed(bench: Bench) -> None:
    """The list of a subject is written by compare-and-set: none is lost."""
    names = [f"s{number}" for number in range(5)]
    assert all(await asyncio.gather(*(opened(bench, name) for name in names)))
    assert await bench.broker.sign_ins.end(ISSUER, "alice", "") == 5


class FarStore(MemoryStore):
    """Others have their turn while it reads and writes."""

    async def get(self, key: str) -> Record | None:
        await asyncio.sleep(0)
        found = await super().get(key)
        await asyncio.sleep(0)
        return found

    async def put(self, key: str, value: bytes, **named: Any) -> bool:
        await asyncio.sleep(0)
        return await super().put(key, value, **named)


async def test_many_sign_ins_and_logouts_of_one_user_at_once_all_count() -> None:
    """[ID-05] An issuer ends all sessions of a user by one logout token each, all at once: none may fail by another."""
    bench = Bench(store=FarStore())
    instances = [bench.broker.sign_ins, bench.another().sign_ins, bench.another().sign_ins]
    names = [f"s{number}" for number in range(30)]
    assert all(await asyncio.gather(*(opened(bench, name, ALICE._replace(sid=name)) for name in names)))
    ends = (instances[at % 3].end(ISSUER, "alice", name) for at, name in enumerate(names))
    assert await asyncio.gather(*ends) == [1] * len(names)
    assert await alive(bench, *names) == []


@pytest.mark.parametrize("method", ["get", "put", "delete"])
async def test_logout_that_the_store_broke_off_is_made_good_by_the_issuers_next_try(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ID-05] Whichever operation fails, the same token is still good, and finds the session that it did not end."""
    logout = Logout(ISSUER, "alice", "sid-a", "the-jti", Bench().clock() + 100)
    for fails in range(12):
        bench = Bench(store=MemoryStore())
        await opened(bench, "one")
        left, real = iter(range(fails)), getattr(bench.store, method)

        async def breaks(*given: Any, left: Any = left, real: Any = real, **named: Any) -> Any:
            if next(left, None) is None:
                raise StoreUnavailableError
            return await real(*given, **named)

        with monkeypatch.context() as patched:
            patched.setattr(bench.store, method, breaks)
            told = await asyncio.gather(backchannel._carry_out(logout, bench.broker.sign_ins), return_exceptions=True)
        if told == [1]:
            return
        assert await backchannel._carry_out(logout, bench.broker.sign_ins) in (0, 1)
        assert await alive(bench, "one") == []
        with pytest.raises(LogoutRefusedError):
            await backchannel._carry_out(logout, bench.broker.sign_ins)
    raise AssertionError("it never went through")


async def test_oldest_of_too_many_sessions_of_a_user_ends(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who signs in again and again puts no session out of reach of a logout: the list is bounded, and so are they."""
    monkeypatch.setattr("sidecar.credentials.sign_ins.MOST_LISTED", 3)
    names = [f"s{number}" for number in range(5)]
    for name in names:
        assert await opened(bench, name, ALICE._replace(sid=f"sid-{name}"))
    assert await opened(bench, "bob", Identity(ISSUER, "bob", "sid-b"))
    assert await alive(bench, *names, "bob") == ["s2", "s3", "s4", "bob"]
    await bench.broker.sessions.settle()
    assert bench.server.revoked == []  # many servers would end the newest with the oldest
    assert await bench.broker.sign_ins.end(ISSUER, "alice", "") == 3
    assert await alive(bench, *names, "bob") == ["bob"]


async def test_list_forgets_what_is_over(bench: Bench) -> None:
    """Sessions whose lifetime is over go with the next change."""
    sign_ins = bench.broker.sign_ins
    place = await sign_ins._of_subject(ISSUER, "alice")
    await sign_ins._change(place, lambda old: old | {f"n{n}": bench.clock() + 50 for n in range(400)})
    assert len(await sign_ins._listed(place)) == 400
    bench.clock.now += 51
    assert await sign_ins._listed(place) == {}


async def test_what_may_happen_once_happens_once(bench: Bench) -> None:
    """By kind and text, until its time is over."""
    sign_ins, until = bench.broker.sign_ins, bench.clock() + 10
    assert not await sign_ins.happened("jti", "x")
    assert await sign_ins.once("jti", "x", until)
    assert await sign_ins.happened("jti", "x")
    assert not await sign_ins.once("jti", "x", until)
    assert await sign_ins.once("state", "x", until)
    assert await sign_ins.once("jti", "y", until)
    bench.clock.now += 11
    assert not await sign_ins.happened("jti", "x")
    assert await sign_ins.once("jti", "x", bench.clock() + 10)


async def test_store_shows_neither_subject_nor_sid_nor_jti(bench: Bench) -> None:
    """Names are keyed hashes, values are sealed."""
    await opened(bench, "the-session", Identity(ISSUER, "the-subject", "the-sid"))
    await bench.broker.sign_ins.once("jti", "the-jti", bench.clock() + 10)
    stored = repr(bench.store._rows)
    assert len(bench.store._rows) >= 4
    for text in ("the-session", "the-subject", "the-sid", "the-jti", "i.d.t", ISSUER):
        assert text not in stored


@pytest.mark.parametrize("method", ["get", "put", "delete"])
async def test_store_that_is_away_is_told(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is signed in, or told that a session ended, without the store."""
    bench = Bench(store=MemoryStore())
    await opened(bench, "one")

    async def away(*_args: Any, **_named: Any) -> Any:
        raise StoreUnavailableError

    monkeypatch.setattr(bench.store, method, away)
    if method != "delete":
        with pytest.raises(Refusal) as caught:
            await opened(bench, "two")
        assert caught.value.name == "store_unavailable"
    with pytest.raises(Refusal) as caught:
        await bench.broker.sign_ins.end(ISSUER, "alice", "")
    assert caught.value.name == "store_unavailable"


@pytest.mark.parametrize(
    ("changed", "lives"),
    [({}, True), ({"sub": "mallory"}, False), ({"iss": "https://evil.example"}, False), ({"aud": "other"}, False)],
    ids=["same", "ID-14-sub", "ID-14-iss", "ID-14-aud"],
)
async def test_renewal_for_another_person_ends_the_session(bench: Bench, changed: dict[str, str], lives: bool) -> None:
    """[ID-14] The token is never used, both refresh tokens are revoked, the session is gone for good."""
    await opened(bench, "one")
    bench.clock.now += bench.server.life
    now = bench.clock()
    claims = {"iss": ISSUER, "sub": "alice", "aud": USER.client, **changed}
    id_token = Secret(f"{part({'alg': 'ES256'})}.{part(claims)}.x")
    token = Token(Secret("access.of.the.renewal"), now, now + 3600, frozenset({"read"}))
    bench.server.script.append(Granted(token, Secret("refresh.of.the.renewal"), id_token))
    if lives:
        assert await bench.token(USER, "one") == "access.of.the.renewal"
        found = await bench.broker.sign_ins.find("one")
        assert found is not None
        assert found.id_token == id_token
        return
    with pytest.raises(Refusal) as caught:
        await bench.token(USER, "one")
    assert caught.value.name == "login_required"
    assert len(bench.server.revoked) == 2
    assert "refresh.of.the.renewal" in bench.server.revoked
    assert bench.broker.counts.changed_identities == 1
    assert await alive(bench, "one") == []
    with pytest.raises(Refusal):
        await bench.token(USER, "one")


async def test_configured_lifetimes_hold_for_new_sessions(bench: Bench) -> None:
    """Idle and absolute; a session from before keeps its own."""
    await opened(bench, "old")
    bench.broker.sessions.life = Life(600.0, 1000.0)
    await opened(bench, "new")
    await bench.sign_in("put")
    bench.clock.now += 601
    assert await alive(bench, "old", "new", "put") == ["old"]


async def test_used_session_outlives_its_idle_life_but_not_its_absolute_one(bench: Bench) -> None:
    """Uses are stored often enough for the configured life."""
    bench.broker.sessions.life = Life(600.0, 2000.0)
    await opened(bench, "one")
    start = bench.clock()
    while bench.clock() < start + 1900:
        bench.clock.now += 60
        await bench.token(USER, "one")
        await bench.broker.sessions.flush_last_used()
    assert await alive(bench, "one") == ["one"]
    bench.clock.now = start + 2001
    assert await alive(bench, "one") == []
    with pytest.raises(Refusal):
        await bench.token(USER, "one")
