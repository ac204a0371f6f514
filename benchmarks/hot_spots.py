"""Where the sidecar's CPU time goes under load: the functions that were on top of the stack most often, by py-spy.

Of the interpreted one: what is compiled py-spy does not see (`benchmarks.stages` counts it). `--peer` takes any peer in
Python. C functions (uvloop, llhttp, system calls) count to the
Python function that called them unless `--native`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

from benchmarks.command import enter
from benchmarks.fleet import fleet
from benchmarks.install import NotAvailableError, pypi
from benchmarks.load import Load, run, write_requests
from benchmarks.measure import stage
from benchmarks.peers import PEERS
from benchmarks.progress import say
from benchmarks.report import table
from benchmarks.scene import varied

if TYPE_CHECKING:
    from pathlib import Path

WAITING = ("Condition.wait ", "_worker (concurrent/", "WorkerThread.run (anyio")  # py-spy takes them for busy
PYTHON_PEERS = ("sidecar-interpreted", "aiohttp", "aiohttp-asyncio")


def shares(stacks: str) -> tuple[Counter[str], Counter[str], int]:
    """Samples by function: itself on top, and anywhere in the stack; and how many samples there are.

    `stacks` is the collapsed form: frames from the outermost on, joined by `;`, a blank and a count, one stack a line.
    """
    own, whole, total = Counter[str](), Counter[str](), 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if frames[-1].startswith(WAITING):
            continue
        own[frames[-1]] += int(count)
        for frame in set(frames):
            whole[frame] += int(count)
        total += int(count)
    return own, whole, total


def _recorded(pid: int, port: int, wanted: argparse.Namespace, requests: Path) -> str:
    target = requests.with_suffix(".stacks")
    command = [
        str(pypi("py-spy", "py-spy")),
        "record",
        "-p",
        str(pid),
        "-d",
        str(wanted.seconds),
        "-r",
        "250",
        "-f",
        "raw",
    ]
    command += ["-F", "-o", str(target), *(["--native"] if wanted.native else [])]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        run(port, Load(32, wanted.seconds + 1, requests))
        _, words = spy.communicate(timeout=wanted.seconds + 60)
    if spy.returncode:
        raise NotAvailableError(f"py-spy: {words.strip()[-200:]}")
    return target.read_text()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_spots", description=__doc__)
    parser.add_argument("--peer", choices=PYTHON_PEERS, default="sidecar-interpreted")
    parser.add_argument("--size", type=int, default=170)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--top", type=int, default=30)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--native", action="store_true", help="show C functions too (slows the proxy down)")
    return parser.parse_args()


def main() -> int:
    wanted = _options()
    pypi("py-spy", "py-spy")
    with stage("hot-spots", [wanted.size], wanted.sessions) as scenes:
        scene = scenes[wanted.tls]
        with fleet([PEERS[wanted.peer]], scene, [wanted.size]) as found:
            if not found.running:
                say(f"not measured: {found.missing[wanted.peer]}")
                return 1
            proxy = found.running[0]
            path = write_requests(
                scene.directory / "hot.requests", varied(proxy.requests(scene, f"/varied/{wanted.size}"))
            )
            run(proxy.port, Load(32, 1, path))
            own, whole, total = shares(_recorded(proxy.program.pid, proxy.port, wanted, path))
    rows = [
        [frame, f"{count / total:.1%}", f"{whole[frame] / total:.1%}"] for frame, count in own.most_common(wanted.top)
    ]
    print(table(("function", "itself", "with callees"), rows))
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
