"""Races over one store: two instances, sign-in and sign-out during a renewal, a store that fails at the worst time."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.credentials import records, renewal, sight, writer
from sidecar.credentials.broker import Broker, StillRejectedError
from sidecar.credentials.vault import Vault, generate_key
from sidecar.errors import Refusal, SealError, StoreBrokenError, StoreUnavailableError
from sidecar.model import ClientRefused, GrantRefused, Invalid, Secret, TokenSpec, Unavailable
from sidecar.stores.memory import MemoryStore
from tests.support.credentials import APP, OTHER_ROUTE, USER, Bench, Clock, keyed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.stores.contract import Record

KEY = keyed(USER, "alice")


class View:
    """One process's view of a shared store: hears of the others' writes, and may be made to fail.

    `away` is the operations that fail; `unsure` lets a write happen and then fail; `deaf` hears of nothing.
    """

    name, shared, home, shaken = "view", True, None, False

    def __init__(self, base: MemoryStore, views: list[View]) -> None:
        self.base = base
        self.views = views
        self.away: set[str] = set()
        self.unsure = False
        self.deaf = False
        self.lost = False
        self.inherited = False
        self.waits_over = 0
        self.heard: Callable[[str], None] = lambda _key: None
        views.append(self)

    def waited_out(self) -> None:
        self.waits_over += 1

    def check(self, operation: str) -> None:
        if operation in self.away:
            raise StoreUnavailableError("away")

    def tell(self, key: str) -> None:
        for view in self.views:
            if view is not self and not view.deaf:
                view.heard(key)

    async def get(self, key: str) -> Record | None:
        self.check("get")
        return await self.base.get(key)

    async def put(self, key: str, value: bytes, **options: Any) -> bool:
        self.check("put")
        await asyncio.sleep(0)
        done = await self.base.put(key, value, **options)
        if done:
            self.tell(key)
        if self.unsure:
            raise StoreUnavailableError("written, but who knows")
        return done

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        self.check("delete")
        done = await self.base.delete(key, expected=expected)
        if done:
            self.tell(key)
        return done

    async def keys(self, prefix: str) -> list[str]:
        self.check("keys")
        return await self.base.keys(prefix)

    @asynccontextmanager
    async def lock(self, name: str, *, lease: float = 15, wait: float = 30) -> AsyncIterator[View]:
        self.check("lock")
        async with self.base.lock(name, lease=lease, wait=wait):
            yield self

    def watch(self, changed: Callable[[str], None]) -> None:
        self.heard = changed

    async def ping(self) -> None:
        self.check("ping")

    async def close(self) -> None: ...


class Pair(Bench):
    """Two instances over one store and one authorization server."""

    def __init__(self, specs: tuple[TokenSpec, ...] = (USER, OTHER_ROUTE, APP)) -> None:
        self.views: list[View] = []
        clock = Clock()
        base = MemoryStore(clock)
        super().__init__(specs, View(base, self.views))
        self.base = base
        base._clock = self.clock
        self.one = self.broker
        self.two = self.another(View(base, self.views))

    async def at(self, broker: Broker, spec: TokenSpec = USER, session: str = "alice") -> str:
        key = keyed(spec, session)
        credential = broker.ready(key, self.clock()) or await broker.obtain(key)
        return credential.token.decode()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Return two instances that are closed at the end."""
    made = Pair()
    yield made
    made.server.gate.set()
    for view in made.views:
        view.away = set()
        view.unsure = False
    for broker in (made.one, made.two):
        await asyncio.wait_for(broker.close(1), 5)


async def refused(call: Any) -> Refusal:
    """Return the refusal that a call gets."""
    with pytest.raises(Refusal) as caught:
        await asyncio.wait_for(call, 5)
    return caught.value


async def in_flight(pair: Pair, broker: Broker) -> asyncio.Task[str]:
    """Return a request of alice whose token request is on its way, the provider holding back its answer."""
    pair.clock.now += 10
    pair.server.gate.clear()
    task = asyncio.create_task(pair.at(broker))
    await pair.idle()
    assert pair.server.calls == 1
    return task


# -- two instances -----------------------------------------------------------------------------------------------------


async def test_two_instances_renew_once(pair: Pair) -> None:
    """[RF-02] The second reads what the first has stored."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    tokens = await asyncio.gather(*(pair.at(broker) for broker in (pair.one, pair.two) * 100))
    assert set(tokens) == {"access.alice.read.2"}
    assert pair.server.calls == 1


async def test_rejected_token_that_the_other_instance_has_renewed_costs_no_request(pair: Pair) -> None:
    """[RF-13] Across instances, even without word of the change."""
    pair.views[1].deaf = True
    await pair.sign_in("alice")
    await pair.at(pair.one)
    old = await pair.two.obtain(KEY)
    await pair.one.obtain(KEY, rejected=await pair.one.obtain(KEY))
    assert (await pair.two.obtain(KEY, rejected=old)).token == b"access.alice.read.2"
    assert pair.server.calls == 1


async def test_refused_grant_is_no_end_where_the_store_has_a_newer_refresh_token(pair: Pair) -> None:
    """[RF-06] The lost race is recovered, the session goes on."""
    await pair.sign_in("alice", expires_in=1)
    pair.views[0].lock = no_lock  # as if the lease had run out unnoticed
    pair.views[1].lock = no_lock
    waiting = await in_flight(pair, pair.one)
    pair.server.script.append(None)
    pair.server.script.append(GrantRefused())
    other = asyncio.create_task(pair.at(pair.two))
    await pair.idle()
    pair.server.gate.set()
    assert {await waiting, await other} == {"access.alice.read.2"}
    assert pair.one.counts.lost_races + pair.two.counts.lost_races == 1
    assert await pair.one.sessions.info("alice")


@asynccontextmanager
async def no_lock(_name: str, **_options: float) -> AsyncIterator[View]:
    """Take part in no lock, as who was paused past its lease."""
    yield View(MemoryStore(), [])


async def test_holder_whose_lease_was_lost_sends_nothing(pair: Pair) -> None:
    """[RF-04] It looks again instead."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.views[0].lost = True
    assert (await refused(pair.at(pair.one))).name == "store_unavailable"
    assert pair.server.calls == 0
    pair.views[0].lost = False
    pair.clock.now += 2
    assert await pair.at(pair.one) == "access.alice.read.2"


async def test_holder_whose_lease_is_lost_before_its_request_goes_out_sends_nothing(pair: Pair) -> None:
    """[RF-04] It was stopped in between, and another may have spent the refresh token: it looks again."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.sending.clear()
    task = asyncio.create_task(pair.at(pair.one))
    await pair.idle()
    pair.views[0].lost = True
    pair.server.sending.set()
    assert (await refused(task)).name == "store_unavailable"
    assert pair.server.calls == 0


@pytest.mark.parametrize("where", ["another route", "another instance"])
async def test_who_waits_too_long_for_a_renewal_is_not_told_that_the_store_is_away(
    pair: Pair, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is well: it is the provider that takes long, or the line before it."""
    monkeypatch.setattr(records, "LOCK_WAIT", 0.05)
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    late = pair.at(pair.one, OTHER_ROUTE) if where == "another route" else pair.at(pair.two)
    refusal = await refused(late)
    assert (refusal.name, refusal.retry_after) == ("provider_unavailable", 1)
    pair.server.gate.set()
    assert await waiting == "access.alice.read.2"


@pytest.mark.parametrize("since", ["another user", "nobody"])
async def test_token_in_doubt_is_not_served_for_a_renewal_that_waited_in_vain(
    pair: Pair, since: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ID-03] Not without another look at the record, which may be of another sign-in by then, or gone."""
    monkeypatch.setattr(records, "LOCK_WAIT", 0.05)
    await pair.sign_in("alice", expires_in=100)
    await pair.at(pair.two)
    pair.clock.now += 80
    first = await in_flight(pair, pair.one)
    assert await pair.at(pair.two) == "access.alice.sign-in.1"  # stale: a renewal waits for the lock
    await pair.idle()
    pair.views[1].deaf = True
    if since == "nobody":
        await pair.base.delete(await pair.one._records.name("alice"))
    else:
        await pair.one.sessions.put("alice", "idp", pair.server.sign_in("bob"))
    pair.views[1].heard("")
    if since == "nobody":
        assert (await refused(pair.at(pair.two))).name == "login_required"
    else:
        assert await pair.at(pair.two) == "access.bob.sign-in.2"
    pair.server.gate.set()
    await asyncio.wait([first])


@pytest.mark.parametrize("since", ["another user", "nobody"])
async def test_user_before_is_no_last_resort_once_the_record_was_seen(pair: Pair, since: str) -> None:
    """[ID-03] [ID-08] Whatever it was read for: to show it, to see who was faster, to look after what was written."""
    await pair.sign_in("alice")
    await pair.at(pair.two)
    pair.views[1].deaf = True
    if since == "nobody":
        await pair.one.sessions.delete("alice")
    else:
        await pair.sign_in("alice", "bob")
    pair.views[1].heard("")  # word of it is lost
    await pair.two.sessions.info("alice")
    pair.views[1].away = {"get"}
    assert (await refused(pair.at(pair.two))).name == "store_unavailable"


async def test_sign_out_on_one_instance_ends_the_session_on_the_other(pair: Pair) -> None:
    """[ID-05] As soon as it hears of it."""
    refresh_token = await pair.sign_in("alice")
    assert await pair.at(pair.two) == "access.alice.sign-in.1"
    assert await pair.one.sessions.delete("alice")
    assert pair.two.ready(KEY, pair.clock()) is None
    assert (await refused(pair.at(pair.two))).name == "login_required"
    assert pair.server.revoked == [refresh_token]


async def test_new_sign_in_on_one_instance_replaces_the_token_on_the_other(pair: Pair) -> None:
    """[ID-03] The old token is not used any more."""
    await pair.sign_in("alice")
    await pair.at(pair.two)
    await pair.sign_in("alice")
    assert await pair.at(pair.two) == "access.alice.sign-in.2"


async def test_lost_messages_make_every_session_be_read_again(pair: Pair) -> None:
    """[ID-05] And where the store cannot say either, valid tokens go on, for a second at a time [RD-02]."""
    await pair.sign_in("alice")
    await pair.sign_in("bob")
    for user in ("alice", "bob"):
        await pair.at(pair.two, USER, user)
    pair.views[1].deaf = True
    await pair.one.sessions.delete("alice")
    pair.views[1].away = {"get", "lock"}
    pair.views[1].heard("")
    assert pair.two.ready(KEY, pair.clock()) is None
    assert await pair.at(pair.two, USER, "bob") == "access.bob.sign-in.2"
    assert pair.two.ready(keyed(USER, "bob"), pair.clock())
    pair.views[1].away = set()
    pair.clock.now += 1.1
    assert pair.two.ready(keyed(USER, "bob"), pair.clock()) is None
    assert await pair.at(pair.two, USER, "bob") == "access.bob.sign-in.2"
    assert (await refused(pair.at(pair.two))).name == "login_required"


# -- sign-in and sign-out during a renewal -----------------------------------------------------------------------------


@pytest.mark.parametrize("deleting", ["one", "two"])
async def test_sign_out_during_a_renewal_is_final(pair: Pair, deleting: str) -> None:
    """[ID-04] The result is discarded and its refresh token revoked; nothing comes back."""
    first = await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    assert await getattr(pair, deleting).sessions.delete("alice")
    pair.server.gate.set()
    assert (await refused(waiting)).name == "login_required"
    assert pair.server.revoked == [first, "refresh.alice.2"]
    assert await pair.base.keys("session:") == []
    pair.clock.now += 5
    for broker in (pair.one, pair.two):
        assert broker.ready(KEY, pair.clock()) is None
        assert (await refused(pair.at(broker))).name == "login_required"


@pytest.mark.parametrize("signing_in", ["one", "two"])
async def test_sign_in_during_a_renewal_wins(pair: Pair, signing_in: str) -> None:
    """The renewal of the old sign-in overwrites nothing, and its callers get the new sign-in's token."""
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    await getattr(pair, signing_in).sessions.put("alice", "idp", pair.server.sign_in("alice", access_token="new"))
    pair.server.gate.set()
    assert await waiting == "new"
    assert pair.one.counts.discarded == 1
    assert await pair.at(pair.two) == "new"
    pair.clock.now += 4000
    assert (await pair.at(pair.two)).startswith("access.alice.read.")
    assert not pair.server.killed
    assert pair.server.revoked == []


@pytest.mark.parametrize("before", ["never signed in", "signed out"])
async def test_sign_in_while_nothing_is_found_is_served_at_once(pair: Pair, before: str) -> None:
    """[ID-03] Word of it may come before the store's older answer: that is not remembered then."""
    view = pair.views[1]
    if before == "signed out":
        await pair.sign_in("alice")
        await pair.at(pair.two)
        await pair.one.sessions.delete("alice")
    await pair.two._records.name("alice")
    found = view.get

    async def get(key: str) -> Record | None:
        view.get = found  # type: ignore[method-assign]
        record = await found(key)
        await pair.sign_in("alice")
        return record

    view.get = get  # type: ignore[method-assign]
    assert (await pair.at(pair.two)).startswith("access.alice.sign-in")


async def test_record_that_a_newer_key_sealed_during_a_renewal_takes_its_refresh_token_later(pair: Pair) -> None:
    """Keys in the wrong order: who lacks one revokes nothing, and writes as soon as a reload brings it."""
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    old, new = pair.vault._ring.copy(), Vault([Secret(generate_key())])
    vault = pair.two._records._vault = Vault([Secret(generate_key())])
    vault._ring, vault._newest = {**new._ring, **old}, new._newest
    name = await pair.two.sessions.name("alice")
    await pair.two.sessions._touch(name, pair.clock())
    pair.server.gate.set()
    assert (await refused(waiting)).name == "store_unavailable"
    await pair.idle()
    assert pair.server.revoked == []
    pair.vault._ring = {**old, **new._ring}
    await pair.idle()
    pair.clock.now += 2
    for broker in (pair.one, pair.two):
        assert await pair.at(broker) == "access.alice.read.2"


async def test_former_users_token_is_no_last_resort_while_the_provider_is_away(pair: Pair) -> None:
    """[ID-08] Though no word of the next sign-in came, but that anything may have changed."""
    await pair.sign_in("alice")
    for spec in (USER, OTHER_ROUTE):
        await pair.at(pair.two, spec)
    pair.views[1].deaf = True
    await pair.sign_in("alice", "bob", expires_in=1)
    pair.clock.now += 10
    pair.views[1].heard("")
    pair.server.script.extend([Unavailable("timeout")] * 2)
    assert (await refused(pair.at(pair.two, OTHER_ROUTE))).name == "provider_unavailable"
    pair.views[1].away = {"get", "lock"}
    assert (await refused(pair.at(pair.two, USER))).name == "store_unavailable"


async def test_application_tokens_that_are_all_rejected_are_not_bought_without_end_while_the_store_is_away(
    pair: Pair,
) -> None:
    """[RF-14] Each is bought over nothing that was read, and in the line of the one before all the same."""
    pair.views[0].away = {"get", "put", "lock"}
    credential = await pair.one.obtain(keyed(APP))
    for _ in range(20):
        pair.clock.now += 0.1
        with suppress(StillRejectedError):
            credential = await pair.one.obtain(keyed(APP), rejected=credential)
    assert pair.server.calls == 2
    assert pair.one.counts.still_rejected == 19


async def behind(pair: Pair, seconds: float = 1800) -> None:
    """Let bob be signed in at the first instance in place of alice, by a clock that is behind the one of her sign-in."""
    pair.clock.now -= seconds
    await pair.one.sessions.delete("alice")
    await pair.one.sessions.put("alice", "idp", pair.server.sign_in("bob"))


@pytest.mark.parametrize("heard", [True, False], ids=["word came", "it was lost"])
async def test_sign_in_by_a_clock_that_is_behind_is_the_newer_one_all_the_same(pair: Pair, heard: bool) -> None:
    """[ID-08] [ST-10] Another user in a session of the same id is never served with the former one's token."""
    await pair.sign_in("alice")
    await pair.at(pair.two)
    pair.views[1].deaf = not heard
    await behind(pair)
    pair.views[1].heard("")
    for spec in (USER, OTHER_ROUTE):
        assert (await pair.at(pair.two, spec)).startswith("access.bob.")
    assert pair.two.counts.generation_regressions == 0


@pytest.mark.parametrize("refused_then", [True, False], ids=["refused", "granted"])
async def test_renewal_in_flight_leaves_a_sign_in_by_a_clock_behind_alone(pair: Pair, refused_then: bool) -> None:
    """[ID-08] [ST-10] What comes back belongs to the session before: it neither replaces nor ends the new one."""
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.two)
    if refused_then:
        pair.server.script.append(GrantRefused())
    await behind(pair)
    pair.server.gate.set()
    assert (await asyncio.wait_for(waiting, 5)).startswith("access.bob.")
    for broker in (pair.one, pair.two):
        assert (await pair.at(broker)).startswith("access.bob.")


@pytest.mark.parametrize("told", ["before the sign-in", "after it"])
async def test_rejection_of_a_token_is_not_held_against_a_sign_in_by_a_clock_behind(pair: Pair, told: str) -> None:
    """[RF-14] [ST-10] The API's 401 was for the session before: nothing is renewed for it, nobody refused."""
    await pair.sign_in("alice")
    rejected = await pair.two.obtain(KEY)
    if told == "before the sign-in":
        await pair.two.obtain(KEY, rejected=rejected)
    await behind(pair)
    calls = pair.server.calls
    if told == "after it":
        await pair.at(pair.two)
        assert (await pair.two.obtain(KEY, rejected=rejected)).token.startswith(b"access.bob.sign-in")
    assert (await pair.at(pair.two)).startswith("access.bob.sign-in")
    assert pair.server.calls == calls


@pytest.mark.parametrize("signing_in", ["one", "two"])
async def test_refusal_of_what_a_sign_in_has_replaced_is_not_held_against_it(pair: Pair, signing_in: str) -> None:
    """[ID-03] A provider that wants the user back gets him while its answer is on the way: who waits is served too."""
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    pair.server.script.append(ClientRefused("interaction_required"))
    await getattr(pair, signing_in).sessions.put("alice", "idp", pair.server.sign_in("alice"))
    pair.server.gate.set()
    assert await asyncio.wait_for(waiting, 5) == "access.alice.sign-in.2"
    assert await pair.at(pair.one) == "access.alice.sign-in.2"
    assert pair.server.calls == 1


async def test_sign_out_and_in_during_a_renewal_leaves_the_new_session_alone(pair: Pair) -> None:
    """A record that was made anew never has the version of the one before."""
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    await pair.two.sessions.delete("alice")
    await pair.two.sessions.put("alice", "idp", pair.server.sign_in("alice", access_token="new"))
    pair.server.gate.set()
    assert await waiting == "new"


async def test_write_beside_the_chain_is_merged(pair: Pair) -> None:
    """Another provider's sign-in during the renewal costs neither of them."""
    elsewhere = replace(USER, provider="other", issuer="https://other.test")
    pair.one.reconfigure(
        {spec.fingerprint: spec for spec in (USER, elsewhere)}, {"idp": pair.server, "other": pair.server}
    )
    await pair.sign_in("alice", expires_in=1)
    waiting = await in_flight(pair, pair.one)
    await pair.one.sessions.put("alice", "other", pair.server.sign_in("alice", access_token="others"))
    pair.server.gate.set()
    assert await waiting == "access.alice.read.3"
    assert await pair.at(pair.one, elsewhere) == "others"
    assert pair.server.calls == 1


def pause(view: View, operation: str, *, after: bool) -> asyncio.Event:
    """Hold the view's next `operation` back, before or after it has happened, until the event is set."""
    gate, go = getattr(view, operation), asyncio.Event()

    async def paused(*args: Any, **options: Any) -> Any:
        setattr(view, operation, gate)
        if not after:
            await go.wait()
        answer = await gate(*args, **options)
        await go.wait()
        return answer

    setattr(view, operation, paused)
    return go


@pytest.mark.parametrize("deleting", ["one", "two"])
async def test_session_that_was_read_before_its_deletion_is_not_used_after_it(pair: Pair, deleting: str) -> None:
    """[ID-04] However long the answer of the store is on its way."""
    await pair.sign_in("alice")
    await refused(pair.at(pair.one, USER, "somebody"))
    go = pause(pair.views[0], "get", after=True)
    waiting = asyncio.create_task(pair.at(pair.one))
    await pair.idle()
    assert await getattr(pair, deleting).sessions.delete("alice")
    go.set()
    assert (await refused(waiting)).name == "login_required"
    assert pair.one.ready(KEY, pair.clock()) is None


async def test_session_that_is_read_during_a_slow_deletion_is_not_used_after_it(pair: Pair) -> None:
    """[ID-04] Even if the deletion takes longer than unknown sessions are remembered."""
    await pair.sign_in("alice")
    await pair.at(pair.one)
    go = pause(pair.views[0], "delete", after=False)
    deleting = asyncio.create_task(pair.one.sessions.delete("alice"))
    await pair.idle()
    assert (await refused(pair.at(pair.one))).name == "login_required"
    pair.clock.now += 3
    assert await pair.at(pair.one)
    go.set()
    assert await deleting
    assert pair.one.ready(KEY, pair.clock()) is None
    assert (await refused(pair.at(pair.one))).name == "login_required"


async def test_routes_of_a_doubtful_session_are_each_read_again(pair: Pair) -> None:
    """What one of them finds in the store says nothing for the token of another."""
    await pair.sign_in("alice", scope="read write")
    old = {await pair.at(pair.two, spec) for spec in (USER, OTHER_ROUTE)}
    pair.views[1].deaf = True
    await pair.sign_in("alice", scope="read write")
    pair.views[1].heard("")
    new = {await pair.at(pair.two, spec) for spec in (USER, OTHER_ROUTE)}
    assert (old, new) == ({"access.alice.sign-in.1"}, {"access.alice.sign-in.2"})


async def test_deletion_that_overlaps_the_end_of_a_renewal_is_final(pair: Pair) -> None:
    """[ID-04] At whichever step of either the other comes in."""
    for steps in range(40):
        user = f"user{steps}"
        await pair.sign_in(user, expires_in=1)
        pair.clock.now += 10
        task = asyncio.create_task(pair.at(pair.one, USER, user))
        for _ in range(steps):
            await asyncio.sleep(0)
        await pair.one.sessions.delete(user)
        await asyncio.gather(task, return_exceptions=True)
        assert pair.one.ready(keyed(USER, user), pair.clock()) is None
        assert (await refused(pair.at(pair.one, USER, user))).name == "login_required"


# -- the provider is slow ----------------------------------------------------------------------------------------------


async def test_answer_that_comes_after_the_timeout_is_stored_and_the_old_refresh_token_never_spent_again(
    pair: Pair,
) -> None:
    """[RF-08] Callers are refused meanwhile; nobody else gets at the chain until the answer is stored."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.tardy = True
    pair.server.gate.clear()
    assert (await refused(pair.at(pair.one))).name == "provider_unavailable"
    other = asyncio.create_task(pair.at(pair.two))
    for _ in range(20):
        await pair.idle()
        pair.clock.now += 2
        for spec in (USER, OTHER_ROUTE):
            assert (await refused(pair.at(pair.one, spec))).name == "provider_unavailable"
    assert not other.done()
    pair.server.gate.set()
    assert await asyncio.wait_for(other, 5) == "access.alice.read.2"
    assert await pair.at(pair.one) == "access.alice.read.2"
    assert pair.server.calls == 1
    assert not pair.server.killed


async def test_late_answer_that_finds_the_session_deleted_is_revoked(pair: Pair) -> None:
    """[ID-04] However late it comes, it does not bring the session back."""
    first = await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.tardy = True
    pair.server.gate.clear()
    await refused(pair.at(pair.one))
    await pair.two.sessions.delete("alice")
    pair.server.gate.set()
    await pair.idle()
    assert await pair.base.keys("session:") == []
    assert sorted(pair.server.revoked) == [first, "refresh.alice.2"]


@pytest.mark.parametrize("outcome", [Unavailable("timeout"), GrantRefused(), Invalid("html")], ids=repr)
async def test_late_answer_that_brings_nothing_frees_the_chain(pair: Pair, outcome: Any) -> None:
    """What it says of the session is believed, and what says nothing leaves everything as it was."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.tardy = True
    pair.server.script.append(outcome)
    assert (await refused(pair.at(pair.one))).name == "provider_unavailable"
    await pair.idle()
    pair.server.tardy = False
    pair.clock.now += 10
    if isinstance(outcome, GrantRefused):
        assert (await refused(pair.at(pair.one))).name == "login_required"
    else:
        assert await pair.at(pair.one) == "access.alice.read.2"


async def test_late_answer_that_the_store_refuses_is_kept(pair: Pair) -> None:
    """[ST-03] As if it had come in time."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.tardy = True
    pair.server.gate.clear()
    await refused(pair.at(pair.one))
    pair.views[0].away = {"put"}
    pair.server.gate.set()
    await pair.idle()
    assert pair.one.counts.store_write_retries > 0
    pair.views[0].away = set()
    await pair.idle()
    pair.clock.now += 2
    assert await pair.at(pair.two) == "access.alice.read.2"
    assert pair.server.calls == 1


async def test_session_that_ended_unheard_is_not_used_while_a_late_answer_is_awaited(pair: Pair) -> None:
    """[ID-05] Messages were lost: the store is asked, whatever is on its way from the provider."""
    await pair.sign_in("alice")
    await pair.at(pair.one)
    pair.clock.now += 3550
    pair.server.tardy = True
    pair.server.gate.clear()
    assert await pair.at(pair.one) == "access.alice.sign-in.1"
    await pair.idle()
    pair.views[0].deaf = True
    pair.views[0].heard("")
    assert await pair.at(pair.one) == "access.alice.sign-in.1"
    await pair.two.sessions.delete("alice")
    pair.views[0].heard("")
    assert (await refused(pair.at(pair.one))).name == "login_required"
    assert pair.server.calls == 1


async def test_end_of_the_process_waits_for_a_late_answer(pair: Pair) -> None:
    """[RF-12] It is stored before the process ends."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.tardy = True
    pair.server.gate.clear()
    await refused(pair.at(pair.one))
    closing = asyncio.create_task(pair.one.close(5))
    await pair.idle()
    assert not closing.done()
    pair.server.gate.set()
    await asyncio.wait_for(closing, 5)
    assert await pair.at(pair.two) == "access.alice.read.2"
    assert pair.server.calls == 1


# -- the store fails -------------------------------------------------------------------------------------------------


async def test_rotated_refresh_token_that_the_store_refuses_is_kept_and_the_old_one_never_spent(pair: Pair) -> None:
    """[ST-03] Callers are refused until it is stored; other instances cannot get at the old one either."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.views[0].away = {"put"}
    assert (await refused(pair.at(pair.one))).name == "store_unavailable"
    other = asyncio.create_task(pair.at(pair.two))
    for _ in range(20):
        await pair.idle()
        pair.clock.now += 2
        for spec in (USER, OTHER_ROUTE):
            assert (await refused(pair.at(pair.one, spec))).name == "store_unavailable"
    assert not other.done()
    assert pair.server.calls == 1
    assert pair.one.counts.store_write_retries > 20
    pair.views[0].away = set()
    assert await asyncio.wait_for(other, 5) == "access.alice.read.2"
    assert await pair.at(pair.one) == "access.alice.read.2"
    assert pair.server.calls == 1
    assert not pair.server.killed


class Sleeps:
    """Sleeps of one instance: noted, and on the way what is to happen meanwhile."""

    def __init__(self, meanwhile: Callable[[], Awaitable[None]] | None = None) -> None:
        self.seconds: list[float] = []
        self._meanwhile = meanwhile

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)
        if self._meanwhile and seconds == renewal.HEIR_WAITS:
            await self._meanwhile()


def heir(pair: Pair, sleeps: Sleeps, view: View | None = None) -> Broker:
    """Return an instance that gets any lock, and is told that nobody has let go of it."""
    view = view or View(pair.base, pair.views)
    view.inherited = True

    @asynccontextmanager
    async def lock(_name: str, **_options: float) -> AsyncIterator[View]:
        yield view

    view.lock = lock  # type: ignore[method-assign]
    return pair.another(view, sleep=sleeps)


async def test_refresh_token_of_a_lock_that_ran_out_is_not_spent_before_its_holder_could_write(pair: Pair) -> None:
    """[RF-04] [ST-03] The store took nothing for longer than the lease; back again, both come at once."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.views[0].away = {"put"}
    assert (await refused(pair.at(pair.one))).name == "store_unavailable"

    async def the_store_is_back() -> None:
        pair.views[0].away = set()
        await pair.idle()

    sleeps = Sleeps(the_store_is_back)
    taker = heir(pair, sleeps)
    assert await asyncio.wait_for(pair.at(taker), 5) == "access.alice.read.2"
    assert (pair.server.calls, pair.server.killed) == (1, [])
    assert sleeps.seconds == [renewal.HEIR_WAITS]
    await taker.close(1)


async def test_holder_that_is_dead_is_waited_for_once_and_then_renewed_after(pair: Pair) -> None:
    """[RF-05] Its refresh token may not have been spent: trying it is all that is left."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    sleeps = Sleeps()
    taker = heir(pair, sleeps)
    assert await asyncio.wait_for(pair.at(taker), 5) == "access.alice.read.2"
    assert sleeps.seconds == [renewal.HEIR_WAITS]
    await taker.close(1)


async def test_heir_that_was_cut_off_while_it_waited_leaves_the_waiting_to_the_next(pair: Pair) -> None:
    """[RF-04] [ST-03] The holder may still be about to write: a lock let go as if clean would be no warning of that."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    view = View(pair.base, pair.views)

    async def the_store_goes_away() -> None:
        view.away = {"get"}

    sleeps = Sleeps(the_store_goes_away)
    taker = heir(pair, sleeps, view)
    assert (await refused(pair.at(taker))).name == "store_unavailable"
    assert (sleeps.seconds, view.waits_over, pair.server.calls) == ([renewal.HEIR_WAITS], 0, 0)
    view.away = set()
    pair.clock.now += 2
    sleeps._meanwhile = None
    assert await pair.at(taker) == "access.alice.read.2"
    assert (sleeps.seconds, view.waits_over) == ([renewal.HEIR_WAITS] * 2, 1)
    await taker.close(1)


async def test_heir_that_finds_a_new_token_or_is_an_application_waits_for_nobody(pair: Pair) -> None:
    """Only a refresh token can be spent twice."""
    await pair.sign_in("alice")
    sleeps = Sleeps()
    taker = heir(pair, sleeps)
    assert await pair.at(taker) == "access.alice.sign-in.1"
    assert (await taker.obtain(keyed(APP))).token
    assert sleeps.seconds == []
    await taker.close(1)


async def test_holder_that_could_not_store_tries_again_well_within_the_time_that_an_heir_waits(pair: Pair) -> None:
    """[ST-03] However long the store has been away."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    sleeps, view = Sleeps(), View(pair.base, pair.views)
    holder = pair.another(view, sleep=sleeps)
    view.away = {"put"}
    await refused(pair.at(holder))
    await pair.idle()
    assert len(sleeps.seconds) > 10
    assert 2 * max(sleeps.seconds) < renewal.HEIR_WAITS
    view.away = set()
    await holder.close(1)


async def test_valid_token_goes_on_while_the_rotated_refresh_token_is_not_stored(pair: Pair) -> None:
    """[RD-02] What is held is good until it expires."""
    await pair.sign_in("alice")
    await pair.at(pair.one)
    pair.clock.now += 3550
    pair.views[0].away = {"put"}
    for _ in range(10):
        assert await pair.at(pair.one) == "access.alice.sign-in.1"
        await pair.idle()
    pair.views[0].away = set()
    await pair.idle()
    assert await pair.at(pair.one) == "access.alice.read.2"
    assert not pair.server.killed


async def test_write_of_which_nothing_is_known_is_found_out(pair: Pair) -> None:
    """It had happened: it is neither repeated over newer ones nor taken for somebody else's."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.views[0].unsure = True
    assert (await refused(pair.at(pair.one))).name == "store_unavailable"
    await pair.idle()
    pair.views[0].unsure = False
    pair.clock.now += 2
    assert await pair.at(pair.one) == "access.alice.read.2"
    assert pair.server.calls == 1


async def test_session_that_is_deleted_while_its_refresh_token_waits_for_the_store_stays_deleted(pair: Pair) -> None:
    """[ID-04] And what was kept is revoked."""
    first = await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.views[0].away = {"put"}
    await refused(pair.at(pair.one))
    await pair.two.sessions.delete("alice")
    pair.views[0].away = set()
    await pair.idle()
    assert await pair.base.keys("session:") == []
    assert sorted(pair.server.revoked) == [first, "refresh.alice.2"]


async def test_store_away_refuses_users_without_a_token_and_recovers(pair: Pair) -> None:
    """[RD-03] No renewal without the lock; with Retry-After."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    for away in ({"lock"}, {"get"}, {"get", "put", "lock"}):
        pair.views[0].away = away
        refusal = await refused(pair.at(pair.one))
        assert (refusal.name, refusal.retry_after) == ("store_unavailable", 1)
        pair.clock.now += 2
    assert pair.server.calls == 0
    pair.views[0].away = set()
    assert await pair.at(pair.one) == "access.alice.read.2"


async def test_nobody_takes_a_lock_to_hear_that_the_line_before_the_provider_is_too_long(pair: Pair) -> None:
    """[IDP-18] Ten thousand callers who come again each second would otherwise write twice to the store each time."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    pair.server.wait = 30.0
    pair.views[0].lock = None  # type: ignore[assignment, method-assign]
    refusal = await refused(pair.at(pair.one))
    assert (refusal.name, refusal.retry_after) == ("provider_unavailable", 30.0)
    assert pair.server.calls == 0
    pair.server.wait = 0.0
    assert await pair.at(pair.two) == "access.alice.read.2"
    pair.clock.now += 2
    assert await pair.at(pair.one) == "access.alice.read.2"


@pytest.mark.parametrize("away", [{"get"}, {"lock"}, {"put"}, {"get", "put", "lock"}], ids=sorted)
async def test_application_route_does_not_need_the_store(pair: Pair, away: set[str]) -> None:
    """[RF-15] One token request per instance then."""
    pair.views[0].away = away
    tokens = await asyncio.gather(*(pair.one.obtain(keyed(APP)) for _ in range(20)))
    assert {credential.token for credential in tokens} == {b"access.app.stats.1"}
    assert pair.server.calls == 1


async def test_application_token_is_shared_through_the_store(pair: Pair) -> None:
    """[RF-15] One token request for all instances, and across restarts."""
    for broker in (pair.one, pair.two):
        assert (await broker.obtain(keyed(APP))).token == b"access.app.stats.1"
    assert pair.server.calls == 1


async def test_store_that_was_set_back_does_not_bring_a_spent_refresh_token_back(pair: Pair) -> None:
    """[RF-18] Memory wins, the store is repaired, and it is counted."""
    await pair.sign_in("alice", expires_in=1)
    backup = dict(pair.base._rows)
    pair.clock.now += 10
    await pair.at(pair.one)
    pair.base._rows = backup
    pair.clock.now += 4000
    assert await pair.at(pair.one) == "access.alice.read.3"
    assert pair.one.counts.generation_regressions > 0
    assert not pair.server.killed
    pair.clock.now += 4000
    assert await pair.at(pair.two) == "access.alice.read.4"
    assert not pair.server.killed


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "of another session", "older version"])
async def test_damaged_record_is_no_session_and_never_another_users(pair: Pair, damage: str) -> None:
    """[RD-10, RD-11] A sign-in repairs it."""
    await pair.sign_in("alice")
    await pair.sign_in("bob")
    name = await pair.one._records.name("alice")
    row, other = pair.base._rows[name], pair.base._rows[await pair.one._records.name("bob")]
    assert row.value is not None
    values = {
        "flip": row.value[:-1] + bytes([row.value[-1] ^ 1]),
        "cut": row.value[:20],
        "empty": b"",
        "of another session": other.value,
        "older version": row.value,
    }
    version = row.version + (damage == "older version")
    pair.base._rows[name] = row._replace(value=values[damage], version=version)
    assert (await refused(pair.at(pair.one))).name == "login_required"
    assert await pair.one.sessions.info("alice") is None
    assert pair.one.counts.damaged_records >= 2
    pair.clock.now += 3
    await pair.sign_in("alice")
    assert await pair.at(pair.one) == "access.alice.sign-in.3"


@pytest.mark.parametrize("fault", [StoreBrokenError("x"), SealError("x")])
async def test_store_whose_pepper_cannot_be_had_refuses_by_name(pair: Pair, fault: Exception) -> None:
    """[RD-12] No session can be told from another without it."""
    await pair.sign_in("alice")
    fresh = pair.another(View(pair.base, []))

    async def broken(_key: str) -> None:
        raise fault

    fresh._records.store.get = broken
    assert (await refused(pair.at(fresh))).name == "store_unavailable"


async def test_store_that_was_emptied_is_one_store_for_old_and_new_instances(pair: Pair) -> None:
    """[RD-17] Who starts afterwards makes a new pepper: all go by it, or each would know only its own sessions."""
    await pair.sign_in("alice")
    await pair.at(pair.one)
    pair.base._rows.clear()
    pair.views[0].heard("")
    three = pair.another(View(pair.base, pair.views))
    await three.sessions.put("alice", "idp", pair.server.sign_in("alice"))
    for broker in (three, pair.one, pair.two):
        assert await pair.at(broker) == "access.alice.sign-in.2"
    await three.close(1)


async def test_store_that_was_emptied_gets_its_pepper_back(pair: Pair) -> None:
    """[RD-17] From whoever comes first, so that those who have not heard of it yet go on with the same."""
    await pair.sign_in("alice")
    await pair.at(pair.two)
    pepper = pair.one._records._pepper
    pair.base._rows.clear()
    pair.views[0].heard("")
    pair.views[0].away = {"get"}
    assert await pair.one._records.name("alice") == pair.two._records.named("alice")  # nobody can say otherwise
    pair.views[0].away = set()
    await pair.sign_in("alice")
    assert await pair.at(pair.two) == "access.alice.sign-in.2"
    three = pair.another(View(pair.base, pair.views))
    assert await pair.at(three) == "access.alice.sign-in.2"
    assert three._records._pepper == pepper
    await three.close(1)


# -- nobody gets another's token ---------------------------------------------------------------------------------------

MUTATIONS = {
    "provider": "elsewhere",
    "issuer": "https://elsewhere.test",
    "client": "elsewhere",
    "audience": "elsewhere",
    "resources": ("https://elsewhere.test",),
    "scopes": frozenset({"elsewhere"}),
    "params": (("p", "elsewhere"),),
    "binding": "elsewhere",
}


@settings(deadline=None)
@given(st.sets(st.sampled_from(sorted(MUTATIONS)), min_size=1), st.booleans())
def test_keys_that_differ_in_any_member_never_share_a_token(members: set[str], app: bool) -> None:
    """[ID-10, PD-12] Every field of the key is told apart, by cache, flight and store alike."""
    base = replace(APP if app else USER, scopes=frozenset({"stats"}))
    specs = (base, replace(base, **{member: MUTATIONS[member] for member in members}))

    async def check() -> None:
        bench = Bench(specs)
        sessions = [None] if app else ["alice", "alice ", "bob", "alic\u00e9"[:5]]
        for session in sessions[:3:2]:
            response = bench.server.sign_in(str(session), scope="none")
            for provider in {spec.provider for spec in specs} if session else ():
                await bench.broker.sessions.put(str(session), provider, response)
        keys = [(spec, session) for spec in specs for session in sessions[:3:2]]
        answers = await asyncio.gather(*(attempt(bench, spec, session) for spec, session in keys))
        given_out = [answer for answer in answers if answer]
        assert len(set(given_out)) == len(given_out)
        for (_spec, session), answer in zip(keys, answers, strict=True):
            assert answer is None or answer.startswith(f"access.{session or 'app'}.")
        await bench.broker.close(1)

    asyncio.run(check())


async def attempt(bench: Bench, spec: TokenSpec, session: str | None) -> str | None:
    """Return the token, None where it is refused."""
    try:
        return await bench.token(spec, session)
    except Refusal:
        return None


class Storm:
    """Requests, sign-ins, sign-outs, cancellations and faults at random, on two instances, for many users."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.pair = Pair((USER, OTHER_ROUTE))
        self.pair.server.life, self.pair.server.latency = 20, 3
        self.users = [f"user{number}" for number in range(200)]
        self.tasks: list[asyncio.Task[Any]] = []
        self.crossed: list[tuple[str, str]] = []
        self.served = 0

    async def request(self, user: str) -> None:
        broker = self.dice.choice((self.pair.one, self.pair.two))
        key = keyed(self.dice.choice((USER, OTHER_ROUTE)), user)
        credential = broker.ready(key, self.pair.clock()) or await broker.obtain(key)
        if self.dice.random() < 0.1:
            credential = await broker.obtain(key, rejected=credential)
        self.served += 1
        if credential.token.split(b".")[1].decode() != user:
            self.crossed.append((user, credential.token.decode()))

    def step(self) -> None:
        user, chance = self.dice.choice(self.users), self.dice.random()
        self.start(self.request(user))
        if chance < 0.02:
            self.start(self.pair.sign_in(user))
        elif chance < 0.03:
            self.start(self.pair.two.sessions.delete(user))
        elif chance < 0.15:
            self.dice.choice(self.tasks).cancel()
        elif chance < 0.17:
            self.pair.server.script.append(self.dice.choice((Unavailable("x"), Invalid("x"))))
        elif chance < 0.19:
            self.pair.views[0].away = self.dice.choice((set(), {"put"}, {"get"}, {"lock"}))

    def start(self, work: Any) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def finish(self) -> list[Any]:
        self.pair.views[0].away = set()
        results = await asyncio.wait_for(asyncio.gather(*self.tasks, return_exceptions=True), 60)
        for broker in (self.pair.one, self.pair.two):
            await asyncio.wait_for(broker.close(5), 10)
        return results


@pytest.mark.parametrize("seed", range(3))
async def test_random_interleaving_never_crosses_users_nor_spends_a_refresh_token_twice(seed: int) -> None:
    """[ID-08] 200 users, 5 000 requests on two instances, cancellations, rejections, sign-ins, sign-outs, faults."""
    storm = Storm(seed)
    for user in storm.users:
        await storm.pair.sign_in(user)
    for number in range(5000):
        storm.step()
        if number % 7 == 0:
            storm.pair.clock.now += storm.dice.random()
            await asyncio.sleep(0)
    answers = (type(None), str, bool, Refusal, StillRejectedError, asyncio.CancelledError)
    assert [result for result in await storm.finish() if not isinstance(result, answers)] == []
    assert storm.served > 2000
    assert storm.crossed == []
    assert storm.pair.server.killed == []
    assert set(storm.pair.server.spent.values()) == {1}


class Stuck(View):
    """A store that answers nothing: another process holds it, and it has not given up yet."""

    async def get(self, _key: str) -> Record | None:
        return await self.stick()

    async def put(self, *_arguments: Any, **_options: Any) -> bool:
        return await self.stick()

    @asynccontextmanager
    async def lock(self, *_arguments: Any, **_options: Any) -> AsyncIterator[View]:
        yield await self.stick()

    async def stick(self) -> Any:
        await asyncio.sleep(1000)


async def test_application_token_waits_for_a_stuck_store_no_longer_than_it_has_to(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ST-03] It is minted, used and not stored; each step has a limit of its own."""
    for module in (sight, writer):
        monkeypatch.setattr(module, "APP_PATIENCE", 0.01)
    monkeypatch.setattr(renewal, "APP_LOCK_WAIT", 0.01)
    third = pair.another(Stuck(pair.base, pair.views))
    async with asyncio.timeout(2):
        assert await pair.at(third, APP, None) == "access.app.stats.1"  # type: ignore[arg-type]
        assert await pair.at(third, APP, None) == "access.app.stats.1"  # type: ignore[arg-type]
    await third.close(1)


async def test_crash_between_rotation_and_write_ends_in_a_clean_refusal(pair: Pair) -> None:
    """[RF-05] [ST-12] The one thing that cannot be saved: the user signs in again, nobody gets a wrong token."""
    await pair.sign_in("alice", expires_in=100)
    await pair.sign_in("bob", expires_in=100)
    pair.clock.now += 200
    reached = asyncio.Event()

    async def never(*_arguments: Any, **_options: Any) -> bool:
        reached.set()
        await asyncio.sleep(1000)
        return False

    pair.views[0].put = never  # type: ignore[method-assign]
    crashed = asyncio.create_task(pair.at(pair.one))
    await reached.wait()
    for task in pair.one._flights.tasks():
        task.cancel()  # as kill -9 would: nothing of it is stored, its lock ends
    await asyncio.gather(crashed, return_exceptions=True)
    del pair.views[0].put
    assert (await refused(pair.at(pair.two))).name == "login_required"
    assert (await refused(pair.at(pair.two))).name == "login_required"
    assert set(pair.server.killed) == {"alice"}
    assert (await pair.at(pair.two, session="bob")).startswith("access.bob.read")
    await pair.sign_in("alice")
    assert (await pair.at(pair.two)).startswith("access.alice.sign-in")
