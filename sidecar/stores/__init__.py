"""The stores by the scheme of their URL. A new kind is one file and one line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.stores import places

if TYPE_CHECKING:
    from sidecar.stores.contract import Find, Place, Store

STORES: dict[str, Find] = {
    "memory": places.memory,
    "sqlite": places.sqlite,
    "redis": places.redis,
    "rediss": places.redis,
    "redis+sentinel": places.redis,
    "redis+cluster": places.redis,
}


def place(url: str) -> Place:
    """Return where the records of `url` are; `ValueError` says what is wrong with it."""
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in STORES:
        known = ", ".join(f"{name}:" for name in STORES)
        raise ValueError(f"the store's URL must start with one of {known}")
    return STORES[scheme](url)


def open_store(url: str) -> Store:
    """Return the store of `url`, untouched until its first operation; `ValueError` says what is wrong with it."""
    return place(url).open()
