"""How long and how many connections of the sign-in listener may wait, which aiohttp leaves open.

A first request head has its time, a request from its head to the last byte of its answer has its time, and connections
have an end in number: beyond it, the one that has waited longest without a request makes room. So neither slow heads,
slow bodies nor slow readers can keep browsers out, or use up the process's descriptors. One timer serves all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio

MOST = 512  # connections
HEAD = 10.0  # seconds for the first request's head
REQUEST = 60.0  # seconds for a request, what is asked of authorization servers included
IDLE = 75.0  # seconds between requests
LOOK = 1.0  # seconds between two looks


class Waiting(Protocol):
    """A connection: how many requests it has had, and whether one is under way."""

    def progress(self) -> tuple[int, bool]:
        """Return both."""

    def give_up(self) -> None:
        """Break the connection off."""


class Crowd:
    """The connections of one listener, in the order in which they last got on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, most: int = MOST, head: float = HEAD) -> None:
        self._loop = loop
        self._most = most
        self._head = head
        self._since: dict[Waiting, tuple[tuple[int, bool], float]] = {}
        self._timer = loop.call_later(LOOK, self._look)

    def join(self, one: Waiting) -> None:
        """Take a connection in; where there are too many already, let the one go that has waited longest."""
        if len(self._since) >= self._most:
            longest = next((other for other in self._since if not other.progress()[1]), one)
            self.leave(longest)
            longest.give_up()
            if longest is one:
                return
        self._since[one] = (0, False), self._loop.time()

    def leave(self, one: Waiting) -> None:
        """Forget a connection."""
        self._since.pop(one, None)

    def stop(self) -> None:
        """End the timer."""
        self._timer.cancel()

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK, self._look)
        now = self._loop.time()
        for one, (before, since) in list(self._since.items()):
            progress = one.progress()
            if progress != before:
                del self._since[one]  # it goes to the end: it is the one that has waited least
                self._since[one] = progress, now
            elif now - since > self._patience(*progress):
                self.leave(one)
                one.give_up()

    def _patience(self, requests: int, under_way: bool) -> float:
        if under_way:
            return REQUEST
        return IDLE if requests else self._head
