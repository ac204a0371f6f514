"""Sealing every record of a store with the newest key, while instances serve from it.

Each record is written by compare-and-set under its own next version, so that no renewal is lost: where an instance
wrote in between, the record is looked at again. Stopped half-way and begun anew it goes on with what is left. It never
writes what it cannot open, and shows no value.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.credentials.vault import PEPPER
from sidecar.errors import SealError
from sidecar.stores.contract import next_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.credentials.vault import Vault
    from sidecar.stores.contract import Store

ATTEMPTS = 8
PASSES = 3
"""Looks at the whole store: an instance whose newest key is another one may write behind us."""


@dataclass(slots=True)
class Tally:
    """What was done. `keys` is how many records each key has sealed, by its name, as they were seen last."""

    sealed_again: int = 0
    unreadable: int = 0
    keys: Counter[str] = field(default_factory=Counter)


async def rotate(store: Store, vault: Vault, clock: Callable[[], float]) -> Tally:
    """Seal all records with the newest key of `vault`; `SealError` where the store was written with other keys.

    Nothing is changed then. Raises what the store raises; what is done by then stays done. `clock`: since the epoch.
    """
    tally = Tally()
    pepper = await store.get(PEPPER)
    if pepper is not None:
        vault.open(PEPPER, pepper.version, pepper.value)
    for _ in range(PASSES):
        before, tally.unreadable, tally.keys = tally.sealed_again, 0, Counter()
        for name in await store.keys(""):
            await _rotate_one(store, vault, name, clock, tally)
        if tally.sealed_again == before:
            break
    return tally


async def _rotate_one(store: Store, vault: Vault, name: str, clock: Callable[[], float], tally: Tally) -> None:
    sealed_by = ""
    for _ in range(ATTEMPTS):
        record = await store.get(name)
        if record is None:
            return
        try:
            sealed_by = vault.key_of(record.value)
            if vault.is_current(record.value):
                break
            plain = vault.open(name, record.version, record.value)
        except SealError:
            tally.unreadable += 1
            break
        version = next_version(record.version, clock())
        sealed = vault.seal(name, version, plain)
        if await store.put(name, sealed, expected=record.version, version=version, expires_at=record.expires_at):
            tally.sealed_again += 1
            sealed_by = vault.ids[0]
            break
    tally.keys[sealed_by or "unknown"] += 1
