"""A token response that an application hands over for a session: judged like an authorization server's own answer.

Pure; RFC 6749 section 5.1. Everything raises `Refusal` (bad_request), which says what a member should be instead and
never what it is: that may be a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from sidecar.errors import Refusal
from sidecar.model import Granted, Invalid
from sidecar.oauth.token_response import judge

if TYPE_CHECKING:
    from collections.abc import Mapping

_INSTEAD = {
    "token_type": 'token_type is to be "Bearer"',
    "access_token": "access_token is to be the token, without a blank or another character that a header cannot carry",
    "refresh_token": "refresh_token is to be a string of visible ASCII characters",
    "id_token": "id_token is to be a string of visible ASCII characters",
    "expires_in": "expires_in is to be a number of seconds",
    "expired_on_arrival": "expires_in says that the access token has expired",
    "scope": "scope is to be names with a blank between them, without quotation marks or backslashes",
    "audience": "audience is to be a string",
    "resource": "resource is to be a string or a list of strings",
    "error": "it is the error response of a token endpoint",
    "too_large": "it is larger than any token endpoint's",
}
"""What a token response should say in a member that is at fault."""


def judged(response: Mapping[str, object], now: float) -> Granted:
    """Return what the response grants; `now` in seconds since the epoch."""
    try:
        body = orjson.dumps(dict(response))
    except TypeError:
        raise Refusal("bad_request", "The token response is not a JSON object.") from None
    outcome = judge(200, {}, body, requested_at=now, asked=frozenset(), now=now)
    if isinstance(outcome, Granted):
        return outcome
    reason = outcome.reason if isinstance(outcome, Invalid) else "error"
    raise _no_good(reason)


def audience(response: Mapping[str, object]) -> str:
    """Return whom the access token is for, as the application says; empty where it does not."""
    named = response.get("audience", "")
    if not isinstance(named, str):
        raise _no_good("audience")
    return named


def resources(response: Mapping[str, object]) -> tuple[str, ...]:
    """Return the resources that the access token is for (RFC 8707), as the application says."""
    named = response.get("resource", [])
    several = [named] if isinstance(named, str) else named
    if not isinstance(several, list) or not all(isinstance(resource, str) for resource in several):
        raise _no_good("resource")
    return tuple(several)


def _no_good(reason: str) -> Refusal:
    return Refusal("bad_request", f"The token response is no good: {_INSTEAD.get(reason, reason)}.")
