"""Heads: every octet at every place gives a refusal, or the one reading that a strict reader has too."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import TYPE_CHECKING

import h11
import pytest

from sidecar.errors import Refusal
from sidecar.settings import KIB, Limits
from sidecar.target import read_target
from sidecar.wire.framing import request_framing, response_framing
from sidecar.wire.head import InvalidResponseError, parse_request, parse_response
from sidecar.wire.hearing import Hearing
from tests.support.heads import request_head, response_head

if TYPE_CHECKING:
    from collections.abc import Iterator

END = b"\r\n\r\n"
REQUEST = b"GET /p?q HTTP/1.1\r\nHost: a.b\r\nX-One: v al\r\nY:2\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 Fine\r\nX-One: v al\r\nContent-Length: 0\r\nY:2\r\n\r\n"
TROUBLE = b"\r\n\t \x00:\x0b"


def _damaged(head: bytes) -> Iterator[bytes]:
    """Every octet inserted and replaced at every place, and every pair of troublesome ones inserted."""
    for at in range(len(head) + 1):
        for octet in range(256):
            yield head[:at] + bytes([octet]) + head[at:]
            yield head[:at] + bytes([octet]) + head[at + 1 :]
        for pair in itertools.product(TROUBLE, repeat=2):
            yield head[:at] + bytes(pair) + head[at:]
        yield head[:at] + head[at + 1 :]


def _whole(head: bytes) -> bool:
    """The wire hands over what ends at the first empty line, and nothing that begins with CR or LF."""
    return head.find(END) + 4 == len(head) and head[:1] not in (b"\r", b"\n")


def _strict_request(head: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(head)
    event = reader.next_event()
    assert isinstance(event, h11.Request), event
    return event.method, event.target, list(event.headers)


def _strict_response(head: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=b"GET", target=b"/", headers=[(b"Host", b"x")]))
    reader.send(h11.EndOfMessage())
    reader.receive_data(head)
    event = reader.next_event()
    assert isinstance(event, h11.Response | h11.InformationalResponse), event
    return event.status_code, list(event.headers)


def _readings(names: list[bytes], values: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(names, values, strict=True))


@pytest.mark.parametrize("version", [b"1", b"0"])
def test_damaged_request_head_is_refused_or_read_as_a_strict_reader_does(version: bytes):
    """[SM-05, SM-10] What passes has the same method, target and headers for h11, and no control character."""
    passed = 0
    for head in filter(_whole, _damaged(REQUEST.replace(b"HTTP/1.1", b"HTTP/1." + version))):
        try:
            found = request_head(head)
        except Refusal:
            continue
        passed += 1
        hostless = b"host" not in found.names
        strict = head if not hostless else head.replace(b"\r\n", b"\r\nHost: x\r\n", 1)
        method, target, headers = _strict_request(strict)
        assert (method, target) == (found.method, found.target), head
        assert headers[hostless:] == _readings(found.names, found.headers.values), head
        assert found.headers.lines == head[:-4].split(b"\r\n")[1:]
        assert not any((octet < 0x20 and octet != 9) or octet == 0x7F for line in found.headers.lines for octet in line)
        assert all(0x20 < octet < 0x7F for octet in found.target), head
    assert passed > 1000


def test_damaged_response_head_is_refused_or_read_as_a_strict_reader_does():
    """[UP-10] What passes has the same status and headers for h11, and no control character."""
    passed = 0
    for head in filter(_whole, _damaged(RESPONSE)):
        try:
            found = response_head(head)
        except InvalidResponseError:
            continue
        if any(
            name == b"content-length" and not value.isdigit()
            for name, value in _readings(found.names, found.headers.values)
        ):
            continue  # h11 refuses the framing here, we do in `framing`
        passed += 1
        status, headers = _strict_response(head)
        assert status == found.status, head
        assert headers == _readings(found.names, found.headers.values), head
        assert not any((octet < 0x20 and octet != 9) or octet == 0x7F for line in found.headers.lines for octet in line)
    assert passed > 1000


def test_equal_sections_are_read_alike_whatever_the_start_line_says():
    """What is remembered of a header section never carries over to another version or another section."""
    one = request_head(b"GET /a HTTP/1.1\r\nHost: a\r\nCookie: x\r\n\r\n")
    two = request_head(b"POST /b HTTP/1.0\r\nHost: a\r\nCookie: x\r\n\r\n")
    assert (one.method, one.target, one.minor) == (b"GET", b"/a", 1)
    assert (two.method, two.target, two.minor) == (b"POST", b"/b", 0)
    assert one.headers.lines == two.headers.lines == [b"Host: a", b"Cookie: x"]


@pytest.mark.parametrize(
    ("head", "name"),
    [
        pytest.param(b"GET /" + b"x" * 20 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "target_too_large", id="OV-01-target"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 3 + b"\r\n", "headers_too_large", id="OV-01-count"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "bad_request", id="SM-10-malformed"),
    ],
)
def test_refusals_of_heads_have_their_names_and_close(head: bytes, name: str):
    """A head over a limit is too large, any other refusal a bad request; the connection cannot be used again."""
    with pytest.raises(Refusal) as caught:
        request_head(head, Limits(target=16, header_count=3))
    assert caught.value.name == name
    assert caught.value.close


LONG = b"x" * 50 * KIB
LONG_ONES = {
    "length": b"GET /x HTTP/1.1\r\nHost: a.b\r\nContent-Length:" + b" " * len(LONG) + b"@\r\n\r\n",
    "name": b"GET /x HTTP/1.1\r\nHost: a.b\r\n" + LONG + b"@: y\r\n\r\n",
    "value": b"GET /x HTTP/1.1\r\nHost: a.b\r\nX: " + LONG + b"@\r\n\r\n",
    "origin": b"GET /" + LONG + b"@ HTTP/1.1\r\nHost: a.b\r\n\r\n",
    "absolute": b"GET http://a.b/" + LONG + b"@ HTTP/1.1\r\nHost: a.b\r\n\r\n",
    "reason": b"HTTP/1.1 200 " + LONG + b"@\r\n\r\n",
    "response-length": b"HTTP/1.1 200 OK\r\nContent-Length:" + b" " * len(LONG) + b"@\r\n\r\n",
}


@pytest.mark.parametrize("case", LONG_ONES)
def test_what_is_remembered_of_heads_is_short(case: str):
    """[OV-07] Values by the bytes of what said them cost no memory to speak of, however long those are."""
    limits, hearing = Limits(target=1024 * KIB), Hearing(frozenset([b"host"]), frozenset())
    tracemalloc.start()
    try:
        for number in range(30):
            raw = LONG_ONES[case].replace(b"@", b"%d" % (number + 10))
            if raw.startswith(b"GET"):
                head = parse_request(raw, limits, hearing)
                read_target(head)
                request_framing(head)
            else:
                response_framing(parse_response(raw, hearing), b"GET")
        del raw
        assert tracemalloc.get_traced_memory()[0] < 512 * KIB
    finally:
        tracemalloc.stop()
