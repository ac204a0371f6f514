"""The issuer's word that a session has ended (OpenID Connect Back-Channel Logout 1.0 sections 2.5 to 2.8).

Finds whose token it is, has it verified, sees that it is used once, ends the sessions. Everything that is wrong with a
logout token is a `LogoutRefusedError` with a word of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from sidecar.errors import Refusal
from sidecar.model import Invalid, Unavailable
from sidecar.oauth import logout_token
from sidecar.oauth.id_token import names_of
from sidecar.oauth.metadata import Metadata
from sidecar.oauth.signature import JwtError, UnknownKeyError, believed, unverified

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.oauth.logout_token import Logout
    from sidecar.provider import AuthorizationServer
    from sidecar.settings import ProviderSettings


class LogoutRefusedError(Exception):
    """The logout token is refused, or the logout failed. `reason` is a word of ours."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Party(NamedTuple):
    """A provider that signs users in, and our registration there."""

    server: AuthorizationServer
    registered: ProviderSettings


class Ends(Protocol):
    """What is asked of `credentials.sign_ins.SignIns`."""

    async def happened(self, kind: str, text: str) -> bool:
        """Say whether it was noted."""

    async def once(self, kind: str, text: str, until: float) -> bool:
        """Take note; say whether it is the first time."""

    async def end(self, issuer: str, subject: str, sid: str) -> int:
        """End the sessions; return how many there were."""


async def sign_out(text: str, parties: Iterable[Party], ends: Ends, now: float) -> int:
    """Do what a logout token says; return how many sessions ended. Raises `LogoutRefusedError`."""
    try:
        party = _party(text, parties)
        logout = await _verified(text, party, now)
        return await _carry_out(logout, ends)
    except JwtError as error:
        raise LogoutRefusedError(error.reason) from None
    except Refusal as refusal:
        raise LogoutRefusedError(refusal.code) from None


def _party(text: str, parties: Iterable[Party]) -> Party:
    """Return whose token it claims to be; its signature will tell whether that is true."""
    claims = unverified(text).claims
    known = [party for party in parties if party.registered.issuer == claims.get("iss")]
    if not known:
        raise JwtError("iss")
    audiences = names_of(claims.get("aud"))
    for party in known:
        if party.registered.client_id in audiences:
            return party
    raise JwtError("aud")


async def _verified(text: str, party: Party, now: float) -> Logout:
    metadata = await party.server.metadata()
    if not isinstance(metadata, Metadata):
        raise LogoutRefusedError("unavailable")
    for missing in (False, True):
        keys = await party.server.keys(missing=missing)
        if isinstance(keys, Unavailable | Invalid):
            raise LogoutRefusedError("unavailable")
        try:
            algorithms = believed(metadata.id_token_algorithms)
            return logout_token.validate(text, keys, metadata.issuer, party.registered.client_id, algorithms, now)
        except UnknownKeyError:
            if missing:
                raise
    raise AssertionError("the second round returns or raises")


async def _carry_out(logout: Logout, ends: Ends) -> int:
    """End the sessions, and only then take note: who breaks off on the way leaves the issuer another try."""
    once = f"{logout.issuer}\0{logout.jti}"
    if await ends.happened("jti", once):
        raise LogoutRefusedError("replayed")
    ended = await ends.end(logout.issuer, logout.subject, logout.sid)
    if not await ends.once("jti", once, logout.until):
        raise LogoutRefusedError("replayed")
    return ended
