"""Where a body ends: one answer or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.wire.framing import CHUNKED, EMPTY, UNTIL_CLOSE, Framing, request_framing, response_framing
from sidecar.wire.head import InvalidResponseError
from tests.support.heads import get, request_head, response_head

AMBIGUOUS = {
    "SM-01-both": [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "SM-08-two-lengths": [b"Content-Length: 5", b"Content-Length: 5"],
    "SM-06-list": [b"Content-Length: 5, 5"],
    "SM-06-plus": [b"Content-Length: +5"],
    "SM-06-underscore": [b"Content-Length: 5_0"],
    "SM-06-superscript": [b"Content-Length: \xb2"],
    "SM-06-empty": [b"Content-Length:"],
    "SM-07-too-long": [b"Content-Length: 1000000000000000000"],
    "SM-04-gzip": [b"Transfer-Encoding: gzip, chunked"],
    "SM-04-identity": [b"Transfer-Encoding: identity"],
    "SM-01-two-codings": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_ambiguous_framing_is_refused_in_requests(case: str):
    """Whether llhttp or `framing` sees it first: a refusal that closes."""
    with pytest.raises(Refusal) as caught:
        request_framing(get(b"/", *AMBIGUOUS[case], method=b"POST"))
    assert caught.value.name == "bad_request"
    assert caught.value.close


@pytest.mark.parametrize("case", AMBIGUOUS)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_ambiguous_framing_is_invalid_in_responses(case: str, method: bytes):
    """[SM-19] Also where no body follows: what is passed on is read by others."""
    with pytest.raises(InvalidResponseError):
        response_framing(response_head(b"\r\n".join([b"HTTP/1.1 200 OK", *AMBIGUOUS[case], b"", b""])), method)


@given(length=st.integers(0, 10**18 - 1), zeros=st.integers(0, 3))
def test_plain_length_is_the_length(length: int, zeros: int):
    """Digits are the length, leading zeros or not."""
    digits = (b"0" * zeros + b"%d" % length)[-18:]
    assert request_framing(get(b"/", b"Content-Length: " + digits, method=b"PUT")) == Framing(int(digits))


@pytest.mark.parametrize(
    ("status", "lines", "method", "expected"),
    [
        (b"200", [], b"GET", UNTIL_CLOSE),
        (b"200", [b"Content-Length: 0"], b"GET", EMPTY),
        (b"200", [b"Content-Length: 7"], b"GET", Framing(7)),
        (b"200", [b"Content-Length: 7"], b"HEAD", EMPTY),
        (b"200", [b"Transfer-Encoding: chunked"], b"GET", CHUNKED),
        (b"200", [b"Transfer-Encoding: Chunked"], b"HEAD", EMPTY),
        (b"304", [b"Content-Length: 7"], b"GET", EMPTY),
        (b"304", [b"Transfer-Encoding: chunked"], b"GET", EMPTY),
        (b"204", [], b"GET", EMPTY),
        (b"204", [b"Content-Length: 0"], b"GET", EMPTY),
        (b"103", [], b"GET", EMPTY),
        (b"101", [b"Connection: Upgrade", b"Upgrade: x"], b"GET", EMPTY),
    ],
)  # fmt: skip
def test_response_framing_follows_the_rfc(status: bytes, lines: list[bytes], method: bytes, expected: Framing):
    """[HD-19, HD-20] RFC 9112 section 6.3, rule by rule."""
    head = response_head(b"\r\n".join([b"HTTP/1.1 " + status + b" X", *lines, b"", b""]))
    assert response_framing(head, method) == expected


@pytest.mark.parametrize("status", [b"100", b"103", b"204"])
@pytest.mark.parametrize("line", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_body_announced_where_none_may_be_is_invalid(status: bytes, line: bytes):
    """[SM-19] A reader that believes the line would take the next response for this one's body."""
    with pytest.raises(InvalidResponseError):
        response_framing(response_head(b"HTTP/1.1 " + status + b" X\r\n" + line + b"\r\n\r\n"), b"GET")


def test_http_1_0_knows_no_chunks():
    """[SM-19] Transfer-Encoding in HTTP/1.0 is refused both ways; CONNECT has no body."""
    with pytest.raises(Refusal):
        request_framing(request_head(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"))
    with pytest.raises(InvalidResponseError):
        response_framing(response_head(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), b"GET")
    with pytest.raises(Refusal):
        request_framing(request_head(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n"))
