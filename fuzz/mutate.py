"""Mutations that know the grammar: streams of requests and responses that are nearly right.

`make(seed, number)` is a pure function of its arguments and the seeds: number 4711 of seed 1 is the same case for ever
(as long as the seeds are the same).
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fuzz.case import Answer, Case, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

SEEDS = Path(__file__).parent / "seeds"
_ODD = [
    bytes([octet])
    for octet in (0, 1, 9, 10, 11, 12, 13, 32, 34, 35, 44, 47, 58, 59, 61, 64, 92, 95, 127, 128, 133, 160, 255)
]
_ENDS = [
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\r\n\r\n",
    b"\r\n ",
    b"\r\n\t",
    b" \r\n",
    b"\0\r\n",
    b"\r\n\0",
    b"",
    b"\x0b\r\n",
    b"\xc2\x85",
    b"\r\n\r",
]
_LENGTHS = [
    b"0", b"5", b"05", b"00000000000000000005", b"+5", b"-5", b"0x5", b"5_0", b"5e0", b'"5"', b"5,5", b"5, 6", b"", b" 5", b"5 ",
    b"5\t", b"\xd9\xa5", b"11", b"3", b"49", b"2147483648", b"4294967301", b"9223372036854775808", b"18446744073709551621",
    b"999999999999999999", b"5;", b"5\0", b"5 5", b"5\r\n 5", b"1" * 30,
]  # fmt: skip
_CODINGS = [
    b"chunked", b"Chunked", b"CHUNKED", b" chunked", b"chunked ", b"\tchunked", b"chunked\t", b"xchunked", b"chunked,", b",chunked",
    b"chunked, chunked", b"gzip, chunked", b"chunked, identity", b"identity", b"chunked;q=1", b'"chunked"', b"chunked\x0b", b"\x0bchunked",
    b"chunked\0", b"chunked\xa0", b"", b"\r\n chunked", b"chunked\r\n identity", b"cow", b"chunk", b"trailers", b"chunked foo",
]  # fmt: skip
_NAMES_OF_LENGTH = [b"Content-Length", b"content-length", b"Content-Length ", b" Content-Length", b"Content_Length", b"Content-Length\0", b"Content-Length\t", b"Content\rLength", b"\nContent-Length", b"Content-\x4cength"]  # fmt: skip
_NAMES_OF_CODING = [b"Transfer-Encoding", b"transfer-encoding", b"Transfer-Encoding ", b" Transfer-Encoding", b"Transfer_Encoding", b"Transfer-Encoding\x0b", b"\x0bTransfer-Encoding", b"X: x\rTransfer-Encoding", b"X: x\nTransfer-Encoding", b"TE"]  # fmt: skip
LINES = [
    b"Connection: close", b"Connection: keep-alive", b"Connection: authorization, host, content-length, transfer-encoding",
    b"Connection: x-session-id, cookie", b"Connection: upgrade", b"Connection: close, close", b"Connection: ,, ,", b"Connection:",
    b"Keep-Alive: timeout=5", b"Proxy-Connection: close", b"TE: trailers", b"Upgrade: websocket", b"Upgrade: h2c", b"HTTP2-Settings: AAA",
    b"Proxy-Authorization: Basic aW5ib3VuZA==", b"Authorization: Bearer inbound-secret", b"Authorization: DPoP inbound-secret",
    b"Authorization: NTLM aW5ib3VuZA==", b"authorization:\tnegotiate aW5ib3VuZA==",
    b"authorization : Bearer inbound-secret", b"Authorization_: x", b"DPoP: inbound-secret", b"Host: app.internal", b"Host: user.internal",
    b"Host:", b"Host: a b", b"Host: user.internal@app.internal", b"Host : app.internal", b"host: APP.internal.", b"Host: app.internal:80",
    b"Host: app.internal, user.internal", b"X-Session-Id: session-alice", b"X-Session-Id: session-mallory", b"X_Session_Id: session-mallory",
    b"X-Session_Id: session-mallory", b"x-session-id : session-mallory", b"X-Session-Id: cold-erin", b"X-Session-Id: gone-erin", b"X-Session-Id:",
    b"X-Session-Id: \xff", b"Cookie: sidecar_session=session-mallory", b'Cookie: sidecar_session="session-alice"; a=b', b"Cookie: sidecar_session = x",
    b"Cookie: a=b; sidecar_session=session-alice;", b"Cookie:sidecar_session=session-alice", b"Cookie: \tsidecar_session=session-alice ; x",
    b"Cookie: sidecar_session", b"Cookie: =sidecar_session=x", b'Cookie: a="; sidecar_session=session-alice; "', b"Expect: 100-continue",
    b"Expect: 100-Continue, x", b"Trailer: Authorization", b"Max-Forwards: 0", b"Max-Forwards: 1", b"Max-Forwards: -1", b"Max-Forwards:5", b"Via: 1.1 x",
    b"X-Forwarded-For: 127.0.0.1", b"Content-Encoding: gzip", b"Range: bytes=0-1", b"X-A: b\r\n folded", b"X-A", b": x", b"X A: b", b"X-A: \0", b"X-\xff: b",
    b"X-A: b\rX-B: c", b"X-A: b\nX-B: c", b"X-Long: " + b"a" * 300, b"X-Tab:\tx\t", b"(x): y", b'"x": y', b"X-A: \x7f", b"Sec-WebSocket-Version: 13",
    b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"X-Request-Id: \x80\x81", b"If-None-Match: *",
]  # fmt: skip
RESPONSE_LINES = [
    b"Connection: close", b"Connection: keep-alive", b"Connection: upgrade", b"Connection: content-length, set-cookie", b"Keep-Alive: timeout=5",
    b"Proxy-Authenticate: Basic", b"Set-Cookie: sidecar_session=evil", b"Set-Cookie:sidecar_session=evil; Path=/", b"Set-Cookie: a=b", b"X-Session-Id: evil",
    b"Upgrade: websocket", b'WWW-Authenticate: Bearer error="invalid_token"', b"WWW-Authenticate: Basic realm=x", b"WWW-Authenticate: Bearer, Basic",
    b"WWW-Authenticate: Bearer error=invalid_token, Digest x=y", b'WWW-Authenticate: Bearer error="', b"Trailer: X", b"Content-Encoding: gzip",
    b"Content-Type: text/event-stream", b"X-A: b\r\n folded", b"X-A", b": x", b"X A: b", b"X-A: \0", b"X-A: b\rX-B: c", b"X-A: b\nX-B: c", b"Date: x",
    b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: chunked", b"X-\xff: b", b"X-Long: " + b"a" * 300, b"Sec-WebSocket-Accept: x",
]  # fmt: skip
_SIZES = [
    b"0", b"5", b"05", b"0x5", b"+5", b"-5", b" 5", b"5 ", b"5_0", b"", b"g", b"ffffffffffffffff", b"10000000000000005", b"5;a=b", b'5;a="b\r\nc"', b"5;\n",
    b"5;\0", b"5; a=b", b"5 ;a", b"5;" + b"a" * 200, b"00000000000000000005", b"5\t", b"5\r", b"5\n", b"0\r\n\r\n0", b"00", b"0;x", b"5;a=\x80", b"3", b"A", b"a",
]  # fmt: skip
TARGETS = [
    b"/", b"/a/../b", b"/%2e%2e/x", b"/a%2fb", b"/a%5cb", b"//x", b"/a;b=c", b"/a?", b"/a?b=c%0d%0aX:y", b"/%zz", b"/a#b", b"*", b"/\xff", b"a", b"/a b", b"/a\tb",
    b"http://app.internal", b"http://app.internal?x", b"http://APP.internal:80/a", b"http://user.internal@app.internal/", b"http://app.internal:99999/", b"https://app.internal/",
    b"http://[::1]/", b"http://none.internal/a", b"http://user.internal/a", b"http:///a", b"http://app.internal\\@x/", b"ftp://app.internal/", b"/base/../a", b"/base//x",
    b"/a?access_token=x", b"app.internal:80", b"/..;/a", b"/a%00", b"http://other.internal:8080/y", b"http://x.wild.internal/y", b"http://0x7f.1/", b"/base", b"/" + b"a" * 9000,
]  # fmt: skip
_METHODS = [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"get", b"PRI", b"PROPFIND", b"G\0T", b"", b"FOO", b"M-SEARCH", b"QUERY"]  # fmt: skip
_VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.2", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/01.1", b"HTTP/1.1x", b"", b"RTSP/1.0", b"HTTP/3.0", b"HTTP/1,1"]  # fmt: skip
_STATUSES = [b"200 OK", b"204 No Content", b"304 Not Modified", b"100 Continue", b"101 Switching Protocols", b"103 Early Hints", b"401 Unauthorized", b"200", b"099 x", b"1000 x", b"2 00", b"200  OK", b"20", b"600 x", b"200 \x80", b"200 O\0K", b"417 x", b"502 x", b"200\tOK", b"199 x", b"+20 x", b"020 x"]  # fmt: skip
_CHUNK_LINE = re.compile(rb"\r\n([0-9a-fA-F]+)(?:;[^\r\n]*)?\r\n")
_FIRST_LINE = re.compile(rb"([!-~]+) ([^\r\n]*) (HTTP/1\.[01])\r\n")
_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([^\r\n]*)\r\n")


class Kind(NamedTuple):
    """What is mutated: streams of requests or of responses, and what fits into them."""

    response: bool
    seeds: Sequence[bytes]
    lines: Sequence[bytes]
    targets: Sequence[bytes] = ()


def seeds(folder: str) -> list[bytes]:
    """Read the streams of a folder of `seeds/`."""
    return [path.read_bytes() for path in sorted((SEEDS / folder).glob("*.http"))]


WIRE_REQUESTS = Kind(False, seeds("requests"), LINES, TARGETS)
WIRE_RESPONSES = Kind(True, seeds("responses"), RESPONSE_LINES)


def _pick(rng: random.Random, choices: Sequence[bytes]) -> bytes:
    return choices[int(rng.random() * len(choices))]


def _place(rng: random.Random, data: bytes) -> int:
    return int(rng.random() * (len(data) + 1))


def _flip(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    at = _place(rng, data)
    return data[:at] + bytes([int(rng.random() * 256)]) + data[at + 1 :]


def _insert(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    at = _place(rng, data)
    return data[:at] + _pick(rng, _ODD) + data[at:]


def _delete(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + 1 + int(rng.random() ** 4 * 20) :]


def _cut(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    return data[: _place(rng, data)]


def _repeat(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    at, to = sorted((_place(rng, data), _place(rng, data)))
    return data[:to] + data[at:]


def _line_end(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    ends = [match.start() for match in re.finditer(rb"\r\n", data)]
    if not ends:
        return data
    at = ends[int(rng.random() * len(ends))]
    return data[:at] + _pick(rng, _ENDS) + data[at + 2 :]


def _twice(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    """Repeat a line, there or elsewhere."""
    ends = _line_ends(data)
    if len(ends) < 2:
        return data
    line = int(rng.random() * len(ends))
    at = ends[int(rng.random() * len(ends))]
    return data[:at] + data[ends[line - 1] if line else 0 : ends[line]] + data[at:]


def _line_ends(data: bytes) -> list[int]:
    return [match.end() for match in re.finditer(rb"\r\n", data)]


def _add_line(rng: random.Random, data: bytes, kind: Kind) -> bytes:
    return _put_line(rng, data, _pick(rng, kind.lines))


def _add_framing(rng: random.Random, data: bytes, _kind: Kind) -> bytes:
    if rng.random() < 0.5:
        line = (
            _pick(rng, _NAMES_OF_LENGTH[:2] if rng.random() < 0.6 else _NAMES_OF_LENGTH) + b": " + _pick(rng, _LENGTHS)
        )
    else:
        line = (
            _pick(rng, _NAMES_OF_CODING[:2] if rng.random() < 0.6 else _NAMES_OF_CODING) + b": " + _pick(rng, _CODINGS)
        )
    return _put_line(rng, data, line)


def _put_line(rng: random.Random, data: bytes, line: bytes) -> bytes:
    ends = _line_ends(data)
    at = ends[int(rng.random() * len(ends))] if ends else len(data)
    return data[:at] + line + b"\r\n" + data[at:]


def _framing_value(rng: random.Random, data: bytes, kind: Kind) -> bytes:
    match = re.search(rb"(?i)(content-length|transfer-encoding): *([^\r\n]*)", data)
    if match is None:
        return _add_framing(rng, data, kind)
    values = _LENGTHS if match[1][:1] in b"cC" else _CODINGS
    return data[: match.start(2)] + _pick(rng, values) + data[match.end(2) :]


def _chunk(rng: random.Random, data: bytes, kind: Kind) -> bytes:
    lines = list(_CHUNK_LINE.finditer(data))
    if not lines:
        return _framing_value(rng, data, kind)
    line = lines[int(rng.random() * len(lines))]
    return data[: line.start() + 2] + _pick(rng, _SIZES) + data[line.end() - 2 :]


def _start_line(rng: random.Random, data: bytes, kind: Kind) -> bytes:
    match = (_STATUS_LINE if kind.response else _FIRST_LINE).search(data)
    if match is None:
        return _flip(rng, data, kind)
    group = 1 + int(rng.random() * (2 if kind.response else 3))
    choices = ((_VERSIONS, _STATUSES) if kind.response else (_METHODS, kind.targets, _VERSIONS))[group - 1]
    return data[: match.start(group)] + _pick(rng, choices) + data[match.end(group) :]


def _splice(rng: random.Random, data: bytes, kind: Kind) -> bytes:
    other = _pick(rng, kind.seeds)
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _append(rng: random.Random, data: bytes, kind: Kind) -> bytes:
    return data + _pick(rng, kind.seeds)


_MUTATIONS = [
    _flip, _insert, _insert, _delete, _cut, _repeat, _line_end, _line_end, _twice, _add_line, _add_line, _add_line, _add_framing,
    _add_framing, _framing_value, _framing_value, _chunk, _chunk, _start_line, _start_line, _splice, _append, _append,
]  # fmt: skip


def stream(rng: random.Random, kind: Kind, most: int = 4) -> bytes:
    """Return a mutated stream: one seed or some, with up to `most` mutations."""
    data = _pick(rng, kind.seeds)
    while rng.random() < 0.25 and not kind.response:
        data += _pick(rng, kind.seeds)
    for _ in range(int(rng.random() ** 2 * (most + 1))):
        data = _MUTATIONS[int(rng.random() * len(_MUTATIONS))](rng, data, kind)
    return data


def pieces(rng: random.Random, data: bytes) -> list[bytes]:
    """Cut a stream as a network may: mostly not at all or once, sometimes into single bytes."""
    chance = rng.random()
    if chance < 0.5 or len(data) < 2:
        return [data]
    if chance < 0.505:
        return [data[at : at + 1] for at in range(len(data))]
    places = sorted({int(rng.random() * len(data)) for _ in range(1 + int(rng.random() * 4))} - {0})
    return [data[one:two] for one, two in zip([0, *places], [*places, len(data)], strict=True)]


def make(seed: int, number: int) -> Case:
    """Return case `number` of `seed` for the data path."""
    rng = numbered(seed, number)
    caller = caller_steps(rng, WIRE_REQUESTS)
    count = 0 if rng.random() < 0.35 else 1 + int(rng.random() * 2.2)
    return Case(caller, tuple(answer(rng, WIRE_RESPONSES) for _ in range(count)), rng.random() < 0.05)


def numbered(seed: int, number: int) -> random.Random:
    """Return the chances of one case."""
    return random.Random(seed << 40 | number)


def caller_steps(rng: random.Random, kind: Kind) -> tuple[Step, ...]:
    """Return what one caller does: a mutated stream in pieces, with events between and behind them."""
    caller: list[Step] = []
    for piece in pieces(rng, stream(rng, kind)):
        caller.append(piece)
        if rng.random() < 0.3:
            caller.append("turn")
    if rng.random() < 0.25:
        caller.insert(int(rng.random() * (len(caller) + 1)), _event(rng))
    if rng.random() < 0.1:
        caller.append("eof" if rng.random() < 0.7 else "reset")
    return tuple(caller)


def _event(rng: random.Random) -> str:
    return ("slow", "slow", "read", "turn", "wait", "eof")[int(rng.random() * 6)]


def answer(rng: random.Random, kind: Kind) -> Answer:
    """Return what a server does about one request."""
    steps: list[Step] = []
    for piece in pieces(rng, stream(rng, kind, 3)):
        steps.append(piece)
        if rng.random() < 0.3:
            steps.append("turn")
    chance = rng.random()
    if chance < 0.3:
        steps.append("eof" if chance < 0.2 else "reset")
    return Answer("head" if rng.random() < 0.25 else "end", tuple(steps))
