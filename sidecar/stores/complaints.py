"""What operators are told of a store that fails: why, when that is news, and again once a minute while it lasts.

Callers get one refusal for all causes; the cause stands here alone. Its text names a file or a class of error, never
an address, a password or a record. It does not say when all is well again: a full disk can still be read.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.errors import StoreUnavailableError

AGAIN = 60.0  # seconds after which the same cause is told again
_log = logging.getLogger(__name__)


class Complaints:
    """The causes of one store's failures. `clock` gives seconds of any origin."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, float] = {}

    def failed(self, error: StoreUnavailableError) -> None:
        """Tell the cause, unless it was told a moment ago."""
        reason, now = str(error), self._clock()
        if now - self._told.get(reason, -AGAIN) < AGAIN:
            return
        self._told = {known: at for known, at in self._told.items() if now - at < AGAIN} | {reason: now}
        _log.warning("store_failing", extra={"reason": reason})
