"""Whether a store takes writes: as the last ones told, and asked anew where they failed.

A full disk and a Redis without memory can still be read. So a failed write is remembered, with its size, until one of
that size is taken, a trial for it included; a trial writes as many random bytes as a lock that nobody wants. Costs
nothing while all is well. It must not know how a store writes.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.calling_off import call_off
from sidecar.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.stores.leases import Locks

PATIENCE = 1.0  # seconds that who asks waits for a trial, which goes on
LEASE = 2.0


class Writes:
    """The writes of one store. A trial goes to `locks`."""

    def __init__(self, locks: Locks) -> None:
        self._locks = locks
        self._failed = -1  # bytes of the largest write that failed and has not succeeded since
        self._tag = ""
        self._trial: asyncio.Task[None] | None = None

    @contextmanager
    def noted(self, name: str, size: int = 0) -> Iterator[None]:
        """Take note of what becomes of a write of `size` bytes to `name`."""
        try:
            yield
        except StoreUnavailableError:
            if size >= self._failed:
                self._failed, self._tag = size, name[name.find("{") : name.rfind("}") + 1]
            raise
        if size >= self._failed:
            self._failed = -1

    async def check(self) -> None:
        """Return at once where the last writes were taken; else raise `StoreUnavailableError` unless a trial is."""
        if self._failed < 0:
            return
        if self._trial is None:
            self._trial = asyncio.get_running_loop().create_task(self._try(self._failed))
            self._trial.add_done_callback(self._tried)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(self._trial)
        except TimeoutError:
            raise StoreUnavailableError("the store takes no writes") from None

    async def close(self) -> None:
        """End a trial."""
        if self._trial is not None:
            await call_off([self._trial])

    async def _try(self, size: int) -> None:
        """Write `size` bytes and take them away again. One trial at a time, so that they never queue up."""
        name, owner = f"trial:{self._tag}{secrets.token_hex(8)}", secrets.token_hex(size // 2 + 16)
        with self.noted(name, size):
            await self._locks.take(name, owner, LEASE)
            await self._locks.release(name, owner)

    def _tried(self, trial: asyncio.Task[None]) -> None:
        self._trial = None
        if not trial.cancelled():
            trial.exception()  # seen: who asked may have left
