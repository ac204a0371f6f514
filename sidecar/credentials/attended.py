"""Connections that outlive their request, such as WebSockets: closed once the session that opened them has ended.

Decides by the store's word alone: what may have changed is looked up, and so is a session whose time may be over (once
when a connection is new, then when its end was said to be); what is still there goes on. It must not know what a
connection is: who opens one gives a function that closes it and one that says whether it is still open.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class _Session:
    """One session's connections, and until when it lives, as the store last said; seconds since the epoch."""

    connections: list[Open] = field(default_factory=list)
    until: float = float("-inf")

    def count(self) -> int:
        """Forget the connections that are closed; return how many are left."""
        self.connections = [one for one in self.connections if one.is_open()]
        return len(self.connections)


class Attended:
    """The open connections by the name of their session's record.

    `ends_at` asks the store when a session ends, None: it has; it may raise `Refusal`.
    """

    def __init__(self, ends_at: Callable[[str], Awaitable[float | None]]) -> None:
        self._ends_at = ends_at
        self._open: dict[str, _Session] = {}
        self._doubted: set[str] = set()
        self._look = asyncio.Event()

    def __len__(self) -> int:
        return sum(len(session.connections) for session in self._open.values())

    def add(self, name: str, opened: Open) -> None:
        """Close a connection when its session ends."""
        session = self._open.setdefault(name, _Session())
        session.count()
        session.connections.append(opened)

    def changed(self, name: str) -> None:
        """Take note that a record may have changed; empty: any."""
        if not name or name in self._open:
            self._doubted.update([name] if name else self._open)
            self._look.set()

    def sweep(self, now: float) -> None:
        """Forget what is closed; look at the sessions whose time may have come."""
        for name, session in list(self._open.items()):
            if not session.count():
                del self._open[name]
            elif now >= session.until:
                self.changed(name)

    async def run(self) -> None:
        """Look at what may have ended, for ever."""
        while True:
            await self._look.wait()
            self._look.clear()
            while self._doubted:
                await self._judge(self._doubted.pop())

    async def _judge(self, name: str) -> None:
        session = self._open.get(name)
        if session is None or not session.count():
            self._open.pop(name, None)
            return
        try:
            until = await self._ends_at(name)
        except Refusal:
            asyncio.get_running_loop().call_later(AGAIN, self.changed, name)
            return
        if until is not None:
            session.until = until
            return
        ended = self._open.pop(name, None)
        for one in ended.connections if ended else ():
            one.close()
