"""What was issued to whom: codes, refresh token families and access tokens, and what is still good of it.

Every method is synchronous, so nothing can come between looking a refresh token up and spending it: two concurrent
refreshes of one token are one success and one reuse. A reuse kills the family, the winner's tokens included
(RFC 9700 section 4.14.2). A code is good once; a second use kills what the first one bought (RFC 6749 section 4.1.2).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from sidecar.demo.issuer.parameters import OAuthError

CODE_LIFE = 60.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What was agreed: whose, for which client, scopes and audiences (none named: any)."""

    subject: str
    client_id: str
    scopes: frozenset[str]
    audience: tuple[str, ...] = ()
    nonce: str = ""
    auth_time: float = 0.0


@dataclass(slots=True)
class Family:
    """All tokens that descend from one sign-in."""

    grant: Grant
    dead: bool = False


@dataclass(slots=True)
class RefreshToken:
    """One refresh token of a family. `spent_at` is set when a rotation replaced it."""

    family: Family
    spent_at: float | None = None


@dataclass(slots=True)
class AccessToken:
    """One access token by its claims. Outside a family it belongs to the application itself."""

    claims: dict[str, Any]
    expires_at: float
    family: Family | None
    revoked: bool = False

    def active(self, now: float) -> bool:
        """Tell whether the token is neither expired nor revoked, alone or with its family."""
        return now < self.expires_at and not self.revoked and not (self.family and self.family.dead)


@dataclass(slots=True)
class Code:
    """One authorization code and what its use must match."""

    grant: Grant
    redirect_uri: str
    challenge: str
    expires_at: float
    family: Family | None = None  # set when the code was used


@dataclass(slots=True)
class Ledger:
    """The three registers, by the token's or code's own text."""

    codes: dict[str, Code] = field(default_factory=dict, repr=False)
    refresh: dict[str, RefreshToken] = field(default_factory=dict, repr=False)
    access: dict[str, AccessToken] = field(default_factory=dict, repr=False)

    def add_code(self, code: Code) -> str:
        """Register a code and return its text."""
        text = secrets.token_urlsafe(24)
        self.codes[text] = code
        return text

    def use_code(self, text: str, client_id: str, now: float) -> Code:
        """Return the code for its one use, with its new family; raise `invalid_grant` where it is not good."""
        code = self.codes.get(text)
        if code is None or code.grant.client_id != client_id:
            raise OAuthError("invalid_grant", "the code is unknown")
        if code.family:
            code.family.dead = True
            raise OAuthError("invalid_grant", "the code was used before")
        code.family = Family(code.grant)
        if now >= code.expires_at:
            raise OAuthError("invalid_grant", "the code is expired")
        return code

    def add_refresh(self, family: Family) -> str:
        """Register a new refresh token of a family and return its text."""
        text = secrets.token_urlsafe(32)
        self.refresh[text] = RefreshToken(family)
        return text

    def find_refresh(self, text: str, client_id: str, now: float, leeway: float) -> RefreshToken:
        """Return a refresh token that may be used; one spent more than `leeway` seconds ago kills its family."""
        found = self.refresh.get(text)
        if found is None or found.family.grant.client_id != client_id:
            raise OAuthError("invalid_grant", "the refresh token is unknown")
        if found.spent_at is not None and now >= found.spent_at + leeway:
            found.family.dead = True
        if found.family.dead:
            raise OAuthError("invalid_grant", "the refresh token is revoked")
        return found

    def revoke_access(self, subject: str) -> int:
        """Revoke the access tokens of a subject ("all": everybody's) issued so far, and return how many."""
        chosen = [token for token in self.access.values() if subject in {"all", token.claims["sub"]}]
        for token in chosen:
            token.revoked = True
        return len(chosen)

    def kill_families(self, subject: str) -> int:
        """End the refresh families of a subject ("all": everybody's), access tokens included; return how many."""
        families = {id(token.family): token.family for token in self.refresh.values()}
        chosen = [family for family in families.values() if subject in {"all", family.grant.subject}]
        for family in chosen:
            family.dead = True
        return len(chosen)

    def revoke(self, text: str, client_id: str) -> None:
        """Revoke one token of a client; an unknown one is no error (RFC 7009 section 2.2)."""
        if (refresh := self.refresh.get(text)) and _of(refresh.family.grant.client_id, client_id):
            refresh.family.dead = True
        if (access := self.access.get(text)) and _of(access.claims["client_id"], client_id):
            access.revoked = True


def _of(owner: str, client_id: str) -> bool:
    if owner != client_id:
        raise OAuthError("invalid_grant", "the token was issued to another client")
    return True
