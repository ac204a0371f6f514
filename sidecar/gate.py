"""Who may send the next request to one authorization server: at most so many at once and so many in any second.

Decides the order: what a caller waits for goes before what is done ahead of need, which never gets more than half of
either limit. Knows neither tokens nor HTTP; the clock is the event loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

WINDOW = 1.0


class Urgency:
    """Whether somebody waits for a request; once urgent, it stays so."""

    __slots__ = ("hurried", "urgent")

    def __init__(self, *, urgent: bool = True) -> None:
        self.urgent = urgent
        self.hurried: Callable[[], None] | None = None

    def hurry(self) -> None:
        """Take note that somebody waits now."""
        if not self.urgent:
            self.urgent = True
            if self.hurried is not None:
                self.hurried()


class _Side:
    """The urgent or the patient requests: who waits, how many are under way, when the last ones went.

    `called` have been let go and are about to: they count from when they really do, lest a busy loop bunches them.
    """

    __slots__ = ("at_once", "called", "gone", "per_window", "under_way", "waiting")

    def __init__(self, at_once: int, per_second: int) -> None:
        self.at_once = at_once
        self.per_window = per_second
        self.under_way = self.called = 0
        self.gone: deque[float] = deque(maxlen=per_second)
        self.waiting: deque[asyncio.Future[None]] = deque()

    def free_at(self, now: float) -> float | None:
        """Return when the next one may go, None: when one has come back."""
        if self.under_way >= self.at_once or self.called >= self.per_window:
            return None
        last = len(self.gone) + self.called - self.per_window
        return self.gone[last] + WINDOW if last >= 0 else now

    def call(self) -> None:
        """Let one go."""
        self.under_way += 1
        self.called += 1

    def goes(self, now: float) -> None:
        """Take note that one that was called goes."""
        self.called -= 1
        self.gone.append(now)

    def withdraw(self) -> None:
        """Take note that one that was called does not go, or not from this side."""
        self.under_way -= 1
        self.called -= 1


class Gate:
    """The way out to one server."""

    def __init__(self, at_once: int, per_second: int) -> None:
        self._all = _Side(at_once, per_second)
        self._patient = _Side(max(at_once // 2, 1), max(per_second // 2, 1))
        self._timer: asyncio.TimerHandle | None = None

    def expected_wait(self) -> float:
        """Return the seconds after which an urgent request that comes now may go, going by the rate alone."""
        return len(self._all.waiting) / self._all.per_window

    @asynccontextmanager
    async def turn(self, urgency: Urgency | None = None) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Without `urgency` the request is urgent."""
        urgency = urgency or Urgency()
        patient = await self._wait(urgency)
        try:
            yield
        finally:
            self._all.under_way -= 1
            self._patient.under_way -= patient
            self._admit()

    async def _wait(self, urgency: Urgency) -> bool:
        """Return once the turn has come; say whether it counts among the patient ones."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._side(urgency).waiting.append(turn)
        urgency.hurried = lambda: self._hurry(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                for side in self._sides(urgency):
                    side.withdraw()
            self._admit()
            raise
        finally:
            urgency.hurried = None
        for side in self._sides(urgency):
            side.goes(asyncio.get_running_loop().time())
        self._admit()
        return not urgency.urgent

    def _sides(self, urgency: Urgency) -> set[_Side]:
        return {self._all, self._side(urgency)}

    def _side(self, urgency: Urgency) -> _Side:
        return self._all if urgency.urgent else self._patient

    def _hurry(self, turn: asyncio.Future[None]) -> None:
        if turn in self._patient.waiting:
            self._patient.waiting.remove(turn)
            self._all.waiting.append(turn)
        elif turn.done() and not turn.cancelled():
            self._patient.withdraw()  # it has its turn and is about to take it, as an urgent one
        self._admit()

    def _admit(self) -> None:
        """Let all go who may go now, the urgent ones first; come back when the next one may."""
        now = asyncio.get_running_loop().time()
        later = self._let(self._all, now)
        if not self._all.waiting:
            later = self._let(self._patient, now)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if later is None else asyncio.get_running_loop().call_at(later, self._admit)

    def _let(self, side: _Side, now: float) -> float | None:
        """Let the waiting ones of a side go; return when the next one may, None where that is not a matter of time."""
        while side.waiting:
            if side.waiting[0].done():
                side.waiting.popleft()
                continue
            free = [one.free_at(now) for one in {self._all, side}]
            if None in free:
                return None
            at = max(one for one in free if one is not None)
            if at > now:
                return at
            for one in {self._all, side}:
                one.call()
            side.waiting.popleft().set_result(None)
        return None
