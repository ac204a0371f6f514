"""Connections that outlive their request, such as WebSockets: closed once the session that opened them has ended.

Decides by the store's word alone: what may have changed is looked up, and what is still there goes on. It must not know
what a connection is: who opens one gives a function that closes it and one that says whether it is still open.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

AGAIN = 1.0
"""Seconds after which a store that did not answer is asked again."""


class Open(NamedTuple):
    """An open connection."""

    is_open: Callable[[], bool]
    close: Callable[[], None]


class Attended:
    """The open connections by the name of their session's record. `lives` asks the store; it may raise `Refusal`."""

    def __init__(self, lives: Callable[[str], Awaitable[bool]]) -> None:
        self._lives = lives
        self._open: dict[str, list[Open]] = {}
        self._doubted: set[str] = set()
        self._look = asyncio.Event()

    def __len__(self) -> int:
        return sum(map(len, self._open.values()))

    def add(self, name: str, opened: Open) -> None:
        """Close a connection when its session ends."""
        self._open[name] = [*(one for one in self._open.get(name, ()) if one.is_open()), opened]

    def changed(self, name: str) -> None:
        """Take note that a record may have changed; empty: any."""
        if not name or name in self._open:
            self._doubted.update([name] if name else self._open)
            self._look.set()

    async def run(self) -> None:
        """Look at what may have ended, for ever."""
        while True:
            await self._look.wait()
            self._look.clear()
            while self._doubted:
                await self._judge(self._doubted.pop())

    async def _judge(self, name: str) -> None:
        left = [one for one in self._open.pop(name, ()) if one.is_open()]
        if not left:
            return
        self._open[name] = left
        try:
            ended = not await self._lives(name)
        except Refusal:
            asyncio.get_running_loop().call_later(AGAIN, self.changed, name)
            return
        if ended:
            for one in self._open.pop(name, ()):
                one.close()
