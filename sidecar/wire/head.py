"""Message heads: llhttp reads them, this module refuses what llhttp lets pass and other readers might take differently.

Decides only whether there is exactly one reading of a head (RFC 9112 sections 2.2, 3 and 5). It knows no routes and no
tokens. The received lines are handed on as they came, so everything that could end a line early or start one is refused
here. llhttp itself refuses control characters, bare CR and LF, and folded lines in header lines; a test feeds it every
octet at every place to keep that true. So each line is NAME ":" VALUE, as llhttp read it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import httptools

from sidecar.errors import Refusal
from sidecar.message import RequestHead, ResponseHead

if TYPE_CHECKING:
    from sidecar.settings import Limits
    from sidecar.wire.hearing import Hearing

LONGEST_RESPONSE_HEAD: Final = 256 * 1024  # bytes; the limits for callers do not bind upstreams
MOST_RESPONSE_HEADERS: Final = 1000

# Methods that llhttp does not know. PRI is HTTP/2's own; to some readers the others mean HEAD, CONNECT and TRACE in any
# case, which would give the message, or its response, another end.
_EXTENSION_METHOD: Final = re.compile(rb"(?!(?i:PRI|HEAD|CONNECT|TRACE) )[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}(?= )")
_LONGEST_REMEMBERED: Final = 128  # bytes of a status line: the reason may be as long as a head
_BARE_STATUS: Final = 12  # "HTTP/1.1 200": some upstreams leave out the space, which we may not (RFC 9112 section 4)
_REASON: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])  # RFC 9112 section 4: reason-phrase


class InvalidResponseError(Exception):
    """The upstream's bytes are not one unambiguous HTTP/1.1 response."""


class _Sink:
    """What llhttp calls while it reads one head."""

    complete = False
    target = b""

    def on_url(self, url: bytes) -> None:
        self.target = url

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_request(head: bytes, limits: Limits, hearing: Hearing) -> RequestHead:
    """Read a request head: from the request line to the empty line, both included; raise `Refusal`."""
    sink = _Sink()
    parser = httptools.HttpRequestParser(sink)
    extension = b""
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:  # an upgrade or CONNECT: the head is whole, what follows is not for llhttp
        pass
    except httptools.HttpParserError:
        extension = _read_extension(head, sink)
    if not sink.complete:
        raise _malformed()
    start, *lines, _, _ = head.split(b"\r\n")
    method = extension or parser.get_method()
    target = sink.target
    request = method + b" " + target
    if start == request + b" HTTP/1.1":
        minor = 1
    elif start == request + b" HTTP/1.0":
        minor = 0
    else:  # llhttp tolerates more than one space, RTSP and HTTP/2.0
        raise Refusal("bad_request", "The request line is not METHOD TARGET HTTP/1.1.", close=True)
    if len(target) > limits.target:
        raise Refusal("target_too_large", f"The request target exceeds {limits.target} bytes.", close=True)
    if len(lines) > limits.header_count:
        raise Refusal("headers_too_large", f"The request has more than {limits.header_count} headers.", close=True)
    return RequestHead(method, target, minor, hearing.hear(head[len(start) : -2], lines, minor))


def _read_extension(head: bytes, sink: _Sink) -> bytes:
    """Read a head whose method llhttp may not know, under another one; return the method (RFC 9110 section 9.1)."""
    method = _EXTENSION_METHOD.match(head)
    if method is None:
        raise _malformed()
    sink.complete = False
    try:
        httptools.HttpRequestParser(sink).feed_data(b"POST" + head[method.end() :])
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        raise _malformed() from None
    return method[0]


def _malformed() -> Refusal:
    return Refusal("bad_request", "The request head is malformed.", close=True)


def parse_response(head: bytes, hearing: Hearing) -> ResponseHead:
    """Read a response head: from the status line to the empty line, both included; raise `InvalidResponseError`."""
    sink = _Sink()
    parser = httptools.HttpResponseParser(sink)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError:
        raise InvalidResponseError from None
    line, *lines, _, _ = head.split(b"\r\n")
    start, minor = _known_status_line(line) if len(line) <= _LONGEST_REMEMBERED else _status_line(line)
    status = parser.get_status_code()
    if not sink.complete or status < 100:  # noqa: PLR2004 - 020 has three digits too
        raise InvalidResponseError
    if len(lines) > MOST_RESPONSE_HEADERS:
        raise InvalidResponseError
    return ResponseHead(status, minor, start, hearing.hear(head[len(line) : -2], lines, minor))


def _status_line(start: bytes) -> tuple[bytes, int]:
    """Return a status line as it goes on, and its version's second digit."""
    if start.translate(None, _REASON):
        raise InvalidResponseError
    if start.startswith(b"HTTP/1.1 "):
        minor = 1
    elif start.startswith(b"HTTP/1.0 "):
        minor = 0
    else:
        raise InvalidResponseError
    return start + b" " if len(start) == _BARE_STATUS else start, minor


_known_status_line = lru_cache(maxsize=256)(_status_line)
