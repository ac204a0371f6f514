"""`drawer:NAME`: a store that several openers in one process share, by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sidecar.stores.contract import Place
from sidecar.stores.memory import MemoryStore

if TYPE_CHECKING:
    from sidecar.stores.contract import Store

_DRAWERS: dict[str, Store] = {}


def place(url: str) -> Place:
    return Place(shared=False, home=None, open=partial(_opened, url))


def _opened(url: str) -> Store:
    return _DRAWERS.setdefault(url, MemoryStore())
