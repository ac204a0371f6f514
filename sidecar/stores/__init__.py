"""The stores by the scheme of their URL. A new kind is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.stores import memory, redis, sqlite

if TYPE_CHECKING:
    from sidecar.stores.contract import Open, Store

STORES: dict[str, Open] = {
    "memory": memory.open_store,
    "sqlite": sqlite.open_store,
    "redis": redis.open_store,
    "rediss": redis.open_store,
    "redis+sentinel": redis.open_store,
    "redis+cluster": redis.open_store,
}


def open_store(url: str) -> Store:
    """Return the store of `url`, untouched until its first operation; `ValueError` says what is wrong with it."""
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in STORES:
        known = ", ".join(f"{name}:" for name in STORES)
        raise ValueError(f"the store's URL must start with one of {known}")
    return STORES[scheme](url)
