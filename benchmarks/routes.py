"""Whether many routes cost more than few: CPU per request of two sidecars, one with 10 routes and one with 10 000.

Half of the routes differ by host, half by path under one host. The load is of a thousand requests that differ by
session or route, whatever the number of routes: of 10 each is asked by 100 sessions, of 10 000 a thousand are asked.
`--asked 10` asks but ten of them: what the others cost by being there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import processes
from benchmarks.command import enter, numbers
from benchmarks.fleet import CheckError, Running, started
from benchmarks.load import Load, write_requests
from benchmarks.measure import Sample, measure, stage
from benchmarks.peers import sidecar
from benchmarks.peers.contract import Launch
from benchmarks.places import free_port
from benchmarks.progress import say
from benchmarks.report import digits, table
from benchmarks.scene import Request, Scene, requests_for, varied
from benchmarks.session_api import put_sessions
from benchmarks.wire import get

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZE = 170
REQUESTS = 1000  # that differ by session or route


def _routes(scene: Scene, count: int) -> Iterator[dict[str, object]]:
    for number in range(count):
        if number % 2:
            yield sidecar.route(scene, "many.internal", "user", path=f"/r{number}/") | {"strip_prefix": True}
        else:
            yield sidecar.route(scene, f"r{number}.internal", "user")


def _requests(scene: Scene, count: int, asked: int) -> tuple[Request, ...]:
    """As many different requests whatever is asked: what is remembered of requests is then the same."""
    numbers = range(0, count, max(1, count // asked) | 1)[:asked]
    found: list[Request] = []
    for index in range(REQUESTS):
        number = numbers[index % len(numbers)]
        host, path = ("many.internal", f"/r{number}") if number % 2 else (f"r{number}.internal", "")
        session = scene.sessions[index // 10 % len(scene.sessions)]
        found += requests_for(host, f"{path}/varied/{SIZE}", [session])
    return tuple(found)


def _start(stack: ExitStack, scene: Scene, count: int, asked: int) -> Running:
    port, admin, name = free_port(), free_port(), f"routes-{count}"
    path = sidecar.configuration(scene, port, admin, list(_routes(scene, count)), name)
    begun = time.monotonic()
    launch = Launch(sidecar.command(path), port, sidecar.environment())
    running = stack.enter_context(started(sidecar.USER, launch, scene))
    say(f"{count} routes: listens after {time.monotonic() - begun:.2f} s")
    put_sessions(admin, scene.sessions)
    for request in _requests(scene, count, asked)[:2]:
        if (answer := get(port, request)).status != 200:
            raise CheckError(f"{request.host}{request.path} answered {answer.status}")
    return running


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routes", description=__doc__)
    parser.add_argument("--counts", type=numbers, default=[10, 10_000])
    parser.add_argument("--asked", type=int, default=1000, help="routes that the load goes to, at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    return parser.parse_args()


def main() -> int:
    wanted = _options()
    sidecar.prepare()
    samples: dict[int, list[Sample]] = defaultdict(list)
    with stage("routes", [SIZE], 100) as (scene, _), ExitStack() as stack:
        up = {count: _start(stack, scene, count, wanted.asked) for count in wanted.counts}
        for _ in range(wanted.rounds):
            for count, running in up.items():
                path = write_requests(
                    scene.directory / f"{count}.requests", varied(_requests(scene, count, wanted.asked))
                )
                samples[count].append(measure(running, Load(32, wanted.seconds, path)))
                say(f"{count} routes: {samples[count][-1].cpu_us:.1f} µs {samples[count][-1].kinds}")
        memory = {count: processes.rss_bytes(running.program.pid) for count, running in up.items()}
    base = samples[wanted.counts[0]]
    rows = [
        [
            f"{count:,}",
            digits(median(one.cpu_us for one in found)),
            f"{median(one.cpu_us / first.cpu_us for one, first in zip(found, base, strict=True)):.2f}x",
            digits(memory[count] / 2**20),
            str(sum(one.failures for one in found)),
        ]
        for count, found in samples.items()
    ]
    print(table(("routes", "CPU µs/request", f"to {wanted.counts[0]}", "RSS MiB", "failed"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
