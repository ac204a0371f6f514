"""One running program: its parts, put together at the start, exchanged at a reload, ended in reverse order.

Decides about no request. A reload is prepared whole before anything of it is in use; what is under way ends as it
began.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

import structlog

from sidecar import config, listening, logs, observing, strain
from sidecar.accepting import Acceptors
from sidecar.admin.server import make_application
from sidecar.assembly import Corridor, assemble, specs
from sidecar.config import apart
from sidecar.config.contents import digest
from sidecar.config.watch import changes
from sidecar.credentials.broker import Broker
from sidecar.credentials.sessions import Life
from sidecar.credentials.vault import Vault, key_ring, load_pepper
from sidecar.errors import StoreUnavailableError
from sidecar.metrics import Metrics, Readers
from sidecar.reloading import Prepared, providers_of, refuse_fixed
from sidecar.stores import open_store, sqlite  # noqa: F401 - the usual one, loaded while the configuration is read
from sidecar.wire.context import Wire
from sidecar.wire.service import serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from contextlib import AsyncExitStack

    from sidecar.admin.state import AdminState
    from sidecar.listening import Doors
    from sidecar.login.state import LoginState
    from sidecar.provider import AuthorizationServer
    from sidecar.settings import Address, Settings

_log = structlog.get_logger()

FLIGHTS = 4.0  # seconds more for token requests under way, and for what they bring to be stored


class Program:
    """Everything that lives as long as the process. `app.serve` makes it.

    `doors` are sockets that others share, of which it is worker number `worker`; None: it listens by itself.
    `observe` makes the admin listener's view of it.
    """

    def __init__(
        self,
        settings: Settings,
        path: str,
        clock: Callable[[], float],
        doors: Doors | None = None,
        worker: int = 0,
        observe: Callable[[Program], AdminState] = observing.admin_state,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.path = path
        strain.prepare(settings.limits)
        self.wire = Wire(asyncio.get_running_loop(), settings.limits)
        strain.attend(self.wire)
        self.metrics = Metrics(clock)
        self.wire.refused = self.metrics.refused
        self.store = open_store(settings.store.url.reveal())
        self.providers = providers_of(settings, {}, {}, clock)
        self.stopped = asyncio.Event()
        self.error = ""
        self._doors = doors
        self._worker = worker
        self._observe = observe
        self._login_state: LoginState | None = None
        self._corridor: Corridor | None = None
        self._retired: list[AuthorizationServer] = []
        self._reloading = asyncio.Lock()
        self.watched = settings.files  # and those of a configuration that was refused: they may mend it
        self._seen = settings.seen  # what they held when they were read
        self._drained_by = 0.0  # time.monotonic()

    _acceptors: Acceptors
    _vault: Vault
    broker: Broker
    admin_state: AdminState

    @property
    def doors(self) -> Doors:
        """Where the program listens."""
        assert self._doors is not None  # noqa: S101 - it is open
        return self._doors

    @property
    def proxy_port(self) -> int:
        """The port of the first TCP listener."""
        return next(door.address.port for door in self.doors.listeners if door.address.port)

    @property
    def admin_port(self) -> int:
        """The port of the admin listener, 0 where it is a unix socket."""
        return self.doors.admin.address.port

    @property
    def addresses(self) -> list[Address]:
        """Where the program listens: its listeners, and last the admin listener."""
        return [*(door.address for door in self.doors.listeners), self.doors.admin.address]

    @property
    def login_address(self) -> Address | None:
        """Where the sign-in listener is."""
        return self.doors.login.address if self.doors.login else None

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything; `stack` ends it in reverse order."""
        stack.push_async_callback(self.store.close)
        await self._ask_store(self.store.ping)
        vault = self._vault = Vault(await key_ring(self.settings.store, self.store))
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
            sessions=lambda: int(self.broker.figures()["now"]["sessions"]),
            credentials=self.broker.figures,
            sign_ins=lambda: self._login_state.results if self._login_state else {},
            unreplicated=lambda: int(getattr(self.store, "unreplicated", 0)),
        )
        self.metrics.reloaded(True)
        await self._open_doors(stack, vault)
        self._take(self.settings)

    async def _open_doors(self, stack: AsyncExitStack, vault: Vault) -> None:
        if self._doors is None:
            self._doors = listening.opened(self.settings)
            stack.callback(self._doors.remove)
        stack.callback(self._doors.close)
        self._acceptors = Acceptors(self.wire, self._doors.listeners, [one.app for one in self.settings.listeners])
        await self.listen_as([self._worker])
        self.admin_state = self._observe(self)
        await stack.enter_async_context(serving(make_application(self.admin_state), self._doors.admin.of(0)))
        await self._open_login(stack, vault)

    async def _open_login(self, stack: AsyncExitStack, vault: Vault) -> None:
        login = self.settings.login
        if login is None or self.doors.login is None:
            return
        from sidecar.login.application import make_application as sign_in  # noqa: PLC0415 - joserfc takes 150 ms
        from sidecar.login.serving import serving as signing_in  # noqa: PLC0415
        from sidecar.login.state import LoginState  # noqa: PLC0415

        registered, sessions = self.settings.providers, self.broker.sessions
        state = LoginState(login, self.providers, registered, self.broker.sign_ins, sessions, vault, self.clock)
        await stack.enter_async_context(signing_in(sign_in(state), self.doors.login.of(0)))
        self._login_state = state

    async def _ask_store(self, question: Callable[[], Awaitable[object]]) -> None:
        """A store that is away may come back; one that is broken, or of another key, stops the start."""
        with contextlib.suppress(StoreUnavailableError):
            await question()

    async def listen_as(self, workers: Collection[int]) -> None:
        """Accept for these workers."""
        await self._acceptors.listen_as(workers)

    # -- configuration ------------------------------------------------------------------------------------------

    def _take(self, settings: Settings) -> None:
        own = [door.address for door in self.doors.all]
        corridor = assemble(
            settings, self.wire, self.broker, self.metrics, observing.access, observing.refused, own, self.clock
        )
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
            try:
                new = await _read_apart(self.path, environ)
                prepared = self.prepare(new)
            except (config.ConfigError, OSError, ValueError) as error:
                self.reject(str(error), error.files if isinstance(error, config.ConfigError) else {})
                _log.error("configuration_rejected", file=self.path, error=self.error)
                return False
            changed = config.changed_routes(self.settings, new)
            self.commit(prepared)
            _log.info("configuration_reloaded", file=self.path, changed=list(changed))
            observing.warned(new)
            return True

    def prepare(self, new: Settings) -> Prepared:
        """Return what is needed to take `new`; raise OSError or ValueError where it cannot be taken."""
        refuse_fixed(self.settings, new)
        if new.store.keys:
            self._vault.check(new.store.keys)
        strain.prepare(new.limits)
        return Prepared(new, providers_of(new, self.providers, self.settings.providers, self.clock))

    def commit(self, prepared: Prepared) -> None:
        """Take a configuration for all requests to come."""
        settings, providers = prepared
        self._retired = [former for former in self._retired if not former.at_rest]  # TLS contexts are a megabyte each
        self._retired += [old for name, old in self.providers.items() if providers.get(name) is not old]
        self.providers = providers
        if settings.store.keys:
            self._vault.adopt(settings.store.keys)
        self.broker.reconfigure(specs(settings), providers)
        if settings.limits != self.settings.limits:
            strain.tell_limited(settings.limits)
        self._take(settings)
        self.admin_state.providers = tuple(settings.providers)
        self.admin_state.token = settings.admin.token
        self.error, self.watched, self._seen = "", settings.files, settings.seen
        self.metrics.reloaded(True)

    def reject(self, error: str, files: Mapping[str, str]) -> None:
        """Keep the configuration in use, and show why: `error` holds no secret. `files`: as in `ConfigError`."""
        self.error = error
        self.watched = tuple(dict.fromkeys((*self.settings.files, *files)))
        self._seen = digest(self.watched, files)
        self.metrics.reloaded(False)

    async def watch(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Call `changed` whenever the files of the configuration in use change, or of one refused since."""
        while True:
            before = self.watched, self._seen
            async for _ in changes(*before):
                async with self._reloading:  # a signal may be having it read already
                    read = digest(self.watched) == self._seen
                if not read:
                    await changed()
                if (self.watched, self._seen) != before:
                    break

    # -- the end ------------------------------------------------------------------------------------------------

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let what is under way end, break off what has not ended after `seconds`."""
        self.wire.draining = True
        self._drained_by = time.monotonic() + seconds
        self._acceptors.close()
        for downstream in list(self.wire.downstreams):
            downstream.drain()
        until = time.monotonic() + seconds
        while self.wire.downstreams and time.monotonic() < until:  # noqa: ASYNC110 - thousands of ends, one look
            await asyncio.sleep(0.05)
        for downstream in list(self.wire.downstreams):
            downstream.abort()
        if self._corridor is not None:
            self._corridor.close()

    async def _land(self) -> None:
        """Let token requests end in what requests have left of the time: an answer may hold the only refresh token."""
        await self.broker.close(max(self._drained_by - time.monotonic(), 0.0) + FLIGHTS)

    async def _close_providers(self) -> None:
        for provider in [*self._retired, *self.providers.values()]:
            await provider.close()


async def _read_apart(path: str, environ: Mapping[str, str]) -> Settings:
    """Read the file while requests are served: thousands of routes take their time. OSError without a thread for it."""
    try:
        return await asyncio.to_thread(apart.load, path, environ)
    except RuntimeError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None
