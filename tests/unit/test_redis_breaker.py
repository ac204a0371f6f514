"""When a Redis that is away is asked again, and what is remembered of an outage."""

from __future__ import annotations

import pytest

from sidecar.stores.redis_breaker import LONG, REST, SHAKEN_FOR, Breaker
from tests.support.credentials import Clock


@pytest.mark.parametrize(("lasted", "shaken"), [(LONG / 2, False), (LONG, True), (60.0, True)])
def test_outage_that_lasted_is_remembered_for_a_while_and_a_hiccup_is_not(lasted: float, shaken: bool) -> None:
    """[RD-06] A failover takes seconds, and may lose a lock; a dropped connection loses none."""
    clock = Clock()
    breaker = Breaker(clock)
    breaker.failed(clock.now)
    clock.now += lasted
    breaker.failed(clock.now)
    breaker.succeeded()
    assert breaker.shaken is shaken
    clock.now += SHAKEN_FOR
    assert not breaker.shaken


@pytest.mark.parametrize("again", [True, False], ids=["the second try answered", "the next operation answered"])
def test_operation_that_waited_through_a_failover_is_an_outage(again: bool) -> None:
    """[RD-06] One operation can wait for all of a failover: it counts from where it began, not from where it failed."""
    clock = Clock()
    breaker = Breaker(clock)
    began = breaker.now()
    clock.now += LONG
    if again:
        breaker.stumbled(began)
    else:
        breaker.failed(began)
    breaker.succeeded()
    assert breaker.shaken


def test_hiccups_with_successes_between_them_make_no_outage() -> None:
    """[RD-06] Only what fails without a break counts."""
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(20):
        breaker.failed(clock.now)
        clock.now += REST
        breaker.succeeded()
    assert not breaker.shaken


def test_server_that_took_over_is_remembered_whatever_answers() -> None:
    """[RD-06] A demoted one goes on answering who only reads."""
    clock = Clock()
    breaker = Breaker(clock)
    breaker.taken_over()
    breaker.succeeded()
    assert breaker.shaken
    clock.now += SHAKEN_FOR
    assert not breaker.shaken
