"""Instances that are forked from a process that has imported everything already: most of a start is imports.

Only for programs that start sidecars a thousand times. What is forked is the sidecar as it is from its first line on:
it reads its configuration, opens its store, listens. It is killed like any other. Its starts are not to be measured.
`python -m soak.forks` is the process that forks: it takes a line of JSON for each, and answers with the process id.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Forked:
    """One of them, as `subprocess.Popen` shows a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self._handle = -1

    def poll(self) -> int | None:
        if self._handle >= 0 and not select.select([self._handle], [], [], 0)[0]:
            return None
        self._close()
        return -1

    def send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self._handle >= 0:
                signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> None:
        if self._handle >= 0:
            select.select([self._handle], [], [])
            self._close()

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


class Nest:
    """The process that forks. `start` starts a program of `soak` with pipes, see `fleet.spawn_piped`."""

    def __init__(self, start: Callable[[str], Awaitable[asyncio.subprocess.Process]]) -> None:
        self._start = start
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def fork(self, arguments: list[str], log: str) -> Forked:
        """Fork an instance with the arguments of `soak.instance`; its output goes to the file `log`."""
        async with self._turn:
            if self._process is None:
                self._process = await self._start("soak.forks")
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps([arguments, log]).encode() + b"\n")
            return Forked(int(await self._process.stdout.readline()))

    async def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()


def _warm_up(file: str) -> None:
    """Import what an instance imports, and do once what it remembers: each fork would do it again."""
    import aiohttp  # noqa: F401
    import anyio._backends._asyncio  # noqa: F401
    import redis.asyncio  # noqa: F401
    import uvloop  # noqa: F401

    import sidecar.app
    import sidecar.cli
    import sidecar.oauth.client_auth
    import sidecar.provider
    import sidecar.stores.redis_driver
    import sidecar.stores.sqlite  # noqa: F401
    from sidecar import config, provider_http
    from sidecar.config import apart

    # The configuration is read by the process itself, as where there can be no other.
    apart._start = lambda *_: None  # noqa: SLF001
    config.load(file, {})
    provider_http._default_context()  # noqa: SLF001


def _become(arguments: list[str], log: str) -> None:
    """In the fork: take the log for output, forget the pipes, and be an instance."""
    import ctypes

    from soak import instance

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing is left behind
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    instance.run(arguments)


def main() -> None:
    warm = False
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    for line in iter(sys.stdin.readline, ""):
        asked: list[Any] = json.loads(line)
        if not warm:
            warm = True
            _warm_up(asked[0][asked[0].index("-c") + 1])
            gc.freeze()
        if pid := os.fork():
            print(pid, flush=True)
        else:
            _become(*asked)
            os._exit(0)


if __name__ == "__main__":
    main()
