"""Message heads: llhttp reads them, this module refuses what llhttp lets pass and other readers might take differently.

Decides only whether there is exactly one reading of a head (RFC 9112 sections 2.2, 3 and 5). It knows no routes and no
tokens. The received lines are handed on as they came, so everything that could end a line early or start one is refused
here. llhttp itself refuses control characters, bare CR and LF, and folded lines in header lines; a test feeds it every
octet at every place to keep that true.

Every head goes through llhttp. What it says of a header section is remembered by the section's bytes, since an
application sends the same one again and again: then only the start line is news (`Known`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from sidecar.errors import Refusal
from sidecar.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from sidecar.settings import Limits

LONGEST_RESPONSE_HEAD = 256 * 1024  # bytes; the limits for callers do not bind upstreams
MOST_RESPONSE_HEADERS = 1000
_MOST_KNOWN = 512  # header sections
_LONGEST_KNOWN = 4 * 1024  # bytes

_REASON = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])  # RFC 9112 section 4: reason-phrase


class InvalidResponseError(Exception):
    """The upstream's bytes are not one unambiguous HTTP/1.1 response."""


class Known:
    """The header sections read before, by their bytes: bounded, and forgotten all at once when full."""

    __slots__ = ("_sections",)

    def __init__(self) -> None:
        self._sections: dict[bytes, Headers] = {}

    def get(self, section: bytes) -> Headers | None:
        """Return the headers of this very section."""
        return self._sections.get(section)

    def add(self, section: bytes, headers: Headers) -> None:
        """Remember a section that llhttp has read whole."""
        if len(section) <= _LONGEST_KNOWN:
            if len(self._sections) >= _MOST_KNOWN:
                self._sections.clear()
            self._sections[section] = headers


class _Start:
    """What llhttp calls while it reads a head whose header section is known."""

    __slots__ = ("complete", "target")

    def __init__(self) -> None:
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_headers_complete(self) -> None:
        self.complete = True


class _Whole(_Start):
    """What llhttp calls while it reads a head for the first time."""

    __slots__ = ("names", "values")

    def __init__(self) -> None:
        self.complete = False
        self.names: list[bytes] = []
        self.values: list[bytes] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.append(name.lower())
        self.values.append(value)


def parse_request(head: bytes, limits: Limits, known: Known) -> RequestHead:
    """Read a request head: from the request line to the empty line, both included; raise `Refusal`."""
    line_end = head.find(b"\r\n")
    section = head[line_end - 1 :]  # with the version's digit, which decides what some headers mean
    headers = known.get(section)
    sink = _Whole() if headers is None else _Start()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:  # an upgrade or CONNECT: the head is whole, what follows is not for llhttp
        pass
    except httptools.HttpParserError:
        raise Refusal("bad_request", "The request head is malformed.", close=True) from None
    if not sink.complete:
        raise Refusal("bad_request", "The request head is malformed.", close=True)
    method = parser.get_method()
    target = sink.target
    start = head[:line_end]
    if start == b"%b %b HTTP/1.1" % (method, target):
        minor = 1
    elif start == b"%b %b HTTP/1.0" % (method, target):
        minor = 0
    else:  # llhttp tolerates more than one space, RTSP and HTTP/2.0
        raise Refusal("bad_request", "The request line is not METHOD TARGET HTTP/1.1.", close=True)
    if len(target) > limits.target:
        raise Refusal("target_too_large", f"The request target exceeds {limits.target} bytes.", close=True)
    if headers is None:
        headers = _headers(sink, head)
        if headers is None:
            raise Refusal("bad_request", "The request head can be read in more than one way.", close=True)
        if len(headers.names) > limits.header_count:
            raise Refusal("headers_too_large", f"The request has more than {limits.header_count} headers.", close=True)
        known.add(section, headers)
    return RequestHead(method, target, minor, headers)


def parse_response(head: bytes, known: Known) -> ResponseHead:
    """Read a response head: from the status line to the empty line, both included; raise `InvalidResponseError`."""
    line_end = head.find(b"\r\n")
    section = head[line_end:]
    headers = known.get(section)
    sink = _Whole() if headers is None else _Start()
    parser = httptools.HttpResponseParser(sink)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        raise InvalidResponseError from None
    start = head[:line_end]
    status = parser.get_status_code()
    if not sink.complete or start.translate(None, _REASON) or status < 100:  # noqa: PLR2004 - 020 has three digits too
        raise InvalidResponseError
    if start.startswith(b"HTTP/1.1 "):
        minor = 1
    elif start.startswith(b"HTTP/1.0 "):
        minor = 0
    else:
        raise InvalidResponseError
    if headers is None:
        headers = _headers(sink, head)
        if headers is None or len(headers.names) > MOST_RESPONSE_HEADERS:
            raise InvalidResponseError
        known.add(section, headers)
    return ResponseHead(status, minor, start, headers)


def _headers(sink: _Start, head: bytes) -> Headers | None:
    """Put llhttp's reading beside the lines; None where they are not as many: someone could read them differently."""
    lines = head.split(b"\r\n")
    if not isinstance(sink, _Whole) or len(lines) != len(sink.names) + 3:
        return None
    return Headers(sink.names, sink.values, lines[1:-2])
