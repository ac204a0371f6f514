"""What idle connections cost the busy ones: CPU per request with 0, 1 000 and 5 000 others open and silent.

Each idle connection has made one request and is kept alive, as those of a client's pool.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.command import enter, names, numbers
from benchmarks.fleet import fleet
from benchmarks.load import Load, write_requests
from benchmarks.measure import Sample, measure, stage
from benchmarks.peers import PEERS
from benchmarks.places import LOOPBACK
from benchmarks.progress import say
from benchmarks.report import digits, table
from benchmarks.scene import varied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.fleet import Running
    from benchmarks.scene import Request

SIZE = 170


def _greet(port: int, request: Request) -> socket.socket:
    """A connection that has had one answer and stays open."""
    connection = socket.create_connection((LOOPBACK, port), timeout=10)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers().items())
    connection.sendall(f"GET {request.path} HTTP/1.1\r\n{head}\r\n".encode())
    received = b""
    while not received.endswith(b'"}'):
        if not (some := connection.recv(65536)):
            raise ConnectionError("closed before the answer was whole")
        received += some
    return connection


@contextmanager
def idle(port: int, request: Request, count: int) -> Iterator[None]:
    """`count` open connections that do nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(_greet(port, request))
        yield


def _measured(running: Running, request: Request, count: int, wanted: Load) -> Sample:
    with idle(running.port, request, count):
        return measure(running, wanted)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_connections", description=__doc__)
    parser.add_argument("--peers", type=names, default=["sidecar-user", "envoy", "go"])
    parser.add_argument("--counts", type=numbers, default=[0, 1000, 5000])
    parser.add_argument("--connections", type=int, default=32, help="busy ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    return parser.parse_args()


def _rows(found: dict[tuple[str, int], list[Sample]], wanted: argparse.Namespace) -> Iterator[list[str]]:
    for name in wanted.peers:
        if base := found.get((name, wanted.counts[0])):
            for count in wanted.counts:
                samples = found[name, count]
                ratios = (one.cpu_us / none.cpu_us for one, none in zip(samples, base, strict=True))
                yield [
                    f"{PEERS[name].title}, {count} idle",
                    digits(median(one.cpu_us for one in samples)),
                    f"{median(ratios):.2f}x",
                    digits(median(one.p99_ms for one in samples)),
                    digits(median(one.rss for one in samples) / 2**20),
                    str(sum(one.failures for one in samples)),
                ]


def main() -> int:
    wanted = _options()
    found: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    with (
        stage("open-connections", [SIZE], 100) as (scene, _),
        fleet([PEERS[name] for name in wanted.peers], scene, [SIZE]) as up,
    ):
        for name, why in up.missing.items():
            say(f"not measured: {name}: {why}")
        for _ in range(wanted.rounds):
            for running in up.running:
                requests = running.requests(scene, f"/varied/{SIZE}")
                path = write_requests(scene.directory / f"{running.peer.name}.requests", varied(requests))
                for count in wanted.counts:
                    wants = Load(wanted.connections, wanted.seconds, path)
                    sample = _measured(running, requests[0], count, wants)
                    say(f"{running.peer.name}, {count} idle: {sample.cpu_us:.1f} µs")
                    found[running.peer.name, count].append(sample)
    heads = ("proxy", "CPU µs/request", f"to {wanted.counts[0]} idle", "p99 ms", "RSS MiB", "failed")
    print(table(heads, _rows(found, wanted)))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(enter(main))
