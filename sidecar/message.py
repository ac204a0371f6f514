"""The head of an HTTP/1.1 message as the corridor sees it: what llhttp read, beside the lines as they were received.

Values only. `names` are lower case, for looking; `lines` are the received bytes, for forwarding. The three lists run
in parallel: one entry per header line (RFC 9112 section 5).
"""

from __future__ import annotations

from typing import NamedTuple


class Headers:
    """Header lines in the order of their arrival."""

    __slots__ = ("lines", "names", "values")

    names: list[bytes]
    values: list[bytes]
    lines: list[bytes]

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of every line called `name` (lower case)."""
        if name not in self.names:
            return []
        return [value for found, value in zip(self.names, self.values, strict=True) if found == name]


class RequestHead(Headers):
    """A request line and its header lines. `minor` is the version's second digit: 1 for HTTP/1.1."""

    __slots__ = ("method", "minor", "target")

    def __init__(
        self, method: bytes, target: bytes, minor: int, names: list[bytes], values: list[bytes], lines: list[bytes]
    ) -> None:
        self.names = names
        self.values = values
        self.lines = lines
        self.method = method
        self.target = target
        self.minor = minor


class ResponseHead(Headers):
    """A status line, as received, and its header lines."""

    __slots__ = ("minor", "status", "status_line")

    def __init__(
        self, status: int, minor: int, status_line: bytes, names: list[bytes], values: list[bytes], lines: list[bytes]
    ) -> None:
        self.names = names
        self.values = values
        self.lines = lines
        self.status = status
        self.minor = minor
        self.status_line = status_line


class Peer(NamedTuple):
    """Who opened the connection. `app` is the listener's own, `uid` that of a unix socket's peer."""

    loopback: bool = True
    app: str | None = None
    uid: int | None = None
