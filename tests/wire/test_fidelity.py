"""Random valid exchanges: what each side receives differs from what the other sent only by the declared changes.

The declared changes are those of `sidecar.headers`: the request target's form, Host, hop-by-hop lines and those that
Connection names, what identified the caller, an inbound Authorization on a token route, and the credential. Chunks are
framed anew, and their extensions dropped; the bytes of a body and of every other line are the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from tests.support.judge import VARIANTS, Variant, only_request, start
from tests.support.recording_upstream import Fin

if TYPE_CHECKING:
    from tests.support.corridor import Corridor
    from tests.support.raw import Raw
    from tests.support.recording_upstream import Step

T = TypeVar("T")
Line = tuple[bytes, bytes]

_TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SPECIAL = frozenset(
    b"host connection content-length transfer-encoding upgrade te keep-alive proxy-connection trailer expect cookie "
    b"set-cookie authorization dpop proxy-authorization proxy-authenticate proxy-authentication-info http2-settings "
    b"x-session-id content-type max-forwards".split()
)
_DROPPED = (
    b"Keep-Alive",
    b"pRoxy-connection",
    b"TE",
    b"Proxy-Authorization",
    b"Authorization",
    b"X-SESSION-ID",
    b"DPoP",
)
_DROPPED_FROM_RESPONSES = (b"Keep-Alive", b"Proxy-Authenticate", b"X-Session-Id", b"uPGRADE", b"Proxy-Connection")


_VISIBLE = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])
_NAMES = (b"Accept", b"accept-ENCODING", b"User-Agent", b"ETag", b"X-Request-Id", b"x-a", b"X-A", b"Date", b"Range")
_PATH = b"abcXYZ019-._~!$&'()*+,;=:@"
_QUERY = _PATH + b'/?%"<>[]{}|^`\\'
_METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD", b"PROPFIND", b"FOO", b"get")
_STATUSES = (
    b"200 OK", b"201 ", b"299 Odd \xe9", b"302 Found", b"404 Not", b"500 No", b"599 X", b"204 No Content", b"304 Not",
)  # fmt: skip


@dataclass(frozen=True)
class Message:
    """What one side sends: `kept` lines, `dropped` ones somewhere among them, and a body."""

    kept: list[bytes]
    dropped: list[tuple[int, bytes]]
    framing: str  # none | length | chunked | close
    pieces: list[bytes]
    trailers: list[Line]

    @property
    def body(self) -> bytes:
        """The body's bytes."""
        return b"" if self.framing == "none" else b"".join(self.pieces)

    def framing_line(self) -> list[bytes]:
        """The line that frames the body."""
        if self.framing == "chunked":
            return [b"Transfer-Encoding: chunked"]
        return [b"Content-Length: %d" % len(self.body)] if self.framing == "length" else []

    def sent(self, start_line: bytes, first: list[bytes]) -> bytes:
        """Return the bytes as the sender sends them."""
        lines = [*first, *self.kept, *self.framing_line()]
        for at, line in self.dropped:
            lines.insert(len(first) + at % (len(self.kept) + 1), line)
        head = b"\r\n".join([start_line, *lines, b"", b""])
        if self.framing != "chunked":
            return head + self.body
        chunks = b"".join(b'%X;ext="1"\r\n%b\r\n' % (len(piece), piece) for piece in self.pieces if piece)
        trailers = b"".join(b"%b: %b\r\n" % line for line in self.trailers)
        return head + chunks + b"0\r\n" + trailers + b"\r\n"


class Maker:
    """Makes valid messages from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret

    def octets(self, allowed: bytes, smallest: int, largest: int) -> bytes:
        return bytes(self._random.choices(allowed, k=self._random.randint(smallest, largest)))

    def pick(self, *choices: T) -> T:
        return self._random.choice(choices)

    def name(self) -> bytes:
        while True:
            name = self.pick(self.octets(_TCHAR, 1, 14), self.pick(*_NAMES))
            if name.lower().replace(b"_", b"-") not in _SPECIAL:
                return name

    def value(self) -> bytes:
        inner = self.octets(_VISIBLE + b" \t", 0, 30)
        return self.pick(
            b"", self.octets(_VISIBLE, 1, 1), self.octets(_VISIBLE, 1, 5) + inner + self.octets(_VISIBLE, 1, 5)
        )

    def line(self) -> bytes:
        value = self.value()
        after = self.pick(b"", b" ", b"\t") if value else b""
        return self.name() + b":" + self.pick(b"", b" ", b"\t", b"  ") + value + after

    def lines(self, largest: int) -> list[bytes]:
        return [self.line() for _ in range(self._random.randint(0, largest))]

    def message(self, framings: tuple[str, ...], dropped: tuple[bytes, ...]) -> Message:
        hop = [
            (self._random.randint(0, 60), self.pick(*dropped) + b": alice") for _ in range(self._random.randint(0, 3))
        ]
        pieces = [self._random.randbytes(self._random.randint(0, 300)) for _ in range(self._random.randint(0, 5))]
        trailers = [
            (b"X-" + self.octets(_TCHAR, 1, 9), self.value() or b"x") for _ in range(self._random.randint(0, 3))
        ]
        return Message(self.lines(self.pick(3, 20, 60)), hop, self.pick(*framings), pieces, trailers)

    def target(self) -> bytes:
        segments = [
            self.pick(b"%41", b"%c3%a9", b"a" + self.octets(_PATH, 0, 8)) for _ in range(self._random.randint(0, 4))
        ]
        return b"/" + b"/".join(segments) + self.pick(b"", b"?" + self.octets(_QUERY, 0, 20))

    def interims(self) -> bytes:
        heads = [
            b"\r\n".join(
                [b"HTTP/1.1 " + self.pick(b"100 Continue", b"102 P", b"103 Early Hints"), *self.lines(3), b"", b""]
            )
            for _ in range(self.pick(0, 0, 1, 3))
        ]
        return b"".join(heads)

    def response(
        self, method: bytes, status: bytes, framings: tuple[str, ...] = ("length", "chunked", "close")
    ) -> Message:
        """A response has a body unless it may not have one."""
        made = self.message(framings, _DROPPED_FROM_RESPONSES)
        if method == b"HEAD" or status[:3] in (b"204", b"304"):
            return Message(made.kept, made.dropped, "none", [], [])
        return made


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("block", range(5))
def test_random_exchange_differs_only_by_the_declared_changes(both: dict[str, Corridor], variant: Variant, block: int):
    """[HD-12, HD-14] Both directions, both forms, both loops, whole and byte by byte: equal but for the declared list."""
    for seed in range(block * 20, block * 20 + 20):
        _exchange(start(both, variant), variant, Maker(seed * 4 + VARIANTS.index(variant)))


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
@pytest.mark.parametrize("pipelined", [True, False], ids=["pipelined", "in-turn"])
def test_random_exchanges_share_connections_and_differ_only_by_the_declared_changes(
    both: dict[str, Corridor], pipelined: bool, variant: Variant
):
    """[HD-12, SM-22, SM-23] Five on one connection, all at once or in turn: in order, on one upstream connection, equal."""
    for seed in range(12):
        _exchanges(start(both, variant), variant, Maker(seed * 8 + 4000 + VARIANTS.index(variant)), pipelined)


class Planned(NamedTuple):
    """One of several exchanges on a connection."""

    method: bytes
    target: bytes
    request: Message
    status: bytes
    early: bytes
    response: Message

    def sent(self, variant: Variant) -> bytes:
        form = b"http://app.internal" + self.target if variant.form == "absolute" else self.target
        return self.request.sent(b"%b %b HTTP/1.1" % (self.method, form), [b"hOST: app.internal"])


def _planned(make: Maker) -> Planned:
    method, status, target = make.pick(*_METHODS), make.pick(*_STATUSES), make.target()
    request = make.message(("none", "length", "chunked"), _DROPPED)
    return Planned(
        method, target, request, status, make.interims(), make.response(method, status, ("length", "chunked"))
    )


def _exchanges(corridor: Corridor, variant: Variant, make: Maker, pipelined: bool) -> None:
    plans = [_planned(make) for _ in range(5)]
    said = [plan.early + plan.response.sent(b"HTTP/1.1 " + plan.status, []) for plan in plans]
    corridor.do(lambda: corridor.upstream.play(*([one] for one in said)))
    with corridor.client() as client:
        if pipelined:
            client.send(b"".join(plan.sent(variant) for plan in plans))
        for plan in plans:
            if not pipelined:
                client.send(plan.sent(variant))
            _take_response(client, plan)
    [stream] = corridor.streams()
    for plan in plans:
        stream = _take_request(corridor, stream, plan)
    assert stream == b""
    assert corridor.faults == []


def _take_response(client: Raw, plan: Planned) -> None:
    head = [b"HTTP/1.1 " + plan.status, *plan.response.kept, *plan.response.framing_line(), b"", b""]
    expected = plan.early + b"\r\n".join(head)
    if plan.response.framing != "chunked":
        expected += plan.response.body
    assert client.exactly(len(expected)) == expected
    if plan.response.framing == "chunked":
        whole = b""
        while (size := int(_line(client), 16)) > 0:
            whole += client.exactly(size)
            assert client.exactly(2) == b"\r\n"
        assert whole == plan.response.body
        assert [_line(client) for _ in plan.response.trailers] == [b"%b: %b" % line for line in plan.response.trailers]
        assert client.exactly(2) == b"\r\n"


def _line(client: Raw) -> bytes:
    line = b""
    while not line.endswith(b"\r\n"):
        octet = client.exactly(1)
        assert octet, line
        line += octet
    return line[:-2]


def _take_request(corridor: Corridor, stream: bytes, plan: Planned) -> bytes:
    host = b"hOST: 127.0.0.1:%d" % corridor.upstream.port
    token = b"Authorization: Bearer token-of-app-1"
    lines = [host, *plan.request.kept, *plan.request.framing_line(), token]
    head = b"\r\n".join([b"%b %b HTTP/1.1" % (plan.method, plan.target), *lines, b"", b""])
    assert stream[: len(head)] == head
    stream = stream[len(head) :]
    if plan.request.framing != "chunked":
        assert stream[: len(plan.request.body)] == plan.request.body
        return stream[len(plan.request.body) :]
    whole = b""
    while True:
        size, _, stream = stream.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            break
        whole, stream = whole + stream[:length], stream[length + 2 :]
    assert whole == plan.request.body
    end = b"".join(b"%b: %b\r\n" % line for line in plan.request.trailers) + b"\r\n"
    assert stream[: len(end)] == end
    return stream[len(end) :]


def _exchange(corridor: Corridor, variant: Variant, make: Maker) -> None:
    method, status, target = make.pick(*_METHODS), make.pick(*_STATUSES), make.target()
    request = make.message(("none", "length", "chunked"), _DROPPED)
    early, response = make.interims(), make.response(method, status)
    said = early + response.sent(b"HTTP/1.1 " + status, [])
    steps: list[Step] = [said, Fin] if response.framing == "close" else [said]
    corridor.do(lambda: corridor.upstream.play(steps))
    form = b"http://app.internal" + target if variant.form == "absolute" else target
    with corridor.client() as client:
        client.send(request.sent(b"%b %b HTTP/1.1" % (method, form), [b"hOST: app.internal", b"Connection: close"]))
        got = client.until_end()
    assert corridor.faults == []
    _judge_request(corridor, method, target, request)
    _judge_response(got, early, status, response)


def _judge_request(corridor: Corridor, method: bytes, target: bytes, request: Message) -> None:
    [stream] = corridor.streams()
    head, _, body = stream.partition(b"\r\n\r\n")
    lines = [b"hOST: 127.0.0.1:%d" % corridor.upstream.port, *request.kept, *request.framing_line()]
    assert head.split(b"\r\n") == [
        b"%b %b HTTP/1.1" % (method, target),
        *lines,
        b"Authorization: Bearer token-of-app-1",
    ]
    seen = only_request(corridor)
    assert seen.body == request.body
    if request.framing == "chunked":
        assert seen.trailers == request.trailers
    else:
        assert body == request.body


def _judge_response(got: bytes, early: bytes, status: bytes, response: Message) -> None:
    assert got.startswith(early)
    head, _, body = got.removeprefix(early).partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 " + status,
        *response.kept,
        *response.framing_line(),
        b"Connection: close",
    ]
    if response.framing != "chunked":
        assert body == response.body
        return
    whole, trailers = _dechunked(body)
    assert whole == response.body
    assert trailers == [b"%b: %b" % line for line in response.trailers]


def _dechunked(body: bytes) -> tuple[bytes, list[bytes]]:
    """Read chunks in the one strict way: no extensions, CRLF only."""
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            assert body.endswith(b"\r\n")
            return whole, body[:-2].split(b"\r\n")[:-1]
        whole += body[:length]
        assert body[length : length + 2] == b"\r\n"
        body = body[length + 2 :]
