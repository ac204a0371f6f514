"""A worker that serves the admin listener asks about all: each is asked, and the answers are put together in time.

Who does not answer within `PATIENCE` is left out; its counters are then those that it told last.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sidecar.workers.channel import Message

PATIENCE = 1.0
"""Seconds that a worker has for its answer."""


@dataclass(slots=True, eq=False)
class Round:
    """One question. `question` is the asker's own number for it."""

    asker: int
    question: int
    until: float
    waiting: set[int]
    answers: dict[int, Message] = field(default_factory=dict)


class Rounds:
    """The questions under way. `tell` sends to a worker, `answered` is called with each that is complete."""

    def __init__(self, tell: Callable[[int, Message], None], answered: Callable[[Round], None]) -> None:
        self._tell = tell
        self._answered = answered
        self._open: dict[int, Round] = {}
        self._last = 0

    def begin(self, asker: int, question: int, want: list[str], workers: Collection[int], now: float) -> None:
        """Ask `workers` for what is wanted: metrics, readiness, recent."""
        self._last += 1
        self._open[self._last] = Round(asker, question, now + PATIENCE, set(workers))
        for number in workers:
            self._tell(number, {"do": "report", "round": self._last, "want": want})

    def heard(self, number: int, answer: Message) -> None:
        """Take a worker's answer; one that comes too late is dropped."""
        found = self._open.get(answer["round"])
        if found is not None and number in found.waiting:
            found.answers[number] = answer
            self._leave(number, answer["round"])

    def gone(self, number: int) -> None:
        """Wait no longer for a worker that has ended, and ask nothing for it."""
        for at, found in list(self._open.items()):
            if found.asker == number:
                del self._open[at]
            elif number in found.waiting:
                self._leave(number, at)

    def expire(self, now: float) -> None:
        """Complete what has waited long enough."""
        for at, found in list(self._open.items()):
            if now >= found.until:
                del self._open[at]
                self._answered(found)

    def next(self) -> float | None:
        """Return when `expire` is to be called."""
        return min((found.until for found in self._open.values()), default=None)

    def _leave(self, number: int, at: int) -> None:
        found = self._open[at]
        found.waiting.discard(number)
        if not found.waiting:
            del self._open[at]
            self._answered(found)
