"""`keys rotate`: encrypts the records of a store with the newest key. Speaks with the store, not with a sidecar."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from sidecar.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.settings import StoreSettings


@click.group(short_help="Change the keys that the store is encrypted with.")
def keys() -> None:
    """Change the keys that the store is encrypted with."""


class Rotated(NamedTuple):
    """What came of it: counts of records, and for each key of the list, newest first, how many it has sealed."""

    sealed_again: int
    unreadable: int
    keys: dict[str, int]


@keys.command(short_help="Encrypt every record with the newest key.")
@common.config_option
@common.json_option
def rotate(config: Path | None, as_json: bool) -> None:
    """Encrypt every record with the first key of store.keys, while sidecars serve from the store.

    It may be stopped and begun again at any time. Exits 0 once no record needs another key, else 1.
    """
    settings = common.load(common.find(config)).store
    done = _done(settings)
    if as_json:
        common.echo_json(done._asdict())
    else:
        click.echo("\n".join(_lines(done, next(iter(done.keys)))))
    left = sum(count for key, count in list(done.keys.items())[1:])
    sys.exit(common.FAILED if left or done.unreadable else 0)


def _done(settings: StoreSettings) -> Rotated:
    import asyncio  # imported above it would hold up every start of a sidecar

    from sidecar.errors import SealError, StoreBrokenError, StoreUnavailableError

    try:
        return asyncio.run(_rotate(settings))
    except SealError as error:
        common.fail(f"nothing was changed: the store was written with other keys than store.keys has ({error})")
    except (StoreBrokenError, StoreUnavailableError, ValueError) as error:
        common.fail(str(error))


async def _rotate(settings: StoreSettings) -> Rotated:
    from sidecar.credentials.rotation import rotate as rotation
    from sidecar.credentials.vault import Vault, key_ring
    from sidecar.stores import open_store

    store = open_store(settings.url.reveal())
    if not store.shared:
        raise ValueError("this store ends with its process: there is nothing to encrypt again")
    if store.home is not None and not store.home.exists():
        raise ValueError(f"there is no store at {store.home}")
    try:
        await store.ping()
        vault = Vault(await key_ring(settings, store))
        tally = await rotation(store, vault, time.time)
    finally:
        await store.close()
    counts = {key: tally.keys.pop(key, 0) for key in vault.ids}
    return Rotated(tally.sealed_again, tally.unreadable, {**counts, **tally.keys})


def _lines(done: Rotated, newest: str) -> list[str]:
    lines = [f"encrypted again with the newest key: {_records(done.sealed_again)}"]
    if done.unreadable:
        lines.append(f"cannot be opened with any of the keys: {_records(done.unreadable)}, left as they are")
    for key, count in done.keys.items():
        what = "the newest" if key == newest else "still needed" if count else "not used any more: take it out"
        lines.append(f"key {key}: {_records(count)} ({what})")
    return lines


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"
