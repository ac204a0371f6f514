"""The sign-in listener: login, callback, session, logout, back-channel logout, and their errors as pages or problems.

Wires the handlers to an aiohttp application. Knows browsers by `public_url` alone, never by Host. aiohttp's access log
is off: its lines would hold codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.admin.problems import HEADERS
from sidecar.errors import Refusal, StoreBrokenError, StoreUnavailableError
from sidecar.login.answers import page_of
from sidecar.login.flow import CALLBACK, SignInError
from sidecar.login.serving import problems as as_problems
from sidecar.login.signing_in import SigningIn
from sidecar.login.signing_out import SigningOut
from sidecar.settings import KIB

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware

    from sidecar.login.serving import Handler
    from sidecar.login.state import LoginState

BODY_LIMIT = 64 * KIB
MACHINES = frozenset(["/oauth2/session", "/oauth2/backchannel-logout"])
"""What programs ask for: their errors are problem documents, all others are pages."""
SIGN_IN = frozenset(["/oauth2/login", CALLBACK])


def make_application(state: LoginState) -> web.Application:
    """Return the application for `state`, which a reload may change while it runs."""
    into, out = SigningIn(state), SigningOut(state)
    application = web.Application(client_max_size=BODY_LIMIT, middlewares=[as_problems, _troubles(state)])
    router = application.router
    router.add_get("/oauth2/login", into.login, allow_head=False)
    router.add_get(CALLBACK, into.callback, allow_head=False)
    router.add_get("/oauth2/session", out.session)
    router.add_get("/oauth2/logout", out.ask, allow_head=False)
    router.add_post("/oauth2/logout", out.logout)
    router.add_post("/oauth2/backchannel-logout", out.backchannel)
    router.add_get("/", out.home, allow_head=False)
    application.on_response_prepare.append(_own_headers)
    return application


async def _own_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in {**HEADERS, "Referrer-Policy": "no-referrer"}.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = HEADERS["Server"]


def _troubles(state: LoginState) -> Middleware:
    """Return what shows people a page, and counts it; what `MACHINES` ask for goes on to be a problem document."""

    @web.middleware
    async def troubles(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await _shown(request, handler)
        except SignInError as error:
            if request.path in SIGN_IN:
                state.results[error.name] += 1
            return page_of(error)

    return troubles


async def _shown(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except (Refusal, StoreUnavailableError, StoreBrokenError) as error:
        if request.path in MACHINES:
            raise
        raise SignInError("store", error.code if isinstance(error, Refusal) else "store_unavailable") from None
    except web.HTTPException as error:
        if request.path in MACHINES:
            raise
        response = page_of(SignInError("not_found" if error.status == web.HTTPNotFound.status_code else "bad_request"))
        response.set_status(error.status)
        if "Allow" in error.headers:  # RFC 9110 section 15.5.6
            response.headers["Allow"] = error.headers["Allow"]
        return response
