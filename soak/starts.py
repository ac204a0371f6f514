"""How long a sidecar takes to be ready, and what memory it has, with many sessions in its store.

The store is filled by the product's own records, without waiting for the disk; SQLite's file is then folded and synced.
Each start is a real one, right after the one before has ended: until `/readyz` answers 200, and until one session that
was never used by this process has been served by the upstream.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.credentials.counts import Counts
from sidecar.credentials.records import Records, new_sign_in
from sidecar.credentials.session_record import SessionRecord, signed_in
from sidecar.credentials.vault import Vault, generate_key
from sidecar.model import Granted, Secret, Token
from sidecar.stores import open_store, sqlite_file
from soak.command import main, options, progress
from soak.fleet import ADMIN_TOKEN, HOST, SECRET, Instance, session
from soak.load import Caller
from soak.lone import MIB
from soak.processes import Redis

if TYPE_CHECKING:
    import argparse

AT_ONCE = 200
LIFE = 36_000.0
ISSUER = "http://127.0.0.1:9"  # nobody is asked: all tokens are valid
FIELDS = {"rss": "VmRSS", "peak": "VmHWM"}


def _session_id(number: int) -> str:
    return session(f"number-{number:08}")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    writer.close()


async def fill(url: str, key: str, sessions: int, token: int) -> None:
    """Write `sessions` records of a sign-in, each with an access token of `token` bytes."""
    store = open_store(url)
    records, now = Records(store, Vault([Secret(key)]), Counts()), time.time()

    async def one(number: int) -> None:
        name = await records.name(_session_id(number))
        bought = Token(Secret(f"{number:08}".ljust(token, "x")), now, now + LIFE, frozenset({"profiles.read"}))
        chain = signed_in(
            f"legacy-app@{ISSUER}",
            int(now * 1000),
            new_sign_in(),
            Granted(bought, Secret(f"r{number:08}".ljust(200, "x"))),
        )
        over = await records.load(name)
        if not await records.save(name, SessionRecord(now, now, None, {"idp": chain}), over, now):
            raise RuntimeError("a record was not written")

    await records.name(_session_id(0))
    for first in range(0, sessions, AT_ONCE):
        await asyncio.gather(*(one(number) for number in range(first, min(first + AT_ONCE, sessions))))
        if first % 20_000 == 0:
            progress(f"{first} sessions")
    await store.close()


def _hurry() -> None:
    """Let this process's own SQLite not wait for the disk."""
    ready = sqlite_file._ready  # noqa: SLF001

    def unsafe(path: Path) -> sqlite3.Connection:
        connection = ready(path)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    sqlite_file._ready = unsafe  # noqa: SLF001


async def _ready(instance: Instance) -> None:
    while True:
        try:
            if await instance_status(instance) == 200:
                return
        except OSError:
            pass
        await asyncio.sleep(0.01)


async def instance_status(instance: Instance) -> int:
    """Ask `/readyz`; return the status."""
    reader, writer = await asyncio.open_connection(HOST, instance.admin)
    writer.write(f"GET /readyz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    line = await reader.readline()
    writer.close()
    return int(line.split()[1]) if line else 0


def _memory(instance: Instance) -> dict[str, float]:
    lines = Path(f"/proc/{instance.process.pid}/status").read_text().splitlines()
    found = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Vm")}
    return {name: round(found[field] / MIB, 1) for name, field in FIELDS.items()}


async def start(instance: Instance, settle: float) -> dict[str, float]:
    """Start it once, ask for one session, and end it."""
    began = instance.launch()
    await asyncio.wait_for(_ready(instance), 120)
    ready, cpu, memory = time.monotonic() - began, instance.cpu(), _memory(instance)
    caller = Caller(instance)
    answer = await caller.ask("number-00000001")
    served = time.monotonic() - began
    await asyncio.sleep(settle)  # what is done beside the requests: a large file is read whole
    after = _memory(instance)
    caller.close()
    await instance.terminate()
    if answer.status != 200:
        raise RuntimeError(f"the session was not served: {answer}")
    return {
        "ready": ready, "cpu": cpu, "served": served, "rss_ready": memory["rss"],
        "rss_later": after["rss"], "peak": after["peak"],
    }  # fmt: skip


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill a store, then start on it again and again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        upstream = await asyncio.start_server(_answer, HOST, 0)
        url, key, redis = f"sqlite:{folder}/store.db", generate_key(), None
        if arguments.store == "redis":
            redis = Redis(folder)
            stack.callback(redis.stop)
            await redis.ready()
            url = f"redis://{HOST}:{redis.port}/0?timeout=5"
        _hurry()
        began = time.monotonic()
        await fill(url, key, arguments.sessions, arguments.token)
        filled = time.monotonic() - began
        if redis is None:
            with closing(sqlite3.connect(folder / "store.db")) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            os.sync()
        text = {
            "store": url, "key": key, "issuer": ISSUER, "token": ADMIN_TOKEN,
            "upstream": f"http://{HOST}:{upstream.sockets[0].getsockname()[1]}",
            "secret": SECRET, "patience": 10.0,
        }  # fmt: skip
        instance = Instance(folder, 0, text)
        found = [await start(instance, arguments.settle) for _ in range(arguments.starts)]
        upstream.close()
        size = (folder / "store.db").stat().st_size if redis is None else 0
        return {
            "program": "starts", "store": arguments.store, "sessions": arguments.sessions, "starts": len(found),
            "filled_in": round(filled, 1), "file_mib": round(size / MIB, 1),
            "median": {name: round(statistics.median(one[name] for one in found), 2) for name in found[0]},
            "worst_ready": round(max(one["ready"] for one in found), 2),
            "failures": {"complaints": {name: count for name, count in instance.events().items() if name != "refused"}},
        }  # fmt: skip


if __name__ == "__main__":
    main(
        run,
        options(
            __doc__.splitlines()[0],
            sessions=(100_000, "how many are in the store"),
            token=(900, "bytes of each access token"),
            starts=(5, "how many"),
            settle=(4.0, "seconds from the first answer to the second look at its memory"),
        ),
    )
