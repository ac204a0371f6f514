"""Whether an ID token is the one that was asked for, and who it says has signed in.

OpenID Connect Core 1.0 sections 3.1.3.7 (validation), 3.1.3.6 (at_hash) and 12.2 (after a refresh). Pure: keys and time
are arguments.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.model import Identity
from sidecar.oauth.authorization import same
from sidecar.oauth.signature import JwtError, KeySet, unverified, verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.model import Secret

LEEWAY = 300.0
"""Seconds by which the authorization server's clock may differ from ours."""
AUTH_LEEWAY = 60.0
"""The same where it is asked how long ago a user has proven who they are: each second is one that was not allowed."""
OLDEST = 600.0
"""Seconds since its issue after which an ID token of a sign-in is too old."""
LATEST = 4_102_444_800.0  # the year 2100: what is dated after it is no date
_SUBJECT = re.compile(r"[ -~]{1,255}")  # Core section 2: at most 255 ASCII characters
_SESSION = re.compile(r"[!-~]{1,512}")
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


class Expected(NamedTuple):
    """What an ID token must agree with. `nonce` is the one that was sent.

    `authenticated_since`: where `max_age` was asked for, the earliest `auth_time` (seconds since the epoch).
    """

    issuer: str
    client_id: str
    nonce: str
    algorithms: tuple[str, ...]
    authenticated_since: float | None = None


def validate(id_token: Secret, access_token: Secret, keys: KeySet, expected: Expected, now: float) -> Identity:
    """Return who signed in; raise `JwtError` with the member at fault, `UnknownKeyError` where no key fits."""
    header, claims = verified(id_token.reveal(), keys, expected.algorithms, ("jwt",))
    check_issuer(claims, expected.issuer)
    check_audience(claims, expected.client_id)
    check_times(claims, now, oldest=OLDEST)
    if expected.authenticated_since is not None:
        _check_authentication(claims, expected.authenticated_since)
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not same(nonce, expected.nonce):
        raise JwtError("nonce")
    if "at_hash" in claims and not _is_hash(claims["at_hash"], header["alg"], access_token.reveal()):
        raise JwtError("at_hash")
    return Identity(expected.issuer, subject(claims), sid(claims))


def same_person(id_token: Secret, identity: Identity, client_id: str) -> bool:
    """Say whether a refresh's ID token is about `identity` (section 12.2).

    It came from the token endpoint itself, so its signature is not what it is believed for (section 3.1.3.7, 6).
    """
    try:
        claims = unverified(id_token.reveal()).claims
        check_issuer(claims, identity.issuer)
        check_audience(claims, client_id)
        return subject(claims) == identity.subject
    except JwtError:
        return False


def check_issuer(claims: Mapping[str, Any], issuer: str) -> None:
    """Raise `JwtError` unless the token is of `issuer`, code point by code point."""
    if not issuer or claims.get("iss") != issuer:
        raise JwtError("iss")


def check_audience(claims: Mapping[str, Any], client_id: str) -> None:
    """Raise `JwtError` unless the token is for this client; one for others too must name it as authorized party."""
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or client_id not in audiences:
        raise JwtError("aud")
    if "azp" in claims and claims["azp"] != client_id:
        raise JwtError("azp")
    if any(other != client_id for other in audiences) and "azp" not in claims:
        raise JwtError("azp")


def check_times(claims: Mapping[str, Any], now: float, *, oldest: float) -> None:
    """Raise `JwtError` unless the token was issued within `oldest` seconds, is valid by now and has not expired."""
    issued, expires = time_of(claims, "iat"), time_of(claims, "exp")
    if now - LEEWAY >= expires:
        raise JwtError("exp")
    if not now - oldest - LEEWAY <= issued <= now + LEEWAY:
        raise JwtError("iat")
    if "nbf" in claims and time_of(claims, "nbf") > now + LEEWAY:
        raise JwtError("nbf")


def _check_authentication(claims: Mapping[str, Any], since: float) -> None:
    """Raise `JwtError` where the user's last sign-in is too long ago, or not told (sections 2 and 3.1.2.1)."""
    if time_of(claims, "auth_time") < since - AUTH_LEEWAY:
        raise JwtError("auth_time")


def time_of(claims: Mapping[str, Any], name: str) -> float:
    """Return a NumericDate (RFC 7519 section 2) in seconds since the epoch."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST:
        raise JwtError(name)
    return float(value)


def subject(claims: Mapping[str, Any]) -> str:
    """Return the subject identifier."""
    return _text(claims, "sub", _SUBJECT)


def sid(claims: Mapping[str, Any]) -> str:
    """Return the issuer's session identifier, "" where it names none."""
    return _text(claims, "sid", _SESSION) if "sid" in claims else ""


def _text(claims: Mapping[str, Any], name: str, allowed: re.Pattern[str]) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not allowed.fullmatch(value):
        raise JwtError(name)
    return value


def _is_hash(value: object, algorithm: str, access_token: str) -> bool:
    make = _HASHES.get(algorithm[-3:], hashlib.sha512)  # EdDSA: SHA-512 with Ed25519
    digest = make(access_token.encode("ascii")).digest()
    expected = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode("ascii")
    return isinstance(value, str) and same(value, expected)


def names_of(audience: object) -> Iterable[str]:
    """Return the audiences of an unverified token, to find whose it could be."""
    if isinstance(audience, str):
        return (audience,)
    return [name for name in audience if isinstance(name, str)] if isinstance(audience, list) else ()
