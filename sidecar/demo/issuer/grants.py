"""The three grants of the token endpoint: each takes an authenticated client and its parameters and gives a response.

RFC 6749 sections 4.1.3, 4.4 and 6, RFC 7636 section 4.6, RFC 8707 section 2.2.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.demo.issuer.ledger import Family, Grant
from sidecar.demo.issuer.parameters import OAuthError, narrowed, targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.demo.issuer.clients import Client
    from sidecar.demo.issuer.parameters import Parameters
    from sidecar.demo.issuer.state import State

_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


class Issued(NamedTuple):
    """A token response, and whose tokens these are."""

    subject: str
    answer: dict[str, Any]


def issue(state: State, client: Client, parameters: Parameters) -> Issued:
    """Serve one token request, whichever grant it names."""
    grant_type = parameters.required("grant_type")
    if grant_type not in _GRANTS:
        raise OAuthError("unsupported_grant_type", "this grant is not known here")
    if grant_type not in client.grants:
        raise OAuthError("unauthorized_client", "this grant is not allowed to this client")
    return _GRANTS[grant_type](state, client, parameters)


def _client_credentials(state: State, client: Client, parameters: Parameters) -> Issued:
    if client.auth == "none":
        raise OAuthError("unauthorized_client", "a public client has no credentials")
    asked = narrowed(parameters.one("scope"), client.scopes)
    grant = Grant(client.client_id, client.client_id, asked, targets(parameters))
    return Issued(client.client_id, state.token_response(grant))


def _authorization_code(state: State, client: Client, parameters: Parameters) -> Issued:
    text, verifier = parameters.required("code"), parameters.required("code_verifier")
    code = state.ledger.use_code(text, client.client_id, state.clock())
    if parameters.one("redirect_uri") != code.redirect_uri:
        raise OAuthError("invalid_grant", "the redirect_uri is not that of the authorization request")
    if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(challenge(verifier), code.challenge):
        raise OAuthError("invalid_grant", "the code_verifier does not match")
    family = code.family or Family(code.grant)
    grant = replace(code.grant, audience=targets(parameters, code.grant.audience))
    refresh = "refresh_token" in client.grants
    return Issued(grant.subject, state.token_response(grant, family, refresh=refresh))


def _refresh_token(state: State, client: Client, parameters: Parameters) -> Issued:
    text, now, policy = parameters.required("refresh_token"), state.clock(), state.policy
    token = state.ledger.find_refresh(text, client.client_id, now, policy.leeway)
    whole = token.family.grant
    asked = narrowed(parameters.one("scope"), whole.scopes)
    grant = replace(whole, scopes=asked, audience=targets(parameters, whole.audience))
    if policy.rotate and token.spent_at is None:
        token.spent_at = now
    return Issued(grant.subject, state.token_response(grant, token.family, refresh=policy.rotate))


def challenge(verifier: str) -> str:
    """Return the S256 code challenge of a verifier (RFC 7636 section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


_GRANTS: dict[str, Callable[[State, Client, Parameters], Issued]] = {
    "client_credentials": _client_credentials,
    "authorization_code": _authorization_code,
    "refresh_token": _refresh_token,
}
