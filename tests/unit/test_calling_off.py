"""Tasks end when they are called off, also where a cancellation is dropped on its way."""

from __future__ import annotations

import asyncio

from sidecar.calling_off import call_off


async def test_task_that_drops_a_cancellation_is_ended_all_the_same() -> None:
    """As asyncio.wait_for does before Python 3.12, with which redis-py sends: the store's close never came back."""
    dropped = 0

    async def deaf() -> None:
        nonlocal dropped
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                dropped += 1
                if dropped > 1:
                    raise

    async def failing() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError("never retrieved")

    tasks = [asyncio.create_task(deaf()), asyncio.create_task(failing())]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await call_off(tasks)
    assert dropped == 2
    assert all(task.done() for task in tasks)
    await call_off([])
