"""The stores on a network: one Redis (or Valkey) server, a master that Sentinels know, or a cluster.

Takes a URL apart and opens nothing. What an URL may say stands in `redis_url` and, for operators, in `docs/redis.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.stores.contract import Store


def open_store(url: str) -> Store:
    """Return the store of a `redis:`, `rediss:`, `redis+sentinel:` or `redis+cluster:` URL."""
    from sidecar.stores.redis_store import RedisStore  # noqa: PLC0415 - who has no Redis need not load it
    from sidecar.stores.redis_url import parse  # noqa: PLC0415

    return RedisStore(parse(url))
