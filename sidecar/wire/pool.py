"""Connections to one upstream: the freshest idle one, or a new one.

`take` decides and touches no network; `connect` dials. Connections serve one exchange at a time and carry nobody's
identity between two: credentials live in the requests. But for NTLM and Negotiate, which authenticate a connection:
from then on it is that caller's alone, and ends with the caller's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sidecar.wire.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from sidecar.model import Origin
    from sidecar.settings import Tls
    from sidecar.wire.context import Wire
    from sidecar.wire.dial import Dialler
    from sidecar.wire.downstream import Downstream

IDLE_LIFE = 30.0  # seconds
DOUBT = 1.0
"""Seconds for which a connection is kept from others where a body may come that there should not be."""
MOST_DOUBTED = 64  # connections for each route
MOST_IDLE: Final = 256  # connections kept for each route


class Pool:
    """The connections to one origin with one TLS configuration. `connect_timeout` in seconds.

    `named`: the configuration names the origin (see `Dialler.dial`). `routes` share it.
    """

    __slots__ = (
        "_bound", "_connect_timeout", "_dialler", "_doubted", "_idle", "_named", "_open", "_origin", "_tls", "routes",
        "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        dialler: Dialler,
        origin: Origin,
        *,
        tls: Tls | None = None,
        connect_timeout: float,
        named: bool = True,
    ) -> None:
        self._named = named
        self.wire = wire
        self._dialler = dialler
        self._origin = origin
        self._tls = tls
        self._connect_timeout = connect_timeout
        self._idle: dict[Upstream, None] = {}  # in the order of their return: thousands may end at once
        self._doubted: set[Upstream] = set()
        self._bound: dict[Upstream, float] = {}  # idle, each for its caller alone; from when on it may be taken
        self._open = 0
        self.routes = 1

    def take(self) -> Upstream | None:
        """Return the idle connection that was used last: it is the likeliest to be alive."""
        idle = self._idle
        if not idle:
            return None
        upstream, _ = idle.popitem()
        if upstream.deadline > self.wire.deadlines.now:
            return upstream
        for old in [upstream, *idle]:
            old.close()
        return None

    def take_bound(self, downstream: Downstream) -> Upstream | None:
        """Return the connection on which this caller has authenticated, if it is one of these; else any other."""
        bound = downstream.bound
        if bound is None or bound not in self._bound:
            return self.take()
        free_at = self._bound[bound]
        self.forget(bound)
        if bound.deadline > self.wire.deadlines.now >= free_at:
            return bound
        bound.close()
        return self.take()

    def connect(self) -> Coroutine[Any, Any, Upstream]:
        """Open a connection; raise `Refusal` (upstream_unreachable, upstream_timeout, destination_refused, loop)."""
        self.wire.spare()
        return self._dialler.dial(
            lambda: Upstream(self), self._origin, tls=self._tls, timeout=self._connect_timeout, named=self._named
        )

    def idle(self) -> Sequence[Upstream]:
        """Return the connections that wait for a request."""
        return (*self._idle, *self._bound)

    def give_back(self, upstream: Upstream) -> None:
        """Take a connection that is ready for the next request."""
        if len(self._idle) >= MOST_IDLE * self.routes or self.wire.draining:
            upstream.close()
            return
        upstream.deadline = self.wire.deadlines.now + IDLE_LIFE  # then it is closed, and its descriptor free
        self._idle[upstream] = None

    def give_back_unused(self, upstream: Upstream) -> None:
        """Take a connection that nobody has used, or not for some time."""
        if upstream.lie_idle():
            self.give_back(upstream)
        else:
            upstream.close()

    def give_back_later(self, upstream: Upstream) -> None:
        """Take a connection whose response announced a body that it may not have: if it comes, it is not an answer."""
        if len(self._doubted) >= MOST_DOUBTED * self.routes or self.wire.draining:
            upstream.close()
            return
        self._doubted.add(upstream)
        self.wire.loop.call_later(DOUBT, self._doubted_enough, upstream)

    def keep_for(self, downstream: Downstream, upstream: Upstream, *, doubtful: bool) -> None:
        """Take a connection on which a caller has authenticated: nobody else may have it. One for each caller.

        `doubtful`: as for `give_back_later`; who does not wait that long gets another, and has to authenticate anew.
        """
        if downstream.bound is not None:
            downstream.bound.close()
        if self.wire.draining or not (downstream.keep_alive and upstream.lie_idle()):
            upstream.close()
            return
        upstream.owner = downstream
        now = self.wire.deadlines.now
        upstream.deadline = now + IDLE_LIFE
        downstream.bound = upstream
        self._bound[upstream] = now + DOUBT if doubtful else now

    def _doubted_enough(self, upstream: Upstream) -> None:
        if upstream in self._doubted:
            self._doubted.remove(upstream)
            self.give_back_unused(upstream)

    def forget(self, upstream: Upstream) -> None:
        """A connection has ended, or is about to, or its caller has taken it: nobody else may."""
        self._doubted.discard(upstream)
        self._bound.pop(upstream, None)
        self._idle.pop(upstream, None)
        owner = upstream.owner
        if owner is not None and owner.bound is upstream:
            owner.bound = None

    def opened(self) -> None:
        """Count a connection that begins."""
        self._open += 1
        self.wire.upstreams += 1
        self.wire.pools.add(self)

    def ended(self, upstream: Upstream) -> None:
        """Count a connection no longer."""
        self.forget(upstream)
        self.wire.upstreams -= 1
        self._open -= 1
        if not self._open:
            self.wire.pools.discard(self)

    def close(self) -> None:
        """Close what is idle; what is in use ends with its exchange."""
        for upstream in [*self.idle(), *self._doubted]:
            upstream.close()
