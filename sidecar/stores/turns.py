"""Turns inside one process: who waits here does not have to ask the store.

One lock for each name that somebody holds or waits for, first come first served; a name that nobody uses costs nothing.
It must not know any store.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.errors import LockHeldError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Turns:
    """Locks by name, for the tasks of one event loop."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def turn(self, name: str, wait: float) -> AsyncIterator[None]:
        """Hold `name` alone; wait up to `wait` seconds for it, then raise `LockHeldError`."""
        turn = self._turns.setdefault(name, _Turn())
        turn.users += 1
        try:
            await _acquire(turn.lock, wait)
            try:
                yield
            finally:
                turn.lock.release()
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[name]


async def _acquire(lock: asyncio.Lock, wait: float) -> None:
    try:
        async with asyncio.timeout(wait):
            await lock.acquire()
    except TimeoutError:
        raise LockHeldError("the lock is still held by another request of this process") from None
