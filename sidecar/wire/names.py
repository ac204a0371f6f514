"""Names of upstreams to addresses: looked up once for all who ask, remembered for a short while.

The system's resolver tells no time to live, and a lookup by it cannot be taken back. So what it found counts for
`FRESH` seconds, and that a name is unknown for `UNKNOWN`. When it fails, or takes longer than `PATIENCE`, what it last
found goes on being used for `STALE` seconds (RFC 8767), but never after it has said that there is no such name. Each
lookup has a thread of its own; there are few at once, and one per name, so a resolver that hangs for one name holds up
nobody who has an answer already. Which addresses may be dialled is not decided here: they are judged at each dial.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import threading
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

FRESH = 15.0  # seconds: how long an answer counts without asking again
UNKNOWN = 2.0  # seconds: how long a failure counts; a name may appear any moment, as at the start of a pod
STALE = 600.0  # seconds since it was found: how long an answer is used while the resolver fails
PATIENCE = 1.8  # seconds (RFC 8767 section 5): how long the resolver is waited for while there is a stale answer
MOST_NAMES = 1024
MOST_ADDRESSES = 16  # of one name and family: each is judged and may be dialled, and the name may be a stranger's
MOST_LOOKUPS = 8  # at once
MOST_WAITING = 256  # names whose lookup has not begun

_NO_SUCH_NAME = frozenset([socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)])


class Found(NamedTuple):
    """An address of a name."""

    family: socket.AddressFamily
    address: str
    scope: int = 0  # the zone of a link-local IPv6 address


class _Entry(NamedTuple):
    """What was last heard of a name. `found` is empty where it has no address."""

    found: tuple[Found, ...]
    at: float  # when it was found
    asked: float  # when the resolver was last asked, in vain or not
    error: int  # of the last asking: 0, or the resolver's error number


def look_up(host: str) -> tuple[Found, ...]:
    """Ask the system's resolver; blocks; raise OSError (gaierror), UnicodeError for what is no host name."""
    infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    found = [Found(info[0], str(info[4][0]).partition("%")[0], info[4][3] if len(info[4]) > 2 else 0) for info in infos]  # noqa: PLR2004
    return tuple(dict.fromkeys(found))


class Names:
    """Addresses by name. `clock` gives seconds and never goes back; `look_up` is the resolver."""

    __slots__ = ("_clock", "_entries", "_flights", "_look_up", "_running", "_waiting")

    def __init__(
        self,
        look_up: Callable[[str], tuple[Found, ...]] = look_up,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._flights: dict[str, asyncio.Future[None]] = {}
        self._waiting: deque[str] = deque()
        self._running = 0

    async def resolve(self, host: str) -> tuple[Found, ...]:
        """Return the addresses of a host, in the resolver's order; raise OSError where there is none.

        The caller's deadline is its own: leaving it harms nobody who asked for the same name.
        """
        entry = self._entries.get(host)
        now = self._clock()
        if entry is not None and now < entry.asked + (UNKNOWN if entry.error else FRESH):
            return _answer(entry, now)
        stale = entry is not None and bool(entry.found) and now < entry.at + STALE
        if entry is not None and stale:
            return _answer(await self._impatiently(host, entry), self._clock())
        await asyncio.shield(self._flight(host))
        return _answer(self._entries[host], self._clock())

    async def _impatiently(self, host: str, stale: _Entry) -> _Entry:
        """Wait for the resolver, but not long; where it takes longer, the next who ask need not wait at all."""
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.shield(self._flight(host))
        except OSError:  # TimeoutError is one; or there are too many lookups
            self._entries[host] = late = stale._replace(asked=self._clock(), error=socket.EAI_AGAIN)
            return late
        return self._entries[host]

    def _flight(self, host: str) -> asyncio.Future[None]:
        flight = self._flights.get(host)
        if flight is None:
            if len(self._waiting) >= MOST_WAITING:
                raise OSError(errno.EBUSY, "too many names are being looked up")
            flight = self._flights[host] = asyncio.get_running_loop().create_future()
            self._waiting.append(host)
            self._go_on()
        return flight

    def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and self._running < MOST_LOOKUPS:
            host = self._waiting.popleft()
            self._running += 1
            # A daemon: a resolver that hangs does not keep the process from ending.
            asking = threading.Thread(target=self._ask, args=(loop, host), name="resolver", daemon=True)
            try:
                asking.start()
            except RuntimeError:  # the system has no thread left for us
                loop.call_soon(self._heard, host, (), errno.ENOMEM)

    def _ask(self, loop: asyncio.AbstractEventLoop, host: str) -> None:
        """Look a name up; on a thread."""
        found: tuple[Found, ...] = ()
        error = 0
        try:
            found = _first(self._look_up(host))
        except UnicodeError:
            error = socket.EAI_NONAME
        except OSError as failure:
            error = failure.errno or socket.EAI_FAIL
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self._heard, host, found, error)

    def _heard(self, host: str, found: tuple[Found, ...], error: int) -> None:
        self._running -= 1
        self._go_on()
        now = self._clock()
        known = self._entries.pop(host, None)
        if error and error not in _NO_SUCH_NAME and known is not None:
            self._entries[host] = known._replace(asked=now, error=error)
        else:
            self._entries[host] = _Entry(found, now, now, error or (0 if found else socket.EAI_NONAME))
        while len(self._entries) > MOST_NAMES:
            del self._entries[next(iter(self._entries))]  # the one that was asked for longest ago
        flight = self._flights.pop(host)
        if not flight.done():
            flight.set_result(None)


def _first(found: tuple[Found, ...]) -> tuple[Found, ...]:
    """Return the first addresses of each family, in the resolver's order."""
    seen: Counter[int] = Counter()
    kept: list[Found] = []
    for one in found:
        seen[one.family] += 1
        if seen[one.family] <= MOST_ADDRESSES:
            kept.append(one)
    return tuple(kept)


def _answer(entry: _Entry, now: float) -> tuple[Found, ...]:
    if not entry.found or (entry.error and now >= entry.at + STALE):
        fault = socket.gaierror if entry.error < 0 else OSError
        raise fault(entry.error or errno.EHOSTUNREACH, "the name has no address")
    return entry.found
