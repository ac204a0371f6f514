"""One flight per key: whoever asks for the same thing while it is being fetched waits for the same result.

A flight is a task of its own. Its callers are shielded: one that leaves harms neither the flight nor another caller.
Knows nothing about tokens.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

K = TypeVar("K")
V = TypeVar("V")


class Flights(Generic[K, V]):
    """The flights under way."""

    def __init__(self) -> None:
        self._tasks: dict[K, asyncio.Task[V]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._tasks

    def start(self, key: K, fly: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """Return the flight of `key`, started now if there is none. One that has landed is not joined any more."""
        task = self._tasks.get(key)
        if task is None or task.done():
            task = self._tasks[key] = asyncio.get_running_loop().create_task(fly())
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def join(self, key: K, fly: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """Wait for the flight of `key`; raise what it raises, and `Refusal` where it was called off."""
        task = self.start(key, fly)
        try:
            return await asyncio.shield(task)
        except Refusal as refusal:
            # One exception for each caller: a shared one would gather all their tracebacks.
            raise Refusal(refusal.name, refusal.detail, retry_after=refusal.retry_after) from None
        except asyncio.CancelledError:
            leaving = asyncio.current_task()
            if task.cancelled() and not (leaving and leaving.cancelling()):
                raise Refusal("overloaded", retry_after=1) from None
            raise

    def tasks(self) -> list[asyncio.Task[V]]:
        """Return the flights under way."""
        return list(self._tasks.values())

    def _landed(self, key: K, task: asyncio.Task[V]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
        if not task.cancelled():
            task.exception()  # seen: with no caller left, nobody else would look at it
