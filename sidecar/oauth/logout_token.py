"""Whether a logout token is one, and whom it signs out. OpenID Connect Back-Channel Logout 1.0 sections 2.4 and 2.6.

Pure: keys and time are arguments. That a token is used once is for whoever keeps its `jti` until `until`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from sidecar.oauth.id_token import LEEWAY, check_audience, check_issuer, check_times, sid, subject, time_of
from sidecar.oauth.signature import JwtError, verified

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sidecar.oauth.signature import KeySet

EVENT = "http://schemas.openid.net/event/backchannel-logout"
OLDEST = 600.0
LONGEST_LIFE = 3600.0
"""Seconds. Section 2.4 asks for at most two minutes; a replay has to be remembered for all of it."""
_JTI = re.compile(r"[ -~]{1,512}")


class Logout(NamedTuple):
    """Whom to sign out: one session (`sid`), or every session of `subject` where there is no `sid`."""

    issuer: str
    subject: str
    sid: str
    jti: str
    until: float  # seconds since the epoch; after it the token is refused anyway


def validate(text: str, keys: KeySet, issuer: str, client_id: str, algorithms: tuple[str, ...], now: float) -> Logout:
    """Return whom to sign out; raise `JwtError` with the member at fault, `UnknownKeyError` where no key fits."""
    claims = verified(text, keys, algorithms, ("jwt", "logout+jwt")).claims
    check_issuer(claims, issuer)
    check_audience(claims, client_id)
    check_times(claims, now, oldest=OLDEST)
    expires = time_of(claims, "exp")
    if expires > now + LEEWAY + LONGEST_LIFE:
        raise JwtError("exp")
    _check_event(claims)
    if "nonce" in claims:  # section 2.4: so that an ID token can never be taken for a logout token
        raise JwtError("nonce")
    found = Logout(issuer, subject(claims) if "sub" in claims else "", sid(claims), _jti(claims), expires + LEEWAY)
    if not found.subject and not found.sid:
        raise JwtError("sub")
    return found


def _check_event(claims: Mapping[str, Any]) -> None:
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
        raise JwtError("events")


def _jti(claims: Mapping[str, Any]) -> str:
    value = claims.get("jti")
    if not isinstance(value, str) or not _JTI.fullmatch(value):
        raise JwtError("jti")
    return value
