"""A leased lock on top of three atomic steps: take, renew, release. Any store that other processes share has these.

It decides when a holder asks again, renews and gives up, and that no cancelled caller leaves a lock behind. It must not
know how a store keeps its locks. Fencing is not here: who was paused past its lease fails at its compare-and-set. A
taker learns whether the one before it let go of the lock: who did not may still have something to write.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from contextlib import asynccontextmanager, suppress
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

from sidecar.errors import LockHeldError, StoreBrokenError, StoreUnavailableError
from sidecar.stores.turns import Turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

FIRST_PAUSE, LONGEST_PAUSE = 0.005, 0.1
RENEW_AGAIN = 1.0
"""Seconds after which a renewal that failed is tried again: a store that is back must find the lease still running."""


class Taken(IntEnum):
    """How an attempt to take a lock ended; 0: another holds it."""

    NO = 0
    CLEAN = 1
    INHERITED = 2
    """It is ours, and who had it before never let go of it: its lease ran out, or is not known any more."""


class Locks(Protocol):
    """The three steps. Each is atomic; `owner` is a random text, new for each acquisition; `lease` is in seconds."""

    async def take(self, name: str, owner: str, lease: float) -> Taken:
        """Make `owner` the holder where nobody holds the lock or the lease is over."""

    async def renew(self, name: str, owner: str, lease: float) -> bool:
        """Let the lease run from now on where `owner` still holds the lock; say whether it does."""

    async def release(self, name: str, owner: str, unused: bool = False) -> None:
        """Free the lock where `owner` still holds it. `unused`: as it was found, inherited by the next one too."""


class _Held:
    """What a holder sees. Once lost, a lease stays lost. `clock` counts on while the process is stopped."""

    def __init__(self, until: float, clock: Callable[[], float], inherited: bool) -> None:
        self.inherited = inherited
        self.unused = inherited
        self._until = until
        self._clock = clock
        self._lost = False

    @property
    def lost(self) -> bool:
        self._lost = self._lost or self._clock() >= self._until
        return self._lost

    def extend(self, until: float) -> None:
        if not self.lost:
            self._until = until

    def waited_out(self) -> None:
        self.unused = False

    def lose(self) -> None:
        self._lost = True


class Leases:
    """The locks of one store as context managers."""

    def __init__(self, locks: Locks, clock: Callable[[], float] = time.monotonic) -> None:
        self._locks = locks
        self._clock = clock
        self._turns = Turns()
        self._releases: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def hold(self, name: str, lease: float, wait: float) -> AsyncIterator[_Held]:
        """Hold `name` as `Store.lock` promises."""
        asked = self._clock()
        async with self._turns.turn(name, wait):
            owner = secrets.token_hex(16)
            held = await self._taken(name, owner, lease, asked + wait)
            renewal = asyncio.create_task(self._renew(held, name, owner, lease))
            try:
                yield held
            finally:
                renewal.cancel()
                await asyncio.shield(self._release(name, owner, held.unused))

    async def settle(self) -> None:
        """Return when the releases that cancelled callers left to us are done."""
        while self._releases:
            await asyncio.wait(self._releases)

    async def _taken(self, name: str, owner: str, lease: float, deadline: float) -> _Held:
        try:
            return await self._take(name, owner, lease, deadline)
        except BaseException:
            # Cut off, or the answer was lost: the lock may be ours all the same.
            self._release(name, owner, unused=True)
            raise

    async def _take(self, name: str, owner: str, lease: float, deadline: float) -> _Held:
        pause = FIRST_PAUSE
        while True:
            until = self._clock() + lease
            taken = await self._locks.take(name, owner, lease)
            if taken is not Taken.NO:
                return _Held(until, self._clock, taken is Taken.INHERITED)
            if self._clock() >= deadline:
                raise LockHeldError("the lock is still held by another process")
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - spreads the callers, hides nothing
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _renew(self, held: _Held, name: str, owner: str, lease: float) -> None:
        pause = lease / 3
        while not held.lost:
            await asyncio.sleep(pause)
            pause = min(lease / 3, RENEW_AGAIN)
            until = self._clock() + lease
            # A store that is away may be back before the lease is over; a broken one is found out by the holder.
            with suppress(StoreUnavailableError, StoreBrokenError):
                if held.lost or not await self._locks.renew(name, owner, lease):
                    return held.lose()
                held.extend(until)
                pause = lease / 3
        return None

    def _release(self, name: str, owner: str, unused: bool = False) -> asyncio.Task[None]:
        task = asyncio.create_task(self._release_quietly(name, owner, unused))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        return task

    async def _release_quietly(self, name: str, owner: str, unused: bool) -> None:
        # Where the store is away the lease ends by itself; the holder's result must not be lost over it.
        with suppress(StoreUnavailableError, StoreBrokenError):
            await self._locks.release(name, owner, unused)
