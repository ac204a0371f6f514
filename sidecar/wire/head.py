"""Message heads: llhttp reads them, this module refuses what llhttp lets pass and other readers might take differently.

Decides only whether there is exactly one reading of a head (RFC 9112 sections 2.2, 3 and 5). It knows no routes and no
tokens. The received lines are handed on as they came, so everything that could end a line early or start one is refused
here. llhttp itself refuses control characters, bare CR and LF, and folded lines in header lines; a test feeds it every
octet at every place to keep that true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import httptools

from sidecar.errors import Refusal
from sidecar.message import RequestHead, ResponseHead

if TYPE_CHECKING:
    from sidecar.settings import Limits

LONGEST_RESPONSE_HEAD = 256 * 1024  # bytes; the limits for callers do not bind upstreams
MOST_RESPONSE_HEADERS = 1000

_REASON = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])  # RFC 9112 section 4: reason-phrase


class InvalidResponseError(Exception):
    """The upstream's bytes are not one unambiguous HTTP/1.1 response."""


class _Sink:
    """What llhttp calls while it reads one head."""

    __slots__ = ("complete", "names", "target", "values")

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.values: list[bytes] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.append(name.lower())
        self.values.append(value)

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_request(head: bytes, limits: Limits) -> RequestHead:
    """Read a request head: from the request line to the empty line, both included; raise `Refusal`."""
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:  # an upgrade or CONNECT: the head is whole, what follows is not for llhttp
        pass
    except httptools.HttpParserError:
        raise Refusal("bad_request", "The request head is malformed.", close=True) from None
    lines = head.split(b"\r\n")
    names = sink.names
    if not sink.complete or len(lines) != len(names) + 3:
        raise Refusal("bad_request", "The request head can be read in more than one way.", close=True)
    target = sink.target
    method = parser.get_method()
    minor = _minor(lines[0], method + b" " + target + b" HTTP/1.")
    if len(target) > limits.target:
        raise Refusal("target_too_large", f"The request target exceeds {limits.target} bytes.", close=True)
    if len(names) > limits.header_count:
        raise Refusal("headers_too_large", f"The request has more than {limits.header_count} headers.", close=True)
    return RequestHead(method, target, minor, names, sink.values, lines[1:-2])


def _minor(line: bytes, start: bytes) -> int:
    """Return the version's second digit; llhttp tolerates more than one space, RTSP and HTTP/2.0, we do not."""
    if line == start + b"1":
        return 1
    if line == start + b"0":
        return 0
    raise Refusal("bad_request", "The request line is not METHOD TARGET HTTP/1.1.", close=True)


def parse_response(head: bytes) -> ResponseHead:
    """Read a response head: from the status line to the empty line, both included; raise `InvalidResponseError`."""
    sink = _Sink()
    parser = httptools.HttpResponseParser(sink)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        raise InvalidResponseError from None
    lines = head.split(b"\r\n")
    first = lines[0]
    if not sink.complete or len(lines) != len(sink.names) + 3 or first.translate(None, _REASON):
        raise InvalidResponseError
    if first.startswith(b"HTTP/1.1 "):
        minor = 1
    elif first.startswith(b"HTTP/1.0 "):
        minor = 0
    else:
        raise InvalidResponseError
    return ResponseHead(parser.get_status_code(), minor, first, sink.names, sink.values, lines[1:-2])
