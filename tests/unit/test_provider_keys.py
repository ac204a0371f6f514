"""The keys of an authorization server: when they are fetched, when not, and what a failure leaves."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.model import Invalid, Unavailable
from sidecar.provider_http import Answer
from sidecar.provider_keys import FRESH, LIFE, PAUSE, RETRY, Keys
from tests.support.credentials import Clock
from tests.support.jwts import jwk_set, public

URI = "https://idp.example/jwks"


class Server:
    """What answers at the keys' address; `replies` go first."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.kinds = ["P-256"]
        self.replies: list[Answer | Unavailable | Invalid] = []
        self.asked: list[str] = []
        self.keys = Keys(self.get, self.clock)

    async def get(self, url: str) -> Answer | Unavailable | Invalid:
        self.asked.append(url)
        await asyncio.sleep(0)
        return self.replies.pop(0) if self.replies else Answer(200, {}, jwk_set(*public(*self.kinds)))

    async def kids(self, *, missing: bool = False) -> list[str | None] | str:
        found = await self.keys.keys(URI, missing=missing)
        return found.reason if isinstance(found, Unavailable | Invalid) else [key.kid for key in found]


@pytest.fixture
def server() -> Server:
    return Server()


async def test_keys_are_fetched_once_for_all_who_wait(server: Server) -> None:
    """One flight; then from memory until they are an hour old."""
    assert await asyncio.gather(*(server.kids() for _ in range(20))) == [["kid-P-256"]] * 20
    server.clock.now += FRESH - 1
    assert await server.kids() == ["kid-P-256"]
    assert len(server.asked) == 1
    server.clock.now += 1
    server.kinds = ["P-384"]
    assert await server.kids() == ["kid-P-384"]


async def test_rotated_key_is_found(server: Server) -> None:
    """[IDP-16] An unknown key is looked for once more."""
    await server.kids()
    server.clock.now += PAUSE
    server.kinds = ["P-256", "P-384"]
    assert await server.kids() == ["kid-P-256"]
    assert await server.kids(missing=True) == ["kid-P-256", "kid-P-384"]


async def test_flood_of_unknown_keys_causes_few_requests(server: Server) -> None:
    """[IDP-16] One look every half minute, whatever is made up."""
    await server.kids()
    for _ in range(600):
        server.clock.now += 0.5
        await asyncio.gather(*(server.kids(missing=True) for _ in range(5)))
    assert len(server.asked) <= 1 + 300 / PAUSE


async def test_known_keys_stay_while_newer_cannot_be_had(server: Server) -> None:
    """For a day; and a server that fails is not asked at once again."""
    await server.kids()
    server.clock.now += FRESH
    server.replies = [Unavailable("connect"), Answer(200, {}, b"<html>"), Answer(500, {}, b"")]
    for _ in range(3):
        assert await server.kids() == ["kid-P-256"]
        assert await server.kids() == ["kid-P-256"]
        server.clock.now += RETRY
    assert len(server.asked) == 4
    server.clock.now += LIFE
    server.replies = [Unavailable("connect")]
    assert await server.kids() == "connect"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Unavailable("timeout"), "timeout"),
        (Invalid("too_large"), "too_large"),
        (Answer(200, {}, b"{}"), "keys"),
        (Answer(404, {}, jwk_set()), "http_404"),
        (Answer(302, {"location": "https://evil.example"}, jwk_set()), "redirect"),
        (Answer(503, {}, b""), "http_503"),
    ],
)
async def test_failure_is_told_and_then_tried_again(
    server: Server, reply: Answer | Unavailable | Invalid, reason: str
) -> None:
    """After some seconds, not at once."""
    server.replies = [reply]
    assert await server.kids() == reason
    assert await server.kids() == "keys"
    server.clock.now += RETRY
    assert await server.kids() == ["kid-P-256"]


async def test_other_address_has_other_keys(server: Server) -> None:
    """The metadata may name another place from now on; keys of the old one are not believed any more."""
    await server.kids()
    server.kinds = ["P-384"]
    found = await server.keys.keys(URI + "2")
    assert not isinstance(found, Unavailable | Invalid)
    assert [key.kid for key in found] == ["kid-P-384"]


async def test_one_who_stops_waiting_stops_nobody_else(server: Server) -> None:
    """The flight is nobody's own."""
    first = asyncio.create_task(server.kids())
    second = asyncio.create_task(server.kids())
    await asyncio.sleep(0)
    first.cancel()
    assert await second == ["kid-P-256"]
    assert len(server.asked) == 1
    await server.keys.close()
