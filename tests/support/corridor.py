"""The proxy in this process, on loopback, on an event loop of its own: asyncio's or uvloop.

Everything from the listening socket to the upstream's is the real thing; only the broker is a stand-in that follows a
script, since no authorization server is wanted here. `cut` makes every read arrive in pieces, in both directions, as a
network may deliver it: byte by byte, or split at one place.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, TypeVar, cast

import uvloop

from sidecar.callers.cookie import Cookie
from sidecar.callers.session_header import SessionHeader
from sidecar.credentials.broker import StillRejectedError
from sidecar.elsewhere import Elsewhere
from sidecar.errors import Refusal
from sidecar.headers import RequestRules, ResponseRules
from sidecar.lane import Lane, Shared
from sidecar.metrics import Metrics
from sidecar.model import APPLICATION, Origin, TokenKey, TokenSpec
from sidecar.proxy import Proxy
from sidecar.settings import KIB, Limits, Match, Replay, Route, Settings, Tls, Tunnel, UpstreamTimeout
from sidecar.wire.capacity import bound_unsent
from sidecar.wire.context import Wire
from sidecar.wire.dial import Dialler
from sidecar.wire.downstream import Downstream
from sidecar.wire.pool import Pool
from tests.support.raw import Raw
from tests.support.recording_upstream import RecordingUpstream

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from sidecar.credentials.broker import Broker

T = TypeVar("T")
LoopKind = Literal["asyncio", "uvloop"]
Cut = Callable[[bytes], Iterable[bytes]]

TOKEN = b"token-of-"
SESSION_COOKIE = "sidecar_session"
SESSION_HEADER = "X-Session-Id"
LIMITS = Limits(head_timeout=3.0, idle_timeout=3.0)
TIMEOUT = UpstreamTimeout(connect=1.0, response=1.0, idle=1.0)
REPLAY_LIMIT = 4 * KIB


class StubCredential:
    """What the wire looks at in a credential."""

    def __init__(self, token: bytes, *, suspect: bool) -> None:
        self.token = token
        self.suspect = suspect


class StubBroker:
    """`token-of-IDENTITY-N`, where N counts the renewals.

    Identities that begin with "cold" have to be waited for, those with "gone" have no session, those with "stuck" get no
    token after a rejection, and those with "cold-deaf" get theirs although nobody wants it any more.
    """

    def __init__(self) -> None:
        self.delay = 0.01
        self.obtained: Counter[str] = Counter()
        self.held: dict[TokenKey, StubCredential] = {}
        self.serial: Counter[TokenKey] = Counter()

    def attend(self, _key: TokenKey, _opened: object) -> None:
        """Tunnels of this stub's sessions are not closed."""

    def ready(self, key: TokenKey, _now: float) -> StubCredential | None:
        if key not in self.held and not key.identity.startswith(("cold", "gone")):
            self._mint(key)
        return self.held.get(key)

    async def obtain(self, key: TokenKey, rejected: StubCredential | None = None) -> StubCredential:
        self.obtained[key.identity] += 1
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            if not key.identity.startswith("cold-deaf"):
                raise
        if key.identity.startswith("gone"):
            raise Refusal("login_required", "The session has ended.")
        if rejected is not None and key.identity.startswith("stuck"):
            raise StillRejectedError
        held = self.held.get(key)
        return held if held is not None and held is not rejected else self._mint(key)

    def accepted(self, credential: StubCredential) -> None:
        credential.suspect = False

    def _mint(self, key: TokenKey) -> StubCredential:
        self.serial[key] += 1
        name = "app" if key.identity == APPLICATION else key.identity
        token = TOKEN + f"{name}-{self.serial[key]}".encode()
        made = self.held[key] = StubCredential(token, suspect=self.serial[key] > 1)
        return made


class UpstreamTls(NamedTuple):
    """How the upstream shows itself, and what the proxy believes."""

    server: ssl.SSLContext
    client: Tls


class Corridor:
    """The proxy under test with its recording upstream. `faults` is what the event loop was told of."""

    def __init__(
        self,
        kind: LoopKind = "uvloop",
        *,
        limits: Limits = LIMITS,
        timeout: UpstreamTimeout = TIMEOUT,
        unmatched: Literal["refuse", "forward"] = "refuse",
        routes: tuple[Route, ...] = (),
        tls: UpstreamTls | None = None,
    ) -> None:
        self.kind = kind
        self.port = 0
        self.cut: Cut | None = None
        self.broker = StubBroker()
        self.upstream = RecordingUpstream()
        self.faults: list[dict[str, Any]] = []
        self.metrics = Metrics()
        self.wire: Wire
        self._limits = limits
        self._timeout = timeout
        self._unmatched = unmatched
        self._more_routes = routes
        self._pools: list[Pool] = []
        self.tunnels: tuple[Tunnel, ...] = ()
        self.tls = tls
        self._loop = uvloop.new_event_loop() if kind == "uvloop" else asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    # -- life ---------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._loop.set_exception_handler(lambda _loop, context: self.faults.append(context))
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_error: object) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> None:
        await self.upstream.start(self.tls.server if self.tls else None)
        self.wire = Wire(self._loop, self._limits)
        self._server = await self._loop.create_server(
            lambda: _Cut(Downstream(self.wire, None), self), "127.0.0.1", 0, backlog=1024
        )
        bound_unsent(self._server.sockets[0])
        self.port = self._server.sockets[0].getsockname()[1]
        self.wire.configure(self._limits, self._proxy())

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self.wire.deadlines.stop()
        for downstream in list(self.wire.downstreams):
            downstream.abort()
        self._close_pools()
        await self.upstream.stop()
        await asyncio.sleep(0.02)

    # -- the tests' side ----------------------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, T], within: float = 10.0) -> T:
        """Run a coroutine on the proxy's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within)

    def do(self, work: Callable[[], T]) -> T:
        """Call a function on the proxy's loop."""

        async def call() -> T:
            return work()

        return self.run(call())

    def settle(self) -> None:
        """Wait until what has been sent has been seen: a few rounds of the loop."""

        async def rounds() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.run(rounds())

    def fresh(self) -> None:
        """Begin a test: nothing recorded, nothing to be played, no upstream connection open."""

        def reset() -> None:
            self._close_pools()
            self.upstream.reset()
            self.faults.clear()
            self.broker.held.clear()
            self.broker.serial.clear()
            self.broker.obtained.clear()
            self.broker.delay = 0.01
            self.cut = None

        self.do(reset)
        self.settle()

    def client(self, **how: Any) -> Raw:
        """Connect to the proxy."""
        return Raw(self.port, **how)

    @contextmanager
    def unix_client(self, path: Path) -> Iterator[socket.socket]:
        """Connect to the proxy by a unix socket."""
        server = self.run(self._loop.create_unix_server(lambda: _Cut(Downstream(self.wire, None), self), path))
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(5)
                client.connect(str(path))
                yield client
        finally:
            self.do(server.close)

    def streams(self) -> list[bytes]:
        """Return the bytes that each upstream connection saw since `fresh`."""
        self.settle()
        return self.do(self.upstream.streams)

    def until(self, condition: Callable[[], bool], within: float = 3.0) -> bool:
        """Wait until a condition holds, asked on the proxy's loop."""
        end = time.monotonic() + within
        while not self.do(condition):
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    # -- inside -------------------------------------------------------------------------------------------------

    def _close_pools(self) -> None:
        for pool in self._pools:
            pool.close()

    def reload(self, *sessions: Cookie | SessionHeader) -> None:
        """Let new requests in by a configuration with other sources of sessions; those under way keep theirs."""
        self.do(lambda: self.wire.configure(self._limits, self._proxy(sessions)))

    def _proxy(
        self, sessions: tuple[Cookie | SessionHeader, ...] = (Cookie(SESSION_COOKIE), SessionHeader(SESSION_HEADER))
    ) -> Proxy:
        settings = Settings(
            routes=self._routes(),
            sessions=sessions,
            tunnels=(Tunnel("127.0.0.1", self.upstream.port), *self.tunnels),
            unmatched=self._unmatched,
            limits=self._limits,
        )
        carriers = frozenset[bytes]().union(*(kind.carriers for kind in settings.sessions))
        cookies = frozenset[bytes]().union(*(kind.cookies for kind in settings.sessions))
        dialler = Dialler(deny_private=False, own=[("127.0.0.1", self.port)])
        broker = cast("Broker", self.broker)
        shared = Shared((), settings.sessions, broker, ResponseRules(carriers, cookies), None)
        lanes = [self._lane(route, shared, dialler, carriers, cookies) for route in settings.routes]
        plain = RequestRules(carriers, cookies)
        return Proxy(lanes, Elsewhere(settings, shared, plain, self.metrics, self.wire, dialler))

    def _routes(self) -> tuple[Route, ...]:
        here = Origin("https" if self.tls else "http", "127.0.0.1", self.upstream.port)
        app = TokenSpec("idp", "issuer", "client", "client_credentials")
        user = TokenSpec("idp", "issuer", "client", "session")
        replay = Replay(body_limit=REPLAY_LIMIT)
        always = Replay(body_limit=REPLAY_LIMIT, unsafe="always")
        dead = Origin("http", "127.0.0.1", 1)
        return (
            *self._more_routes,
            Route("app", Match("app.internal"), here, "app", spec=app, timeout=self._timeout, replay=replay),
            Route("user", Match("user.internal"), here, "user", spec=user, timeout=self._timeout, replay=replay),
            Route("always", Match("always.internal"), here, "app", spec=app, timeout=self._timeout, replay=always),
            Route("none", Match("none.internal"), here, "none", timeout=self._timeout),
            Route("wild", Match("*.wild.internal"), here, "app", spec=app, timeout=self._timeout),
            Route("dead", Match("dead.internal"), dead, "app", spec=app, timeout=self._timeout),
            Route("api", Match("paths.internal", 0, "/api"), here, "app", spec=app, timeout=self._timeout),
            Route(
                "base", Match("", 0, "/base"), here, "app", base_path="/v1", strip_prefix=True, spec=app,
                timeout=self._timeout,
            ),
        )  # fmt: skip

    def _lane(
        self, route: Route, shared: Shared, dialler: Dialler, carriers: frozenset[bytes], cookies: frozenset[bytes]
    ) -> Lane:
        cutting = cast("Dialler", _CutDialler(dialler, self))
        tls = self.tls.client if self.tls else None
        pool = Pool(self.wire, cutting, route.upstream, tls=tls, connect_timeout=route.timeout.connect)
        self._pools.append(pool)
        dropped = carriers | ({b"authorization", b"dpop"} if route.as_ != "none" else frozenset())
        return Lane(route, shared, pool, RequestRules(dropped, cookies), self.metrics.route(route.name))


class _Cut(asyncio.Protocol):
    """Hands on what the network delivered in the pieces that the test wants."""

    def __init__(self, inner: Any, corridor: Corridor) -> None:
        self.inner = inner
        self._corridor = corridor
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        for piece in self._pieces(data):
            if self._transport.is_closing():
                return
            protocol = cast("asyncio.Protocol", self._transport.get_protocol())
            if protocol is self:
                self.inner.data_received(piece)
            else:  # a tunnel since the last piece
                protocol.data_received(piece)

    def eof_received(self) -> bool | None:
        return cast("bool | None", self.inner.eof_received())

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)

    def _pieces(self, data: bytes) -> Iterable[bytes]:
        cut = self._corridor.cut
        return (data,) if cut is None else cut(data)


class _CutDialler:
    """Dials as the sidecar does."""

    def __init__(self, dialler: Dialler, corridor: Corridor) -> None:
        self._dialler = dialler
        self._corridor = corridor

    async def dial(self, factory: Callable[[], Any], origin: Origin, **how: Any) -> Any:
        return (await self._dialler.dial(lambda: _Cut(factory(), self._corridor), origin, **how)).inner


def bytewise(data: bytes) -> Iterator[bytes]:
    """Cut into single bytes."""
    return (data[at : at + 1] for at in range(len(data)))


def cut_at(place: int) -> Cut:
    """Cut everything that is long enough at one place."""
    return lambda data: (data[:place], data[place:]) if 0 < place < len(data) else (data,)


@contextmanager
def corridors(**how: Any) -> Iterator[dict[str, Corridor]]:
    """Run one corridor on each kind of event loop."""
    with Corridor("asyncio", **how) as plain, Corridor("uvloop", **how) as fast:
        yield {"asyncio": plain, "uvloop": fast}
