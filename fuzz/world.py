"""The corridor of one process with nothing real around it: no socket, no clock, upstreams that follow a script.

`Downstream`, `Exchange`, `Upstream`, `Pool`, `Proxy` and the rules are the real ones; the dialler, the broker and the
peers are the fuzzer's. Each token that the broker gives out is known by whose it is and for which route.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, cast

from fuzz.clockwork import Clockwork
from fuzz.reading import Request, StrictError, StrictRequests
from fuzz.transport import EOF, FakeTransport
from sidecar.assembly import assemble
from sidecar.callers.cookie import Cookie
from sidecar.callers.session_header import SessionHeader
from sidecar.credentials.broker import StillRejectedError
from sidecar.errors import Refusal
from sidecar.metrics import Metrics
from sidecar.model import Origin, TokenKey, TokenSpec
from sidecar.settings import KIB, Limits, Match, Replay, Route, Settings, Tunnel, UpstreamTimeout
from sidecar.wire.context import Wire
from sidecar.wire.downstream import Downstream

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.case import Answer
    from sidecar.credentials.broker import Broker
    from sidecar.wire.exchange import Exchange
    from sidecar.wire.upstream import Upstream

CANARY = b"canary-token-"
LONG = 1000.0  # seconds: longer than any deadline


class StubCredential:
    def __init__(self, token: bytes, *, suspect: bool) -> None:
        self.token = token
        self.suspect = suspect


class StubBroker:
    """Identities that begin with "cold" wait for their token, "gone" have none, "stuck" get no second one, "dies" lose their session then."""

    def __init__(self) -> None:
        self.owners: dict[bytes, TokenKey] = {}
        self._held: dict[TokenKey, StubCredential] = {}
        self._serial: Counter[TokenKey] = Counter()

    def forget(self) -> None:
        self.owners.clear()
        self._held.clear()
        self._serial.clear()

    def ready(self, key: TokenKey, _now: float) -> StubCredential | None:
        if key not in self._held and not key.identity.startswith(("cold", "gone")):
            self._mint(key)
        return self._held.get(key)

    async def obtain(self, key: TokenKey, rejected: StubCredential | None = None) -> StubCredential:
        await asyncio.sleep(0)
        if key.identity.startswith("gone"):
            raise Refusal("login_required", "The session has ended.")
        if rejected is not None and key.identity.startswith("dies"):
            raise Refusal("login_required", "The session has ended.")
        if rejected is not None and key.identity.startswith("stuck"):
            raise StillRejectedError
        held = self._held.get(key)
        return held if held is not None and held is not rejected else self._mint(key)

    def attend(self, _key: TokenKey, _opened: object) -> None:
        """No session of these ends while a tunnel is open."""

    def accepted(self, credential: StubCredential) -> None:
        credential.suspect = False

    def _mint(self, key: TokenKey) -> StubCredential:
        self._serial[key] += 1
        token = CANARY + b"%d-%d" % (len(self.owners), self._serial[key])
        self.owners[token] = key
        made = self._held[key] = StubCredential(token, suspect=self._serial[key] > 1)
        return made


class Played:
    """What arrived while an exchange was waiting for its response; `ended` by the end of the connection."""

    __slots__ = ("ended", "exchange", "sent")

    def __init__(self, exchange: Exchange | None) -> None:
        self.exchange = exchange
        self.sent = bytearray()
        self.ended = False


class _PeerTransport(FakeTransport):
    def __init__(self, peer: Peer, protocol: Any) -> None:
        self._peer = peer
        info = {"sockname": object(), "peername": (peer.origin.host, peer.origin.port)}
        super().__init__(peer.world.loop, protocol, info, peer.heard)

    def write(self, data: bytes) -> None:
        self._peer.write(getattr(self.protocol, "exchange", None))
        super().write(data)

    def _take(self, event: bytes | Exception | None) -> None:
        if not self._peer.tunnel:
            self._peer.arrives(getattr(self.protocol, "exchange", None), event)
        super()._take(event)


class Peer:
    """One connection to an upstream, seen from the upstream: answers by the world's script, then echoes."""

    def __init__(self, world: World, origin: Origin, make: Callable[[], Any]) -> None:
        self.origin = origin
        self.world = world
        self.strict = StrictRequests()
        self.tunnel = False
        self.served: list[Exchange] = []  # the exchanges whose heads were written here, in their order
        self.played: list[Played] = []
        self.faults: list[str] = []
        self._answered = 0
        self.protocol = make()
        self.transport = _PeerTransport(self, self.protocol)
        self.transport.slow = world.slow_upstream

    def write(self, exchange: Exchange | None) -> None:
        """Take note of whose bytes are being written: those of an exchange, or a tunnel's."""
        if exchange is None:
            self.tunnel = True
        elif not self.served or self.served[-1] is not exchange:
            self.served.append(exchange)

    def heard(self, data: bytes) -> None:
        """Read what was written, once the upstream has it."""
        if self.tunnel or self.faults:
            return
        try:
            self.strict.feed(data)
        except StrictError as error:
            self.faults.append(str(error))
        else:
            self._serve()

    def _serve(self) -> None:
        """Give each request its answer once, in turn: at its head, or when it is whole."""
        strict = self.strict
        while self._answered < strict.heads:
            whole = self._answered < len(strict.requests)
            answers = self.world.answers
            if answers and (whole or answers[0].at == "head"):
                answer = answers.popleft()
            elif whole:
                answer = None
            else:
                return
            request = strict.requests[self._answered] if whole else None
            self._answered += 1
            steps = (echo(cast("Request", request)),) if answer is None else answer.steps
            self.world.loop.call_soon(self._step, steps, 0)

    def arrives(self, exchange: Exchange | None, event: bytes | Exception | None) -> None:
        """Take note of whose response a piece is taken for."""
        if not self.played or (exchange is not None and self.played[-1].exchange is not exchange):
            self.played.append(Played(exchange))
        if isinstance(event, bytes):
            self.played[-1].sent += event
        elif event is EOF:
            self.played[-1].ended = True

    def _step(self, steps: tuple[Any, ...], at: int) -> None:
        while at < len(steps):
            step = steps[at]
            at += 1
            if isinstance(step, bytes):
                self.transport.deliver(step)
            elif step == "eof":
                self.transport.deliver(EOF)
            elif step == "reset":
                self.transport.deliver(ConnectionResetError())
            else:
                self.world.loop.call_soon(self._step, steps, at)
                return


def echo(request: Request) -> bytes:
    """Answer with the request's method and target, so that a caller can tell its own answer."""
    body = b"%b %b" % (request.method, request.target)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), b"" if request.method == b"HEAD" else body)


class FakeDialler:
    """Connects to the fuzzer's upstreams, a round of the loop later."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def dial(self, factory: Callable[[], Any], origin: Origin, **_how: Any) -> Any:
        await asyncio.sleep(0)
        if origin.host == "dead.upstream":
            raise Refusal("upstream_unreachable")
        peer = Peer(self._world, origin, factory)
        self._world.peers.append(peer)
        return peer.protocol


class Caller:
    """One connection of a caller."""

    def __init__(self, world: World) -> None:
        self.protocol = Downstream(world.wire, None)
        self.transport = FakeTransport(
            world.loop, self.protocol, {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8080)}, _ignore
        )


def _ignore(_data: bytes) -> None:
    pass


class World:
    """One process. `begun` are the exchanges of the case, `peers` its upstream connections."""

    def __init__(self) -> None:
        self.loop = Clockwork()
        asyncio._set_running_loop(self.loop)
        self.broker = StubBroker()
        self.answers: deque[Answer] = deque()
        self.slow_upstream = False
        self.peers: list[Peer] = []
        self.begun: list[Exchange] = []
        settings = self._settings()
        self.wire = Wire(self.loop, settings.limits)
        self.metrics = Metrics()
        self.corridor = assemble(
            settings, self.wire, cast("Broker", self.broker), self.metrics, None, None, (), lambda: 0.0
        )
        self.routes = {route.upstream: route for route in settings.routes}
        self.wire.configure(settings.limits, self.corridor.proxy)
        self.wire.begin = self._begin
        self._lanes = self.corridor.proxy._router
        dialler = FakeDialler(self)
        for pool in self.corridor.pools:
            pool._dialler = dialler  # type: ignore[assignment]
        self.elsewhere = self.corridor.proxy._elsewhere
        self.elsewhere._dialler = dialler  # type: ignore[assignment]

    def fresh(self) -> None:
        """Begin a case."""
        self.broker.forget()
        self.peers = []
        self.begun = []
        self.answers = deque()
        self.loop.faults.clear()

    def close(self) -> None:
        asyncio._set_running_loop(None)

    def idle(self) -> list[Upstream]:
        """Return the upstream connections that wait in a pool."""
        return [upstream for pool in self._pools() for upstream in pool._idle]

    def close_pools(self) -> None:
        for pool in self._pools():
            pool.close()

    def replays(self) -> int:
        return sum(tally.replays for tally in self.metrics.routes.values())

    def _pools(self) -> list[Any]:
        return [*self.corridor.pools, *(lane.pool for lane in self.elsewhere._lanes.values())]

    def _begin(self, exchange: Exchange) -> None:
        self.begun.append(exchange)
        self.corridor.proxy.begin(exchange)

    @staticmethod
    def _settings() -> Settings:
        timeout = UpstreamTimeout(connect=1.0, response=2.0, idle=2.0)
        replay = Replay(body_limit=KIB)
        app = TokenSpec("idp", "issuer", "client", "client_credentials")
        other = TokenSpec("idp", "issuer", "client", "client_credentials", audience="other")
        user = TokenSpec("idp", "issuer", "client", "session")

        def route(name: str, match: Match, spec: TokenSpec | None, **more: Any) -> Route:
            as_ = "none" if spec is None else "user" if spec.grant == "session" else "app"
            upstream = Origin("http", f"{name}.upstream", 80)
            return Route(name, match, upstream, as_, spec=spec, **{"timeout": timeout, "replay": replay, **more})  # type: ignore[arg-type]

        return Settings(
            routes=(
                route("app", Match("app.internal"), app),
                route("user", Match("user.internal"), user),
                route("always", Match("always.internal"), other, replay=Replay(body_limit=KIB, unsafe="always")),
                route("none", Match("none.internal"), None),
                route("dead", Match("dead.internal"), app),
                route("wild", Match("*.wild.internal"), other),
                route("base", Match("", 0, "/base"), app, base_path="/v1", strip_prefix=True),
            ),
            sessions=(Cookie("sidecar_session"), SessionHeader("X-Session-Id")),
            tunnels=(Tunnel("tunnel.internal", 443),),
            unmatched="forward",
            limits=Limits(head_timeout=3.0, idle_timeout=3.0, replay_memory=4 * KIB),
        )
