"""One worker's life in its own process; and the start of all, in the process that will supervise them."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from typing import TYPE_CHECKING

import structlog

from sidecar import app, listening, logs, process
from sidecar.program import FLIGHTS
from sidecar.stores import open_store
from sidecar.workers import view
from sidecar.workers.link import Link
from sidecar.workers.sharing import share
from sidecar.workers.supervisor import Post, Supervisor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.settings import Settings

GRACE = 3.0  # seconds more than a worker takes at most to end
_log = structlog.get_logger()


def run(settings: Settings, path: str, environ: Mapping[str, str], workers: int) -> int:
    """Run so many workers until SIGTERM or SIGINT; return the exit code, in each worker's process its own.

    Raises as `app.run`: OSError where the sockets cannot be had, the others in a worker.
    """
    doors = listening.opened(settings, workers)
    _load(settings)
    logs.without_threads()
    started = partial(app.tell_start, settings, doors, workers=workers)
    post = Supervisor(settings, path, environ, doors, workers, app.DRAIN + FLIGHTS + GRACE, started).run()
    return post if isinstance(post, int) else _work(post, path)


def _load(settings: Settings) -> None:
    """Import here what every worker will need: it is then loaded once, and shared in memory."""
    open_store(settings.store.url.reveal())
    process.loop_factory()
    if settings.login:
        from sidecar.login import application, serving  # noqa: F401, PLC0415


def _work(post: Post, path: str) -> int:
    logs.begin_again(worker=post.number)
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(_serve(post, path))
    return 0


async def _serve(post: Post, path: str) -> None:
    link = await Link.open(post.channel, post.workers)
    observe = partial(view.admin_state, link, post.number)
    settings = share(post.settings, post.workers)
    async with app.serve(settings, path, doors=post.doors, worker=post.number, observe=observe) as program:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, program.stopped.set)
        link.attend(program)
        process.keep_the_heap()
        process.spare_the_collector()
        link.tell("serving")
        _log.info("worker_started")
        await program.stopped.wait()
        link.tell("leaving")
    await link.leave()
    _log.info("worker_stopped")
