"""Dialling: the address that was checked is dialled, families race, and what this process cannot open is an overload."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import socket
import ssl
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
import uvloop

from sidecar.errors import Refusal
from sidecar.model import Origin
from sidecar.settings import Tls
from sidecar.wire import dial, race
from sidecar.wire.dial import Dialler, Resolvers
from sidecar.wire.names import Found, Names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

V4, V6 = socket.AF_INET, socket.AF_INET6


def four(address: str) -> Found:
    return Found(V4, address)


def six(address: str) -> Found:
    return Found(V6, address)


def resolving(*answers: tuple[Found, ...]) -> Resolvers:
    """Resolvers that give one answer after the other, and the last one again."""
    left = list(answers)
    resolvers = Resolvers()
    resolvers.named = resolvers.foreign = Names(lambda _host: left.pop(0) if len(left) > 1 else left[0], lambda: 0.0)
    return resolvers


@pytest.fixture
def port() -> Iterator[int]:
    """A port on 127.0.0.1 that listens and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def black_hole() -> Iterator[tuple[str, int]]:
    """An address whose connections never come to be: its queue is full, so the kernel drops what knocks."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as server, ExitStack() as stack:
        for _ in range(4):
            knocking = stack.enter_context(socket.socket())
            knocking.setblocking(False)
            knocking.connect_ex(server.getsockname())
        yield server.getsockname()


async def dialled(dialler: Dialler, origin: Origin, *, named: bool = True, timeout: float = 2.0) -> tuple[str, int]:  # noqa: ASYNC109
    protocol = await dialler.dial(_Kept, origin, tls=None, timeout=timeout, named=named)
    try:
        return protocol.transport.get_extra_info("peername")[:2]
    finally:
        protocol.transport.abort()


class _Kept(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport


async def refusal(dialler: Dialler, origin: Origin, **how: bool) -> str:
    with pytest.raises(Refusal) as caught:
        await dialled(dialler, origin, **how)
    return caught.value.code


# -- what is dialled -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [((four("127.0.0.1"),), (four("169.254.169.254"),)), ((four("127.0.0.1"), four("169.254.169.254")),)],
    ids=["SS-05-second-answer-differs", "SS-05-one-of-two-is-refused"],
)
async def test_address_that_was_checked_is_the_address_that_is_dialled(
    port: int, answers: tuple[tuple[Found, ...], ...]
):
    """A name is resolved once for check and connect; what another lookup would say, or another address, is not used."""
    dialler = Dialler(deny_private=False, own=[], resolvers=resolving(*answers))
    assert await dialled(dialler, Origin("http", "rebinding.example", port)) == ("127.0.0.1", port)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.1.1", "10.1.2.3", "0.0.0.0", "::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1",
     "64:ff9b::7f00:1", "2002:7f00:1::"],
)  # fmt: skip
async def test_public_name_with_a_private_address_is_refused_where_asked_for(port: int, address: str):
    """[SS-06] `deny_private` looks at what the name resolves to, in each reading."""
    found = Found(V6 if ":" in address else V4, address)
    dialler = Dialler(deny_private=True, own=[], resolvers=resolving((found,)))
    assert await refusal(dialler, Origin("http", "public.example", port)) == "destination_refused"


async def test_literal_of_the_configuration_is_meant_and_that_of_a_caller_is_not(port: int):
    """[SS-06] A route that names a private address means it; a request that does gets no further."""
    dialler = Dialler(deny_private=True, own=[])
    origin = Origin("http", "127.0.0.1", port)
    assert await dialled(dialler, origin) == ("127.0.0.1", port)
    assert await refusal(dialler, origin, named=False) == "destination_refused"


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2852039166", "0xa9fea9fe"]
)
async def test_metadata_address_is_refused_even_where_the_configuration_names_it(host: str):
    """[SS-03] There is no route to a cloud's credentials."""
    dialler = Dialler(deny_private=False, own=[])
    assert await refusal(dialler, Origin("http", host, 80)) == "destination_refused"


async def test_own_listener_by_a_name_is_a_loop(port: int):
    """[SS-02] Also where only one of the name's addresses is ours."""
    dialler = Dialler(deny_private=False, own=[("0.0.0.0", port)], resolvers=resolving((four("127.3.2.1"),)))
    assert await refusal(dialler, Origin("http", "me.example", port)) == "loop"


# -- Happy Eyeballs --------------------------------------------------------------------------------------------------


def test_families_take_turns_beginning_with_the_first():
    """RFC 8305 section 4: an interface without one of the families costs one stagger, not one for each address."""
    given = [six("::1"), six("::2"), six("::3"), four("192.0.2.1"), four("192.0.2.2")]
    assert [one.address for one in race.interleaved(given)] == ["::1", "192.0.2.1", "::2", "192.0.2.2", "::3"]


async def test_second_address_is_tried_while_the_first_is_silent_and_the_loser_is_closed(black_hole: tuple[str, int]):
    """A silent address costs the stagger, not the connect timeout; no socket of it stays."""
    host, port = black_hole
    with socket.create_server(("127.0.0.1", port)):
        before = _descriptors()
        began = time.monotonic()
        sock = await race.connect([four(host), four("127.0.0.1")], port, stagger=0.05)
        with closing(sock):
            assert sock.getpeername() == ("127.0.0.1", port)
            assert time.monotonic() - began >= 0.05
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert _descriptors() == before + 1


async def test_failure_starts_the_next_attempt_at_once(port: int):
    """RFC 8305 section 5: a refused address is not waited for; a stagger of an hour does not matter."""
    closed = four("127.0.0.3")
    sock = await asyncio.wait_for(race.connect([closed, closed, four("127.0.0.1")], port, stagger=3600), 2)
    with closing(sock):
        assert sock.getpeername() == ("127.0.0.1", port)


async def test_every_address_failing_is_the_first_ones_failure(port: int):
    """All are tried before there is a failure."""
    with pytest.raises(ConnectionRefusedError):
        await race.connect([four("127.0.0.3"), six("::1"), four("127.0.0.4")], port)


async def test_dialler_that_gives_up_leaves_no_socket(black_hole: tuple[str, int]):
    """[UP-02] The connect timeout is a 504, and nothing of the attempts stays open."""
    host, port = black_hole
    before = _descriptors()
    dialler = Dialler(deny_private=False, own=[], resolvers=resolving((four(host), four(host))))
    with pytest.raises(Refusal) as caught:
        await dialled(dialler, Origin("http", "silent.example", port), timeout=0.05)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert caught.value.code == "upstream_timeout"
    assert _descriptors() == before


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_caller_that_leaves_as_the_connection_is_made_leaves_none(
    port: int, loop: Callable[[], asyncio.AbstractEventLoop]
):
    """The protocol learns of both its connection's beginning and its end: it is counted from one to the other."""
    told: list[str] = []

    class Counted(asyncio.Protocol):
        def connection_made(self, _transport: asyncio.BaseTransport) -> None:
            told.append("made")
            dialling.cancel()

        def connection_lost(self, _exc: Exception | None) -> None:
            told.append("lost")

    async def leave() -> None:
        nonlocal dialling
        dialler = Dialler(deny_private=False, own=[])
        origin = Origin("http", "127.0.0.1", port)
        dialling = asyncio.ensure_future(dialler.dial(Counted, origin, tls=None, timeout=2.0, named=True))
        await asyncio.wait([dialling])
        assert dialling.cancelled()
        for _ in range(20):
            await asyncio.sleep(0)

    dialling: asyncio.Future[Counted]
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(leave())
    assert told == ["made", "lost"]


async def test_name_that_has_no_address_is_told_from_a_closed_port(port: int):
    """Both are unreachable; which of them it is says where to look."""
    details = []
    for answers in ((), (four("127.0.0.2"),)):
        dialler = Dialler(deny_private=False, own=[], resolvers=resolving(answers))
        with pytest.raises(Refusal, match="upstream_unreachable") as caught:
            await dialled(dialler, Origin("http", "a.example", port))
        details.append(caught.value.detail)
    assert details == ["The upstream's name could not be resolved.", "The upstream could not be reached."]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("authority", "authority is not one that is trusted"),
        ("name", "is for another name"),
        ("address", "is for another address"),
        ("expired", "has expired"),
        ("early", "is not valid yet"),
        ("plain", "TLS handshake with the upstream failed"),
    ],
)
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_upstream_without_a_good_certificate_is_told_by_what_is_wrong(
    loop: Callable[[], Any], fault: str, said: str, tmp_path: Path
):
    """[UP-01] Who has to act differs: the upstream's owner, or whoever wrote the name or the authority into our file."""
    authority = trustme.CA()
    (trustme.CA() if fault == "authority" else authority).cert_pem.write_to_path(tmp_path / "ca.pem")
    days = {"expired": (-9, -1), "early": (1, 9)}.get(fault, (-1, 9))
    start, end = (dt.datetime.now(dt.UTC) + dt.timedelta(days=day) for day in days)
    names = {"name": ["other.example"], "address": ["127.0.0.9"]}.get(fault, ["a.example"])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names, not_before=start, not_after=end).configure_cert(server)
    host = "127.0.0.1" if fault == "address" else "a.example"

    async def dial() -> str:
        plain = fault == "plain"
        serving = await asyncio.start_server(
            _hello if plain else _nothing, "127.0.0.1", 0, ssl=None if plain else server
        )
        origin = Origin("https", host, serving.sockets[0].getsockname()[1])
        dialler = Dialler(deny_private=False, own=[], resolvers=resolving((four("127.0.0.1"),)))
        async with serving:
            with pytest.raises(Refusal, match="upstream_unreachable") as caught:
                await dialler.dial(_Kept, origin, tls=Tls(ca=str(tmp_path / "ca.pem")), timeout=5.0, named=True)
        return caught.value.detail

    with asyncio.Runner(loop_factory=loop) as runner:
        assert said in runner.run(dial())


async def _hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def _nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def test_resolver_that_hangs_ends_at_the_connect_timeout():
    """The deadline is the route's, whatever the resolver's own is."""
    resolvers = Resolvers()
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(_host: str) -> tuple[Found, ...]:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(5)
        return ()

    resolvers.named = Names(hang)
    with pytest.raises(Refusal) as caught:
        await dialled(Dialler(deny_private=False, own=[], resolvers=resolvers), Origin("http", "a", 80), timeout=0.05)
    release.set()
    await asyncio.sleep(0.01)
    assert caught.value.code == "upstream_timeout"


# -- nothing left ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS], ids=lambda number: f"OV-03-{errno.errorcode[number]}"
)
async def test_dialling_without_a_descriptor_left_is_an_overload_of_ours(
    monkeypatch: pytest.MonkeyPatch, port: int, number: int
):
    """The upstream is not to blame: 503 with Retry-After."""

    def exhausted(*_how: object) -> socket.socket:
        raise OSError(number, "")

    monkeypatch.setattr(race.socket, "socket", exhausted)
    with pytest.raises(Refusal) as caught:
        await dialled(Dialler(deny_private=False, own=[]), Origin("http", "127.0.0.1", port))
    assert caught.value.code == "overloaded"
    assert caught.value.retry_after == dial.RETRY_AFTER


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
