"""When a Redis that is away is asked again: not by everyone, and not at once.

Pure but for its `clock`. After a failed operation (which was tried twice) everybody is refused for a moment; then one
caller probes for all. It must not know what failed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REST = 0.25


class Breaker:
    """Closed: everybody may ask. Open: nobody, for `REST` seconds. Then one probe, whose end decides."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._open_until: float | None = None
        self._probing = False

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

    def succeeded(self) -> None:
        """Redis answered."""
        self._open_until = None
        self._probing = False

    def failed(self) -> None:
        """Redis did not answer."""
        self._open_until = self._clock() + REST
        self._probing = False

    def gave_up(self) -> None:
        """The caller was cancelled before anything was known: another one may probe."""
        self._probing = False
