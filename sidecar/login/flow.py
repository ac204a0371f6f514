"""The decisions of a sign-in and a sign-out that need no world. Pure: random values, time and answers are arguments.

What may go wrong is a `SignInError` with one of the names of `TROUBLE`; nothing that a server or a browser sent gets
into a page or a log but an `error` code of the specifications. RFC 6749 section 5.1, OpenID Connect Core section 3.1,
RP-Initiated Logout 1.0 section 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sidecar.login import return_to
from sidecar.model import ClientRefused, Granted, GrantRefused, Invalid, Outcome, Unavailable
from sidecar.oauth.authorization import Pending, mark, with_query
from sidecar.oauth.error_codes import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.model import Form, Secret
    from sidecar.oauth.metadata import Metadata
    from sidecar.settings import Login

CALLBACK = "/oauth2/callback"


class Trouble(NamedTuple):
    """What a person is told, with which status, and whether trying again can help."""

    status: int
    title: str
    text: str
    again: bool = True


TROUBLE: dict[str, Trouble] = {
    "return_to": Trouble(
        400, "This address is not allowed", "The sign-in would lead to a place that it may not.", False
    ),
    "provider": Trouble(404, "Unknown provider", "Nobody signs in by this provider here.", False),
    "state": Trouble(
        400,
        "This sign-in cannot go on",
        "It was not begun in this browser, it took too long, or it was used already.",
    ),
    "mixed_up": Trouble(400, "This sign-in cannot go on", "The answer came from another server than the one asked."),
    "denied": Trouble(403, "You were not signed in", "The sign-in was refused or called off."),
    "refused": Trouble(502, "You were not signed in", "The authorization server refused the request."),
    "unavailable": Trouble(503, "The sign-in is not available", "The authorization server does not answer."),
    "invalid": Trouble(502, "You were not signed in", "The authorization server's answer is not valid."),
    "busy": Trouble(503, "Too many people sign in at this moment", "Please try again in a few seconds."),
    "store": Trouble(503, "The sign-in is not available", "Sessions cannot be stored at the moment."),
    "signed_out": Trouble(409, "You were signed out", "The authorization server ended the session meanwhile."),
    "cross_site": Trouble(403, "You are still signed in", "Another site asked to sign you out.", False),
    "not_found": Trouble(404, "There is nothing here", "The sign-in's pages have other addresses.", False),
    "bad_request": Trouble(400, "This request is not understood", "It is not one of the sign-in's own.", False),
    "internal": Trouble(500, "The sign-in failed", "The fault is on our side."),
}


class SignInError(Exception):
    """A sign-in or sign-out ends here. `name` is a row of `TROUBLE`, `reason` a word for the log."""

    def __init__(self, name: str, reason: str = "") -> None:
        super().__init__(name, reason)
        self.name = name
        self.trouble = TROUBLE[name]
        self.reason = reason or name


def chosen(named: str | None, login: Login) -> str:
    """Return the provider to sign in by."""
    name = login.providers[0] if named is None else named
    if name not in login.providers:
        raise SignInError("provider")
    return name


def landing(asked: str | None, login: Login) -> str:
    """Return where the browser goes afterwards."""
    found = return_to.landing(asked, login.return_to, login.public_url)
    if found is None:
        raise SignInError("return_to")
    return found


def begin(
    words: tuple[str, str, str], provider: str, issuer: str, landing_at: str, scopes: Iterable[str], now: float
) -> Pending:
    """Return a new sign-in. `words` are three random texts of 43 base64url characters: state, nonce, verifier."""
    state, nonce, verifier = words
    return Pending(state, nonce, verifier, provider, issuer, landing_at, int(now), mark(scopes))


def asked(pending: Pending, login: Login) -> frozenset[str]:
    """Return the scopes that a sign-in asked for; none where the configuration has others by now."""
    scopes = frozenset(login.scopes)
    return scopes if pending.scopes in ("", mark(scopes)) else frozenset()  # empty: begun by an older version


def authenticated_since(max_age: int | None, pending: Pending) -> float | None:
    """Return the earliest moment at which the user may have proven who they are; None where that was not asked."""
    return None if max_age is None else pending.begun_at - max_age


def pushes(login: Login, metadata: Metadata) -> bool:
    """Say whether the authorization request is pushed (RFC 9126)."""
    offered = metadata.pushed_authorization_request_endpoint is not None
    if (login.par == "require" or metadata.par_required) and not offered:
        raise SignInError("refused", "par_not_offered")
    if login.par == "never" and metadata.par_required:
        raise SignInError("refused", "par_required")
    return offered and login.par != "never"


def granted(outcome: Outcome, asked: frozenset[str]) -> Granted:
    """Return the tokens of a code exchange; a response without `scope` granted what was `asked` for (RFC 6749)."""
    match outcome:
        case Granted(token) if token.scopes is None:
            return outcome._replace(token=replace(token, scopes=asked))
        case Granted():
            return outcome
        case Unavailable(reason):
            raise SignInError("unavailable", reason)
        case GrantRefused(error):
            raise SignInError("state", shown(error))
        case ClientRefused(error):
            raise SignInError("refused", shown(error))
        case Invalid(reason):
            raise SignInError("invalid", reason)


def told(error: str) -> SignInError:
    """Return what the `error` of an authorization response means to a person (RFC 6749 section 4.1.2.1)."""
    if error in ("access_denied", "login_required", "consent_required", "interaction_required"):
        return SignInError("denied", error)
    if error in ("temporarily_unavailable", "server_error"):
        return SignInError("unavailable", error)
    return SignInError("refused", shown(error))


def callback_trouble(reason: str) -> SignInError:
    """Return what is told of an answer that was refused."""
    return SignInError("mixed_up" if reason.startswith("issuer") else "state", reason)


def from_here(headers: Mapping[str, str], login: Login) -> bool:
    """Say whether a POST comes from a page of ours or of a place that is returned to, not from a stranger's.

    Every browser sends Origin with a POST; what sends neither line is no browser, and nobody can make it call.
    """
    origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
    if site == "same-origin" or (origin is None and site is None):
        return True
    return origin in {login.public_url, *map(return_to.origin_of, login.return_to)}


def logout_url(metadata: Metadata, client_id: str, id_token: Secret | None, landing_at: str) -> str | None:
    """Return where the browser signs out at the provider too; None where that is not offered, or not ours to ask."""
    if metadata.end_session_endpoint is None or id_token is None:
        return None
    form: Form = [
        ("id_token_hint", id_token.reveal()),
        ("client_id", client_id),
        ("post_logout_redirect_uri", landing_at),
    ]
    return with_query(metadata.end_session_endpoint, form)
