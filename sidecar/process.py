"""What one process that serves does with its event loop, its memory and the signals sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Reload = Callable[[], Coroutine[None, None, object]]

MIB = 1024 * 1024
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


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


def keep_the_heap() -> None:
    """Ask glibc not to give back what the next piece of a body needs again.

    A read of uvloop makes up to 250 KB of bytes. By default the heap is cut after each of them and grown before the
    next, and touching the new pages costs more than passing the body on: a third of the CPU time of 1 MiB.
    """
    with contextlib.suppress(AttributeError):  # another C library, with ways of its own
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 4 * MIB)  # given first: the next line ends glibc's own adjusting of it
        mallopt(_M_TRIM_THRESHOLD, 8 * MIB)


def on_signals(stop: asyncio.Event, reload: Reload) -> None:
    """Stop at SIGTERM or SIGINT, reload at SIGHUP."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stopping(stop))
    loop.add_signal_handler(signal.SIGHUP, _reloading(reload))


def _reloading(reload: Reload) -> Callable[[], None]:
    """Reload at each signal; all that come while a reload is under way are one more after it."""
    asked = False
    under_way: asyncio.Task[None] | None = None

    async def work() -> None:
        nonlocal asked
        while asked:
            asked = False
            await reload()

    def signalled() -> None:
        nonlocal asked, under_way
        asked = True
        if under_way is None or under_way.done():
            under_way = asyncio.get_running_loop().create_task(work())

    return signalled


def _stopping(stop: asyncio.Event) -> Callable[[], None]:
    def signalled() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: at once, and whatever is under way is lost
        stop.set()

    return signalled
