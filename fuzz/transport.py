"""A connection without a network, as strict as the stricter of asyncio and uvloop in everything that the wire does.

One `FakeTransport` is what the sidecar's protocol holds; the other end of the connection is the fuzzer. After
`connection_lost` a write raises (uvloop), after `write_eof` too (both); nothing is delivered to a paused or closing
connection; a peer that does not read makes the protocol pause.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.clockwork import Clockwork

HIGH_WATER = 80  # bytes unread by the peer before the writer is asked to pause: small, so that it happens
EOF = None


class _Socket:
    """Takes note of SO_LINGER 0: the connection will be reset and not closed."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.lingers = False

    def setsockopt(self, _level: int, option: int, _value: object) -> None:
        self.lingers = self.lingers or option == socket.SO_LINGER

    def fileno(self) -> int:
        return -1  # nothing can be read here that was not delivered


class FakeTransport:
    """`written` is what the peer got, `ended` how: "" (open), "fin", "reset", or "abort" (an abort without a reset)."""

    def __init__(self, loop: Clockwork, protocol: Any, info: dict[str, Any], heard: Callable[[bytes], None]) -> None:
        self._loop = loop
        self.protocol = protocol
        self._info = info
        self._heard = heard
        self._incoming: deque[bytes | Exception | None] = deque()
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._socket = _Socket()
        self._paused = False
        self._closing = False
        self._eof_written = False
        self._over = False  # nothing can come after what has come
        self._blocked = False
        self.slow = False
        self.lost = False
        self.ended = ""
        self.written = bytearray()
        protocol.connection_made(self)

    # -- the peer's side ----------------------------------------------------------------------------------------

    def deliver(self, event: bytes | Exception | None) -> None:
        """Bytes, the end of the stream (`EOF`) or an error arrive."""
        if self._closing or self._over:
            return
        self._over = not isinstance(event, bytes)
        if self._paused or self._incoming:
            self._incoming.append(event)
        else:
            self._take(event)

    def break_off(self) -> None:
        """The peer resets the connection, whatever is on its way."""
        if not self.lost:
            self._incoming.clear()
            self._take(ConnectionResetError())

    def read_on(self) -> None:
        """The peer reads what it had left unread."""
        self.slow = False
        unread, self._unread = self._unread, []
        self._unread_size = 0
        for data in unread:
            self._out(data)
        if self._closing and not self.lost:
            self._lose(None)
        if self._blocked and not self.lost:
            self._blocked = False
            self.protocol.resume_writing()

    # -- the protocol's side ------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._closing or not data:
            return
        if not self.slow:
            self._out(bytes(data))
            return
        self._unread.append(bytes(data))
        self._unread_size += len(data)
        if self._unread_size > HIGH_WATER and not self._blocked:
            self._blocked = True
            self.protocol.pause_writing()

    def write_eof(self) -> None:
        if self.lost:
            raise RuntimeError("unable to perform operation; the handler is closed")
        self._eof_written = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self._unread:
                self._lose(None)

    def abort(self) -> None:
        if self.lost or self.ended in ("reset", "abort"):
            return
        self._closing = True
        self.ended = "reset" if self._socket.lingers else "abort"
        self._unread.clear()
        self._lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._catch_up)

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return self._unread_size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else self._info.get(name, default)

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def half_closed(self) -> bool:
        """Whether the protocol has closed its sending side."""
        return self._eof_written

    def _out(self, data: bytes) -> None:
        self.written += data
        self._heard(data)

    def _catch_up(self) -> None:
        while self._incoming and not (self._paused or self._closing):
            self._take(self._incoming.popleft())

    def _take(self, event: bytes | Exception | None) -> None:
        if isinstance(event, bytes):
            self.protocol.data_received(event)
        elif event is EOF:
            if not self.protocol.eof_received():
                self.close()
        else:
            self._closing = True
            self.ended = self.ended or "reset"
            self._lose(event)

    def _lose(self, error: Exception | None) -> None:
        self._loop.call_soon(self._tell_lost, error)

    def _tell_lost(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self.ended = self.ended or "fin"
            self.protocol.connection_lost(error)
