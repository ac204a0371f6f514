"""What every proxy of a run is given: the upstream, the token endpoint, the tokens, the sessions. Values only."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.places import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

APP_HOST = "stats.internal"
USER_HOST = "profiles.internal"
SCOPE = "bench.read"
CLIENT_ID = "bench-client"
CLIENT_SECRET = "bench-client-secret"
TLS_NAME = "localhost"
VARIED = 10_000  # different requests; more than anybody should remember
TOKEN_LENGTH = 700  # about what a signed JWT access token takes
REFRESH_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in user: the identifier in the cookie and the token that must reach the upstream for it."""

    id: str
    token: str


@dataclass(frozen=True, slots=True)
class Scene:
    """Ports are on 127.0.0.1. `ca` is the bundle that signs the upstream's certificate for `localhost`.

    `cpus` are those that proxies must run on; none given: any.
    """

    directory: Path
    upstream_port: int
    tls: bool
    ca: Path
    token_url: str
    app_token: str
    sessions: tuple[Session, ...]
    cpus: frozenset[int] = frozenset()

    @property
    def upstream(self) -> str:
        return f"{'https' if self.tls else 'http'}://{LOOPBACK}:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the load: Host, path with query, the Cookie header, and the request's own identifier, if any."""

    host: str
    path: str
    cookie: str
    id: str = ""

    def headers(self) -> Mapping[str, str]:
        same = {"Host": self.host, "Cookie": self.cookie, "User-Agent": "legacy-app/1.0", "Accept": "application/json"}
        return same | ({"X-Request-Id": self.id} if self.id else {})


def make_token(owner: str, length: int = TOKEN_LENGTH) -> str:
    """An opaque token of the length of a JWT that names its owner; the upstream accepts this form only."""
    head = f"bench-{owner}."
    return head + secrets.token_hex(length)[: length - len(head)]


def make_sessions(count: int) -> tuple[Session, ...]:
    return tuple(Session(secrets.token_urlsafe(32), make_token(f"user-{number}")) for number in range(count))


def requests_for(host: str, path: str, sessions: Sequence[Session]) -> tuple[Request, ...]:
    """The same request once for each session; the session cookie stands between two others."""
    return tuple(Request(host, path, f"theme=dark; sidecar_session={item.id}; lang=en") for item in sessions)


def varied(requests: Sequence[Request]) -> tuple[Request, ...]:
    """These requests again and again, no two with the same header section (`/varied/…` answers likewise).

    Clients that trace their requests send such; without it, a proxy that remembers whole heads would be measured at
    what it remembers.
    """
    repeated = itertools.islice(itertools.cycle(requests), max(VARIED, len(requests)))
    return tuple(replace(one, id=secrets.token_hex(16)) for one in repeated)
