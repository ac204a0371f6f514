"""Which sockets this process accepts from: its own, and for a while those of workers that are not there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar import listening
from sidecar.wire.downstream import Downstream

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Sequence

    from sidecar.listening import Door
    from sidecar.wire.context import Wire


class Acceptors:
    """The listeners' servers. `apps` has the application of each door, if it has one."""

    def __init__(self, wire: Wire, doors: Sequence[Door], apps: Sequence[str | None]) -> None:
        self._wire = wire
        self._doors = doors
        self._apps = apps
        self._servers: dict[socket.socket, asyncio.AbstractServer] = {}

    async def listen_as(self, workers: Collection[int]) -> None:
        """Accept from the sockets of these workers, and from no others; once draining, from none."""
        wanted = {door.of(worker): app for door, app in zip(self._doors, self._apps, strict=True) for worker in workers}
        for sock in [sock for sock in self._servers if sock not in wanted]:
            self._servers.pop(sock).close()
        for sock, app in wanted.items():
            if sock not in self._servers and not self._wire.draining:
                self._servers[sock] = await self._accept(sock.dup(), app)

    def close(self) -> None:
        """Accept no more, and let go of the sockets."""
        while self._servers:
            self._servers.popitem()[1].close()
        for door in self._doors:
            door.close()

    async def _accept(self, sock: socket.socket, app: str | None) -> asyncio.AbstractServer:
        def made() -> Any:
            return Downstream(self._wire, app)

        return await listening.accept(asyncio.get_running_loop(), made, sock)
