"""The sidecar's memory and CPU per request with many live sessions, put in by its session API and each used once."""

from __future__ import annotations

import http.client
import time
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.fleet import CheckError, Running, started
from benchmarks.load import Load, write_requests
from benchmarks.measure import measure, stage
from benchmarks.peers import sidecar
from benchmarks.peers.contract import Launch
from benchmarks.places import LOOPBACK, free_port
from benchmarks.report import table
from benchmarks.scene import USER_HOST, varied
from benchmarks.session_api import put_sessions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.scene import Scene

FEW = 100
LOAD_SECONDS = 3


def use_each(running: Running, scene: Scene) -> None:
    """One request for every session, each with its own token at the upstream."""
    with closing(http.client.HTTPConnection(LOOPBACK, running.port, timeout=30)) as connection:
        for session, request in zip(scene.sessions, running.requests(scene, "/whoami"), strict=True):
            connection.request("GET", request.path, headers=dict(request.headers()))
            response = connection.getresponse()
            if not response.read().startswith(f"Bearer {session.token}|".encode()):
                raise CheckError(f"answered {response.status} or sent another token")


def _rows(scene: Scene) -> Iterator[list[str]]:
    port, admin = free_port(), free_port()
    path = sidecar.configuration(scene, port, admin, [sidecar.route(scene, USER_HOST, "user")], "sessions")
    with started(sidecar.USER, Launch(sidecar.command(path), port, sidecar.environment()), scene) as running:

        def row(words: str, further: str) -> list[str]:
            return [words, f"{processes.rss_bytes(running.program.pid) / 2**20:.1f}", further]

        yield row("started, no session", "")
        begun = time.monotonic()
        put_sessions(admin, scene.sessions)
        count = len(scene.sessions)
        yield row(f"{count:,} sessions put in", f"{count / (time.monotonic() - begun):,.0f} PUT/s")
        use_each(running, scene)
        yield row("each used once", "")
        for number in (min(FEW, count), count):
            requests = running.requests(scene, "/varied/170")[:number]
            requests_file = write_requests(scene.directory / f"{number}.requests", varied(requests))
            sample = measure(running, Load(32, LOAD_SECONDS, requests_file))
            failed = f", {sample.failures} FAILED" if sample.failures else ""
            yield row(f"under load of {number:,} of them", f"{sample.cpu_us:.1f} µs CPU/request{failed}")


def report(count: int) -> str:
    """A Markdown table; raises NotAvailableError where the sidecar does not start."""
    sidecar.prepare()
    with stage("sessions", [170], count) as (scene, _):
        return table(("sidecar, `as: user`", "RSS MiB", ""), list(_rows(scene)))
