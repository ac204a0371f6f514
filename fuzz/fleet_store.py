"""The store of a simulated fleet: one truth, and for each instance a view of it that is slow, fails, and hears late.

Records are the real `MemoryStore`'s, locks the real `Leases` over three atomic steps. A message of a change that is lost
is made up for by one that says that anything may have changed, as Redis' log and SQLite's counter of changes do.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sidecar.errors import StoreUnavailableError
from sidecar.stores.leases import Leases, Taken
from sidecar.stores.memory import MemoryStore

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from fuzz.fleet_judge import Judge
    from fuzz.fleet_mix import Mix
    from sidecar.stores.contract import Lease, Record

T = TypeVar("T")
EPOCH = 1_800_000_000.0
"""Seconds since the epoch when an episode begins."""
SHAKEN = 15.0
"""Seconds after a failover for which locks and writes count as lost perhaps."""
MOST_STATES = 2000
AGAIN = 0.05
"""Seconds after which a failed operation is tried once more."""


class Holder(NamedTuple):
    """Who holds a lock, or held it and never let go."""

    owner: str
    inherited: bool
    until: float


class State(NamedTuple):
    """The store as it was at a time: what a failover goes back to."""

    at: float
    rows: dict[str, Any]
    locks: dict[str, Holder]


class Shared:
    """What is the same for all instances. `away_until`, `shaken_until`: simulated seconds. `calm`: nothing fails."""

    def __init__(self, mix: Mix, rng: random.Random, judge: Judge) -> None:
        self.mix, self.rng, self.judge = mix, rng, judge
        self.now = judge.now
        self.base = MemoryStore(lambda: EPOCH + judge.now())
        self.locks: dict[str, Holder] = {}
        self.views: list[View] = []
        self.away_until = self.shaken_until = 0.0
        self.calm = False
        self._states: list[State] = []

    def failing(self) -> bool:
        """Say whether an operation fails now."""
        return not self.calm and (self.now() < self.away_until or self.rng.random() < self.mix.faults)

    def pause(self) -> float:
        """Return how long a message to or from the store takes."""
        chance = self.rng.random()
        if chance < 0.0017 and self.mix.slow and not self.calm:
            return 3.0
        return 0.2 if chance < 0.035 else self.rng.choice([0, 0, 0.001, 0.01])

    def changed(self) -> None:
        """Remember the state, where it may be gone back to."""
        if self.mix.failovers:
            self._states = self._states[-MOST_STATES:]
            self._states.append(State(self.now(), dict(self.base._rows), dict(self.locks)))

    def tell(self, writer: View, key: str) -> None:
        """Let the others hear of a change."""
        for view in self.views:
            if view is not writer:
                view.hear("" if self.rng.random() < self.mix.late else key, self.rng.choice([0, 0.01, 0.1, 0.7]))

    def fail_over(self) -> None:
        """Go back to what a replica had."""
        latest = self.now() - self.rng.uniform(0.1, 1.5)
        state = next((state for state in reversed(self._states) if state.at < latest), None)
        if state is not None:
            self.base._rows, self.locks = dict(state.rows), dict(state.locks)
            self.shaken_until = self.now() + SHAKEN
            self.judge.failed_over(self.now() - state.at)
            for view in self.views:
                view.hear("", self.rng.choice([0.1, 0.5]))

    def go_away(self) -> None:
        """Be away for all for some seconds."""
        self.away_until = self.now() + self.rng.uniform(2, 30)
        self.judge.went_away(self.away_until)
        for view in self.views:
            view.hear("", self.away_until - self.now() + 0.1)


class View:
    """One instance's `Store`, and the `Locks` of its `Leases`."""

    name = "simulated"
    shared = True
    home: Path | None = None

    def __init__(self, world: Shared) -> None:
        self._world = world
        self._heard: Callable[[str], None] = lambda _key: None
        self._leases = Leases(self, clock=world.now)
        self._last_word = 0.0
        world.views.append(self)

    @property
    def shaken(self) -> bool:
        """See `Store.shaken`."""
        return self._world.now() < self._world.shaken_until

    def hear(self, key: str, delay: float) -> None:
        """Be told of a change after a while, and after what was told before."""
        self._last_word = max(self._last_word, self._world.now() + delay)
        asyncio.get_running_loop().call_at(self._last_word, lambda: self._heard(key))

    async def get(self, key: str) -> Record | None:
        """See `Store.get`; after a failure once more, as Redis' driver does."""
        with suppress(StoreUnavailableError):
            return await self._operation(lambda: self._world.base.get(key))
        await asyncio.sleep(AGAIN)
        return await self._operation(lambda: self._world.base.get(key))

    async def put(
        self, key: str, value: bytes, *, expected: int | None, version: int, expires_at: float | None = None
    ) -> bool:
        """See `Store.put`."""
        base = self._world.base
        return await self._change(
            key, lambda: base.put(key, value, expected=expected, version=version, expires_at=expires_at)
        )

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """See `Store.delete`."""
        return await self._change(key, lambda: self._world.base.delete(key, expected=expected))

    async def keys(self, prefix: str) -> list[str]:
        """See `Store.keys`."""
        return await self._operation(lambda: self._world.base.keys(prefix))

    def watch(self, changed: Callable[[str], None]) -> None:
        """See `Store.watch`."""
        self._heard = changed

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._operation(self._world.base.ping)

    async def close(self) -> None:
        """See `Store.close`."""

    def lock(self, name: str, *, lease: float = 15.0, wait: float = 30.0) -> AbstractAsyncContextManager[Lease]:
        """See `Store.lock`."""
        return self._leases.hold(name, lease, wait)

    async def take(self, name: str, owner: str, lease: float) -> Taken:
        """See `Locks.take`."""

        async def step() -> Taken:
            now, locks = self._world.now(), self._world.locks
            held = locks.get(name)
            other = held is not None and held.owner != owner
            if held is not None and other and now < held.until:
                return Taken.NO
            left = held is not None and (other or held.inherited)
            locks[name] = Holder(owner, left, now + lease)
            return Taken.INHERITED if left or self.shaken else Taken.CLEAN

        return await self._operation(step)

    async def renew(self, name: str, owner: str, lease: float) -> bool:
        """See `Locks.renew`."""

        async def step() -> bool:
            now, held = self._world.now(), self._world.locks.get(name)
            ours = held is not None and held.owner == owner and now < held.until
            if held is not None and ours:
                self._world.locks[name] = held._replace(until=now + lease)
            return ours

        return await self._operation(step)

    async def release(self, name: str, owner: str, unused: bool = False) -> None:
        """See `Locks.release`; asked again until the lease is about to end by itself."""

        async def step() -> None:
            locks = self._world.locks
            held = locks.get(name)
            if held is not None and held.owner == owner:
                if unused and held.inherited:
                    locks[name] = held._replace(until=self._world.now())
                else:
                    del locks[name]

        for _ in range(40):
            with suppress(StoreUnavailableError):
                return await self._operation(step)
            await asyncio.sleep(0.3)
        return None

    async def _change(self, key: str, act: Callable[[], Coroutine[Any, Any, bool]]) -> bool:
        async def step() -> bool:
            done = await act()
            if done:
                self._world.tell(self, key)
            return done

        return await self._operation(step)

    async def _operation(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        world = self._world
        await asyncio.sleep(world.pause())
        if world.failing():
            raise StoreUnavailableError("away")
        answer = await act()
        world.changed()
        await asyncio.sleep(world.pause())
        if world.failing():
            raise StoreUnavailableError("the answer was lost")
        return answer
