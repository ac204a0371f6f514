"""The corridor: wire → target → route → caller → credential → headers → wire.

A request walks through it once and never turns back. Each step takes values and returns new ones or raises a
`Refusal`; only the last one touches a connection. Nothing here waits: where a token has to be obtained first, the lane
sends the exchange to wait for it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import unquote_to_bytes

from sidecar.errors import Refusal
from sidecar.headers import RETURNING, check_returning
from sidecar.routing import Routed, Router
from sidecar.target import TOKEN_PARAMETER, other_readings, read_target
from sidecar.wire.hearing import Hearing

if TYPE_CHECKING:
    from sidecar.elsewhere import Elsewhere
    from sidecar.lane import Lane
    from sidecar.model import Target
    from sidecar.settings import Route
    from sidecar.wire.exchange import Errand, Exchange


class Tokened(Routed, Protocol):
    """A route that says whether it sends a token."""

    @property
    def token(self) -> bool: ...


R = TypeVar("R", bound=Tokened)


class Proxy:
    """The corridor of one configuration. `elsewhere` takes what no route takes: refusals, plain forwarding, tunnels."""

    def __init__(self, lanes: list[Lane], elsewhere: Elsewhere) -> None:
        self._router = Router(lanes)
        self._elsewhere = elsewhere
        speaking = elsewhere.rules.speaking.union(*(lane.rules.speaking for lane in lanes))
        self.requests = Hearing(speaking, elsewhere.rules.cookies)

    def begin(self, exchange: Exchange) -> None:
        """Walk one request through."""
        head = exchange.head
        errand: Errand = self._elsewhere
        exchange.errand = errand
        exchange.began = time.perf_counter()
        try:
            target = exchange.target = read_target(head)
            if exchange.downstream.ours is not False:
                self._elsewhere.check_loop(exchange)
            if head.method == b"CONNECT":
                self._elsewhere.tunnel(exchange, target)
                return
            lane = self._router.find(target, head.method)
            if lane is None:
                if not target.harmless and self._elsewhere.forwards:
                    check_readings(self._router, target, head.method, None)
                self._elsewhere.forward(exchange, target)
                return
            errand = exchange.errand = lane
            lane.under_way += 1
            prepared = lane.prepare(head, exchange.downstream.peer)
            if not target.harmless:
                check_path(target, lane.route, lane.token)
                check_readings(self._router, target, head.method, lane)
            if head.method in RETURNING:
                check_returning(head, token=lane.token, body=not exchange.complete)
            lane.drive(exchange, prepared)
        except Refusal as refusal:
            errand.refuse(exchange, refusal)


def check_path(target: Target, route: Route, token: bool) -> None:
    """Raise `Refusal` where the upstream could read the path, or a token in it, differently than we do.

    And where a caller that asked for https would be served in clear text (RFC 9110 section 4.2.2). `token`: whether the
    route sends one.
    """
    if target.scheme == "https" and route.upstream.scheme != "https":
        raise Refusal("destination_refused", "The request is for https, but the route's upstream is plain http.")
    if not target.plain and (token or route.strip_prefix):
        raise Refusal("bad_request", "The path can be read in more than one way (%2f, %5c, dot segments).")
    if token and _has_token_parameter(target.path):
        raise Refusal("bad_request", "The query holds an access_token, but the sidecar puts the token on this route.")


def check_readings(router: Router[R], target: Target, method: bytes, taken: R | None) -> None:
    """Raise `Refusal` where the path as some upstreams read it has another route: another token, or other callers.

    A route that is written with a parameter says itself what its upstream takes that for.
    """
    if taken is not None and ";" in taken.match.path:
        return
    for path in other_readings(target.compared):
        other = router.find(replace(target, compared=path), method)
        if other is not None and other is not taken and (other.token or (taken and taken.token)):
            raise Refusal("bad_request", "The path can be read in more than one way (//, ;), for two routes.")


def _has_token_parameter(path: bytes) -> bool:
    query = path.partition(b"?")[2]
    pairs = query.replace(b";", b"&").split(b"&")  # some take ; for & as well
    return any(pair.startswith(TOKEN_PARAMETER) or (b"%" in pair and _names_token(pair)) for pair in pairs)


def _names_token(pair: bytes) -> bool:
    name, mark, _ = pair.partition(b"=")
    return unquote_to_bytes(name) + mark == TOKEN_PARAMETER
