"""From a configuration to a corridor: pools, rules, lanes. Pure wiring: opens nothing, asks nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sidecar.elsewhere import Elsewhere
from sidecar.headers import RequestRules, ResponseRules
from sidecar.lane import Lane, Shared
from sidecar.model import TokenSpec
from sidecar.proxy import Proxy
from sidecar.wire.capacity import connections_for, descriptors
from sidecar.wire.dial import Dialler
from sidecar.wire.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.credentials.broker import Broker
    from sidecar.errors import Refusal
    from sidecar.metrics import Metrics
    from sidecar.settings import Address, Route, Settings
    from sidecar.wire.context import Wire
    from sidecar.wire.exchange import Exchange

AUTHORIZING = frozenset([b"authorization", b"dpop"])  # an inbound proof of possession belongs to an inbound token
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - recognised, not bound


class Corridor(NamedTuple):
    """One configuration at work, and what has to be closed when another takes over."""

    proxy: Proxy
    pools: tuple[Pool, ...]

    def close(self) -> None:
        """Close idle connections; requests under way end by themselves."""
        for pool in self.pools:
            pool.close()


class Marks(NamedTuple):
    """Header names and cookies that identify callers, and our pseudonym for Via."""

    carriers: frozenset[bytes]
    cookies: frozenset[bytes]
    via: str


def assemble(
    settings: Settings,
    wire: Wire,
    broker: Broker,
    metrics: Metrics,
    access: Callable[[Exchange, str, str], None] | None,
    refused: Callable[[Exchange, Refusal, str], None] | None,
    own: Iterable[Address],
    clock: Callable[[], float],
) -> Corridor:
    """Make the corridor of `settings`. `own` are the addresses that this program listens on; `clock` is the epoch's."""
    marks = marks_of(settings)
    dialler = Dialler(deny_private=settings.destinations.deny_private, own=_own(own), resolvers=wire.resolvers)
    shared = Shared(
        settings.apps,
        settings.sessions,
        broker,
        ResponseRules(*marks),
        access if settings.access_log else None,
        clock,
        settings.login,
        refused,
        max(1, connections_for(settings.limits.connections, descriptors()) * 3 // 4),
    )
    pools: dict[object, Pool] = {}
    lanes = [
        Lane(route, shared, _pool(pools, route, wire, dialler), request_rules(route, marks), metrics.route(route.name))
        for route in settings.routes
    ]
    elsewhere = Elsewhere(settings, shared, RequestRules(*marks), metrics, wire, dialler)
    return Corridor(Proxy(lanes, elsewhere), tuple(pools.values()))


def _pool(pools: dict[object, Pool], route: Route, wire: Wire, dialler: Dialler) -> Pool:
    """Return the pool of a route: that of all routes that reach the same upstream in the same way.

    Requests with a token of ours go on connections of their own: what callers write themselves may leave its traces.
    """
    way = (route.upstream, route.tls, route.timeout.connect, route.as_ != "none")
    pool = pools.get(way)
    if pool is None:
        pool = pools[way] = Pool(wire, dialler, route.upstream, tls=route.tls, connect_timeout=route.timeout.connect)
    else:
        pool.routes += 1
    return pool


def marks_of(settings: Settings) -> Marks:
    """Return what in a message is ours and never reaches an upstream, nor comes from one."""
    carriers: set[bytes] = set()
    for session in settings.sessions:
        carriers |= session.carriers
    for app in settings.apps:
        carriers |= app.carriers
    cookies = frozenset[bytes]().union(*(kind.cookies for kind in settings.sessions))
    return Marks(frozenset(carriers), cookies, settings.via)


def request_rules(route: Route, marks: Marks) -> RequestRules:
    """Return the rules of a route: where it puts a token, an inbound one does not pass."""
    own = AUTHORIZING | {route.header.lower().encode("ascii")} if route.as_ != "none" else frozenset[bytes]()
    return RequestRules(marks.carriers | own, marks.cookies, marks.via)


def specs(settings: Settings) -> dict[str, TokenSpec]:
    """Return the token specs of all routes, and of sign-ins, by fingerprint."""
    found = [route.spec for route in settings.routes if route.spec is not None]
    for name in settings.login.providers if settings.login else ():
        provider = settings.providers[name]
        found.append(TokenSpec(name, provider.issuer or provider.token_endpoint or "", provider.client_id, "session"))
    return {spec.fingerprint: spec for spec in found}


def _own(addresses: Iterable[Address]) -> list[tuple[str, int]]:
    """Return host and port of each; a listener on every address is reached by the loopback ones too."""
    own = [(address.host, address.port) for address in addresses if address.port]
    own += [(host, port) for bound, port in own if bound in ANYWHERE for host in ("127.0.0.1", "::1")]
    return own
