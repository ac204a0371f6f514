"""Routing: exact host before wildcard, the longest path next, then methods; ten thousand routes cost what ten cost."""

from __future__ import annotations

from dataclasses import dataclass
from timeit import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model import Target
from sidecar.routing import Router
from sidecar.settings import Match


@dataclass(frozen=True)
class Entry:
    name: str
    match: Match


def _target(host: str, path: str = "/", port: int = 80) -> Target:
    return Target("origin", "http", host, port, path.encode(), path, True)


TABLE = (
    Entry("host", Match("a.test")),
    Entry("path", Match("a.test", 0, "/api")),
    Entry("longer", Match("a.test", 0, "/api/v2/")),
    Entry("port", Match("a.test", 8080)),
    Entry("posts", Match("a.test", 0, "/api", frozenset(["POST"]))),
    Entry("wild", Match("*.test")),
    Entry("wilder", Match("*.b.test")),
    Entry("wild-path", Match("*.test", 0, "/only")),
    Entry("any", Match("", 0, "/base")),
    Entry("text", Match("*.test", 0, "/(a+)+$")),
)


@pytest.mark.parametrize(
    ("host", "path", "port", "method", "name"),
    [
        ("a.test", "/", 80, b"GET", "host"),
        ("a.test", "/api", 80, b"GET", "path"),
        ("a.test", "/api/", 80, b"GET", "path"),
        ("a.test", "/api/x/y", 80, b"GET", "path"),
        ("a.test", "/apix", 80, b"GET", "host"),
        ("a.test", "/API", 80, b"GET", "host"),
        ("a.test", "/api", 80, b"POST", "posts"),
        ("a.test", "/api/v2", 80, b"GET", "longer"),
        ("a.test", "/api/v2/x", 80, b"POST", "longer"),
        ("a.test", "/api/v22", 80, b"GET", "path"),
        ("a.test", "/x", 8080, b"GET", "port"),
        ("c.test", "/", 80, b"GET", "wild"),
        ("c.test", "/only/x", 80, b"GET", "wild-path"),
        ("x.b.test", "/", 80, b"GET", "wilder"),
        ("y.x.b.test", "/", 80, b"GET", "wilder"),
        ("b.test", "/", 80, b"GET", "wild"),
        ("test", "/", 80, b"GET", None),
        ("a.test.evil", "/", 80, b"GET", None),
        ("evil-a.test", "/", 80, b"GET", "wild"),
        ("evil.example", "/base/x", 80, b"GET", "any"),
        ("evil.example", "/basement", 80, b"GET", None),
        ("", "/base", 80, b"GET", "any"),
        ("a.test", "/base", 80, b"GET", "host"),
        pytest.param("c.test", "/(a+)+$", 80, b"GET", "text", id="CF-08-no-pattern"),
        pytest.param("c.test", "/" + "a" * 64 + "!", 80, b"GET", "wild", id="CF-08-pattern-of-a-path-is-text"),
    ],
)
def test_route_is_chosen(host: str, path: str, port: int, method: bytes, name: str | None):
    """[SS-09, PD-04] Whole labels and whole segments; the most exact route wins, whatever the order of the file."""
    for table in (TABLE, TABLE[::-1]):
        found = Router(table).find(_target(host, path, port), method)
        assert (found.name if found else None) == name


def test_no_routes_match_nothing():
    """[PD-04] An empty table is not a table that matches everything."""
    assert Router[Entry]([]).find(_target("a.test"), b"GET") is None


_hosts = st.sampled_from(["a", "b.a", "c.b.a", "*.a", "*.b.a", "*.c.b.a", ""])
_paths = st.lists(st.sampled_from(["x", "y", "xy"]), max_size=3).map(lambda segments: "/" + "/".join(segments))
_methods = st.none() | st.sets(st.sampled_from(["GET", "POST"]), min_size=1).map(frozenset)
_matches = st.builds(Match, _hosts, st.sampled_from([0, 80, 81]), _paths, _methods)


def _takes(match: Match, target: Target, method: str) -> bool:
    host = not match.host or (
        target.host.endswith(match.host[1:]) if match.host[:1] == "*" else target.host == match.host
    )
    path = match.path.rstrip("/")
    return (
        host and match.port in (0, target.port) and (target.compared + "/").startswith(path + "/")
        and (match.methods is None or method in match.methods)
    )  # fmt: skip


def _rank(match: Match) -> tuple[bool, int, int]:
    return (match.host[:1] != "*" and match.host != "", len(match.host), len(match.path.rstrip("/")))


@given(
    matches=st.lists(_matches, max_size=12), host=st.sampled_from(["a", "b.a", "c.b.a", "d.c.b.a", "z"]), path=_paths,
    port=st.sampled_from([80, 81]), method=st.sampled_from(["GET", "POST"]),
)  # fmt: skip
def test_table_agrees_with_a_search_of_all_routes(matches: list[Match], host: str, path: str, port: int, method: str):
    """The look-up finds a route exactly where a plain search does, and one of the best rank."""
    target = _target(host, path, port)
    taking = [match for match in matches if _takes(match, target, method)]
    found = Router([Entry("", match) for match in matches]).find(target, method.encode())
    assert (found is None) == (not taking)
    if found is not None:
        assert _rank(found.match) == max(map(_rank, taking))


def test_ten_thousand_routes_cost_what_ten_cost():
    """A look-up does not depend on the number of routes."""
    costs = []
    for count in (10, 10_000):
        router = Router([Entry(str(n), Match(f"h{n}.test", 0, f"/p{n}")) for n in range(count)])
        target = _target("h9.test", "/p9/x")
        assert router.find(target, b"GET") is not None
        costs.append(
            min(timeit(lambda router=router, target=target: router.find(target, b"GET"), number=2000) for _ in range(7))
        )
    assert costs[1] < costs[0] * 3
