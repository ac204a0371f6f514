"""Runs wrk against one port for a bounded time and reads what it found. The only target is the loopback address."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from benchmarks.install import debian
from benchmarks.places import HERE, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.scene import Request

MARK = "RESULT "


class LoadError(Exception):
    """wrk ended without a result."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much: `connections` at once, each sending its next request when the last one is answered, for `seconds`."""

    connections: int
    seconds: float
    requests: Path


@dataclass(frozen=True, slots=True)
class Outcome:
    """Completed requests, the window in seconds, latencies in microseconds, failures and which kinds there were."""

    requests: int
    seconds: float
    p50: int
    p99: int
    worst: int
    failures: int
    kinds: str


@cache
def _wrk() -> str:
    return debian("wrk", "wrk")


def write_requests(path: Path, requests: Sequence[Request], *, absolute: bool = False) -> Path:
    """The file that `load.lua` reads, in origin form or, as HTTP_PROXY clients send it, in absolute form."""
    lines = (
        f"{f'http://{item.host}' if absolute else ''}{item.path}\t{item.host}\t{item.cookie}\t{item.id}\n"
        for item in requests
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return path


def run(port: int, load: Load) -> Outcome:
    """Load 127.0.0.1:`port`; the time limit of wrk is doubled by one of ours."""
    duration = max(1, round(load.seconds))
    command = [_wrk(), "-t1", f"-c{load.connections}", f"-d{duration}s", "--timeout", "10s"]
    command += ["-s", str(HERE / "load.lua"), f"http://{LOOPBACK}:{port}/", "--", str(load.requests)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=duration + 60)
    line = next((line for line in done.stdout.splitlines() if line.startswith(MARK)), None)
    if line is None:
        raise LoadError(f"wrk ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-200:]}")
    found = json.loads(line.removeprefix(MARK))
    failed = {kind: found[kind] for kind in ("connect", "read", "write", "timeout", "status") if found[kind]}
    kinds = ", ".join(f"{count} {kind}" for kind, count in failed.items())
    latencies = (found["p50"], found["p99"], found["max"])
    return Outcome(found["requests"], found["microseconds"] / 1e6, *latencies, sum(failed.values()), kinds)
