"""When a worker that has ended is started again. Pure; times are seconds of any one clock."""

from __future__ import annotations

from typing import NamedTuple

FIRST, LONGEST = 0.1, 30.0
"""Seconds before the second start in a row, and at most."""
STEADY = 10.0
"""Seconds after which a worker's end does not count as one of a row."""


class Next(NamedTuple):
    """How many ends in a row there were, and when to start again."""

    failures: int
    at: float


def after_end(failures: int, started: float, now: float) -> Next:
    """Return what follows the end of a worker: at once where it had been steady, later with each end in a row."""
    if now - started >= STEADY:
        return Next(0, now)
    return Next(failures + 1, now + min(FIRST * 2**failures, LONGEST))
