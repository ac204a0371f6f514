"""A small, strict OAuth 2.0 and OpenID Connect authorization server on loopback, for the demo and for the tests.

Real HTTP, real signatures, real rotation with reuse detection; everything in memory. It puts the parts of `issuer/`
together and decides nothing itself. It hands tokens to whoever presses a button: never let it serve people.
RFC 6749, 7009, 7636, 7662, 8414, 8707, 9068, 9207.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from sidecar.demo.issuer import control, endpoints, sign_in
from sidecar.demo.issuer.ledger import Family, Grant
from sidecar.demo.issuer.parameters import scopes
from sidecar.demo.issuer.recording import recorder
from sidecar.demo.issuer.state import Policy, Received, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from sidecar.demo.issuer.clients import Client
    from sidecar.demo.issuer.faults import Faults


class AuthorizationServer:
    """One server. `faults` and `policy` may be changed at any time; `requests` is what it was asked so far.

    `clock` gives seconds since the epoch. Use `start` and `stop`, or `async with`. After `stop`, `start` serves the
    same issuer on the same port with everything it knew: an outage.
    """

    def __init__(self, clients: Iterable[Client] = (), *, clock: Callable[[], float] = time.time) -> None:
        self.state = State(clock=clock)
        self.state.clients.update((client.client_id, client) for client in clients)
        self._runner: web.AppRunner | None = None
        self._address = ("127.0.0.1", 0)

    @property
    def issuer(self) -> str:
        """The issuer identifier: `http://HOST:PORT`, known once the server was started."""
        return self.state.issuer

    @property
    def clients(self) -> dict[str, Client]:
        """The registrations by client id; add to it at any time."""
        return self.state.clients

    @property
    def faults(self) -> Faults:
        """The fault switches."""
        return self.state.faults

    @property
    def policy(self) -> Policy:
        """Token life, rotation, leeway and clock skew."""
        return self.state.policy

    @property
    def requests(self) -> list[Received]:
        """The finished requests in the order in which they were finished."""
        return self.state.requests

    def register(self, client: Client) -> None:
        """Add or replace a client."""
        self.state.clients[client.client_id] = client

    def token_requests(self, **members: object) -> list[Received]:
        """Return the requests to the token endpoint whose record has these values (`grant_type`, `subject`, …)."""
        asked = (record for record in self.requests if record.endpoint == "/token")
        return [record for record in asked if all(getattr(record, name) == value for name, value in members.items())]

    def issue(self, user: str, scope: str, client: str, audience: Iterable[str] = ()) -> dict[str, Any]:
        """Return a token response, refresh token included, as if `user` had just signed in to `client`."""
        grant = Grant(user, client, scopes(scope), tuple(audience), auth_time=self.state.clock())
        return self.state.token_response(grant, Family(grant), refresh=True)

    def revoke(self, subject: str = "all") -> int:
        """Make every access token issued so far to a subject worthless, its refresh tokens stay; return how many."""
        return self.state.ledger.revoke_access(subject)

    def kill(self, subject: str = "all") -> int:
        """End the refresh families of a subject with all their tokens; return how many."""
        return self.state.ledger.kill_families(subject)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen. Port 0 takes a free one the first time and the same one after that; OSError where it is taken."""
        application = web.Application(middlewares=[recorder(self.state)])
        for part in (endpoints, sign_in, control):
            application.add_routes(part.routes(self.state))
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
        await runner.setup()
        known = self._address[1] if host == self._address[0] else 0
        site = web.TCPSite(runner, host, port or known)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._address = runner, runner.addresses[0][:2]
        self.state.issuer = f"http://{self._address[0]}:{self._address[1]}"

    async def stop(self) -> None:
        """Stop listening and close every connection; what was issued is kept."""
        if self._runner:
            await self._runner.cleanup()
        self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self.stop()
