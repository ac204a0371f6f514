"""What all connections of one process share: limits, the clock of their deadlines, and the memory kept for replays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.wire import capacity
from sidecar.wire.dial import Resolvers

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from sidecar.settings import Limits
    from sidecar.wire.downstream import Downstream
    from sidecar.wire.exchange import Exchange
    from sidecar.wire.hearing import Hearing
    from sidecar.wire.pool import Pool

NEVER: Final = math.inf
TICK = 0.1  # seconds: how much later than asked a deadline may fire
STALL = 1.0  # seconds that a tick is late by before that counts as a standstill of this process
LOOK = 1.0  # seconds between two looks at the memory in use


class Timed(Protocol):
    """A connection with a deadline."""

    deadline: float

    def expire(self) -> None:
        """Take the consequence of the deadline."""


class Deadlines:
    """One timer for all connections: a request sets a number instead of making and cancelling timers.

    `now` is the event loop's time at the last tick, in seconds. `stalled` is told how long the loop stood still: the
    process was stopped, or something blocked it. Then nobody else was slow: what has come meanwhile is read first.
    `ticked` is called at each tick.
    """

    __slots__ = ("_handle", "_live", "_loop", "now", "stalled", "ticked")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._live: set[Timed] = set()
        self.stalled: Callable[[float], None] = lambda _seconds: None
        self.ticked: Callable[[float], None] = lambda _now: None
        self.now = loop.time()
        self._handle = loop.call_later(TICK, self._tick)

    def add(self, timed: Timed) -> None:
        self._live.add(timed)

    def discard(self, timed: Timed) -> None:
        self._live.discard(timed)

    def stop(self) -> None:
        self._handle.cancel()

    def _tick(self) -> None:
        late = self._loop.time() - self.now - TICK
        self.now = now = self._loop.time()
        self._handle = self._loop.call_later(TICK, self._tick)  # first: no failure below ends the ticking
        if late > STALL:
            self.stalled(late)
            return
        for timed in [timed for timed in self._live if timed.deadline <= now]:
            timed.deadline = NEVER
            timed.expire()
        self.ticked(now)


class Entrance(Protocol):
    """Where requests go in, and which of their lines speak there."""

    requests: Hearing

    def begin(self, exchange: Exchange) -> None:
        """Take a request."""


class Wire:
    """The context of one process.

    `begin` is called with each request that arrives; None while the process starts, or uses more memory than it may.
    `strained` is told of the latter's beginning and end. Of `most_connections` each can have one to an upstream.
    """

    __slots__ = (
        "_above", "_begin", "_next_look", "accepted", "begin", "deadlines", "downstreams", "draining", "limits", "loop",
        "most_connections", "most_upstreams", "outgoing", "pools", "refused", "replay_memory", "requests", "resolvers",
        "spared_at", "strained", "upstreams",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.begin: Callable[[Exchange], None] | None = None
        self.strained: Callable[[bool], None] = lambda _above: None
        self.most_connections = limits.connections
        self.most_upstreams = limits.connections
        self.pools: set[Pool] = set()  # those that have connections
        self.spared_at = 0.0
        self._above: Callable[[], bool] = lambda: False
        self._begin: Callable[[Exchange], None] | None = None
        self._next_look = 0.0
        self.requests: Hearing
        self.deadlines = Deadlines(loop)
        self.deadlines.ticked = self._measure
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
        there = capacity.descriptors()
        self.most_connections = capacity.connections_for(limits.connections, there)
        self.most_upstreams = capacity.upstreams_for(self.most_connections, there)
        self._above = capacity.memory_check(limits.memory)
        self._begin = self.begin = entrance.begin
        self.requests = entrance.requests

    def spare(self) -> None:
        """Make room for a connection to an upstream: where there are too many, close the older half of the idle ones.

        They lie in pools, each of which knows its own only. Where none is idle it looks once a tick.
        """
        if self.upstreams < self.most_upstreams or self.spared_at == self.deadlines.now:
            return
        idle = sorted((one for pool in self.pools for one in pool.idle()), key=lambda one: one.deadline)
        if not idle:
            self.spared_at = self.deadlines.now
        for one in idle[: len(idle) // 2 + 1]:
            one.close()

    def may_keep(self, size: int = 0) -> bool:
        """Say whether the replay memory has room for `size` bytes more."""
        return self.replay_memory + size <= self.limits.replay_memory

    def _measure(self, now: float) -> None:
        """Look at the memory in use: above the limit nothing new begins, until enough of it is free again."""
        if now < self._next_look:
            return
        self._next_look = now + LOOK
        above = self._above()
        if above == (self.begin is None) or self._begin is None:
            return
        self.begin = None if above else self._begin
        self.strained(above)
