"""`session`: the signed-in user's token, renewed with the session's refresh token (RFC 6749 section 6)."""

from __future__ import annotations

from sidecar.grants.common import wanted
from sidecar.model import As, Form, Secret, TokenSpec

NAME = "session"
AS: As = "user"
MINTS = False


def mint(spec: TokenSpec) -> Form:
    """Never: only a sign-in makes a session's first token."""
    raise NotImplementedError(spec.grant)


def renew(spec: TokenSpec, refresh_token: Secret) -> Form:
    """Spend the session's refresh token for this route's scope, audience and resources."""
    return [("grant_type", "refresh_token"), ("refresh_token", refresh_token.reveal()), *wanted(spec)]
