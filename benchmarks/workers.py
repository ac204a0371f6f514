"""What several workers bring: requests per second and CPU per request of one sidecar with each number of workers.

Load, upstream and sidecars run on the same CPUs, so that on few of them throughput cannot grow with the workers; the
CPU per request, which includes the supervisor, says what it would be with CPUs of their own. With `--share 0.1` each
worker has a tenth of a CPU and no more, so that the CPUs suffice for all and what a further worker brings is seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from contextlib import ExitStack, nullcontext
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.command import enter, numbers
from benchmarks.fleet import Running, started
from benchmarks.load import Load, write_requests
from benchmarks.measure import Sample, measure, stage
from benchmarks.peers import sidecar
from benchmarks.peers.contract import Launch
from benchmarks.places import free_port
from benchmarks.processes import tree
from benchmarks.progress import say
from benchmarks.quota import shares
from benchmarks.report import digits, table
from benchmarks.scene import USER_HOST, Scene, requests_for, varied
from benchmarks.session_api import put_sessions

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 170


def _start(stack: ExitStack, scene: Scene, workers: int) -> Running:
    port, admin = free_port(), free_port()
    routes = [sidecar.route(scene, USER_HOST, "user")]
    path = sidecar.configuration(scene, port, admin, routes, f"workers-{workers}")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"workers": workers}))
    launch = Launch(sidecar.command(path), port, sidecar.environment())
    running = stack.enter_context(started(sidecar.USER, launch, scene))
    put_sessions(admin, scene.sessions)
    return running


def _requests(scene: Scene) -> Path:
    requests = requests_for(USER_HOST, f"/varied/{SIZE}", scene.sessions)
    return write_requests(scene.directory / "requests", varied(requests))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--workers", type=numbers, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--share", type=float, default=0.0, help="of one CPU for each worker (cgroups, as root)")
    return parser.parse_args()


def _measured(running: Running, share: float, wanted: Load) -> Sample:
    first, *workers = tree(running.program.pid)
    with shares(workers or [first], share) if share else nullcontext():
        return measure(running, wanted)


def _row(count: int, found: list[Sample]) -> list[str]:
    cpu, rate = median(one.cpu_us for one in found), median(one.rps for one in found)
    busy = median(one.cpu_us * one.rps / 1e6 for one in found)
    p99, failed = median(one.p99_ms for one in found), sum(one.failures for one in found)
    return [str(count), digits(cpu), f"{rate:,.0f}", f"{busy:.2f}", digits(p99), str(failed)]


def main() -> int:
    wanted = _options()
    sidecar.prepare()
    samples: dict[int, list[Sample]] = defaultdict(list)
    with stage("workers", [SIZE], 100) as (scene, _), ExitStack() as stack:
        up = {count: _start(stack, scene, count) for count in wanted.workers}
        path = _requests(scene)
        for _ in range(wanted.rounds):
            for count, running in up.items():
                samples[count].append(_measured(running, wanted.share, Load(wanted.connections, wanted.seconds, path)))
                say(f"{count} workers: {samples[count][-1].cpu_us:.1f} µs, {samples[count][-1].rps:,.0f}/s")
    rows = [_row(count, found) for count, found in samples.items()]
    print(table(("workers", "CPU µs/request", "requests/s", "CPUs used", "p99 ms", "failed"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
