"""A store on this machine's disk: blocking operations on one thread of their own, off the event loop.

It decides what cancellation means (an operation that has begun is completed, one that still waits never happens), how
long a caller waits for the disk, and when changes of other processes are looked for. It must not know what the
operations do.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores.complaints import Complaints
from sidecar.stores.contract import check_version
from sidecar.stores.leases import Leases
from sidecar.stores.writes import Writes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.stores.contract import Lease, Record
    from sidecar.stores.leases import Taken

PATIENCE = 10.0  # seconds for one operation, those before it in the queue included
OPENING_PATIENCE = 120.0  # the first one reads the whole file
POLL_EVERY = 0.2
PAGES = 32 * 1024
"""Bytes that a record's write may take beyond its value: pages of tables and indexes that it changes or splits. A trial
takes them too, or a disk that lacks just these is taken for ready."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Disk(Protocol):
    """The blocking side. Every method is one transaction, always called on the same thread."""

    def get(self, key: str) -> Record | None:
        """See `Store.get`."""

    def put(self, key: str, value: bytes, expected: int | None, version: int, expires_at: float | None) -> bool:
        """See `Store.put`; `version` is known to be greater than `expected`."""

    def delete(self, key: str, expected: int | None) -> bool:
        """See `Store.delete`."""

    def keys(self, prefix: str) -> list[str]:
        """See `Store.keys`."""

    def take(self, name: str, owner: str, lease: float) -> Taken:
        """See `Locks.take`."""

    def renew(self, name: str, owner: str, lease: float) -> bool:
        """See `Locks.renew`."""

    def release(self, name: str, owner: str, unused: bool = False) -> None:
        """See `Locks.release`."""

    def changes(self) -> list[str]:
        """Return the keys that others changed since the last call (since the opening); [""]: it may be any."""

    def ping(self) -> None:
        """See `Store.ping`."""

    def inspect(self) -> None:
        """Do what the opening put off because it takes long: on another thread, beside the other operations."""

    def close(self) -> None:
        """See `Store.close`."""


class _Worker:
    """The thread, and the steps of the lock on it."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        self.writes = Writes(self)
        self._closed = False
        self._complaints = Complaints()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"{name}-store")

    async def run(self, step: Callable[[], T], patience: float = PATIENCE) -> T:
        if self._closed:
            raise StoreUnavailableError("the store is closed")
        try:
            async with asyncio.timeout(patience):
                return await asyncio.get_running_loop().run_in_executor(self._thread, step)
        except TimeoutError:
            error = StoreUnavailableError(f"the disk has not answered for {patience:g} s")
            self._complaints.failed(error)
            raise error from None
        except StoreUnavailableError as error:
            self._complaints.failed(error)
            raise

    async def take(self, name: str, owner: str, lease: float) -> Taken:
        with self.writes.noted(name):
            return await self.run(partial(self.disk.take, name, owner, lease))

    async def renew(self, name: str, owner: str, lease: float) -> bool:
        with self.writes.noted(name):
            return await self.run(partial(self.disk.renew, name, owner, lease))

    async def release(self, name: str, owner: str, unused: bool = False) -> None:
        with self.writes.noted(name):
            await self.run(partial(self.disk.release, name, owner, unused))

    async def close(self) -> None:
        if not self._closed:
            try:
                await self.run(self.disk.close)
            finally:
                self._closed = True
                self._thread.shutdown(wait=False)


class ThreadedStore:
    """The `Store` over a `Disk`. `home` is its file."""

    shared = True
    shaken = False

    def __init__(self, name: str, home: Path, disk: Disk) -> None:
        self.name = name
        self.home: Path | None = home
        self._worker = _Worker(name, disk)
        self._disk = disk
        self._leases = Leases(self._worker)
        self._watchers: list[Callable[[str], None]] = []
        self._polling: asyncio.Task[None] | None = None
        self._inspection: asyncio.Task[None] | None = None

    async def get(self, key: str) -> Record | None:
        """See `Store.get`."""
        return await self._worker.run(partial(self._disk.get, key))

    async def put(
        self, key: str, value: bytes, *, expected: int | None, version: int, expires_at: float | None = None
    ) -> bool:
        """See `Store.put`."""
        check_version(expected, version)
        with self._worker.writes.noted(key, len(value) + PAGES):
            return await self._worker.run(partial(self._disk.put, key, value, expected, version, expires_at))

    async def delete(self, key: str, *, expected: int | None = None) -> bool:
        """See `Store.delete`."""
        with self._worker.writes.noted(key, PAGES):
            return await self._worker.run(partial(self._disk.delete, key, expected))

    async def keys(self, prefix: str) -> list[str]:
        """See `Store.keys`."""
        return await self._worker.run(partial(self._disk.keys, prefix))

    def lock(self, name: str, *, lease: float = 15.0, wait: float = 30.0) -> AbstractAsyncContextManager[Lease]:
        """See `Store.lock`."""
        return self._leases.hold(name, lease, wait)

    def watch(self, changed: Callable[[str], None]) -> None:
        """See `Store.watch`. Changes since this store was opened are reported, up to 0.2 s late."""
        self._watchers.append(changed)
        self._polling = self._polling or asyncio.get_running_loop().create_task(self._poll())

    async def ping(self) -> None:
        """See `Store.ping`."""
        await self._worker.run(self._disk.ping, OPENING_PATIENCE)
        if self._inspection is None:
            self._inspection = asyncio.get_running_loop().create_task(self._inspect())
        await self._worker.writes.check()

    async def close(self) -> None:
        """See `Store.close`."""
        for task in (self._polling, self._inspection):
            if task:
                task.cancel()
        await self._worker.writes.close()
        await self._leases.settle()
        await self._worker.close()

    async def _inspect(self) -> None:
        try:
            await asyncio.to_thread(self._disk.inspect)
        except StoreBrokenError as error:
            _log.error("store_damaged", extra={"reason": str(error)})
        except StoreUnavailableError:
            return  # each record is looked at again when it is read

    async def _poll(self) -> None:
        while True:
            # A store that is away reports itself to those who need it; the next round makes up for this one.
            with suppress(StoreUnavailableError, StoreBrokenError):
                self._report(await self._worker.run(self._disk.changes))
            await asyncio.sleep(POLL_EVERY)

    def _report(self, keys: list[str]) -> None:
        loop = asyncio.get_running_loop()
        for key in keys:
            for changed in self._watchers:
                loop.call_soon(changed, key)
