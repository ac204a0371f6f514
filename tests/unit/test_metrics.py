"""The counters, how a scrape shows them, and that the documentation lists every one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import ProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from sidecar.admin import exposition
from sidecar.admin.prometheus import FAMILIES, HISTOGRAM
from sidecar.errors import REFUSALS
from sidecar.metrics import BOUNDS, RECENT, Metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def _samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    text = exposition(metrics)().decode()
    return {
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_responses_are_counted_by_status_class():
    """Statuses of a route add up in their class; another route has its own."""
    metrics = Metrics()
    for status in (200, 204, 404, 200):
        metrics.route("a").answered(status, 0.01)
    metrics.route("b").answered(200, 0.01)
    found = _samples(metrics)
    assert found["sidecar_requests_total", "route=a", "status_class=2xx"] == 3
    assert found["sidecar_requests_total", "route=a", "status_class=4xx"] == 1
    assert found["sidecar_requests_total", "route=b", "status_class=2xx"] == 1


@pytest.mark.parametrize(
    ("seconds", "first"), [(0.0, "0.001"), (0.001, "0.001"), (0.0011, "0.0025"), (60.0, "60.0"), (61.0, "+Inf")]
)
def test_latency_falls_into_the_first_bucket_that_holds_it(seconds, first):
    """Buckets are cumulative, their bounds inclusive, and the sum is in seconds."""
    metrics = Metrics()
    metrics.route("a").answered(200, seconds)
    found = _samples(metrics)
    bounds = [*map(str, BOUNDS), "+Inf"]
    counts = [found["sidecar_request_seconds_bucket", f"le={bound}", "route=a"] for bound in bounds]
    assert counts == [0.0] * bounds.index(first) + [1.0] * (len(bounds) - bounds.index(first))
    assert found["sidecar_request_seconds_sum", "route=a"] == seconds
    assert found["sidecar_request_seconds_count", "route=a"] == 1


def test_refusals_are_counted_with_and_without_a_route():
    """A refusal counts once, under its route or under none, and is remembered for the status page."""
    metrics = Metrics(clock=lambda: 100.0)
    metrics.refused("no_route")
    metrics.route("a").refused("login_required")
    metrics.route("a").refused("login_required")
    found = _samples(metrics)
    assert found["sidecar_refusals_total", "code=no_route", "route="] == 1
    assert found["sidecar_refusals_total", "code=login_required", "route=a"] == 2
    assert metrics.refusals_by_code() == {"no_route": 1, "login_required": 2}
    assert metrics.recent[0] == (100.0, "", "no_route")
    assert metrics.recent[-1] == (100.0, "a", "login_required")


def test_recent_refusals_are_bounded():
    """A flood of refusals keeps the latest only."""
    metrics = Metrics()
    for _ in range(RECENT * 3):
        metrics.refused("no_route")
    assert len(metrics.recent) == RECENT


def test_other_counters_are_shown():
    """Tokens, replays, connections, reloads and log lines reach the page from where they are kept."""
    metrics = Metrics(clock=lambda: 1000.0)
    metrics.route("a").cache["stale"] += 2
    metrics.route("a").replays += 3
    metrics.connections, metrics.connections_total = 4, 5
    metrics.read.token_requests = lambda: {"idp": {"granted": 6}}
    metrics.read.upstream_connections = lambda: 7
    metrics.read.sessions = lambda: 8
    metrics.read.log_lines_dropped = lambda: 9
    metrics.read.credentials = lambda: {"tokens": {"fresh": 10}, "events": {"joined": 11}, "now": {"unstored": 12}}
    metrics.read.sign_ins = lambda: {"begun": 13}
    metrics.read.unreplicated = lambda: 14
    metrics.reloaded(ok=True)
    metrics.reloaded(ok=False)
    found = _samples(metrics)
    assert found["sidecar_token_cache_total", "route=a", "state=stale"] == 2
    assert found["sidecar_replays_total", "route=a"] == 3
    assert found["sidecar_connections",] == 4
    assert found["sidecar_connections_total",] == 5
    assert found["sidecar_token_requests_total", "provider=idp", "result=granted"] == 6
    assert found["sidecar_upstream_connections",] == 7
    assert found["sidecar_sessions",] == 8
    assert found["sidecar_log_lines_dropped_total",] == 9
    assert found["sidecar_tokens", "state=fresh"] == 10
    assert found["sidecar_credential_events_total", "event=joined"] == 11
    assert found["sidecar_unstored_refresh_tokens",] == 12
    assert found["sidecar_sign_ins_total", "result=begun"] == 13
    assert found["sidecar_unreplicated_writes_total",] == 14
    assert found["sidecar_config_reloads_total", "result=ok"] == 1
    assert found["sidecar_config_reloads_total", "result=failed"] == 1
    assert found["sidecar_config_last_reload_success_timestamp_seconds",] == 1000
    assert found["sidecar_config_valid",] == 0


def test_unknown_number_of_sessions_is_absent():
    """A number that nobody knows is not shown as 0."""
    assert ("sidecar_sessions",) not in _samples(Metrics())


def test_route_that_left_the_configuration_leaves_the_page():
    """Series are bounded by the configuration, however often it is reloaded."""
    metrics = Metrics()
    kept = metrics.route("kept")
    metrics.route("gone").answered(200, 0.1)
    metrics.retain(["kept"])
    assert metrics.route("kept") is kept
    assert not [name for name in _samples(metrics) if "route=gone" in name]


def test_labels_are_bounded_by_the_configuration():
    """[LK-11] No family has a label that a request could fill, and refusals carry codes of the table only."""
    allowed = {"route", "provider", "status_class", "code", "state", "result", "cause", "event"}
    allowed |= {"version", "python", "compiled"}
    assert {label for family in FAMILIES for label in family.labels} <= allowed
    metrics = Metrics()
    for code in REFUSALS:
        metrics.refused(code)
    assert {name[1] for name in _samples(metrics) if name[0] == "sidecar_refusals_total"} == {
        f"code={c}" for c in REFUSALS
    }


def test_every_metric_is_documented_and_every_documented_one_exists():
    """docs/metrics.md has one row for each family, with its type and its labels."""
    rows = re.findall(r"^\| `(sidecar_\w+)` \| (\w+) \|([^|]*)\|", DOCS.read_text(), re.MULTILINE)
    documented = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    existing = {family.name: (family.kind, family.labels) for family in FAMILIES}
    assert documented == existing | {HISTOGRAM: ("histogram", ("route",))}
    shown = {name[0] for name in _samples(Metrics()) if name[0].startswith("process_")}
    assert shown <= set(re.findall(r"`(process_\w+)`", DOCS.read_text()))


def test_text_is_what_prometheus_own_client_would_read_and_write():
    """Odd names survive the format, and of the process the same is told as by Prometheus's client."""
    metrics = Metrics()
    odd = 'a"b\\c\nd{e},f="g"'
    metrics.route(odd).answered(200, 0.01)
    found = _samples(metrics)
    assert found["sidecar_requests_total", f"route={odd}", "status_class=2xx"] == 1
    theirs = {sample.name: sample.value for one in ProcessCollector(registry=None).collect() for sample in one.samples}
    ours = {name[0]: value for name, value in found.items() if name[0].startswith("process_")}
    assert ours.keys() == theirs.keys()
    for name in ("process_start_time_seconds", "process_max_fds"):
        assert ours[name] == theirs[name]
    assert ours["process_resident_memory_bytes"] == pytest.approx(theirs["process_resident_memory_bytes"], rel=0.1)
    assert ours["process_cpu_seconds_total"] == pytest.approx(theirs["process_cpu_seconds_total"], abs=0.5)
