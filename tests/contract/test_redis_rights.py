"""The Redis that deploy/compose starts: a user with few rights, and an append-only file that brings everything back."""

from __future__ import annotations

import re
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sidecar.stores import open_store
from sidecar.stores.contract import Record
from tests.support.redis_server import Server

ROOT = Path(__file__).parents[2]
PASSWORD = "demo-redis-password"
BINARIES = {"Valkey": None, "Redis": shutil.which("redis-server")}


def settings() -> str:
    """Return the settings that redis.sh gives to Redis, but for the folder."""
    text = (ROOT / "deploy" / "compose" / "redis.sh").read_text()
    [found] = re.findall(r"<<END\n(.*)\nEND\n", text, re.DOTALL)
    return found.replace("$REDIS_PASSWORD", PASSWORD).replace("dir /data\n", "")


class Guarded(Server):
    """A server that lets nobody in without a password."""

    def _answers(self):
        return socket.create_connection(("127.0.0.1", self.port), 1).close() is None


@asynccontextmanager
async def opened(port):
    """Open the store as replicas.yaml does."""
    store = open_store(f"redis://sidecar:{PASSWORD}@127.0.0.1:{port}/0?timeout=2")
    try:
        yield store
    finally:
        await store.close()


def test_rights_that_are_given_are_those_that_are_documented():
    """docs/redis.md lists them; the file has no other and no fewer."""
    text = re.sub(r"\s+", " ", (ROOT / "docs" / "redis.md").read_text())
    [documented] = re.findall(r"`(~sidecar:\* &sidecar:\* [^`]+)`, and in a cluster", text)
    [given] = re.findall(r"user sidecar on >\S+ (.*)", settings())
    assert given == documented


@pytest.mark.parametrize("kind", BINARIES, ids=[f"[RD-15] {kind}" for kind in BINARIES])
async def test_what_a_user_with_few_rights_wrote_is_there_after_a_kill_and_a_restart(kind):
    """Everything that a store does is allowed, and the default user's rights suffice to replay the append-only file."""
    if BINARIES[kind] is None and kind == "Redis":
        pytest.skip("no redis-server here")
    one = Guarded("FILE", binary=BINARIES[kind])
    one.command[1] = str(one.folder / "redis.conf")
    # A kill may take what waits for the disk at `everysec`; this is about who may do what.
    (one.folder / "redis.conf").write_text(settings() + "\nappendfsync always\n")
    try:
        one.start()
        async with opened(one.port) as store:
            async with store.lock("lock", wait=1.0) as lease:
                assert not lease.lost
                assert await store.put("kept", b"x", expected=None, version=1)
            assert await store.put("gone", b"x", expected=None, version=1)
            assert await store.delete("gone")
            assert await store.keys("") == ["kept"]
        one.kill()
        one.start()
        async with opened(one.port) as store:
            assert await store.get("kept") == Record(b"x", 1)
            assert await store.get("gone") is None
    finally:
        one.remove()
