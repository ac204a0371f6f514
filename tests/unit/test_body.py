"""Bodies in passing: however the bytes are cut, the same body, the same end, the same rest."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.build import is_compiled
from sidecar.wire.body import (
    BodyReader,
    BrokenBodyError,
    ChunkedReader,
    CloseReader,
    LengthReader,
    chunk,
    last_chunk,
)

if TYPE_CHECKING:
    from types import FrameType

REST = b"GET /next HTTP/1.1\r\n\r\n"
GOOD: dict[str, tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = {
    "plain": (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    "two": (b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello", []),
    "empty": (b"0\r\n\r\n", b"", []),
    "extension": (b'5;a;b=c;d="e;f"\r\nhello\r\n0;g\r\n\r\n', b"hello", []),
    "trailers": (b"5\r\nhello\r\n0\r\nA: b\r\nC:d\r\n\r\n", b"hello", [(b"A", b"b"), (b"C", b"d")]),
    "line-ends-as-data": (b"4\r\n\r\n\r\n\r\n6\r\n\r\n0\r\n\r\r\n0\r\n\r\n", b"\r\n\r\n\r\n0\r\n\r", []),
    "end-as-data": (b"5\r\n0\r\n\r\n\r\n5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n" * 2, []),
    "small": (
        b"1\r\nx\r\n01;a\r\n\n\r\nf;b=c\r\n0123456789abcde\r\n2\r\n\r\n\r\n00\r\n\r\n",
        b"x\n0123456789abcde\r\n",
        [],
    ),
    "upper-hex": (b"A\r\n0123456789\r\n00\r\n\r\n", b"0123456789", []),
}
BROKEN = {
    "SM-09-no-hex": b"xyz\r\n", "SM-09-plus": b"+5\r\nhello\r\n", "SM-09-space": b" 5\r\nhello\r\n",
    "SM-09-wraps": b"10000000000000005\r\nhello\r\n", "SM-10-lf": b"5\nhello\r\n", "SM-10-no-crlf": b"5\r\nhello0\r\n",
    "SM-10-lf-after-data": b"5\r\nhello\n0\r\n\r\n", "SM-10-bare-end": b"0\n\n", "SM-12-extra-crlf": b"5\r\nhello\r\n\r\n0\r\n",
    "SM-11-lf-in-extension": b"5;a\nb\r\nhello\r\n", "SM-11-64k-extension": b"5;" + b"a" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
    "SM-11-64k-trailer": b"5\r\nhello\r\n0\r\nA: " + b"a" * 65536 + b"\r\n\r\n",
    "SM-10-folded-trailer": b"0\r\nA: b\r\n c\r\n\r\n", "SM-10-nul-in-trailer": b"0\r\nA: \x00\r\n\r\n",
}  # fmt: skip


def _read(reader: BodyReader, parts: list[bytes]) -> tuple[bytes, bool, bytes]:
    body, done, rest = b"", False, b""
    for part in parts:
        if done:
            rest += part
            continue
        piece = reader.feed(part)
        body, done, rest = body + piece.data, piece.done, piece.rest
    return body, done, rest


@pytest.mark.parametrize("case", GOOD)
def test_chunked_body_split_at_every_two_places_reads_the_same(case: str):
    """Body, trailers and what is left over do not depend on how the network cut the bytes."""
    raw, body, trailers = GOOD[case]
    stream = raw + REST
    splits = [(0, 0), *((one, two) for one in range(1, len(stream)) for two in range(one, len(stream)))]
    for one, two in splits:
        reader = ChunkedReader()
        found = _read(reader, [part for part in (stream[:one], stream[one:two], stream[two:]) if part])
        assert found == (body, True, REST), (one, two)
        assert reader.trailers == trailers
    reader = ChunkedReader()
    assert _read(reader, [bytes([octet]) for octet in stream]) == (body, True, REST)
    assert reader.trailers == trailers


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_chunks_are_an_error_and_never_an_end(case: str, bytewise: bool):
    """[SM-09 … SM-12] No cut of a broken body makes it whole."""
    reader = ChunkedReader()
    parts = [bytes([octet]) for octet in BROKEN[case]] if bytewise else [BROKEN[case]]
    with pytest.raises(BrokenBodyError):
        _read(reader, [*parts, b"0\r\n\r\n"])


@given(pieces=st.lists(st.binary(max_size=50), max_size=8), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_what_we_frame_we_read(pieces: list[bytes], cuts: list[int]):
    """Chunks that we write are read back as they were, however they are cut."""
    stream = b"".join(chunk(piece) for piece in pieces if piece) + last_chunk([b"A: b"]) + REST
    places = sorted({min(cut, len(stream)) for cut in cuts})
    parts = [stream[a:b] for a, b in zip([0, *places], [*places, len(stream)], strict=True)]
    reader = ChunkedReader()
    assert _read(reader, [part for part in parts if part]) == (b"".join(pieces), True, REST)
    assert reader.trailers == [(b"A", b"b")]


def test_a_million_one_byte_chunks_are_no_overhead_that_is_refused():
    """[UP-08] Small chunks are ordinary; only chunk lines without body are bounded."""
    reader = ChunkedReader()
    assert len(_read(reader, [b"1\r\nx\r\n" * 10_000] * 10)[0]) == 100_000
    with pytest.raises(BrokenBodyError):
        _read(reader, [b"1;" + b"a" * 1000 + b"\r\nx\r\n"] * 1000)


@pytest.mark.parametrize("content", [b"\r\n", b"0\r\n\r\n"])
def test_empty_lines_in_a_chunk_cost_what_other_bytes_cost(content: bytes):
    """[SL-02] What looks like the end of a message inside a chunk holds nobody up: it is not looked at."""
    data = content * 10_000
    reader = ChunkedReader()
    reader.feed(b"%x\r\n" % (2 * len(data)))
    calls = []
    sys.setprofile(lambda _frame, event, _what: calls.append(event))
    piece = reader.feed(data)
    sys.setprofile(None)
    assert piece.data == data
    assert len(calls) < 100  # of functions, whatever the machine


@pytest.mark.skipif(is_compiled(), reason="counts lines that the interpreter goes through")
@pytest.mark.parametrize("small", [b"1\r\nx\r\n", b"0003;a=b\r\n\r\n\n\r\n", b"F\r\n0123456789abcde\r\n"])
def test_small_chunks_cost_no_more_than_llhttp_calling_for_each(small: bytes):
    """[SL-02] Runs of small chunks are passed over by one expression: our part is one call a read, not one a chunk."""
    reader = ChunkedReader()
    reader.feed(small)
    lines = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line" and frame.f_code is not ChunkedReader.on_body.__code__
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    piece = reader.feed(small * 2000)
    sys.settrace(before)
    assert len(piece.data) == 2000 * len(ChunkedReader().feed(small).data)
    assert lines < 100  # whatever the machine


@given(body=st.binary(min_size=1, max_size=60), cut=st.integers(0, 80))
def test_length_is_counted(body: bytes, cut: int):
    """The body ends where the count does; what follows is the rest; an early end is no end."""
    stream = body + REST
    parts = [part for part in (stream[:cut], stream[cut:]) if part]
    assert _read(LengthReader(len(body)), parts) == (body, True, REST)
    assert _read(LengthReader(len(body) + 1), [body]) == (body, False, b"")


@given(body=st.lists(st.binary(min_size=1), max_size=5))
def test_body_without_framing_never_ends_by_itself(body: list[bytes]):
    """[UP-11] Only the end of the connection ends it: everything that comes is body."""
    assert _read(CloseReader(), body) == (b"".join(body), False, b"")
