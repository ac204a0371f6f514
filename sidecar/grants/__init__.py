"""The door of the grants: what a token request asks for. A new grant is one file and one line here.

A grant turns a `TokenSpec` into the parameters of a token request (RFC 6749 section 4). It sends nothing, sees no
clock, and knows no client secret: client authentication is `oauth.client_auth`.
"""

from __future__ import annotations

from typing import Protocol

from sidecar.grants import client_credentials, session
from sidecar.model import As, Form, Secret, TokenSpec


class Grant(Protocol):
    """A module of this package."""

    NAME: str
    AS: As
    MINTS: bool  # whether a token can be had without a refresh token

    def mint(self, spec: TokenSpec, /) -> Form:
        """Return the parameters that ask for a first token (where `MINTS`)."""

    def renew(self, spec: TokenSpec, refresh_token: Secret, /) -> Form:
        """Return the parameters that spend `refresh_token`."""


GRANTS: dict[str, Grant] = {
    grant.NAME: grant
    for grant in (
        client_credentials,
        session,
    )
}
