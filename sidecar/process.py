"""What one process that serves does with its event loop, its memory and the signals sent to it."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Reload = Callable[[], Coroutine[None, None, object]]


def keep_no_core() -> None:
    """Write no core file: it would hold every token."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where there is a wheel for this platform; plain asyncio works too."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop


def spare_the_collector() -> None:
    """Keep what start-up made, which stays, out of every full collection: it would stop all requests for 30 ms.

    What requests leave behind is freed by its reference counts; cycles are few, so they are looked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def on_signals(stop: asyncio.Event, reload: Reload) -> None:
    """Stop at SIGTERM or SIGINT, reload at SIGHUP."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stopping(stop))
    loop.add_signal_handler(signal.SIGHUP, _reloading(reload))


def _reloading(reload: Reload) -> Callable[[], None]:
    tasks: set[asyncio.Task[object]] = set()

    def signalled() -> None:
        task = asyncio.get_running_loop().create_task(reload())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return signalled


def _stopping(stop: asyncio.Event) -> Callable[[], None]:
    def signalled() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: at once, and whatever is under way is lost
        stop.set()

    return signalled
