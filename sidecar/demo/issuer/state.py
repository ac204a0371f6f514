"""What the server knows while it runs: its policy, users, clients, ledger and the record of what it was asked.

The issuance of one access token and of one token response stands here, since every grant ends in it.
RFC 6749 section 5.1, RFC 9068 section 2.2, OpenID Connect Core section 2.
"""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.demo.issuer.faults import Faults
from sidecar.demo.issuer.ledger import AccessToken, Family, Grant, Ledger
from sidecar.demo.issuer.signing import Signer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.demo.issuer.clients import Client

ID_TOKEN_LIFE = 300
USERS = {"alice": "Alice Liddell", "bob": "Bob Cratchit"}


@dataclass(slots=True)
class Policy:
    """What an operator could set; all of it can change at run time. Seconds."""

    access_life: float = 300
    rotate: bool = True
    leeway: float = 0.0  # how long a spent refresh token may be used again
    skew: float = 0.0  # added to iat and exp of what is signed: a server with a wrong clock
    default_audience: str = "demo-api"


@dataclass(frozen=True, slots=True)
class Received:
    """One request that the server got. Holds no secret. `scope` and `targets` are as asked for, `time` its arrival.

    `subject`: the user or, for client_credentials, the client. `outcome`: "ok", an OAuth error code, or the fault.
    """

    endpoint: str
    time: float
    grant_type: str = ""
    client_id: str = ""
    scope: str = ""
    targets: tuple[str, ...] = ()
    subject: str = ""
    outcome: str = ""


@dataclass(slots=True)
class State:
    """Everything mutable of one authorization server. `clock` gives seconds since the epoch and may be replaced."""

    clock: Callable[[], float] = time.time
    issuer: str = ""
    policy: Policy = field(default_factory=Policy)
    faults: Faults = field(default_factory=Faults)
    ledger: Ledger = field(default_factory=Ledger)
    signer: Signer = field(default_factory=Signer)
    clients: dict[str, Client] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=lambda: dict(USERS))
    requests: list[Received] = field(default_factory=list)

    def access_token(self, grant: Grant, family: Family | None) -> str:
        """Sign and register an access token for exactly what `grant` says (RFC 9068)."""
        now, life = self.clock(), self.policy.access_life
        audience = grant.audience or (self.policy.default_audience,)
        claims = {
            "iss": self.issuer,
            "sub": grant.subject,
            "aud": audience[0] if len(audience) == 1 else list(audience),
            "client_id": grant.client_id,
            "scope": " ".join(sorted(grant.scopes)),
            "jti": secrets.token_urlsafe(12),
            "iat": int(now + self.policy.skew),
            "exp": math.ceil(now + self.policy.skew + life),
        }
        text = self.signer.sign(claims, "at+jwt")
        self.ledger.access[text] = AccessToken(claims, now + life, family)
        return text

    def token_response(self, grant: Grant, family: Family | None = None, *, refresh: bool = False) -> dict[str, Any]:
        """Return a token response; `refresh` adds a refresh token of the family."""
        answer: dict[str, Any] = {
            "access_token": self.access_token(grant, family),
            "token_type": "Bearer",
            "expires_in": self.policy.access_life,
            "scope": " ".join(sorted(grant.scopes)),
        }
        if family and refresh:
            answer["refresh_token"] = self.ledger.add_refresh(family)
        if family and "openid" in grant.scopes:
            answer["id_token"] = self._id_token(grant)
        return answer

    def _id_token(self, grant: Grant) -> str:
        issued = int(self.clock() + self.policy.skew)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": grant.subject,
            "aud": grant.client_id,
            "iat": issued,
            "exp": issued + ID_TOKEN_LIFE,
            "auth_time": int(grant.auth_time),
        }
        return self.signer.sign(claims | ({"nonce": grant.nonce} if grant.nonce else {}))
