"""An event loop without sockets whose clock stands still until it is told to move.

Runs the sidecar's protocols, tasks and timers deterministically: the same input gives the same steps. It knows only
what the wire asks of a loop; anything else raises NotImplementedError.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from sidecar.wire.context import TICK

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

MOST_STEPS = 20_000  # of one `run`: more is a hot loop


class HotLoopError(AssertionError):
    """Callbacks go on making callbacks."""


class _Timer(asyncio.TimerHandle):
    """Run in its own time; `asyncio.TimerHandle` would ask a real loop to forget it."""

    def cancel(self) -> None:
        asyncio.Handle.cancel(self)


class Clockwork(asyncio.AbstractEventLoop):
    """`run` until nothing is left to do; `advance` the clock. `faults` is what was reported to the loop."""

    def __init__(self) -> None:
        self.faults: list[dict[str, Any]] = []
        self._now = 1000.0
        self._ready: deque[tuple[Callable[..., object], tuple[Any, ...], Any]] = deque()
        self._timers: list[tuple[float, int, _Timer]] = []
        self._serial = 0

    def run(self) -> None:
        """Run everything that is ready, and what that makes ready."""
        ready = self._ready
        steps = MOST_STEPS
        while ready:
            callback, args, context = ready.popleft()
            if context is None:
                callback(*args)
            else:
                context.run(callback, *args)
            steps -= 1
            if not steps:
                raise HotLoopError("a loop that never ends")

    def advance(self, seconds: float) -> None:
        """Put the clock forward; each timer that is due runs twice, for the first jump looks like a standstill."""
        self._jump(seconds)
        self._jump(TICK)

    def _jump(self, seconds: float) -> None:
        self._now += seconds
        due = []
        while self._timers and self._timers[0][0] <= self._now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            if not timer.cancelled():
                timer._run()
        self.run()

    # -- what the wire asks of a loop ---------------------------------------------------------------------------

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:
        self._ready.append((callback, args, context))

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> _Timer:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> _Timer:
        timer = _Timer(when, callback, args, self, context)
        self._serial += 1
        heapq.heappush(self._timers, (when, self._serial, timer))
        return timer

    def create_task(self, coro: Coroutine[Any, Any, Any], **_how: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.faults.append(context)

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False
