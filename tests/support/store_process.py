"""A second process on a store: reads commands, one JSON list a line, and answers each with one JSON value.

Run as `python store_process.py URL`. `write` goes on for ever and prints each version once it is acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from contextlib import AsyncExitStack

from sidecar.errors import StoreBrokenError, StoreUnavailableError
from sidecar.stores import open_store


class Process:
    def __init__(self, url):
        self.store = open_store(url)
        self.held = AsyncExitStack()
        self.lease = None

    async def ping(self):
        await self.store.ping()

    async def get(self, key):
        record = await self.store.get(key)
        return record and [record.value.hex(), record.version]

    async def put(self, key, value, expected, version):
        return await self.store.put(key, bytes.fromhex(value), expected=expected, version=version)

    async def delete(self, key):
        return await self.store.delete(key)

    async def increment(self, key, times):
        for _ in range(times):
            await increment(self.store, key)

    async def lock(self, name, lease, wait):
        self.lease = await self.held.enter_async_context(self.store.lock(name, lease=lease, wait=wait))

    async def lost(self):
        return self.lease.lost

    async def release(self):
        await self.held.aclose()

    async def write(self, key, size):
        record = await self.store.get(key)
        version = record.version if record else 0
        while True:
            value = version.to_bytes(8, "big") + os.urandom(size)
            assert await self.store.put(key, value, expected=version or None, version=version + 1)
            version += 1
            print(version, flush=True)  # noqa: T201

    async def limit_files(self, size):
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most if size is None else size, most))

    async def exit(self):
        await self.store.close()


async def increment(store, key):
    """Add one to the number in `key` by compare-and-set, however often it takes."""
    while True:
        record = await store.get(key)
        number, version = (int(record.value), record.version) if record else (0, 0)
        if await store.put(key, b"%d" % (number + 1), expected=version or None, version=version + 1):
            return


async def main(url):
    """Answer commands until the input ends."""
    process = Process(url)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = json.loads(line)
        try:
            answer = {"value": await getattr(process, command)(*arguments)}
        except (StoreBrokenError, StoreUnavailableError) as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)  # noqa: T201
        if command == "exit":
            return


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
