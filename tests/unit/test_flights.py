"""One flight per key: who joins which."""

from __future__ import annotations

import asyncio
from itertools import count

from sidecar.credentials.flights import Flights


async def test_callers_at_the_same_time_share_one_flight() -> None:
    """[RF-01] Whatever their number."""
    flights: Flights[str, int] = Flights()
    numbers = count(1)

    async def fly() -> int:
        await asyncio.sleep(0)
        return next(numbers)

    assert await asyncio.gather(*(flights.join("key", fly) for _ in range(100))) == [1] * 100
    assert flights.tasks() == []


async def test_caller_in_the_moment_of_landing_starts_a_new_flight() -> None:
    """It asks because the result that has just come does not serve: it would get the same one again and again."""
    flights: Flights[str, int] = Flights()
    numbers = count(1)

    async def fly() -> int:
        return next(numbers)

    flights.start("key", fly)
    late = asyncio.create_task(flights.join("key", fly))
    assert await late == 2
    await asyncio.sleep(0)
    assert flights.tasks() == []
