"""What is counted. `admin/prometheus.py` shows it, `docs/metrics.md` explains it to operators.

The request path bumps plain integers in slotted objects and nothing else. Decides nothing about requests. Labels are
names from the configuration and rows of `errors.REFUSALS`: never a host, a path, a session or anything else that a
request brought, so the number of series is bounded by the configuration.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the latency buckets, in seconds."""

NO_ROUTE: Final = ""
UNMATCHED: Final = "(unmatched)"
"""Stands for the route of what is forwarded without one."""
RECENT: Final = 50


class RecentRefusal(NamedTuple):
    """One refusal as the status page shows it: when (seconds since the epoch), on which route, and its code."""

    at: float
    route: str
    code: str


class RouteTally:
    """The counters of one route, bound once when the configuration is loaded."""

    __slots__ = ("_recent", "buckets", "cache", "name", "refusals", "replays", "seconds", "statuses")

    def __init__(self, name: str, recent: Callable[[str, str], None]) -> None:
        self.name = name
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.refusals: defaultdict[str, int] = defaultdict(int)
        self.cache: defaultdict[str, int] = defaultdict(int)  # "hit" | "stale" | "miss"
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.replays = 0
        self._recent = recent

    def answered(self, status: int, seconds: float) -> None:
        """Count a response of the upstream and the seconds from the request's head to the response's end."""
        self.statuses[status] += 1
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def refused(self, code: str) -> None:
        """Count a request of this route that the sidecar answered itself. `code` is a row of `errors.REFUSALS`."""
        self.refusals[code] += 1
        self._recent(self.name, code)


@dataclass(slots=True)
class Readers:
    """What other parts know and a scrape asks them for. The composition root fills it; each must be quick."""

    token_requests: Callable[[], Mapping[str, Mapping[str, int]]] = dict  # provider → result → count
    upstream_connections: Callable[[], int] = int
    sessions: Callable[[], int | None] = lambda: None
    credentials: Callable[[], Mapping[str, Mapping[str, float]]] = dict  # what `broker.figures` says
    sign_ins: Callable[[], Mapping[str, int]] = dict  # result → count
    unreplicated: Callable[[], int] = int
    log_lines_dropped: Callable[[], int] = int


class Metrics:
    """All counters of the process. Bumped on the event loop only, so nothing is locked."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.started_at = clock()
        self.routes: dict[str, RouteTally] = {}
        self.refusals: Counter[str] = Counter()  # of requests that matched no route
        self.recent: deque[RecentRefusal] = deque(maxlen=RECENT)
        self.connections = 0
        self.connections_total = 0
        self.config_reloads: Counter[str] = Counter()  # by result: "ok" | "failed"
        self.config_last_reload = 0.0  # seconds since the epoch, of the last one that succeeded
        self.config_ok = True
        self.read = Readers()

    def route(self, name: str) -> RouteTally:
        """Return the counters of the route `name`; the same object for the same name, across reloads."""
        return self.routes.setdefault(name, RouteTally(name, self._remember))

    def retain(self, names: Iterable[str]) -> None:
        """Forget the routes that are not among `names`, so that reloads do not grow the page for ever."""
        kept = {UNMATCHED, *names}
        self.routes = {name: tally for name, tally in self.routes.items() if name in kept}

    def refused(self, code: str) -> None:
        """Count a request that was refused before it matched a route. `code` is a row of `errors.REFUSALS`."""
        self.refusals[code] += 1
        self._remember(NO_ROUTE, code)

    def reloaded(self, ok: bool) -> None:
        """Count a reload of the configuration."""
        self.config_reloads["ok" if ok else "failed"] += 1
        self.config_ok = ok
        if ok:
            self.config_last_reload = self._clock()

    def refusals_by_code(self) -> Counter[str]:
        """Return all refusals, with and without a route."""
        return sum((Counter(tally.refusals) for tally in self.routes.values()), self.refusals.copy())

    def _remember(self, route: str, code: str) -> None:
        self.recent.append(RecentRefusal(self._clock(), route, code))
