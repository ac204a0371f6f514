"""The keys of the configuration file: their types, defaults and descriptions, in one place.

pydantic models for shape and JSON Schema only. Every key is optional here, so that a section with one bad key can
still be looked at; `REQUIRED` says which keys must be there. What keys mean together is `rules`. Defaults are read
from `sidecar.settings`.
"""

from __future__ import annotations

import dataclasses
from functools import cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from sidecar.callers import APP_KINDS, SESSION_KINDS
from sidecar.config import kinds
from sidecar.model import Secret
from sidecar.settings import (
    Admin,
    Destinations,
    Limits,
    Login,
    ProviderLimit,
    ProviderSettings,
    ProviderTimeout,
    Replay,
    SessionLife,
    StoreSettings,
    UpstreamTimeout,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

LATER_SECTIONS: Final[tuple[str, ...]] = ()
LATER_CALLERS: Final = tuple(
    name for name in ("bearer", "peer_uid", "jwt") if name not in SESSION_KINDS and name not in APP_KINDS
)
DEFAULT_SESSIONS: Final = (("cookie", "sidecar_session"), ("header", "X-Session-Id"))
_DEFAULT_SESSIONS_SHOWN: Final = [dict([pair]) for pair in DEFAULT_SESSIONS]


def _shown(value: Any) -> Any:
    """Return a default as the file would spell it."""
    if isinstance(value, float):
        return f"{value / 86400:g}d" if value >= 86400 else f"{value:g}s"  # noqa: PLR2004 - a day
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1024 and value % 1024 == 0:  # noqa: PLR2004
        return f"{value // 2**20}MiB" if value % 2**20 == 0 else f"{value // 2**10}KiB"
    return value if isinstance(value, (bool, int, str, list)) else str(value)


def _key(description: str, default: Any = None, *, alias: str | None = None) -> Any:
    extra = {} if default is None else {"default": _shown(default)}
    return Field(default=None, alias=alias, description=description, json_schema_extra=extra or None)


def _field(settings: type, name: str) -> Any:
    """Return the default of a settings field that cannot be had from an instance."""
    return next(member.default for member in dataclasses.fields(settings) if member.name == name)


class Section(BaseModel):
    """A mapping of the file: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, defer_build=True)


Params = dict[kinds.ParamName, kinds.HiddenText]


class ListenerKeys(Section):
    """A place where the sidecar takes requests."""

    bind: kinds.Bind | None = _key("Address to listen on: host:port, [IPv6]:port or unix:/path.")
    app: kinds.Name | None = _key("Every request on this listener comes from this app; no other proof is asked for.")


class AdminKeys(Section):
    """The admin listener."""

    bind: kinds.Bind | None = _key("Address of the admin listener.", Admin().bind)
    token: kinds.HeaderKey | None = _key("Bearer token required on /v1/*. Needed for a bind beyond loopback.")
    quit: kinds.Switch | None = _key("Let POST /quit end the sidecar, for Jobs.", default=False)


class LoginKeys(Section):
    """The sidecar's own sign-in."""

    bind: kinds.Bind | None = _key("Address of the sign-in listener.", _field(Login, "bind"))
    public_url: kinds.PublicUrl | None = _key("The origin under which browsers reach /oauth2/. Required.")
    provider: kinds.OneOrMoreNames | None = _key(
        "Provider that signs users in, or several, the default first; the only one by default."
    )
    scope: kinds.Scopes | None = _key("Scopes to ask for; openid among them.", "openid")
    return_to: kinds.ReturnTo | None = _key(
        "URLs under which a browser may land after sign-in and sign-out, the default first; public_url by default."
    )
    cookie: kinds.CookieName | None = _key(
        "Name of the session cookie, as it stands; by default the first cookie of callers.session, with the prefix "
        "__Host- where public_url is https."
    )
    par: kinds.Par | None = _key(
        "Push authorization requests (RFC 9126): auto where the provider offers it, require or never.",
        _field(Login, "par"),
    )
    resource: kinds.Resources | None = _key(
        "Resources that users consent to (RFC 8707): a URI or a list, for providers that renew for no other."
    )
    params: Params | None = _key("Extra parameters of every authorization request.")
    per_second: kinds.Count | None = _key("Sign-ins that may be begun in any second.", _field(Login, "per_second"))


class SessionsKeys(Section):
    """Lifetimes of sessions."""

    idle: kinds.Duration | None = _key("Time after its last use at which a session ends.", SessionLife().idle)
    absolute: kinds.Duration | None = _key("Time after its sign-in at which a session ends.", SessionLife().absolute)


class StoreKeys(Section):
    """The store."""

    url: kinds.SecretText | None = _key("The store: memory:, sqlite:PATH or a Redis URL.", "sqlite:sidecar.db")
    keys: list[kinds.SecretText] | None = _key("Keys that encrypt the records, newest first, from `sidecar keygen`.")
    on_outage: kinds.OnOutage | None = _key(
        "What user routes without a valid token do while the store is away: fail, or local, where this instance "
        "renews the sessions that it renewed last.",
        StoreSettings().on_outage,
    )


class TlsKeys(Section):
    """TLS as a client."""

    ca: kinds.Text | None = _key("PEM file of the certificate authorities to trust instead of the system's.")
    cert: kinds.Text | None = _key("PEM file of our client certificate.")
    key: kinds.Text | None = _key("PEM file of the client certificate's private key.")


class UpstreamTlsKeys(TlsKeys):
    """TLS towards one upstream."""

    server_name: kinds.HostName | None = _key("Name to ask for and to verify, where it is not the upstream's host.")


class ProviderTimeoutKeys(Section):
    """Time limits towards an authorization server."""

    connect: kinds.Duration | None = _key("Time to connect.", ProviderTimeout().connect)
    total: kinds.Duration | None = _key("Time for the whole request.", ProviderTimeout().total)


class ProviderLimitKeys(Section):
    """How much a provider gets to bear."""

    at_once: kinds.Count | None = _key("Requests under way at once; the others wait.", ProviderLimit().at_once)
    per_second: kinds.Count | None = _key(
        "Requests in any second, of this instance; at most half of them ahead of need.", ProviderLimit().per_second
    )


class ProviderKeys(Section):
    """An authorization server and our client registration there."""

    issuer: kinds.Issuer | None = _key("Issuer identifier; the endpoints are found by OIDC or RFC 8414 discovery.")
    token_endpoint: kinds.Url | None = _key("Token endpoint, instead of or in preference to discovery.")
    revocation_endpoint: kinds.Url | None = _key("Revocation endpoint (RFC 7009), in preference to discovery.")
    authorization_endpoint: kinds.Url | None = _key("Authorization endpoint, in preference to discovery.")
    jwks_uri: kinds.Url | None = _key("Address of the provider's keys, in preference to discovery.")
    end_session_endpoint: kinds.Url | None = _key("Where browsers are sent to sign out, in preference to discovery.")
    pushed_authorization_request_endpoint: kinds.Url | None = _key(
        "Where authorization requests are pushed (RFC 9126), in preference to discovery."
    )
    client_id: kinds.Text | None = _key("Our client identifier at this provider. Required.")
    client_secret: kinds.SecretText | None = _key("Our client secret: write a reference, not the secret itself.")
    client_auth: kinds.ClientAuth | None = _key(
        "How the client authenticates at the token endpoint.", _field(ProviderSettings, "client_auth")
    )
    params: Params | None = _key("Extra parameters of every token request to this provider.")
    timeout: ProviderTimeoutKeys | None = _key("How long requests to the provider may take.")
    limit: ProviderLimitKeys | None = _key("How many requests the provider gets.")
    tls: TlsKeys | None = _key("TLS towards the provider: own authorities, client certificate.")
    insecure: kinds.Switch | None = _key("Allow http:// to this provider beyond loopback.", default=False)


class MatchKeys(Section):
    """Which requests a route takes."""

    host: kinds.HostPattern | None = _key("Host asked for: exact or *.suffix, with an optional :port.")
    path: kinds.PathPrefix | None = _key("Path prefix, compared by whole segments.", "/")
    methods: kinds.Methods | None = _key("Methods taken; all where the key is left out.")


class ReplayKeys(Section):
    """Second tries."""

    body_limit: kinds.Size | None = _key("Largest body that is kept for a second try.", Replay().body_limit)
    unsafe: kinds.Unsafe | None = _key(
        "When an unsafe method is sent again: on the challenge invalid_token, never or always.", Replay().unsafe
    )


class UpstreamTimeoutKeys(Section):
    """Time limits towards an upstream."""

    connect: kinds.Duration | None = _key("Time to connect, TLS included.", UpstreamTimeout().connect)
    response: kinds.Duration | None = _key(
        "Time from the end of the request to the head of the response.", UpstreamTimeout().response
    )
    idle: kinds.Duration | None = _key("Longest silence while a body is sent.", UpstreamTimeout().idle)


class RouteKeys(Section):
    """A route."""

    name: kinds.RouteName | None = _key("Name in logs, metrics and `allow`; made from host and path by default.")
    match: MatchKeys | None = _key("Which requests this route takes: a host, a path or both. Required.")
    upstream: kinds.UpstreamUrl | None = _key("Where they go: scheme, host, port and an optional base path. Required.")
    insecure: kinds.Switch | None = _key("Allow a token over http:// beyond loopback.", default=False)
    strip_prefix: kinds.Switch | None = _key("Take match.path away before forwarding.", default=False)
    as_: kinds.As | None = _key("Whose token: app, user or none. Always written.", alias="as")
    provider: kinds.Name | None = _key("Provider that issues the token; the only one by default.")
    grant: kinds.GrantName | None = _key("How the token is had: client_credentials as app, session as user.")
    scope: kinds.Scopes | None = _key("Scopes to ask for: words in one text, or a list.")
    audience: kinds.Text | None = _key("Audience to ask for.")
    resource: kinds.Resources | None = _key("Resources to ask for (RFC 8707): a URI or a list.")
    params: Params | None = _key("Extra parameters of this route's token requests; they win over the provider's.")
    allow: kinds.Names | None = _key("Apps that may use the route; by default any recognised caller.")
    body_limit: kinds.Size | None = _key("Largest body of a request; larger ones are refused with 413.")
    requests: kinds.Count | None = _key(
        "Most requests under way at once, the others are refused with 503; by default 3/4 of limits.connections."
    )
    header: kinds.Header | None = _key("Header that carries the token.", "Authorization")
    scheme: kinds.Scheme | None = _key("Scheme before the token.", "Bearer")
    replay: ReplayKeys | None = _key("What is sent again after a 401.")
    timeout: UpstreamTimeoutKeys | None = _key("How long the upstream may take.")
    tls: UpstreamTlsKeys | None = _key("TLS towards the upstream: own authorities, client certificate, name.")


class TunnelsKeys(Section):
    """CONNECT."""

    allow: list[kinds.TunnelTarget] | None = _key("Destinations of tunnels, each host:port or *.suffix:port.")


class DestinationsKeys(Section):
    """Destinations."""

    deny_private: kinds.Switch | None = _key(
        "Refuse upstreams that resolve to loopback, link-local or private addresses they do not name.",
        Destinations().deny_private,
    )


class LimitsKeys(Section):
    """Limits."""

    headers: kinds.Size | None = _key("Bytes of one message head, target included.", Limits().headers)
    header_count: kinds.Count | None = _key("Header lines of one message.", Limits().header_count)
    target: kinds.Size | None = _key("Bytes of a request target.", Limits().target)
    head_timeout: kinds.Duration | None = _key("Time for a request's head to arrive.", Limits().head_timeout)
    idle_timeout: kinds.Duration | None = _key("Time a connection may stay idle.", Limits().idle_timeout)
    body_rate: kinds.Rate | None = _key(
        "Bytes a second that a request's body brings at least, over each idle_timeout; 0: any.", Limits().body_rate
    )
    connections: kinds.Count | None = _key("Connections accepted at once.", Limits().connections)
    replay_memory: kinds.Size | None = _key("Bytes kept for second tries, over all requests.", Limits().replay_memory)
    memory: kinds.Size | None = _key("Resident memory above which new work is refused with 503; none by default.")
    worker_silence: kinds.Duration | None = _key(
        "Time after which one of several workers that does not answer is killed and replaced.", Limits().worker_silence
    )


_KEY_TYPES: Final[Mapping[str, Any]] = {"header": kinds.Header, "cookie": kinds.CookieName}
_VALUE_TYPES: Final[Mapping[Any, Any]] = {
    str: kinds.Text, Secret: kinds.HeaderKey, int: kinds.Count, float: kinds.Duration, bool: kinds.Switch,
}  # fmt: skip


@cache
def caller_keys(kind: type) -> type[Section]:
    """Return the model of one kind of caller: the fields of its dataclass, but for `app`, are its keys."""
    hints = get_type_hints(kind)
    description = (kind.__doc__ or "").strip().splitlines()[0]
    members: dict[str, Any] = {}
    for member in dataclasses.fields(kind):
        if member.name != "app":
            annotation = _KEY_TYPES.get(member.name, _VALUE_TYPES.get(hints[member.name], hints[member.name]))
            members[member.name] = (annotation | None, _key(description))
    return create_model(f"{kind.__name__}Keys", __base__=Section, __doc__=description, **members)


def required(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the keys that must be written, each with what to say where it is not."""
    return _REQUIRED.get(model, {})


def caller_required(kind: type) -> tuple[str, ...]:
    """Return the keys of a kind of caller that have no default."""
    return tuple(
        member.name
        for member in dataclasses.fields(kind)
        if member.name != "app"
        and member.default is dataclasses.MISSING
        and member.default_factory is dataclasses.MISSING
    )


def caller_kinds() -> tuple[type, ...]:
    """Return every kind of caller."""
    return (*SESSION_KINDS.values(), *APP_KINDS.values())


_REQUIRED: Final[Mapping[type[BaseModel], Mapping[str, str]]] = {
    ListenerKeys: {"bind": "is missing: where to listen, such as 127.0.0.1:8080"},
    LoginKeys: {"public_url": "is missing: the origin that browsers see, such as https://app.example.com"},
    ProviderKeys: {"client_id": "is missing: our client identifier at this provider"},
    RouteKeys: {
        "match": "is missing: which requests the route takes, such as {host: api.internal}",
        "upstream": "is missing: where the requests go, such as https://api.example.com",
        "as": "is missing: `as` is always written: app, user or none",
    },
}

_session_entry: Any = reduce(or_, [caller_keys(kind) for kind in SESSION_KINDS.values()])
_app_entry: Any = reduce(or_, [caller_keys(kind) for kind in APP_KINDS.values()])

CallersKeys: Any = create_model(
    "CallersKeys",
    __base__=Section,
    __doc__="Callers.",
    session=(
        list[_session_entry] | None,
        _key("Where the session's id stands; the first place that holds one decides.", _DEFAULT_SESSIONS_SHOWN),
    ),
    apps=(dict[kinds.Name, _app_entry] | None, _key("Applications by name, each with the proof that it gives.")),
)

File: Any = create_model(
    "File",
    __base__=Section,
    __doc__="Configuration of the token sidecar.",
    version=(kinds.Version | None, _key("Version of this format.", 1)),
    listeners=(list[ListenerKeys] | None, _key("Where requests are taken; 127.0.0.1:8080 by default.")),
    admin=(AdminKeys | None, _key("The admin listener: health, metrics, session API.")),
    login=(LoginKeys | None, _key("The sidecar itself signs users in; left out: it does not.")),
    sessions=(SessionsKeys | None, _key("How long sessions live.")),
    store=(StoreKeys | None, _key("Where sessions and tokens are kept.")),
    callers=(CallersKeys | None, _key("Who may call, and where the session's id stands.")),
    providers=(dict[kinds.Name, ProviderKeys] | None, _key("Authorization servers by name.")),
    routes=(list[RouteKeys] | None, _key("Which requests go where, and with whose token.")),
    unmatched=(kinds.Unmatched | None, _key("What happens to a request without a route.", "refuse")),
    tunnels=(TunnelsKeys | None, _key("CONNECT, tunnelled untouched; none by default.")),
    destinations=(DestinationsKeys | None, _key("What upstream names may resolve to.")),
    limits=(LimitsKeys | None, _key("What one request and one process may use.")),
    via=(kinds.Pseudonym | None, _key("Pseudonym for the Via header; empty: no such header.", "")),
    access_log=(kinds.Switch | None, _key("Write one line for each request.", default=False)),
    workers=(
        kinds.Workers | None,
        _key("Processes that serve requests on the same ports; auto: one for each CPU that may be used.", 1),
    ),
)
