"""`store.on_outage: local`: which sessions go on without the store, which do not, and what the store is told later."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials.outage import GRACE
from sidecar.errors import LockHeldError, Refusal, StoreBrokenError, StoreUnavailableError
from sidecar.model import Granted, GrantRefused, Identity, Secret, Token, TokenSpec
from tests.support.credentials import APP, OTHER_ROUTE, USER, keyed
from tests.unit.test_broker_races import Pair, View

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from sidecar.credentials.broker import Broker

OTHER_IDP = replace(USER, provider="idp2", issuer="https://idp2.test")
OTHER_APP = replace(APP, scopes=frozenset({"other"}))
ALL = {"get", "put", "delete", "keys", "lock", "ping"}


class Local(Pair):
    """Two instances with `on_outage: local` over one store."""

    def __init__(self) -> None:
        super().__init__((USER, OTHER_ROUTE, OTHER_IDP, APP, OTHER_APP))
        self.views.clear()
        self.one = self.broker = self.another(View(self.base, self.views), local=True)
        self.two = self.another(View(self.base, self.views), local=True)

    def outage(self, away: bool = True) -> None:
        for view in self.views:
            view.away = set(ALL) if away else set()

    async def back(self) -> None:
        """End the outage, and let both instances notice."""
        self.outage(False)
        await asyncio.gather(self.one.outages.look(), self.two.outages.look())

    async def expired(self) -> str:
        """Let alice be signed in at the first instance, her token expire, the store go away."""
        first = await self.sign_in("alice", expires_in=100)
        await self.at(self.one)
        self.clock.now += 200
        self.outage()
        for instance in (self.one, self.two):
            await instance.outages.look()
        return first


@pytest.fixture
async def local() -> AsyncIterator[Local]:
    """Return two instances that are closed at the end."""
    made = Local()
    yield made
    made.outage(False)
    for broker in (made.one, made.two):
        await asyncio.wait_for(broker.close(1), 5)


async def refusal(local: Local, broker: Broker, spec: TokenSpec = USER, session: str = "alice") -> str:
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(local.at(broker, spec, session), 5)
    return caught.value.name


async def test_session_of_this_instance_is_renewed_without_the_store(local: Local) -> None:
    """[RD-03] Whoever signed the user in renews on its own, one request for all who wait, again and again."""
    await local.expired()
    tokens = await asyncio.gather(*(local.at(local.one) for _ in range(50)))
    assert set(tokens) == {"access.alice.read.2"}
    local.clock.now += 4000
    assert await local.at(local.one) == "access.alice.read.3"
    assert local.server.calls == 2
    assert not local.server.killed


async def test_routes_of_one_session_never_spend_a_refresh_token_twice_without_the_store(local: Local) -> None:
    """[RD-03] The chain's lock of the process stands in for the store's."""
    await local.expired()
    local.server.latency = 5
    await asyncio.gather(local.at(local.one), local.at(local.one, OTHER_ROUTE))
    assert not local.server.killed
    assert max(local.server.spent.values()) == 1


async def test_session_that_another_instance_renewed_last_is_refused(local: Local) -> None:
    """[RD-03] Only one instance may spend a refresh token while nobody can be asked."""
    await local.expired()
    assert await refusal(local, local.two) == "store_unavailable"
    assert await local.at(local.one) == "access.alice.read.2"
    assert local.server.calls == 1


async def test_session_that_another_instance_has_renewed_since_is_not_renewed_without_the_store(local: Local) -> None:
    """[RD-03] Word of a change takes the right away; the renewing instance has it now."""
    await local.sign_in("alice", expires_in=100)
    await local.at(local.one)
    local.clock.now += 200
    await local.at(local.two)
    local.clock.now += 4000
    local.outage()
    assert await refusal(local, local.one) == "store_unavailable"
    assert await local.at(local.two) == "access.alice.read.3"


async def test_session_that_this_instance_does_not_know_is_refused(local: Local) -> None:
    """[RD-03] A restart forgets; unknown sessions get the same refusal as with `fail`."""
    await local.expired()
    fresh = local.another(local.views[0], local=True)
    assert await refusal(local, fresh) == "store_unavailable"
    assert await refusal(local, local.one, session="mallory") == "store_unavailable"
    await fresh.close(1)


async def test_without_local_nothing_is_renewed_without_the_store() -> None:
    """[RD-03] `fail` is the default."""
    pair = Pair()
    await pair.sign_in("alice", expires_in=100)
    await pair.at(pair.one)
    pair.clock.now += 200
    pair.views[0].away = set(ALL)
    with pytest.raises(Refusal) as caught:
        await pair.at(pair.one)
    assert caught.value.name == "store_unavailable"
    assert pair.server.calls == 0
    pair.views[0].away = set()
    await pair.one.close(1)
    await pair.two.close(1)


async def test_store_that_returns_is_told_what_it_missed(local: Local) -> None:
    """[RF-18] Memory wins by generation; the other instance then uses the token and the refresh token of the first."""
    await local.expired()
    await local.at(local.one)
    await local.back()
    assert not local.one.outages.unstored
    assert local.one.counts.repairs == 1
    assert await local.at(local.two) == "access.alice.read.2"
    local.clock.now += 4000
    assert await local.at(local.two) == "access.alice.read.3"
    assert not local.server.killed


async def test_other_instance_spends_nothing_right_after_the_outage(local: Local) -> None:
    """[RF-18] What the store still has may be spent: its owner is given time to say so."""
    await local.expired()
    await local.at(local.one)
    local.outage(False)
    await local.two.outages.look()  # the second notices first
    assert await refusal(local, local.two) == "store_unavailable"
    await local.one.outages.look()
    local.clock.now += 2
    assert await local.at(local.two) == "access.alice.read.2"
    assert not local.server.killed


async def test_other_instance_spends_nothing_before_it_has_noticed_the_stores_return(local: Local) -> None:
    """[RF-18] A request can be faster than the look once a second: what the store has may be spent all the same."""
    await local.expired()
    await local.at(local.one)
    local.outage(False)
    assert await refusal(local, local.two) == "store_unavailable"
    await local.back()
    local.clock.now += 2
    assert await local.at(local.two) == "access.alice.read.2"
    assert not local.server.killed


async def test_session_whose_owner_is_gone_goes_on_after_the_grace(local: Local) -> None:
    """Where nobody comes to tell, the store's refresh token is taken for unspent."""
    await local.expired()
    await local.back()
    assert await refusal(local, local.two) == "store_unavailable"
    local.clock.now += GRACE + 1
    assert await local.at(local.two) == "access.alice.read.2"


async def test_session_deleted_in_the_store_meanwhile_stays_deleted(local: Local) -> None:
    """[ID-04] A sign-out that reached the store wins over memory, and the new refresh token is revoked."""
    await local.expired()
    await local.at(local.one)
    for key in await local.base.keys("session:"):
        await local.base.delete(key)
    await local.back()
    assert local.server.revoked == ["refresh.alice.2"]
    assert await refusal(local, local.one) == "login_required"


async def test_sign_in_at_another_provider_meanwhile_is_served_at_once(local: Local) -> None:
    """What was renewed of the session before it is given up; the new one is not taken for ended with it."""
    await local.expired()
    await local.at(local.one)
    local.views[1].away = set()
    local.views[1].deaf = local.views[0].deaf = True
    await local.two.sessions.delete("alice")
    await local.two.sessions.put("alice", "idp2", local.server.sign_in("bob"))
    await local.back()
    assert local.server.revoked == ["refresh.alice.1", "refresh.alice.2"]
    assert await local.at(local.one, OTHER_IDP) == "access.bob.sign-in.3"
    assert await refusal(local, local.one) == "login_required"


async def test_session_ended_before_the_answer_of_a_renewal_without_the_store_stays_ended(local: Local) -> None:
    """[ID-04] The store is back by then, and shows nothing that the answer could be written over."""
    await local.expired()
    local.server.gate.clear()
    waiting = asyncio.create_task(local.at(local.one))
    await local.idle()
    local.outage(False)
    local.views[0].deaf = True
    await local.two.sessions.delete("alice")
    local.server.gate.set()
    with pytest.raises(Refusal, match="login_required"):
        await waiting
    assert await local.base.keys("session:") == []
    assert local.server.revoked == ["refresh.alice.1", "refresh.alice.2"]
    local.outage()
    assert await refusal(local, local.one) in ("login_required", "store_unavailable")


async def test_sign_in_anew_leaves_nothing_of_the_former_user_for_an_outage(local: Local) -> None:
    """[ID-08] Neither at another provider, nor where the former sign-in's clock was ahead."""
    local.clock.now += 60
    for provider in ("idp", "idp2"):
        await local.one.sessions.put("alice", provider, local.server.sign_in("alice"))
    for spec in (USER, OTHER_IDP):
        assert (await local.at(local.one, spec)).startswith("access.alice.")
    local.clock.now -= 60
    token = Token(Secret("access.bob"), local.clock(), local.clock() + 3600, frozenset({"read"}))
    name = await local.one.sessions.name("alice")
    await local.one.sessions.open(name, "idp", Granted(token, Secret("r")), Identity("https://idp.test", "bob"))
    local.outage()
    for instance in (local.one, local.two):
        await instance.outages.look()
    assert await refusal(local, local.one, OTHER_IDP) == "store_unavailable"
    assert await local.at(local.one) == "access.bob"


async def test_session_signed_in_anew_meanwhile_is_not_overwritten(local: Local) -> None:
    """A newer chain in the store wins; what was renewed of the older one is given up."""
    await local.expired()
    await local.at(local.one)
    local.views[1].away = set()
    local.views[1].deaf = local.views[0].deaf = True
    await local.two.sessions.put("alice", "idp", local.server.sign_in("alice"))
    await local.back()
    assert await local.at(local.one) == "access.alice.sign-in.3"
    assert await local.at(local.two) == "access.alice.sign-in.3"


async def test_session_signed_in_meanwhile_by_a_clock_that_is_behind_is_not_overwritten(local: Local) -> None:
    """[ST-10] Another sign-in is another one, whatever its time."""
    await local.expired()
    await local.at(local.one)
    local.views[1].away = set()
    local.views[1].deaf = local.views[0].deaf = True
    local.clock.now -= 1800
    await local.two.sessions.delete("alice")
    await local.two.sessions.put("alice", "idp", local.server.sign_in("bob"))
    await local.back()
    assert await local.at(local.one) == "access.bob.sign-in.3"
    assert await local.at(local.two) == "access.bob.sign-in.3"


async def test_store_that_goes_away_in_the_midst_of_a_renewal_costs_nobody_anything(local: Local) -> None:
    """The caller gets the new token; its refresh token is stored later."""
    await local.sign_in("alice", expires_in=100)
    local.clock.now += 200
    local.server.gate.clear()
    waiting = asyncio.create_task(local.at(local.one))
    await local.idle()
    local.outage()
    local.server.gate.set()
    assert await waiting == "access.alice.read.2"
    assert len(local.one.outages.unstored) == 1
    await local.back()
    assert not local.one.outages.unstored
    assert await local.at(local.two) == "access.alice.read.2"


async def test_write_whose_answer_was_lost_is_no_conflict(local: Local) -> None:
    """What the store has already is not written again."""
    await local.sign_in("alice", expires_in=100)
    local.clock.now += 200
    put = local.views[0].put

    async def last(key: str, value: bytes, **options: int) -> bool:
        await put(key, value, **options)
        local.outage()
        raise StoreUnavailableError("written, but who knows")

    local.views[0].put = last  # type: ignore[method-assign]
    assert await local.at(local.one) == "access.alice.read.2"
    await local.back()
    assert (local.one.counts.repairs, local.one.counts.lost_races) == (0, 0)
    assert await local.at(local.one) == "access.alice.read.2"


async def test_sign_in_that_was_lost_with_the_outage_is_made_again_before_its_renewal_is_stored(local: Local) -> None:
    """[ID-08] [RD-07] The session that it had replaced, which a failover shows again, would be taken for a later one."""
    await local.sign_in("alice", "zoe")
    replica = dict(local.base._rows)
    local.clock.now += 10
    await local.sign_in("alice", expires_in=20)
    await local.at(local.one)
    local.outage()
    local.clock.now += 25
    assert await local.at(local.one) == "access.alice.read.3"
    local.base._rows = replica
    await local.back()
    for broker in (local.one, local.two):
        broker._changed("")
        assert await local.at(broker) == "access.alice.read.3"


async def test_refresh_token_whose_answer_is_still_to_come_is_not_sent_again_without_the_store(local: Local) -> None:
    """[RF-08] The store goes away while one route's renewal times out and another route's waits for its turn."""
    await local.sign_in("alice", expires_in=100)
    local.clock.now += 200
    local.server.tardy = True
    local.server.gate.clear()
    local.server.sending.clear()
    routes = [asyncio.create_task(local.at(local.one, spec)) for spec in (USER, OTHER_ROUTE)]
    await local.idle()
    local.outage()
    local.server.sending.set()
    await local.idle()
    refusals = [refusal.name for refusal in await asyncio.gather(*routes, return_exceptions=True)]
    assert refusals == ["provider_unavailable", "provider_unavailable"]
    local.server.gate.set()
    await local.idle()
    local.clock.now += 2
    assert await local.at(local.one) == "access.alice.read.2"
    assert (local.server.calls, local.server.killed) == (1, [])


async def test_lock_that_another_instance_holds_is_no_outage(local: Local) -> None:
    """[RD-03] A store that answers decides who renews."""
    await local.sign_in("alice", expires_in=100)
    await local.at(local.one)
    local.clock.now += 200
    probed = local.views[0].lock

    def lock(name: str, **options: float) -> AbstractAsyncContextManager[View]:
        if name.startswith("probe:"):
            return probed(name, **options)
        raise LockHeldError("the lock is still held by another process")

    local.views[0].lock = lock
    assert await refusal(local, local.one) == "provider_unavailable"
    assert local.server.calls == 0


@pytest.mark.parametrize("failure", [StoreUnavailableError("once"), StoreBrokenError("once")], ids=["away", "broken"])
async def test_write_that_fails_once_is_no_outage(local: Local, failure: Exception) -> None:
    """[RF-05] Others reach the store: the lock is kept until it has the new refresh token, or they spend the old one."""
    await local.sign_in("alice", expires_in=100)
    await local.at(local.one)
    local.clock.now += 200
    view, put = local.views[0], local.views[0].put

    async def once(*_: object, **_options: object) -> bool:
        view.put = put  # type: ignore[method-assign]
        raise failure

    view.put = once  # type: ignore[method-assign]
    assert await refusal(local, local.one) == "store_unavailable"
    assert await local.at(local.two) == "access.alice.read.2"
    assert (local.server.calls, local.server.killed) == (1, [])


async def test_token_that_another_instance_has_bought_meanwhile_is_used_right_after_an_outage(local: Local) -> None:
    """[RD-03] Whose turn it is after that renewal has nothing to spend."""
    await local.expired()
    await local.back()
    local.server.gate.clear()
    first = asyncio.create_task(local.at(local.one))
    await local.idle()
    second = asyncio.create_task(local.at(local.two))
    await local.idle()
    local.server.gate.set()
    assert await asyncio.wait_for(asyncio.gather(first, second), 5) == ["access.alice.read.2"] * 2
    assert local.server.calls == 1


async def test_grant_refused_without_the_store_does_not_end_the_session_unconfirmed(local: Local) -> None:
    """[RF-06] Only the store can say whether something newer exists."""
    await local.expired()
    local.server.script.append(GrantRefused())
    assert await refusal(local, local.one) == "store_unavailable"
    await local.back()
    local.clock.now += GRACE + 1
    assert await local.at(local.one) == "access.alice.read.2"


async def test_instance_that_ends_during_the_outage_loses_only_what_was_renewed(local: Local) -> None:
    """[RF-05] The provider refuses the spent refresh token: a clean login_required, and nobody's else session."""
    await local.expired()
    await local.at(local.one)
    local.one.outages.unstored.clear()  # as after a kill -9
    await local.back()
    local.clock.now += GRACE + 1
    assert await refusal(local, local.two) == "login_required"


async def test_application_tokens_need_no_store_at_all(local: Local) -> None:
    """Neither before nor during an outage."""
    local.outage()
    assert (await local.one.obtain(keyed(APP))).token.startswith(b"access.app.stats")


async def test_application_tokens_are_bought_right_after_an_outage(local: Local) -> None:
    """No refresh token of theirs can have been spent by another."""
    local.outage()
    for instance in (local.one, local.two):
        await instance.outages.look()
    local.outage(False)
    assert (await local.two.obtain(keyed(APP))).token.startswith(b"access.app.stats")  # not noticed yet
    await local.back()
    assert (await local.one.obtain(keyed(OTHER_APP))).token.startswith(b"access.app.other")
