"""Where a message's body ends (RFC 9112 section 6.3): one answer, or a refusal.

Pure decisions on a head that `head` has read. Content-Length and Transfer-Encoding together, lists, signs, other
codings than chunked, and either of them where none may be: refused, never repaired. Only a length with leading zeros,
which is valid, is written anew (RFC 9110 section 8.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from sidecar.errors import Refusal
from sidecar.wire.head import InvalidResponseError

if TYPE_CHECKING:
    from sidecar.message import Headers, RequestHead, ResponseHead

_CONTENT_LENGTH: Final = len(b"Content-Length:")
_TRANSFER_ENCODING: Final = b"transfer-encoding"
_LONGEST_REMEMBERED: Final = 64  # bytes: of a Content-Length line; white space can make it as long as a head
_MOST_DIGITS: Final = 18  # 10^18 fits every reader's signed 64 bits; longer numbers wrap in some


@dataclass(frozen=True, slots=True)
class Framing:
    """How the body is delimited: `length` bytes, or chunked, or (responses only) by the end of the connection."""

    length: int = 0
    chunked: bool = False
    until_close: bool = False


EMPTY: Final = Framing()
CHUNKED: Final = Framing(chunked=True)
UNTIL_CLOSE: Final = Framing(until_close=True)


class _AmbiguousError(Exception):
    """The head gives its body's end in more than one way, or in none that all readers share."""


def request_framing(head: RequestHead) -> Framing:
    """Return where the request's body ends; raise `Refusal` (and the connection must be closed)."""
    headers = head.headers
    codings = headers.memo.get(_TRANSFER_ENCODING)
    if codings is None:
        codings = _codings(headers)
    if not (codings or headers.lengths):
        return EMPTY
    try:
        framing = _explicit(headers, codings, head.minor)
    except _AmbiguousError:
        raise Refusal("bad_request", "The framing of the request's body is ambiguous.", close=True) from None
    if head.method == b"CONNECT" and framing is not EMPTY:
        raise Refusal("bad_request", "CONNECT carries no body.", close=True)
    return framing


def response_framing(head: ResponseHead, method: bytes) -> Framing:
    """Return where the body of the response to `method` ends; raise `InvalidResponseError`."""
    status = head.status
    headers = head.headers
    codings = headers.memo.get(_TRANSFER_ENCODING)
    if codings is None:
        codings = _codings(headers)
    explicit = UNTIL_CLOSE
    if codings or headers.lengths:
        try:
            explicit = _explicit(headers, codings, head.minor)
        except _AmbiguousError:
            raise InvalidResponseError from None
    if status < 200 or status == 204:  # noqa: PLR2004 - RFC 9110 section 15
        if explicit.chunked or explicit.length:
            raise InvalidResponseError  # RFC 9112 section 6.1, RFC 9110 section 8.6: no body is announced here
        return EMPTY
    return EMPTY if status == 304 or method == b"HEAD" else explicit  # noqa: PLR2004


def announces_body(headers: Headers) -> bool:
    """Say whether the response, which has no body by the rules, tells of one: some upstreams send it all the same."""
    return bool(headers.memo.get(_TRANSFER_ENCODING)) or any(_count(line)[0] is not EMPTY for line in headers.lengths)


def _codings(headers: Headers) -> list[bytes]:
    """Return the values of Transfer-Encoding, whose lines speak: equal ones are looked at once."""
    codings = headers.memo[_TRANSFER_ENCODING] = headers.all(_TRANSFER_ENCODING)
    return codings


def _explicit(headers: Headers, codings: list[bytes], minor: int) -> Framing:
    lengths = headers.lengths
    if len(lengths) + len(codings) != 1:
        raise _AmbiguousError
    if codings:
        if minor == 0 or codings[0].lower() != b"chunked":
            raise _AmbiguousError
        return CHUNKED
    line = lengths[0]
    framing, plain = _counted(line) if len(line) <= _LONGEST_REMEMBERED else _count(line)
    if not plain:
        headers.restate_length(framing.length)
    return framing


def _count(line: bytes) -> tuple[Framing, bool]:
    """Return the framing of a Content-Length line, and whether its number begins with no zero."""
    digits = line[_CONTENT_LENGTH:].strip(b" \t")
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        raise _AmbiguousError
    length = int(digits)
    return Framing(length) if length else EMPTY, len(digits) == 1 or not digits.startswith(b"0")


_counted = lru_cache(maxsize=1024)(_count)
