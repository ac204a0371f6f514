"""Drives `store_process.py`: another process on the same store, that can be stopped and killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.same_sidecar import ROOT, SAME_SIDECAR

SCRIPT = Path(__file__).with_name("store_process.py")


class Other:
    def __init__(self, process):
        self.process = process

    async def __call__(self, *command):
        """Send a command; return its answer, or the name of the error that it met."""
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        answer = json.loads(await self.line())
        return answer.get("error") or answer["value"]

    def start(self, *command):
        """Send a command that prints lines of its own."""
        self.process.stdin.write(json.dumps(command).encode() + b"\n")

    async def line(self):
        """Return the next line that the process prints; empty when it is gone."""
        async with asyncio.timeout(20):
            return await self.process.stdout.readline()

    def stop(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    async def kill(self):
        """Kill it without notice, and return when it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


@asynccontextmanager
async def other_process(url):
    """Start another process on the store `url`."""
    environment = {**os.environ, **SAME_SIDECAR}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), url, stdin=-1, stdout=-1, env=environment, cwd=ROOT
    )
    other = Other(process)
    try:
        yield other
    finally:
        await other.kill()
