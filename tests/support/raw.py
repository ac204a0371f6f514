"""A client that sends any bytes and reads responses with h11, a strict reader, under a deadline. Blocking sockets."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple, Self

import h11

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DEADLINE = 5.0


class Answer(NamedTuple):
    """One response as a strict reader reads it. `whole` says that it ended where its framing says."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: Sequence[tuple[bytes, bytes]] = ()
    interims: Sequence[tuple[int, list[tuple[bytes, bytes]]]] = ()
    whole: bool = False

    def all(self, name: bytes) -> list[bytes]:
        """The values of every line called `name`."""
        return [value for found, value in self.headers if found.lower() == name.lower()]


class UnreadableError(AssertionError):
    """What the proxy sent is not HTTP/1.1 to a strict reader."""


class Raw:
    """One connection to the proxy. Use as a context manager."""

    def __init__(self, port: int, *, deadline: float = DEADLINE, buffer: int | None = None) -> None:
        self._sock = socket.socket()
        if buffer:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._sock.settimeout(deadline)
        try:
            self._sock.connect(("127.0.0.1", port))
        except OSError:
            self._sock.close()
            raise
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = deadline
        self._rest = b""
        self.ended = ""  # "fin" or "reset" once the proxy has ended the connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._sock.close()

    def send(self, *parts: bytes, pause: float = 0.0) -> Self:
        """Send; a proxy that has closed already is no error, for the answer says why."""
        for part in parts:
            try:
                self._sock.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                return self
            if pause:
                time.sleep(pause)
        return self

    def half_close(self) -> Self:
        """Close the sending side."""
        self._sock.shutdown(socket.SHUT_WR)
        return self

    def reset(self) -> None:
        """Break the connection off."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def receive(self, deadline: float | None = None) -> bytes:
        """Return the next bytes, b"" at the end; raise `TimeoutError`."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        self._sock.settimeout(self._deadline if deadline is None else deadline)
        try:
            data = self._sock.recv(1 << 18)
        except ConnectionResetError:
            self.ended = "reset"
            return b""
        if not data:
            self.ended = "fin"
        return data

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, fewer at the end of the connection."""
        got = b""
        while len(got) < size and (data := self.receive()):
            got += data
        self._rest = got[size:] + self._rest
        return got[:size]

    def until_end(self, deadline: float | None = None) -> bytes:
        """Return everything up to the end of the connection."""
        got = b""
        while data := self.receive(deadline):
            got += data
        return got

    def answer(self, method: bytes = b"GET", *, upgrade: bool = False) -> Answer | None:
        """Return the next final response; None where the connection ended before one began."""
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        offer = [(b"Connection", b"Upgrade"), (b"Upgrade", b"x")] if upgrade else []
        reader.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x"), *offer]))
        reader.send(h11.EndOfMessage())
        found: Answer | None = None
        interims: list[tuple[int, list[tuple[bytes, bytes]]]] = []
        while True:
            try:
                event = reader.next_event()
                if event is h11.NEED_DATA:
                    reader.receive_data(self.receive())
                    continue
            except h11.RemoteProtocolError as error:
                if self.ended:
                    return found
                raise UnreadableError(str(error)) from error
            if isinstance(event, h11.InformationalResponse):
                interims.append((event.status_code, event.headers.raw_items()))
                if event.status_code == 101:
                    self._rest = reader.trailing_data[0] + self._rest
                    return Answer(101, event.reason, event.headers.raw_items(), interims=interims[:-1], whole=True)
            elif isinstance(event, h11.Response):
                found = Answer(event.status_code, event.reason, event.headers.raw_items(), interims=interims)
            elif isinstance(event, h11.Data) and found is not None:
                found = found._replace(body=found.body + event.data)
            elif isinstance(event, h11.EndOfMessage) and found is not None:
                self._rest = reader.trailing_data[0] + self._rest
                return found._replace(trailers=event.headers.raw_items(), whole=not self.ended or self.ended == "fin")
            else:
                return found

    def answers(self, methods: Iterable[bytes]) -> list[Answer]:
        """Return one answer for each method, fewer if the connection ends."""
        found = []
        for method in methods:
            got = self.answer(method)
            if got is None:
                break
            found.append(got)
        return found

    def ends(self, within: float = DEADLINE) -> bool:
        """Say whether the proxy ends the connection in time, sending nothing more."""
        try:
            return self.ended != "" or self.receive(within) == b""
        except TimeoutError:
            return False
