"""What the store answers may come later than what it answered afterwards: it is neither a step back nor any news."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.credentials import OTHER_ROUTE, USER
from tests.unit.test_broker_races import Pair, View, behind, pair

if TYPE_CHECKING:
    from sidecar.stores.contract import Record

__all__ = ["pair"]


class Slow:
    """Holds back what a view of the store answers to the next question for a session, until `go`."""

    def __init__(self, view: View) -> None:
        self.go = asyncio.Event()
        self._view, self._found = view, view.get
        view.get = self._get  # type: ignore[method-assign]

    async def _get(self, key: str) -> Record | None:
        record = await self._found(key)
        if key.startswith("session:"):
            self._view.get = self._found  # type: ignore[method-assign]
            await self.go.wait()
        return record


async def test_record_read_before_our_own_renewal_and_seen_after_it_is_no_step_back_of_the_store(pair: Pair) -> None:
    """[RF-18] The metric that says so is an alarm: two routes of one session must not set it off."""
    await pair.sign_in("alice", expires_in=1)
    await pair.at(pair.one, USER)
    pair.clock.now += 10
    slow = Slow(pair.views[0])
    late = asyncio.create_task(pair.at(pair.one, OTHER_ROUTE))
    await pair.idle()
    assert await pair.at(pair.one, USER) == "access.alice.read.2"
    slow.go.set()
    assert await asyncio.wait_for(late, 5) == "access.alice.write.3"
    assert pair.one.counts.generation_regressions == 0
    assert not pair.server.killed


@pytest.mark.parametrize("spec", [USER, OTHER_ROUTE], ids=["the same route", "another route"])
async def test_record_of_the_user_before_seen_after_the_next_sign_in_is_not_believed(pair: Pair, spec: object) -> None:
    """[ID-08] [ST-10] Though the clock of who signed in is behind, so that the former sign-in bears the later time."""
    await pair.sign_in("alice")
    await pair.at(pair.two, USER)
    slow = Slow(pair.views[1])
    late = asyncio.create_task(pair.at(pair.two, OTHER_ROUTE))
    await pair.idle()
    await behind(pair)
    assert (await pair.at(pair.two, USER)).startswith("access.bob.")
    slow.go.set()
    assert (await asyncio.wait_for(late, 5)).startswith("access.bob.")
    pair.clock.now += 4000
    assert (await pair.at(pair.two, spec)).startswith("access.bob.")  # type: ignore[arg-type]
    assert pair.two.counts.generation_regressions == 0


async def test_sign_out_and_in_while_the_store_answers_twice_is_served_at_once(pair: Pair) -> None:
    """[ID-03] Each answer is older than what happened meanwhile; the second one is no more believed than the first."""
    await pair.sign_in("alice", expires_in=1)
    pair.clock.now += 10
    view, found = pair.views[1], pair.views[1].get
    meanwhile = [pair.one.sessions.delete, pair.sign_in]

    async def get(key: str) -> Record | None:
        record = await found(key)
        if key.startswith("session:") and meanwhile:
            await meanwhile.pop(0)("alice")
            return None if meanwhile else record
        return record

    view.get = get  # type: ignore[method-assign]
    assert (await pair.at(pair.two)).startswith("access.alice.sign-in")
