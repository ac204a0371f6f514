"""Time from exec to the first request that is answered with a token on it, asked for every millisecond."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import processes
from benchmarks.command import enter, names
from benchmarks.install import NotAvailableError
from benchmarks.measure import stage
from benchmarks.peers import PEERS
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.scene import APP_HOST, Request, Scene
from benchmarks.wire import get

if TYPE_CHECKING:
    from benchmarks.peers.contract import Peer

LIMIT = 60
REQUEST = Request(APP_HOST, "/whoami", "theme=dark")


class Start(NamedTuple):
    """Seconds from exec to the first 200, and of CPU until then, children included (in ticks of 10 ms)."""

    seconds: float
    cpu: float


def first_answer(peer: Peer, scene: Scene) -> Start:
    """Start the proxy, ask until it answers with a token, and end it."""
    for kept in scene.directory.glob("*.db*"):
        kept.unlink()  # a token that the last start stored would make this one faster
    launch = peer.launch(scene)
    log = scene.directory / f"{peer.name}.log"
    begun = time.perf_counter()
    with processes.running(launch.argv, log, launch.env) as program:
        done = processes.wait_until(lambda: get(launch.port, REQUEST).status == 200 or program.died(), LIMIT, 0.001)
        taken = Start(time.perf_counter() - begun, processes.cpu_seconds(program.pid))
        if not done or program.died():
            raise NotAvailableError(program.died() or f"no answer in {LIMIT} s")
        return taken


def _options() -> argparse.Namespace:
    chosen = [name for name, peer in PEERS.items() if peer.acts_as == "app"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start_up", description=__doc__)
    parser.add_argument("--peers", type=names, default=chosen, help=f"of {','.join(chosen)}")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def main() -> int:
    wanted = _options()
    found: dict[str, list[float]] = defaultdict(list)
    missing: dict[str, str] = {}
    with stage("start-up", [170], 1) as (scene, _):
        for number in range(wanted.rounds):
            for name in (name for name in wanted.peers if name not in missing):
                try:
                    if number == 0:
                        PEERS[name].prepare()
                    found[name].append(first_answer(PEERS[name], scene).seconds * 1e3)
                except NotAvailableError as why:
                    missing[name] = str(why)
                    say(f"not measured: {name}: {why}")
    rows = [
        [PEERS[name].title, f"{median(times):,.0f}", f"{min(times):,.0f}-{max(times):,.0f}"]
        for name, times in found.items()
        if name not in missing
    ]
    print(table(("proxy", "ms to the first answer", "min-max"), rows))
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(enter(main))
