"""The broker with one instance: flights, windows, rejections, failures; on a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials.broker import StillRejectedError
from sidecar.errors import Refusal
from sidecar.model import (
    APPLICATION,
    ClientRefused,
    Granted,
    GrantRefused,
    Invalid,
    Outcome,
    Secret,
    Token,
    TokenKey,
    TokenSpec,
    Unavailable,
)
from tests.support.credentials import APP, OTHER_ROUTE, USER, Bench, keyed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = keyed(USER, "alice")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Return a broker that is closed at the end."""
    made = Bench()
    yield made
    made.server.gate.set()
    await asyncio.wait_for(made.broker.close(1), 5)


async def refused(bench: Bench, spec: TokenSpec = USER, session: str | None = "alice") -> Refusal:
    """Return the refusal that a request gets."""
    with pytest.raises(Refusal) as caught:
        await bench.token(spec, session)
    return caught.value


# -- flights ---------------------------------------------------------------------------------------------------------


async def test_thousand_callers_of_an_expired_token_make_one_request(bench: Bench) -> None:
    """[RF-01] All get the new token."""
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    bench.clock.now += 4000
    tokens = await asyncio.gather(*(bench.token(USER, "alice") for _ in range(1000)))
    assert set(tokens) == {"access.alice.read.2"}
    assert bench.server.calls == 1
    assert bench.broker.counts.joined == 999
    assert bench.broker.counts.renewals == {"expiry": 1}


async def test_cold_application_key_is_minted_once_for_all(bench: Bench) -> None:
    """[RF-15] And again only when it has expired."""
    assert len({*await asyncio.gather(*(bench.token(APP) for _ in range(200)))}) == 1
    await bench.token(APP)
    assert bench.server.calls == 1
    bench.clock.now += 4000
    await bench.token(APP)
    assert bench.server.calls == 2


async def test_first_caller_that_leaves_harms_no_other(bench: Bench) -> None:
    """Who started the flight is nobody special."""
    bench.server.gate.clear()
    callers = [asyncio.create_task(bench.token(APP)) for _ in range(10)]
    await bench.idle()
    callers[0].cancel()
    await bench.idle()
    bench.server.gate.set()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert len(set(results[1:])) == 1
    assert bench.server.calls == 1


async def test_renewal_that_every_caller_left_is_stored(bench: Bench) -> None:
    """[RF-11] The rotated refresh token is not lost with the callers."""
    await bench.sign_in("alice", access_token="old", expires_in=1)
    bench.clock.now += 10
    bench.server.gate.clear()
    callers = [asyncio.create_task(bench.token(USER, "alice")) for _ in range(5)]
    await bench.idle()
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    bench.server.gate.set()
    await bench.idle()
    assert await bench.token(USER, "alice") == "access.alice.read.2"
    assert bench.server.calls == 1
    bench.clock.now += 4000
    assert await bench.token(USER, "alice") == "access.alice.read.3"
    assert not bench.server.killed


async def test_two_routes_share_one_rotating_refresh_token(bench: Bench) -> None:
    """Each gets its own access token, one after the other, and no refresh token is spent twice."""
    await bench.sign_in("alice", scope="none")
    tokens = await asyncio.gather(*(bench.token(spec, "alice") for spec in (USER, OTHER_ROUTE) * 50))
    assert sorted(set(tokens)) == ["access.alice.read.2", "access.alice.write.3"]
    assert not bench.server.killed
    assert set(bench.server.spent.values()) == {1}


async def test_slow_provider_delays_no_other_key(bench: Bench) -> None:
    """[PD-08] No lock is held but the chain's own."""
    await bench.sign_in("alice")
    bench.server.gate.clear()
    waiting = asyncio.create_task(bench.token(APP))
    await bench.idle()
    assert await bench.token(USER, "alice") == "access.alice.sign-in.1"
    bench.server.gate.set()
    await waiting


async def test_close_waits_for_the_flight_and_stores_its_token(bench: Bench) -> None:
    """[RF-12] Shutting down loses no rotated refresh token."""
    await bench.sign_in("alice", expires_in=1)
    bench.clock.now += 10
    bench.server.gate.clear()
    caller = asyncio.create_task(bench.token(USER, "alice"))
    await bench.idle()
    closing = asyncio.create_task(bench.broker.close(5))
    await bench.idle()
    assert not closing.done()
    bench.server.gate.set()
    await closing
    assert await caller == "access.alice.read.2"
    assert (await refused(bench, OTHER_ROUTE)).name == "overloaded"
    bench.broker = bench.another()
    assert await bench.token(USER, "alice") == "access.alice.read.2"
    assert bench.server.calls == 1


async def test_flight_that_close_calls_off_refuses_its_callers(bench: Bench) -> None:
    """The deadline holds; nobody is left waiting, nor taken for cancelled."""
    bench.server.gate.clear()
    caller = asyncio.create_task(bench.token(APP))
    await bench.idle()
    await bench.broker.close(0.01)
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(caller, 1)
    assert caught.value.name == "overloaded"


# -- windows ---------------------------------------------------------------------------------------------------------


async def test_stale_token_is_used_at_once_while_one_flight_renews_it(bench: Bench) -> None:
    """[RF-16] Nobody waits."""
    await bench.sign_in("alice")
    assert bench.broker.ready(KEY, bench.clock()) is None  # not read from the store yet
    await bench.token(USER, "alice")
    assert bench.broker.ready(KEY, bench.clock())
    bench.clock.now += 3550
    assert bench.broker.ready(KEY, bench.clock()) is None
    bench.server.gate.clear()
    assert {await bench.token(USER, "alice") for _ in range(100)} == {"access.alice.sign-in.1"}
    await bench.idle()
    assert bench.broker.peek(KEY, bench.clock()).state == "renewing"
    bench.server.gate.set()
    await bench.idle()
    assert await bench.token(USER, "alice") == "access.alice.read.2"
    assert bench.server.calls == 1
    assert bench.broker.counts.renewals == {"background": 1}


@pytest.mark.parametrize("life", [30, 24 * 3600], ids=["PD-16-30s", "PD-16-24h"])
async def test_renewal_follows_the_life_of_the_token(bench: Bench, life: float) -> None:
    """Not the age of the session."""
    bench.server.life = life
    await bench.sign_in("alice")
    for share in (0.0, 0.5, 0.79):
        bench.clock.now = 1_800_000_000 + share * life
        assert await bench.token(USER, "alice") == "access.alice.sign-in.1"
    await bench.idle()
    assert bench.server.calls == 0
    bench.clock.now = 1_800_000_000 + life
    assert await bench.token(USER, "alice") == "access.alice.read.2"


@pytest.mark.parametrize("life", [1, 2, 3])
async def test_short_life_does_not_become_a_loop(bench: Bench, life: float) -> None:
    """[IDP-11] At most one token request for each life, however often the token is asked for."""
    bench.server.life = life
    for step in range(1000):
        bench.clock.now = 1_800_000_000 + step * 0.01
        await bench.token(APP)
        await bench.idle() if step % 10 == 0 else None
    assert 10 / life <= bench.server.calls <= 10 / life * 1.3 + 1


async def test_token_that_expires_before_it_arrives_is_refused_and_not_asked_for_at_once(bench: Bench) -> None:
    """[IDP-11] An expired token is never used, and the provider is not asked in a loop."""
    late = Granted(Token(Secret("late"), bench.clock() - 10, bench.clock() - 1))
    bench.server.script.extend([late] * 10)
    for _ in range(10):
        assert (await refused(bench, APP, None)).name == "provider_invalid"
    assert bench.server.calls == 1


async def test_clock_that_is_set_back_makes_one_renewal(bench: Bench) -> None:
    """[ST-10] A token from the future is used, since nothing better is held, and renewed; there is no loop."""
    await bench.token(APP)
    bench.clock.now -= 3600
    for _ in range(20):
        await bench.token(APP)
        await bench.idle()
    assert bench.server.calls == 2
    bench.clock.now += 7200
    await bench.token(APP)
    assert bench.server.calls == 3


async def test_hot_path_returns_nothing_for_another_key(bench: Bench) -> None:
    """One look-up, by the whole key."""
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    now = bench.clock()
    assert bench.broker.ready(KEY, now)
    assert bench.broker.ready(keyed(USER, "Alice"), now) is None
    assert bench.broker.ready(keyed(OTHER_ROUTE, "alice"), now) is None
    assert "sign-in" not in repr(bench.broker.ready(KEY, now))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(keyed(USER, ""), id="no identity"),
        pytest.param(keyed(USER), id="PD-17-user route for the application"),
        pytest.param(keyed(APP, "alice"), id="ID-11-application route for a user"),
        pytest.param(TokenKey("f" * 64, "alice"), id="unknown route"),
    ],
)
async def test_incomplete_key_is_an_error(bench: Bench, key: TokenKey) -> None:
    """Never somebody else's token instead."""
    await bench.sign_in("alice")
    with pytest.raises(Refusal) as caught:
        await bench.broker.obtain(key)
    assert caught.value.name == "internal"
    assert key.identity in ("", "alice", APPLICATION)


# -- rejections ------------------------------------------------------------------------------------------------------


async def test_fifty_rejections_make_one_renewal(bench: Bench) -> None:
    """[PD-07] And all get the new token."""
    await bench.sign_in("alice")
    old = await bench.broker.obtain(KEY)
    renewed = await asyncio.gather(*(bench.broker.obtain(KEY, rejected=old) for _ in range(50)))
    assert {credential.token for credential in renewed} == {b"access.alice.read.2"}
    assert bench.server.calls == 1
    assert bench.broker.counts.renewals == {"rejection": 1}


async def test_rejection_of_an_older_token_costs_nothing(bench: Bench) -> None:
    """[RF-13] Another caller has renewed it meanwhile."""
    await bench.sign_in("alice")
    old = await bench.broker.obtain(KEY)
    new = await bench.broker.obtain(KEY, rejected=old)
    for _ in range(10):
        assert await bench.broker.obtain(KEY, rejected=old) is new
    assert bench.server.calls == 1
    assert await bench.broker.obtain(KEY) is new


async def test_late_rejection_of_an_older_token_is_not_held_against_the_newer(bench: Bench) -> None:
    """[RF-13] The newer one's own first rejection is believed at once."""
    await bench.sign_in("alice")
    old = await bench.broker.obtain(KEY)
    bench.clock.now += 3550
    await bench.broker.obtain(KEY)
    await bench.idle()
    new = await bench.broker.obtain(KEY, rejected=old)
    assert bench.server.calls == 1
    assert (await bench.broker.obtain(KEY, rejected=new)).token == b"access.alice.read.3"


async def test_rejection_during_a_renewal_waits_for_it(bench: Bench) -> None:
    """The flight under way brings the newer token."""
    await bench.sign_in("alice")
    old = await bench.broker.obtain(KEY)
    bench.clock.now += 3550
    bench.server.gate.clear()
    await bench.broker.obtain(KEY)
    await bench.idle()
    waiting = asyncio.create_task(bench.broker.obtain(KEY, rejected=old))
    await bench.idle()
    bench.server.gate.set()
    assert (await waiting).token == b"access.alice.read.2"
    assert bench.server.calls == 1


async def test_storm_of_rejections_is_passed_on_at_growing_distances(bench: Bench) -> None:
    """[RF-14] One renewal, then 5, 10, 20 … seconds without."""
    await bench.sign_in("alice")
    start, renewals = bench.clock.now, []
    current = await bench.broker.obtain(KEY)
    for second in range(400):
        bench.clock.now = start + second
        try:
            current = await bench.broker.obtain(KEY, rejected=current)
            renewals.append(second)
        except StillRejectedError:
            assert bench.broker.ready(KEY, bench.clock()) is current
    assert renewals == [0, 5, 15, 35, 75, 155, 315]
    assert bench.broker.counts.still_rejected == 400 - len(renewals)


async def test_accepted_token_ends_the_suspicion(bench: Bench) -> None:
    """The next rejection is believed at once."""
    await bench.sign_in("alice")
    first = await bench.broker.obtain(KEY)
    assert not first.suspect
    second = await bench.broker.obtain(KEY, rejected=first)
    assert second.suspect
    bench.broker.accepted(second)
    assert not second.suspect
    third = await bench.broker.obtain(KEY, rejected=second)
    assert third.token == b"access.alice.read.3"


async def test_rejected_token_is_not_used_where_it_cannot_be_renewed(bench: Bench) -> None:
    """[PD-05] Not while the provider is away, and not without a refresh token."""
    await bench.sign_in("alice")
    old = await bench.broker.obtain(KEY)
    bench.server.script.append(Unavailable("timeout", 7))
    with pytest.raises(Refusal) as caught:
        await bench.broker.obtain(KEY, rejected=old)
    assert (caught.value.name, caught.value.retry_after) == ("provider_unavailable", 7)
    assert bench.broker.ready(KEY, bench.clock()) is None
    assert bench.broker.peek(KEY, bench.clock()).state == "rejected"
    assert (await refused(bench)).name == "provider_unavailable"
    bench.clock.now += 2
    assert await bench.token(USER, "alice") == "access.alice.read.2"

    await bench.sign_in("bob", refresh_token=None)
    only = await bench.broker.obtain(keyed(USER, "bob"))
    with pytest.raises(Refusal) as caught:
        await bench.broker.obtain(keyed(USER, "bob"), rejected=only)
    assert caught.value.name == "login_required"


async def test_application_token_is_minted_anew_once_for_a_rejection(bench: Bench) -> None:
    """[RT-10] Once per generation."""
    key = keyed(APP)
    old = await bench.broker.obtain(key)
    new = await bench.broker.obtain(key, rejected=old)
    assert new.token != old.token
    with pytest.raises(StillRejectedError):
        await bench.broker.obtain(key, rejected=new)
    assert bench.server.calls == 2


async def test_new_sign_in_is_not_suspected_for_the_old(bench: Bench) -> None:
    """A rejection concerns one sign-in's tokens."""
    await bench.sign_in("alice")
    old = await bench.broker.obtain(KEY)
    renewed = await bench.broker.obtain(KEY, rejected=old)
    bench.clock.now += 1
    await bench.sign_in("alice")
    signed_in = await bench.broker.obtain(KEY)
    assert signed_in.token.startswith(b"access.alice.sign-in.")
    assert signed_in.step.sign_in != renewed.step.sign_in
    assert (await bench.broker.obtain(KEY, rejected=signed_in)).token.startswith(b"access.alice.read.")


# -- failures --------------------------------------------------------------------------------------------------------

FAILURES: list[tuple[Outcome, str]] = [
    (Unavailable("http_503"), "provider_unavailable"),
    (Unavailable("http_429", 30), "provider_unavailable"),
    (Invalid("empty"), "provider_invalid"),
    (ClientRefused("invalid_client"), "provider_refused"),
    (ClientRefused("invalid_scope"), "provider_refused"),
    (ClientRefused("interaction_required"), "login_required"),
]


@pytest.mark.parametrize(
    ("outcome", "name"), FAILURES, ids=["IDP-05-503", "IDP-06-429", "IDP-07-empty", "IDP-13", "IDP-13-scope", "consent"]
)
async def test_failure_ends_no_session(bench: Bench, outcome: Outcome, name: str) -> None:
    """[PD-18] With an expired token the caller is refused by name; when the provider is well again, all is."""
    await bench.sign_in("alice", expires_in=1)
    bench.clock.now += 10
    bench.server.script.append(outcome)
    assert (await refused(bench)).name == name
    bench.clock.now += 61
    assert await bench.token(USER, "alice") == "access.alice.read.2"


@pytest.mark.parametrize("outcome", [failure for failure, _ in FAILURES[:5]], ids=str)
async def test_valid_token_goes_on_while_it_cannot_be_renewed(bench: Bench, outcome: Outcome) -> None:
    """[IDP-01] And is not tried to be renewed for every request."""
    await bench.sign_in("alice")
    bench.clock.now += 3550
    bench.server.script.extend([outcome] * 100)
    for _ in range(100):
        assert await bench.token(USER, "alice") == "access.alice.sign-in.1"
        await bench.idle()
    assert bench.server.calls == 1
    bench.clock.now += 6
    assert await bench.token(USER, "alice") == "access.alice.sign-in.1"
    await bench.idle()
    assert bench.server.calls == 2
    bench.clock.now += 45
    assert (await refused(bench)).name != "login_required"  # [IDP-02] the expired token is never sent


async def test_refused_grant_ends_the_session_once(bench: Bench) -> None:
    """[RF-07] The provider is not asked again, and only this session is gone."""
    await bench.sign_in("alice", expires_in=1)
    await bench.sign_in("bob", expires_in=1)
    bench.clock.now += 10
    bench.server.script.append(GrantRefused())
    for _ in range(20):
        assert (await refused(bench)).name == "login_required"
        bench.clock.now += 1
    assert bench.server.calls == 1
    assert await bench.broker.sessions.info("alice") is None
    assert await bench.token(USER, "bob") == "access.bob.read.3"


async def test_refused_grant_ends_a_session_whose_token_is_still_valid(bench: Bench) -> None:
    """What the provider has ended is not used up to its expiry, by no route."""
    await bench.sign_in("alice", scope="read write")
    await bench.token(USER, "alice")
    await bench.token(OTHER_ROUTE, "alice")
    bench.clock.now += 3550
    bench.server.script.append(GrantRefused())
    await bench.token(USER, "alice")
    await bench.idle()
    assert (await refused(bench)).name == "login_required"
    assert (await refused(bench, OTHER_ROUTE)).name == "login_required"


async def test_refused_grant_ends_only_the_chain_of_its_provider() -> None:
    """A session may be signed in at two."""
    elsewhere = replace(USER, provider="other", issuer="https://other.test")
    bench = Bench((USER, elsewhere))
    await bench.sign_in("alice", expires_in=1)
    await bench.broker.sessions.put("alice", "other", bench.server.sign_in("alice"))
    bench.clock.now += 10
    bench.server.script.append(GrantRefused())
    assert (await refused(bench)).name == "login_required"
    assert await bench.token(elsewhere, "alice") == "access.alice.sign-in.2"
    info = await bench.broker.sessions.info("alice")
    assert info is not None
    assert [provider.provider for provider in info.providers] == ["other"]
    await bench.broker.close(1)


async def test_refused_grant_of_an_application_route_is_the_clients_fault(bench: Bench) -> None:
    """There is no session to end."""
    bench.server.script.append(GrantRefused())
    assert (await refused(bench, APP, None)).name == "provider_refused"
    bench.clock.now += 2
    assert await bench.token(APP) == "access.app.stats.1"


async def test_narrower_scope_needs_consent_and_keeps_the_rotated_refresh_token(bench: Bench) -> None:
    """The route is refused, for a while without asking again; other routes go on."""
    await bench.sign_in("alice", expires_in=1)
    bench.clock.now += 10
    live = Secret("refresh.alice.x")
    narrowed = Granted(Token(Secret("n"), bench.clock(), bench.clock() + 3600, frozenset()), live)
    bench.server.script.append(narrowed)
    for _ in range(5):
        assert (await refused(bench)).name == "login_required"
    assert bench.server.calls == 1
    bench.server.families[live.reveal()] = next(iter(bench.server.families.values()))
    bench.server.families[live.reveal()].live = live.reveal()
    assert await bench.token(OTHER_ROUTE, "alice") == "access.alice.write.2"


async def test_refresh_token_in_a_bad_answer_is_kept(bench: Bench) -> None:
    """The one that was spent for it may be dead."""
    spent = await bench.sign_in("alice", expires_in=1)
    bench.clock.now += 10
    family = bench.server.families[spent]
    family.live = "refresh.alice.next"
    bench.server.families[family.live] = family
    bench.server.script.append(Invalid("token_type", Secret(family.live)))
    assert (await refused(bench)).name == "provider_invalid"
    bench.clock.now += 2
    assert await bench.token(USER, "alice") == "access.alice.read.2"
    assert not bench.server.killed


# -- sessions that are not there -------------------------------------------------------------------------------------


async def test_guessed_sessions_are_refused_alike_and_leave_nothing_behind(bench: Bench) -> None:
    """[ID-01, ID-15] A repeated guess does not reach the store; memory stays bounded."""
    asked = 0
    get = bench.store.get

    async def counted(key: str) -> object:
        nonlocal asked
        asked += 1
        return await get(key)

    bench.store.get = counted
    assert (await refused(bench, USER, "guess")).name == "login_required"
    before = asked
    for _ in range(100):
        assert (await refused(bench, USER, "guess")).name == "login_required"
    assert asked == before
    for number in range(300):
        await refused(bench, USER, f"guess{number}")
    assert len(bench.broker._memory) == 0
    await bench.sign_in("guess")
    assert await bench.token(USER, "guess") == "access.guess.sign-in.1"


async def test_reload_keeps_what_is_held_and_never_sends_it_to_another_issuer(bench: Bench) -> None:
    """[HR-04] Requests on the old configuration go on; the chain stays with the issuer and client that it came from."""
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    moved = replace(USER, issuer="https://new.test")
    specs = {moved.fingerprint: moved}
    newcomer = Bench().server
    bench.broker.reconfigure(specs, {"idp": newcomer})
    assert bench.broker.ready(KEY, bench.clock())
    assert (await refused(bench, moved)).name == "login_required"
    bench.clock.now += 4000
    assert await bench.token(USER, "alice") == "access.alice.read.2"
    assert newcomer.calls == 0


async def test_states_count_what_is_held(bench: Bench) -> None:
    """For the status page: counts, seconds and generations, no token."""
    await bench.sign_in("alice")
    await bench.token(USER, "alice")
    await bench.token(APP)
    assert bench.broker.states() == {"fresh": 2, "renewing": 0}
    assert bench.broker.peek(KEY, bench.clock()) == ("fresh", 3598, 1)
    assert bench.broker.valid_for(bench.clock()) == 3598
    bench.clock.now += 3550
    assert bench.broker.states() == {"stale": 2, "renewing": 0}
    bench.clock.now += 50
    assert bench.broker.peek(KEY, bench.clock()).state == "expired"
    assert bench.broker.peek(keyed(USER, "bob"), bench.clock()).state == "none"
