"""Ending tasks: a cancellation can get lost, so it is said again until they have ended.

Before Python 3.12 `asyncio.wait_for`, with which redis-py sends, drops one that comes in the moment in which what it
waits for is done: a close waited for ever for a task that had gone on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

AGAIN = 0.5
"""Seconds after which a task that goes on is cancelled again."""


async def call_off(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks and return when they have ended; how they ended is nobody's concern."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        ended, left = await asyncio.wait(left, timeout=AGAIN)
        for task in ended:
            if not task.cancelled():
                task.exception()  # seen: nobody else would look at it
