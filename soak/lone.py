"""One sidecar without tokens in front of one upstream, and what it uses: for what is about bytes and connections.

Everything that is started here ends with the context, and with this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from soak.fleet import HOST, free_port, spawn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NAME = "streams.internal"
START, STEP = 60.0, 0.02
MIB = 1 << 20
ELSEWHERE = ["nice", "-n", "10"]
"""Before the command of what is on another machine in earnest: here it must not take the CPU from what is measured."""
CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:{port}"}}]
admin: {{bind: "127.0.0.1:{admin}"}}
store: {{url: "memory:"}}
limits: {{{limits}}}
routes:
  - {{name: streams, match: {{host: {name}}}, upstream: "http://127.0.0.1:{upstream}", as: none}}
  - {{name: next, match: {{host: {name}, path: /next}}, upstream: "http://127.0.0.1:{next_one}", as: none}}
  - {{name: any, match: {{path: /next}}, upstream: "http://127.0.0.1:{next_one}", as: none}}
"""


class Used(NamedTuple):
    """What a process has used: seconds of CPU, bytes of resident memory, open descriptors."""

    cpu: float
    resident: int
    descriptors: int


class Lone:
    """A running sidecar."""

    def __init__(self, port: int, admin: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.port, self.admin, self.process, self.log = port, admin, process, log

    def used(self) -> Used:
        """Look at /proc."""
        proc = Path(f"/proc/{self.process.pid}")
        ticks = proc.joinpath("stat").read_text().rpartition(")")[2].split()
        cpu = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
        return Used(cpu, self._status("VmRSS"), len(list((proc / "fd").iterdir())))

    def forget_peak(self) -> None:
        """Let `peak` begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak(self) -> int:
        """The most bytes that were resident since `forget_peak`."""
        return self._status("VmHWM")

    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self, event: str) -> int:
        """How often its log has an event."""
        return self.log.read_text(errors="replace").count(f'"{event}"')

    def _status(self, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


async def _listening(port: int, process: subprocess.Popen[bytes], what: str) -> None:
    for _ in range(int(START / STEP)):
        if process.poll() is not None:
            raise RuntimeError(f"{what} ended")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            return
        await asyncio.sleep(STEP)
    raise RuntimeError(f"{what} did not start")


@asynccontextmanager
async def lone(
    far: str, *, twice: bool = False, limits: str = "", descriptors: int = 0
) -> AsyncIterator[tuple[Lone, int]]:
    """Run a sidecar before the far side `python -m FAR PORT`; yield it and PORT.

    What is under `/next` goes to PORT + 1: of the same far side, or `twice` of a second process, of lower priority.
    `limits` are keys of the configuration, `descriptors` is its hard limit of open files (0: ours).
    """
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    port, admin, upstream = free_port(), free_port(), free_port()
    file, log = folder / "sidecar.yaml", folder / "log"
    file.write_text(
        CONFIGURATION.format(port=port, admin=admin, upstream=upstream, next_one=upstream + 1, limits=limits, name=NAME)
    )
    command = [sys.executable, "-m", "sidecar", "run", "-c", str(file), "--log-format", "json"]
    if descriptors:
        command = ["/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh", *command]
    started: list[subprocess.Popen[bytes]] = []
    try:
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        started.append(spawn([sys.executable, "-m", far, str(upstream)], **quiet))
        if twice:
            started.append(spawn([*ELSEWHERE, sys.executable, "-m", far, str(upstream + 1)], **quiet))
            await _listening(upstream + 1, started[1], far)
        await _listening(upstream, started[0], far)
        with log.open("wb") as errors:
            started.append(spawn(command, stderr=errors, **quiet))
        await _listening(port, started[-1], "the sidecar")
        yield Lone(port, admin, started[-1], log), upstream
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()
        if not os.environ.get("SOAK_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)


def settled(sidecar: Lone, seconds: float = 1.0) -> Used:
    """Wait a moment, then look."""
    time.sleep(seconds)
    return sidecar.used()
