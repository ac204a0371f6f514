"""How many sign-ins may be begun: never more than the limit in any second, none refused below it."""

from __future__ import annotations

from sidecar.login.pace import Pace


def test_no_second_has_more_sign_ins_than_the_limit() -> None:
    """A flood gets the limit and no more; when it is over there is room at once."""
    pace = Pace()
    begun = [at / 100 for at in range(1000) if pace.admits(5, at / 100)]
    assert len(begun) == 50
    assert max(sum(at <= other < at + 1 for other in begun) for at in begun) == 5
    assert pace.admits(5, 11.0)


def test_clock_that_is_set_back_shuts_nobody_out() -> None:
    """What was begun in a future that is no more does not count."""
    pace = Pace()
    assert pace.admits(1, 1000.0)
    assert pace.admits(1, 10.0)
    assert not pace.admits(1, 10.5)
