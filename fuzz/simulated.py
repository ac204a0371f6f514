"""An event loop in simulated time: where nothing is left to do the clock goes to the next timer at once.

So an hour of waiting costs nothing, and the same program gives the same steps.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from fuzz.clockwork import Clockwork

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class Simulated(Clockwork):
    """Runs one coroutine to its end; must be alone in its thread meanwhile."""

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns. `AssertionError` where all wait and no timer is left."""
        asyncio._set_running_loop(self)
        try:
            task = self.create_task(work)
            self.run()
            while not task.done():
                self._forward()
            return task.result()  # type: ignore[no-any-return]
        finally:
            asyncio._set_running_loop(None)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """Do as other loops: what is called can be called off, and what it raises is a fault."""
        handle = asyncio.Handle(callback, args, self, context)
        super().call_soon(_step, handle)
        return handle

    def _forward(self) -> None:
        assert self._timers, "everybody waits for somebody else"
        self._now = max(self._now, self._timers[0][0])
        self._jump(0.0)


def _step(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()
