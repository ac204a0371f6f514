"""`errand`: client credentials that name an errand (RFC 6749 section 4.4 with a parameter of one's own)."""

from __future__ import annotations

from sidecar.grants.common import wanted
from sidecar.model import As, Form, Secret, TokenSpec

NAME = "errand"
AS: As = "app"
MINTS = True


def mint(spec: TokenSpec) -> Form:
    return [("grant_type", "client_credentials"), ("errand", "milk"), *wanted(spec)]


def renew(spec: TokenSpec, _refresh_token: Secret) -> Form:
    return mint(spec)
