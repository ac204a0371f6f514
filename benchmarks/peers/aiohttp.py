"""A proxy of aiohttp's server and ClientSession, streaming, with a fixed header: what everybody writes in Python.

It has uvloop where the sidecar has it, and is measured on asyncio's own loop too.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from benchmarks.install import NotAvailableError
from benchmarks.peers.contract import Launch, Peer
from benchmarks.places import PROGRAMS, free_port
from benchmarks.scene import TLS_NAME, Scene

if TYPE_CHECKING:
    from pathlib import Path


def prepare(loop: str) -> str:
    try:
        return f"{version('aiohttp')}, {loop} {version(loop)}" if loop == "uvloop" else version("aiohttp")
    except PackageNotFoundError as missing:
        raise NotAvailableError(f"{missing.name} is not installed beside the harness") from missing


def launch(scene: Scene, *, loop: str) -> Launch:
    port = free_port()
    argv: list[str | Path] = [
        sys.executable,
        PROGRAMS / "aiohttp_proxy.py",
        "--port",
        str(port),
        "--upstream",
        scene.upstream,
    ]
    argv += ["--loop", loop]
    argv += ["--ca", scene.ca, "--server-name", TLS_NAME] if scene.tls else []
    return Launch(argv, port, {"PROXY_TOKEN": scene.app_token})


def _peer(name: str, title: str, loop: str) -> Peer:
    return Peer(name, title, functools.partial(prepare, loop), functools.partial(launch, loop=loop))


PEER = _peer("aiohttp", "aiohttp server + ClientSession, uvloop", "uvloop")
PLAIN_ASYNCIO = _peer("aiohttp-asyncio", "the same on asyncio's loop", "asyncio")
