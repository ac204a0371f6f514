"""Two connections that pass bytes to each other and look at none of them: CONNECT, WebSocket, any upgrade.

Each end's back-pressure, end of stream and abort become the other end's. A half-closed tunnel goes on one way; once
both ways are closed, or where an end cannot be half-closed (TLS), both connections end (RFC 9110 section 9.3.6).

An open tunnel has no deadline. One that is half closed, or an end of which does not take what it is sent, is kept as
long as something passes: behind such an end nobody would notice that the other one has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, cast

from sidecar.wire import capacity

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.wire.downstream import Downstream
    from sidecar.wire.upstream import Upstream

_RESET = struct.pack("ii", 1, 0)


class End(asyncio.Protocol):
    """One end: takes over a connection from `owner`, which still learns when it is lost.

    `watch` is told whether the tunnel has a deadline now: with each piece that passes while it has one, and when that
    changes. `blocked`: this end does not take what it is sent. `ended`: nothing more will come from here.
    """

    __slots__ = ("_owner", "_transport", "_watch", "blocked", "ended", "other")

    def __init__(
        self, owner: Downstream | Upstream, transport: asyncio.Transport, watch: Callable[[bool], None]
    ) -> None:
        self._owner = owner
        self._watch = watch
        self._transport = transport
        self.blocked = False
        self.ended = False
        self.other: End

    def write(self, data: bytes) -> None:
        """Send bytes out of this end."""
        self._transport.write(data)

    def unwritten(self) -> int:
        """Return how many bytes of the two ends have not arrived yet, those that the kernel holds among them."""
        return capacity.unsent(self._transport) + capacity.unsent(self.other._transport)  # noqa: SLF001

    def expire_at(self, deadline: float) -> None:
        """Bound how long this end may take for what it still has to send, now that the other end is gone."""
        self._owner.deadline = deadline

    def abort(self) -> None:
        """Break off both ends."""
        reset(self._transport)
        reset(self.other._transport)  # noqa: SLF001

    def data_received(self, data: bytes) -> None:
        self.other.write(data)
        if self._watched():
            self._watch(True)

    def eof_received(self) -> bool:
        self.ended = True
        transport = self.other._transport  # noqa: SLF001 - the other half of this very thing
        self._watch(True)
        if self.other.ended or not transport.can_write_eof():
            transport.close()
            return False
        end_writing(transport)
        return True

    def pause_writing(self) -> None:
        self.blocked = True
        self._watch(True)
        with contextlib.suppress(RuntimeError):  # the other end is closing
            self.other._transport.pause_reading()  # noqa: SLF001

    def resume_writing(self) -> None:
        self.blocked = False
        self._watch(self._watched())
        with contextlib.suppress(RuntimeError):
            self.other._transport.resume_reading()  # noqa: SLF001

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self.other._transport.close()  # noqa: SLF001
        else:
            reset(self.other._transport)  # noqa: SLF001
        self._owner.connection_lost(exc)

    def _watched(self) -> bool:
        other = self.other
        return self.ended or other.ended or self.blocked or other.blocked


def join(
    downstream: Downstream, down: asyncio.Transport, upstream: Upstream, up: asyncio.Transport,
    watch: Callable[[bool], None],
) -> tuple[End, End]:  # fmt: skip
    """Make a tunnel of two connections; return its ends, the downstream one first."""
    one, two = End(downstream, down, watch), End(upstream, up, watch)
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


def end_writing(transport: asyncio.WriteTransport) -> None:
    """Tell the peer that nothing more comes; one that has reset the connection meanwhile needs not be told."""
    if not transport.is_closing():
        with contextlib.suppress(OSError):  # asyncio's own call of shutdown: ENOTCONN
            transport.write_eof()
