"""The configuration as the program uses it: frozen, complete, checked. `config/` makes it from the YAML file.

Units: seconds and bytes. Every default stands here once; the YAML schema, the documentation and the tests read it
from here. Holds no pydantic and no YAML: everything may import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sidecar.model import As, Origin, Secret, TokenSpec

if TYPE_CHECKING:
    from sidecar.callers import AppKind, SessionKind

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class Address:
    """A place to listen: `host` and `port`, or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"unix:{self.path}" if self.path else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for TLS as a client: own CA bundle, client certificate and key, and the name to verify."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    bind: Address
    app: str | None = None


@dataclass(frozen=True, slots=True)
class Admin:
    bind: Address = Address("127.0.0.1", 8081)
    token: Secret | None = None
    quit: bool = False  # whether POST /quit ends the program


@dataclass(frozen=True, slots=True)
class Login:
    """The sidecar's own sign-in. `public_url` is the origin that browsers see, without a trailing slash.

    `providers`: the first is the default. `return_to` are the URLs under which a browser may land afterwards, the first
    where none is asked for. `cookie` is the name in use, prefix included.
    """

    public_url: str
    providers: tuple[str, ...]
    cookie: str
    return_to: tuple[str, ...]
    scopes: tuple[str, ...] = ("openid",)
    bind: Address = Address("127.0.0.1", 8082)
    par: Literal["auto", "require", "never"] = "auto"
    params: tuple[tuple[str, str], ...] = ()
    resources: tuple[str, ...] = ()
    audience: str = ""
    per_second: int = 50  # sign-ins that may be begun

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by https."""
        return self.public_url.startswith("https:")

    @property
    def max_age(self) -> int | None:
        """The `max_age` of `params`: seconds before a sign-in in which the user may have proven who they are."""
        return next((int(value) for name, value in self.params if name == "max_age"), None)

    def url(self, provider: str | None) -> str | None:
        """Return where a browser signs in by `provider`; None where that one signs nobody in."""
        if provider not in self.providers:
            return None
        chosen = "" if provider == self.providers[0] else f"?provider={provider}"
        return f"{self.public_url}/oauth2/login{chosen}"


@dataclass(frozen=True, slots=True)
class SessionLife:
    """How long a session lives: after its last use, and after its sign-in."""

    idle: float = 7 * 86_400.0
    absolute: float = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    url: Secret = field(default_factory=lambda: Secret("sqlite:sidecar.db"))
    keys: tuple[Secret, ...] = ()  # newest first, each as `sidecar keygen` prints it
    on_outage: Literal["fail", "local"] = "fail"


@dataclass(frozen=True, slots=True)
class ProviderTimeout:
    connect: float = 2.0
    total: float = 10.0


@dataclass(frozen=True, slots=True)
class ProviderLimit:
    """How much of this process a provider gets to bear: requests at once, and in any second."""

    at_once: int = 64
    per_second: int = 100


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """An authorization server and our client registration there. `issuer` or `token_endpoint` is set."""

    name: str
    client_id: str
    issuer: str | None = None
    token_endpoint: str | None = None
    revocation_endpoint: str | None = None
    authorization_endpoint: str | None = None
    jwks_uri: str | None = None
    end_session_endpoint: str | None = None
    pushed_authorization_request_endpoint: str | None = None
    client_secret: Secret | None = None
    client_auth: str = "client_secret_basic"
    params: tuple[tuple[str, str], ...] = ()
    timeout: ProviderTimeout = ProviderTimeout()
    limit: ProviderLimit = ProviderLimit()
    tls: Tls | None = None
    insecure: bool = False  # http:// beyond loopback is allowed


@dataclass(frozen=True, slots=True)
class Replay:
    """What is sent again after a 401: bodies up to `body_limit` bytes; `unsafe` methods under a condition."""

    body_limit: int = 64 * KIB
    unsafe: Literal["invalid_token", "never", "always"] = "invalid_token"


@dataclass(frozen=True, slots=True)
class UpstreamTimeout:
    connect: float = 5.0
    response: float = 60.0  # from the end of the request to the response head
    idle: float = 300.0  # no byte in either direction of a body


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests a route takes. `host` is exact, `*.suffix` or "" for any; `port` 0 for any; `path` a prefix."""

    host: str = ""
    port: int = 0
    path: str = "/"
    methods: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Route:
    name: str
    match: Match
    upstream: Origin
    as_: As
    base_path: str = ""  # of the upstream URL, without a trailing slash
    strip_prefix: bool = False
    insecure: bool = False
    provider: str | None = None
    grant: str | None = None  # "client_credentials" | "session" | …; None where as_ is "none"
    spec: TokenSpec | None = None
    allow: frozenset[str] | None = None  # app names; None: the default of the design
    body_limit: int | None = None  # bytes of a request's body
    requests: int | None = None  # most under way at once; None: three quarters of `limits.connections`
    header: str = "Authorization"
    scheme: str = "Bearer"
    replay: Replay = Replay()
    timeout: UpstreamTimeout = UpstreamTimeout()
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    headers: int = 64 * KIB  # bytes of one message head, target included
    header_count: int = 100
    target: int = 8 * KIB
    head_timeout: float = 10.0
    idle_timeout: float = 75.0
    body_rate: int = 16  # bytes a second that a request's body brings at least, over each idle_timeout; 0: any
    connections: int = 10_000
    replay_memory: int = 64 * MIB
    memory: int | None = None  # bytes of resident memory above which new work is refused
    worker_silence: float = 30.0  # of a worker's event loop, after which the supervisor kills and replaces it


@dataclass(frozen=True, slots=True)
class Destinations:
    deny_private: bool = False


@dataclass(frozen=True, slots=True)
class Tunnel:
    """One entry of `tunnels.allow`: `host` exact or `*.suffix`, and its port."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration. `files` are those it was read from, for the reload to watch (absolute)."""

    listeners: tuple[Listener, ...] = (Listener(Address("127.0.0.1", 8080)),)
    admin: Admin = Admin()
    login: Login | None = None
    store: StoreSettings = field(default_factory=StoreSettings)
    sessions: tuple[SessionKind, ...] = ()
    session_life: SessionLife = SessionLife()
    apps: tuple[AppKind, ...] = ()
    providers: dict[str, ProviderSettings] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()
    unmatched: Literal["refuse", "forward"] = "refuse"
    tunnels: tuple[Tunnel, ...] = ()
    destinations: Destinations = Destinations()
    limits: Limits = Limits()
    via: str = ""
    access_log: bool = False
    workers: int | Literal["auto"] = 1  # processes that serve requests; auto: one for each CPU that may be used
    files: tuple[str, ...] = ()
    seen: str = ""  # `config.contents.digest` of `files` just before they were read
    warnings: tuple[str, ...] = ()  # what is allowed and deserves a second look; no secrets
