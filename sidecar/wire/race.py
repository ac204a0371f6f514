"""Happy Eyeballs (RFC 8305): attempts on all addresses of a name, a quarter of a second apart; the first one wins.

Families take turns, beginning with that of the first address. A failure starts the next attempt at once; the losers
are closed. Connects to the addresses it is given and to no others; which they may be was decided before.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.wire.names import Found

STAGGER = 0.25  # seconds between two attempts (RFC 8305 section 8)
EXHAUSTED = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
"""What says that this machine or process has no more to give: no fault of the destination's."""


def interleaved(addresses: Sequence[Found]) -> list[Found]:
    """Return the addresses with the families taking turns (RFC 8305 section 4)."""
    first = [one for one in addresses if one.family == addresses[0].family]
    others = [one for one in addresses if one.family != addresses[0].family]
    return [one for one in chain.from_iterable(zip_longest(first, others)) if one is not None]


async def connect(addresses: Sequence[Found], port: int, stagger: float = STAGGER) -> socket.socket:
    """Return a connected socket; raise OSError, of the first attempt or of one that found nothing left to use.

    `stagger` in seconds. Being cancelled leaves no socket open.
    """
    if len(addresses) == 1:
        return await _attempt(addresses[0], port)
    running: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    try:
        waiting = interleaved(addresses)
        while waiting or running:
            if waiting:
                running.add(asyncio.create_task(_attempt(waiting.pop(0), port)))
            patience = stagger if waiting else None
            ended, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            winner = _winner(ended, errors)
            if winner is not None:
                return winner
    finally:
        for task in running:
            task.add_done_callback(_close)
            task.cancel()
    raise next((error for error in errors if error.errno in EXHAUSTED), errors[0])


async def _attempt(to: Found, port: int) -> socket.socket:
    sock = socket.socket(to.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        where = (to.address, port, 0, to.scope) if to.family == socket.AF_INET6 else (to.address, port)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


def _winner(ended: set[asyncio.Task[socket.socket]], errors: list[OSError]) -> socket.socket | None:
    winner = None
    for task in ended:
        failure = task.exception()
        if isinstance(failure, OSError):
            errors.append(failure)
        elif failure is not None:
            raise failure
        elif winner is None:
            winner = task.result()
        else:
            task.result().close()
    return winner


def _close(task: asyncio.Task[socket.socket]) -> None:
    """Close what a loser still brought."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
