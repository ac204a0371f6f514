"""Streams and storms: bodies of any size in flat memory, events at once, WebSockets, resets under load, no descriptors left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.sync.server import ServerConnection, serve
from websockets.uri import parse_uri

from sidecar.model import Origin
from sidecar.settings import Match, Route
from tests.support.corridor import Corridor, LoopKind
from tests.support.raw import Raw
from tests.support.recording_upstream import Eof, Fin, Rst, Seen, Wait, response

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.recording_upstream import Step

LOOPS = ("asyncio", "uvloop")
MIB = 1024 * 1024
SIZE = 200 * MIB
PIECE = bytes(range(256)) * 256
GET = b"GET /x HTTP/1.1\r\nHost: app.internal\r\n\r\n"


def _resident() -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found
    return int(found[1]) * 1024


class _Watch(threading.Thread):
    """Notes how far memory rises while something goes on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._start = _resident()
        self._over = threading.Event()
        self.rise = 0

    def run(self) -> None:
        while not self._over.wait(0.01):
            self.rise = max(self.rise, _resident() - self._start)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self.join()


class Source(asyncio.Protocol):
    """Answers any request with SIZE bytes, as fast as they are taken."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._left = 0
        self._may = True

    def data_received(self, _data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        self._left = SIZE
        self._go_on()

    def pause_writing(self) -> None:
        self._may = False

    def resume_writing(self) -> None:
        self._may = True
        self._go_on()

    def _go_on(self) -> None:
        while self._may and self._left:
            self._transport.write(PIECE)
            self._left -= len(PIECE)


class Sink(asyncio.Protocol):
    """Takes SIZE bytes of body, pausing now and then, and says how many there were."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._got = -1
        self._rests = 0

    def data_received(self, data: bytes) -> None:
        if self._got < 0:
            head, _, data = data.partition(b"\r\n\r\n")
            self._chunked = b"chunked" in head
            self._got = 0
        self._got += len(data)
        if data.endswith(b"\r\n0\r\n\r\n") if self._chunked else self._got == SIZE:
            self._transport.write(response(b"%d" % self._got))
        elif self._got > self._rests * 50 * MIB:
            self._rests += 1
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(0.1, self._transport.resume_reading)


@pytest.mark.parametrize("loop", LOOPS)
def test_download_to_a_slow_reader_leaves_memory_flat(both: dict[str, Corridor], loop: LoopKind):
    """[STR-01, UP-07] 200 MB pass a reader that rests now and then; neither side's buffers grow with them."""
    corridor = both[loop]
    corridor.fresh()
    corridor.upstream.protocol = Source
    got = 0
    with _Watch() as watch, corridor.client(buffer=65536) as client:
        client.send(GET)
        rests = 0
        while got < SIZE:
            data = client.receive()
            assert data
            got += len(data)
            if got > rests * 50 * MIB:
                rests += 1
                time.sleep(0.1)
    assert watch.rise < 24 * MIB
    assert corridor.faults == []


class Paced(Source):
    """Sends no faster than anybody takes it."""

    def _go_on(self) -> None:
        if self._may and self._left and not self._transport.is_closing():  # a timer may come after the end
            self._transport.write(PIECE)
            self._left -= len(PIECE)
            asyncio.get_running_loop().call_later(0.01, self._go_on)


SO_BUF_LOCK = 72  # <asm-generic/socket.h>


def _read_ahead(port: int) -> set[bool]:
    """Say of this process's connections to a port whether the kernel may enlarge their receive buffers, if it tells."""
    found = set()
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(file.name))) as sock:
            if sock.getpeername()[1:2] == (port,):
                found.add(sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK) == 0)
    return found


@pytest.mark.parametrize("loop", LOOPS)
def test_kernel_reads_ahead_only_for_a_caller_that_takes_all_there_is(both: dict[str, Corridor], loop: LoopKind):
    """[SL-03] It would take a megabyte and more from the upstream for each of thousands of callers that do not read."""
    corridor = both[loop]
    corridor.fresh()
    corridor.upstream.protocol = Source
    with corridor.client(buffer=4096) as client:
        assert client.send(GET).receive()
        time.sleep(0.3)
        if not _read_ahead(corridor.upstream.port):
            pytest.skip("SO_BUF_LOCK needs Linux 5.14")
        for _ in range(20):
            assert client.receive()
            time.sleep(0.01)
        assert _read_ahead(corridor.upstream.port) == {False}
    corridor.upstream.protocol = Paced
    with corridor.client() as client:
        client.send(GET)
        got = 0
        while got < MIB:
            got += len(client.receive())
        assert True in _read_ahead(corridor.upstream.port)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_upload_to_a_slow_upstream_leaves_memory_flat(both: dict[str, Corridor], loop: LoopKind, chunked: bool):
    """[UP-09] 200 MB pass an upstream that rests now and then: the caller is held back, nothing is collected."""
    corridor = both[loop]
    corridor.fresh()
    corridor.upstream.protocol = Sink
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % SIZE
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    with _Watch() as watch, corridor.client(deadline=20) as client:
        client.send(b"POST /x HTTP/1.1\r\nHost: app.internal\r\n" + framing + b"\r\n\r\n")
        for _ in range(SIZE // len(PIECE)):
            client.send(piece)
        if chunked:
            client.send(b"0\r\n\r\n")
        answer = client.answer(b"POST")
    assert answer is not None
    assert int(answer.body) >= SIZE
    assert watch.rise < 24 * MIB
    assert corridor.until(lambda: corridor.wire.replay_memory == 0)
    assert corridor.faults == []


@pytest.mark.parametrize(
    ("loop", "kind"), [("asyncio", b"text/event-stream"), ("uvloop", b"Text/Event-Stream ; charset=UTF-8")]
)
def test_first_event_comes_at_once_and_silence_ends_no_event_stream(
    both: dict[str, Corridor], loop: LoopKind, kind: bytes
):
    """[SSE-01, SSE-02, PD-14] Each event is delivered as it comes, also after more than the idle timeout."""
    corridor = both[loop]
    corridor.fresh()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    event = b"9\r\ndata: 1\n\n\r\n"
    corridor.do(lambda: corridor.upstream.play([head + event, Wait(1.5), event, b"0\r\n\r\n"]))
    with corridor.client() as client:
        began = time.monotonic()
        got = client.send(GET).receive()
        while b"data: 1" not in got:
            got += client.receive()
        assert time.monotonic() - began < 0.2
        while not got.endswith(b"0\r\n\r\n"):
            got += client.receive()
        assert got.count(b"data: 1") == 2
        assert 1.3 < time.monotonic() - began < 3


# -- WebSocket ------------------------------------------------------------------------------------------------------


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@pytest.fixture(scope="module", params=LOOPS)
def websocket(request: pytest.FixtureRequest) -> Iterator[Corridor]:
    """A proxy in front of a real WebSocket server."""
    with serve(_echo, "127.0.0.1", 0, subprotocols=["chat"], max_size=None) as server:  # type: ignore[list-item]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        port = server.socket.getsockname()[1]
        route = Route("ws", Match("ws.internal"), Origin("http", "127.0.0.1", port), "none")
        with Corridor(request.param, routes=(route,)) as corridor:
            yield corridor
        server.shutdown()
        thread.join(5)


class _Caller:
    """A WebSocket client over a raw connection, in either request form."""

    def __init__(self, raw: Raw, form: str) -> None:
        self._raw = raw
        self._protocol = ClientProtocol(parse_uri("ws://ws.internal/echo"), subprotocols=["chat"], max_size=None)  # type: ignore[list-item]
        request = self._protocol.connect()
        if form == "absolute":
            request.path = "http://ws.internal/echo"
        self._protocol.send_request(request)
        self._flush()
        self.events: list[Frame] = []
        while self._protocol.state.name != "OPEN":
            self._receive()

    def frame(self, opcode: Opcode) -> bytes:
        """Return the payload of the next whole message of a kind."""
        payload, reading = b"", False
        while True:
            while self.events:
                event = self.events.pop(0)
                if event.opcode is opcode or (reading and event.opcode is Opcode.CONT):
                    payload, reading = payload + bytes(event.data), True
                    if event.fin:
                        return payload
            self._receive()

    def send(self, how: str, *args: object) -> None:
        getattr(self._protocol, how)(*args)
        self._flush()

    def _receive(self) -> None:
        self._protocol.receive_data(self._raw.receive())
        self.events += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self._flush()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            self._raw.send(data)

    @property
    def subprotocol(self) -> str | None:
        """What the server chose."""
        return self._protocol.subprotocol


@pytest.mark.parametrize("form", ["absolute", "origin"])
def test_websocket_echo_in_both_forms(websocket: Corridor, form: str):
    """[WS-01] Text, binary, 1 MB, fragments, ping and the close code pass, with the subprotocol."""
    with websocket.client() as raw:
        caller = _Caller(raw, form)
        assert caller.subprotocol == "chat"
        caller.send("send_text", "grüß".encode())
        assert caller.frame(Opcode.TEXT) == "grüß".encode()
        big = PIECE * 16
        caller.send("send_binary", big)
        assert caller.frame(Opcode.BINARY) == big
        caller.send("send_text", b"one ", False)
        caller.send("send_continuation", b"two", True)
        assert caller.frame(Opcode.TEXT) == b"one two"
        caller.send("send_ping", b"mark")
        assert caller.frame(Opcode.PONG) == b"mark"
        caller.send("send_close", 4321, "enough")
        assert caller.frame(Opcode.CLOSE)[:2] == (4321).to_bytes(2, "big")
        assert raw.ends(2)
    assert websocket.until(lambda: not websocket.wire.downstreams and websocket.wire.upstreams == 0)
    assert websocket.faults == []


@pytest.mark.parametrize("loop", LOOPS)
def test_tunnel_holds_back_a_fast_sender(both: dict[str, Corridor], loop: LoopKind):
    """A tunnel to a caller that does not read collects nothing: the upstream is held back."""
    corridor = both[loop]
    corridor.fresh()
    switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
    corridor.do(lambda: corridor.upstream.play([switch + b"y" * (60 * MIB)]))
    with corridor.client(buffer=65536) as client:
        client.send(b"GET /x HTTP/1.1\r\nHost: app.internal\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
        assert client.exactly(12) == b"HTTP/1.1 101"
        time.sleep(0.2)
        waiting = corridor.do(corridor.upstream.connections[0].transport.get_write_buffer_size)
        assert waiting > 40 * MIB
        rest = 0
        while rest < 60 * MIB:
            rest += len(client.receive())
    assert corridor.until(lambda: corridor.wire.upstreams == 0)
    assert corridor.faults == []


# -- storms ---------------------------------------------------------------------------------------------------------


def _moody(mood: random.Random) -> list[Step]:
    return [[Rst], [Fin], [b"HTTP/1.1 200 OK\r\nContent-Le", Rst], [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Rst],
            [response(b"surplus") + response(b"poison"), Eof]][mood.randrange(5)]  # fmt: skip


@pytest.mark.parametrize("loop", LOOPS)
def test_sixteen_callers_never_get_each_others_answers(both: dict[str, Corridor], loop: LoopKind):
    """[SM-22, ID-08] Tagged requests over shared connections that the upstream breaks at random: no tag ever crosses."""
    corridor = both[loop]
    corridor.fresh()
    mood = random.Random(22)  # noqa: S311 - moods, not secrets

    def answer(seen: Seen) -> list[Step]:
        if mood.random() < 0.2:
            return _moody(mood)
        who = seen.all(b"authorization")[0].rpartition(b"-of-")[2].rpartition(b"-")[0]
        said = b"%b %b " % (seen.target, who) * mood.randrange(1, 40)
        late: list[Step] = [Wait(mood.random() / 200)] if mood.random() < 0.2 else []
        return [*late, response(said)]

    corridor.upstream.default = answer

    def call(number: int) -> tuple[int, int]:
        own, wrong, client = 0, 0, corridor.client()
        for turn in range(60):
            target, who = b"/%d/%d" % (number, turn), b"user%d" % (number % 5)
            method = (b"GET", b"POST")[turn % 2]
            body = b"Content-Length: 3\r\n\r\nabc" if method == b"POST" else b"\r\n"
            client.send(
                b"%b %b HTTP/1.1\r\nHost: user.internal\r\nX-Session-Id: %b\r\n%b" % (method, target, who, body)
            )
            got = client.answer(method)
            if got is not None and got.status == 200 and got.body != b"surplus" and got.whole:
                mine = b"%b %b " % (target, who)
                own, wrong = own + 1, wrong + (got.body != mine * (len(got.body) // len(mine)))
            wrong += got is not None and b"poison" in got.body
            if got is None or not got.whole or got.all(b"connection") == [b"close"]:
                client.__exit__()
                client = corridor.client()
        client.__exit__()
        return own, wrong

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, range(16)))
    assert sum(wrong for _, wrong in results) == 0
    assert sum(own for own, _ in results) > 16 * 60 * 0.6
    assert corridor.until(lambda: not corridor.wire.downstreams and corridor.wire.replay_memory == 0)
    assert corridor.faults == []


STARVED = """
import resource, sys, time
from tests.support.corridor import Corridor
with Corridor(sys.argv[1]) as corridor:
    print(corridor.port, flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    sys.stdin.read()
    print(time.process_time(), flush=True)
"""


@pytest.mark.parametrize("loop", LOOPS)
def test_no_descriptors_left_harms_no_one_who_is_connected_and_passes(loop: LoopKind):
    """[OV-03] More connections than descriptors: those inside are served, and once some leave, newcomers are too."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", STARVED, loop],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        port = int(process.stdout.readline())
        with Raw(port) as inside:
            first = inside.send(GET).answer()
            crowd = [Raw(port) for _ in range(60)]
            time.sleep(0.5)
            second = inside.send(GET).answer()
            for each in crowd:
                each.__exit__()
            time.sleep(1.2)
            with Raw(port) as newcomer:
                third = newcomer.send(GET).answer()
        process.stdin.close()
        spent = float(process.stdout.readline())
    assert [answer and answer.status for answer in (first, second, third)] == [200, 200, 200]
    assert spent < 3
