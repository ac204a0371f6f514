"""Every request passes here: it is recorded, meets the fault switches, and its errors become answers.

Records hold no secret. A request that is still under way has no record yet.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.demo.issuer.clients import presented
from sidecar.demo.issuer.faults import Faults, instead
from sidecar.demo.issuer.parameters import FORM, OAuthError, Parameters
from sidecar.demo.issuer.state import Received

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware

    from sidecar.demo.issuer.state import State

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


@dataclass(slots=True)
class Entry:
    """A record that is being written."""

    endpoint: str
    time: float
    grant_type: str = ""
    client_id: str = ""
    scope: str = ""
    targets: tuple[str, ...] = ()
    subject: str = ""
    outcome: str = "cut off"

    def done(self) -> Received:
        """Return the finished record."""
        return Received(
            self.endpoint,
            self.time,
            self.grant_type,
            self.client_id,
            self.scope,
            self.targets,
            self.subject,
            self.outcome,
        )


ENTRY: web.RequestKey[Entry] = web.RequestKey("entry", Entry)
FAULTS: web.RequestKey[Faults] = web.RequestKey("faults", Faults)


def recorder(state: State) -> Middleware:
    """Return the middleware of one server."""

    @web.middleware
    async def record(request: web.Request, handler: Handler) -> web.StreamResponse:
        entry = request[ENTRY] = Entry(request.path, state.clock())
        request[FAULTS] = state.faults.take(request.path)
        try:
            return await _answer(request, handler)
        finally:
            state.requests.append(entry.done())

    return record


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    entry, faults = request[ENTRY], request[FAULTS]
    await _note_form(request, entry)
    await asyncio.sleep(faults.slow)
    if faults.down:
        return _hang_up(request, entry, "down")
    if canned := instead(faults):
        entry.outcome = canned.name
        return canned.response
    response = await _endpoint(request, handler, entry)
    await asyncio.sleep(faults.late)
    return _hang_up(request, entry, "lost") if faults.lost else response


async def _endpoint(request: web.Request, handler: Handler, entry: Entry) -> web.StreamResponse:
    try:
        response = await handler(request)
    except OAuthError as error:
        entry.outcome = error.error
        return error_response(error)
    except web.HTTPException as error:
        entry.outcome = f"status {error.status}"
        raise
    entry.outcome = "ok"
    return response


def error_response(error: OAuthError) -> web.Response:
    """Return an error as RFC 6749 section 5.2 writes it."""
    headers = NO_STORE | ({"WWW-Authenticate": error.challenge} if error.challenge else {})
    body = {"error": error.error, "error_description": error.description}
    return web.json_response(body, status=error.status, headers=headers)


def _hang_up(request: web.Request, entry: Entry, outcome: str) -> web.Response:
    """Close the connection; the response that is returned finds nobody."""
    entry.outcome = outcome
    if request.transport:
        request.transport.abort()
    return web.Response()


async def _note_form(request: web.Request, entry: Entry) -> None:
    """Write into the record what a form asks for. A malformed one is noted as such by its endpoint."""
    if request.method != "POST" or request.content_type != FORM:
        return
    try:
        parameters = await read_form(request)
        entry.client_id = presented(request.headers.get("Authorization", ""), parameters).client_id
    except OAuthError:
        return
    entry.grant_type = parameters.one("grant_type")
    entry.scope = parameters.one("scope")
    entry.targets = parameters.all("resource") + parameters.all("audience")


async def read_form(request: web.Request) -> Parameters:
    """Return the parameters of a form body; raise `invalid_request` for every other body, and for a query."""
    if request.content_type != FORM:
        raise OAuthError("invalid_request", f"the body is {FORM}")
    if request.query_string:
        raise OAuthError("invalid_request", "parameters belong into the body")
    form = await request.post()
    return Parameters((name, value) for name, value in form.items() if isinstance(value, str))
