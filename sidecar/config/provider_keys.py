"""The keys of one entry of `providers`. Shape only: what they mean together is `provider_rules`."""

from __future__ import annotations

from sidecar.config import kinds
from sidecar.config.keys import Params, Section, TlsKeys, default_of, key
from sidecar.settings import ProviderLimit, ProviderSettings, ProviderTimeout


class ProviderTimeoutKeys(Section):
    """Time limits towards an authorization server."""

    connect: kinds.Duration | None = key("Time to connect.", ProviderTimeout().connect)
    total: kinds.Duration | None = key(
        "Time for the whole request, from its turn on (`limit`); for that it waits at most as long.",
        ProviderTimeout().total,
    )


class ProviderLimitKeys(Section):
    """How much a provider gets to bear."""

    at_once: kinds.Count | None = key("Requests under way at once; the others wait.", ProviderLimit().at_once)
    per_second: kinds.Count | None = key(
        "Requests in any second, of this instance; at most half of them ahead of need.", ProviderLimit().per_second
    )


class ProviderKeys(Section):
    """An authorization server and our client registration there."""

    issuer: kinds.Issuer | None = key("Issuer identifier; the endpoints are found by OIDC or RFC 8414 discovery.")
    token_endpoint: kinds.Url | None = key("Token endpoint, instead of or in preference to discovery.")
    revocation_endpoint: kinds.Url | None = key("Revocation endpoint (RFC 7009), in preference to discovery.")
    authorization_endpoint: kinds.Url | None = key("Authorization endpoint, in preference to discovery.")
    jwks_uri: kinds.Url | None = key("Address of the provider's keys, in preference to discovery.")
    end_session_endpoint: kinds.Url | None = key("Where browsers are sent to sign out, in preference to discovery.")
    pushed_authorization_request_endpoint: kinds.Url | None = key(
        "Where authorization requests are pushed (RFC 9126), in preference to discovery."
    )
    client_id: kinds.Text | None = key("Our client identifier at this provider. Required.")
    client_secret: kinds.SecretText | None = key("Our client secret: write a reference, not the secret itself.")
    client_auth: kinds.ClientAuth | None = key(
        "How the client authenticates at the token endpoint.", default_of(ProviderSettings, "client_auth")
    )
    params: Params | None = key("Extra parameters of every token request to this provider.")
    timeout: ProviderTimeoutKeys | None = key("How long requests to the provider may take.")
    limit: ProviderLimitKeys | None = key("How many requests the provider gets.")
    tls: TlsKeys | None = key("TLS towards the provider: own authorities, client certificate.")
    insecure: kinds.Switch | None = key("Allow http:// to this provider beyond loopback.", default=False)
