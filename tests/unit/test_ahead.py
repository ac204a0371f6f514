"""Renewal ahead of need: which tokens, when, how many at once, and what it leaves to callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import pytest

from sidecar.credentials.ahead import AGAIN, AT_ONCE, MOST_STALE, Ahead
from sidecar.credentials.lifecycle import ahead_at, stale_at
from sidecar.credentials.memory import Credential
from sidecar.credentials.session_record import Step
from sidecar.model import GrantRefused, Secret, Token, Unavailable
from tests.support.credentials import APP, USER, Bench, keyed
from tests.unit.test_broker_races import Pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Garden(Bench):
    """A broker whose tokens are renewed ahead when the test says so, at the earliest time."""

    async def tend(self, seconds: float = 0.0, broker=None) -> None:
        """Let time pass and the broker look once for what is due."""
        self.clock.now += seconds
        (broker or self.broker).tending.tick(self.clock())
        await self.idle()

    async def used(self, *sessions: str) -> None:
        for session in sessions:
            await self.sign_in(session)
            await self.token(USER, session)


@pytest.fixture
async def garden() -> AsyncIterator[Garden]:
    """Return a broker that is closed at the end."""
    made = Garden()
    yield made
    made.server.gate.set()
    await asyncio.wait_for(made.broker.close(1), 5)


@pytest.mark.parametrize("life", [30.0, 100.0, 300.0, 3600.0, 86_400.0])
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_time_of_renewal_ahead_lies_in_the_second_part_of_life(life: float, spread: float) -> None:
    """[RF-10] From 60 % on, never later than 90 %, and never after requests would begin to renew it."""
    token = Token(Secret("t"), 1000.0, 1000.0 + life)
    at = ahead_at(token, spread)
    assert 1000 + 0.6 * life <= at <= min(1000 + 0.9 * life, stale_at(token, 1.25))


async def test_token_in_use_is_renewed_before_anybody_has_to_wait(garden: Garden) -> None:
    """[RF-10] The next request finds the new token at hand."""
    await garden.used("alice")
    await garden.tend(2000)
    assert garden.server.calls == 0
    await garden.tend(200)
    assert garden.server.calls == 1
    ready = garden.broker.ready(keyed(USER, "alice"), garden.clock())
    assert ready is not None
    assert ready.token == b"access.alice.read.2"
    assert ready.fresh_until - garden.clock() == pytest.approx(3540)
    assert garden.broker.counts.renewals == {"background": 1}


async def test_session_that_nobody_uses_is_not_renewed_again(garden: Garden) -> None:
    """[RF-10] Once for its last use, then no more: an abandoned session costs the provider nothing."""
    await garden.used("alice")
    for _ in range(10):
        await garden.tend(2200)
    assert garden.server.calls == 1


async def test_renewal_that_nobody_waits_for_is_no_use_of_the_session(garden: Garden) -> None:
    """Its idle lifetime runs from the last request."""
    await garden.used("alice")
    garden.clock.now += 60
    await garden.token(USER, "alice")
    last_request = garden.clock()
    await garden.tend(2200)
    assert garden.server.calls == 1
    info = await garden.broker.sessions.info("alice")
    assert info is not None
    assert (info.providers[0].generation, info.last_used) == (2, last_request)


async def test_session_in_use_is_renewed_again_and_again(garden: Garden) -> None:
    """[RF-10] One renewal per life of a token, and no request ever waits."""
    await garden.used("alice")
    for _ in range(5):
        await garden.tend(2200)
        assert garden.broker.ready(keyed(USER, "alice"), garden.clock())
    assert garden.server.calls == 5


async def test_session_without_refresh_token_is_left_alone(garden: Garden) -> None:
    """There is nothing to renew it with."""
    await garden.sign_in("alice", refresh_token=None)
    await garden.token(USER, "alice")
    assert len(garden.broker.tending) == 0


async def test_application_token_in_use_is_minted_ahead(garden: Garden) -> None:
    """The application's own token is renewed the same way."""
    await garden.token(APP)
    await garden.tend(2200)
    assert garden.server.calls == 2


async def test_two_instances_renew_a_session_ahead_once() -> None:
    """[RF-02] Whichever comes first; the other reads what it stored."""
    pair = Pair()
    pair.views[1].deaf = True  # the second does not even hear of it
    await pair.sign_in("alice")
    await pair.at(pair.one)
    await pair.at(pair.two)
    pair.clock.now += 2200
    pair.one.tending.tick(pair.clock())
    pair.two.tending.tick(pair.clock())
    await pair.idle()
    assert pair.server.calls == 1
    assert await pair.at(pair.one) == await pair.at(pair.two) == "access.alice.read.2"
    await pair.one.close(1)
    await pair.two.close(1)


async def test_few_are_renewed_at_once(garden: Garden) -> None:
    """[RF-10] A hundred that are due together go bit by bit, none twice."""
    users = [f"user{number}" for number in range(100)]
    await garden.used(*users)
    garden.server.gate.clear()
    await garden.tend(2200)
    assert garden.server.calls == AT_ONCE
    assert not any(garden.server.urgent)
    garden.server.gate.set()
    for _ in range(20):
        await garden.idle()
    assert garden.server.calls == 100
    assert set(garden.server.spent.values()) == {1}


def test_place_of_one_that_has_ended_is_for_one_more() -> None:
    """[RF-10] Those that are still under way go on counting."""
    ahead, credentials = (
        Ahead(),
        [
            Credential(keyed(USER, f"u{at}"), b"t", Step(1, at), true_from=0, stale_at=9, usable_until=9)
            for at in range(AT_ONCE + 4)
        ],
    )
    for credential in credentials:
        ahead.plan("idp", credential, 1.0)

    def begun() -> int:
        return sum(1 for _ in ahead.due("idp", 2.0) if ahead.begun("idp") is None)

    assert [begun(), begun()] == [AT_ONCE, 0]
    ahead.ended("idp")
    assert [begun(), begun()] == [1, 0]
    for _ in range(AT_ONCE):
        ahead.ended("idp")
    assert ahead.under_way == {}
    assert begun() == 3


async def test_provider_that_rests_is_left_alone_until_it_is_back(garden: Garden) -> None:
    """[IDP-18] Nothing is asked of it; then what is still valid and in use is renewed."""
    await garden.used("alice", "bob")
    garden.server.rest = 30.0
    await garden.tend(2200)
    await garden.tend(600)
    assert garden.server.calls == 0
    garden.server.rest = 0.0
    await garden.tend()
    assert garden.server.calls == 2


async def test_failure_is_tried_again_later_and_harms_nobody(garden: Garden) -> None:
    """[IDP-05] The valid token goes on being used meanwhile, at once."""
    await garden.used("alice")
    garden.server.script.append(Unavailable("timeout"))
    await garden.tend(2200)
    assert garden.server.calls == 1
    assert garden.broker.ready(keyed(USER, "alice"), garden.clock())
    await garden.tend(AGAIN - 1)
    assert garden.server.calls == 1
    await garden.tend(2)
    assert garden.server.calls == 2


async def test_refresh_token_that_is_refused_ahead_ends_the_session(garden: Garden) -> None:
    """[RF-07] Confirmed as always; the next request is told."""
    await garden.used("alice")
    garden.server.script.append(GrantRefused())
    await garden.tend(2200)
    assert await garden.broker.sessions.info("alice") is None


async def test_caller_hurries_a_renewal_ahead_of_need(garden: Garden) -> None:
    """[IDP-18] A caller whose token has expired waits for the same request, which is urgent from then on."""
    garden.server.life = 100.0
    await garden.used("alice")
    garden.server.gate.clear()
    await garden.tend(70)
    garden.clock.now += 40
    waiting = asyncio.create_task(garden.token(USER, "alice"))
    await garden.idle()
    place = next(iter(garden.broker._renewals.hurry._asking))
    assert garden.broker._renewals.hurry._asking[place].urgent
    assert garden.server.urgent == [False]
    garden.server.gate.set()
    assert await waiting == "access.alice.read.2"
    assert garden.server.calls == 1


async def test_caller_that_waits_already_makes_the_request_urgent(garden: Garden) -> None:
    """[IDP-18] Also one on another route of the same session."""
    garden.server.life = 100.0
    await garden.used("alice")
    garden.clock.now += 200
    await garden.token(USER, "alice")
    assert garden.server.urgent == [True]


async def test_session_that_has_ended_is_not_renewed(garden: Garden) -> None:
    """[ID-04] After a sign-out its plan comes to nothing."""
    await garden.used("alice")
    await garden.broker.sessions.delete("alice")
    await garden.tend(2200)
    assert garden.server.calls == 0


@pytest.mark.parametrize("ends", [True, False], ids=["signed out", "signed in anew"])
async def test_sessions_that_come_and_go_leave_no_plan_behind(garden: Garden, ends: bool) -> None:
    """Each would be kept for most of its token's life, which may be a day."""
    for number in range(3 * MOST_STALE):
        session = f"user{number}" if ends else "alice"
        await garden.used(session)
        if ends:
            await garden.broker.sessions.delete(session)
    assert len(garden.broker.tending) == (0 if ends else 1)
    assert sum(map(len, garden.broker.tending._ahead._heaps.values())) <= 2 * MOST_STALE


async def test_many_sessions_of_one_moment_are_spread(garden: Garden) -> None:
    """[RF-10] Signed in within one second, they are renewed over some 30 % of their tokens' life, evenly."""
    numbers = count()
    garden.broker.tending._kit = replace(
        garden.broker.tending._kit, jitter=lambda: 1 + next(numbers) * 7919 % 2500 / 10_000
    )
    users = [f"user{number}" for number in range(500)]
    await garden.used(*users)
    due = Counter(int(at - garden.clock()) // 60 for at, _, _ in garden.broker.tending._ahead._heaps["idp"])
    assert len(due) == 18
    assert max(due.values()) < 500 / 18 * 1.5
