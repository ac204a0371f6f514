"""Signed JWTs of an authorization server: its keys, which algorithms are believed, and whether a signature is right.

Says nothing about claims. Only asymmetric algorithms: `none` and MACs are refused whatever anybody publishes, and a
key is used only for the algorithm and the use that it is for (RFC 8725 sections 2.1, 3.1 and 3.2). RFC 7515, RFC 7517.
"""

from __future__ import annotations

import base64
import binascii
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sidecar.oauth.document import DocumentError, read_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_JWT = 32 * 1024
MAX_KEYS = 100
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
OKP = {"EdDSA": ("Ed25519", "Ed448"), "Ed25519": ("Ed25519",), "Ed448": ("Ed448",)}
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
SAFE_ALGORITHMS = (*RSA, *CURVES, *OKP)
MIN_RSA_BITS = 2048


class JwtError(Exception):
    """A JWT is refused. `reason` is a word of ours: the name of a member, or what is wrong with the whole."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnknownKeyError(JwtError):
    """None of the keys made the signature: worth looking once more.

    The one that did may have been published a moment ago, even under the name of another.
    """


class PublicKey(NamedTuple):
    """A public key for signatures, and what it says it is for."""

    kid: str | None
    algorithm: str | None
    key: RSAKey | ECKey | OKPKey

    def fits(self, algorithm: str, kid: str | None) -> bool:
        """Say whether a signature of `algorithm`, by the key named `kid`, may be checked with this key."""
        named = kid is None or self.kid == kid
        return named and self.algorithm in (None, algorithm) and _fits(self.key, algorithm)


KeySet = tuple[PublicKey, ...]


class Jwt(NamedTuple):
    """The header and claims of a JWT, in that order of trust: none before its signature was verified."""

    header: dict[str, Any]
    claims: dict[str, Any]


def read_key_set(body: bytes) -> KeySet:
    """Return the keys for signatures in a JWK Set; others in it are passed over. `DocumentError` where it is none."""
    keys = read_object(body).get("keys")
    if not isinstance(keys, list):
        raise DocumentError("not_a_key_set")
    return tuple(key for key in map(_public_key, keys[:MAX_KEYS]) if key is not None)


def _public_key(jwk: object) -> PublicKey | None:
    kind = _KINDS.get(str(jwk.get("kty"))) if isinstance(jwk, dict) else None
    if kind is None or not isinstance(jwk, dict) or jwk.get("use") not in (None, "sig"):
        return None
    if kind is RSAKey and len(str(jwk.get("n"))) * 6 < MIN_RSA_BITS:
        return None
    try:
        key = kind.import_key({name: value for name, value in jwk.items() if name in _PUBLIC_MEMBERS})
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    return PublicKey(kid if isinstance(kid, str) else None, algorithm if isinstance(algorithm, str) else None, key)


_KINDS: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_PUBLIC_MEMBERS = frozenset(["kty", "n", "e", "crv", "x", "y"])


def _fits(key: RSAKey | ECKey | OKPKey, algorithm: str) -> bool:
    if isinstance(key, RSAKey):
        return algorithm in RSA
    curve = key.curve_name
    return CURVES.get(algorithm) == curve if isinstance(key, ECKey) else curve in OKP.get(algorithm, ())


def believed(published: Iterable[str]) -> tuple[str, ...]:
    """Return the algorithms to believe, of those that the metadata names; where it names none, all that are safe."""
    named = tuple(published)
    return tuple(name for name in SAFE_ALGORITHMS if name in named) if named else SAFE_ALGORITHMS


def unverified(text: str) -> Jwt:
    """Return what a JWT says of itself, to find whose it could be, and not to be believed; raise `JwtError`."""
    parts = text.split(".") if len(text) <= MAX_JWT else []
    if len(parts) != 3:  # noqa: PLR2004 - RFC 7515 section 3.1; five would be an encrypted one
        raise JwtError("not_a_jws")
    return Jwt(_object(parts[0]), _object(parts[1]))


def _object(part: str) -> dict[str, Any]:
    try:
        return read_object(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, DocumentError, ValueError):
        raise JwtError("not_a_jws") from None


def verified(text: str, keys: KeySet, algorithms: Iterable[str], types: Iterable[str]) -> Jwt:
    """Return header and claims of a JWT whose signature one of `keys` made; raise `JwtError`, `UnknownKeyError`.

    `types` are the media types that `typ` may name, lower case; absent is let pass (RFC 8725 section 3.11).
    """
    jwt = unverified(text)
    algorithm = _algorithm(jwt.header, frozenset(algorithms) & frozenset(SAFE_ALGORITHMS))
    if "crit" in jwt.header or "b64" in jwt.header:
        raise JwtError("crit")
    kind = jwt.header.get("typ", "jwt")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in types:
        raise JwtError("typ")
    kid = jwt.header.get("kid")
    if not isinstance(kid, str | None):
        raise JwtError("kid")
    candidates = [key for key in keys if key.fits(algorithm, kid)]
    if not any(_signed(text, key, algorithm) for key in candidates):
        raise UnknownKeyError("signature" if candidates and kid is not None else "unknown_key")
    return jwt


def _algorithm(header: Mapping[str, Any], algorithms: frozenset[str]) -> str:
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise JwtError("alg")
    return algorithm


def _signed(text: str, key: PublicKey, algorithm: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of the name EdDSA, which many servers still use
            jws.deserialize_compact(text, key.key, algorithms=[algorithm])
    except (JoseError, ValueError, TypeError):
        return False
    return True
