"""The three steps of a leased lock (see `leases`) in Redis, each one script; its host's clock counts durations only.

A lock is a key that ends with its lease. One that would live longer than the lease that was asked for does not count:
the clock of the host was set back, or a failover came to a host whose clock is behind. Beside it a mark outlives it by
a day, which its holder takes away when it lets go: who finds the mark alone has inherited the lock.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.calling_off import call_off
from sidecar.errors import StoreUnavailableError
from sidecar.stores.contract import TOMBSTONE_LIFE
from sidecar.stores.leases import Taken
from sidecar.stores.redis_record import script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.stores.redis_record import Script

RELEASE_AGAIN = 0.3

# KEYS: the lock, its mark. ARGV: owner, lease in milliseconds, life of the mark in milliseconds (to release: whether it
# is to stay where it was inherited). The mark holds its owner, behind a + where it was inherited.
TAKE = script("""
local held = redis.call('GET', KEYS[1])
if held then
  local lease, owner = string.match(held, '^(%d+):(.+)$')
  local left = redis.call('PTTL', KEYS[1])
  if lease and owner ~= ARGV[1] and left >= 0 and left <= tonumber(lease) then return 0 end
end
local mark = redis.call('GET', KEYS[2])
local left = mark and mark ~= ARGV[1]
redis.call('SET', KEYS[1], ARGV[2] .. ':' .. ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], (left and '+' or '') .. ARGV[1], 'PX', ARGV[3])
return left and 2 or 1
""")
RENEW = script("""
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, ':(.+)$') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2] .. ':' .. ARGV[1], 'PX', ARGV[2])
return 1
""")
RELEASE = script("""
local mark = redis.call('GET', KEYS[2])
if mark == ARGV[1] or (mark == '+' .. ARGV[1] and ARGV[2] == '') then redis.call('DEL', KEYS[2]) end
local held = redis.call('GET', KEYS[1])
if not held or string.match(held, ':(.+)$') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")


class RedisLocks:
    """The steps. `run(script, name, arguments)` runs a script on the lock `name`; each may be sent twice.

    `shaken` says whether Redis was away a moment ago, so that a failover may have lost a lock and its mark.
    """

    def __init__(
        self, run: Callable[[Script, str, tuple[str, ...]], Awaitable[int]], shaken: Callable[[], bool]
    ) -> None:
        self._run = run
        self._shaken = shaken
        self._ends: dict[str, float] = {}  # by owner: when the lock ends by itself
        self._releases: set[asyncio.Task[None]] = set()

    async def take(self, name: str, owner: str, lease: float) -> Taken:
        """See `Locks.take`."""
        taken = Taken(await self._extend(TAKE, name, owner, lease))
        return Taken.INHERITED if taken is Taken.CLEAN and self._shaken() else taken

    async def renew(self, name: str, owner: str, lease: float) -> bool:
        """See `Locks.renew`."""
        return bool(await self._extend(RENEW, name, owner, lease))

    async def release(self, name: str, owner: str, unused: bool = False) -> None:
        """See `Locks.release`. Where Redis is away it is tried again in the background, until the lease has ended."""
        ends, arguments = self._ends.pop(owner, 0.0), (owner, "unused" if unused else "")
        try:
            await self._run(RELEASE, name, arguments)
        except StoreUnavailableError:
            task = asyncio.get_running_loop().create_task(self._release_later(name, arguments, ends))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def close(self) -> None:
        """Give up releasing: what is left ends by itself."""
        await call_off(self._releases)

    async def _extend(self, step: Script, name: str, owner: str, lease: float) -> int:
        self._ends[owner] = time.monotonic() + lease
        lives = str(max(int(lease * 1000), 1)), str(int((lease + TOMBSTONE_LIFE) * 1000))
        return await self._run(step, name, (owner, *lives))

    async def _release_later(self, name: str, arguments: tuple[str, ...], ends: float) -> None:
        while time.monotonic() < ends:
            await asyncio.sleep(RELEASE_AGAIN)
            with suppress(StoreUnavailableError):
                await self._run(RELEASE, name, arguments)
                return
