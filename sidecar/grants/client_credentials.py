"""`client_credentials`: the application's own token (RFC 6749 section 4.4)."""

from __future__ import annotations

from sidecar.grants.common import wanted
from sidecar.model import As, Form, Secret, TokenSpec

NAME = "client_credentials"
AS: As = "app"
MINTS = True


def mint(spec: TokenSpec) -> Form:
    """Ask for a token for the client itself."""
    return [("grant_type", "client_credentials"), *wanted(spec)]


def renew(spec: TokenSpec, _refresh_token: Secret) -> Form:
    """Ask anew: a refresh token is not expected here, and not used (RFC 6749 section 4.4.3)."""
    return mint(spec)
