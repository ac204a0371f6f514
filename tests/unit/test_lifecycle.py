"""The two tables of the lifecycle, row by row, and what must hold for every credential."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.credentials.lifecycle import Held, Plan, Verdict, dead_at, plan, settle, stale_at, true_from
from sidecar.model import ClientRefused, Granted, GrantRefused, Invalid, Outcome, Secret, Token, Unavailable

NOW = 1_800_000_000.0
REFRESH = Secret("refresh")


def token(life: float = 3600.0, age: float = 0.0) -> Token:
    """Return a token that was asked for `age` seconds ago."""
    return Token(Secret("access"), NOW - age, NOW - age + life)


FRESH, STALE, EXPIRED = token(), token(age=3550), token(age=3700)
GRANTED = Granted(token())
FAILURES: list[Outcome] = [ClientRefused("invalid_client"), Unavailable("timeout"), Invalid("html")]


@pytest.mark.parametrize(
    ("held", "rejected", "refresh_token", "can_mint", "expected"),
    [
        pytest.param(FRESH, False, None, False, Plan.USE, id="fresh"),
        pytest.param(FRESH, False, REFRESH, True, Plan.USE, id="fresh-renewable"),
        pytest.param(STALE, False, REFRESH, False, Plan.USE_AND_RENEW, id="RF-16-stale-refresh"),
        pytest.param(STALE, False, None, True, Plan.USE_AND_RENEW, id="stale-mint"),
        pytest.param(STALE, False, None, False, Plan.USE, id="stale-nothing-to-renew-with"),
        pytest.param(EXPIRED, False, REFRESH, False, Plan.RENEW, id="expired-refresh"),
        pytest.param(EXPIRED, False, REFRESH, True, Plan.RENEW, id="expired-refresh-before-mint"),
        pytest.param(EXPIRED, False, None, True, Plan.MINT, id="expired-mint"),
        pytest.param(EXPIRED, False, None, False, Plan.NEED_LOGIN, id="expired-nothing"),
        pytest.param(FRESH, True, REFRESH, False, Plan.RENEW, id="rejected-refresh"),
        pytest.param(STALE, True, None, True, Plan.MINT, id="rejected-mint"),
        pytest.param(FRESH, True, None, False, Plan.NEED_LOGIN, id="rejected-nothing"),
        pytest.param(None, False, REFRESH, False, Plan.RENEW, id="none-refresh"),
        pytest.param(None, False, None, True, Plan.MINT, id="none-mint"),
        pytest.param(None, False, None, False, Plan.NEED_LOGIN, id="none-nothing"),
        pytest.param(token(age=-3600), False, REFRESH, False, Plan.USE_AND_RENEW, id="ST-10-clock-set-back"),
        pytest.param(token(age=-10), False, REFRESH, False, Plan.USE, id="ST-11-clocks-of-two-instances-differ"),
    ],
)
def test_plan_follows_the_table(
    held: Token | None, rejected: bool, refresh_token: Secret | None, can_mint: bool, expected: Plan
) -> None:
    """What is held decides what is done."""
    assert plan(Held(held, refresh_token), NOW, can_mint, rejected) is expected


@pytest.mark.parametrize(
    ("outcome", "planned", "held", "can_mint", "expected"),
    [
        pytest.param(GRANTED, Plan.RENEW, Held(None, REFRESH), False, Verdict.KEEP, id="granted"),
        pytest.param(GRANTED, Plan.USE_AND_RENEW, Held(STALE, REFRESH), False, Verdict.KEEP, id="granted-early"),
        pytest.param(GRANTED, Plan.MINT, Held(), True, Verdict.KEEP, id="minted"),
        pytest.param(GrantRefused(), Plan.RENEW, Held(None, REFRESH), True, Verdict.RETRY_AS_MINT, id="mint-instead"),
        pytest.param(GrantRefused(), Plan.RENEW, Held(None, REFRESH), False, Verdict.FORGET, id="PD-18-session-ends"),
        pytest.param(GrantRefused(), Plan.USE_AND_RENEW, Held(STALE, REFRESH), False, Verdict.FORGET, id="ends-early"),
        pytest.param(GrantRefused(), Plan.MINT, Held(None, REFRESH), True, Verdict.FORGET, id="mint-refused"),
        *[
            pytest.param(failure, planned, held, can_mint, expected, id=f"{type(failure).__name__}-{name}")
            for failure in FAILURES
            for name, planned, held, can_mint, expected in [
                ("IDP-01-still-valid", Plan.USE_AND_RENEW, Held(STALE, REFRESH), False, Verdict.STILL_USE),
                ("IDP-02-expired-meanwhile", Plan.USE_AND_RENEW, Held(EXPIRED, REFRESH), False, Verdict.FAIL),
                ("rejected-or-expired", Plan.RENEW, Held(FRESH, REFRESH), False, Verdict.FAIL),
                ("nothing-held", Plan.RENEW, Held(None, REFRESH), False, Verdict.FAIL),
                ("mint", Plan.MINT, Held(FRESH), True, Verdict.FAIL),
            ]
        ],
    ],
)
def test_settle_follows_the_table(
    outcome: Outcome, planned: Plan, held: Held, can_mint: bool, expected: Verdict
) -> None:
    """What came of the token request decides what becomes of what is held."""
    assert settle(outcome, planned, held, NOW, can_mint) is expected


@pytest.mark.parametrize(
    ("life", "stale", "dead"),
    [
        pytest.param(24 * 3600, 60, 2, id="PD-16-a-day"),
        pytest.param(3600, 60, 2, id="an-hour"),
        pytest.param(300, 60, 2, id="five-minutes"),
        pytest.param(30, 6, 1.5, id="PD-16-half-a-minute"),
        pytest.param(3, 0.6, 0.15, id="IDP-11-three-seconds"),
        pytest.param(1, 0.2, 0.05, id="one-second"),
        pytest.param(0, 0, 0, id="no-life"),
        pytest.param(-5, 0, 0, id="negative-life"),
    ],
)
def test_windows_depend_on_the_life_of_the_token(life: float, stale: float, dead: float) -> None:
    """Renewal begins 60 s or a fifth of the life early, and the last moment is not used."""
    made = token(life)
    assert stale_at(made, 1.0) == pytest.approx(made.expires_at - stale)
    assert dead_at(made) == pytest.approx(made.expires_at - dead)


tokens = st.builds(
    lambda requested_at, life: Token(Secret("access"), requested_at, requested_at + life),
    st.floats(NOW - 1e6, NOW + 1e6),
    st.floats(-10, 90_000),
)
helds = st.builds(Held, st.none() | tokens, st.none() | st.just(REFRESH), st.floats(1, 1.25))
outcomes = st.sampled_from([GRANTED, GrantRefused(), *FAILURES])


@given(helds, st.floats(NOW - 1e6, NOW + 1e6), st.booleans(), st.booleans())
def test_an_expired_or_rejected_token_is_never_used(held: Held, now: float, can_mint: bool, rejected: bool) -> None:
    """USE and USE_AND_RENEW imply an unexpired token that nobody rejected."""
    if plan(held, now, can_mint, rejected) in (Plan.USE, Plan.USE_AND_RENEW):
        assert held.token is not None
        assert now < held.token.expires_at
        assert not rejected


@given(helds, st.floats(NOW - 1e6, NOW + 1e6), st.booleans(), st.booleans(), outcomes)
def test_only_a_refused_grant_forgets(held: Held, now: float, can_mint: bool, rejected: bool, outcome: Outcome) -> None:
    """No other outcome ends anything, and none but a grant is kept."""
    verdict = settle(outcome, plan(held, now, can_mint, rejected), held, now, can_mint)
    assert (verdict in (Verdict.FORGET, Verdict.RETRY_AS_MINT)) == isinstance(outcome, GrantRefused)
    assert (verdict is Verdict.KEEP) == isinstance(outcome, Granted)


@given(helds, st.floats(NOW - 1e6, NOW + 1e6), st.booleans(), st.booleans(), st.sampled_from(FAILURES))
def test_a_valid_token_outlives_every_failure_and_no_other_does(
    held: Held, now: float, can_mint: bool, rejected: bool, failure: Outcome
) -> None:
    """A failed renewal leaves a usable token in use, and never brings back an expired or rejected one."""
    planned = plan(held, now, can_mint, rejected)
    usable = held.token is not None and now < dead_at(held.token) and not rejected
    assert (settle(failure, planned, held, now, can_mint) is Verdict.STILL_USE) == usable


@given(tokens.filter(lambda made: made.life > 0), st.floats(1, 1.25))
def test_a_token_is_fresh_before_stale_before_dead_before_expired(made: Token, jitter: float) -> None:
    """The windows do not overlap, so a short life does not mean a renewal for every request."""
    assert true_from(made) <= made.requested_at <= stale_at(made, jitter) <= dead_at(made) <= made.expires_at
