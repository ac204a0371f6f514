"""How many sessions are held as objects, ready for a request, while the others rest (`resting`).

Decides only, by how many of those at rest are asked for: thousands of sessions that are used all the time cost memory
instead of the time to fold and unfold them.
"""

from __future__ import annotations

MOST_AWAKE = 512
"""Sessions that are not folded, while few are woken."""
MANY_WOKEN = 50
"""Sessions that requests wake between two calls of `breathe`, from which on more are kept awake."""


class Awake:
    """The number for one memory."""

    def __init__(self) -> None:
        self._more = 0
        self._woken = 0

    @property
    def most(self) -> int:
        """Return how many sessions may be awake."""
        return MOST_AWAKE + self._more

    def woke(self) -> None:
        """Take note that a request has woken a session."""
        self._woken += 1

    def breathe(self, most: int) -> None:
        """Allow more, up to about `most`, where many were woken since the last call, else slowly fewer again.

        To be called 4 times a second: the number halves in 11 s.
        """
        if self._woken > MANY_WOKEN:
            self._more = min(2 * self._more + MOST_AWAKE, most)
        elif self._more:
            self._more -= self._more // 64 + 1
        self._woken = 0
