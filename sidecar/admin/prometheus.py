"""How Prometheus reads the counters: every metric by name, kind, help and labels. `docs/metrics.md` lists the same.

Reads `sidecar.metrics` on a scrape and writes text; counts nothing itself.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from sidecar import __version__
from sidecar.admin import process, text_format
from sidecar.build import is_compiled
from sidecar.metrics import BOUNDS, NO_ROUTE, Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Sample = tuple[tuple[str, ...], float]
"""The values of a family's labels, and the number."""


class Family(NamedTuple):
    """One metric: its name as Prometheus shows it, kind, one-line help, labels, and what it reads."""

    name: str
    kind: str  # "counter" | "gauge"
    help: str
    labels: tuple[str, ...]
    samples: Callable[[Metrics], Iterable[Sample]]


def _statuses(metrics: Metrics) -> Iterator[Sample]:
    for name, tally in metrics.routes.items():
        classes: Counter[str] = Counter()
        for status, count in tally.statuses.items():
            classes[f"{status // 100}xx"] += count
        yield from (((name, status_class), count) for status_class, count in sorted(classes.items()))


def _cache(metrics: Metrics) -> Iterator[Sample]:
    for name, tally in metrics.routes.items():
        yield from (((name, state), count) for state, count in sorted(tally.cache.items()))


def _token_requests(metrics: Metrics) -> Iterator[Sample]:
    for provider, results in metrics.read.token_requests().items():
        yield from (((provider, result), count) for result, count in sorted(results.items()))


def _refusals(metrics: Metrics) -> Iterator[Sample]:
    yield from (((NO_ROUTE, code), count) for code, count in sorted(metrics.refusals.items()))
    for name, tally in metrics.routes.items():
        yield from (((name, code), count) for code, count in sorted(tally.refusals.items()))


def _sessions(metrics: Metrics) -> Iterator[Sample]:
    count = metrics.read.sessions()
    if count is not None:
        yield (), count


def _credentials(part: str) -> Callable[[Metrics], Iterable[Sample]]:
    return lambda metrics: [((name,), value) for name, value in metrics.read.credentials().get(part, {}).items()]


def _one(read: Callable[[Metrics], float]) -> Callable[[Metrics], Iterable[Sample]]:
    return lambda metrics: [((), read(metrics))]


FAMILIES = (
    Family("sidecar_requests_total", "counter", "Responses of upstreams, by route and status class.",
           ("route", "status_class"), _statuses),
    Family("sidecar_refusals_total", "counter", "Requests that the sidecar answered itself, by route and code.",
           ("route", "code"), _refusals),
    Family("sidecar_replays_total", "counter", "Requests sent again with a new token after a 401.",
           ("route",), lambda m: [((name,), tally.replays) for name, tally in m.routes.items()]),
    Family("sidecar_token_requests_total", "counter", "Token requests to authorization servers, by result.",
           ("provider", "result"), _token_requests),
    Family("sidecar_token_cache_total", "counter", "Look-ups of a token: hit, stale (used, being renewed) or miss.",
           ("route", "state"), _cache),
    Family("sidecar_connections", "gauge", "Open connections of applications.",
           (), _one(lambda m: m.connections)),
    Family("sidecar_connections_total", "counter", "Connections accepted from applications.",
           (), _one(lambda m: m.connections_total)),
    Family("sidecar_upstream_connections", "gauge", "Open connections to upstreams, idle ones included.",
           (), _one(lambda m: m.read.upstream_connections())),
    Family("sidecar_sessions", "gauge", "Live sessions that this process knows.",
           (), _sessions),
    Family("sidecar_tokens", "gauge", "Access tokens at hand, by state; renewing: token requests under way.",
           ("state",), _credentials("tokens")),
    Family("sidecar_renewals_total", "counter", "Token requests by cause: mint, expiry, background or rejection.",
           ("cause",), _credentials("renewals")),
    Family("sidecar_credential_events_total", "counter", "What happened to tokens and their records beside renewals.",
           ("event",), _credentials("events")),
    Family("sidecar_unstored_refresh_tokens", "gauge", "Rotated refresh tokens that the store does not have yet.",
           (), lambda m: [((), m.read.credentials().get("now", {}).get("unstored", 0))]),
    Family("sidecar_unreplicated_writes_total", "counter", "Writes to Redis that no replica had in time.",
           (), _one(lambda m: m.read.unreplicated())),
    Family("sidecar_sign_ins_total", "counter", "Sign-ins by the sidecar: begun, signed_in, or why not.",
           ("result",), lambda m: [((result,), count) for result, count in sorted(m.read.sign_ins().items())]),
    Family("sidecar_config_reloads_total", "counter", "Loads of the configuration, the first included: ok or failed.",
           ("result",), lambda m: [((result,), m.config_reloads[result]) for result in ("failed", "ok")]),
    Family("sidecar_config_last_reload_success_timestamp_seconds", "gauge",
           "When the configuration was last loaded with success, at the start or by a reload.",
           (), _one(lambda m: m.config_last_reload)),
    Family("sidecar_config_valid", "gauge", "1 while the configuration file is the one in use, 0 when it is refused.",
           (), _one(lambda m: m.config_ok)),
    Family("sidecar_log_lines_dropped_total", "counter", "Log lines given up because nobody read the log.",
           (), _one(lambda m: m.read.log_lines_dropped())),
    Family("sidecar_workers", "gauge", "Processes that serve requests.",
           (), _one(lambda _: 1)),
    Family("sidecar_worker_restarts_total", "counter", "Workers that ended unasked and were started again.",
           (), _one(lambda _: 0)),
    Family("sidecar_build_info", "gauge",
           "Always 1; its labels name the version, the Python that runs it, and whether the data path is compiled.",
           ("version", "python", "compiled"),
           lambda _: [((__version__, platform.python_version(), "yes" if is_compiled() else "no"), 1)]),
)  # fmt: skip
HISTOGRAM = "sidecar_request_seconds"
HISTOGRAM_HELP = "Seconds from the head of a request to the end of its response, by route."
PROCESS = "process_"
"""The prefix of what the system says of the process (memory, CPU, file descriptors)."""
_SUM = "sum"
"""Stands where a bucket's number does, for the sum of a histogram."""
Snapshot = Mapping[str, Iterable[tuple[Sequence[str], float]]]
"""By family: the values of its labels, and the number. A histogram's further label is the number of a bucket."""


def read(metrics: Metrics) -> dict[str, list[tuple[list[str], float]]]:
    """Return what `metrics` holds now, and what the system says of this process, as plain data."""
    found = {family.name: [(list(labels), value) for labels, value in family.samples(metrics)] for family in FAMILIES}
    found[HISTOGRAM] = list(_latencies(metrics))
    return found | {name: [([], value)] for name, value in process.values().items()}


def write(snapshot: Snapshot) -> bytes:
    """Return a snapshot in Prometheus's text format."""
    parts = []
    for name, kind, text, labels, _ in FAMILIES:
        parts.append(text_format.heading(name, kind, text))
        parts += [text_format.sample(name, labels, values, number) for values, number in snapshot.get(name, ())]
    parts += _histogram(snapshot)
    for name, kind, text in process.READINGS:
        found = [text_format.sample(name, (), (), number) for _, number in snapshot.get(name, ())]
        parts += [text_format.heading(name, kind, text), *found] if found else []
    return "".join(parts).encode()


def exposition(metrics: Metrics) -> Callable[[], bytes]:
    """Return a function that writes `metrics` and the process's own in Prometheus's text format."""
    return lambda: write(read(metrics))


def _latencies(metrics: Metrics) -> Iterator[tuple[list[str], float]]:
    for name, tally in metrics.routes.items():
        if any(tally.buckets):
            yield from (([name, str(at)], count) for at, count in enumerate(tally.buckets))
            yield [name, _SUM], tally.seconds


def _histogram(snapshot: Snapshot) -> Iterator[str]:
    yield text_format.heading(HISTOGRAM, "histogram", HISTOGRAM_HELP)
    routes: dict[str, dict[str, float]] = {}
    for (route, bucket), number in snapshot.get(HISTOGRAM, ()):
        routes.setdefault(route, {})[bucket] = number
    bounds = [*map(str, BOUNDS), "+Inf"]
    for route, found in routes.items():
        cumulative = accumulate(found[str(at)] for at in range(len(bounds)))
        counts = zip(bounds, cumulative, strict=True)
        yield text_format.histogram(HISTOGRAM, ("route",), (route,), counts, found[_SUM])
