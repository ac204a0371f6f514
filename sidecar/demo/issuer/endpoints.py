"""The endpoints that clients and resource servers call: token, revocation, introspection, userinfo, metadata, keys.

Reads HTTP, asks `clients`, `grants` and `ledger`, writes HTTP. RFC 6749 section 5, RFC 7009, RFC 7662, RFC 8414,
OpenID Connect Discovery and Core section 5.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from sidecar.demo.issuer import faults, pages
from sidecar.demo.issuer.clients import authenticate, confidential, presented
from sidecar.demo.issuer.grants import issue
from sidecar.demo.issuer.parameters import OAuthError
from sidecar.demo.issuer.recording import ENTRY, FAULTS, NO_STORE, read_form

if TYPE_CHECKING:
    from sidecar.demo.issuer.clients import Client
    from sidecar.demo.issuer.parameters import Parameters
    from sidecar.demo.issuer.state import State


def routes(state: State) -> list[web.RouteDef]:
    """Return the routes of these endpoints for one server."""

    async def token(request: web.Request) -> web.Response:
        client, parameters = await _client(state, request)
        issued = issue(state, client, parameters)
        request[ENTRY].subject = issued.subject
        return _json(faults.spoiled(request[FAULTS], issued.answer))

    async def revoke(request: web.Request) -> web.Response:
        client, parameters = await _client(state, request)
        state.ledger.revoke(parameters.required("token"), client.client_id)
        return web.Response(headers=NO_STORE)

    async def introspect(request: web.Request) -> web.Response:
        client, parameters = await _client(state, request)
        confidential(client)
        return _json(_introspection(state, parameters.required("token")))

    async def userinfo(request: web.Request) -> web.Response:
        return _json(_userinfo(state, request.headers.get("Authorization", "")))

    async def metadata(_request: web.Request) -> web.Response:
        return web.json_response(_metadata(state.issuer))

    async def jwks(_request: web.Request) -> web.Response:
        return web.json_response(state.signer.jwks())

    async def home(_request: web.Request) -> web.Response:
        return pages.home(state.issuer)

    return [
        web.post("/token", token),
        web.post("/revoke", revoke),
        web.post("/introspect", introspect),
        web.get("/userinfo", userinfo),
        web.post("/userinfo", userinfo),
        web.get("/.well-known/openid-configuration", metadata),
        web.get("/.well-known/oauth-authorization-server", metadata),
        web.get("/jwks", jwks),
        web.get("/", home),
    ]


async def _client(state: State, request: web.Request) -> tuple[Client, Parameters]:
    """Return the authenticated client and the form of a request to a protected endpoint."""
    parameters = await read_form(request)
    claim = presented(request.headers.get("Authorization", ""), parameters)
    return authenticate(state.clients, claim), parameters


def _json(body: dict[str, Any]) -> web.Response:
    return web.json_response(body, headers=NO_STORE)


def _introspection(state: State, text: str) -> dict[str, Any]:
    token = state.ledger.access.get(text)
    if token is None or not token.active(state.clock()):
        return {"active": False}
    return {"active": True, "token_type": "Bearer", **token.claims}


def _userinfo(state: State, authorization: str) -> dict[str, Any]:
    scheme, _, text = authorization.partition(" ")
    token = state.ledger.access.get(text)
    if scheme.lower() != "bearer":
        raise OAuthError("invalid_request", "a bearer token is needed", status=401, challenge="Bearer")
    if token is None or not token.active(state.clock()):
        raise OAuthError("invalid_token", status=401, challenge='Bearer error="invalid_token"')
    if "openid" not in token.claims["scope"].split():
        challenge = 'Bearer error="insufficient_scope", scope="openid"'
        raise OAuthError("insufficient_scope", status=403, challenge=challenge)
    subject = token.claims["sub"]
    return {"sub": subject, "name": state.users.get(subject, subject)}


def _metadata(issuer: str) -> dict[str, Any]:
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "revocation_endpoint": f"{issuer}/revoke",
        "introspection_endpoint": f"{issuer}/introspect",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "jwks_uri": f"{issuer}/jwks",
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "client_credentials", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "authorization_response_iss_parameter_supported": True,
    }
