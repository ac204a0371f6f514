"""One measurement of one proxy: warm up, read its CPU time, load it, read again. And what a run needs around it."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks import load, processes
from benchmarks.install import NotAvailableError
from benchmarks.places import BUILD
from benchmarks.scene import Scene, make_sessions, make_token
from benchmarks.token_endpoint import token_endpoint
from benchmarks.upstream import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.fleet import Running
    from benchmarks.load import Load

WARM_UP_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Sample:
    """CPU in microseconds per request, requests per second, latencies in milliseconds, memory in bytes."""

    cpu_us: float
    rps: float
    p50_ms: float
    p99_ms: float
    rss: int
    requests: int
    failures: int
    kinds: str = ""


def measure(running: Running, wanted: Load) -> Sample:
    """Load one proxy for the wanted time. A window without a request counts as failed."""
    load.run(running.port, load.Load(wanted.connections, WARM_UP_SECONDS, wanted.requests))
    before = processes.cpu_seconds(running.program.pid)
    found = load.run(running.port, wanted)
    used = processes.cpu_seconds(running.program.pid) - before
    return Sample(
        cpu_us=used * 1e6 / max(found.requests, 1),
        rps=found.requests / found.seconds,
        p50_ms=found.p50 / 1e3,
        p99_ms=found.p99 / 1e3,
        rss=processes.rss_bytes(running.program.pid),
        requests=found.requests,
        failures=found.failures if found.requests else max(found.failures, 1),
        kinds=found.kinds if found.requests else "no answer at all",
    )


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this checkout: two runs at once would measure each other and share their files."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise NotAvailableError("another benchmark of this checkout is running") from taken
        yield


@contextmanager
def stage(name: str, sizes: Sequence[int], sessions: int, *, pin: bool = False) -> Iterator[tuple[Scene, Scene]]:
    """A plain and a TLS scene over one upstream and one token endpoint, in a directory under `.build`
    that is made anew and stays afterwards, with the logs, until the next run.

    `pin` gives proxies the first CPU and everything else the others.
    """
    cpus = _pinned() if pin else frozenset()
    app_token, found = make_token("app"), make_sessions(sessions)
    with _alone(), token_endpoint(app_token) as token_url:
        directory = BUILD / f"run-{name}"
        shutil.rmtree(directory, ignore_errors=True)
        plain, secure = (directory / kind for kind in ("plain", "tls"))
        plain.mkdir(parents=True)
        secure.mkdir()
        with upstream(directory / "upstream", sizes) as api:
            yield (
                Scene(plain, api.plain, False, api.ca, token_url, app_token, found, cpus),
                Scene(secure, api.tls, True, api.ca, token_url, app_token, found, cpus),
            )


def _pinned() -> frozenset[int]:
    """Keep this program, and so wrk and the upstream, off the first CPU, and return that one for the proxies."""
    first, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise NotAvailableError("--pin needs two CPUs")
    os.sched_setaffinity(0, others)
    return frozenset({first})
