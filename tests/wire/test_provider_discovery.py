"""Where the endpoints of a provider come from: discovery when first needed, or the file."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from sidecar.model import Granted, Invalid, Outcome, Secret, Unavailable
from sidecar.oauth.metadata import Metadata
from sidecar.provider import AuthorizationServer
from sidecar.provider_keys import FRESH
from sidecar.provider_metadata import LIFE, PAUSE, RETRY
from sidecar.settings import ProviderSettings, ProviderTimeout
from tests.support.scripted_server import Received, ScriptedServer, response, token, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

OPENID = "/.well-known/openid-configuration"
RFC8414 = "/.well-known/oauth-authorization-server"
NOT_FOUND = response(b"<h1>Not found</h1>", 404)


class Provider:
    """A server whose documents are `pages` by path, and the code under test beside it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0
        self.pages: dict[str, bytes] = {"/token": token()}
        self.gate = asyncio.Event()
        self.gate.set()
        self.pause = 0.0
        self.server = ScriptedServer(self._answer)
        self.clients: list[AuthorizationServer] = []

    async def _answer(self, request: Received, writer: asyncio.StreamWriter) -> None:
        await self.gate.wait()
        await asyncio.sleep(self.pause)
        writer.write(self.pages.get(request.path, NOT_FOUND))

    def document(self, **members: object) -> bytes:
        """Return good metadata with some members changed."""
        known = {"issuer": self.server.url, "token_endpoint": f"{self.server.url}/token"}
        return response(json.dumps({**known, **members}).encode())

    def client(self, **more: object) -> AuthorizationServer:
        """Make a client of this server; its clock is `now`."""
        registered = {"issuer": self.server.url, "client_secret": Secret("s"), "timeout": ProviderTimeout(1, 2), **more}
        made = AuthorizationServer(ProviderSettings("idp", "app", **registered), lambda: self.now, lambda: 0)  # type: ignore[arg-type]
        self.clients.append(made)
        return made

    @property
    def asked(self) -> list[str]:
        """The paths of the requests so far."""
        return [request.path for request in self.server.requests]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """Run a provider without metadata."""
    provider = Provider()
    async with provider.server:
        yield provider
        provider.gate.set()
        for client in provider.clients:
            await client.close()


async def ask(client: AuthorizationServer, scope: str = "a") -> Outcome:
    """Ask for a token, in bounded time."""
    async with asyncio.timeout(5):
        return await client.token([("grant_type", "client_credentials"), ("scope", scope)], asked=frozenset())


async def test_metadata_is_fetched_when_first_needed_and_kept(provider: Provider) -> None:
    """Making a provider asks nothing; two token requests cost one discovery."""
    provider.pages[OPENID] = provider.document()
    client = provider.client()
    assert (provider.asked, client.state().metadata_loaded) == ([], False)
    assert isinstance(await ask(client), Granted)
    assert isinstance(await ask(client), Granted)
    assert provider.asked == [OPENID, "/token", "/token"]
    assert client.state().metadata_loaded


@pytest.mark.parametrize(
    "first",
    [NOT_FOUND, response(b"", 403), response(b"<html>app</html>"), response(b"{}"), response(b"", 302, "Location: /")],
    ids=["404", "403", "a page", "an empty object", "a redirect"],
)
async def test_the_second_place_is_tried_where_the_first_has_no_metadata(provider: Provider, first: bytes) -> None:
    """A plain OAuth server publishes by RFC 8414 only; its other paths may say anything."""
    provider.pages |= {OPENID: first, RFC8414: provider.document()}
    assert isinstance(await ask(provider.client()), Granted)
    assert provider.asked == [OPENID, RFC8414, "/token"]


async def test_a_provider_in_trouble_is_unavailable_and_not_asked_elsewhere(provider: Provider) -> None:
    """[IDP-05] A 503 says nothing about where the metadata is; the next caller is told to wait."""
    provider.pages |= {OPENID: response(b"", 503, "Retry-After: 9"), RFC8414: provider.document()}
    client = provider.client()
    assert await ask(client) == Unavailable("http_503", 9.0)
    assert await ask(client) == Unavailable("backing_off", 9.0)
    assert provider.asked == [OPENID]
    provider.pages[OPENID] = provider.document()
    provider.now += 9
    assert isinstance(await ask(client), Granted)


UNUSABLE = {
    "[IDP-16] another issuer": ({"issuer": "https://evil.example"}, "metadata_issuer"),
    "[IDP-16] the issuer with a slash": ({"issuer": "URL/"}, "metadata_issuer"),
    "no token endpoint": ({"token_endpoint": None}, "metadata_token_endpoint"),
    "a relative token endpoint": ({"token_endpoint": "/token"}, "metadata_token_endpoint"),
    "a broken jwks_uri": ({"jwks_uri": 7}, "metadata_jwks_uri"),
}


@pytest.mark.parametrize(("members", "reason"), UNUSABLE.values(), ids=UNUSABLE)
async def test_metadata_that_cannot_be_believed_gets_no_credentials(
    provider: Provider, members: dict[str, object], reason: str
) -> None:
    """[IDP-16] Nothing is sent to an endpoint of a document that is not the issuer's own."""
    members = {
        name: value.replace("URL", provider.server.url) if isinstance(value, str) else value
        for name, value in members.items()
    }
    provider.pages |= {OPENID: provider.document(**members), RFC8414: provider.document(**members)}
    client = provider.client()
    assert await ask(client) == Invalid(reason)
    assert provider.asked == [OPENID, RFC8414]
    assert client.state().last_error == reason


async def test_nowhere_any_metadata_is_invalid(provider: Provider) -> None:
    """A wrong issuer in the file shows as such, and does not make a storm."""
    client = provider.client()
    assert await ask(client) == Invalid("http_404")
    assert isinstance(await ask(client), Unavailable)
    assert provider.asked == [OPENID, RFC8414]


async def test_provider_without_metadata_is_looked_at_twice_a_second_at_most(provider: Provider) -> None:
    """[IDP-16] Sign-ins and logout tokens ask for it too, and anybody may send those; found, it serves at once."""
    client = provider.client()
    for _ in range(20):
        assert await client.metadata() == Invalid("http_404")
        assert await client.keys() == Invalid("http_404")
    assert provider.asked == [OPENID, RFC8414]
    provider.pages[OPENID] = provider.document()
    provider.now += PAUSE
    assert isinstance(await client.metadata(), Metadata)
    assert provider.asked == [OPENID, RFC8414, OPENID]


async def test_fifty_callers_cost_one_discovery(provider: Provider) -> None:
    """One flight for all who wait; the first to leave harms no other."""
    provider.pages[OPENID] = provider.document()
    provider.gate.clear()
    client = provider.client()
    callers = [asyncio.create_task(ask(client, f"s{n}")) for n in range(50)]
    await until(lambda: provider.asked == [OPENID])
    callers[0].cancel()
    provider.gate.set()
    first, *others = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert all(isinstance(outcome, Granted) for outcome in others)
    assert provider.asked.count(OPENID) == 1


async def test_old_metadata_serves_while_new_is_fetched_and_while_it_cannot_be_had(provider: Provider) -> None:
    """After a day a newer copy is asked for in the background; a failure keeps the old one, for minutes before it asks again."""
    provider.pages[OPENID] = provider.document()
    client = provider.client()
    await ask(client)
    provider.now += LIFE
    provider.pages[OPENID] = response(b"", 500)
    assert isinstance(await ask(client), Granted)
    await until(lambda: provider.asked.count(OPENID) == 2)
    assert isinstance(await ask(client), Granted)
    assert provider.asked.count(OPENID) == 2
    provider.pages |= {OPENID: provider.document(token_endpoint=f"{provider.server.url}/moved"), "/moved": token()}
    provider.now += RETRY
    await ask(client)
    await until(lambda: provider.asked.count(OPENID) == 3)
    await client.metadata()
    await until(lambda: client._discovery._flight is None)
    assert isinstance(await ask(client), Granted)
    assert provider.asked[-1] == "/moved"


@pytest.mark.parametrize(
    "gone", [NOT_FOUND, response(b"", 503), response(b'{"error":"gone"}', 410)], ids=["404", "503", "410"]
)
async def test_token_endpoint_that_moves_is_found_within_minutes(provider: Provider, gone: bytes) -> None:
    """Metadata that is a day from being renewed is looked at again where its endpoint fails: once in five minutes."""
    provider.pages[OPENID] = provider.document()
    client = provider.client()
    await ask(client)
    moved = provider.document(token_endpoint=f"{provider.server.url}/moved")
    provider.pages |= {OPENID: moved, "/moved": token(), "/token": gone}
    for _ in range(4):
        provider.now += RETRY / 3
        await ask(client)
        await client.metadata()
        await until(lambda: client._discovery._flight is None)
    provider.now += RETRY
    assert isinstance(await ask(client), Granted)
    assert (provider.asked.count(OPENID), provider.asked[-1]) == (2, "/moved")


async def test_keys_that_move_are_found_within_minutes(provider: Provider) -> None:
    """[IDP-16] The new keys are at another address, and the old one goes on having the old ones."""
    url = provider.server.url
    provider.pages |= {OPENID: provider.document(jwks_uri=f"{url}/keys"), "/keys": response(b'{"keys": []}')}
    client = provider.client()
    await client.keys()
    provider.pages |= {OPENID: provider.document(jwks_uri=f"{url}/moved"), "/moved": provider.pages["/keys"]}
    for _ in range(3):
        provider.now += RETRY
        await client.keys(missing=True)
        await until(lambda: client._discovery._flight is None)
    assert provider.asked.count(OPENID) <= 3
    assert provider.asked.count("/moved") == 1


async def test_known_keys_serve_while_their_address_never_answers(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[IDP-03] They are an hour old and worth another look, but good for a day."""
    url = provider.server.url
    provider.pages |= {OPENID: provider.document(jwks_uri=f"{url}/keys"), "/keys": response(b'{"keys": []}')}
    monkeypatch.setattr("sidecar.provider_keys.PATIENCE", 0.05)
    client = provider.client(timeout=ProviderTimeout(1, 0.3))
    assert await client.keys() == ()
    provider.now += FRESH
    provider.gate.clear()
    for _ in range(3):
        assert await client.keys() == ()
        provider.now += PAUSE


async def test_a_token_endpoint_by_hand_needs_no_discovery(provider: Provider) -> None:
    """What stands in the file is not looked up, and rules."""
    url = provider.server.url
    client = provider.client(token_endpoint=f"{url}/token", jwks_uri=f"{url}/keys")
    assert isinstance(await ask(client), Granted)
    assert provider.asked == ["/token"]
    assert await client.metadata() == Metadata(url, f"{url}/token", jwks_uri=f"{url}/keys")


async def test_another_endpoint_by_hand_overrides_the_discovered_one(provider: Provider) -> None:
    """An operator can mend one member of a provider's metadata."""
    url = provider.server.url
    provider.pages[OPENID] = provider.document(revocation_endpoint=f"{url}/theirs")
    client = provider.client(revocation_endpoint=f"{url}/ours")
    assert await client.metadata() == Metadata(url, f"{url}/token", revocation_endpoint=f"{url}/ours")


async def test_discovery_and_token_request_share_one_deadline(provider: Provider) -> None:
    """[IDP-04] Two answers that are each in time, but not together, are too late."""
    provider.pages[OPENID] = provider.document()
    provider.pause = 0.3
    client = provider.client(timeout=ProviderTimeout(1, 0.5))
    assert await ask(client) == Unavailable("timeout", 1.0)
    assert provider.asked == [OPENID, "/token"]


async def test_closing_during_discovery_ends_it(provider: Provider) -> None:
    """Shutdown does not wait for a provider that hangs."""
    provider.gate.clear()
    client = provider.client()
    caller = asyncio.create_task(ask(client))
    await until(lambda: provider.asked == [OPENID])
    await asyncio.wait_for(client.close(), 1)
    assert isinstance(await asyncio.wait_for(caller, 1), Unavailable)
