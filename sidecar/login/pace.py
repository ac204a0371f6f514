"""How many sign-ins may be begun: a limit for all browsers together. Pure; `now` is in seconds, of any clock.

What is begun is kept by the browser alone, so this bounds what it leads to: requests to the authorization server, and
the marks of answers that came, which the store keeps for 20 minutes.
"""

from __future__ import annotations

from collections import deque

WINDOW = 1.0


class Pace:
    """The sign-ins begun within the last second."""

    def __init__(self) -> None:
        self._begun: deque[float] = deque()

    def admits(self, per_second: int, now: float) -> bool:
        """Say whether one more may be begun, and count it if so."""
        while self._begun and not now - WINDOW < self._begun[0] <= now:
            self._begun.popleft()
        if len(self._begun) >= per_second:
            return False
        self._begun.append(now)
        return True
