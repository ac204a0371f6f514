"""Registered clients, and their authentication at the token, revocation and introspection endpoints.

A client authenticates by the one method it registered, and by one method only. RFC 6749 sections 2.3.1 and 3.2.1.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import unquote_plus

from sidecar.demo.issuer.parameters import OAuthError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.demo.issuer.parameters import Parameters

AuthMethod = Literal["client_secret_basic", "client_secret_post", "none"]
GRANTS = frozenset({"client_credentials", "authorization_code", "refresh_token"})


@dataclass(frozen=True, slots=True)
class Client:
    """A registration. `scopes` None: any scope may be asked for. `redirect_uris` are compared as they stand."""

    client_id: str
    secret: str = field(default="", repr=False)
    auth: AuthMethod = "client_secret_basic"
    redirect_uris: frozenset[str] = frozenset()
    scopes: frozenset[str] | None = None
    grants: frozenset[str] = GRANTS


class Presented(NamedTuple):
    """What a request says about its client, not yet believed."""

    client_id: str
    secret: str
    method: AuthMethod


def presented(authorization: str, parameters: Parameters) -> Presented:
    """Return the client credentials of a request; raise where they are absent, broken or given twice."""
    basic = _basic(authorization) if authorization else None
    if basic and parameters.one("client_secret"):
        raise OAuthError("invalid_request", "two ways of client authentication")
    if basic and parameters.one("client_id") not in {"", basic.client_id}:
        raise OAuthError("invalid_request", "two different client ids")
    if basic:
        return basic
    secret = parameters.one("client_secret")
    return Presented(parameters.one("client_id"), secret, "client_secret_post" if secret else "none")


def authenticate(clients: Mapping[str, Client], claim: Presented) -> Client:
    """Return the client that the credentials prove; raise `invalid_client` for every other."""
    client = clients.get(claim.client_id)
    proven = client is not None and client.auth == claim.method and _equal(client.secret, claim.secret)
    if client is None or not proven:
        raise _refused("client authentication failed")
    return client


def confidential(client: Client) -> Client:
    """Return the client; raise where it is a public one."""
    if client.auth == "none":
        raise _refused("only for clients that authenticate")
    return client


def _refused(description: str) -> OAuthError:
    return OAuthError("invalid_client", description, status=401, challenge='Basic realm="token"')


def _equal(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode(), right.encode())


def _basic(authorization: str) -> Presented:
    """Decode Basic as RFC 6749 section 2.3.1 has it: each half form-encoded before it is joined and put in base64."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise _refused("Basic is the only scheme here")
    try:
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise _refused("the Basic credentials cannot be decoded") from None
    if not colon:
        raise _refused("the Basic credentials hold no colon")
    return Presented(unquote_plus(client_id), unquote_plus(secret), "client_secret_basic")
