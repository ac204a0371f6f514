"""Keys and hand-made JWTs: good ones, and every way to get them wrong."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import warnings
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey

ISSUER, CLIENT = "https://idp.example", "client-1"
NOW = 1_800_000_000


@cache
def key(kind: str) -> Any:
    """Return the one private key of a kind: a curve, an RSA size, or a name for another key of a curve."""
    options = {"kid": f"kid-{kind}"}
    if kind.startswith("RSA"):
        return RSAKey.generate_key(int(kind[3:]), options)
    if kind.startswith("Ed"):
        return OKPKey.generate_key(kind, options)
    return ECKey.generate_key(kind.removesuffix("-other"), options)


def public(*kinds: str, **members: Any) -> list[dict[str, Any]]:
    """Return the public halves as JWKs; `members` are added to each, None takes one away."""
    found = []
    for kind in kinds:
        jwk = {**key(kind).as_dict(private=False), **members}
        found.append({name: value for name, value in jwk.items() if value is not None})
    return found


def jwk_set(*jwks: Any) -> bytes:
    """Return a key set document."""
    return json.dumps({"keys": list(jwks)}).encode()


def part(value: Any) -> str:
    """Return one part of a JWT."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(claims: Any, kind: str = "P-256", alg: str = "ES256", **header: Any) -> str:
    """Return a JWT by the key of a kind. None takes a header member away."""
    members = {"alg": alg, "kid": f"kid-{kind}", "typ": "JWT", **header}
    protected = {name: value for name, value in members.items() if value is not None}
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    if "crit" in protected or "b64" in protected or not isinstance(protected.get("kid", ""), str):
        return f"{part(protected)}.{part(payload)}.{part(b'x' * 64)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # of the name EdDSA
        return jws.serialize_compact(protected, payload, key(kind), algorithms=[alg])


def unsigned(claims: Any, alg: str = "none") -> str:
    """Return a JWT without a signature."""
    return f"{part({'alg': alg, 'typ': 'JWT'})}.{part(claims)}."


def weak_rsa(claims: Any) -> tuple[dict[str, Any], str]:
    """Return a JWK of 1024 bits and a JWT that its key signed."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - that is the point
    numbers = made.public_key().public_numbers()
    jwk = {"kty": "RSA", "kid": "weak", "n": part(numbers.n.to_bytes(128, "big")), "e": part(b"\x01\x00\x01")}
    text = f"{part({'alg': 'RS256', 'kid': 'weak'})}.{part(claims)}"
    return jwk, f"{text}.{part(made.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def with_mac(claims: Any, secret: bytes, **header: Any) -> str:
    """Return a JWT with an HMAC: by the client's secret, or by a public key taken for one."""
    text = f"{part({'alg': 'HS256', 'typ': 'JWT', **header})}.{part(claims)}"
    return f"{text}.{part(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"
