"""Judges what became of raw bytes: what the recording upstream saw, read by h11, and what the caller got.

A case is written once and run in both request forms, on both event loops, whole and byte by byte. In its bytes
`@/path@` stands for the request target in the form under test, and `@host@` for the host of the route.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pytest

from fuzz.reading import StrictRequests
from tests.support.corridor import TOKEN, Corridor, LoopKind, bytewise
from tests.support.recording_upstream import Reading, Seen, reread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.raw import Answer, Raw

Form = Literal["absolute", "origin"]
_TARGET = re.compile(rb"@(/[^@\r\n]*)@")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: app.internal\r\n\r\n"


class Variant(NamedTuple):
    """How a case is run."""

    form: Form
    loop: LoopKind
    bytewise: bool

    @property
    def name(self) -> str:
        """For the test's id."""
        return f"{self.form}-{self.loop}-{'bytewise' if self.bytewise else 'whole'}"


VARIANTS = (
    Variant("absolute", "uvloop", False),
    Variant("origin", "asyncio", False),
    Variant("absolute", "asyncio", True),
    Variant("origin", "uvloop", True),
)


class Expected(NamedTuple):
    """One request that the upstream must see."""

    method: bytes
    target: bytes
    body: bytes = b""


@dataclass(frozen=True)
class Case:
    """Raw bytes and what must become of them.

    `sees`: exactly these requests, each answered to the caller. Without it the request is refused with one of `status`,
    and the connection closed. `or_refused` allows both; `partly` allows the upstream to see the beginning of a request
    that never becomes whole.
    """

    id: str
    stream: bytes
    sees: tuple[Expected, ...] = ()
    status: tuple[int, ...] = (400,)
    host: bytes = b"app.internal"
    or_refused: bool = False
    partly: bool = False
    stays: bool = False  # the refusal leaves the connection usable
    half_close: bool = False

    def bytes_for(self, form: Form) -> bytes:
        """Return the stream in one of the request forms."""
        return fill(self.stream, form, self.host)


def fill(stream: bytes, form: Form, host: bytes) -> bytes:
    """Put targets and hosts into a case's bytes."""
    start = b"http://" + host if form == "absolute" else b""
    return _TARGET.sub(lambda match: start + match[1], stream).replace(b"@host@", host)


def table(*cases: Case | list[Case], variants: tuple[Variant, ...] = VARIANTS) -> Callable[[Any], Any]:
    """Parametrize a test over cases and variants, with ids that begin with the cases' ids."""
    flat = [case for entry in cases for case in (entry if isinstance(entry, list) else [entry])]
    assert len({case.id for case in flat}) == len(flat), "two cases of one id"
    params = [pytest.param(case, variant, id=f"{case.id}-{variant.name}") for case in flat for variant in variants]
    return pytest.mark.parametrize(("case", "variant"), params)


def start(corridors: dict[str, Corridor], variant: Variant) -> Corridor:
    """Return the corridor of a variant, cleared for a new case."""
    corridor = corridors[variant.loop]
    corridor.fresh()
    corridor.cut = bytewise if variant.bytewise else None
    return corridor


def run(corridors: dict[str, Corridor], case: Case, variant: Variant) -> None:
    """Run a case and judge it."""
    corridor = start(corridors, variant)
    with corridor.client() as client:
        client.send(case.bytes_for(variant.form))
        if case.half_close:
            client.half_close()
        judge(corridor, client, case)


def judge(corridor: Corridor, client: Raw, case: Case) -> None:
    """Judge what became of a case whose bytes have been sent."""
    answers = _answers(client, case)
    readings = [reread(stream) for stream in corridor.streams()]
    seen = [request for reading in readings for request in reading.requests]
    forwarded = tuple(Expected(request.method, request.target, request.body) for request in seen)
    refused = not forwarded and (not answers or answers[-1].status in case.status)
    if case.sees and not (case.or_refused and refused):
        assert forwarded == case.sees, (answers, readings)
        assert [answer.status for answer in answers[: len(case.sees)]] == [200] * len(case.sees), answers
        for answer, expected in zip(answers, case.sees, strict=False):
            told = b"" if expected.method == b"HEAD" else b"%b %b" % (expected.method, expected.target)
            assert answer.body == told, "somebody else's answer"
    else:
        assert forwarded == (), readings
        assert answers or case.partly or case.half_close, "neither an answer nor a reason not to give one"
        assert all(answer.status in case.status for answer in answers), answers
        assert case.stays or client.ends(), "a refused request's connection stays open"
    sound(corridor, readings, whole=not case.partly)


def _answers(client: Raw, case: Case) -> list[Answer]:
    methods = [expected.method for expected in case.sees] or [case.stream.split(b" ", 1)[0]]
    return client.answers([method if method.isalpha() else b"GET" for method in methods])


def sound(corridor: Corridor, readings: list[Reading], *, whole: bool = True) -> None:
    """Check what holds for every forwarded byte: one reading, one Host, one token, nothing smuggled, no fault."""
    for reading in readings:
        assert not reading.broken, reading
        assert not (whole and reading.rest), reading
        for request in reading.requests:
            proper(request, corridor.upstream.port)
    corridor.settle()
    assert corridor.faults == []


def proper(request: Seen, port: int) -> None:
    """Check what holds for every forwarded request."""
    assert b"smuggled" not in request.target
    assert request.version == b"1.1"
    assert request.all(b"host") == [b"127.0.0.1:%d" % port]
    tokens = request.all(b"authorization")
    assert all(token.startswith(b"Bearer " + TOKEN) for token in tokens)
    assert len(tokens) <= 1


def sees(case: Case, *expected: Expected) -> Case:
    """Return a case that expects these requests."""
    return replace(case, sees=expected)


def strictly_read(corridor: Corridor) -> None:
    """Have two strict readers, h11 and one that knows canonical HTTP only, read all that was forwarded, and agree."""
    for stream in corridor.do(corridor.upstream.messages):
        heard, strict = reread(stream), StrictRequests()
        strict.feed(stream)
        assert not heard.broken, heard
        theirs = [(seen.method, seen.target, seen.body) for seen in heard.requests]
        assert theirs == [(request.method, request.target, request.body) for request in strict.requests]


def only_request(corridor: Corridor) -> Seen:
    """Return the one request that the upstream saw."""
    found = list(requests(corridor))
    assert len(found) == 1, found
    return found[0]


def requests(corridor: Corridor) -> Iterator[Seen]:
    """Give the requests that the upstream saw, connection by connection."""
    for stream in corridor.streams():
        reading = reread(stream)
        assert not reading.broken
        yield from reading.requests
