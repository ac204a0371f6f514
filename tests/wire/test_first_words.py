"""Upstreams that speak first: greetings in tunnels, refusals of a connection; and callers that speak too early."""

from __future__ import annotations

import socket
import threading
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from sidecar.model import Origin
from sidecar.settings import Match, Route, Tunnel
from tests.support.corridor import Corridor

if TYPE_CHECKING:
    from collections.abc import Iterator

GREETING = b"SSH-2.0-here\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbusy"
ROUNDS = 25  # it was a race


class Talker:
    """An upstream that says `words` to every connection at once, and then nothing more. `deaf`: it closes at once."""

    def __init__(self) -> None:
        self.words = b""
        self.deaf = False
        self.heard: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._talk, daemon=True).start()

    def _talk(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._server.accept()
                connection.sendall(self.words)
                if self.deaf:
                    connection.close()
                    continue
                connection.shutdown(socket.SHUT_WR)
                self.heard.append(connection)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self.heard:
            connection.close()


@pytest.fixture(scope="module")
def talker() -> Iterator[Talker]:
    """An upstream that speaks first."""
    with closing(Talker()) as made:
        yield made


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def corridor(request: pytest.FixtureRequest, talker: Talker) -> Iterator[Corridor]:
    """A proxy in front of it."""
    route = Route("talker", Match("talker.internal"), Origin("http", "127.0.0.1", talker.port), "none")
    with Corridor(request.param, routes=(route,)) as made:
        made.tunnels += (Tunnel("127.0.0.1", talker.port), Tunnel("127.0.0.1", 1))
        made.do(lambda: made.wire.configure(made.wire.limits, made._proxy()))
        yield made


def test_greeting_of_a_tunnels_destination_arrives(corridor: Corridor, talker: Talker):
    """[SS-08] SSH, SMTP and databases speak first: what comes before the tunnel is there belongs to it."""
    talker.words = GREETING
    for _ in range(ROUNDS):
        with corridor.client() as client:
            client.send(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % talker.port)
            assert client.until_end() == b"HTTP/1.1 200 Connection Established\r\n\r\n" + GREETING
            assert client.ended == "fin"
    assert corridor.faults == []


@pytest.mark.parametrize("deaf", [False, True], ids=["half-closed", "closed"])
@pytest.mark.parametrize("body", [b"\r\n", b"Content-Length: 2\r\n\r\nhi"], ids=["UP-05-no-body", "UP-05-body"])
def test_answer_to_the_connection_is_the_answer_to_its_first_request(
    corridor: Corridor, talker: Talker, body: bytes, deaf: bool, monkeypatch: pytest.MonkeyPatch
):
    """A server that is too busy says so before it reads: it is told to the caller, and the connection not used again."""
    talker.words = BUSY
    monkeypatch.setattr(talker, "deaf", deaf)
    for _ in range(ROUNDS):
        with corridor.client() as client:
            answer = client.send(b"POST /x HTTP/1.1\r\nHost: talker.internal\r\n" + body).answer(b"POST")
        assert answer is not None
        assert (answer.status, answer.body) == (503, b"busy")
    assert corridor.until(lambda: corridor.wire.upstreams == 0)
    assert corridor.faults == []


@pytest.mark.parametrize(
    ("target", "status"), [(b"127.0.0.1:1", 502), (b"elsewhere.internal:443", 403)], ids=["SM-28-dead", "SM-28-refused"]
)
def test_what_follows_a_refused_connect_is_no_request(corridor: Corridor, target: bytes, status: int):
    """Some callers send a tunnel's bytes before it is there, and those may be somebody else's: nobody reads them."""
    corridor.fresh()
    early = b"GET /early HTTP/1.1\r\nHost: app.internal\r\n\r\n"
    with corridor.client() as client:
        answer = client.send(b"CONNECT %b HTTP/1.1\r\nHost: x\r\n\r\n" % target + early).answer(b"GET")
        assert answer is not None
        assert (answer.status, answer.all(b"connection")) == (status, [b"close"])
        assert client.ends()
    assert corridor.streams() == []
