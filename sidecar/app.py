"""The composition root: from a configuration to a running program, and from a signal to its end.

The only place that knows all parts. Start-up needs neither provider nor store to be there (a store that is there and
broken refuses to start). A reload swaps the corridor for new requests, all or nothing; what is under way ends as it
began.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import signal
import socket
import time
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from sidecar import config, logs, status
from sidecar.admin.prometheus import exposition
from sidecar.admin.server import make_application
from sidecar.admin.state import AdminState
from sidecar.assembly import Corridor, assemble, specs
from sidecar.config import apart
from sidecar.config.watch import changes, digest
from sidecar.credentials.broker import Broker
from sidecar.credentials.sessions import Life
from sidecar.credentials.vault import Vault, key_ring, load_pepper
from sidecar.errors import StoreUnavailableError
from sidecar.explain import explain as explain  # noqa: PLC0414 - the command line asks for it here
from sidecar.lane import request_id
from sidecar.metrics import Metrics, Readers
from sidecar.provider import AuthorizationServer
from sidecar.settings import Address, Settings
from sidecar.stores import open_store
from sidecar.wire.context import Wire
from sidecar.wire.downstream import Downstream
from sidecar.wire.service import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from sidecar.errors import Refusal
    from sidecar.login.state import LoginState
    from sidecar.wire.exchange import Exchange

_log = structlog.get_logger()

DRAIN = 25.0  # seconds for requests under way: less than the 30 that Kubernetes and the like wait before they kill
FLIGHTS = 4.0  # seconds more for token requests under way, and for what they bring to be stored
BACKLOG = 1024
_FIXED = ("listeners", "admin", "store")  # parts of the configuration that are bound once


class Program:
    """Everything that lives as long as the process. `serve` makes it."""

    def __init__(self, settings: Settings, path: str, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock
        self.path = path
        self.wire = Wire(asyncio.get_running_loop(), settings.limits)
        self.metrics = Metrics(clock)
        self.wire.refused = self.metrics.refused
        self.store = open_store(settings.store.url.reveal())
        self.providers = _providers(settings, {}, {}, clock)
        self.stopped = asyncio.Event()
        self.error = ""
        self._addresses: list[Address] = []
        self._own: list[Address] = []
        self._login_addresses: list[Address] = []
        self._login_state: LoginState | None = None
        self._servers: list[asyncio.AbstractServer] = []
        self._corridor: Corridor | None = None
        self._retired: list[AuthorizationServer] = []
        self._reloading = asyncio.Lock()
        self._drained_by = 0.0  # time.monotonic()

    @property
    def proxy_port(self) -> int:
        """The port of the first TCP listener."""
        return next(address.port for address in self._addresses if address.port)

    @property
    def addresses(self) -> list[Address]:
        """Where the program listens: its listeners, and last the admin listener."""
        return [*self._addresses, self._own[-1]]

    @property
    def login_address(self) -> Address | None:
        """Where the sign-in listener is."""
        return next(iter(self._login_addresses), None)

    admin_port = 0
    broker: Broker

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything; `stack` ends it in reverse order."""
        stack.push_async_callback(self.store.close)
        await self._ask_store(self.store.ping)
        vault = Vault(await key_ring(self.settings.store, self.store))
        local = self.settings.store.on_outage == "local"
        self.broker = Broker(specs(self.settings), self.providers, self.store, vault, clock=self.clock, local=local)
        stack.push_async_callback(self._close_providers)
        stack.push_async_callback(self._land)
        stack.callback(self.wire.deadlines.stop)
        await self._ask_store(lambda: load_pepper(self.store, vault))
        self.metrics.read = Readers(
            token_requests=lambda: {name: provider.requests for name, provider in self.providers.items()},
            upstream_connections=lambda: self.wire.upstreams,
            log_lines_dropped=logs.dropped,
        )
        self.metrics.reloaded(True)
        for listener in self.settings.listeners:
            await self._listen(listener.bind, listener.app)
        with _naming(self.settings.admin.bind):
            admin = await stack.enter_async_context(serving(make_application(self._admin()), self.settings.admin.bind))
        self.admin_port = admin.port
        await self._open_login(stack, vault)
        self._own = [*self._addresses, *self._login_addresses, admin]
        self._take(self.settings, self._own)

    async def _open_login(self, stack: AsyncExitStack, vault: Vault) -> None:
        login = self.settings.login
        if login is None:
            return
        from sidecar.login.application import make_application as sign_in  # noqa: PLC0415 - joserfc takes 150 ms
        from sidecar.login.serving import serving as signing_in  # noqa: PLC0415
        from sidecar.login.state import LoginState  # noqa: PLC0415

        registered, sessions = self.settings.providers, self.broker.sessions
        state = LoginState(login, self.providers, registered, self.broker.sign_ins, sessions, vault, self.clock)
        with _naming(login.bind):
            self._login_addresses = [await stack.enter_async_context(signing_in(sign_in(state), login.bind))]
        self._login_state = state

    async def _ask_store(self, question: Callable[[], Awaitable[object]]) -> None:
        """A store that is away may come back; one that is broken, or of another key, stops the start."""
        with contextlib.suppress(StoreUnavailableError):
            await question()

    async def _listen(self, bind: Address, app: str | None) -> None:
        loop = asyncio.get_running_loop()
        with _naming(bind):
            sock = _bind(bind)
        server = await loop.create_server(lambda: Downstream(self.wire, app), sock=sock, backlog=BACKLOG) if not (
            bind.path) else await loop.create_unix_server(
            lambda: Downstream(self.wire, app), sock=sock, backlog=BACKLOG)  # fmt: skip
        self._servers.append(server)
        self._addresses.append(bind if bind.path else Address(bind.host, sock.getsockname()[1]))

    # -- configuration ------------------------------------------------------------------------------------------

    def _take(self, settings: Settings, own: list[Address]) -> None:
        corridor = assemble(settings, self.wire, self.broker, self.metrics, _access, _refused, own, self.clock)
        old, self._corridor = self._corridor, corridor
        self.settings = settings
        self.broker.sessions.life = Life(settings.session_life.idle, settings.session_life.absolute)
        if self._login_state is not None and settings.login is not None:
            self._login_state.configure(settings.login, self.providers, settings.providers)
        self.wire.configure(settings.limits, corridor.proxy)
        self.metrics.retain([route.name for route in settings.routes])
        if old is not None:
            old.close()

    async def reload(self, environ: Mapping[str, str]) -> bool:
        """Read the file again and take it, whole; on any error keep what is in use and say so."""
        async with self._reloading:
            return await self._reload(environ)

    async def _reload(self, environ: Mapping[str, str]) -> bool:
        try:
            new = await asyncio.to_thread(apart.load, self.path, environ)  # thousands of routes take their time
            fixed = [name for name in _FIXED if getattr(new, name) != getattr(self.settings, name)]
            fixed += ["login.bind"] * (_login_bind(new) != _login_bind(self.settings))
            if fixed:
                raise ValueError(f"{', '.join(fixed)} cannot change while running: restart")  # noqa: TRY301
            providers = _providers(new, self.providers, self.settings.providers, self.clock)
        except (config.ConfigError, OSError, ValueError) as error:
            self.error = str(error)
            self.metrics.reloaded(False)
            _log.error("configuration_rejected", file=self.path, error=self.error)
            return False
        changed = config.changed_routes(self.settings, new)
        self._retired += [old for name, old in self.providers.items() if providers.get(name) is not old]
        self.providers = providers
        self.broker.reconfigure(specs(new), providers)
        self._take(new, self._own)
        self.admin_state.providers = tuple(new.providers)
        self.error = ""
        self.metrics.reloaded(True)
        _log.info("configuration_reloaded", file=self.path, changed=list(changed))
        return True

    async def watch(self, environ: Mapping[str, str]) -> None:
        """Reload whenever the files change."""
        while True:
            files = self.settings.files
            async for _ in changes(files, digest(files)):
                await self.reload(environ)
                if self.settings.files != files:
                    break

    # -- the end ------------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let what is under way end, break off what has not ended after `seconds`."""
        self.wire.draining = True
        self._drained_by = time.monotonic() + seconds
        for server in self._servers:
            server.close()
        for downstream in list(self.wire.downstreams):
            downstream.drain()
        until = time.monotonic() + seconds
        while self.wire.downstreams and time.monotonic() < until:  # noqa: ASYNC110 - thousands of ends, one look
            await asyncio.sleep(0.05)
        for downstream in list(self.wire.downstreams):
            downstream.abort()
        if self._corridor is not None:
            self._corridor.close()
        for address in self._addresses:
            if address.path:
                Path(address.path).unlink(missing_ok=True)  # noqa: ASYNC240 - the loop has nothing else to do

    async def _land(self) -> None:
        """Let token requests end in what requests have left of the time: an answer may hold the only refresh token."""
        await self.broker.close(max(self._drained_by - time.monotonic(), 0.0) + FLIGHTS)

    async def _close_providers(self) -> None:
        for provider in [*self._retired, *self.providers.values()]:
            await provider.close()

    # -- the admin listener's view ------------------------------------------------------------------------------

    def _admin(self) -> AdminState:
        show = exposition(self.metrics)

        def metrics_text() -> bytes:
            self.metrics.connections = len(self.wire.downstreams)
            self.metrics.connections_total = self.wire.accepted
            return show()

        self.admin_state = AdminState(
            sessions=self.broker.sessions,
            readiness=lambda: status.readiness(
                self.metrics, self.store, self.providers, self.broker, self.clock(), draining=self.wire.draining
            ),
            metrics_text=metrics_text,
            status=lambda: status.status(self.settings, self.path, self.error, self.metrics, self.providers),
            explain=self._explain,
            providers=tuple(self.settings.providers),
            token=self.settings.admin.token,
            quit=self.stopped.set if self.settings.admin.quit else None,
        )
        return self.admin_state

    def _explain(self, method: str, url: str, session: str | None, headers: list[tuple[str, str]]) -> dict[str, Any]:
        now = self.clock()
        return explain(self.settings, method, url, session, headers, lambda key: self.broker.peek(key, now))


def _login_bind(settings: Settings) -> Address | None:
    return settings.login.bind if settings.login else None


def _providers(
    settings: Settings,
    running: Mapping[str, AuthorizationServer],
    configured: Mapping[str, Any],
    clock: Callable[[], float],
) -> dict[str, AuthorizationServer]:
    """Return the authorization servers; those whose settings are the same go on, with what they know."""
    return {
        name: running[name]
        if name in running and configured[name] == one
        else AuthorizationServer(one, clock, random.random)
        for name, one in settings.providers.items()
    }


@contextlib.contextmanager
def _naming(address: Address) -> Iterator[None]:
    """Say which address cannot be listened on."""
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise OSError(error.errno, f"cannot listen on {address}: {reason}") from None


def _bind(address: Address) -> socket.socket:
    if not address.path:
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=BACKLOG)
    path = Path(address.path)
    if path.is_socket():
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(address.path)
    path.chmod(0o660)
    return sock


def _refused(exchange: Exchange, refusal: Refusal, route: str) -> None:
    """Write why a request was answered by us: the caller has the same request id in its problem document."""
    status = refusal.row.status
    tell = _log.warning if status >= HTTPStatus.INTERNAL_SERVER_ERROR else _log.info
    tell("refused", request_id=request_id(exchange), route=route, code=refusal.code, status=status)


def _access(exchange: Exchange, route: str, identifier: str) -> None:
    logs.access(
        request_id=identifier,
        method=exchange.head.method.decode("ascii"),
        path=exchange.target.path.decode("latin-1") if exchange.target else "",
        route=route,
        status=exchange.status,
        seconds=time.perf_counter() - exchange.began if exchange.began else 0.0,
    )


@asynccontextmanager
async def serve(settings: Settings, path: str = "", clock: Callable[[], float] = time.time) -> AsyncIterator[Program]:
    """Run the sidecar on the event loop that is running, until the context ends; then drain.

    `path` is the file for `reload`; `clock` gives seconds since the epoch.
    """
    async with AsyncExitStack() as stack:
        program = Program(settings, path, clock)
        await program.open(stack)
        try:
            yield program
        finally:
            await program.drain(0.5 if not path else DRAIN)


def run(path: Path, environ: Mapping[str, str], reading: apart.Reading) -> int:
    """Run the sidecar with the file at `path`, which `reading` reads, until SIGTERM or SIGINT; return the exit code.

    Raises `ConfigError`, `StoreBrokenError`, `SealError` and OSError where it cannot start.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold every token
    settings = reading.settings()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_until_signal(settings, str(path), environ))
    return 0


async def _until_signal(settings: Settings, path: str, environ: Mapping[str, str]) -> None:
    loop = asyncio.get_running_loop()
    async with serve(settings, path) as program:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stopping(program.stopped))
        loop.add_signal_handler(signal.SIGHUP, _reloading(program, environ))
        *listeners, admin = map(str, program.addresses)
        login = {"login": str(program.login_address)} if program.login_address else {}
        _log.info("started", listeners=listeners, admin=admin, **login, routes=len(settings.routes))
        for warning in settings.warnings:
            _log.warning("configuration_warning", warning=warning)
        _spare_the_collector()
        watcher = asyncio.create_task(program.watch(environ))
        await program.stopped.wait()
        watcher.cancel()
        _log.info("stopping")
    _log.info("stopped")


def _reloading(program: Program, environ: Mapping[str, str]) -> Callable[[], None]:
    tasks: set[asyncio.Task[bool]] = set()

    def signalled() -> None:
        task = asyncio.get_running_loop().create_task(program.reload(environ))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return signalled


def _spare_the_collector() -> None:
    """Keep what start-up made, which stays, out of every full collection: it would stop all requests for 30 ms.

    What requests leave behind is freed by its reference counts; cycles are few, so they are looked for less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 100)


def _stopping(stop: asyncio.Event) -> Callable[[], None]:
    def signalled() -> None:
        if stop.is_set():
            os._exit(1)  # asked twice: at once, and whatever is under way is lost
        stop.set()

    return signalled


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return uvloop's factory where there is a wheel for this platform; plain asyncio works too."""
    try:
        import uvloop  # noqa: PLC0415
    except ImportError:
        return None
    return uvloop.new_event_loop
