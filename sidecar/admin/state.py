"""What the admin listener may see and do: callables that the composition root fills in. No aiohttp here.

Every value that crosses this border is for showing: names, numbers and states, never a token, a secret or a session id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sidecar.model import Secret


class Check(NamedTuple):
    """The state of one dependency. `required` says whether requests can be served without it."""

    state: str  # "ok" | "unknown" | "failing" | "off"
    detail: str = ""
    required: bool = True


class Readiness(NamedTuple):
    """Whether traffic should be sent here, and why. `tokens_last`: seconds that every valid token still lasts."""

    ready: bool
    checks: Mapping[str, Check]  # "configuration", "store", "provider NAME"
    tokens_last: float | None = None


class RouteStatus(TypedDict):
    """One line of the status page's table of routes."""

    name: str
    match: str
    upstream: str
    as_: str
    provider: str
    scope: str
    requests: int
    refusals: int


class ProviderStatus(TypedDict):
    """One line of the status page's table of authorization servers."""

    name: str
    address: str
    state: str
    detail: str


class RefusalStatus(TypedDict):
    """One of the latest refusals, newest first. `at` is in seconds since the epoch."""

    at: float
    route: str
    code: str


class Status(TypedDict):
    """Everything that the status page shows. Times are seconds since the epoch."""

    started_at: float
    configuration: str  # the file's path
    configuration_error: str  # "" while the file is the configuration in use
    store: str
    sessions: int | None
    routes: list[RouteStatus]
    providers: list[ProviderStatus]
    refusals: list[RefusalStatus]


class Sessions(Protocol):
    """The sessions that applications hand over. Each method may raise `Refusal` and `StoreUnavailableError`.

    What the first three return is shown as JSON: a frozen dataclass or a NamedTuple of plain values.
    """

    async def put(self, session_id: str, provider: str, response: Mapping[str, Any]) -> Any:
        """Create or replace the session with the token response (RFC 6749 section 5.1)."""

    async def info(self, session_id: str) -> Any | None:
        """Return what is known about the session, None where there is none."""

    async def all(self, limit: int) -> Sequence[Any]:
        """Return at most `limit` sessions."""

    async def delete(self, session_id: str) -> bool:
        """Revoke and delete the session; say whether there was one."""


class Explain(Protocol):
    """Tells what would happen to a request, without sending it and without naming the token."""

    def __call__(
        self, method: str, url: str, session: str | None, headers: list[tuple[str, str]]
    ) -> dict[str, Any] | Awaitable[dict[str, Any]]:
        """Return route, caller, grant, scopes, cache state and what would be sent, as plain values."""


@dataclass(slots=True)
class AdminState:
    """The admin listener's view of the program. A reload may replace any member while it is running."""

    sessions: Sessions
    readiness: Callable[[], Readiness | Awaitable[Readiness]]
    metrics_text: Callable[[], bytes | Awaitable[bytes]]
    status: Callable[[], Status | Awaitable[Status]]
    explain: Explain
    providers: Sequence[str] = ()  # names of those configured: the only one is the default of PUT /v1/sessions/{id}
    token: Secret | None = None  # bearer of /v1/*; None is allowed on loopback and unix sockets only
    quit: Callable[[], None] | None = None  # POST /quit, where it is enabled
