"""From start to end: `python -m sidecar run` under signals, with files that change and parts that are not there yet."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process import Backdrop, Process, cpu_seconds
from tests.support.program import BOTH, guarded, head, text
from tests.support.recording_upstream import Wait

if TYPE_CHECKING:
    from collections.abc import Iterator

STATS, PROFILES = "http://stats.internal/x", "http://profiles.internal/x"
NEW_ROUTE = '\n  - {name: fresh, match: {host: fresh.internal}, upstream: "UPSTREAM", as: app, scope: fresh.read}\n'


@pytest.fixture
def sidecar(backdrop: Backdrop, tmp_path: Path) -> Iterator[Process]:
    """A running sidecar on the recording upstream."""
    backdrop.server.faults.clear()
    with Process(tmp_path, text(backdrop.server, backdrop.upstream, patience="10s")) as running:
        yield running


@pytest.fixture(scope="module")
def steady(backdrop: Backdrop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A sidecar for the tests that leave it as it was."""
    with Process(tmp_path_factory.mktemp("steady"), text(backdrop.server, backdrop.upstream)) as running:
        yield running


def connect(sidecar: Process, request: bytes) -> socket.socket:
    """Open a connection to the proxy and send some bytes."""
    host, _, port = sidecar.proxy.rpartition(":")
    sock = socket.create_connection((host, int(port)), 10)
    sock.sendall(request)
    return sock


def received(sock: socket.socket) -> bytes:
    """Return everything up to the end of the connection."""
    found = b""
    with sock:
        while data := sock.recv(65536):
            found += data
    return found


def slowly(backdrop: Backdrop, seconds: float) -> None:
    """Let the upstream's next answer take its time in the middle of the body."""
    steps = [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst", Wait(seconds), b"-last"]
    backdrop.do(lambda: backdrop.upstream.play(steps))


def arrived(backdrop: Backdrop, piece: bytes) -> None:
    """Wait until the upstream has seen something."""
    end = time.monotonic() + 10
    while not any(piece in stream for stream in backdrop.do(backdrop.upstream.streams)):
        assert time.monotonic() < end
        time.sleep(0.01)


# -- the start -----------------------------------------------------------------------------------------------------


def test_sidecar_is_ready_within_a_second(steady: Process) -> None:
    """Ready after less than a second of processor time, whatever else the machine does."""
    assert steady.manage("GET", "/readyz").status == 200
    assert cpu_seconds(steady.process.pid) < 1.5  # the question itself included
    (started,) = [line for line in steady.lines() if line["event"] == "started"]
    assert started["routes"] == 2
    assert "Traceback" not in steady.log.read_text()


def test_sidecar_starts_before_its_provider_and_upstream(tmp_path: Path) -> None:
    """[LC-04, PD-15] Nothing is there yet: it starts, is ready, refuses with a time to come again, then serves."""
    with Backdrop() as backdrop:
        backdrop.run(backdrop.server.stop())
        backdrop.run(backdrop.upstream.stop())
        with Process(tmp_path, text(backdrop.server, backdrop.upstream)) as sidecar:
            assert sidecar.manage("GET", "/readyz").status == 200
            refused = sidecar.ask(STATS)
            assert (refused.status, refused.document["code"]) == (503, "provider_unavailable")
            backdrop.run(backdrop.server.start())
            end = time.monotonic() + 15
            while (answer := sidecar.ask(STATS)).document["code"] == "provider_unavailable":
                assert time.monotonic() < end
                time.sleep(0.1)
            assert (answer.status, answer.document["code"]) == (502, "upstream_unreachable")


def test_port_in_use_is_one_line_and_exit_1(steady: Process, backdrop: Backdrop, tmp_path: Path) -> None:
    """The second sidecar on an address says what is wrong, in one line without a traceback."""
    folder = tmp_path / "second"
    folder.mkdir()
    listener = f'listeners: [{{bind: "{steady.proxy}"}}]'
    with Process(folder, text(backdrop.server, backdrop.upstream, more=listener), wait=False) as second:
        assert second.ended() == 1
        (line,) = second.log.read_text().splitlines()
        assert line == f"error: cannot start: cannot listen on {steady.proxy}: Address already in use"
    assert steady.ask(STATS).status == 200


def test_invalid_configuration_shows_all_problems_and_exits_2(tmp_path: Path) -> None:
    """[CF-01] Every problem with its place, line and caret; nothing was started."""
    broken = """\
providers:
  idp: {issuer: https://login.example.com, client_id: a, client_secret: "${NOT_SET}"}
routes:
  - {match: {host: a.internal}, upstream: https://a.example.com, as: usr}
  - {match: {host: b.internal}, upstream: https://b.example.com}
listners: []
store: {url: "mysql://x"}
"""
    with Process(tmp_path, broken, wait=False) as sidecar:
        assert sidecar.ended() == 2
        told = sidecar.log.read_text()
        places = re.findall(r"sidecar\.yaml:(\d+):(\d+): (\S+):", told)
        assert {(int(line), key) for line, _, key in places} == {
            (2, "providers.idp.client_secret"), (4, "routes[0].as"), (5, "routes[1].as"), (6, "listners"), (7, "store.url"),
        }  # fmt: skip
        assert told.count("^") >= 5
        assert "did you mean 'user'" in told
        assert "Traceback" not in told


def test_sighup_during_the_start_does_not_end_it(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LC-04] Whoever has just written the configuration may say so before the sidecar has read it."""
    given = text(backdrop.server, backdrop.upstream)
    starting = Process(tmp_path, given, wait=False)
    starting.file.unlink()
    os.mkfifo(starting.file)  # the start waits for it
    with starting:
        status = Path(f"/proc/{starting.process.pid}/status")
        end = time.monotonic() + 10
        while not int(status.read_text().partition("SigIgn:")[2].split()[0], 16) & 1:
            assert time.monotonic() < end
            time.sleep(0.01)
        starting.signal(signal.SIGHUP)
        starting.file.write_text(given)
        starting.told("started")
        assert starting.terminate() == 0


# -- the end -------------------------------------------------------------------------------------------------------


def test_sigterm_lets_what_is_under_way_end_and_refuses_new_connections(sidecar: Process, backdrop: Backdrop) -> None:
    """[LC-01, LC-02] The response in flight arrives whole, idle connections are closed, nobody new gets in, exit 0."""
    assert sidecar.ask(STATS).status == 200
    idle = connect(sidecar, head("GET", STATS))
    assert b"200" in idle.recv(65536)
    slowly(backdrop, 1.0)
    sock = connect(sidecar, head("GET", STATS))
    assert sock.recv(65536).endswith(b"first")
    began = time.monotonic()
    sidecar.signal(signal.SIGTERM)
    assert received(idle) == b""
    assert sidecar.refuses_connections()
    assert received(sock) == b"-last"
    assert sidecar.ended() == 0
    assert time.monotonic() - began < 10
    assert [line["event"] for line in sidecar.lines()][-2:] == ["stopping", "stopped"]
    assert "Traceback" not in sidecar.log.read_text()


def test_sigterm_during_a_renewal_keeps_what_it_brings(backdrop: Backdrop, tmp_path: Path) -> None:
    """[RF-12] The refresh token is spent and its successor on the way: the next process goes on with the successor."""
    backdrop.server.faults.clear()
    store = f'store: {{url: "sqlite:{tmp_path}/sidecar.db"}}\n'
    with Process(tmp_path, text(backdrop.server, backdrop.upstream, more=store, patience="10s")) as sidecar:
        sidecar.sign_in(backdrop, "alice", "a-session")
        backdrop.do(lambda: backdrop.server.revoke("alice"))
        backdrop.do(lambda: backdrop.server.faults.change(slow=0.8))
        asked = len(backdrop.server.token_requests())
        sock = connect(sidecar, head("GET", PROFILES, [("X-Session-Id", "a-session")]))
        time.sleep(0.3)
        sidecar.signal(signal.SIGTERM)
        assert b'"subject": "alice"' in received(sock)
        assert sidecar.ended() == 0
        backdrop.do(backdrop.server.faults.clear)
        assert len(backdrop.server.token_requests()) == asked + 1
        sidecar.start()
        for _ in range(2):
            assert sidecar.ask(PROFILES, {"X-Session-Id": "a-session"}).document["subject"] == "alice"
            backdrop.do(lambda: backdrop.server.revoke("alice"))
        assert {record.outcome for record in backdrop.server.token_requests()} == {"ok"}


def test_second_sigterm_ends_at_once(sidecar: Process, backdrop: Backdrop) -> None:
    """[LC-01] Who asks twice does not want to wait."""
    slowly(backdrop, 8.0)
    sock = connect(sidecar, head("GET", STATS))
    assert sock.recv(65536).endswith(b"first")
    sidecar.signal(signal.SIGTERM)
    sidecar.told("stopping")
    began = time.monotonic()
    sidecar.signal(signal.SIGTERM)
    assert sidecar.ended() == 1
    assert time.monotonic() - began < 5
    sock.close()
    backdrop.do(backdrop.upstream.reset)
    backdrop.upstream.default = guarded(backdrop.server)


# -- a new configuration -------------------------------------------------------------------------------------------


def test_reload_takes_new_routes_and_what_is_under_way_keeps_the_old(sidecar: Process, backdrop: Backdrop) -> None:
    """[HR-03] A route comes, a route goes; the stream on the one that goes ends as it began. No connection is dropped."""
    assert sidecar.ask(STATS).status == 200
    kept = connect(sidecar, head("GET", STATS))
    assert b" 200 " in kept.recv(65536)
    slowly(backdrop, 1.0)
    stream = connect(sidecar, head("GET", STATS, [("Connection", "close")]))
    assert stream.recv(65536).endswith(b"first")
    assert sidecar.ask("http://fresh.internal/x").status == 403
    routes = BOTH.replace("name: stats, match: {host: stats.internal}", "name: other, match: {host: other.internal}")
    sidecar.file.write_text(text(backdrop.server, backdrop.upstream, routes + NEW_ROUTE, patience="10s"))
    sidecar.signal(signal.SIGHUP)
    changed = sidecar.told("configuration_reloaded")["changed"]
    assert {name for name in ("fresh", "stats", "other") if name in str(changed)} == {"fresh", "stats", "other"}
    assert sidecar.ask("http://fresh.internal/x").status == 200
    kept.sendall(head("GET", STATS))
    assert b"no_route" in kept.recv(65536)
    kept.sendall(head("GET", "http://other.internal/x", [("Connection", "close")]))
    assert b" 200 " in received(kept)
    assert received(stream) == b"-last"


def test_broken_file_keeps_the_old_configuration_and_says_so(sidecar: Process, backdrop: Backdrop) -> None:
    """[HR-02] Log, metric, readiness and status page tell; requests go on; the next good file is taken."""
    good = sidecar.file.read_text()
    sidecar.file.write_text(good.replace("as: app", "as: usr"))
    sidecar.signal(signal.SIGHUP)
    assert "routes[0].as" in sidecar.told("configuration_rejected")["error"]
    assert sidecar.ask(STATS).document["subject"] == "legacy-app"
    metrics = sidecar.manage("GET", "/metrics").body.decode()
    assert re.search(r'^sidecar_config_reloads_total\{result="failed"\} [1-9]', metrics, re.MULTILINE), metrics
    ready = sidecar.manage("GET", "/readyz")
    assert (ready.status, ready.document["checks"]["configuration"]["state"]) == (200, "failing")
    assert "routes[0].as" in sidecar.manage("GET", "/").body.decode()
    sidecar.file.write_text(text(backdrop.server, backdrop.upstream, BOTH + NEW_ROUTE))
    sidecar.signal(signal.SIGHUP)
    sidecar.told("configuration_reloaded")
    assert sidecar.ask("http://fresh.internal/x").status == 200
    assert sidecar.manage("GET", "/readyz").document["checks"]["configuration"]["state"] == "ok"


def test_file_that_changes_is_taken_without_a_signal(sidecar: Process, backdrop: Backdrop) -> None:
    """[HR-05] Written beside and renamed over, as editors and Kubernetes do: the new routes serve soon after."""
    beside = sidecar.folder / "new"
    beside.write_text(text(backdrop.server, backdrop.upstream, BOTH + NEW_ROUTE))
    time.sleep(0.5)  # the watch begins a moment after the start; what it misses it finds after five seconds
    beside.rename(sidecar.file)
    sidecar.told("configuration_reloaded")
    assert sidecar.ask("http://fresh.internal/x").status == 200


def test_part_that_cannot_change_while_running_is_refused_whole(sidecar: Process, backdrop: Backdrop) -> None:
    """All or nothing: a new listener needs a restart, so the new route beside it is not taken either."""
    more = 'listeners: [{bind: "127.0.0.1:0"}, {bind: "127.0.0.1:0"}]'
    sidecar.file.write_text(text(backdrop.server, backdrop.upstream, BOTH + NEW_ROUTE, more))
    sidecar.signal(signal.SIGHUP)
    assert "restart" in sidecar.told("configuration_rejected")["error"]
    assert sidecar.ask("http://fresh.internal/x").status == 403


def test_reloads_under_load_fail_no_request(sidecar: Process, backdrop: Backdrop) -> None:
    """[HR-01] Twenty reloads, half of them altering the routes' scope, while four callers ask: every answer is 200."""
    results: list[int] = []
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            results.append(sidecar.ask(STATS).status)

    callers = [threading.Thread(target=use) for _ in range(4)]
    for caller in callers:
        caller.start()
    for number in range(20):
        scope = f"scope: stats.read extra{number % 2}"
        routes = BOTH.replace("scope: stats.read", scope.replace("stats.read extra", '"stats.read extra') + '"')
        sidecar.file.write_text(text(backdrop.server, backdrop.upstream, routes, patience="10s"))
        sidecar.signal(signal.SIGHUP)
        time.sleep(0.05)
    stop.set()
    for caller in callers:
        caller.join(30)
    assert set(results) == {200}
    assert len(results) > 20
    assert "Traceback" not in sidecar.log.read_text()


def test_client_secret_that_changes_by_reload_serves_the_next_token(backdrop: Backdrop, tmp_path: Path) -> None:
    """[HR-04] The provider's registration changes with its secret: after the reload tokens come again."""
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    configuration = text(backdrop.server, backdrop.upstream).replace("${CLIENT_SECRET}", "${file:secret}")
    with Process(tmp_path, configuration) as sidecar:
        refused = sidecar.ask(STATS)
        assert (refused.status, refused.document["code"]) == (502, "provider_refused")
        secret.write_text("s+cr%t: ü\n")
        sidecar.signal(signal.SIGHUP)
        sidecar.told("configuration_reloaded")
        assert sidecar.ask(STATS).status == 200


def test_other_signals_do_no_harm(steady: Process) -> None:
    """[LC-05] Stopped for a while, or told of a broken pipe: it goes on as if nothing had been."""
    for number in (signal.SIGPIPE, signal.SIGSTOP, signal.SIGCONT):
        steady.signal(number)
        time.sleep(0.1)
    assert steady.ask(STATS).status == 200


def test_refusal_by_the_sidecar_has_one_line_with_the_callers_request_id(sidecar: Process) -> None:
    """[LG-01] The problem's request id leads to one log line: route, code, status, detail; a given id is kept."""
    refused = sidecar.ask(PROFILES, headers={"X-Request-Id": "their-id-1"})
    assert (refused.status, refused.document["request_id"]) == (401, "their-id-1")
    line = sidecar.told("refused")
    assert {name: line[name] for name in ("request_id", "route", "code", "status", "detail")} == {
        "request_id": "their-id-1",
        "route": "profiles",
        "code": "login_required",
        "status": 401,
        "detail": refused.document["detail"],
    }


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_lines_of_a_request_name_its_trace_and_no_malformed_one(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LG-01] The access line and the line of a refusal hold a W3C traceparent; it goes on as it came."""
    configuration = text(backdrop.server, backdrop.upstream, more="access_log: true")
    with Process(tmp_path, configuration) as sidecar:
        sidecar.ask(STATS + "?q=1", headers={"traceparent": TRACE, "X-Request-Id": "first"})
        assert any(f"traceparent: {TRACE}".encode() in sent for sent in backdrop.upstream.messages())
        sidecar.ask(STATS, headers={"traceparent": TRACE + "-" + "x" * 40, "X-Request-Id": "second"})
        sidecar.ask(PROFILES, headers={"traceparent": TRACE})
        refused = sidecar.told("refused")
        sidecar.told("request", 3)
        lines = {line["request_id"]: line for line in sidecar.lines() if line["event"] == "request"}
    assert refused["traceparent"] == TRACE
    first = lines["first"]
    assert (first["traceparent"], first["path"], first["method"], first["route"], first["status"]) == (
        TRACE, "/x", "GET", "stats", 200,
    )  # fmt: skip
    assert 0 < first["seconds"] < 10
    assert "traceparent" not in lines["second"]
