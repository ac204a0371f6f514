"""The stores on a network: one Redis (or Valkey) server, a master that Sentinels know, or a cluster.

Takes a URL apart and opens nothing. What an URL may say stands in `redis_url` and, for operators, in `docs/redis.md`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.stores.contract import Store


def open_store(url: str) -> Store:
    """Return the store of a `redis:`, `rediss:`, `redis+sentinel:` or `redis+cluster:` URL.

    `ValueError`: the URL is no good, or names a file for TLS that is not there.
    """
    from sidecar.stores.redis_store import RedisStore  # noqa: PLC0415 - who has no Redis need not load it
    from sidecar.stores.redis_url import TLS_FILES, parse  # noqa: PLC0415

    target = parse(url)
    for name in TLS_FILES if target.tls else ():
        path = getattr(target.tls, name)
        if path and not Path(path).is_file():
            raise ValueError(f"there is no file where {name} says: a path starts at the folder that sidecar runs in")
    return RedisStore(target)
