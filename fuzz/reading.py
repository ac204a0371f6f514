"""Second readers: what somebody who is not the sidecar makes of a stream.

`StrictRequests` accepts nothing but the canonical HTTP/1.1 that the sidecar is to write, and shares no code with it or
with h11. `h11_requests` and `h11_responses` ask h11. `read_responses` reads what a caller got, and says how it ended.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import h11

if TYPE_CHECKING:
    from collections.abc import Sequence

Fields = list[tuple[bytes, bytes]]
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.1\Z")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)\Z")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\Z")
_SIZE = re.compile(rb"[0-9a-f]{1,16}\Z")
_NEVER_TRAILERS = (b"content-length", b"transfer-encoding", b"host", b"authorization", b"x-session-id", b"trailer")
_DIGITS = re.compile(rb"[0-9]{1,18}\Z")


class StrictError(AssertionError):
    """The sidecar wrote something that is not canonical HTTP/1.1."""


class Request(NamedTuple):
    """One whole request. Field names are lower case."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.fields if found == name]


class Response(NamedTuple):
    """One response. `whole`: it ended where its framing says; "close" where the end of the connection ends it."""

    status: int
    fields: Fields
    body: bytes
    whole: bool
    until_close: bool = False
    at: int = 0  # where it begins in the stream, its 1xx responses included
    rest: bytes = b""  # what comes after it

    def all(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.fields if found == name]


def _fields(lines: Sequence[bytes]) -> Fields:
    found = []
    for line in lines:
        match = _FIELD.match(line)
        if match is None:
            raise StrictError(f"not a header line: {line!r}")
        found.append((match[1].lower(), match[2]))
    return found


def _framing(fields: Fields) -> int | str | None:
    """Return the length, "chunked", or None where nothing is said."""
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise StrictError(f"two framings: {lengths} {codings}")
    if codings:
        if codings[0].lower() != b"chunked":
            raise StrictError(f"another coding: {codings[0]!r}")
        return "chunked"
    if lengths:
        if not _DIGITS.match(lengths[0]):
            raise StrictError(f"not a length: {lengths[0]!r}")
        return int(lengths[0])
    return None


def _chunks(data: bytes, at: int, body: bytearray) -> tuple[bool, int]:
    """Read whole chunks from `at` on into `body`; return whether the message ended, and where the next piece begins."""
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return False, at
        if not _SIZE.match(data[at:end]):
            raise StrictError(f"not a chunk line: {data[at:end]!r}")
        size = int(data[at:end], 16)
        if size == 0:
            over = _trailers(data, end + 2)
            return (False, at) if over is None else (True, over)
        over = end + 2 + size
        if len(data) < over + 2:
            return False, at
        if data[over : over + 2] != b"\r\n":
            raise StrictError("a chunk that does not end where it says")
        body += data[end + 2 : over]
        at = over + 2


def _trailers(data: bytes, at: int) -> int | None:
    """Return where the trailers end that begin at `at`."""
    if data[at : at + 2] == b"\r\n":
        return at + 2
    end = data.find(b"\r\n\r\n", at)
    if end < 0:
        return None
    for name, _ in _fields(data[at:end].split(b"\r\n")):
        if name in _NEVER_TRAILERS:
            raise StrictError(f"a trailer that frames, routes or identifies: {name!r}")
    return end + 4


class StrictRequests:
    """Reads what an upstream connection gets. `requests` are the whole ones; `partial` is what is left over."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.heads = 0
        self._data = b""
        self._head: tuple[bytes, bytes, Fields] | None = None
        self._length: int | str | None = None
        self._body = bytearray()

    @property
    def partial(self) -> bool:
        return bool(self._data) or self._head is not None

    def feed(self, data: bytes) -> int:
        """Take bytes; return how many requests have become whole."""
        self._data = self._data + data if self._data else data
        before = len(self.requests)
        while self._data or self._head is not None:
            if (self._head is None and not self._read_head()) or not self._read_body():
                break
        return len(self.requests) - before

    def _read_head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return False
        line, *rest = self._data[:end].split(b"\r\n")
        match = _REQUEST_LINE.match(line)
        if match is None:
            raise StrictError(f"not a request line: {line!r}")
        fields = _fields(rest)
        self._head = (match[1], match[2], fields)
        self._length = _framing(fields) or 0
        self._data = self._data[end + 4 :]
        self.heads += 1
        return True

    def _read_body(self) -> bool:
        if self._length == "chunked":
            whole, at = _chunks(self._data, 0, self._body)
            self._data = self._data[at:]
            if not whole:
                return False
            body, at = bytes(self._body), 0
            self._body.clear()
        else:
            at = int(self._length or 0)
            if len(self._data) < at:
                return False
            body = self._data[:at]
        assert self._head is not None
        self.requests.append(Request(*self._head, body))
        self._head = None
        self._data = self._data[at:]
        return True


def read_responses(data: bytes, methods: Sequence[bytes]) -> tuple[list[Response], bytes]:
    """Read what a caller of these methods got: its responses, and the rest after a 101 or a CONNECT's 200."""
    found: list[Response] = []
    at = begun = 0
    while at < len(data):
        method = methods[len(found)] if len(found) < len(methods) else b"GET"
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            found.append(Response(0, [], data[at:], False, False, begun))
            return found, b""
        line, *rest = data[at:end].split(b"\r\n")
        match = _STATUS_LINE.match(line)
        if match is None:
            raise StrictError(f"not a status line: {line!r}")
        status, fields, at = int(match[2]), _fields(rest), end + 4
        if status == 101 or (method == b"CONNECT" and 200 <= status < 300):
            found.append(Response(status, fields, b"", True, False, begun))
            return found, data[at:]
        if status < 200:
            continue
        response, at = _response(data, at, status, fields, method)
        found.append(response._replace(at=begun))
        begun = at
    return found, b""


def _response(data: bytes, at: int, status: int, fields: Fields, method: bytes) -> tuple[Response, int]:
    framing = _framing(fields)
    if method == b"HEAD" or status in (204, 304):
        return Response(status, fields, b"", True), at
    if framing == "chunked":
        body = bytearray()
        whole, at = _chunks(data, at, body)
        return Response(status, fields, bytes(body), whole), at if whole else len(data)
    if framing is None:
        return Response(status, fields, data[at:], True, True), len(data)
    end = at + int(framing)
    return Response(status, fields, data[at:end], len(data) >= end), end


# -- h11 ------------------------------------------------------------------------------------------------------------


class Heard(NamedTuple):
    """What h11 makes of a stream: whole requests, the head of one that is not, and whether it gave up."""

    requests: tuple[Request, ...]
    begun: Request | None
    broken: str
    rest: bytes = b""  # the beginning of a head


@lru_cache(maxsize=16384)
def h11_requests(stream: bytes) -> Heard:
    """Read a stream of requests; empty lines before a request are passed over (RFC 9112 section 2.2)."""
    found: list[Request] = []
    begun: Request | None = None
    try:
        while stream := _without_empty_lines(stream):
            begun = None
            reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            reader.receive_data(stream)
            body = b""
            while True:
                event = reader.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED:
                    return Heard(tuple(found), begun, "", b"" if begun else reader.trailing_data[0])
                if isinstance(event, h11.Request):
                    begun = Request(event.method, event.target, list(event.headers), b"")
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
            assert begun is not None
            found.append(begun._replace(body=body))
            begun = None
            stream = reader.trailing_data[0]
    except h11.RemoteProtocolError as error:
        return Heard(tuple(found), begun, str(error))
    return Heard(tuple(found), None, "")


def _without_empty_lines(stream: bytes) -> bytes:
    while stream.startswith(b"\r\n"):
        stream = stream[2:]
    return stream


@lru_cache(maxsize=16384)
def h11_response(stream: bytes, method: bytes, ended: bool) -> Response | str:
    """Read the final response to `method` at the beginning of a stream; a text where h11 gives up."""
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    reader.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(stream)
    if ended and stream:
        reader.receive_data(b"")
    status, fields, body = 0, [], b""
    try:
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return Response(status, fields, body, False)
            if isinstance(event, h11.Response):
                status, fields = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return Response(status, fields, body, True, rest=reader.trailing_data[0])
    except h11.RemoteProtocolError as error:
        return Response(status, fields, body, False) if status else str(error)
