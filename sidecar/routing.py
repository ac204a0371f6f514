"""Which route takes a request: exact host before wildcard, the longest path next, then methods.

A pure function of the target and the method; the table is made once per configuration, so that ten thousand routes
cost what ten cost: one look-up of the host and one per path segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sidecar.model import Target
    from sidecar.settings import Match


class Routed(Protocol):
    """Anything that is chosen by a `Match`."""

    @property
    def match(self) -> Match: ...


R = TypeVar("R", bound=Routed)


_WHOLE_HOST: Final = ("",)


class _Paths(Generic[R]):
    """The routes of one host, by path; at one path those that name port or methods come first."""

    def __init__(self) -> None:
        self.by_path: dict[str, list[R]] = {}
        self.depth = 0

    def add(self, route: R) -> None:
        path = route.match.path.rstrip("/")
        self.by_path.setdefault(path, []).append(route)
        self.by_path[path].sort(key=lambda r: (r.match.port == 0, r.match.methods is None))
        self.depth = max(self.depth, path.count("/"))

    def only(self) -> R | None:
        """Return the route that takes every request, if it is the only one."""
        routes = [route for routes in self.by_path.values() for route in routes]
        match = routes[0].match
        everything = not (self.depth or match.path.rstrip("/") or match.port) and match.methods is None
        return routes[0] if len(routes) == 1 and everything else None

    def find(self, path: str, port: int, method: bytes) -> R | None:
        for prefix in self._prefixes(path) if self.depth else _WHOLE_HOST:
            for route in self.by_path.get(prefix, ()):
                match = route.match
                if match.port in (0, port) and (match.methods is None or method.decode("ascii") in match.methods):
                    return route
        return None

    def _prefixes(self, path: str) -> Iterator[str]:
        """Yield the path's prefixes of whole segments, longest first, down to the empty one."""
        segments = path.split("/", self.depth + 1)[: self.depth + 1]
        for count in range(len(segments), 1, -1):
            yield "/".join(segments[:count])
        yield ""


class Router(Generic[R]):
    """The table of one configuration."""

    def __init__(self, routes: Iterable[R]) -> None:
        self._only: dict[str, R] = {}  # what takes everything for a host
        self._exact: dict[str, _Paths[R]] = {}
        self._suffix: dict[str, _Paths[R]] = {}
        for route in routes:
            host = route.match.host
            table = self._suffix if host.startswith("*.") or not host else self._exact
            table.setdefault(host.removeprefix("*"), _Paths()).add(route)
        for host, paths in self._exact.items():
            if (only := paths.only()) is not None:
                self._only[host] = only

    def find(self, target: Target, method: bytes) -> R | None:
        """Return the route for a request, None where there is none."""
        only = self._only.get(target.host)
        if only is not None:
            return only
        exact = self._exact.get(target.host)
        route = exact.find(target.compared, target.port, method) if exact else None
        if route is not None or not self._suffix:
            return route
        for paths in self._wildcards(target.host):
            route = paths.find(target.compared, target.port, method)
            if route is not None:
                return route
        return None

    def _wildcards(self, host: str) -> Iterator[_Paths[R]]:
        """Yield the tables of `*.suffix` for every suffix, longest first, and last that of any host."""
        at = host.find(".")
        while at >= 0:
            if host[at:] in self._suffix:
                yield self._suffix[host[at:]]
            at = host.find(".", at + 1)
        if "" in self._suffix:
            yield self._suffix[""]
