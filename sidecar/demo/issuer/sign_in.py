"""The authorization endpoint: a code for a user who pressed a button, for a request that is right in every member.

Until client and redirect_uri are known to be registered, errors are shown as a page; after that they go to the client.
RFC 6749 section 4.1, RFC 7636 (S256 only), RFC 8707, RFC 9207; RFC 9700 section 2.1. The form carries the request in
its query, so nothing is kept between page and answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from aiohttp import web

from sidecar.demo.issuer import pages
from sidecar.demo.issuer.ledger import CODE_LIFE, Code, Grant
from sidecar.demo.issuer.parameters import FORM, OAuthError, Parameters, narrowed, targets
from sidecar.demo.issuer.recording import ENTRY

if TYPE_CHECKING:
    from sidecar.demo.issuer.clients import Client
    from sidecar.demo.issuer.state import State

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Return:
    """Where the answer of an authorization request goes."""

    client: Client
    redirect_uri: str
    state: str

    @property
    def origin(self) -> str:
        """Scheme and authority of the redirect URI."""
        parts = urlsplit(self.redirect_uri)
        return f"{parts.scheme}://{parts.netloc}"


@dataclass(frozen=True, slots=True)
class Asked:
    """A checked authorization request."""

    scopes: frozenset[str]
    audience: tuple[str, ...]
    challenge: str
    nonce: str


def routes(state: State) -> list[web.RouteDef]:
    """Return the routes of this endpoint for one server."""

    async def show(request: web.Request) -> web.StreamResponse:
        return _answer(state, request, None)

    async def chosen(request: web.Request) -> web.StreamResponse:
        form = await request.post() if request.content_type == FORM else {}
        return _answer(state, request, str(form.get("user", "")))

    return [web.get("/authorize", show), web.post("/authorize", chosen)]


def _answer(state: State, request: web.Request, user: str | None) -> web.StreamResponse:
    """Return the page, the redirect with a code, or the error where it belongs."""
    try:
        parameters = Parameters(request.query.items())
        back = _return(state, parameters)
    except OAuthError as error:
        return pages.problem(error.description or error.error)
    request[ENTRY].client_id = back.client.client_id
    try:
        asked = _asked(back.client, parameters)
        if user is not None:
            return _redirect(state, back, {"code": _code(state, back, asked, user)})
        _interactive(parameters)
    except OAuthError as error:
        return _redirect(state, back, {"error": error.error, "error_description": error.description})
    scope = " ".join(sorted(asked.scopes))
    return pages.sign_in(back.client.client_id, scope, state.users, str(request.rel_url), back.origin)


def _return(state: State, parameters: Parameters) -> Return:
    client = state.clients.get(parameters.required("client_id"))
    if client is None:
        raise OAuthError("invalid_request", "The application is not registered here.")
    redirect_uri = parameters.required("redirect_uri")
    if redirect_uri not in client.redirect_uris:
        raise OAuthError("invalid_request", "The return address is not registered for this application.")
    return Return(client, redirect_uri, parameters.one("state"))


def _asked(client: Client, parameters: Parameters) -> Asked:
    if parameters.required("response_type") != "code":
        raise OAuthError("unsupported_response_type", "only the code flow is served")
    if "authorization_code" not in client.grants:
        raise OAuthError("unauthorized_client", "this grant is not allowed to this client")
    if parameters.one("code_challenge_method") != "S256" or not _CHALLENGE.fullmatch(parameters.one("code_challenge")):
        raise OAuthError("invalid_request", "PKCE with S256 is required")
    scopes = narrowed(parameters.one("scope"), client.scopes)
    return Asked(scopes, targets(parameters), parameters.one("code_challenge"), parameters.one("nonce"))


def _interactive(parameters: Parameters) -> None:
    if parameters.one("prompt") == "none":
        raise OAuthError("login_required", "nobody is signed in here between two requests")


def _code(state: State, back: Return, asked: Asked, user: str) -> str:
    if user not in state.users:
        raise OAuthError("access_denied", "no such user")
    now = state.clock()
    grant = Grant(user, back.client.client_id, asked.scopes, asked.audience, asked.nonce, now)
    return state.ledger.add_code(Code(grant, back.redirect_uri, asked.challenge, now + CODE_LIFE))


def _redirect(state: State, back: Return, members: dict[str, str]) -> web.Response:
    """Return a 303 to the client with `state` and `iss` (RFC 9207)."""
    answer = members | ({"state": back.state} if back.state else {}) | {"iss": state.issuer}
    separator = "&" if "?" in back.redirect_uri else "?"
    headers = {"Location": f"{back.redirect_uri}{separator}{urlencode(answer)}", "Cache-Control": "no-store"}
    return web.Response(status=303, headers=headers)
