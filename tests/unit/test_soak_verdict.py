"""What the run against oidc-provider is judged by: each thing that must not happen is seen when it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from soak.oidc_provider import verdict
from soak.oidc_provider.issuer import RESOURCES, Event
from soak.oidc_provider.load import Answer
from soak.oidc_provider.story import End, Failover

if TYPE_CHECKING:
    from collections.abc import Callable

LIFE = 10.0
FAILOVER = Failover(at=1000.0, began=50.0, promoted=2.0)
PROFILES = RESOURCES["profiles"].name


def token(at: float, user: str = "u1", grant: str = "refresh_token", error: str = "") -> Event:
    """A token request that the provider told of."""
    return Event("token", at, {"grant": grant, "subject": user, "resource": PROFILES, "error": error})


def answer(asked: float, code: str = "login_required") -> Answer:
    """What a caller was told."""
    return Answer("u1", 0, asked, 0.0, code)


DOUBLED = {
    "once each expiry": ([0, 8, 16], [], False),
    "twice": ([0, 8, 9], [], True),
    "twice, at a sign-in": ([0, 8, 9], [8.5], False),
    "twice, in a failover": ([1000, 1001], [], False),
}


@pytest.mark.parametrize(("renewals", "sign_ins", "bad"), DOUBLED.values(), ids=[f"[RF-02] {one}" for one in DOUBLED])
def test_two_renewals_for_one_expiry_are_seen(renewals: list[float], sign_ins: list[float], bad: bool) -> None:
    """A sign-in begins a new chain, and a failover may lose a write; nothing else explains them."""
    events = [token(at) for at in renewals] + [token(at, grant="authorization_code") for at in sign_ins]
    assert bool(verdict.doubled(events, [FAILOVER], LIFE)) is bad


def test_token_that_nobody_ever_used_is_seen() -> None:
    """The last one of a key may be unused, and one in twenty; no more."""
    events = [token(0), token(8), token(16)]
    assert verdict.wasted(events, {("u1", "profiles"): ["a", "b"]}) == []
    assert verdict.wasted(events, {("u1", "profiles"): ["a"]}) == ["u1 on profiles: 3 tokens issued, 1 seen"]


REFUSED: dict[str, tuple[list[float], list[End], int]] = {
    "out of the blue": ([500.0], [], 1),
    "in a failover": ([1003.0], [], 0),
    "once after a revocation": ([500.0], [End("revoked", "u1", 0.0, 499.0, 3.0)], 0),
    "again and again after a revocation": ([500.0, 501.0], [End("revoked", "u1", 0.0, 499.0, 3.0)], 1),
    "long after a sign-out": ([510.0], [End("sign-out", "u1", 0.0, 500.0, 1.0)], 1),
}


@pytest.mark.parametrize(("times", "ends", "words"), REFUSED.values(), ids=[f"[RF-07] {one}" for one in REFUSED])
def test_refused_renewal_needs_an_explanation(times: list[float], ends: list[End], words: int) -> None:
    """A grant that was revoked is asked for once; every other refusal is a fault, but in a failover."""
    events = [token(at, error="invalid_grant: refresh token already used") for at in times]
    assert len(verdict.unexplained(events, ends, [FAILOVER])) == words


WINDOW: dict[str, tuple[Callable[..., Any], Answer, bool]] = {
    "lost in a failover": (verdict.unpermitted, answer(52.0), False),
    "lost before it": (verdict.unpermitted, answer(49.0), True),
    "lost long after it": (verdict.unpermitted, answer(50.0 + verdict.OUTAGE + 1), True),
    "refused in a failover": (verdict.outside, answer(52.0, "store_unavailable"), False),
    "refused long after it": (verdict.outside, answer(50.0 + verdict.OUTAGE + 1, "store_unavailable"), True),
}


@pytest.mark.parametrize(("judge", "told", "bad"), WINDOW.values(), ids=WINDOW)
def test_loss_and_refusal_outside_a_failovers_window_are_seen(
    judge: Callable[..., Any], told: Answer, bad: bool
) -> None:
    """The window begins with the loss of the primary and ends after fifteen seconds."""
    assert bool(judge([told], [FAILOVER])) is bad


def test_sign_out_that_the_provider_did_not_hear_of_is_seen() -> None:
    """It must have been asked to revoke, and must have sent its logout token in vain or not."""
    end = End("sign-out", "u1", 0.0, 500.0, 1.0)
    told = Event("backchannel", 501.0, {"subject": "u1", "error": "", "late": False})
    revoked = Event("revocation", 500.0, {"subject": "u1", "status": 200})
    assert verdict.untold([told, revoked], [end]) == []
    assert len(verdict.untold([told], [end])) == 1
    assert len(verdict.untold([told._replace(members={**told.members, "error": "400"}), revoked], [end])) == 1
