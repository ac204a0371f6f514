"""Slow peers at the admin and sign-in listeners: they are given up, and those that are quick are served meanwhile."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from sidecar.login import patience, serving
from sidecar.login.patience import Crowd
from sidecar.settings import Address, Limits
from sidecar.wire import service
from sidecar.wire.service import Asked, Told
from tests.support.raw import Raw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sidecar.errors import Refusal

GET = b"GET /quick HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
MOST, SOON = 4, 0.4
BIG = bytes(8 << 20)


class _Office:
    body_limit = 1024

    async def answer(self, request: Asked) -> Told:
        return Told(200, BIG if request.path == "/big" else b"ok")

    def refuse(self, refusal: Refusal) -> Told:
        return Told(refusal.row.status)


async def _answered(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=BIG if request.path == "/big" else b"ok")


@pytest.fixture(params=["admin", "login"])
async def port(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    """Each door with little patience and room for few."""
    anywhere = Address("127.0.0.1", 0)
    monkeypatch.setattr(service, "CONNECTIONS", MOST)
    monkeypatch.setattr(service, "_LIMITS", Limits(headers=32768, head_timeout=SOON, idle_timeout=SOON))
    monkeypatch.setattr(patience, "LOOK", 0.05)
    monkeypatch.setattr(patience, "REQUEST", SOON)
    monkeypatch.setattr(patience, "IDLE", SOON)
    monkeypatch.setattr(serving, "Crowd", partial(Crowd, most=MOST, head=SOON))
    if request.param == "admin":
        async with service.serving(_Office(), anywhere) as address:
            yield address.port
        return
    application = web.Application()
    application.router.add_route("*", "/{path}", _answered)
    async with serving.serving(application, anywhere) as address:
        yield address.port


@pytest.mark.parametrize(
    ("first", "more"),
    [
        pytest.param(b"", b"", id="SL-04-nothing"),
        pytest.param(b"GET /quick HTTP/1.1\r\nX: ", b"x", id="SL-01-head"),
        pytest.param(b"POST /quick HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n", b"x", id="SL-02-body"),
        pytest.param(GET, b"", id="SL-05-idle"),
        pytest.param(b"GET /big HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"", id="SL-03-reader"),
    ],
)
async def test_slow_peer_of_a_door_is_given_up(port: int, first: bytes, more: bytes):
    """Nothing that it sends now and then prolongs its time."""

    def slow() -> bool:
        with Raw(port, deadline=0.1, buffer=4096) as client:
            client.send(first)
            for _ in range(60):
                client.send(more)
                if _is_over(client, reads=b"/big" not in first):
                    return True
        return False

    assert await asyncio.to_thread(slow)


def _is_over(client: Raw, *, reads: bool) -> bool:
    """Say whether the connection has ended; a peer that does not read learns it only when it looks at last."""
    try:
        if not reads:
            time.sleep(3 * SOON)
            return len(client.until_end(1)) < len(BIG)
        client.receive()
    except TimeoutError:
        return False
    return bool(client.ended)


async def test_quick_peer_is_served_soon_beside_more_slow_ones_than_there_is_room_for(port: int):
    """[SL-01] A probe of the platform's must not wait until a flood is over."""

    def quick() -> int:
        with ExitStack() as stack:
            for _ in range(3 * MOST):
                stack.enter_context(Raw(port)).send(b"GET /quick HTTP/1.1\r\nX: ")
            for _ in range(40):
                with Raw(port, deadline=1.0) as client:
                    answer = client.send(GET).answer()
                    if answer is not None:
                        return answer.status
        return 0

    assert await asyncio.to_thread(quick) == 200
