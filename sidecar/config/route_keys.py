"""The keys of one entry of `routes`. Shape only: what they mean together is `route_rules`."""

from __future__ import annotations

from sidecar.config import kinds
from sidecar.config.keys import Params, Section, TlsKeys, key
from sidecar.settings import Replay, UpstreamTimeout


class UpstreamTlsKeys(TlsKeys):
    """TLS towards one upstream."""

    server_name: kinds.HostName | None = key("Name to ask for and to verify, where it is not the upstream's host.")


class MatchKeys(Section):
    """Which requests a route takes."""

    host: kinds.HostPattern | None = key("Host asked for: exact or *.suffix, with an optional :port.")
    path: kinds.PathPrefix | None = key("Path prefix, compared by whole segments.", "/")
    methods: kinds.Methods | None = key("Methods taken; all where the key is left out.")


class ReplayKeys(Section):
    """Second tries."""

    body_limit: kinds.Size | None = key("Largest body that is kept for a second try.", Replay().body_limit)
    unsafe: kinds.Unsafe | None = key(
        "When an unsafe method is sent again: on the challenge invalid_token, never or always.", Replay().unsafe
    )


class UpstreamTimeoutKeys(Section):
    """Time limits towards an upstream."""

    connect: kinds.Duration | None = key("Time to connect, TLS included.", UpstreamTimeout().connect)
    response: kinds.Duration | None = key(
        "Time from the end of the request to the head of the response.", UpstreamTimeout().response
    )
    idle: kinds.Duration | None = key("Longest silence while a body is sent.", UpstreamTimeout().idle)


class RouteKeys(Section):
    """A route."""

    name: kinds.RouteName | None = key("Name in logs, metrics and `allow`; made from host and path by default.")
    match: MatchKeys | None = key("Which requests this route takes: a host, a path or both. Required.")
    upstream: kinds.UpstreamUrl | None = key("Where they go: scheme, host, port and an optional base path. Required.")
    insecure: kinds.Switch | None = key("Allow a token over http:// beyond loopback.", default=False)
    strip_prefix: kinds.Switch | None = key("Take match.path away before forwarding.", default=False)
    as_: kinds.As | None = key("Whose token: app, user or none. Always written.", alias="as")
    provider: kinds.Name | None = key("Provider that issues the token; the only one by default.")
    grant: kinds.GrantName | None = key("How the token is had: client_credentials as app, session as user.")
    scope: kinds.Scopes | None = key("Scopes to ask for: words in one text, or a list.")
    audience: kinds.Text | None = key("Audience to ask for.")
    resource: kinds.Resources | None = key("Resources to ask for (RFC 8707): a URI or a list.")
    params: Params | None = key("Extra parameters of this route's token requests; they win over the provider's.")
    allow: kinds.Names | None = key("Apps that may use the route; by default any recognised caller.")
    body_limit: kinds.Size | None = key("Largest body of a request; larger ones are refused with 413.")
    requests: kinds.Count | None = key(
        "Most requests under way at once, the others are refused with 503; by default 3/4 of limits.connections."
    )
    header: kinds.Header | None = key("Header that carries the token.", "Authorization")
    scheme: kinds.Scheme | None = key("Scheme before the token.", "Bearer")
    replay: ReplayKeys | None = key("What is sent again after a 401.")
    timeout: UpstreamTimeoutKeys | None = key("How long the upstream may take.")
    tls: UpstreamTlsKeys | None = key("TLS towards the upstream: own authorities, client certificate, name.")
