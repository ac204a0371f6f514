"""Word of changes between the users of one Redis: at once by pub/sub, and surely by a short log.

A message can be lost; the log tells the same within half a second, and what was heard is not reported twice. Where the
log does not reach back to what was seen last (too many changes, a flush, a failover that lost some) anything may have
changed. Every announcement names its writer, so that nobody is told of his own writes.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.calling_off import call_off
from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores.redis_record import LOG_KEPT, script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.stores.redis_driver import RedisDriver

LOOK_EVERY = 0.4
ID_CHARS = 16
START = "0-0"
TO_TELL = 1000

READ = script(f"""
local entries = redis.call('XRANGE', KEYS[1], ARGV[1] == '' and '-' or ARGV[1], '+', 'COUNT', {LOG_KEPT + 1})
local unseen = 2
if ARGV[1] == '{START}' and #entries < {LOG_KEPT} then
  unseen = 1
elseif ARGV[1] == '' or #entries == 0 or entries[1][1] ~= ARGV[1] then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
  return {{0, #newest > 0 and newest[1][1] or '{START}'}}
end
local answer = {{1, #entries > 0 and entries[#entries][1] or ARGV[1]}}
for at = unseen, #entries do answer[#answer + 1] = entries[at][2][2] end
return answer
""")

TELL = script(f"""
for at = 1, #ARGV do redis.call('XADD', KEYS[1], 'MAXLEN', {LOG_KEPT}, '*', 'change', ARGV[at]) end
return 1
""")


def new_id() -> str:
    """Return a name for a writer or for one write."""
    return secrets.token_hex(ID_CHARS // 2)


class RedisChanges:
    """What this process tells the others and hears of them. `log` is the log's key, `channel` the channel's name."""

    def __init__(self, driver: Callable[[], RedisDriver], log: str, channel: str) -> None:
        self.log = log
        self.channel = channel
        self._driver = driver
        self._writer = new_id()
        self._position = ""  # the last entry of the log that was seen
        self._untold: deque[str] = deque(maxlen=TO_TELL)
        self._heard: deque[str] = deque(maxlen=2 * LOG_KEPT)
        self._written = 0
        self._look_now = asyncio.Event()
        self._watchers: list[Callable[[str], None]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def announcement(self, key: str, write: str) -> str:
        """Return the text that says that this process wrote `key`."""
        self._written += 1
        if self._written >= LOG_KEPT // 4:  # before the log has no room left for what others change meanwhile
            self._look_now.set()
        return f"{self._writer}{write}{key}"

    async def begin(self) -> None:
        """Take note of where the log ends, before anything is read that could change afterwards."""
        if not self._position:
            _, position, _ = await self._read()
            self._position = self._position or position

    async def tell(self, announcement: str) -> None:
        """Put a line into the log, where the write itself could not; later, where Redis is away now."""
        self._untold.append(announcement)
        with suppress(StoreUnavailableError):
            await self._tell()

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed` as `Store.watch` says."""
        self._watchers.append(changed)
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._listen()), loop.create_task(self._look())]

    async def close(self) -> None:
        """Stop listening."""
        await call_off(self._tasks)
        if self._untold:
            with suppress(StoreUnavailableError):
                await self._tell()

    async def _listen(self) -> None:
        while True:
            with suppress(StoreUnavailableError):
                async with self._driver().subscription(self.channel) as messages:
                    async for message in messages:
                        self._report([message])
            await asyncio.sleep(random.uniform(LOOK_EVERY / 2, LOOK_EVERY))  # noqa: S311 - spreads the instances

    async def _look(self) -> None:
        while True:
            # A Redis that is away reports itself to those who need it; the next look makes up for this one.
            with suppress(StoreUnavailableError, StoreBrokenError):
                self._written = 0
                self._look_now.clear()
                await self._tell()
                await self.begin()
                whole, self._position, entries = await self._read()
                self._report(entries if whole else None)
            with suppress(TimeoutError):
                async with asyncio.timeout(random.uniform(LOOK_EVERY * 0.8, LOOK_EVERY)):  # noqa: S311 - spreads them
                    await self._look_now.wait()

    async def _tell(self) -> None:
        lines = list(self._untold)
        self._untold.clear()
        try:
            if lines:
                await self._driver().run(TELL, [self.log], lines)
        except BaseException:
            self._untold.extendleft(reversed(lines))  # twice in the log is no harm
            raise

    async def _read(self) -> tuple[bool, str, list[bytes]]:
        """Return whether the log reaches back to our position, its end, and what came between."""
        answer = await self._driver().run(READ, [self.log], [self._position])
        if not isinstance(answer, list) or len(answer) < 2 or not isinstance(answer[1], bytes):  # noqa: PLR2004
            raise StoreUnavailableError("Redis: unexpected reply")
        return answer[0] == 1, answer[1].decode("ascii", "replace"), answer[2:]

    def _report(self, announcements: Iterable[bytes] | None) -> None:
        """Tell the watchers; None: anything may have changed."""
        loop = asyncio.get_running_loop()
        keys = [""] if announcements is None else [key for key in map(self._news, announcements) if key]
        for key in keys:
            for changed in self._watchers:
                loop.call_soon(changed, key)

    def _news(self, announcement: bytes) -> str:
        """Return the key that another process changed, empty where it is no news."""
        text = announcement.decode("ascii", "replace")
        writer, write, key = text[:ID_CHARS], text[ID_CHARS : 2 * ID_CHARS], text[2 * ID_CHARS :]
        if writer == self._writer or write in self._heard:
            return ""
        self._heard.append(write)
        return key
