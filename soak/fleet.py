"""A fleet of real sidecar processes on one store, and the far side that they talk to.

Every process is started here and ended when the context ends, however that comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.credentials.vault import generate_key
from soak import canary
from soak.processes import HOST, START, Far, Redis, _subordinate, free_port, spawn, spawn_piped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from soak.forks import Forked, Nest

__all__ = [
    "ADMIN_TOKEN", "HOST", "START", "STEP", "Fleet", "Instance", "_subordinate", "free_port", "running",
    "session", "spawn", "spawn_piped",
]  # fmt: skip

ADMIN_TOKEN = "soak-admin-token"
SECRET = "soak-client-secret"
STEP = 0.01
TOGETHER = 10
DAMAGE = ("record_damaged", "rotated_refresh_token_lost", "store_went_back")
CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:{port}"}}]
admin: {{bind: "127.0.0.1:{admin}", token: "{token}"}}
store: {{url: "{store}", keys: ["{key}"]}}
callers: {{session: [{{header: X-Session-Id}}]}}
providers:
  idp: {{issuer: "{issuer}", client_id: legacy-app, client_secret: "{secret}", timeout: {{total: {patience}s}}}}
routes:
  - {{name: profiles, match: {{host: profiles.internal}}, upstream: "{upstream}", as: user, scope: profiles.read}}
"""


class Instance:
    """One sidecar: `python -m sidecar run`, or `soak.instance` where its lease is shortened or its writes traced.

    `how`: another module and its first arguments; `more`: further lines of the configuration, after its routes.
    """

    def __init__(
        self, folder: Path, number: int, text: dict[str, Any], lease: float = 0.0, traced: bool = False,
        how: tuple[str, ...] = (), more: str = "",
    ) -> None:  # fmt: skip
        self.number = number
        self.port, self.admin = free_port(), free_port()
        self.log = folder / f"{number}.log"
        self.trace = folder / f"{number}.trace"
        self.file = folder / f"{number}.yaml"
        self.file.write_text(CONFIGURATION.format(port=self.port, admin=self.admin, **text) + more)
        self._run = ["run", "-c", str(self.file), *(["--log-level", "debug"] if canary.FOLDER else [])]
        self._changes = [str(lease), str(self.trace) if traced else "-"]
        self._how = how or (("soak.instance", *self._changes) if lease or traced else ("sidecar",))
        self.process: subprocess.Popen[bytes] | Forked

    def launch(self) -> float:
        """Start it and return the monotonic time."""
        began = time.monotonic()
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", *self._how, *self._run]
            self.process = spawn(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return began

    async def fork(self, nest: Nest) -> None:
        """Start it the cheap way, and wait until it accepts connections."""
        self.process = await nest.fork([*self._changes, *self._run], str(self.log))
        await self.ready()

    async def start(self) -> float:
        """Start it; return the seconds after which it accepted connections."""
        began = self.launch()
        await self.ready()
        return time.monotonic() - began

    async def ready(self) -> None:
        """Wait until it accepts connections."""
        for _ in range(int(START / STEP)):  # steps, not seconds: a machine that stands still is no fault
            if self.process.poll() is not None:
                raise RuntimeError(f"instance {self.number} ended: {self.log.read_text()[-500:]}")
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, self.port)
                writer.close()
                return
            await asyncio.sleep(STEP)
        raise RuntimeError(f"instance {self.number} did not start: {self.log.read_text()[-500:]}")

    def cpu(self) -> float:
        """Return the seconds of CPU time that the process has taken so far."""
        user, system = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.process.wait()

    async def terminate(self, within: float = 40.0) -> float:
        """SIGTERM; return the seconds until its end."""
        began = time.monotonic()
        self.send(signal.SIGTERM)
        while self.process.poll() is None and time.monotonic() < began + within:  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.02)
        self.kill()
        return time.monotonic() - began

    def events(self) -> dict[str, int]:
        """Return how often it logged each warning or error."""
        found: Counter[str] = Counter()
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                found.update([entry["event"]] if entry.get("level") in {"error", "warning", "critical"} else [])
        return found


class Fleet:
    """The instances, the far side and the folder with all files."""

    def __init__(self, folder: Path, far: Far, instances: list[Instance], store: str) -> None:
        self.folder = folder
        self.far = far
        self.instances = instances
        self.store = store
        self.users: list[str] = []
        self.down: set[int] = set()

    async def sign_in(self, count: int) -> None:
        """Sign `count` users in, their sessions spread over the instances: user u0 has session s-u0, and so on."""
        self.users = [f"u{number}" for number in range(count)]
        await asyncio.gather(*(
            self._sign_in(number, self.users[number :: len(self.instances)]) for number in range(len(self.instances))
        ))  # fmt: skip

    async def _sign_in(self, at: int, users: list[str]) -> None:
        """Hand tokens over soon after they were issued: their life is counted from then on."""
        for first in range(0, len(users), TOGETHER):
            some = users[first : first + TOGETHER]
            answers = await self.far.ask("issue", users=some)
            await self._put(at, zip(some, answers, strict=True))

    async def put(self, user: str, at: int = 0) -> None:
        """Sign one user in, again or for the first time."""
        (answer,) = await self.far.ask("issue", users=[user])
        await self._put(at, [(user, answer)])

    async def delete(self, user: str, at: int) -> int:
        """End a session on one instance; return the status."""
        return await self.manage(at, "DELETE", f"/v1/sessions/{session(user)}")

    async def manage(self, at: int, method: str, path: str, body: bytes = b"") -> int:
        """Send one request to an admin listener; return the status."""
        return (await self.manage_body(at, method, path, body))[0]

    async def sessions(self, at: int) -> int:
        """Return how many sessions an instance finds in the store and can open."""
        _, body = await self.manage_body(at, "GET", "/v1/sessions?limit=1000")
        return len(json.loads(body)["sessions"])

    async def manage_body(self, at: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send one request to an admin listener; return the status and the body."""
        reader, writer = await asyncio.open_connection(HOST, self.instances[at].admin)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
        answer = await reader.read()
        writer.close()
        return status, answer.partition(b"\r\n\r\n")[2]

    async def _put(self, at: int, signed_in: Iterable[tuple[str, Any]]) -> None:
        for user, answer in signed_in:
            body = json.dumps({**answer, "provider": "idp"}).encode()
            until = time.monotonic() + START
            while (status := await self.manage(at, "PUT", f"/v1/sessions/{session(user)}", body)) == 503:
                if time.monotonic() > until:
                    break
                await asyncio.sleep(0.2)
            if status != 200:
                raise RuntimeError(f"the session API answered {status}")

    def damage(self) -> list[str]:
        """Return what SQLite itself finds wrong with the file, and what the instances called damaged or lost."""
        wrong = [f"{count} {event}" for event, count in self.complaints().items() if event in DAMAGE]
        if self.store.startswith("sqlite:"):
            with contextlib.closing(sqlite3.connect(f"file:{self.store[7:]}?mode=ro", uri=True)) as connection:
                wrong += [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
        return wrong

    def complaints(self) -> dict[str, int]:
        """Return what all instances logged as warnings and errors."""
        total: Counter[str] = Counter()
        for instance in self.instances:
            total.update(instance.events())
        return total


def session(user: str) -> str:
    """Return a user's session id."""
    return f"session-of-{user}-0123456789abcdef"


@asynccontextmanager
async def running(
    instances: int,
    *,
    store: str = "sqlite",
    seed: int = 1,
    lease: float = 0.0,
    traced: bool = False,
    patience: float = 10.0,
    between: Any = None,
    redis_timeout: float = 0.25,
    how: tuple[str, ...] = (),
    more: str = "",
) -> AsyncIterator[Fleet]:
    """Run a fleet. `between(port)` may return a port before Redis; `redis_timeout`: for which it is waited for.

    `how` and `more` as for `Instance`.
    """
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    far, redis, fleet = Far(seed), None, None
    try:
        await far.start()
        url = f"sqlite:{folder}/store.db"
        if store == "redis":
            redis = Redis(folder)
            await redis.ready()
            port = await between(redis.port) if between else redis.port
            url = f"redis://{HOST}:{port}/0?timeout={redis_timeout}"
        text = {
            "store": url, "key": generate_key(), "issuer": far.issuer, "upstream": far.upstream, "token": ADMIN_TOKEN,
            "secret": SECRET, "patience": patience,
        }  # fmt: skip
        made = [Instance(folder, number, text, lease, traced, how, more) for number in range(instances)]
        fleet = Fleet(folder, far, made, url)
        for instance in made:
            instance.launch()
        for instance in made:
            await instance.ready()
        yield fleet
        if canary.FOLDER:
            given = {"store key": text["key"], "client secret": SECRET, "admin token": ADMIN_TOKEN}
            await canary.look(fleet, given, session)
    finally:
        for instance in fleet.instances if fleet else []:
            if hasattr(instance, "process"):
                instance.kill()
        await far.stop()
        if redis:
            redis.stop()
        if not os.environ.get("SOAK_KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
