"""Commands to Redis with deadlines, one retry, and errors in our own words; `redis_clients` makes the connections.

Decides which failures count as "away" and which connections are made. An operation is tried twice within a hard limit,
at most `AT_ONCE` at a time; while Redis is away the breaker refuses at once. Scripts may be sent twice: they must be
harmless the second time. No message holds an address, a user or a password: the class of the error is all that is told.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import ClusterDownError, NoScriptError, ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidecar.errors import StoreUnavailableError
from sidecar.stores.complaints import Complaints
from sidecar.stores.redis_breaker import Breaker
from sidecar.stores.redis_clients import AT_ONCE, connect
from sidecar.stores.redis_names import Lookups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sidecar.stores.redis_record import Script
    from sidecar.stores.redis_url import RedisTarget

PAUSE = 0.02, 0.06
SCAN_PATIENCE, SCAN_PAGE = 10.0, 1000
SILENCE = 5.0

# redis-py lets some of what a garbled reply breaks inside it escape as it is, hence the last three.
_FOREIGN = (RedisError, RedisClusterException, OSError, ValueError, TypeError, LookupError)
_AWAY = (RedisConnectionError, RedisTimeoutError, RedisClusterException, ClusterDownError, OSError)

T = TypeVar("T")


class RedisDriver:
    """One Redis, replicated Redis or cluster. Connects when it is first asked."""

    def __init__(self, target: RedisTarget) -> None:
        self._target = target
        self._limit = (4 if target.scheme in ("redis+sentinel", "redis+cluster") else 2) * target.timeout
        self._breaker = Breaker()
        self._complaints = Complaints()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._lookups = Lookups()
        try:
            self._client, self._sentinels = connect(target, self._lookups)
        except OSError as error:  # a file for TLS
            raise _translated(error) from None
        self._master: tuple[str, int] | None = None  # the last one that Sentinels named
        self._closed = False

    @property
    def shaken(self) -> bool:
        """Whether Redis is just back from an outage, or another server is the master now: locks may be forgotten."""
        return self._breaker.shaken

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        """Run a script and return its reply. Keys are of one slot."""
        return await self._ask(lambda: self._evaluate(script, keys, arguments))

    async def ping(self) -> None:
        """Return when Redis answers."""
        await self._ask(lambda: self._client.execute_command("PING"))

    async def facts(self) -> dict[str, Any]:
        """Return what the server (in a cluster: one master) tells of itself."""
        target: dict[str, Any] = {}
        if self._target.clustered:
            await self.ping()
            target = {"target_nodes": self._client.get_default_node()}
        told: dict[str, Any] = await self._ask(lambda: self._client.execute_command("INFO", **target))
        if self._target.clustered:
            told["connected_slaves"] = len(self._client.get_replicas())
        return told

    async def replicated(self, key: str, replicas: int) -> bool:
        """Say whether so many replicas have, a moment after now, what was written to the node of `key`."""
        return bool(await self._ask(lambda: self._wait(key, replicas), retry=False))

    async def keys(self, pattern: str) -> list[bytes]:
        """Return the names of the keys that match the glob `pattern`, of all masters; in no order, some twice."""

        async def scan() -> list[bytes]:
            return [name async for name in self._client.scan_iter(match=pattern, count=SCAN_PAGE)]

        return await self._ask(scan, limit=SCAN_PATIENCE)

    @asynccontextmanager
    async def subscription(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the messages of `channel` from now on, until the connection is lost (`StoreUnavailableError`)."""
        pubsub = self._client.pubsub()
        try:
            async with asyncio.timeout(self._limit):
                await pubsub.subscribe(channel)
            yield _messages(pubsub)
        except _FOREIGN as error:
            raise _translated(error) from None
        finally:
            await pubsub.aclose()

    async def close(self) -> None:
        """Close every connection."""
        self._closed = True
        if self._target.clustered:  # its own close does nothing while the layout has to be learnt again
            for part in ("nodes_cache", "startup_nodes"):
                await self._client.nodes_manager.aclose(part)
        for owner in (self._client, self._sentinels):
            if owner is not None:
                await owner.aclose()
        await self._lookups.close()

    # -- one operation --------------------------------------------------------------------------------------------

    async def _ask(self, operation: Callable[[], Awaitable[T]], *, retry: bool = True, limit: float | None = None) -> T:
        async with self._places:
            # Only here, after the wait for a place: others may have found out meanwhile.
            if self._closed:
                raise StoreUnavailableError("the store is closed")
            probing = not self._breaker.closed
            if not self._breaker.admits():
                raise StoreUnavailableError("Redis did not answer a moment ago")
            began = self._breaker.now()
            try:
                async with asyncio.timeout(limit or self._limit):
                    answer = await self._try_twice(operation, began) if retry and not probing else await operation()
            except _FOREIGN as error:
                self._judge(error, began)
                translated = _translated(error)
                self._complaints.failed(translated)
                raise translated from None
            except BaseException:
                self._breaker.gave_up()
                raise
            self._breaker.succeeded()
            self._look_for_takeover()
            return answer

    async def _try_twice(self, operation: Callable[[], Awaitable[T]], began: float) -> T:
        try:
            return await operation()
        except (*_AWAY, ReadOnlyError) as error:
            self._breaker.stumbled(began)
            if isinstance(error, ReadOnlyError):
                self._breaker.taken_over()
                await self._forget_connections()
            await asyncio.sleep(random.uniform(*PAUSE))  # noqa: S311 - spreads the callers, hides nothing
            return await operation()

    def _judge(self, error: Exception, began: float) -> None:
        if isinstance(error, _AWAY):
            self._breaker.failed(began)
        else:
            self._breaker.succeeded()
        if isinstance(error, ReadOnlyError):
            self._breaker.taken_over()

    def _look_for_takeover(self) -> None:
        """See whether Sentinels have led us to another master: a failover by hand is no outage."""
        master = self._client.connection_pool.master_address if self._sentinels is not None else None
        if master is not None and master != self._master:
            if self._master is not None:
                self._breaker.taken_over()
            self._master = master

    async def _forget_connections(self) -> None:
        """Look the server up anew: ours has become a replica."""
        if not self._target.clustered:
            await self._client.connection_pool.disconnect(inuse_connections=False)

    async def _evaluate(self, script: Script, keys: Sequence[str], arguments: Sequence[bytes | str]) -> Any:
        try:
            return await self._client.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)

    async def _wait(self, key: str, replicas: int) -> bool:
        # WAIT counts from the last write of its own connection, so one is made there: what came before is older.
        pipeline = self._client.pipeline(transaction=False)
        where = {"target_nodes": [self._client.get_node_from_key(key)]} if self._target.clustered else {}
        pipeline.execute_command("SET", key, "", "PX", 1000)
        pipeline.execute_command("WAIT", replicas, int(self._target.timeout * 500), **where)
        _, acknowledged = await pipeline.execute()
        return int(acknowledged) >= replicas


async def _messages(pubsub: Any) -> AsyncIterator[bytes]:
    while True:
        message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=SILENCE)
        if message is not None:
            yield message["data"]


def _translated(error: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(f"Redis: {type(error).__name__}")
