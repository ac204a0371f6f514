"""The store contract over Redis: which keys there are, what a script's answer means, when replicas are waited for.

Keys are `PREFIX:{TAG}KIND:NAME`: the tag of the name, so that what belongs together is on one slot of a cluster; kind r
for a record, t for its tombstone, l for a lock, m for its mark, w for a wait. It must not speak with redis-py:
`redis_driver` does.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores import redis_record as record
from sidecar.stores.complaints import Complaints
from sidecar.stores.contract import Record, check_version
from sidecar.stores.leases import Leases
from sidecar.stores.redis_changes import RedisChanges, new_id
from sidecar.stores.redis_locks import RedisLocks
from sidecar.stores.writes import Writes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from sidecar.stores.contract import Lease
    from sidecar.stores.redis_driver import RedisDriver
    from sidecar.stores.redis_url import RedisTarget

ASK_SERVER_EVERY = 5.0
TAG = re.compile(r"\{([^}]+)\}")
GLOB = re.compile(r"([*?\[\]\\^])")
_log = logging.getLogger(__name__)


class RedisStore:
    """Records in Redis. `clock` returns seconds since the epoch. `unreplicated` counts writes that no replica had."""

    name = "redis"
    shared = True
    home: Path | None = None

    def __init__(self, target: RedisTarget, clock: Callable[[], float] = time.time) -> None:
        self.unreplicated = 0
        self._target = target
        self._clock = clock
        self._driver: RedisDriver | None = None
        self._complaints = Complaints()
        self._closed = False
        self._changes = RedisChanges(
            self._connection, f"{target.prefix}:{{log}}", f"{target.prefix}:{target.database}:changes"
        )
        self._locks = RedisLocks(self._lock_step, lambda: self.shaken)
        self._writes = Writes(self._locks)
        self._leases = Leases(self._locks)
        self._replicas = 0
        self._asked_at = float("-inf")

    @property
    def shaken(self) -> bool:
        """See `Store.shaken`."""
        return self._driver is not None and self._driver.shaken

    async def get(self, key: str) -> Record | None:
        """See `Store.get`."""
        name = self._key("r", key)
        stored = await self._run(record.GET, [name], ())
        if stored is not None and not isinstance(stored, bytes):
            raise StoreBrokenError("a record in Redis is damaged or not ours")
        return None if stored is None else record.read(name, stored, self._clock())

    async def put(
        self, key: str, value: bytes, *, expected: int | None, version: int, expires_at: float | None = None
    ) -> bool:
        """See `Store.put`. After True the value is as safe as Redis keeps it: see `docs/redis.md`."""
        check_version(expected, version)
        if len(value) > record.LARGEST:
            raise ValueError(f"a value has at most {record.LARGEST} bytes")
        now, write = self._clock(), new_id()
        whole = record.whole(self._key("r", key), bytes(value), version, expires_at, now, write)
        with self._writes.noted(key, len(value)):
            return await self._write(record.PUT, key, write, (*self._arguments(key, expected, now, write), *whole))

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """See `Store.delete`."""
        write = new_id()
        with self._writes.noted(key):
            return await self._write(record.DELETE, key, write, self._arguments(key, expected, self._clock(), write))

    async def keys(self, prefix: str) -> list[str]:
        """See `Store.keys`. Looks at every key of the Redis: for operators, not for requests."""
        await self._changes.begin()
        pattern = f"{self._target.prefix}:{{*}}r:" + GLOB.sub(r"\\\1", prefix) + "*"
        start = re.compile(rf"{re.escape(self._target.prefix)}:\{{[^}}]*\}}r:")
        found = {name.decode("ascii", "replace") for name in await self._connection().keys(pattern)}
        names = {name[match.end() :] for name in found if (match := start.match(name))}
        return sorted(name for name in names if name.startswith(prefix))

    def lock(self, name: str, *, lease: float = 15.0, wait: float = 30.0) -> AbstractAsyncContextManager[Lease]:
        """See `Store.lock`."""
        return self._leases.hold(name, lease, wait)

    def watch(self, changed: Callable[[str], None]) -> None:
        """See `Store.watch`. Changes since this store was first used are reported."""
        self._changes.watch(changed)

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._changes.begin()
        await self._connection().ping()
        await self._writes.check()

    async def close(self) -> None:
        """See `Store.close`."""
        if not self._closed:
            await self._changes.close()
            await self._writes.close()
            await self._leases.settle()
            await self._locks.close()
            self._closed = True
            if self._driver is not None:
                await self._driver.close()

    # -- asking ---------------------------------------------------------------------------------------------------

    def _connection(self) -> RedisDriver:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        if self._driver is None:
            from sidecar.stores.redis_driver import RedisDriver  # noqa: PLC0415 - redis-py takes its time

            try:
                self._driver = RedisDriver(self._target)
            except StoreUnavailableError as error:  # a file for TLS: nothing was asked yet that would have said so
                self._complaints.failed(error)
                raise
        return self._driver

    async def _run(self, script: record.Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        await self._changes.begin()
        return await self._connection().run(script, keys, arguments)

    async def _write(self, script: record.Script, key: str, write: str, arguments: Sequence[bytes | str]) -> bool:
        keys = [self._key("r", key), self._key("t", key)]
        clustered = self._target.clustered
        done = _yes(await self._run(script, keys if clustered else [*keys, self._changes.log], arguments))
        if done and clustered:
            await self._changes.tell(self._changes.announcement(key, write))
        if done:
            await self._replicate(key)
        return done

    async def _lock_step(self, script: record.Script, name: str, arguments: tuple[str, ...]) -> int:
        with self._writes.noted(name):
            answer = await self._run(script, [self._key("l", name), self._key("m", name)], arguments)
        if answer not in (0, 1, 2):
            raise StoreUnavailableError("Redis: unexpected reply")
        return int(answer)

    def _arguments(self, key: str, expected: int | None, now: float, write: str) -> tuple[str, ...]:
        announcement = self._changes.announcement(key, write)
        return record.arguments(expected, now, write, self._changes.channel, announcement)

    def _key(self, kind: str, name: str) -> str:
        tag = TAG.search(name)
        return f"{self._target.prefix}:{{{tag[1] if tag else '-'}}}{kind}:{name}"

    # -- replicas -------------------------------------------------------------------------------------------------

    async def _replicate(self, key: str) -> None:
        """Wait until a failover would not lose the write. It is done all the same where no replica has it in time."""
        try:
            wanted = await self._wanted_replicas()
            enough = not wanted or await self._connection().replicated(self._key("w", key), wanted)
        except StoreUnavailableError:
            enough = False
        if not enough:
            self.unreplicated += 1
            self._asked_at = float("-inf")
            _log.warning("store_write_not_replicated")

    async def _wanted_replicas(self) -> int:
        if self._target.wait is not None:
            return self._target.wait
        if time.monotonic() >= self._asked_at + ASK_SERVER_EVERY:
            self._asked_at = time.monotonic()
            facts = await self._connection().facts()
            self._replicas = min(int(facts.get("connected_slaves", 0)), 1)
            self._warn(facts)
        return self._replicas

    def _warn(self, facts: dict[str, Any]) -> None:
        if facts.get("maxmemory", 0) and facts.get("maxmemory_policy") not in (None, "noeviction"):
            _log.warning("store_evicts_records", extra={"policy": str(facts["maxmemory_policy"])})


def _yes(answer: Any) -> bool:
    """Return what a script says. Anything else than 0 and 1 is no answer to it."""
    if answer == record.BROKEN:
        raise StoreBrokenError("a record in Redis is damaged or not ours")
    if answer not in (0, 1):
        raise StoreUnavailableError("Redis: unexpected reply")
    return bool(answer)
