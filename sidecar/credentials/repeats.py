"""What is refused again without asking anybody: a refusal of a moment ago, and names that the store does not know.

Bounded, synchronous, no I/O and no clock. Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sidecar.errors import Refusal

MOST_UNKNOWN = 10_000
UNKNOWN_FOR = 2.0


class Hold(NamedTuple):
    """A refusal that is repeated without asking anybody until `until`."""

    refusal: str
    detail: str
    since: float
    until: float


class Repeats:
    """The refusals by record and route, and the unknown records."""

    def __init__(self) -> None:
        self._holds: dict[str, dict[str, Hold]] = {}
        self._unknown: dict[str, float] = {}

    def hold(self, name: str, fingerprint: str, refusal: Refusal, now: float, seconds: float) -> None:
        """Repeat a refusal for some seconds."""
        self._holds.setdefault(name, {})[fingerprint] = Hold(refusal.name, refusal.detail, now, now + seconds)

    def held_back(self, name: str, fingerprint: str, now: float) -> Hold | None:
        """Return the refusal to repeat."""
        hold = self._holds.get(name, {}).get(fingerprint)
        return hold if hold and hold.since <= now < hold.until else None

    def release(self, name: str, fingerprint: str) -> None:
        """Repeat no refusal of a route any more."""
        self._holds.get(name, {}).pop(fingerprint, None)

    def unknown(self, name: str, now: float) -> None:
        """Take note that the store has no such record: it is not asked again for a moment."""
        if len(self._unknown) >= MOST_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[name] = now + UNKNOWN_FOR

    def is_unknown(self, name: str, now: float) -> bool:
        """Say whether the store has just been seen to have no such record."""
        until = self._unknown.get(name)
        return until is not None and until - UNKNOWN_FOR <= now < until

    def forget(self, name: str) -> None:
        """Ask again about a record: it has changed."""
        self._unknown.pop(name, None)
        self._holds.pop(name, None)

    def forget_unknown(self) -> None:
        """Ask the store again about every record that it did not know."""
        self._unknown.clear()

    def release_all(self) -> None:
        """Repeat no refusal any more."""
        self._holds.clear()

    def sweep(self, now: float) -> None:
        """Free what is over."""
        self._unknown = {name: until for name, until in self._unknown.items() if now < until}
        for name, holds in list(self._holds.items()):
            if not any(now < hold.until for hold in holds.values()):
                del self._holds[name]
