"""What a failover has lost of a store: who made a write makes it again, before another spends what came back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials import repairs
from tests.support.credentials import OTHER_ROUTE, USER, keyed
from tests.unit.test_broker_races import KEY, Pair, Sleeps, View, heir, pair, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sidecar.stores.contract import Record

__all__ = ["pair"]


class Loses(Pair):
    """Two instances over a store that can lose what it was told since `backup`."""

    def backup(self) -> None:
        self.saved = dict(self.base._rows)

    def fail_over(self) -> None:
        """Let the store be as it was, and be shaken; nobody hears of anything."""
        self.base._rows = self.saved
        for view in self.views:
            view.shaken = True

    async def look(self) -> None:
        for broker in (self.one, self.two):
            await broker._writer.repairs.look()


@pytest.fixture
async def loses() -> AsyncIterator[Loses]:
    """Return two instances that are closed at the end."""
    made = Loses()
    yield made
    for broker in (made.one, made.two):
        await asyncio.wait_for(broker.close(1), 5)


async def renewed(loses: Loses) -> None:
    """Let the second instance renew alice's token, and the store lose it."""
    await loses.sign_in("alice", expires_in=1)
    loses.clock.now += 10
    loses.backup()
    assert await loses.at(loses.two) == "access.alice.read.2"
    loses.fail_over()


async def test_renewal_that_a_failover_has_lost_is_stored_again_by_who_made_it(loses: Loses) -> None:
    """[RF-18] [RD-07] Another instance that is asked first finds it while it waits with the lock, and spends nothing."""
    await renewed(loses)
    taker = heir(loses, Sleeps(loses.look))
    assert await asyncio.wait_for(loses.at(taker), 5) == "access.alice.read.2"
    assert (loses.server.calls, loses.server.killed) == (1, [])
    assert loses.two.counts.repairs == 1
    await taker.close(1)


@pytest.mark.parametrize("heard", ["a failover", "that anything may have changed"])
async def test_lost_write_is_looked_for_without_a_request(
    loses: Loses, heard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[RF-18] Whether the store says that it failed over or that anything may have changed; once it can be asked."""
    monkeypatch.setattr(repairs, "PULSE", 0.01)
    await renewed(loses)
    loses.views[1].away = {"get"}
    if heard != "a failover":
        for view in loses.views:
            view.shaken = False
        loses.views[1].heard("")
    await asyncio.sleep(0.03)
    loses.views[1].away = set()
    for _ in range(500):
        await asyncio.sleep(0.01)
        if loses.two.counts.repairs:
            break
    assert await loses.at(loses.one) == "access.alice.read.2"
    assert loses.server.calls == 1


async def test_sign_out_that_a_failover_has_lost_is_made_again(loses: Loses) -> None:
    """[ID-04] [RD-07] The session does not come back, on no instance."""
    await loses.sign_in("alice")
    loses.backup()
    await loses.one.sessions.delete("alice")
    loses.fail_over()
    loses.clock.now += 3
    for broker in (loses.two, loses.one):
        assert await loses.at(broker) == "access.alice.sign-in.1"
    await loses.look()
    for broker in (loses.two, loses.one):
        assert broker.ready(KEY, loses.clock()) is None
        assert (await refused(loses.at(broker))).name == "login_required"
    assert loses.one.counts.repairs == 1


async def test_sign_in_that_a_failover_has_lost_is_made_again_over_the_user_before(loses: Loses) -> None:
    """[ID-08] [RD-07] The session's id is the next user's: the former one's token is served to nobody for it."""
    await loses.sign_in("alice")
    await loses.at(loses.two)
    loses.backup()
    await loses.one.sessions.put("alice", "idp", loses.server.sign_in("bob", expires_in=1))
    loses.clock.now += 10
    assert await loses.at(loses.one) == "access.bob.read.3"
    loses.fail_over()
    loses.clock.now += 3
    for _ in range(2):  # what the first makes again another may have looked for before
        await loses.look()
    for broker in (loses.two, loses.one):
        assert await loses.at(broker) == "access.bob.read.3"
    assert (loses.server.calls, loses.server.killed) == (1, [])


async def test_sign_in_is_made_again_although_its_renewal_elsewhere_was_lost_as_well(loses: Loses) -> None:
    """[ID-08] [RD-07] Who renewed it knows the newer refresh token."""
    await loses.sign_in("alice")
    loses.backup()
    await loses.one.sessions.put("alice", "idp", loses.server.sign_in("bob", expires_in=1))
    loses.clock.now += 10
    assert await loses.at(loses.two) == "access.bob.read.3"
    loses.fail_over()
    loses.clock.now += 3
    for _ in range(2):
        await loses.look()
    fresh = loses.another()  # knows nothing but what the store shows
    for broker in (fresh, loses.two, loses.one):
        assert await loses.at(broker) == "access.bob.read.3"
    assert (loses.server.calls, loses.server.killed) == (1, [])
    await fresh.close(1)


@pytest.mark.parametrize("since", ["used", "renewed"])
async def test_sign_in_is_made_again_though_the_session_before_was_used_since(loses: Loses, since: str) -> None:
    """[ID-08] [RD-07] By who took what the failover has left for the session: it is the former user's all the same."""
    await loses.sign_in("alice", expires_in=1 if since == "renewed" else 3600)
    loses.backup()
    await loses.one.sessions.put("alice", "idp", loses.server.sign_in("bob"))
    loses.fail_over()
    loses.views[1].heard("")
    loses.clock.now += 3
    if since == "renewed":
        assert await loses.at(loses.two) == "access.alice.read.3"
    else:
        await loses.two.sessions._touch(await loses.two.sessions.name("alice"), loses.clock())
    await loses.look()
    for broker in (loses.two, loses.one):
        assert await loses.at(broker) == "access.bob.sign-in.2"


async def test_sign_in_whose_chain_was_ended_since_is_not_made_again(loses: Loses) -> None:
    """[ID-04] What is left of its session is no former one, though all of it was there before."""
    records = loses.one._records
    await loses.sign_in("alice")
    name = await records.name("alice")
    over = await records.load(name)
    assert over.record
    other = over.record.without("idp").with_chain("other", over.record.chains["idp"], 0)
    assert await records.save(name, other, over, loses.clock())
    loses.clock.now += 1
    await loses.sign_in("alice", "bob")
    over = await records.load(name)
    assert over.record
    assert await records.save(name, over.record.without("idp"), over, loses.clock())
    before = dict(loses.base._rows)
    await loses.look()
    assert loses.base._rows == before


@pytest.mark.parametrize("by", ["another instance", "the same"])
@pytest.mark.parametrize(
    "lost", ["one over another", "one over another, unheard", "two sign-ins", "sign-in", "sign-out"]
)
async def test_sign_in_after_a_failover_is_left_alone_though_its_clock_is_behind(
    loses: Loses, lost: str, by: str
) -> None:
    """[ID-08] [ST-10] Its version is less than that of what was lost: it is the newer one all the same."""
    await loses.sign_in("alice", "carol")
    loses.clock.now += 10
    if lost == "sign-in":
        await loses.one.sessions.delete("alice")
    if lost == "sign-out":
        await loses.sign_in("alice")
    loses.backup()
    if lost == "two sign-ins":
        loses.clock.now += 10
        await loses.sign_in("alice", "dave")
    if lost == "sign-out":
        await loses.one.sessions.delete("alice")
        loses.saved = {name: row for name, row in loses.saved.items() if not name.startswith("session:")}
    else:
        await loses.sign_in("alice")
    loses.fail_over()
    loses.views[0].deaf = lost.endswith("unheard")
    loses.clock.now -= 5
    broker = loses.two if by == "another instance" else loses.one
    await broker.sessions.put("alice", "idp", loses.server.sign_in("bob"))
    loses.clock.now += 5
    await loses.look()
    for broker in (loses.one, loses.two):
        assert (await loses.at(broker)).startswith("access.bob.")


async def test_sign_out_that_a_failover_has_lost_is_made_again_though_the_session_was_used_since(loses: Loses) -> None:
    """[ID-04] [RD-07] A renewal by another instance makes it no other session."""
    await loses.sign_in("alice", expires_in=1)
    loses.backup()
    await loses.one.sessions.delete("alice")
    loses.fail_over()
    loses.clock.now += 10
    assert await loses.at(loses.two) == "access.alice.read.2"
    await loses.look()
    for broker in (loses.two, loses.one):
        assert (await refused(loses.at(broker))).name == "login_required"


async def test_sign_out_and_the_next_sign_in_that_a_failover_has_lost_both_leave_no_former_user(loses: Loses) -> None:
    """[ID-08] [RD-07] With a renewal that was lost before them: what the store shows is older than what was ended."""
    await loses.sign_in("alice", expires_in=1)
    loses.clock.now += 10
    loses.backup()
    await loses.at(loses.two)
    await loses.one.sessions.delete("alice")
    loses.clock.now += 1
    await loses.two.sessions.put("alice", "idp", loses.server.sign_in("bob"))
    loses.fail_over()
    loses.clock.now += 3
    await loses.look()
    for broker in (loses.two, loses.one):
        assert (await refused(loses.at(broker))).name == "login_required"


async def test_sign_in_and_its_sign_out_elsewhere_that_a_failover_has_lost_both_leave_no_session(loses: Loses) -> None:
    """[ID-04] [RD-07] Whichever of the two instances looks first, and although they hear of each other's repairs."""
    await loses.sign_in("alice")
    loses.backup()
    await loses.one.sessions.put("alice", "idp", loses.server.sign_in("bob"))
    await loses.two.sessions.delete("alice")
    loses.fail_over()
    loses.clock.now += 3
    for _ in range(2):
        await loses.look()
    for broker in (loses.two, loses.one):
        assert (await refused(loses.at(broker))).name == "login_required"


async def test_many_lost_writes_are_looked_for_together(loses: Loses) -> None:
    """[RD-07] A thousand questions in turn would take longer than who takes a lock waits."""
    for number in range(6 * repairs.AT_ONCE):
        await loses.sign_in(f"user{number % (3 * repairs.AT_ONCE)}")
    view, under_way, most = loses.views[0], 0, 0
    found = view.get

    async def get(key: str) -> Record | None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await found(key)

    view.get = get  # type: ignore[method-assign]
    await loses.one._writer.repairs.look()
    assert most == repairs.AT_ONCE


async def test_store_that_is_a_file_does_not_fail_over(loses: Loses, tmp_path: Path) -> None:
    """No sign-in is remembered for it."""
    view = View(loses.base, loses.views)
    view.home = tmp_path / "store.db"  # type: ignore[assignment]
    on_disk = loses.another(view)
    await on_disk.sessions.put("alice", "idp", loses.server.sign_in("alice"))
    assert not on_disk._writer.repairs._signed_in
    await on_disk.close(1)


async def test_what_was_written_is_forgotten_in_a_minute_though_nothing_fails(
    loses: Loses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole records, as many as a thousand."""
    monkeypatch.setattr(repairs, "PULSE", 0.01)
    for _ in range(2):
        await loses.sign_in("alice", expires_in=1)
    loses.clock.now += 10
    await loses.at(loses.one)
    kept = loses.one._writer.repairs
    assert (len(kept._signed_in), len(kept._stored)) == (1, 1)
    loses.clock.now += repairs.KEPT
    for _ in range(500):
        await asyncio.sleep(0.01)
        if not kept._stored:
            break
    assert (len(kept._signed_in), len(kept._stored)) == (0, 0)


async def test_nothing_newer_is_written_over_and_nothing_gone_comes_back(loses: Loses) -> None:
    """[RF-18] Neither a further renewal, nor a sign-in or a sign-out since, whoever made it."""
    loses.server.life = 20
    users = ("renewed", "signed-out", "signed-in", "ended-and-signed-in")
    for user in users:
        await loses.sign_in(user, expires_in=1)
    loses.clock.now += 10
    for user in users:
        await loses.at(loses.two, session=user)
    for view in loses.views:
        view.deaf = True
    loses.clock.now += 25
    assert (await loses.at(loses.one, session="renewed")).startswith("access.renewed.read")
    await loses.one.sessions.delete("signed-out")
    await loses.two.sessions.delete("ended-and-signed-in")
    for user in ("signed-in", "ended-and-signed-in"):
        await loses.sign_in(user)
    before = dict(loses.base._rows)
    assert len(loses.two._writer.repairs._stored) == 3
    assert len(loses.two._writer.repairs._ended) == 1
    await loses.look()
    assert loses.base._rows == before
    assert loses.one.counts.repairs + loses.two.counts.repairs == 0


async def test_sign_in_by_a_clock_that_is_behind_is_not_written_over(loses: Loses) -> None:
    """[ST-10] Nor ended: it is another one, whatever its time."""
    await loses.sign_in("alice", expires_in=1)
    loses.clock.now += 10
    await loses.at(loses.two)
    for view in loses.views:
        view.deaf = True
    await loses.one.sessions.delete("alice")
    loses.clock.now -= 100
    await loses.sign_in("alice")
    before = dict(loses.base._rows)
    loses.clock.now += 110
    await loses.look()
    assert loses.base._rows == before


async def test_what_another_instance_has_changed_since_is_left_to_it(loses: Loses) -> None:
    """It may have spent what we had got: its word is newer than ours, whatever the numbers say."""
    loses.server.rotate = False
    await renewed(loses)
    loses.clock.now += 4000
    await loses.at(loses.two)
    for view in loses.views:
        view.shaken = True
    loses.base._rows = dict(loses.saved)
    assert await loses.at(loses.one) == "access.alice.read.4"
    await loses.look()
    assert loses.two.counts.repairs == 0


async def test_writes_are_remembered_for_a_while_and_few(loses: Loses, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go, and all go when their time is over or the clock was set back."""
    monkeypatch.setattr(repairs, "MOST", 3)
    for number in range(6):
        await loses.sign_in(f"user{number}", expires_in=1)
    loses.clock.now += 10
    for number in range(6):
        for spec in (USER, OTHER_ROUTE):
            await loses.two.obtain(keyed(spec, f"user{number}"))
    assert len(loses.two._writer.repairs._stored) == 3
    for move in (repairs.KEPT, -100):
        loses.clock.now += move
        await loses.look()
        assert len(loses.two._writer.repairs._stored) == 0
        loses.clock.now += 8000
        await loses.two.obtain(keyed(USER, "user1"))
        assert len(loses.two._writer.repairs._stored) == 1
