"""Raw requests whose end can be argued about: one reading, or a refusal (RFC 9112 sections 6 and 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.judge import SMUGGLED, VARIANTS, Case, Expected, Variant, fill, run, start, table
from tests.support.recording_upstream import reread

if TYPE_CHECKING:
    from tests.support.corridor import Corridor

POST = b"POST @/x@ HTTP/1.1\r\nHost: @host@\r\n"
GET = b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET @/next@ HTTP/1.1\r\nHost: @host@\r\n\r\n"
SEES_NEXT = Expected(b"GET", b"/next")


def _post(body: bytes) -> tuple[Expected, ...]:
    return (Expected(b"POST", b"/x", body),)


def _slug(octets: bytes) -> str:
    return "".join(chr(octet) if chr(octet).isalnum() or octet in b"+-.,_" else f"%{octet:02x}" for octet in octets)


# -- Content-Length -------------------------------------------------------------------------------------------------

BAD_LENGTHS = (
    b"+5", b"-5", b"-0", b"0x5", b"5_0", b"5e0", b'"5"', b"\xd9\xa5", b"\xc2\xb2", b"5,6", b"5, 5", b"5,", b",5", b"",
    b" ", b"5 5", b"5;", b"5.0", b"05h", b"NaN", b"Infinity", b"\xb2", b"5\t5", b"0,0", b"5\x0b", b"\x0c5", b"5\xa0",
    b"5\x85", b"two", b"0b101", b"0o5",
)  # fmt: skip
HUGE_LENGTHS = tuple(b"%d" % length for length in (2**64, 2**64 + 5, 2**64 - 1, 2**63, 10**18, 10**19 + 5, 10**40))
BAD_CL = [
    Case(f"SM-06-length-{_slug(value) or 'empty'}", POST + b"Content-Length: " + value + b"\r\n\r\nhello")
    for value in BAD_LENGTHS
]
HUGE_CL = [
    Case(f"SM-07-length-{_slug(value)}", POST + b"Content-Length: " + value + b"\r\n\r\nhello", status=(400, 413))
    for value in HUGE_LENGTHS
]
TWO_CL = [
    Case(f"SM-08-lengths-{_slug(one)}-then-{_slug(two)}",
         POST + b"Content-Length: %b\r\nContent-Length: %b\r\n\r\nhello" % (one, two))
    for one, two in ((b"", b"5"), (b"5", b""), (b"5", b"5"), (b"5", b"6"), (b"0", b"5"), (b"5", b"0"), (b"05", b"5"),
                     (b"5", b"junk"))
]  # fmt: skip
GOOD_CL = [
    Case("SM-06-length-plain", POST + b"Content-Length: 5\r\n\r\nhello", _post(b"hello")),
    Case("SM-06-length-leading-zeros", POST + b"Content-Length: 0005\r\n\r\nhello", _post(b"hello")),
    Case("SM-06-length-padded", POST + b"Content-Length: \t 5 \t\r\n\r\nhello", _post(b"hello")),
    Case("SM-06-length-no-space", POST + b"content-length:5\r\n\r\nhello", _post(b"hello")),
    Case("SM-06-length-zero", POST + b"Content-Length: 0\r\n\r\n" + NEXT, (*_post(b""), SEES_NEXT)),
    Case("SM-06-no-length", POST + b"\r\n" + NEXT, (*_post(b""), SEES_NEXT)),
    Case("SM-06-body-then-request", POST + b"Content-Length: 5\r\n\r\nhello" + NEXT, (*_post(b"hello"), SEES_NEXT)),
    Case("SM-06-length-then-empty-line", POST + b"Content-Length: 5\r\n\r\nhello\r\n" + NEXT,
         (*_post(b"hello"), SEES_NEXT)),
]  # fmt: skip


# -- Transfer-Encoding ----------------------------------------------------------------------------------------------

_CL_TE = b"0\r\n\r\n" + SMUGGLED
_CL_OF_ALL = b"Content-Length: %d\r\n" % len(_CL_TE)
BAD_CODINGS = (
    b"xchunked", b"chunkedx", b"chunked, identity", b"identity, chunked", b"gzip, chunked", b"chunked, chunked",
    b"chunked,", b",chunked", b", chunked", b"chunked;q=1", b'"chunked"', b"'chunked'", b"chunked\x0b", b"\x0bchunked",
    b"\x0cchunked", b"chunked\x00", b"\x00chunked", b"identity", b"cow", b"", b"gzip", b"chunked\xa0", b"\xa0chunked",
    b"chunked foo", b"ch\xc3\xbcnked", b"chunked=", b"chun\tked", b"chunked,identity", b"chunked \t", b"chunked, cow", b"x=chunked",
    b"trailers, chunked", b"\xefchunked", b"chunKed\x7f", b"(chunked)",
)  # fmt: skip
TE_VALUES = [
    Case(f"SM-04-coding-{_slug(value) or 'empty'}",
         POST + b"Transfer-Encoding: " + value + b"\r\n\r\n5\r\nhello\r\n" + _CL_TE)
    for value in BAD_CODINGS
]  # fmt: skip
TE_VALUES_BESIDE_CL = [
    Case(f"SM-04-coding-beside-length-{_slug(value) or 'empty'}",
         POST + b"Transfer-Encoding: " + value + b"\r\n" + _CL_OF_ALL + b"\r\n" + _CL_TE)
    for value in (*BAD_CODINGS, b"chunked", b"Chunked", b" chunked ", b"\tchunked")
]  # fmt: skip
TE_LINES = [
    Case(f"SM-05-line-{name}", POST + _CL_OF_ALL + line + b"\r\n" + _CL_TE, _post(_CL_TE), or_refused=True)
    for name, line in {
        "space-before-colon": b"Transfer-Encoding : chunked\r\n",
        "tab-before-colon": b"Transfer-Encoding\t: chunked\r\n",
        "leading-space": b" Transfer-Encoding: chunked\r\n",
        "leading-tab": b"\tTransfer-Encoding: chunked\r\n",
        "folded": b"Transfer-Encoding:\r\n chunked\r\n",
        "folded-tab": b"Transfer-Encoding:\r\n\tchunked\r\n",
        "folded-name": b"Transfer-\r\n Encoding: chunked\r\n",
        "behind-bare-lf": b"X: y\nTransfer-Encoding: chunked\r\n",
        "behind-bare-cr": b"X: y\rTransfer-Encoding: chunked\r\n",
        "behind-nul": b"X: y\x00Transfer-Encoding: chunked\r\n",
        "ends-in-bare-lf": b"Transfer-Encoding: chunked\n",
        "ends-in-cr-cr-lf": b"Transfer-Encoding: chunked\r\r\n",
        "no-colon": b"Transfer-Encoding chunked\r\n",
        "equals": b"Transfer-Encoding=chunked\r\n",
        "two-colons": b"Transfer-Encoding:: chunked\r\n",
        "underscore": b"Transfer_Encoding: chunked\r\n",
        "en-dash": b"Transfer\xe2\x80\x91Encoding: chunked\r\n",
        "quoted-name": b'"Transfer-Encoding": chunked\r\n',
        "colon-in-front": b":Transfer-Encoding: chunked\r\n",
        "nul-in-name": b"Transfer\x00-Encoding: chunked\r\n",
        "kelvin-sign": b"Transfer-Encoding: chun\xe2\x84\xaaed\r\n",
        "content-encoding": b"Content-Encoding: chunked\r\n",
        "te": b"TE: chunked\r\n",
        "in-value": b"X: a Transfer-Encoding: chunked\r\n",
        "in-cookie": b"Cookie: a=b; Transfer-Encoding: chunked\r\n",
        "x-prefix": b"X-Transfer-Encoding: chunked\r\n",
        "empty-name": b": chunked\r\n",
        "empty-line-with-space": b" \r\nTransfer-Encoding: chunked\r\n",
        "connection-names-it": b"Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
        "connection-names-length": b"Connection: content-length\r\n",
    }.items()
]
BOTH = [
    Case(f"SM-01-{name}", POST + lines + b"\r\n" + body)
    for name, lines, body in (
        ("length-then-coding", b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("coding-then-length", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"),
        ("consistent-zero", b"Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("two-codings", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("two-codings-identity-first", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        ("two-codings-identity-last", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", b"0\r\n\r\n"),
        ("two-codings-and-length",
         b"Transfer-Encoding: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    )
] + [
    Case("SM-02-length-rules-or-coding", POST + _CL_OF_ALL + b"Transfer-Encoding: chunked\r\n\r\n" + _CL_TE),
    Case("SM-03-request-in-a-chunk", CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), _post(SMUGGLED)),
    Case("SM-03-coding-rules-or-length",
         POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
]  # fmt: skip
GOOD_TE = [
    Case(f"SM-05-coding-{name}", POST + line + b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n" + NEXT, (*_post(b"hello"), SEES_NEXT))
    for name, line in (
        ("plain", b"Transfer-Encoding: chunked"),
        ("upper-case", b"TRANSFER-ENCODING: CHUNKED"),
        ("no-space", b"transfer-encoding:chunked"),
        ("padded", b"Transfer-Encoding: \t chunked"),
        ("named-by-connection", b"Transfer-Encoding: chunked\r\nConnection: Transfer-Encoding"),
    )
]


# -- chunks ---------------------------------------------------------------------------------------------------------

BAD_SIZES = (
    b"0x5", b"+5", b"-5", b"5_0", b" 5", b"5 ", b"\t5", b"5\t", b"", b"g", b"5.0", b"5h", b"\xd9\xa5", b'"5"', b"5,5",
    b"0x", b"10000000000000005", b"FFFFFFFFFFFFFFFF0", b"FFFFFFFFFFFFFFFFF5", b"\x005", b"5\x00", b"-0", b"5\x0b",
)  # fmt: skip
CHUNK_SIZES = [
    Case(f"SM-09-size-{_slug(size) or 'empty'}", CHUNKED + size + b"\r\nhello\r\n0\r\n\r\n" + SMUGGLED, partly=True)
    for size in BAD_SIZES
]
CHUNK_LINES = [
    Case(f"{name}", CHUNKED + body + SMUGGLED, partly=True)
    for name, body in {
        "SM-10-lf-after-size": b"5\nhello\r\n0\r\n\r\n",
        "SM-10-cr-after-size": b"5\rhello\r\n0\r\n\r\n",
        "SM-10-cr-cr-lf-after-size": b"5\r\r\nhello\r\n0\r\n\r\n",
        "SM-10-lf-after-data": b"5\r\nhello\n0\r\n\r\n",
        "SM-10-cr-after-data": b"5\r\nhello\r0\r\n\r\n",
        "SM-10-nothing-after-data": b"5\r\nhello0\r\n\r\n",
        "SM-10-too-much-data": b"5\r\nhelloo\r\n0\r\n\r\n",
        "SM-10-too-little-data": b"5\r\nhell\r\n0\r\n\r\n",
        "SM-10-lf-after-last-size": b"5\r\nhello\r\n0\n\r\n",
        "SM-10-lf-lf-end": b"5\r\nhello\r\n0\n\n",
        "SM-10-lf-end": b"5\r\nhello\r\n0\r\n\n",
        "SM-10-cr-end": b"5\r\nhello\r\n0\r\n\rX",
        "SM-10-space-before-end": b"5\r\nhello\r\n0\r\n \r\n",
        "SM-10-lf-in-trailer": b"5\r\nhello\r\n0\r\nX: y\n\r\n",
        "SM-10-cr-in-trailer": b"5\r\nhello\r\n0\r\nX: y\rZ: a\r\n\r\n",
        "SM-10-nul-in-trailer": b"5\r\nhello\r\n0\r\nX: y\x00\r\n\r\n",
        "SM-10-folded-trailer": b"5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
        "SM-10-no-colon-in-trailer": b"5\r\nhello\r\n0\r\nnonsense\r\n\r\n",
        "SM-10-space-in-trailer-name": b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "SM-11-ext-with-lf": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        "SM-11-ext-with-cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        "SM-11-ext-with-nul": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
        "SM-11-ext-of-last-with-lf": b"5\r\nhello\r\n0;a\n\r\n\r\n",
        "SM-11-ext-with-quoted-lf": b'5;a="\n"\r\nhello\r\n0\r\n\r\n',
        "SM-11-ext-64k": b"5;a=" + b"x" * 65536 + b"\r\nhello\r\n0\r\n\r\n",
        "SM-11-ext-64k-of-last": b"5\r\nhello\r\n0;a=" + b"x" * 65536 + b"\r\n\r\n",
        "SM-11-trailer-64k": b"5\r\nhello\r\n0\r\nA: " + b"x" * 65536 + b"\r\n\r\n",
        "SM-12-crlf-before-last": b"5\r\nhello\r\n\r\n0\r\n\r\n",
        "SM-12-crlf-before-first": b"\r\n5\r\nhello\r\n0\r\n\r\n",
        "SM-10-crlf-crlf-instead-of-size": b"5\r\nhello\r\n\r\n\r\n",
        "SM-09-request-instead-of-size": b"",
    }.items()
]
GOOD_CHUNKS = [
    Case(name, CHUNKED + body + NEXT, (*_post(expected), SEES_NEXT))
    for name, body, expected in (
        ("SM-09-upper-hex", b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        ("SM-09-leading-zeros", b"000005\r\nhello\r\n000\r\n\r\n", b"hello"),
        ("SM-09-empty-body", b"0\r\n\r\n", b""),
        ("SM-09-one-byte-chunks", b"1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", b"hi"),
        ("SM-11-plain-ext", b"5;a=b;c\r\nhello\r\n0;last\r\n\r\n", b"hello"),
        ("SM-11-quoted-ext", b'5;a="b;c"\r\nhello\r\n0\r\n\r\n', b"hello"),
        ("SM-10-crlf-crlf-as-data", b"4\r\n\r\n\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n\r\n\r\n"),
        ("SM-10-end-as-data", b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    )
]
CUT = [
    Case(f"SM-13-{name}", stream, partly=True, half_close=True, status=(400, 408))
    for name, stream in {
        "head": POST + b"Content-Le",
        "length": POST + b"Content-Length: 10\r\n\r\nhello",
        "length-no-byte": POST + b"Content-Length: 10\r\n\r\n",
        "chunked-no-chunk": CHUNKED,
        "chunked-in-size": CHUNKED + b"5",
        "chunked-after-size": CHUNKED + b"5\r\n",
        "chunked-in-data": CHUNKED + b"5\r\nhel",
        "chunked-after-data": CHUNKED + b"5\r\nhello",
        "chunked-after-chunk": CHUNKED + b"5\r\nhello\r\n",
        "chunked-after-last": CHUNKED + b"5\r\nhello\r\n0\r\n",
        "chunked-in-end": CHUNKED + b"5\r\nhello\r\n0\r\n\r",
        "chunked-in-trailer": CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\n",
    }.items()
]


# -- methods, versions, request lines -------------------------------------------------------------------------------

BODIES = [
    Case(f"SM-14-{method.decode()}-{name}", b"%b @/x@ HTTP/1.1\r\nHost: @host@\r\n%b" % (method, rest) + NEXT,
         (Expected(method, b"/x", SMUGGLED), SEES_NEXT), or_refused=True)
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"PUT", b"PATCH")
    for name, rest in (
        ("length", b"Content-Length: %d\r\n\r\n%b" % (len(SMUGGLED), SMUGGLED)),
        ("chunked", b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    )
]  # fmt: skip
REST = b"\r\nHost: @host@\r\n\r\n"
REQUEST_LINES = [
    Case(f"SM-24-line-{name}", line + REST + SMUGGLED, status=(400, 403, 414, 505))
    for name, line in {
        "two-spaces-before-target": b"GET  @/x@ HTTP/1.1",
        "two-spaces-before-version": b"GET @/x@  HTTP/1.1",
        "trailing-space": b"GET @/x@ HTTP/1.1 ",
        "leading-space": b" GET @/x@ HTTP/1.1",
        "tab-separated": b"GET\t@/x@\tHTTP/1.1",
        "tab-before-version": b"GET @/x@\tHTTP/1.1",
        "tab-in-target": b"GET @/x\ty@ HTTP/1.1",
        "space-in-target": b"GET @/x y@ HTTP/1.1",
        "formfeed-in-target": b"GET @/x\x0cy@ HTTP/1.1",
        "vt-in-target": b"GET @/x\x0by@ HTTP/1.1",
        "nul-in-target": b"GET @/x\x00y@ HTTP/1.1",
        "del-in-target": b"GET @/x\x7fy@ HTTP/1.1",
        "latin1-in-target": b"GET @/x\xe9y@ HTTP/1.1",
        "utf8-in-target": b"GET @/x\xc3\xa9y@ HTTP/1.1",
        "utf8-in-query": b"GET @/x?\xc3\xa9@ HTTP/1.1",
        "nbsp-in-target": b"GET @/x\xa0@ HTTP/1.1",
        "nel-in-target": b"GET @/x\x85@ HTTP/1.1",
        "no-version": b"GET @/x@",
        "lower-version": b"GET @/x@ http/1.1",
        "version-0.9": b"GET @/x@ HTTP/0.9",
        "version-1.2": b"GET @/x@ HTTP/1.2",
        "version-1.10": b"GET @/x@ HTTP/1.10",
        "version-1": b"GET @/x@ HTTP/1",
        "version-1.": b"GET @/x@ HTTP/1.",
        "version-01.1": b"GET @/x@ HTTP/01.1",
        "version-2.0": b"GET @/x@ HTTP/2.0",
        "version-3.0": b"GET @/x@ HTTP/3.0",
        "version-1,1": b"GET @/x@ HTTP/1,1",
        "version-+1.1": b"GET @/x@ HTTP/+1.1",
        "version-space": b"GET @/x@ HTTP/ 1.1",
        "version-https": b"GET @/x@ HTTPS/1.1",
        "rtsp": b"OPTIONS @/x@ RTSP/1.0",
        "rtsp-method": b"DESCRIBE @/x@ RTSP/1.0",
        "ice": b"SOURCE @/x@ ICE/1.0",
        "two-versions": b"GET @/x@ HTTP/1.1 HTTP/1.1",
        "bare-lf": b"GET @/x@ HTTP/1.1\nX: y",
        "bare-cr": b"GET @/x@ HTTP/1.1\rX: y",
        "cr-cr-lf": b"GET @/x@ HTTP/1.1\r",
        "lf-first": b"\nGET @/x@ HTTP/1.1",
        "cr-first": b"\rGET @/x@ HTTP/1.1",
        "nul-first": b"\x00GET @/x@ HTTP/1.1",
        "bom-first": b"\xef\xbb\xbfGET @/x@ HTTP/1.1",
        "no-method": b"@/x@ HTTP/1.1",
        "lower-head": b"head @/x@ HTTP/1.1",
        "mixed-head": b"Head @/x@ HTTP/1.1",
        "lower-connect": b"connect @/x@ HTTP/1.1",
        "lower-trace": b"trace @/x@ HTTP/1.1",
        "http2-method": b"PRI @/x@ HTTP/1.1",
        "endless-method": b"X" * 65 + b" @/x@ HTTP/1.1",
        "method-with-equals": b"G=T @/x@ HTTP/1.1",
        "method-with-comma": b"GET,POST @/x@ HTTP/1.1",
        "method-with-slash": b"GET/x @/x@ HTTP/1.1",
        "method-with-colon": b"GET: @/x@ HTTP/1.1",
        "method-with-cr": b"GET\r @/x@ HTTP/1.1",
        "method-with-del": b"GET\x7f @/x@ HTTP/1.1",
        "quoted-method": b'"GET" @/x@ HTTP/1.1',
        "paren-method": b"GET() @/x@ HTTP/1.1",
        "method-with-nul": b"G\x00ET @/x@ HTTP/1.1",
        "method-with-lf": b"G\nET @/x@ HTTP/1.1",
        "method-latin1": b"G\xc9T @/x@ HTTP/1.1",
        "no-target": b"GET  HTTP/1.1",
        "backslash-target": b"GET \\x HTTP/1.1",
        "star-for-get": b"GET * HTTP/1.1",
        "relative": b"GET x HTTP/1.1",
        "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "http2-preface-as-1.1": b"PRI * HTTP/1.1",
        "tls-hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "json": b'{"a": 1}',
        "socks5": b"\x05\x01\x00",
        "proxy-v1": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2",
        "response": b"HTTP/1.1 200 OK",
    }.items()
]
HEADER_LINES = [
    Case(f"SM-10-header-{name}", GET + line + b"\r\n\r\n" + SMUGGLED)
    for name, line in {
        "bare-lf": b"A: b\nC: d",
        "bare-cr": b"A: b\rC: d",
        "cr-cr-lf": b"A: b\r",
        "nul": b"A: b\x00c",
        "folded": b"A: b\r\n c",
        "folded-tab": b"A: b\r\n\tc",
        "folded-first": b" A: b",
        "folded-and-bare-lf": b"A: b\r\n c\nD: e",
        "no-colon": b"nonsense",
        "empty-name": b": b",
        "space-before-colon": b"A : b",
        "tab-before-colon": b"A\t: b",
        "space-in-name": b"A B: c",
        "nul-in-name": b"A\x00: b",
        "control-in-name": b"A\x01: b",
        "latin1-in-name": b"\xc4: b",
        "colon-less-lf": b"A\nB: c",
        "control-in-value": b"A: \x01",
        "del-in-value": b"A: \x7f",
        "vt-in-value": b"A: b\x0bc",
        "esc-in-value": b"A: \x1b[31m",
        "request-line-as-header": b"GET /smuggled HTTP/1.1",
        "paren-in-name": b"A(b): c",
        "slash-in-name": b"A/b: c",
        "bracket-in-name": b"[A]: c",
        "at-in-name": b"A@b: c",
        "comma-in-name": b"A,b: c",
        "quote-in-name": b'A"b: c',
        "brace-in-name": b"A{b}: c",
        "equals-in-name": b"A=b: c",
        "question-in-name": b"A?b: c",
        "backslash-in-name": b"A\\b: c",
    }.items()
]
EMPTY_LINES = [
    Case("SM-24-crlf-before-request", b"\r\n" + NEXT, (SEES_NEXT,)),
    Case("SM-24-three-crlf-before-request", b"\r\n\r\n\r\n" + NEXT, (SEES_NEXT,)),
    Case("SM-24-lf-between-requests", NEXT + b"\n" + SMUGGLED, (SEES_NEXT,)),
    Case("SM-24-cr-between-requests", NEXT + b"\rX" + SMUGGLED, (SEES_NEXT,)),
    Case("SM-24-space-between-requests", NEXT + b" " + SMUGGLED, (SEES_NEXT,)),
    Case("SM-24-nul-between-requests", NEXT + b"\x00" + SMUGGLED, (SEES_NEXT,)),
    Case("SM-24-good-then-malformed", NEXT + b"GET /smuggled HTTP/1.1\r\nHost : x\r\n\r\n", (SEES_NEXT,)),
    Case("SM-24-good-then-ambiguous",
         NEXT + POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, (SEES_NEXT,)),
    Case("SM-24-good-then-no-host", NEXT + b"GET /smuggled HTTP/1.1\r\n\r\n", (SEES_NEXT,)),
    Case("SM-24-malformed-then-good", b"GET @/x@ HTTP/1.1\r\nHost : x\r\n\r\n" + SMUGGLED),
]  # fmt: skip
HTTP_1_0 = [
    Case("HD-21-http10-get", b"GET @/x@ HTTP/1.0\r\nHost: @host@\r\n\r\n", (Expected(b"GET", b"/x"),)),
    Case("HD-21-http10-post", b"POST @/x@ HTTP/1.0\r\nHost: @host@\r\nContent-Length: 2\r\n\r\nhi", _post(b"hi")),
    Case("HD-21-http10-keep-alive",
         b"GET @/x@ HTTP/1.0\r\nHost: @host@\r\nConnection: keep-alive\r\n\r\n" + SMUGGLED, (Expected(b"GET", b"/x"),)),
    Case("SM-19-http10-chunked",
         b"POST @/x@ HTTP/1.0\r\nHost: @host@\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED),
    Case("HD-21-http10-close-then-more", b"GET @/x@ HTTP/1.1\r\nHost: @host@\r\nConnection: close\r\n\r\n" + SMUGGLED,
         (Expected(b"GET", b"/x"),)),
]  # fmt: skip
CONNECT = [
    Case("SM-28-connect-refused-with-body",
         b"CONNECT other.internal:443 HTTP/1.1\r\nHost: other.internal:443\r\nContent-Length: %d\r\n\r\n%b"
         % (len(SMUGGLED), SMUGGLED), status=(400, 403)),
    Case("SM-28-connect-refused-chunked",
         b"CONNECT other.internal:443 HTTP/1.1\r\nHost: other.internal:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
         + SMUGGLED, status=(400, 403)),
    Case("SM-28-connect-refused-then-request",
         b"CONNECT other.internal:443 HTTP/1.1\r\nHost: other.internal:443\r\n\r\n" + SMUGGLED, status=(403,)),
    Case("SS-08-connect-to-a-route",
         b"CONNECT app.internal:443 HTTP/1.1\r\nHost: app.internal:443\r\n\r\n" + SMUGGLED, status=(403,)),
    Case("SS-08-connect-without-port", b"CONNECT app.internal HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-origin-form", b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-absolute-form", b"CONNECT http://app.internal:80/ HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-length-zero-refused",
         b"CONNECT other.internal:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n" + SMUGGLED, status=(403,)),
    Case("SS-08-connect-port-zero", b"CONNECT app.internal:0 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-empty-port", b"CONNECT app.internal: HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-no-host-line", b"CONNECT app.internal:443 HTTP/1.1\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-with-path", b"CONNECT app.internal:443/x HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
    Case("SS-08-connect-userinfo", b"CONNECT a@app.internal:443 HTTP/1.1\r\nHost: x\r\n\r\n" + SMUGGLED),
]  # fmt: skip


@table(
    BAD_CL, HUGE_CL, TWO_CL, GOOD_CL, TE_VALUES, TE_VALUES_BESIDE_CL, TE_LINES, BOTH, GOOD_TE, CHUNK_SIZES, CHUNK_LINES,
    GOOD_CHUNKS, CUT, BODIES, REQUEST_LINES, HEADER_LINES, EMPTY_LINES, HTTP_1_0, CONNECT,
)  # fmt: skip
def test_framing_has_one_reading_or_the_request_is_refused(both: dict[str, Corridor], case: Case, variant: Variant):
    """Whatever the framing is disguised as, the upstream sees exactly the request that was meant, or nothing."""
    run(both, case, variant)


@table(CUT, variants=VARIANTS[:2])
def test_request_that_is_cut_ends_its_upstream_connection(both: dict[str, Corridor], case: Case, variant: Variant):
    """An upstream that has a part of a request learns that no more will come, and gets no other request behind it."""
    corridor = start(both, variant)
    with corridor.client() as client:
        client.send(case.bytes_for(variant.form)).half_close()
        assert client.ends() or client.answer() is not None
    assert corridor.until(lambda: all(connection.ended for connection in corridor.upstream.connections))
    cut = len(corridor.upstream.connections)
    with corridor.client() as client:
        client.send(fill(NEXT, variant.form, case.host))
        assert client.answers([b"GET"])[0].body == b"GET /next"
    assert len(corridor.upstream.connections) == cut + 1


# -- every octet in every gadget (SM-05) ----------------------------------------------------------------------------

GADGETS = {
    "after-colon": b"Transfer-Encoding:%bchunked\r\n",
    "before-colon": b"Transfer-Encoding%b: chunked\r\n",
    "line-start": b"%bTransfer-Encoding: chunked\r\n",
    "value-end": b"Transfer-Encoding: chunked%b\r\n",
    "inside-name": b"Transfer%b-Encoding: chunked\r\n",
    "inside-value": b"Transfer-Encoding: chu%bnked\r\n",
    "behind-other": b"X: X%bTransfer-Encoding: chunked\r\n",
    "before-lf": b"X: X%b\nTransfer-Encoding: chunked\r\n",
    "after-cr": b"X: X\r%bTransfer-Encoding: chunked\r\n",
    "end-after-cr": b"Transfer-Encoding: chunked\r%bX: X\r\n",
    "end-before-lf": b"Transfer-Encoding: chunked%b\nX: X\r\n",
}
OCTETS = (*range(0x21), *range(0x7F, 0x100), *b":;,\"'()")


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=lambda variant: variant.name)
@pytest.mark.parametrize("gadget", GADGETS)
def test_no_octet_hides_a_transfer_coding(both: dict[str, Corridor], gadget: str, variant: Variant):
    """[SM-05] An octet before, after or inside `Transfer-Encoding: chunked` gives a refusal or one clean framing."""
    corridor = start(both, variant)
    for octet in OCTETS:
        line = GADGETS[gadget] % bytes([octet])
        case = Case("SM-05", POST + line + _CL_OF_ALL + b"\r\n" + _CL_TE)
        with corridor.client() as client:
            client.send(case.bytes_for(variant.form))
            answer = client.answer(b"POST")
        assert answer is not None, octet
        assert answer.status in (200, 400), octet
        assert answer.status == 200 or answer.all(b"connection") == [b"close"], octet
    for stream in corridor.streams():
        reading = reread(stream)
        assert not reading.broken
        assert all(request.body == _CL_TE and request.target == b"/x" for request in reading.requests)
        assert not reading.rest
    assert corridor.faults == []
