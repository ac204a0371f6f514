"""`drawer:NAME`: a store that several openers in one process share, by name."""

from __future__ import annotations

from sidecar.stores import memory
from sidecar.stores.contract import Store

_DRAWERS: dict[str, Store] = {}


def open_store(url: str) -> Store:
    return _DRAWERS.setdefault(url, memory.open_store("memory:"))
