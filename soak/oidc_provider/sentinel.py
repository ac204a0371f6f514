"""Debian's Redis: a primary, a replica and three Sentinels, with a password and an append-only file."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from redis.asyncio import Redis
from redis.exceptions import RedisError

from soak.fleet import HOST, START, free_port, spawn

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable
    from pathlib import Path

MASTER = "mymaster"
PASSWORD = "soak-redis-password"
DOWN_AFTER, FAILOVER_TIMEOUT = 1000, 5000  # milliseconds
SERVER = """port {port}
bind 127.0.0.1
dir {folder}
requirepass {password}
masterauth {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
repl-diskless-sync-delay 0
"""
SENTINEL = """port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor {name} 127.0.0.1 {primary} 2
sentinel auth-pass {name} {password}
sentinel down-after-milliseconds {name} {down}
sentinel failover-timeout {name} {timeout}
"""


class Node:
    """One process of redis-server. It reads its password from a file, so that no process list shows it."""

    def __init__(self, folder: Path, kind: str = "") -> None:
        self.port = free_port()
        self.folder = folder / f"redis-{self.port}"
        self.folder.mkdir(mode=0o700)
        self.file = self.folder / "redis.conf"
        self._kind = [kind] if kind else []
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = spawn(["redis-server", str(self.file), *self._kind], stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None

    async def ask(self, *command: str) -> object:
        """Run one command over a connection of its own."""
        password = None if self._kind else PASSWORD
        client = Redis(host=HOST, port=self.port, password=password, socket_timeout=2, decode_responses=True)
        async with client:
            return await client.execute_command(*command)


class Replicated:
    """All five processes."""

    def __init__(self, folder: Path) -> None:
        self.servers = [Node(folder), Node(folder)]
        self.sentinels = [Node(folder, "--sentinel") for _ in range(3)]

    @property
    def url(self) -> str:
        """The store's URL. Its time-out is for machines that have other things to do."""
        hosts = ",".join(f"{HOST}:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{MASTER}/0?timeout=1"

    async def start(self) -> None:
        """Start everything; return when the Sentinels could fail over."""
        primary, replica = self.servers
        for server in self.servers:
            server.file.write_text(SERVER.format(port=server.port, folder=server.folder, password=PASSWORD))
        with replica.file.open("a") as file:
            file.write(f"replicaof {HOST} {primary.port}\n")
        for sentinel in self.sentinels:
            text = SENTINEL.format(
                port=sentinel.port, folder=sentinel.folder, name=MASTER, primary=primary.port, password=PASSWORD,
                down=DOWN_AFTER, timeout=FAILOVER_TIMEOUT,
            )  # fmt: skip
            sentinel.file.write_text(text)
        for node in (*self.servers, *self.sentinels):
            node.start()
        await self.ready()

    async def ready(self) -> None:
        """Return when there is a replica in step and every Sentinel knows of it and of the others."""
        await until(self._linked)
        for sentinel in self.sentinels:
            await until(lambda one=sentinel: _knows(one))

    async def primary(self) -> Node:
        """Return the server that most Sentinels take for the master."""
        ports = []
        for sentinel in self.sentinels:
            found = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            ports.append(int(found[1]))  # type: ignore[index]
        port = max(set(ports), key=ports.count)
        return next(one for one in self.servers if one.port == port)

    async def fail_over(self) -> float:
        """Kill the primary; return the seconds until the other one is the primary and takes writes."""
        old = await self.primary()
        new = next(one for one in self.servers if one is not old)
        began = time.monotonic()
        old.kill()

        async def promoted() -> bool:
            return (await new.ask("ROLE"))[0] == "master" and await self.primary() is new  # type: ignore[index]

        await until(promoted)
        return time.monotonic() - began

    async def repair(self) -> None:
        """Start what was killed; it comes back as it was, and a Sentinel makes a replica of it."""
        for server in self.servers:
            if server.process is None:
                server.start()
        await self.ready()

    def stop(self) -> None:
        for node in (*self.sentinels, *self.servers):
            node.kill()

    async def _linked(self) -> bool:
        primary = await self.primary()
        replica = next(one for one in self.servers if one is not primary)
        role = await replica.ask("ROLE")
        return role[0] == "slave" and role[3] == "connected"  # type: ignore[index]


async def _knows(sentinel: Node) -> bool:
    told = await sentinel.ask("SENTINEL", "MASTER", MASTER)
    found = told if isinstance(told, dict) else {}
    return int(found["num-other-sentinels"]) == 2 and int(found["num-slaves"]) == 1 and found["flags"] == "master"


async def until(condition: Callable[[], Awaitable[bool]], patience: float = START) -> None:
    """Wait for a condition of servers that are starting; what they refuse meanwhile does not count."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with contextlib.suppress(RedisError, OSError, KeyError, TypeError):
            if await condition():
                return
        await asyncio.sleep(0.05)
    raise TimeoutError("redis is not as it should be")
