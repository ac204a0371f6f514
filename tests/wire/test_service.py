"""The server of our own doors on raw sockets: what is read, what is refused, and what nobody can hold up."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.settings import Address, Limits
from sidecar.wire import service
from sidecar.wire.service import Asked, Told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.errors import Refusal

SHORT = Limits(headers=2048, target=512, head_timeout=0.1, idle_timeout=0.1)
GET = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Echo:
    """Answers with what it was asked."""

    body_limit = 100

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.was_asked = asyncio.Event()

    async def answer(self, request: Asked) -> Told:
        self.asked.append(request)
        self.was_asked.set()
        await self.gate.wait()
        return Told(200, request.path.encode() + b"|" + request.body)

    def refuse(self, refusal: Refusal) -> Told:
        return Told(refusal.row.status)


@asynccontextmanager
async def connected(
    office: Echo,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Address]]:
    """Serve `office`, and connect to it."""
    async with asyncio.timeout(5), service.serving(office, Address("127.0.0.1", 0)) as address:
        reader, writer = await asyncio.open_connection(address.host, address.port)
        try:
            yield reader, writer, address
        finally:
            await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection that may have been broken off."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def told(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Read one answer."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def test_requests_in_one_piece_and_byte_by_byte_are_answered_in_order() -> None:
    """Pipelined or trickled, each request has its answer, and its own body."""
    chunked = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    sent = GET + b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" + chunked + GET
    async with connected(Echo()) as (reader, writer, _):
        for pieces in ([sent], [bytes([byte]) for byte in sent]):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            answers = [await told(reader) for _ in range(4)]
            assert answers == [(200, b"/a|"), (200, b"/b|abc"), (200, b"/c|hi"), (200, b"/a|")]


async def test_next_request_waits_in_the_system_while_one_is_answered() -> None:
    """A client that goes on sending fills its own buffers, not our memory."""
    office = Echo()
    office.gate.clear()
    async with connected(office) as (reader, writer, _):
        writer.write(GET * 2)
        await office.was_asked.wait()
        sent = 0
        while sent < 64 * 2**20 and not writer.transport.get_write_buffer_size():
            writer.write(GET * 30_000)
            sent += 30_000 * len(GET)
            await asyncio.sleep(0.05)
        assert sent < 64 * 2**20
        office.gate.set()
        assert await told(reader) == (200, b"/a|")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", 400, id="TLS"),
        pytest.param(b"GET /\r\n\r\n", 400, id="no version"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="lengths"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            id="CL and TE",
        ),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, id="chunk"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n", 400, id="two Hosts"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", 413, id="long"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + b"x" * 255,
            413,
            id="long chunked",
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2100, 431, id="head without end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2100 + b"\r\n\r\n", 431, id="long head"),
        pytest.param(b"GET /" + b"x" * 600 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, id="long target"),
        pytest.param(b"GET / HTTP/1.1\r\nHo", 408, id="slow head"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na", 408, id="slow body"),
    ],
)
async def test_request_that_cannot_be_read_is_answered_once_and_the_connection_ends(
    sent: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any doubt nothing that follows is a request, not even a whole one."""
    monkeypatch.setattr(service, "_LIMITS", SHORT)
    office = Echo()
    async with connected(office) as (reader, writer, _):
        writer.write(sent)
        assert await told(reader) == (status, b"")
        writer.write(GET)
        assert await reader.read() == b""
    assert office.asked == []


async def test_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that asks nothing, or nothing more, is not kept for ever."""
    monkeypatch.setattr(service, "_LIMITS", SHORT)
    async with connected(Echo()) as (reader, writer, address):
        writer.write(GET)
        assert await told(reader) == (200, b"/a|")
        mute, other = await asyncio.open_connection(address.host, address.port)
        assert await reader.read() == await mute.read() == b""
        await closed(other)


async def test_connection_too_many_ends_one_that_asks_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps connections without asking makes room; the number stays bounded."""
    monkeypatch.setattr(service, "CONNECTIONS", 1)
    async with connected(Echo()) as (reader, writer, address):
        writer.write(GET)
        assert await told(reader) == (200, b"/a|")
        second, other = await asyncio.open_connection(address.host, address.port)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        other.write(GET)
        assert await told(second) == (200, b"/a|")
        await closed(other)


async def test_absolute_form_names_its_authority_as_the_host() -> None:
    """The request target rules, here too: a friendly Host beside a foreign authority convinces nobody."""
    office = Echo()
    async with connected(office) as (reader, writer, _):
        writer.write(b"GET http://evil.example/v1/x?q=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await told(reader) == (200, b"/v1/x|")
    assert (office.asked[0].headers["host"], office.asked[0].query) == ("evil.example", "q=1")


async def test_lines_of_one_name_are_joined_not_chosen_from() -> None:
    """A second Authorization makes neither of the two count."""
    office = Echo()
    async with connected(office) as (reader, writer, _):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: a\r\nauthORIZATION: b\r\n\r\n")
        await told(reader)
    assert office.asked[0].headers["authorization"] == "a, b"


async def test_client_that_waits_to_send_is_told_to_go_on() -> None:
    """Expect: 100-continue is answered before the body, and HEAD without one."""
    async with connected(Echo()) as (reader, writer, _):
        writer.write(b"POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hi")
        assert await told(reader) == (200, b"/e|hi")
        writer.write(b"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
        assert b"Content-Length: 3\r\n" in await reader.readuntil(b"\r\n\r\n")
        assert await told(reader) == (200, b"/a|")


@pytest.mark.parametrize(
    "sent",
    [b"GET /a HTTP/1.0\r\n\r\n", GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")],
    ids=["1.0", "close"],
)
async def test_connection_ends_where_the_client_said_so(sent: bytes) -> None:
    """HTTP/1.0 and Connection: close get their answer, and then the end."""
    async with connected(Echo()) as (reader, writer, _):
        writer.write(sent)
        assert await told(reader) == (200, b"/a|")
        assert await reader.read() == b""


async def test_client_that_closes_its_side_still_gets_its_answer() -> None:
    """A half-close ends what is asked, not what is answered."""
    office = Echo()
    office.gate.clear()
    async with connected(office) as (reader, writer, _):
        writer.write(GET)
        writer.write_eof()
        await office.was_asked.wait()
        office.gate.set()
        assert await told(reader) == (200, b"/a|")
        assert await reader.read() == b""


async def test_end_waits_for_what_is_under_way() -> None:
    """Stopping lets an answer under way go out, and closes idle connections at once."""
    office = Echo()
    office.gate.clear()
    async with asyncio.timeout(5):
        async with service.serving(office, Address("127.0.0.1", 0)) as address:
            reader, writer = await asyncio.open_connection(address.host, address.port)
            writer.write(GET)
            await office.was_asked.wait()
            asyncio.get_running_loop().call_later(0.05, office.gate.set)
        assert await told(reader) == (200, b"/a|")
        await closed(writer)


async def test_request_that_comes_just_before_the_end_is_answered() -> None:
    """What has arrived and was not read yet is no reason to break the connection off."""
    async with asyncio.timeout(5):
        async with service.serving(Echo(), Address("127.0.0.1", 0)) as address:
            sock = socket.create_connection((address.host, address.port), timeout=5)
            await asyncio.sleep(0.01)  # accepted
            sock.sendall(GET)
        reader, writer = await asyncio.open_connection(sock=sock)
        assert await told(reader) == (200, b"/a|")
        assert await reader.read() == b""
        await closed(writer)
