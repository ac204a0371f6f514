"""Signs the demo's JWTs with a key made at start, and publishes its public half.

RFC 7515, RFC 7517 and RFC 7519; the `at+jwt` type is of RFC 9068 section 2.1.
"""

from __future__ import annotations

from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey

ALGORITHM = "ES256"


class Signer:
    """One ES256 key; it lives as long as the server object."""

    def __init__(self) -> None:
        self._key = ECKey.generate_key("P-256", parameters={"use": "sig", "alg": ALGORITHM}, auto_kid=True)

    def sign(self, claims: dict[str, Any], kind: str = "JWT") -> str:
        """Return a signed JWT whose `typ` is `kind`."""
        header = {"alg": ALGORITHM, "typ": kind, "kid": self._key.kid}
        return jwt.encode(header, claims, self._key, algorithms=[ALGORITHM])

    def jwks(self) -> dict[str, Any]:
        """Return the JSON Web Key Set with the public key."""
        return {"keys": [self._key.as_dict(private=False)]}
