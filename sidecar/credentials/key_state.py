"""What operators are told of one key: whether a token is at hand, and how it is. Never the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from sidecar.credentials.entry import Credential


class KeyState(NamedTuple):
    """What this process holds for a key. `seconds_left` is until the expiry."""

    state: Literal["none", "fresh", "stale", "expired", "rejected", "renewing"]
    seconds_left: float = 0.0
    generation: int = 0


def state_of(credential: Credential, now: float) -> Literal["fresh", "stale", "expired"]:
    """Return how a token at hand is."""
    return state_at(credential.stale_at, credential.usable_until, now)


def state_at(stale_at: float, usable_until: float, now: float) -> Literal["fresh", "stale", "expired"]:
    """Return how a token with these times is."""
    if now >= usable_until:
        return "expired"
    return "fresh" if now < stale_at else "stale"
