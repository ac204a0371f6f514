"""When a Redis that is away is asked again: not by everyone, and not at once.

Pure but for its `clock`. After a failed operation (which was tried twice) everybody is refused for a moment; then one
caller probes for all. After an outage that lasted it remembers for a while that there was one. It must not know what
failed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REST = 0.25
LONG = 1.0
"""Seconds from the first failure to the next success that make an outage, not a hiccup: a failover takes longer."""
SHAKEN_FOR = 10.0


class Breaker:
    """Closed: everybody may ask. Open: nobody, for `REST` seconds. Then one probe, whose end decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open_until: float | None = None
        self._probing = False
        self._failing_since: float | None = None
        self._back_at = float("-inf")

    @property
    def shaken(self) -> bool:
        """Whether an outage has ended, or another server took over, within the last `SHAKEN_FOR` seconds."""
        return self._clock() < self._back_at + SHAKEN_FOR

    @property
    def closed(self) -> bool:
        """Whether all is well, as far as is known."""
        return self._open_until is None

    def admits(self) -> bool:
        """Say whether the caller may ask now. One who may must call `succeeded`, `failed` or `gave_up`."""
        if self._open_until is None:
            return True
        if self._probing or self._clock() < self._open_until:
            return False
        self._probing = True
        return True

    def now(self) -> float:
        """Return the time on the clock that outages are measured by."""
        return self._clock()

    def succeeded(self) -> None:
        """Redis answered."""
        if self._failing_since is not None and self._clock() >= self._failing_since + LONG:
            self._back_at = self._clock()
        self._failing_since = None
        self._open_until = None
        self._probing = False

    def taken_over(self) -> None:
        """Another server is the master now, or about to be: that need not show as an outage."""
        self._back_at = self._clock()

    def stumbled(self, began: float) -> None:
        """The first try of an operation that `began` then failed: an outage counts from there."""
        if self._failing_since is None:
            self._failing_since = began

    def failed(self, began: float) -> None:
        """Redis did not answer an operation that `began` then, perhaps for as long as a failover takes."""
        self.stumbled(began)
        self._open_until = self._clock() + REST
        self._probing = False

    def gave_up(self) -> None:
        """The caller was cancelled before anything was known: another one may probe."""
        self._probing = False
