"""The session API: applications hand over the token responses of their users, ask about sessions, and end them.

Reads and validates what arrives (JSON, id, provider) and calls `Sessions`; what a token response must hold is decided
there. Session ids are never logged and never repeated in an answer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote_to_bytes

import orjson
import structlog

from sidecar.admin.problems import Problem
from sidecar.callers import session_id
from sidecar.errors import Refusal
from sidecar.wire.service import Asked, Told

if TYPE_CHECKING:
    from sidecar.admin.state import AdminState

LISTED = 1000
"""How many sessions one list shows at most, and where `?limit=` ends."""
_LONGEST_LIMIT = 9  # digits

_log = structlog.get_logger()


class SessionApi:
    """The handlers of `/v1/sessions`."""

    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def put(self, request: Asked) -> Told:
        """Create or replace a session from a token response and, where there are several, its `provider`."""
        identifier = _id(request)
        body = read_object(request)
        provider = self._provider(body.pop("provider", None))
        info = await self._state.sessions.put(identifier, provider, body)
        _log.info("session_put", provider=provider)
        return show(info)

    async def get(self, request: Asked) -> Told:
        """Show what is known about a session; never a token."""
        info = await self._state.sessions.info(_id(request))
        if info is None:
            raise Problem("not_found", "There is no such session.")
        return show(info)

    async def list(self, request: Asked) -> Told:
        """Show the sessions, at most `?limit=`."""
        limit = _limit(request.query)
        return show({"sessions": [_plain(info) for info in await self._state.sessions.all(limit)]})

    async def delete(self, request: Asked) -> Told:
        """Revoke a session's tokens and forget it."""
        if not await self._state.sessions.delete(_id(request)):
            raise Problem("not_found", "There is no such session.")
        _log.info("session_deleted")
        return Told(204)

    def _provider(self, named: Any) -> str:
        known = self._state.providers
        if named is None and len(known) == 1:
            return known[0]
        if not isinstance(named, str) or named not in known:
            raise Problem("bad_request", "`provider` must name one of the configured providers.")
        return named


def show(value: Any, status: int = 200) -> Told:
    """Return `value` (a dataclass, a NamedTuple or plain data) as JSON."""
    return Told(status, orjson.dumps(_plain(value)), (("Content-Type", "application/json; charset=utf-8"),))


def read_object(request: Asked) -> dict[str, Any]:
    """Return the body of `request`, which must be a JSON object."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem("unsupported_media_type", "Send Content-Type: application/json.")
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise Problem("bad_request", "The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise Problem("bad_request", "The body must be a JSON object.")
    return body


def _id(request: Asked) -> str:
    try:
        encoded = request.path.rpartition("/")[2].encode("utf-8", "surrogateescape")
        return session_id.read(unquote_to_bytes(encoded))
    except Refusal:
        raise Problem("bad_request", "The session id is malformed.") from None


def _limit(query: str) -> int:
    text = parse_qs(query, keep_blank_values=True).get("limit", ["100"])[0]
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST_LIMIT and 1 <= int(text) <= LISTED):
        raise Problem("bad_request", f"`limit` must be a number from 1 to {LISTED}.")
    return int(text)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value._asdict() if hasattr(value, "_asdict") else value
