"""What the sidecar takes before it does anything: memory without and with live sessions, and time to the first answer.

Beside it a fresh interpreter, one that has imported `aiohttp.web`, which is where a Python server usually begins, and
Envoy. Each session has an access token of 700 bytes and a refresh token of 200, and is used once through the proxy.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.command import enter
from benchmarks.fleet import CheckError, started
from benchmarks.install import NotAvailableError
from benchmarks.measure import stage
from benchmarks.peers import PEERS, sidecar
from benchmarks.peers.contract import Launch
from benchmarks.places import free_port
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.scene import APP_HOST, REFRESH_LENGTH, TOKEN_LENGTH, USER_HOST, Request
from benchmarks.session_api import SessionApiError, put_sessions
from benchmarks.session_memory import use_each
from benchmarks.start_up import Start, first_answer
from benchmarks.wire import get, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.scene import Scene

MIB = 2**20
REFERENCES = {"`python -c pass`": "pass", "`python -c 'import aiohttp.web'`": "import aiohttp.web"}
_REPORT = "import os; print(open('/proc/self/status').read().partition('VmRSS:')[2].split()[0])"


def _reference(code: str) -> tuple[Start, int]:
    """Return what an interpreter takes to run `code`, and the bytes that it holds then."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", f"{code}; {_REPORT}"], capture_output=True, text=True, check=True)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Start(seconds, cpu), int(ran.stdout) * 1024


def starts(scene: Scene, rounds: int) -> Iterator[list[str]]:
    """Rows of the table of starts: medians over interleaved rounds, and ratios within each round."""
    found: dict[str, list[Start]] = {}
    for _ in range(rounds):
        for words, code in REFERENCES.items():
            found.setdefault(words, []).append(_reference(code)[0])
        found.setdefault(sidecar.APP.title, []).append(first_answer(sidecar.APP, scene))
    base = found[list(REFERENCES)[-1]]
    for words, times in found.items():
        pairs = list(zip(times, base, strict=True))
        slower = median(one.seconds / reference.seconds for one, reference in pairs)
        dearer = median(one.cpu / reference.cpu for one, reference in pairs)
        seconds = [one.seconds for one in times]
        spread = f"{min(seconds) * 1e3:,.0f}-{max(seconds) * 1e3:,.0f}"
        cpu = f"{median(one.cpu for one in times) * 1e3:,.0f}"
        yield [words, f"{median(seconds) * 1e3:,.0f}", spread, f"{slower:.2f}", cpu, f"{dearer:.2f}"]


def memory(scene: Scene) -> Iterator[list[str]]:
    """Rows of the table of memory."""
    for words, code in REFERENCES.items():
        yield [words, f"{_reference(code)[1] / MIB:.1f}", ""]
    port, admin = free_port(), free_port()
    routes = [sidecar.route(scene, APP_HOST, "app"), sidecar.route(scene, USER_HOST, "user")]
    path = sidecar.configuration(scene, port, admin, routes, "footprint")
    with started(sidecar.USER, Launch(sidecar.command(path), port, _as_installed(scene.directory)), scene) as running:

        def held() -> int:
            return processes.rss_bytes(running.program.pid)

        processes.wait_until(lambda: send(admin, "GET", "/healthz", {}).status == 200, 15)
        yield ["sidecar, started", f"{held() / MIB:.1f}", ""]
        if get(port, Request(APP_HOST, "/whoami", "theme=dark")).status != 200:
            raise CheckError("no token for the application")
        send(admin, "GET", "/metrics", {})
        empty = held()
        yield ["sidecar, one token request, one scrape", f"{empty / MIB:.1f}", ""]
        count = len(scene.sessions)
        put_sessions(admin, scene.sessions)
        yield [f"sidecar, {count:,} sessions put in", f"{held() / MIB:.1f}", _each(held() - empty, count)]
        use_each(running, scene)
        yield [f"sidecar, {count:,} sessions, each used once", f"{held() / MIB:.1f}", _each(held() - empty, count)]


def _as_installed(directory: Path) -> dict[str, str]:
    """The environment of a sidecar that does not find what only its tests bring along.

    structlog loads greenlet where it is installed, with the C++ library: 1.1 MiB that no user has.
    """
    absent = directory / "absent"
    absent.mkdir(exist_ok=True)
    (absent / "greenlet.py").write_text('raise ImportError("not among the sidecar\'s requirements")\n')
    there = sidecar.environment()
    return {**there, "PYTHONPATH": f"{absent}{os.pathsep}{there['PYTHONPATH']}"}


def _each(grown: int, count: int) -> str:
    tokens = TOKEN_LENGTH + REFRESH_LENGTH
    return f"{grown / count:,.0f} bytes each, {grown / count - tokens:,.0f} beyond its tokens' {tokens}"


def envoy(scene: Scene) -> list[list[str]]:
    """The row of Envoy, which has no sessions; none where it cannot be had."""
    peer = PEERS["envoy"]
    try:
        version = peer.prepare()
        with started(peer, peer.launch(scene), scene) as running:
            get(running.port, Request(APP_HOST, "/whoami", "theme=dark"))
            return [[f"{peer.title} ({version})", f"{processes.rss_bytes(running.program.pid) / MIB:.1f}", ""]]
    except (NotAvailableError, CheckError, OSError) as why:
        say(f"not measured: envoy: {why}")
        return []


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=11, help="starts; 0: leave them out")
    return parser.parse_args()


def main() -> int:
    wanted = _options()
    sidecar.prepare()
    with stage("footprint", [170], wanted.sessions) as (scene, _):
        try:
            print(table(("memory", "RSS MiB", ""), [*memory(scene), *envoy(scene)]))
        except (CheckError, SessionApiError) as why:
            say(str(why))
            return 1
        if wanted.rounds:
            what = "from exec to the first answer with a token"
            columns = (what, "ms, median", "min-max", "to aiohttp.web", "CPU ms", "to aiohttp.web")
            print(f"\n{table(columns, list(starts(scene, wanted.rounds)))}")
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
