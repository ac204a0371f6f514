"""Which renewals somebody waits for: a renewal that was begun ahead of need becomes urgent when a caller needs it.

By refresh chain, since a caller on one route waits for the chain's lock that a renewal for another holds. It must not
send anything.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sidecar.gate import Urgency

if TYPE_CHECKING:
    from collections.abc import Iterator

Place = tuple[str, str]
"""Record and provider."""


class Hurry:
    """The chains that callers wait for, and the token requests under way."""

    def __init__(self) -> None:
        self._waiting: Counter[Place] = Counter()
        self._asking: dict[Place, Urgency] = {}

    @contextmanager
    def waiting(self, place: Place) -> Iterator[None]:
        """Let what is asked for this chain be urgent, now and for as long as the context is open."""
        self._waiting[place] += 1
        asking = self._asking.get(place)
        if asking is not None:
            asking.hurry()
        try:
            yield
        finally:
            self._waiting[place] -= 1
            if not self._waiting[place]:
                del self._waiting[place]

    @contextmanager
    def asking(self, place: Place) -> Iterator[Urgency]:
        """Give the urgency of a token request for this chain."""
        urgency = self._asking[place] = Urgency(urgent=place in self._waiting)
        try:
            yield urgency
        finally:
            if self._asking.get(place) is urgency:
                del self._asking[place]
