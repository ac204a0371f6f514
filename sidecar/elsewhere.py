"""What no route takes: refused by default; forwarded without a token, or tunnelled, where the configuration says so.

Nothing that leaves through here carries a token of ours, and what identifies the caller stays behind all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.callers.recognise import admit, find_app
from sidecar.errors import Refusal
from sidecar.headers import RETURNING, check_returning
from sidecar.lane import Lane, Shared, answer, request_id
from sidecar.metrics import UNMATCHED
from sidecar.model import Caller, Origin, Target
from sidecar.settings import Match, Route, Settings, Tunnel, UpstreamTimeout
from sidecar.wire.pool import Pool

if TYPE_CHECKING:
    from sidecar.headers import RequestRules
    from sidecar.message import ResponseHead
    from sidecar.metrics import Metrics
    from sidecar.wire.context import Wire
    from sidecar.wire.dial import Dialler
    from sidecar.wire.exchange import Exchange

_NO_TUNNEL = "`tunnels.allow` does not name this destination. A token goes with http:// URLs, never into a tunnel."
MOST_POOLS = 256  # origins with connections of their own, for an ordinary proxy's traffic


class Elsewhere:
    """The errand of requests without a route."""

    body_limit = 0
    longest_body: int | None = None
    timeout = UpstreamTimeout()

    def __init__(
        self, settings: Settings, shared: Shared, rules: RequestRules, metrics: Metrics, wire: Wire, dialler: Dialler
    ) -> None:
        self.rules = rules
        self.response_rules = shared.response_rules
        self._settings = settings
        self.forwards = settings.unmatched == "forward"
        self._shared = shared
        self._metrics = metrics
        self._wire = wire
        self._dialler = dialler
        self._lanes: dict[Origin, Lane] = {}

    # -- the corridor's side ------------------------------------------------------------------------------------

    def check_loop(self, exchange: Exchange) -> None:
        """Refuse a request that one of our own upstream connections brought: it would go round for ever."""
        if exchange.downstream.is_ours():
            raise Refusal("loop", close=True)

    def forward(self, exchange: Exchange, target: Target) -> None:
        """Forward as an ordinary proxy does, if the configuration says so; only a full URL says where to."""
        self._admit(exchange)
        if not self.forwards or target.form != "absolute":
            raise Refusal("no_route", "No route matches the host and path of this request.")
        if exchange.head.method in RETURNING:
            check_returning(exchange.head, token=False, body=not exchange.complete)
        lane = exchange.errand = self._lane(Origin(target.scheme, target.host, target.port))
        lane.under_way += 1
        lane.drive(exchange, lane.prepare(exchange.head, exchange.downstream.peer))

    def tunnel(self, exchange: Exchange, target: Target) -> None:
        """Open a tunnel to an allowed destination (RFC 9110 section 9.3.6)."""
        self._admit(exchange)
        allowing = [tunnel for tunnel in self._settings.tunnels if takes(tunnel, target)]
        if not allowing:
            raise Refusal("tunnel_refused", _NO_TUNNEL, close=True)
        named = any(tunnel.host == target.host for tunnel in allowing)
        pool = self._pool(Origin("http", target.host, target.port), named=named)
        exchange.wait(self._open(exchange, pool))

    # -- the wire's side: `Errand` ------------------------------------------------------------------------------

    def responded(self, _exchange: Exchange, _head: ResponseHead) -> bool:
        return False

    def over(self, exchange: Exchange) -> None:
        if self._shared.access is not None:
            self._shared.access(exchange, "", request_id(exchange))

    def refuse(self, exchange: Exchange, refusal: Refusal) -> None:
        self._metrics.refused(refusal.code)
        if self._shared.refused is not None:
            self._shared.refused(exchange, refusal, "")
        answer(exchange, refusal)

    # -- inside -------------------------------------------------------------------------------------------------

    def _admit(self, exchange: Exchange) -> None:
        peer = exchange.downstream.peer
        caller = Caller(find_app(self._settings.apps, exchange.head, peer))
        admit(caller, peer, None, bool(self._settings.apps))

    def _lane(self, origin: Origin) -> Lane:
        lane = self._lanes.get(origin)
        if lane is None:
            if len(self._lanes) >= MOST_POOLS:
                self._lanes.pop(next(iter(self._lanes))).pool.close()
            route = Route(name=UNMATCHED, match=Match(), upstream=origin, as_="none")
            tally = self._metrics.route(UNMATCHED)
            lane = Lane(route, self._shared, self._pool(origin), self.rules, tally, lasting=False)
            self._lanes[origin] = lane
        return lane

    def _pool(self, origin: Origin, *, named: bool = False) -> Pool:
        return Pool(self._wire, self._dialler, origin, connect_timeout=self.timeout.connect, named=named)

    async def _open(self, exchange: Exchange, pool: Pool) -> None:
        try:
            upstream = await pool.connect()
        except Refusal as refusal:
            self.refuse(exchange, refusal)
            return
        exchange.status = 200
        start = b"HTTP/1.1 200 Connection Established\r\n\r\n"
        exchange.downstream.tunnel(upstream, start, upstream.first_words())


def takes(tunnel: Tunnel, target: Target) -> bool:
    """Say whether an entry of `tunnels.allow` names the destination."""
    if tunnel.port != target.port:
        return False
    return target.host.endswith(tunnel.host[1:]) if tunnel.host.startswith("*.") else target.host == tunnel.host
