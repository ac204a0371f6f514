"""Bodies in passing: pieces in, pieces out, nothing collected (RFC 9112 sections 6 and 7).

A reader takes received bytes and says which are body, where the message ends and what is left over. Lengths are
counted; chunks are read by llhttp and framed anew, one chunk per read, so that no two readers can differ about an
extension or a line end that we passed on.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import httptools

if TYPE_CHECKING:
    from sidecar.wire.framing import Framing

LONGEST_CHUNK_OVERHEAD: Final = 16 * 1024  # bytes of chunk lines beyond what ordinary chunks need
OVERHEAD_PER_BYTE: Final = 32  # what ordinary chunks need: one-byte chunks with short extensions are ordinary
LONGEST_TRAILERS: Final = 16 * 1024  # bytes
_PRELUDE: Final = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
_END: Final = b"\r\n\r\n"
_LONGEST_REMEMBERED: Final = 32  # bytes of a chunk's line: extensions can make it long
_CHUNK_LINE: Final = re.compile(rb"(0*[0-9A-Fa-f]{1,16})(?:;.*)?\r\Z", re.DOTALL)  # up to its LF
_SMALL: Final = range(1, 16)  # bytes: one digit tells, so that one expression passes over a run of such chunks
_SMALL_CHUNKS: Final = re.compile(
    # Not possessive outside: Python before 3.11.5 goes on in the middle of an alternative that failed.
    rb"(?:0*+(?:%b))*" % b"|".join(b"[%x%X](?:;[^\r\n]*+)?\r\n.{%d}\r\n" % (size, size, size) for size in _SMALL),
    re.DOTALL,
)


class BrokenBodyError(Exception):
    """The body does not follow its framing."""


class Piece(NamedTuple):
    """What one read held: body bytes, whether the message is over, and what belongs to the next one."""

    data: bytes
    done: bool
    rest: bytes


class BodyReader(Protocol):
    """Reads one body."""

    trailers: list[tuple[bytes, bytes]]

    def feed(self, data: bytes) -> Piece:
        """Take received bytes; raise `BrokenBodyError`."""


class LengthReader:
    """Counts the bytes of a Content-Length."""

    __slots__ = ("remaining", "trailers")

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> Piece:
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return Piece(data, False, b"")
        end, self.remaining = self.remaining, 0
        return Piece(data, True, b"") if size == end else Piece(data[:end], True, data[end:])


class CloseReader:
    """Takes everything until the connection ends."""

    __slots__ = ("trailers",)

    def __init__(self) -> None:
        self.trailers: list[tuple[bytes, bytes]] = []

    def feed(self, data: bytes) -> Piece:
        return Piece(data, False, b"")


class ChunkedReader:
    """Lets llhttp read chunks and trailers. Where the chunks end is counted beside it, and the two have to agree.

    llhttp would read on beyond the message's end, and does not say where that was: so it is given no more.
    """

    __slots__ = (
        "_ahead", "_counting", "_line", "_overhead", "_parser", "_pieces", "_tail", "_trailer_size", "done", "trailers",
    )  # fmt: skip

    def __init__(self) -> None:
        self.trailers: list[tuple[bytes, bytes]] = []
        self.done = False
        self._pieces: list[bytes] = []
        self._overhead = 0
        self._trailer_size = 0
        self._counting = True  # the line of the last chunk has not come yet
        self._ahead = 0  # bytes from here to the next chunk's line
        self._line = b""  # what has come of that line
        self._tail = b"\r\n"  # of the last chunk's line and the trailers
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(_PRELUDE)
        self.trailers.clear()
        self._trailer_size = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.trailers.append((name, value))
        self._trailer_size += len(name) + len(value)

    def on_body(self, data: bytes) -> None:
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        self.done = True

    def feed(self, data: bytes) -> Piece:
        at = self._count_chunks(data) if self._counting else 0
        end = 0 if self._counting else self._empty_line(data, at)
        try:
            self._parser.feed_data(data[:end] if 0 < end < len(data) else data)
        except httptools.HttpParserError:
            raise BrokenBodyError from None
        if self.done != (end > 0):
            raise BrokenBodyError
        pieces = self._pieces
        self._pieces = []
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._weigh(end or len(data), len(body))
        return Piece(body, self.done, data[end:] if end else b"")

    def _count_chunks(self, data: bytes) -> int:
        """Pass over the chunks in `data`; return the index after the last chunk's line, the data's end before that."""
        at = self._ahead
        size = len(data)
        while at < size:
            end = data.find(b"\n", at)
            if end < 0:
                self._line += data[at:]
                at = size
                break
            line = data[at:end]
            if self._line:
                line, self._line = self._line + line, b""
            length = _known_length(line) if len(line) <= _LONGEST_REMEMBERED else _length(line)
            if not length:
                self._counting = False
                return end + 1
            at = end + length + 3
            if length in _SMALL and at < size and (run := _SMALL_CHUNKS.match(data, at)):
                at = run.end()
        self._ahead = at - size
        return size

    def _weigh(self, size: int, of_body: int) -> None:
        """Bound what chunk lines and trailers may cost, however they are cut into reads."""
        self._overhead = max(0, self._overhead + size - of_body - OVERHEAD_PER_BYTE * of_body)
        if self._overhead > LONGEST_CHUNK_OVERHEAD or self._trailer_size > LONGEST_TRAILERS:
            raise BrokenBodyError

    def _empty_line(self, data: bytes, start: int) -> int:
        """Return the index after the next CRLF CRLF, which may have begun in earlier data; 0 where there is none."""
        across = (self._tail + data[start : start + 3]).find(_END)
        if across >= 0:
            return start + across + 4 - len(self._tail)
        found = data.find(_END, start)
        self._tail = (self._tail + data[start:])[-3:]
        return found + 4 if found >= 0 else 0


def _length(line: bytes) -> int:
    """Return the length in a chunk's line, which is given up to its LF."""
    found = _CHUNK_LINE.match(line)
    if found is None:
        raise BrokenBodyError
    return int(found[1], 16)


_known_length = lru_cache(maxsize=1024)(_length)


def reader(framing: Framing) -> BodyReader | None:
    """Return the reader for a framing; None where there is no body."""
    if framing.chunked:
        return ChunkedReader()
    if framing.until_close:
        return CloseReader()
    return LengthReader(framing.length) if framing.length else None


def chunk(data: bytes) -> bytes:
    """Frame one piece as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: list[bytes]) -> bytes:
    """Return the last chunk and the trailer section made of whole lines."""
    return b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"
