"""The head of an HTTP/1.1 message as the corridor sees it: what llhttp read, beside the lines as they were received.

Values only. `names` are lower case, for looking; the section is the received bytes, for forwarding. The lists of lines,
names and values run in parallel: one entry per header line (RFC 9112 section 5).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

IDEMPOTENT: Final = frozenset([b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"])
"""The methods that may be sent again when nobody knows what became of the first time (RFC 9110 section 9.2.2)."""
_JOINED: Final = bytes.maketrans(b"!#$%&'*+.^_`|~", b"-" * 14)


def as_some_read_it(name: bytes) -> bytes:
    """Return a header name with `-` for all that gateways by CGI turn into the same `_` (RFC 3875 section 4.1.18)."""
    return name.translate(_JOINED)


class Headers:
    """The header lines of one message: `section` is the bytes that came, with a CRLF before and after each line.

    `memo` is shared by all messages whose *speaking* lines are equal, those that mean something to the corridor: it
    holds what was derived from nothing but them. `lengths` are the Content-Length lines, which speak too, but differ
    from message to message. Lines, names and values are taken apart when somebody asks.
    """

    _lines: list[bytes] | None = None
    _names: list[bytes] | None = None
    _values: list[bytes] | None = None

    def __init__(self, section: bytes, lengths: list[bytes], memo: dict[object, Any]) -> None:
        self.section = section
        self.lengths = lengths
        self.memo = memo

    @property
    def lines(self) -> list[bytes]:
        """The lines as they came, in the order of their arrival."""
        if self._lines is None:
            self._lines = lines_of(self.section)
        return self._lines

    @property
    def names(self) -> list[bytes]:
        """The header names in lower case."""
        if self._names is None:
            self._names = [line[: line.find(b":")].lower() for line in self.lines]
        return self._names

    @property
    def values(self) -> list[bytes]:
        """The header values without the white space around them (RFC 9110 section 5.5)."""
        if self._values is None:
            self._values = [line[line.find(b":") + 1 :].strip(b" \t") for line in self.lines]
        return self._values

    def restate_length(self, length: int) -> None:
        """Write the one Content-Length without leading zeros, which some readers take for an octal number."""
        line = self.lengths[0]
        self.lengths[0] = plain = line[: line.find(b":")] + b": %d" % length
        self.section = self.section.replace(b"\r\n%b\r\n" % line, b"\r\n%b\r\n" % plain, 1)
        self._lines = self._values = None

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of every line called `name` (lower case)."""
        if name not in self.names:
            return []
        return [value for found, value in zip(self.names, self.values, strict=True) if found == name]


def section_of(lines: list[bytes]) -> bytes:
    """Return the section that these lines make."""
    return b"\r\n".join([b"", *lines, b""])


def lines_of(section: bytes) -> list[bytes]:
    """Return the lines of a section."""
    return section.split(b"\r\n")[1:-1]


class RequestHead:
    """A request line and its headers. `minor` is the version's second digit: 1 for HTTP/1.1."""

    __slots__ = ("headers", "method", "minor", "target")

    def __init__(self, method: bytes, target: bytes, minor: int, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.headers = headers

    @property
    def names(self) -> list[bytes]:
        """The header names in lower case."""
        return self.headers.names

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of every line called `name` (lower case)."""
        return self.headers.all(name)


class ResponseHead:
    """A status line, as received, and its headers."""

    __slots__ = ("headers", "minor", "status", "status_line")

    def __init__(self, status: int, minor: int, status_line: bytes, headers: Headers) -> None:
        self.status = status
        self.minor = minor
        self.status_line = status_line
        self.headers = headers

    @property
    def names(self) -> list[bytes]:
        """The header names in lower case."""
        return self.headers.names

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of every line called `name` (lower case)."""
        return self.headers.all(name)


class Peer(NamedTuple):
    """Who opened the connection. `app` is the listener's own, `uid` that of a unix socket's peer."""

    loopback: bool = True
    app: str | None = None
    uid: int | None = None
