"""Memory of a proxy: while 2 GB stream through it in each direction, and (the sidecar) with 10 000 live sessions.

Each body passes once with everybody at full speed and once with a receiver that stops for two seconds after the first
MiB: who keeps a body instead of holding the sender back shows it here.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks import processes, session_memory
from benchmarks.command import enter, names
from benchmarks.fleet import CheckError, Running, started
from benchmarks.install import NotAvailableError
from benchmarks.measure import stage
from benchmarks.peers import PEERS
from benchmarks.places import LOOPBACK
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.session_api import SessionApiError
from benchmarks.upstream.sink import sink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.scene import Scene

BLOCK = bytes(1 << 18)
PAUSE = 2.0
PAUSE_AFTER = 1 << 20


@dataclass(frozen=True, slots=True)
class Passage:
    """One body through one proxy; memory in bytes."""

    direction: str
    before: int
    most: int
    seconds: float
    length: int


def _body(length: int) -> Iterator[bytes]:
    for done in range(0, length, len(BLOCK)):
        yield BLOCK[: length - done]


def _upload(running: Running, scene: Scene, length: int, pause: float) -> None:
    headers = {**running.requests(scene, "/")[0].headers(), "Content-Length": str(length)}
    with closing(http.client.HTTPConnection(LOOPBACK, running.port, timeout=60)) as connection:
        connection.request("PUT", f"/sink?pause={pause}", _body(length), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200 or json.loads(answer)["received"] != length:
            raise CheckError(f"upload: {response.status} {answer[:100].decode(errors='replace')}")


def _download(running: Running, scene: Scene, length: int, pause: float) -> None:
    headers = running.requests(scene, "/")[0].headers()
    with closing(http.client.HTTPConnection(LOOPBACK, running.port, timeout=60)) as connection:
        connection.request("GET", f"/bytes/{length}", headers=dict(headers))
        response = connection.getresponse()
        done, buffer = 0, memoryview(bytearray(len(BLOCK)))
        while some := response.readinto(buffer):
            if pause and done < PAUSE_AFTER <= done + some:
                time.sleep(pause)
            done += some
        if response.status != 200 or done != length:
            raise CheckError(f"download: {response.status}, {done} of {length} bytes")


def _passages(running: Running, scene: Scene, length: int) -> Iterator[Passage]:
    for name, move in (("up", _upload), ("down", _download)):
        for pause in (0.0, PAUSE):
            before, begun = processes.rss_bytes(running.program.pid), time.monotonic()
            processes.forget_peak(running.program.pid)
            move(running, scene, length, pause)
            seconds = time.monotonic() - begun - pause
            words = f"{name}, receiver stops for {pause:.0f} s" if pause else name
            yield Passage(words, before, processes.peak_rss_bytes(running.program.pid), seconds, length)


def _row(name: str, one: Passage) -> list[str]:
    sizes = [f"{value / 2**20:.1f}" for value in (one.before, one.most, one.most - one.before)]
    return [f"{PEERS[name].title}, {one.direction}", *sizes, f"{one.length / 2**20 / one.seconds:,.0f}"]


def streaming(wanted: argparse.Namespace) -> list[list[str]]:
    """Rows of the streaming table."""
    rows = []
    with stage("memory", [170], 1) as (plain, _), sink() as port:
        scene = replace(plain, upstream_port=port)
        for name in wanted.peers:
            try:
                PEERS[name].prepare()
                with started(PEERS[name], PEERS[name].launch(scene), scene) as running:
                    time.sleep(1)  # Envoy fetches its token after its port is open
                    rows += [_row(name, one) for one in _passages(running, scene, wanted.mebibytes << 20)]
            except (NotAvailableError, CheckError, SessionApiError, OSError, http.client.HTTPException) as why:
                say(f"not measured: {name}: {why!r}")
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--peers", type=names, default=["sidecar-user", "envoy", "go", "aiohttp"])
    parser.add_argument("--mebibytes", type=int, default=2048, help="of each body")
    parser.add_argument("--sessions", type=int, default=10_000, help="0: leave that part out")
    return parser.parse_args()


def main() -> int:
    wanted = _options()
    rows = streaming(wanted)
    print(table((f"{wanted.mebibytes} MiB", "RSS before MiB", "most MiB", "growth MiB", "MiB/s"), rows))
    if wanted.sessions:
        print(f"\n{session_memory.report(wanted.sessions)}")
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(enter(main))
