"""What all connections of one process share: limits, the clock of their deadlines, and the memory kept for replays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

from sidecar.wire.dial import Resolvers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sidecar.settings import Limits
    from sidecar.wire.downstream import Downstream
    from sidecar.wire.exchange import Exchange
    from sidecar.wire.hearing import Hearing

NEVER = math.inf
TICK = 0.1  # seconds: how much later than asked a deadline may fire


class Timed(Protocol):
    """A connection with a deadline."""

    deadline: float

    def expire(self) -> None:
        """Take the consequence of the deadline."""


class Deadlines:
    """One timer for all connections: a request sets a number instead of making and cancelling timers.

    `now` is the event loop's time at the last tick, in seconds.
    """

    __slots__ = ("_handle", "_live", "_loop", "now")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._live: set[Timed] = set()
        self.now = loop.time()
        self._handle = loop.call_later(TICK, self._tick)

    def add(self, timed: Timed) -> None:
        self._live.add(timed)

    def discard(self, timed: Timed) -> None:
        self._live.discard(timed)

    def stop(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        self.now = now = self._loop.time()
        for timed in [timed for timed in self._live if timed.deadline <= now]:
            timed.deadline = NEVER
            timed.expire()
        self._handle = self._loop.call_later(TICK, self._tick)


class Entrance(Protocol):
    """Where requests go in, and which of their lines, and of their responses' lines, speak there."""

    requests: Hearing
    responses: Hearing

    def begin(self, exchange: Exchange) -> None:
        """Take a request."""


class Wire:
    """The context of one process. `begin` is called with each request that arrives; None while it starts."""

    __slots__ = (
        "accepted", "begin", "deadlines", "downstreams", "draining", "limits", "loop", "outgoing",
        "refused", "replay_memory", "requests", "resolvers", "responses", "upstreams",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.begin: Callable[[Exchange], None] | None = None
        self.requests: Hearing
        self.responses: Hearing
        self.deadlines = Deadlines(loop)
        self.resolvers = Resolvers()
        self.downstreams: set[Downstream] = set()
        self.outgoing: set[object] = set()  # both ends of our upstream connections: who calls on one is us
        self.refused: Callable[[str], None] = lambda _code: None  # counts what is refused before it is a request
        self.upstreams = 0
        self.accepted = 0
        self.draining = False
        self.replay_memory = 0  # bytes of request bodies kept at the moment

    def configure(self, limits: Limits, entrance: Entrance) -> None:
        """Let new requests in by another entrance; those under way keep theirs."""
        self.limits = limits
        self.begin = entrance.begin
        self.requests = entrance.requests
        self.responses = entrance.responses

    def may_keep(self, size: int = 0) -> bool:
        """Say whether the replay memory has room for `size` bytes more."""
        return self.replay_memory + size <= self.limits.replay_memory
