"""When the next token request may be sent."""

from __future__ import annotations

import pytest

from sidecar.model import ClientRefused, Form, Granted, GrantRefused, Invalid, Outcome, Secret, Token, Unavailable
from sidecar.oauth.pacing import CEILING, MAX_HOLDS, Pacer, Request, pause

GRANTED = Granted(Token(Secret("at"), 0, 300))


def refresh(token: str, scope: str = "a") -> Request:
    """Spend a refresh token."""
    return Request.of([("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)])


ALICE, BOB, OTHER_ROUTE = refresh("alice"), refresh("bob"), refresh("alice", scope="b")


def failed(pacer: Pacer, outcome: Outcome, now: float, request: Request = ALICE, jitter: float = 0) -> None:
    """Let one request through and fail."""
    assert pacer.admit(request, now, jitter) is None
    pacer.record(request, outcome, sent_at=now, now=now, jitter=jitter)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (10_000, 60)])
def test_a_pause_doubles_up_to_a_minute(failures: int, seconds: float) -> None:
    """1, 2, 4 … 60 s, of which jitter takes up to a half."""
    assert pause(failures, 0) == seconds
    assert pause(failures, 1) == seconds / 2


@pytest.mark.parametrize("jitter", [0, 0.5, 1])
def test_a_pause_is_never_shorter_than_retry_after(jitter: float) -> None:
    """[IDP-06] What the server asked for is the least; jitter only adds."""
    assert 100 <= pause(1, jitter, 100) <= 110.001
    assert pause(7, 0, 5) == CEILING


HELD = {
    "unavailable: the whole provider": (Unavailable("timeout"), [ALICE, BOB, OTHER_ROUTE], []),
    "invalid: the route": (Invalid("token_type"), [ALICE, BOB], [OTHER_ROUTE]),
    "[IDP-13] invalid_client: the route": (ClientRefused("invalid_client"), [ALICE, BOB], [OTHER_ROUTE]),
    "[IDP-13] unauthorized_client: the route": (ClientRefused("unauthorized_client"), [ALICE, BOB], [OTHER_ROUTE]),
    "[IDP-13] invalid_scope: this request": (ClientRefused("invalid_scope"), [ALICE], [BOB, OTHER_ROUTE]),
    "invalid_grant: this request": (GrantRefused(), [ALICE], [BOB, OTHER_ROUTE]),
    "granted: nothing": (GRANTED, [], [ALICE, BOB, OTHER_ROUTE]),
}


FORGED = Request.of([("grant_type", "authorization_code"), ("code", "forged"), ("redirect_uri", "r")])
GOOD = Request.of([("grant_type", "authorization_code"), ("code", "good"), ("redirect_uri", "r")])


@pytest.mark.parametrize(
    ("outcome", "alone"),
    [
        (Unavailable("http_500"), True),
        (Unavailable("server_error"), True),
        (Unavailable("http_502"), True),
        (Unavailable("broken_off"), True),
        (Invalid("http_400"), True),
        (Unavailable("http_500", 5.0), False),
        (Unavailable("http_503"), False),
        (Unavailable("http_429"), False),
        (Unavailable("connect"), False),
        (Unavailable("timeout"), True),
        (Unavailable("http_504"), True),
    ],
)
def test_code_that_a_server_stumbles_over_holds_back_nobody_else(outcome: Outcome, alone: bool) -> None:
    """[IDP-05] Whoever makes up codes stops neither renewals nor sign-ins; a server that is away stops all."""
    pacer = Pacer()
    failed(pacer, outcome, 100, FORGED)
    assert pacer.refusal(FORGED, 100.9) is not None
    assert [pacer.refusal(request, 100.9) is None for request in (ALICE, GOOD)] == [alone, alone]
    assert (pacer.provider_hold(100.9) is None) is alone


def test_made_up_code_is_no_probe_for_a_provider_that_failed() -> None:
    """[IDP-05] After an outage whoever makes up codes would be the first each time, and keep renewals waiting for more."""
    pacer = Pacer()
    over = 100.0
    for failures in range(1, 7):
        failed(pacer, Unavailable("connect"), over)
        over += pause(failures, 0)
    failed(pacer, Unavailable("http_500"), over, FORGED)
    assert pacer.admit(ALICE, over + 0.1, 0) is None
    assert pacer.refusal(GOOD, over + 0.2) is not None


@pytest.mark.parametrize(("outcome", "held", "free"), HELD.values(), ids=HELD)
def test_a_failure_holds_back_what_it_concerns(outcome: Outcome, held: list[Request], free: list[Request]) -> None:
    """One user's fault does not stop another, one route's not another route; a silent provider stops all."""
    pacer = Pacer()
    failed(pacer, outcome, 100)
    assert all(pacer.refusal(request, 100.9) is not None for request in held)
    assert all(pacer.refusal(request, 101) is None for request in held)
    assert all(pacer.refusal(request, 100) is None for request in free)


@pytest.mark.parametrize(
    ("outcome", "meanwhile"),
    [
        (Unavailable("http_503"), Unavailable("backing_off", 0.75)),
        (Invalid("not_json"), Unavailable("backing_off", 0.75)),
        (ClientRefused("invalid_client"), ClientRefused("invalid_client")),
        (GrantRefused(), GrantRefused()),
    ],
)
def test_meanwhile_the_answer_is_known(outcome: Outcome, meanwhile: Outcome) -> None:
    """Callers fail fast: a refusal is repeated, anything else says when to come back."""
    pacer = Pacer()
    failed(pacer, outcome, 100)
    assert pacer.refusal(ALICE, 100.25) == meanwhile


def test_failures_in_a_row_wait_longer_and_a_success_forgets_them() -> None:
    """[IDP-05] The exponent counts consecutive failures only."""
    pacer = Pacer()
    now, pauses = 1000.0, []
    for outcome in (*[Unavailable("connect")] * 8, GRANTED, Unavailable("connect")):
        failed(pacer, outcome, now)
        until = pacer.provider_hold(now) or now
        pauses.append(until - now)
        now = until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 0, 1]


@pytest.mark.parametrize("outcome", [Invalid("scope"), ClientRefused("invalid_client"), ClientRefused("invalid_scope")])
def test_a_success_forgets_what_the_route_and_the_request_did(outcome: Outcome) -> None:
    """After a token was granted a new failure starts with one second again."""
    pacer = Pacer()
    for now in (100, 110):
        failed(pacer, outcome, now)
    assert pacer.refusal(ALICE, 111.9) is not None
    failed(pacer, GRANTED, 112)
    failed(pacer, outcome, 120)
    assert pacer.refusal(ALICE, 121) is None


@pytest.mark.parametrize("alive", [GrantRefused(), ClientRefused("invalid_scope")])
def test_any_proper_answer_shows_that_the_provider_is_back(alive: Outcome) -> None:
    """A provider that refuses one request by the rules is up: the others are no longer held back."""
    pacer = Pacer()
    failed(pacer, Unavailable("connect"), 100)
    failed(pacer, alive, 101)
    assert pacer.refusal(BOB, 101) is None
    assert pacer.provider_hold(101) is None


def test_requests_that_failed_together_count_once() -> None:
    """[IDP-18] Sixty-four requests in flight when the provider falls are one failure, not sixty-four."""
    pacer = Pacer()
    requests = [refresh(f"user-{n}") for n in range(64)]
    for request in requests:
        assert pacer.admit(request, 100, 0) is None
    for n, request in enumerate(requests):
        pacer.record(request, Unavailable("timeout"), sent_at=100, now=110 + n / 1000, jitter=0)
    assert pacer.provider_hold(110.1) == pytest.approx(111.063)


def test_after_a_hold_one_request_probes_and_the_others_wait() -> None:
    """[IDP-18] Ten thousand waiting sessions do not fall upon a provider that has just come back."""
    pacer = Pacer()
    failed(pacer, Unavailable("connect"), 100)
    admitted = [pacer.admit(refresh(f"user-{n}"), 101, 0) is None for n in range(1000)]
    assert admitted.count(True) == 1
    pacer.record(refresh("user-0"), GRANTED, sent_at=101, now=101.1, jitter=0)
    assert pacer.refusal(BOB, 101.1) is None


def test_a_later_failure_never_shortens_retry_after() -> None:
    """[IDP-06] Of two requests in flight the one told to wait longer rules."""
    pacer = Pacer()
    assert (pacer.admit(ALICE, 100, 0), pacer.admit(BOB, 100, 0)) == (None, None)
    pacer.record(ALICE, Unavailable("http_429", 600), sent_at=100, now=101, jitter=0)
    pacer.record(BOB, Unavailable("http_429"), sent_at=100, now=102, jitter=0)
    assert pacer.provider_hold(102) == 701


@pytest.mark.parametrize("by", [10, 1800, 50_000])
def test_a_clock_set_back_prolongs_no_hold(by: float) -> None:
    """[ST-10] A pause of a second stays one of a second: there is one probe, and the others wait for it."""
    pacer = Pacer()
    failed(pacer, Unavailable("connect"), 100_000)
    assert pacer.provider_hold(100_000) == 100_001
    now = 100_000 - by
    assert pacer.refusal(ALICE, now) is None
    assert pacer.provider_hold(now) is None
    assert pacer.admit(ALICE, now, 0) is None
    assert isinstance(pacer.admit(BOB, now, 0), Unavailable)
    assert pacer.provider_hold(now) == now + 1


def test_holds_are_bounded() -> None:
    """Any number of users refused for their own fault takes bounded memory."""
    pacer = Pacer()
    for n in range(MAX_HOLDS + 10):
        failed(pacer, GrantRefused(), 100, refresh(f"user-{n}"))
    assert len(pacer._holds) == MAX_HOLDS
    assert pacer.refusal(refresh("user-0"), 100) is None
    assert pacer.refusal(refresh(f"user-{MAX_HOLDS}"), 100) == GrantRefused()


def test_the_keys_of_a_request_show_no_secret() -> None:
    """A form's secret values are only ever hashed."""
    form: Form = [("grant_type", "refresh_token"), ("refresh_token", "canary"), ("assertion", "canary")]
    assert "canary" not in repr(Request.of(form))
