"""The corridor: wire → target → route → caller → credential → headers → wire.

A request walks through it once and never turns back. Each step takes values and returns new ones or raises a
`Refusal`; only the last one touches a connection. Nothing here waits: where a token has to be obtained first, the lane
sends the exchange to wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.callers.recognise import admit, recognise
from sidecar.errors import Refusal
from sidecar.headers import max_forwards
from sidecar.lane import Lane, Passage, upgrade_of
from sidecar.routing import Router
from sidecar.target import read_target

if TYPE_CHECKING:
    from sidecar.elsewhere import Elsewhere
    from sidecar.model import Target
    from sidecar.settings import Settings
    from sidecar.wire.exchange import Exchange


class Proxy:
    """The corridor of one configuration. `elsewhere` takes what no route takes: refusals, plain forwarding, tunnels."""

    def __init__(self, settings: Settings, lanes: list[Lane], elsewhere: Elsewhere) -> None:
        self._apps = settings.apps
        self._sessions = settings.sessions
        self._router = Router(lanes)
        self._elsewhere = elsewhere

    def begin(self, exchange: Exchange) -> None:
        """Walk one request through."""
        head = exchange.head
        peer = exchange.downstream.peer
        lane = exchange.errand = self._elsewhere
        target = None
        try:
            target = read_target(head)
            self._elsewhere.check_loop(exchange)
            if head.method == b"CONNECT":
                self._elsewhere.tunnel(exchange, target)
                return
            route = self._router.find(target, head.method.decode("ascii"))
            if route is None:
                self._elsewhere.forward(exchange, target)
                return
            lane = exchange.errand = route
            caller = recognise(self._apps, self._sessions, head, peer, route.route.as_)
            admit(caller, peer, route.route.allow, bool(self._apps))
            check_method(head.method, head.all(b"max-forwards"), route)
            check_path(target, route)
            exchange.upgrade = upgrade_of(exchange)
            route.drive(exchange, Passage(target, route.key(caller)))
        except Refusal as refusal:
            exchange.target = target
            lane.refuse(exchange, refusal)


def check_path(target: Target, lane: Lane) -> None:
    """Raise `Refusal` where the upstream could read the path, or a token in it, differently than we do."""
    if not target.plain and (lane.token or lane.route.strip_prefix):
        raise Refusal("bad_request", "The path can be read in more than one way (%2f, %5c, dot segments).")
    if lane.token and b"access_token=" in target.path and _has_token_parameter(target.path):
        raise Refusal("bad_request", "The query holds an access_token, but the sidecar puts the token on this route.")


def _has_token_parameter(path: bytes) -> bool:
    return any(pair.startswith(b"access_token=") for pair in path.partition(b"?")[2].split(b"&"))


def check_method(method: bytes, forwards: list[bytes], lane: Lane) -> None:
    """Raise `Refusal` for TRACE with a token, which would come back in the body, and for the last hop of a method."""
    if method == b"TRACE" and lane.token:
        raise Refusal("method_refused", "TRACE would send the token back to the caller.")
    if forwards and method in (b"OPTIONS", b"TRACE") and max_forwards(forwards[0]) == 0:
        raise Refusal("method_refused", "Max-Forwards is 0: the request ends at this sidecar.")
