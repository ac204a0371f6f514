"""Which route's token is bought where: the token specs of the configuration, each tied to its authorization server.

Decides only. What former configurations named stays known for the requests that are still on their way through them.
A refresh token is only ever looked up together with the issuer and client that it came from (`home`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from sidecar.credentials.session_record import home
from sidecar.grants import GRANTS, Grant

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from sidecar.gate import Urgency
    from sidecar.model import Form, Outcome, Secret, TokenSpec, Unavailable


class AuthorizationServer(Protocol):
    """What is asked of `provider.AuthorizationServer`. Neither method raises."""

    async def token(
        self,
        form: Form,
        *,
        asked: frozenset[str],
        late: Callable[[asyncio.Task[Outcome]], None] | None = None,
        urgency: Urgency | None = None,
        wanted: Callable[[], bool] | None = None,
    ) -> Outcome:
        """Send a token request for the scope `asked`; `late` is given the answer that comes after the timeout.

        `wanted` is asked in the moment of sending; where it says no, nothing is sent and the outcome is unavailable.
        """

    def turned_away(self, *, urgent: bool) -> Unavailable | None:
        """Return what any token request would be told at once; see `provider.AuthorizationServer`."""

    def resting(self) -> float:
        """Return the seconds for which no token request is sent, after failures."""

    async def revoke(self, token: Secret, hint: str) -> bool:
        """Ask for the revocation of a token (RFC 7009)."""


FORMER = 1000
"""Specs of configurations before the last one that are kept for requests on their way: answers take their time."""


class Bound(NamedTuple):
    """A token spec with all that is needed to buy its token."""

    spec: TokenSpec
    grant: Grant
    server: AuthorizationServer
    home: str

    @property
    def for_user(self) -> bool:
        """Say whether the token belongs to a session, not to the application."""
        return self.grant.AS == "user"


class Registry:
    """The specs by fingerprint and the servers by provider and home, of this configuration and of those before."""

    def __init__(self, specs: Mapping[str, TokenSpec], providers: Mapping[str, AuthorizationServer]) -> None:
        self._current: dict[str, Bound] = {}
        self._known: dict[str, Bound] = {}
        self._homes: dict[str, str] = {}
        self._servers: dict[tuple[str, str], AuthorizationServer] = {}
        self.reconfigure(specs, providers)

    def reconfigure(self, specs: Mapping[str, TokenSpec], providers: Mapping[str, AuthorizationServer]) -> None:
        """Take a new configuration; `KeyError` where a spec names no provider or grant, and nothing changes."""
        new = {
            fingerprint: Bound(spec, GRANTS[spec.grant], providers[spec.provider], home(spec))
            for fingerprint, spec in specs.items()
        }
        self._homes = {bound.spec.provider: bound.home for bound in new.values()}
        former = [self._today(bound, providers) for found, bound in self._known.items() if found not in new]
        kept = former[-max(FORMER, len(self._current)) :]
        self._known = {**{bound.spec.fingerprint: bound for bound in kept}, **new}
        self._current = new
        self._servers = {(bound.spec.provider, bound.home): bound.server for bound in self._known.values()}

    def _today(self, bound: Bound, providers: Mapping[str, AuthorizationServer]) -> Bound:
        """Return a former spec with the server as it is configured now: nothing more goes to where it was before."""
        name = bound.spec.provider
        return bound._replace(server=providers[name]) if self._homes.get(name) == bound.home else bound

    def bound(self, fingerprint: str) -> Bound | None:
        """Return the spec with this fingerprint."""
        return self._known.get(fingerprint)

    def resting(self, provider: str) -> bool:
        """Say whether the server of a provider takes no token requests just now, or is gone from the configuration."""
        home = self._homes.get(provider)
        server = self._servers.get((provider, home)) if home is not None else None
        return server is None or server.resting() > 0

    def home(self, provider: str) -> str | None:
        """Return the issuer and client of a provider; None where no route uses it."""
        return self._homes.get(provider)

    def server(self, provider: str, chain_home: str) -> AuthorizationServer | None:
        """Return the server that issued a chain; None where the configuration has another by now."""
        return self._servers.get((provider, chain_home))
