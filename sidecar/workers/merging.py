"""One view of several workers: what becomes of their counters, gauges and readiness taken together. Pure.

A snapshot is plain data: family → rows of labels and a number, as `admin/prometheus.py` reads it from the counters.
Counters are summed, those of workers that have ended included, so that they never go back. A gauge is summed, or the
largest or smallest is taken, or the supervisor alone knows it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sidecar.metrics import NO_ROUTE, UNMATCHED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

Row = tuple[list[str], float]
Snapshot = dict[str, list[Row]]
"""By family: the values of its labels, and the number."""

SUMMED = frozenset(
    [
        "sidecar_connections",
        "sidecar_upstream_connections",
        "sidecar_tokens",
        "sidecar_unstored_refresh_tokens",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    ]
)
LARGEST = frozenset(["sidecar_sessions", "sidecar_build_info", "process_open_fds"])
SMALLEST = frozenset(["process_max_fds", "process_start_time_seconds"])
SUPERVISED = frozenset(
    [
        "sidecar_workers",
        "sidecar_worker_restarts_total",
        "sidecar_config_valid",
        "sidecar_config_last_reload_success_timestamp_seconds",
        "sidecar_config_reloads_total",
    ]
)
"""What each worker would count for itself and the supervisor knows for all."""
GAUGES = SUMMED | LARGEST | SMALLEST | SUPERVISED
"""What ends with its worker; every other family is a counter."""
BY_ROUTE = frozenset(["sidecar_requests_total", "sidecar_refusals_total", "sidecar_replays_total",
                      "sidecar_token_cache_total", "sidecar_request_seconds"])  # fmt: skip
_WORST = ("failing", "off", "unknown", "ok")


def merged(workers: Iterable[Snapshot], ended: Snapshot, supervisor: Snapshot) -> Snapshot:
    """Return one snapshot for all. `ended` are the counters of workers that are no more."""
    rows: dict[str, dict[tuple[str, ...], float]] = {}
    for snapshot in (*workers, ended):
        for name, found in snapshot.items():
            if name not in SUPERVISED:
                _add(name, rows.setdefault(name, {}), found)
    together = {name: [(list(labels), value) for labels, value in found.items()] for name, found in rows.items()}
    return {**together, **supervisor}


def counters(snapshot: Snapshot) -> Snapshot:
    """Return what stays of a worker when it has ended."""
    return {name: rows for name, rows in snapshot.items() if name not in GAUGES}


def pruned(snapshot: Snapshot, routes: Collection[str]) -> Snapshot:
    """Return a snapshot without the routes that are not among `routes`, as a reload leaves it."""
    return {
        name: [row for row in rows if name not in BY_ROUTE or row[0][0] in (NO_ROUTE, UNMATCHED, *routes)]
        for name, rows in snapshot.items()
    }


def _add(name: str, into: dict[tuple[str, ...], float], rows: Iterable[Row]) -> None:
    for labels, value in rows:
        key = tuple(labels)
        if key not in into:
            into[key] = value
        elif name in LARGEST:
            into[key] = max(into[key], value)
        elif name in SMALLEST:
            into[key] = min(into[key], value)
        else:
            into[key] += value


def ready(answers: Sequence[Mapping[str, Any]], workers: int) -> dict[str, Any]:
    """Return the readiness of all: `ready` while every worker answers and is; each check as its worst worker has it.

    An answer has the members of `admin.state.Readiness`, a check is [state, detail, required].
    """
    checks: dict[str, list[Any]] = {}
    for answer in answers:
        for name, check in answer["checks"].items():
            if name not in checks or _WORST.index(check[0]) < _WORST.index(checks[name][0]):
                checks[name] = check
    state = "ok" if len(answers) >= workers else "failing"
    checks["workers"] = [state, f"{len(answers)} of {workers} answer", True]
    lasting = [answer["tokens_last"] for answer in answers if answer["tokens_last"] is not None]
    return {
        "ready": state == "ok" and all(answer["ready"] for answer in answers),
        "checks": checks,
        "tokens_last": min(lasting, default=None),
    }


def by_route(snapshot: Snapshot, name: str) -> Counter[str]:
    """Return the sum of a family's rows by their first label."""
    total: Counter[str] = Counter()
    for labels, value in snapshot.get(name, ()):
        total[labels[0]] += int(value)
    return total
