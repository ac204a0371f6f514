"""Looking up the host of a Redis: redis-py leaves it to the event loop, and that to uvloop.

A lookup of uvloop's that takes longer than the time for a connection fails later with nobody to hear it, which asyncio
logs as an error each time. So a lookup has a task of its own here, one at a time for each name; who waits for it may
leave. It decides nothing about the addresses: they are tried in the resolver's order.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from sidecar.calling_off import call_off

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis.asyncio import Connection


class Lookups:
    """The lookups under way, for one event loop."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Task[list[str]]] = {}

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a name (an address is its own), at least one; raise OSError where it has none."""
        if _is_address(host):
            return [host]
        task = self._under_way.get(host)
        if task is None:
            task = self._under_way[host] = asyncio.get_running_loop().create_task(_look_up(host))
            task.add_done_callback(lambda done: self._ended(host, done))
        return await asyncio.shield(task)

    def _ended(self, host: str, task: asyncio.Task[list[str]]) -> None:
        del self._under_way[host]
        if not task.cancelled():
            task.exception()  # seen: with nobody left who waits, nobody else would look at it

    async def close(self) -> None:
        """Wait for no lookup any more."""
        await call_off(self._under_way.values())


async def _look_up(host: str) -> list[str]:
    infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def named(base: type[Connection], lookups: Lookups) -> type[Connection]:
    """Return a kind of connection like `base` that looks its host up by `lookups`. TLS goes by the name as before."""

    class Named(base):  # type: ignore[valid-type, misc]
        _address = ""

        def _connection_arguments(self) -> Mapping[str, Any]:
            arguments = {**super()._connection_arguments(), "host": self._address}
            return {**arguments, "server_hostname": self.host} if "ssl" in arguments else arguments

        async def _connect(self) -> None:
            async with asyncio.timeout(self.socket_connect_timeout):
                *others, last = await lookups.addresses(self.host)
                for self._address in others:
                    try:
                        await super()._connect()
                    except TimeoutError:
                        raise
                    except OSError:
                        continue
                    return
                self._address = last
                await super()._connect()

    return Named
