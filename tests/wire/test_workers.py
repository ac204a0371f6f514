"""Several workers on one port, as processes of their own: what their clients, their operator and their store see."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.support.authorization_server import LEGACY
from tests.support.process import DEADLINE, Backdrop, Process
from tests.support.program import ADMIN_TOKEN, BOTH, ENVIRON, text
from tests.support.recording_upstream import Wait, response
from tests.support.same_sidecar import SAME_SIDECAR
from tests.support.sign_in import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATS, PROFILES = "http://stats.internal/x", "http://profiles.internal/x"
GOOD = 'sidecar_requests_total{route="stats",status_class="2xx"}'
SQLITE = "store: {url: 'sqlite:sidecar.db'}"
COLD = "".join(
    f"\n  - {{name: cold-{at}, match: {{host: cold-{at}.internal}}, upstream: UPSTREAM, as: app, scope: stats.read,"
    f" audience: a-{at}}}"
    for at in range(3)
)


class Fleet(Process):
    """A sidecar with several workers. `public`: where it signs users in."""

    public = ""

    @property
    def children(self) -> list[int]:
        """The process ids of its workers."""
        return _children(self.process.pid)

    def metric(self, line: str) -> float:
        """The value of a metric as one scrape shows it; `line` is its name and labels."""
        answer = self.manage("GET", "/metrics")
        assert answer.status == 200, answer
        return next(float(one.split()[-1]) for one in answer.body.decode().splitlines() if one.startswith(line + " "))

    def workers(self, event: str = "request") -> set[int]:
        """The workers that have logged `event`."""
        return {line["worker"] for line in self.lines() if line["event"] == event and "worker" in line}


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition: Callable[[], Any], within: float = DEADLINE) -> float:
    """Wait for what another process does; return the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, "it did not happen"
        time.sleep(0.01)
    return time.monotonic() - began


def is_there(pid: int) -> bool:
    """Say whether a process runs (one that nobody has waited for does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def backdrop() -> Iterator[Backdrop]:
    with Backdrop() as found:
        found.server.policy.rotate, found.server.policy.leeway = True, 0.0
        yield found


def config(backdrop: Backdrop, workers: int | str = 2, routes: str = BOTH, more: str = "") -> str:
    return text(backdrop.server, backdrop.upstream, routes, f"workers: {workers}\n{SQLITE}\n{more}", "20s")


@contextmanager
def fleet(
    backdrop: Backdrop, folder: Path, workers: int | str = 2, more: str = "", routes: str = BOTH
) -> Iterator[Fleet]:
    with Fleet(folder, config(backdrop, workers, routes, more)) as running:
        yield running


@pytest.fixture(scope="module")
def four(backdrop: Backdrop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four workers that nobody harms; the sidecar itself signs users in."""
    public = f"http://127.0.0.1:{free_port()}"
    callback = frozenset([f"{public}/oauth2/callback"])
    backdrop.server.clients[LEGACY.client_id] = replace(LEGACY, redirect_uris=callback)
    login = f'login: {{bind: "{public[7:]}", public_url: "{public}", scope: openid profiles.read offline_access}}'
    with fleet(backdrop, tmp_path_factory.mktemp("four"), 4, f"access_log: true\n{login}", BOTH + COLD) as running:
        running.public = public
        yield running


@contextmanager
def slow(backdrop: Backdrop, path: str, seconds: float) -> Iterator[None]:
    """Let the upstream take its time for `path`."""
    usual = backdrop.upstream.default

    def answer(one: Any) -> list[Any]:
        return [Wait(seconds), *usual(one)] if one.target.decode() == path else usual(one)

    with behaving(backdrop, answer):
        yield


@contextmanager
def behaving(backdrop: Backdrop, answer: Callable[[Any], list[Any]]) -> Iterator[None]:
    """Let the upstream answer otherwise than it usually does."""
    usual, backdrop.upstream.default = backdrop.upstream.default, answer
    yield
    backdrop.upstream.default = usual


def all_at_once(number: int, work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(50) as threads:
        return list(threads.map(work, range(number)))


# -- what they share -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", range(3))
def test_200_callers_on_a_cold_key_over_4_workers_cost_one_token_request(
    key: int, four: Fleet, backdrop: Backdrop
) -> None:
    """Whoever is first buys the application's token for all workers; the others find it in the store."""
    before = len(backdrop.server.token_requests(grant_type="client_credentials"))
    answers = all_at_once(200, lambda _: four.ask(f"http://cold-{key}.internal/x").status)
    assert answers == [200] * 200
    assert len(backdrop.server.token_requests(grant_type="client_credentials")) - before == 1
    assert len(four.workers()) == 4


def test_200_callers_on_an_expired_session_over_4_workers_spend_one_refresh_token(
    four: Fleet, backdrop: Backdrop
) -> None:
    """[RF-02] The chain's lock belongs to the store: the refresh token is spent once, the family lives."""
    tokens = backdrop.do(lambda: backdrop.server.issue("alice", "profiles.read", "legacy-app"))
    four.manage("PUT", "/v1/sessions/cold-session", {**tokens, "expires_in": 1, "provider": "idp"})
    time.sleep(1.1)
    before = len(backdrop.server.token_requests(grant_type="refresh_token"))
    answers = all_at_once(200, lambda _: four.ask(PROFILES, {"X-Session-Id": "cold-session"}).status)
    assert answers == [200] * 200
    spent = backdrop.server.token_requests(grant_type="refresh_token")[before:]
    assert [one.outcome for one in spent] == ["ok"]


def test_session_deleted_at_one_worker_is_refused_by_all(four: Fleet, backdrop: Backdrop) -> None:
    """[ID-05] While each has the token at hand, on connections that stay open, at an upstream that takes any token."""
    four.sign_in(backdrop, "bob", "session-of-the-workers")
    connections = [http.client.HTTPConnection(four.proxy, timeout=DEADLINE) for _ in range(16)]

    def statuses() -> set[int]:
        found = set()
        for connection in connections:
            connection.request("GET", PROFILES, headers={"X-Session-Id": "session-of-the-workers"})
            answer = connection.getresponse()
            answer.read()
            found.add(answer.status)
        return found

    with behaving(backdrop, lambda _: [response(b"taken")]):
        assert statuses() == {200}
        assert four.manage("DELETE", "/v1/sessions/session-of-the-workers").status == 204
        assert until(lambda: statuses() == {401}) < 3.0  # a second, and what a busy machine adds
    for connection in connections:
        connection.close()


def test_sign_in_begun_at_one_worker_is_completed_by_another(four: Fleet) -> None:
    """What the first one needs to know of it afterwards is in the browser, sealed, and in the store."""
    workers = four.children
    with httpx.Client(timeout=DEADLINE, trust_env=False, headers={"Connection": "close"}) as browser:
        with alone(workers, 0):
            begun = browser.get(f"{four.public}/oauth2/login")
        page = browser.get(begun.headers["location"])
        action = urljoin(begun.headers["location"], unescape(re.findall(r'action="([^"]+)"', page.text)[0]))
        chosen = browser.post(action, data={"user": "alice"})
        with alone(workers, 1):
            assert browser.get(chosen.headers["location"]).status_code == 303
        with alone(workers, 2):
            assert browser.get(f"{four.public}/oauth2/session").json()["subject"] == "alice"
        cookie = {"Cookie": f"sidecar_session={browser.cookies['sidecar_session']}"}
    assert {four.ask(PROFILES, cookie).status for _ in range(12)} == {200}


@contextmanager
def alone(workers: list[int], number: int) -> Iterator[None]:
    """Let one worker run, and none of the others."""
    others = [pid for at, pid in enumerate(workers) if at != number]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in others:
        os.kill(pid, signal.SIGCONT)


def test_metrics_of_all_workers_are_one_page(four: Fleet) -> None:
    """Every request is counted once, whichever worker had it and whichever is asked."""
    assert four.ask(STATS).status == 200
    before = four.metric(GOOD)
    assert all_at_once(100, lambda _: four.ask(STATS).status) == [200] * 100
    assert {four.metric(GOOD) - before for _ in range(6)} == {100.0}
    assert four.metric('sidecar_request_seconds_count{route="stats"}') == four.metric(GOOD)
    assert four.metric("sidecar_workers") == 4
    assert four.metric('sidecar_config_reloads_total{result="ok"}') == 1


def test_open_connections_of_all_workers_are_added_up(four: Fleet) -> None:
    """A gauge that each worker has a part of is their sum."""
    until(lambda: four.metric("sidecar_connections") == 0)
    host, _, port = four.proxy.rpartition(":")
    connections = [socket.create_connection((host, int(port)), 5) for _ in range(20)]
    until(lambda: four.metric("sidecar_connections") == 20)
    for connection in connections:
        connection.close()


def test_status_page_and_explain_know_all_workers(four: Fleet) -> None:
    """Refusals of every worker are on the page, and `explain` says whose memory it looked into."""
    assert {four.ask("http://nowhere.internal/x").status for _ in range(8)} == {403}
    page = four.manage("GET", "/").body.decode()
    assert page.count("no_route") >= 8
    told = four.manage("POST", "/v1/explain", {"method": "GET", "url": STATS}).document
    assert (told["route"], told["worker"] in range(4)) == ("stats", True)


def test_processes_show_no_secret(four: Fleet) -> None:
    """No worker has a secret among its arguments, nor one in its environment that the operator did not put there."""
    assert len(four.children) == 4
    assert len(list(Path(f"/proc/{four.process.pid}/task").iterdir())) == 1  # who forks has no thread
    for pid in four.children:
        assert ADMIN_TOKEN not in Path(f"/proc/{pid}/cmdline").read_text()
        assert Path(f"/proc/{pid}/environ").read_bytes() == Path(f"/proc/{four.process.pid}/environ").read_bytes()


def test_port_of_a_fleet_is_taken_for_others(four: Fleet, backdrop: Backdrop, tmp_path: Path) -> None:
    """A second sidecar with workers does not get a part of the first one's connections by mistake."""
    listeners = f'listeners: [{{bind: "{four.proxy}"}}]'
    (tmp_path / "sidecar.yaml").write_text(config(backdrop, 2, more=listeners))
    with Process(tmp_path, (tmp_path / "sidecar.yaml").read_text(), wait=False) as second:
        assert second.ended() == 1
        assert second.log.read_text() == f"error: cannot start: cannot listen on {four.proxy}: Address already in use\n"


# -- ends --------------------------------------------------------------------------------------------------------------


def test_one_worker_needs_no_other_process(backdrop: Backdrop, tmp_path: Path) -> None:
    """`workers: 1` is what it is without the key: one process, which serves."""
    with fleet(backdrop, tmp_path, 1) as running:
        assert running.ask(STATS).status == 200
        assert running.children == []
        assert running.metric("sidecar_workers") == 1
        assert running.terminate() == 0


@pytest.fixture(scope="module")
def two(backdrop: Backdrop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two workers, of which tests may end one: each leaves two behind."""
    folder = tmp_path_factory.mktemp("two")
    more = f'access_log: true\nlisteners: [{{bind: "127.0.0.1:0"}}, {{bind: "unix:{folder}/own.sock"}}]'
    with fleet(backdrop, folder, 2, more) as running:
        yield running


@pytest.fixture
def victim(two: Fleet) -> Iterator[int]:
    """The process id of a worker that will be gone, and another in its place, when the test is over."""
    restarts, found = two.metric("sidecar_worker_restarts_total"), two.children[0]
    yield found
    until(lambda: two.manage("GET", "/readyz").status == 200)
    assert two.metric("sidecar_worker_restarts_total") == restarts + 1
    assert len(two.children) == 2
    assert found not in two.children


def test_killed_worker_is_replaced_while_others_serve(two: Fleet, victim: int) -> None:
    """No request fails, what waits at the dead worker's socket is served too, and no counter goes back."""
    assert all_at_once(20, lambda _: two.ask(STATS).status) == [200] * 20
    before, cpu = two.metric(GOOD), two.metric("process_cpu_seconds_total")
    os.kill(victim, signal.SIGSTOP)
    with ThreadPoolExecutor(24) as threads:
        waiting = [threads.submit(lambda: two.ask(STATS).status) for _ in range(24)]
        until(lambda: any(one.done() for one in waiting))
        os.kill(victim, signal.SIGKILL)
        assert [one.result(DEADLINE) for one in waiting] == [200] * 24
    assert two.metric(GOOD) >= before + 24
    assert two.metric("process_cpu_seconds_total") >= cpu
    until(lambda: "signal 9" in [line["how"] for line in two.lines() if line["event"] == "worker_ended"])


def test_worker_told_to_end_finishes_while_another_accepts_for_it(two: Fleet, victim: int, backdrop: Backdrop) -> None:
    """SIGTERM to one worker renews it: what it has begun ends well, what arrives meanwhile does not wait, all counts."""
    assert two.ask(STATS).status == 200
    before = two.metric(GOOD)
    with slow(backdrop, "/slow", 2.0), ThreadPoolExecutor(8) as threads:
        under_way = [threads.submit(lambda: two.ask("http://stats.internal/slow").status) for _ in range(8)]
        until(lambda: two.metric("sidecar_connections") >= 8)
        os.kill(victim, signal.SIGTERM)
        until(lambda: two.metric("sidecar_workers") == 1)
        assert [two.ask(STATS).status for _ in range(12)] == [200] * 12
        assert is_there(victim)
        assert not any(one.done() for one in under_way)
        assert [one.result(DEADLINE) for one in under_way] == [200] * 8
    until(lambda: two.metric(GOOD) == before + 20)
    until(lambda: "exit 0" in [line["how"] for line in two.lines() if line["event"] == "worker_ended"])


def test_unix_socket_outlives_a_worker(two: Fleet, victim: int) -> None:
    """It cannot be opened twice: the workers share it, and one that ends does not take its name away."""

    def ask(_: int) -> bytes:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(DEADLINE)
            sock.connect(str(two.folder / "own.sock"))
            sock.sendall(b"GET /x HTTP/1.1\r\nHost: stats.internal\r\nConnection: close\r\n\r\n")
            return sock.recv(65536)[:12]

    assert set(all_at_once(50, ask)) == {b"HTTP/1.1 200"}
    os.kill(victim, signal.SIGTERM)
    until(lambda: not is_there(victim))
    assert set(all_at_once(50, ask)) == {b"HTTP/1.1 200"}


def test_reload_is_taken_by_all_workers_or_by_none(two: Fleet, victim: int) -> None:
    """[HR-02] A good file changes every worker; a bad one changes none, not even a worker that is started later."""
    usual = two.file.read_text()
    two.file.write_text(usual.replace("stats.internal", "numbers.internal"))
    two.signal(signal.SIGHUP)
    until(lambda: two.ask("http://numbers.internal/x").status == 200)
    assert {two.ask("http://numbers.internal/x").status for _ in range(12)} == {200}
    assert {two.ask(STATS).status for _ in range(12)} == {403}
    two.file.write_text("routes: [nonsense]")
    until(lambda: two.metric("sidecar_config_valid") == 0)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in two.children and two.manage("GET", "/readyz").document["ready"])
    assert {two.ask("http://numbers.internal/x").status for _ in range(12)} == {200}
    two.file.write_text(usual)
    until(lambda: two.metric("sidecar_config_valid") == 1)
    assert {two.ask(STATS).status for _ in range(12)} == {200}
    assert two.workers() == {0, 1}


HANGING = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))
"""
"""Lets a worker be hung by a signal, whatever its event loop is about."""


def test_worker_whose_event_loop_hangs_is_replaced_and_a_stopped_one_is_not(backdrop: Backdrop, tmp_path: Path) -> None:
    """The supervisor asks and gets no answer; who stands still by SIGSTOP is left alone, and answers afterwards."""
    (tmp_path / "sitecustomize.py").write_text(HANGING)
    environ = {**ENVIRON, "PYTHONPATH": f"{SAME_SIDECAR['PYTHONPATH']}{os.pathsep}{tmp_path}"}
    with Fleet(tmp_path, config(backdrop, more="limits: {worker_silence: 1s}"), environ=environ) as running:
        stopped, hung = running.children
        os.kill(stopped, signal.SIGSTOP)
        os.kill(hung, signal.SIGUSR1)
        until(lambda: hung not in running.children and len(running.children) == 2)
        assert running.told("worker_hung")["pid"] == hung
        os.kill(stopped, signal.SIGCONT)
        until(lambda: running.manage("GET", "/readyz").status == 200)
        assert stopped in running.children
        assert running.metric("sidecar_worker_restarts_total") == 1
        assert running.terminate() == 0


def test_sigterm_drains_all_workers_and_ends_with_0(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LC-01] [LC-02] What was begun is finished; then no process is left, nobody listens, the socket's file is gone."""
    path = tmp_path / "own.sock"
    more = f'listeners: [{{bind: "127.0.0.1:0"}}, {{bind: "unix:{path}"}}]'
    with fleet(backdrop, tmp_path, 2, more) as running, ThreadPoolExecutor(8) as threads:
        assert running.ask(STATS).status == 200
        workers = running.children
        with slow(backdrop, "/slow", 0.7):
            under_way = [threads.submit(lambda: running.ask("http://stats.internal/slow").status) for _ in range(8)]
            until(lambda: running.metric("sidecar_connections") >= 8)
            running.signal(signal.SIGTERM)
            until(running.refuses_connections)
            assert [one.result(DEADLINE) for one in under_way] == [200] * 8
        assert running.ended() == 0
        assert not any(map(is_there, workers))
        assert not path.exists()


class Group(Fleet):
    """One whose processes can be signalled all at once."""

    own_group = True


def test_signal_to_the_whole_group_is_taken_once(backdrop: Backdrop, tmp_path: Path) -> None:
    """As a terminal sends SIGINT: what was begun is finished, by every worker, although each of them got it too."""
    with Group(tmp_path, config(backdrop, 2)) as running, ThreadPoolExecutor(8) as threads:
        with slow(backdrop, "/slow", 0.7):
            under_way = [threads.submit(lambda: running.ask("http://stats.internal/slow").status) for _ in range(8)]
            until(lambda: running.metric("sidecar_connections") >= 8)
            os.killpg(running.process.pid, signal.SIGINT)
            assert [one.result(DEADLINE) for one in under_way] == [200] * 8
        assert running.ended() == 0


def test_second_sigterm_ends_all_at_once(backdrop: Backdrop, tmp_path: Path) -> None:
    """[LC-01] Whoever asks twice does not want to wait: exit code 1, and no worker goes on."""
    with fleet(backdrop, tmp_path, 2) as running, ThreadPoolExecutor(1) as threads:
        workers = running.children
        with slow(backdrop, "/slow", 20.0):
            broken = threads.submit(lambda: running.ask("http://stats.internal/slow").status)
            until(lambda: running.metric("sidecar_connections") >= 1)
            running.signal(signal.SIGTERM)
            running.told("stopping")
            running.signal(signal.SIGTERM)
            assert running.ended() == 1
            assert isinstance(broken.exception(DEADLINE), http.client.RemoteDisconnected | ConnectionResetError)
        assert not any(map(is_there, workers))


def test_workers_end_by_themselves_when_the_supervisor_is_killed(backdrop: Backdrop, tmp_path: Path) -> None:
    """Nobody is left behind, and the port is free for the next start."""
    with fleet(backdrop, tmp_path, 2) as running:
        workers = running.children
        running.kill()
        until(lambda: not any(map(is_there, workers)))
        assert running.refuses_connections()


def test_start_that_fails_says_why_once(backdrop: Backdrop, tmp_path: Path) -> None:
    """[ST-05] The first worker finds the store broken; no second one repeats it, and the exit code is its own."""
    (tmp_path / "sidecar.db").write_bytes(b"this is no database" * 100)
    with Process(tmp_path, config(backdrop, 4), wait=False) as running:
        assert running.ended() == 1
        assert re.findall("error: .*", running.log.read_text())[0].startswith("error: the store cannot be used")
        assert running.log.read_text().count("error: ") == 1


def test_quit_asked_of_one_worker_ends_all(backdrop: Backdrop, tmp_path: Path) -> None:
    """`POST /quit` means the program, not the worker that happens to hear it."""
    more = 'admin: {bind: "127.0.0.1:0", token: "${ADMIN_TOKEN}", quit: true}'
    with fleet(backdrop, tmp_path, 2, more) as running:
        assert running.manage("POST", "/quit").status == 202
        assert running.ended() == 0
