"""The life of a credential as two pure tables: what to do with what we hold, and what a token request's outcome means.

Decides only: no clock (`now` is an argument), no store, no provider. Times are seconds since the epoch. RFC 6749
sections 5 and 6. The broker carries the decisions out, twice where a lock is needed: it reads and plans again.

`plan`: `usable` is unexpired and not rejected by the resource server.

| token                        | refresh token | can mint | plan          |
|------------------------------|---------------|----------|---------------|
| usable, fresh                | any           | any      | USE           |
| usable, stale                | yes           | any      | USE_AND_RENEW |
| usable, stale                | no            | yes      | USE_AND_RENEW |
| usable, stale                | no            | no       | USE           |
| none, expired or rejected    | yes           | any      | RENEW         |
| none, expired or rejected    | no            | yes      | MINT          |
| none, expired or rejected    | no            | no       | NEED_LOGIN    |

`settle`: `plan` is the one that made the token request; `usable` is judged again at `now`.

| outcome                             | plan              | held      | can mint | verdict       |
|-------------------------------------|-------------------|-----------|----------|---------------|
| Granted                             | any               | any       | any      | KEEP          |
| GrantRefused                        | any but MINT      | refresh   | yes      | RETRY_AS_MINT |
| GrantRefused                        | otherwise         |           |          | FORGET        |
| ClientRefused, Unavailable, Invalid | USE, USE_AND_RENEW| usable    | any      | STILL_USE     |
| ClientRefused, Unavailable, Invalid | otherwise         |           |          | FAIL          |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sidecar.model import Granted, GrantRefused, Outcome, Secret, Token

EARLY_SHARE, EARLY_MOST = 0.2, 60.0
LEEWAY_SHARE, LEEWAY_MOST = 0.05, 2.0
AHEAD_FROM, AHEAD_BY = 0.6, 0.9
SKEW_SHARE, SKEW_MOST = 0.2, 30.0


class Plan(Enum):
    """What to do with what is held."""

    USE = "use"
    USE_AND_RENEW = "use and renew"
    RENEW = "renew"
    MINT = "mint"
    NEED_LOGIN = "need login"


class Verdict(Enum):
    """What a token request's outcome means for what is held."""

    KEEP = "keep"
    RETRY_AS_MINT = "retry as mint"
    STILL_USE = "still use"
    FORGET = "forget"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Held:
    """What there is for one key. `jitter` stretches the early window, so that many tokens do not go stale at once."""

    token: Token | None = None
    refresh_token: Secret | None = None
    jitter: float = 1.0


def stale_at(token: Token, jitter: float) -> float:
    """Return when renewal begins: min(60 s, 20 % of life) before the expiry, times `jitter` (1 to 1.25)."""
    return token.expires_at - min(EARLY_MOST, EARLY_SHARE * max(token.life, 0.0)) * jitter


def ahead_at(token: Token, spread: float) -> float:
    """Return when a token in use is renewed ahead of need: from 60 % of its life on, by 90 % and before it goes stale.

    `spread` (0 to 1) is where in that time.
    """
    first = token.requested_at + AHEAD_FROM * token.life
    last = min(token.requested_at + AHEAD_BY * token.life, stale_at(token, 1.25))
    return first + spread * max(last - first, 0.0)


def dead_at(token: Token) -> float:
    """Return when the token counts as expired: a moment early (2 s, at most 5 % of life), lest it die on its way."""
    return token.expires_at - min(LEEWAY_MOST, LEEWAY_SHARE * max(token.life, 0.0))


def true_from(token: Token) -> float:
    """Return the time before which the clock must have been set back since the token was asked for.

    What the clock says about the expiry is then too good to be true. Up to 30 s or 20 % of life is taken for the
    difference between two instances' clocks.
    """
    return token.requested_at - min(SKEW_MOST, SKEW_SHARE * max(token.life, 0.0))


def plan(held: Held, now: float, can_mint: bool, rejected: bool) -> Plan:
    """Decide by the first table. `rejected`: the resource server refused the held token."""
    token = held.token
    if token is None or rejected or now >= dead_at(token):
        if held.refresh_token is not None:
            return Plan.RENEW
        return Plan.MINT if can_mint else Plan.NEED_LOGIN
    renewable = can_mint or held.refresh_token is not None
    stale = now >= stale_at(token, held.jitter) or now < true_from(token)
    return Plan.USE_AND_RENEW if stale and renewable else Plan.USE


def settle(outcome: Outcome, planned: Plan, held: Held, now: float, can_mint: bool) -> Verdict:
    """Decide by the second table."""
    if isinstance(outcome, Granted):
        return Verdict.KEEP
    if isinstance(outcome, GrantRefused):
        spent = planned is not Plan.MINT and held.refresh_token is not None
        return Verdict.RETRY_AS_MINT if spent and can_mint else Verdict.FORGET
    trusted = planned in (Plan.USE, Plan.USE_AND_RENEW) and held.token is not None
    return Verdict.STILL_USE if trusted and held.token and now < dead_at(held.token) else Verdict.FAIL
