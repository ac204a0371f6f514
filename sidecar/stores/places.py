"""Where each kind of store's URL says that the records are: judged here, and opened by whoever serves.

Loads no store: whoever reads a configuration needs neither an event loop nor a driver. What a Redis URL may say stands
in `redis_url` and, for operators, in `docs/redis.md`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.stores.contract import Place

if TYPE_CHECKING:
    from sidecar.stores.contract import Store
    from sidecar.stores.redis_url import RedisTarget


def memory(url: str) -> Place:
    """Judge `memory:`: each opener has a store of its own."""
    if url != "memory:":
        raise ValueError("the memory store takes nothing after the colon: write memory:")
    return Place(shared=False, home=None, open=_open_memory)


def sqlite(url: str) -> Place:
    """Judge `sqlite:PATH`; the path is relative to the working directory or absolute."""
    path = url.removeprefix("sqlite:")
    if not path or path.startswith((":", "//")) or path.endswith("/") or "\0" in path:
        raise ValueError("the sqlite store needs the path of a file: write sqlite:PATH")
    home = Path(path).absolute()
    return Place(shared=True, home=home, open=partial(_open_sqlite, home))


def redis(url: str) -> Place:
    """Judge a `redis:`, `rediss:`, `redis+sentinel:` or `redis+cluster:` URL, and that its files for TLS are there."""
    from sidecar.stores.redis_url import TLS_FILES, parse  # noqa: PLC0415 - who has no Redis need not load it

    target = parse(url)
    for name in TLS_FILES if target.tls else ():
        path = getattr(target.tls, name)
        if path and not Path(path).is_file():
            raise ValueError(f"there is no file where {name} says: a path starts at the folder that sidecar runs in")
    return Place(shared=True, home=None, open=partial(_open_redis, target))


def _open_memory() -> Store:
    from sidecar.stores.memory import MemoryStore  # noqa: PLC0415

    return MemoryStore()


def _open_sqlite(home: Path) -> Store:
    from sidecar.stores.sqlite import opened  # noqa: PLC0415

    return opened(home)


def _open_redis(target: RedisTarget) -> Store:
    from sidecar.stores.redis_store import RedisStore  # noqa: PLC0415

    return RedisStore(target)
