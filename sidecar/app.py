"""The composition root: from a configuration to a running program, and from a signal to its end.

Start-up needs neither provider nor store to be there (a store that is there and broken refuses to start). Where the
configuration asks for several workers this process supervises them and serves nothing itself.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog

from sidecar import observing, process, strain
from sidecar.explain import explain as explain  # noqa: PLC0414 - the command line asks for it here
from sidecar.program import Program

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from sidecar.admin.state import AdminState
    from sidecar.config.apart import Reading
    from sidecar.listening import Doors
    from sidecar.settings import Settings

_log = structlog.get_logger()

DRAIN = 25.0  # seconds for requests under way: less than the 30 that Kubernetes and the like wait before they kill


@asynccontextmanager
async def serve(
    settings: Settings,
    path: str = "",
    clock: Callable[[], float] = time.time,
    *,
    doors: Doors | None = None,
    worker: int = 0,
    observe: Callable[[Program], AdminState] = observing.admin_state,
) -> AsyncIterator[Program]:
    """Run the sidecar on the event loop that is running, until the context ends; then drain.

    `path` is the file for `reload`; `clock` gives seconds since the epoch; for the others see `Program`.
    """
    async with AsyncExitStack() as stack:
        program = Program(settings, path, clock, doors, worker, observe)
        await program.open(stack)
        try:
            yield program
        finally:
            await program.drain(0.5 if not path else DRAIN)


def run(path: Path, environ: Mapping[str, str], reading: Reading) -> int:
    """Run the sidecar with the file at `path`, which `reading` reads, until SIGTERM or SIGINT; return the exit code.

    Raises `ConfigError`, `StoreBrokenError`, `SealError` and OSError where it cannot start.
    """
    process.keep_no_core()
    settings = reading.settings()
    workers = _workers(settings)
    if workers > 1:
        from sidecar.workers import working  # noqa: PLC0415 - one process needs nothing of it

        return working.run(settings, str(path), environ, workers)
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(_until_signal(settings, str(path), environ))
    return 0


def _workers(settings: Settings) -> int:
    if settings.workers == 1:
        return 1
    from sidecar.workers import cpus  # noqa: PLC0415

    return cpus.number(settings.workers)


async def _until_signal(settings: Settings, path: str, environ: Mapping[str, str]) -> None:
    async with serve(settings, path) as program:
        reload = partial(program.reload, environ)
        process.on_signals(program.stopped, reload)
        tell_start(settings, program.doors)
        process.keep_the_heap()
        process.spare_the_collector()
        watcher = asyncio.create_task(program.watch(reload))
        await program.stopped.wait()
        watcher.cancel()
        _log.info("stopping")
    _log.info("stopped")


def tell_start(settings: Settings, doors: Doors, **more: object) -> None:
    """Log that requests are served from now on, and what deserves a second look."""
    listeners = [str(door.address) for door in doors.listeners]
    login = {"login": str(doors.login.address)} if doors.login else {}
    _log.info(
        "started", listeners=listeners, admin=str(doors.admin.address), **login, routes=len(settings.routes), **more
    )
    strain.tell_limited(settings.limits)
    observing.warned(settings)
