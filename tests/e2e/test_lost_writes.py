"""A master that dies with a write which no replica has: the session lives on, whoever is asked for it first."""

from __future__ import annotations

import asyncio
import time

import pytest

from sidecar.credentials.broker import Broker
from sidecar.credentials.vault import Vault, generate_key
from sidecar.errors import Refusal
from sidecar.model import Secret
from sidecar.stores import open_store
from tests.support.credentials import USER, Server, keyed
from tests.support.redis_server import Replicated

KEY = keyed(USER, "the-session-of-alice")


async def served(broker: Broker) -> str:
    """Return the token that a caller gets who tries again while the store is away."""
    async with asyncio.timeout(30):
        while True:
            try:
                return (await broker.obtain(KEY)).token.decode()
            except Refusal as refusal:
                if refusal.name != "store_unavailable":
                    raise
                await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_renewal_that_died_with_its_master_is_stored_again_before_its_refresh_token_is_spent_twice() -> None:
    """[RD-07] [RF-18] The other instance waits with the lock for as long as that takes."""
    redis, server, vault = Replicated(), Server(time.time), Vault([Secret(generate_key())])  # type: ignore[arg-type]
    try:
        url = redis.start().ready().url
        stores = [open_store(url) for _ in range(2)]
        one, two = (Broker({USER.fingerprint: USER}, {"idp": server}, store, vault) for store in stores)
        await one.sessions.put(KEY.identity, "idp", server.sign_in("alice", expires_in=1))
        await asyncio.sleep(1.1)
        redis.replica.pause()
        redis.master.ask("CLIENT", "KILL", "TYPE", "replica")  # or the kernel keeps for it what it is sent
        assert (await two.obtain(KEY)).token == b"access.alice.read.2"
        redis.master.kill()
        redis.replica.go_on()
        assert await served(one) == "access.alice.read.2"
        assert (server.calls, server.killed, two.counts.repairs) == (1, [], 1)
        for part in (one, two):
            await part.close(1)
        for store in stores:
            await store.close()
    finally:
        redis.remove()


@pytest.mark.slow
async def test_sign_in_that_died_with_its_master_is_made_again_over_the_user_before() -> None:
    """[RD-07] [ID-08] Within seconds no instance serves the former user's token for the session's id."""
    redis, server, vault = Replicated(), Server(time.time), Vault([Secret(generate_key())])  # type: ignore[arg-type]
    try:
        url = redis.start().ready().url
        stores = [open_store(url) for _ in range(2)]
        one, two = (Broker({USER.fingerprint: USER}, {"idp": server}, store, vault) for store in stores)
        await one.sessions.put(KEY.identity, "idp", server.sign_in("alice"))
        for broker in (one, two):
            assert (await broker.obtain(KEY)).token == b"access.alice.sign-in.1"
        redis.replica.pause()
        redis.master.ask("CLIENT", "KILL", "TYPE", "replica")
        await one.sessions.put(KEY.identity, "idp", server.sign_in("bob"))
        redis.master.kill()
        redis.replica.go_on()
        async with asyncio.timeout(30):
            while one.counts.repairs == 0:
                await served(one)
                await asyncio.sleep(0.2)
        await asyncio.sleep(1)
        for broker in (one, two):
            assert await served(broker) == "access.bob.sign-in.2"
        for part in (one, two):
            await part.close(1)
        for store in stores:
            await store.close()
    finally:
        redis.remove()
