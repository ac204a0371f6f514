"""Two connections that pass bytes to each other and look at none of them: CONNECT, WebSocket, any upgrade.

Each end's back-pressure, end of stream and abort become the other end's. A half-closed tunnel goes on one way; once
both ways are closed, or where an end cannot be half-closed (TLS), both connections end (RFC 9110 section 9.3.6).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable

_RESET = struct.pack("ii", 1, 0)


class End(asyncio.Protocol):
    """One end: takes over a connection from `owner`, which still learns when it is lost.

    `stirred` is called with each piece that passes while the tunnel is half closed.
    """

    __slots__ = ("_owner", "_stirred", "_transport", "ended", "other")

    def __init__(self, owner: asyncio.Protocol, transport: asyncio.Transport, stirred: Callable[[], None]) -> None:
        self._owner = owner
        self._stirred = stirred
        self._transport = transport
        self.ended = False  # nothing more will come from here
        self.other: End

    def write(self, data: bytes) -> None:
        """Send bytes out of this end."""
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.other.write(data)
        if self.other.ended:
            self._stirred()

    def eof_received(self) -> bool:
        self.ended = True
        transport = self.other._transport  # noqa: SLF001 - the other half of this very thing
        if self.other.ended or not transport.can_write_eof():
            transport.close()
            return False
        if not transport.is_closing():
            transport.write_eof()
        self._stirred()
        return True

    def pause_writing(self) -> None:
        with contextlib.suppress(RuntimeError):  # the other end is closing
            self.other._transport.pause_reading()  # noqa: SLF001

    def resume_writing(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.other._transport.resume_reading()  # noqa: SLF001

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.other._transport.close()  # noqa: SLF001
        else:
            reset(self.other._transport)  # noqa: SLF001
        self._owner.connection_lost(exc)


def join(
    downstream: asyncio.Protocol, down: asyncio.Transport, upstream: asyncio.Protocol, up: asyncio.Transport,
    stirred: Callable[[], None],
) -> tuple[End, End]:  # fmt: skip
    """Make a tunnel of two connections; return its ends, the downstream one first."""
    one, two = End(downstream, down, stirred), End(upstream, up, stirred)
    one.other, two.other = two, one
    down.set_protocol(one)
    up.set_protocol(two)
    return one, two


def reset(transport: asyncio.Transport) -> None:
    """Break off in a way that cannot be taken for a clean end: a FIN may end a body, a reset does not."""
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
