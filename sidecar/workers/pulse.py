"""Whether the workers' event loops still turn: each is asked now and then, and one that stays silent is given up.

Decides; sends nothing, kills nothing. Silence is summed up from look to look of the supervisor, and no time between
two looks counts for more than `MOST`: where the whole machine was paused, all were silent and none is to blame. A
worker that somebody has stopped (SIGSTOP, a debugger) is not judged. One is given up at a time, and the next not before
`BETWEEN`: what makes all hang, as a disk that does not answer, is not mended by killing all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection

ASKED = 10
"""How often a worker is asked within the silence that is borne."""
MOST = 2.0
"""Seconds between two looks that count at most."""
BETWEEN = 10.0
"""Seconds between two that are given up."""


class Next(NamedTuple):
    """Whom to ask now, and whom to give up."""

    ask: tuple[int, ...]
    hung: int | None


class Pulses:
    """The workers' answers. Times are seconds of `time.monotonic`."""

    def __init__(self) -> None:
        self._silent: dict[int, float] = {}  # seconds since it was asked, of those that have not answered yet
        self._looked = self._asked = self._given_up = float("-inf")

    @property
    def silent(self) -> Collection[int]:
        """The workers that have not answered yet."""
        return self._silent.keys()

    def heard(self, number: int) -> None:
        """Take note of an answer, or of an end."""
        self._silent.pop(number, None)

    def next(self, borne: float) -> float:
        """Return when to look again; `borne` is the silence that is."""
        return self._looked + min(borne / ASKED, MOST)

    def look(self, now: float, borne: float, there: Collection[int], stopped: Collection[int]) -> Next:
        """Judge the workers that are `there`; those `stopped` keep the silence that they have."""
        passed = min(max(now - self._looked, 0.0), MOST)
        self._looked = now
        for number in self._silent.keys() - set(stopped):
            self._silent[number] += passed
        hung = self._longest(borne) if now >= self._given_up + BETWEEN else None
        if hung is not None:
            self._given_up = now
            self.heard(hung)
        ask: tuple[int, ...] = ()
        if now >= self._asked + borne / ASKED:
            self._asked = now
            ask = tuple(number for number in there if number not in self._silent and number != hung)
            self._silent |= dict.fromkeys(ask, 0.0)
        return Next(ask, hung)

    def _longest(self, borne: float) -> int | None:
        silent = {number: seconds for number, seconds in self._silent.items() if seconds >= borne}
        return max(silent, key=silent.__getitem__) if silent else None
