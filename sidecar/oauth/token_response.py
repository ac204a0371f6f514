"""What an answer of a token endpoint means (RFC 6749 sections 5.1 and 5.2): one of the five outcomes of the model.

Decides by status and by the members of a strict JSON object, each validated by name; the Content-Type is not asked,
since nothing but a JSON object passes. No I/O, no clock. `error_description` is never read, and a reason is always one
of this program's own words: nothing that a server wrote reaches a log or a caller, but `error`, reduced to its charset.

| answer | outcome |
|---|---|
| 408, 425, 429, 5xx, whatever the body says | Unavailable, with Retry-After |
| 3xx (never followed), not a JSON object, 4xx without `error` | Invalid |
| `error` in 200, 400, 401, 403: `invalid_grant` | GrantRefused |
| `error`: `temporarily_unavailable`, `slow_down`, `server_error` | Unavailable, with Retry-After |
| any other `error` | ClientRefused; but `invalid_grant` under another status is Invalid |
| 2xx with valid members | Granted |
| 2xx with a member at fault | Invalid, keeping a valid `refresh_token`: the old one may be spent |

The life of a token, from the sending of the request: `expires_in` as a number or a numeric string; missing or null
300 s; above 24 h 24 h; under one second, zero, negative, or over before the answer came: Invalid, expired on arrival
(the back-off prevents a hot loop); anything else Invalid. No token lives for ever.
"""

from __future__ import annotations

import re
from datetime import UTC
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from sidecar.model import (
    ClientRefused,
    Granted,
    GrantRefused,
    Invalid,
    Outcome,
    Secret,
    Token,
    Unavailable,
)
from sidecar.oauth.document import DocumentError, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_LIFE = 300.0
MAX_LIFE = 24 * 3600.0
MIN_LIFE = 1.0
MAX_RETRY_AFTER = 3600.0
MAX_TOKEN = 32 * 1024

_NOTHING_KNOWN = frozenset({408, 425, 429})
_GRANT_REFUSED_STATUS = frozenset({200, 400, 401, 403})
_TRANSIENT_ERRORS = frozenset({"temporarily_unavailable", "slow_down", "server_error"})

# RFC 9110 tchar and the rest of RFC 6750's b64token, and ":". Wider than b64token because large providers issue
# "!" and "|"; without space, quotes, comma, semicolon and backslash, which would end or split a header's value.
_ACCESS_TOKEN = re.compile(r"[!#$%&'*+\-./0-9:=A-Z^_`a-z|~]+")
_VISIBLE = re.compile(r"[!-~]+")  # RFC 6749 appendix A.17 without the space
_SCOPE = re.compile(r"[!#-\[\]-~]+(?: +[!#-\[\]-~]+)*")  # RFC 6749 section 3.3
_NOT_IN_ERROR = re.compile(r"[^ !#-\[\]-~]")  # RFC 6749 section 5.2
_NONE = (None, "")  # no error and no token is empty (appendix A): some servers leave no member out
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,9})?")


class _MemberError(ValueError):
    """A member of a token response is missing or wrong; the text is its name."""


def judge(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    requested_at: float,
    asked: frozenset[str],
    now: float,
) -> Outcome:
    """Return what the answer means; never raises.

    `headers` have lower-case names; `body` is content-decoded. `requested_at` (when the request was sent) and `now` are
    seconds since the epoch; `asked` is the scope asked for.
    """
    trouble = judge_status(status, headers, now)
    if isinstance(trouble, Unavailable) or (trouble and status < HTTPStatus.BAD_REQUEST):
        return trouble
    try:
        members = read_object(body)
    except DocumentError as error:
        return trouble or Invalid(error.reason)
    if members.get("error") not in _NONE:
        return _refused(members["error"], status, read_retry_after(headers, now))
    return trouble or _granted(members, requested_at, asked, now)


def judge_status(status: int, headers: Mapping[str, str], now: float) -> Unavailable | Invalid | None:
    """Return what the status alone says (RFC 9110 section 15); None for 2xx. A body may say more under 4xx."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _NOTHING_KNOWN:
        return Unavailable(f"http_{status}", read_retry_after(headers, now))
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return Invalid("redirect")
    return None if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES else Invalid(f"http_{status}")


def _refused(error: object, status: int, retry_after: float | None) -> Outcome:
    if not isinstance(error, str):
        return Invalid("error")
    if error == "invalid_grant":
        return GrantRefused() if status in _GRANT_REFUSED_STATUS else Invalid(f"http_{status}")
    if error in _TRANSIENT_ERRORS:
        return Unavailable(error, retry_after)
    return ClientRefused(_NOT_IN_ERROR.sub("", error)[:64].strip() or "unreadable")


def _granted(members: Mapping[str, Any], requested_at: float, asked: frozenset[str], now: float) -> Outcome:
    refresh_token = None
    try:
        refresh_token = _optional_secret(members, "refresh_token")
        token = Token(
            _access_token(members),
            requested_at,
            _expiry(members.get("expires_in"), requested_at, now),
            _scopes(members.get("scope"), asked),
        )
        return Granted(token, refresh_token, _optional_secret(members, "id_token"))
    except _MemberError as error:
        return Invalid(str(error), refresh_token)


def _access_token(members: Mapping[str, Any]) -> Secret:
    token_type = members.get("token_type")
    if not isinstance(token_type, str) or token_type.lower() != "bearer":  # RFC 6749 section 7.1
        raise _MemberError("token_type")
    return _secret(members.get("access_token"), "access_token", _ACCESS_TOKEN)


def _optional_secret(members: Mapping[str, Any], name: str) -> Secret | None:
    value = members.get(name)
    return None if value in _NONE else _secret(value, name, _VISIBLE)


def _secret(value: object, name: str, allowed: re.Pattern[str]) -> Secret:
    if not isinstance(value, str) or len(value) > MAX_TOKEN or not allowed.fullmatch(value):
        raise _MemberError(name)
    return Secret(value)


def _expiry(expires_in: object, requested_at: float, now: float) -> float:
    expires_at = requested_at + min(_life(expires_in), MAX_LIFE)
    if expires_at < requested_at + MIN_LIFE or expires_at <= now:
        raise _MemberError("expired_on_arrival")
    return expires_at


def _life(expires_in: object) -> float:
    if expires_in is None:
        return DEFAULT_LIFE
    if isinstance(expires_in, str) and _NUMBER.fullmatch(expires_in):
        return float(expires_in)
    if isinstance(expires_in, int | float) and not isinstance(expires_in, bool):
        return min(expires_in, MAX_LIFE)  # compared as it came: a huge integer has no float
    raise _MemberError("expires_in")


def _scopes(scope: object, asked: frozenset[str]) -> frozenset[str] | None:
    if scope is None:
        return None
    if scope == "":  # not in the grammar, but sent: nothing asked and nothing named, or nothing of what was asked
        return frozenset() if asked else None
    if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
        raise _MemberError("scope")
    return frozenset(scope.split())


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds of Retry-After (RFC 9110 section 10.2.3), at most an hour; None where absent or unreadable."""
    value = headers.get("retry-after", "").strip()
    seconds = float(value[:12]) if value.isascii() and value.isdigit() else _seconds_until(value, now)
    return min(seconds, MAX_RETRY_AFTER) if seconds > 0 else None


def _seconds_until(date: str, now: float) -> float:
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - 15 modules for what servers seldom send

    try:
        when = parsedate_to_datetime(date)
        # RFC 9110 section 5.6.7: an HTTP-date is in UTC, asctime's form too.
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
