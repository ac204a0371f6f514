"""`python -m sidecar run` as a process of its own, and what it works with on a thread of this one.

For tests where signals, kills, clients that block, or the bytes on the disk count.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from sidecar.demo.api import Api
from tests.support.authorization_server import CLIENTS, LEGACY, RESOURCE, AuthorizationServer
from tests.support.program import ADMIN_TOKEN, ENVIRON, guarded
from tests.support.recording_upstream import RecordingUpstream
from tests.support.same_sidecar import SAME_SIDECAR

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds for a start or an end, on a busy machine


class Backdrop:
    """An authorization server, an API that verifies tokens and a recording upstream, on an event loop of their own."""

    def __init__(self) -> None:
        self.server = AuthorizationServer(CLIENTS)
        self.upstream = RecordingUpstream()
        self.api: Api
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_error: object) -> None:
        self.run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], within: float = 10.0) -> T:
        """Run a coroutine on the loop of these servers."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(within)

    def do(self, work: Callable[[], T]) -> T:
        """Call a function on that loop."""

        async def call() -> T:
            return work()

        return self.run(call())

    @property
    def upstream_url(self) -> str:
        """Where the recording upstream listens."""
        return f"http://127.0.0.1:{self.upstream.port}"

    async def _start(self) -> None:
        await self.server.start()
        self.api = Api(self.server.issuer, RESOURCE)
        await self.api.start()
        await self.upstream.start()
        self.upstream.default = guarded(self.server)

    async def _stop(self) -> None:
        await self.api.stop()
        await self.upstream.stop()
        await self.server.stop()
        await asyncio.sleep(0.02)


class Answer(NamedTuple):
    """A response as http.client read it."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Process:
    """One sidecar. Use as a context manager, which kills what is left of it."""

    own_group = False  # whether it gets a process group of its own, for signals to all of it
    descriptors: int | None = None  # the soft limit that it starts with

    def __init__(
        self, folder: Path, text: str, *, environ: Mapping[str, str] = ENVIRON, level: str = "info", wait: bool = True
    ) -> None:
        self.folder = folder
        self.file = folder / "sidecar.yaml"
        self.file.write_text(text, encoding="utf-8")
        self.log = folder / "log"
        self.out = folder / "out"
        self._environ = {
            "PATH": os.environ["PATH"], **SAME_SIDECAR, "PYTHONDONTWRITEBYTECODE": "", **environ
        }  # fmt: skip
        self._level = level
        self._wait = wait
        self.process: subprocess.Popen[bytes]
        self.listeners: list[str] = []
        self.admin = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE)

    def start(self) -> None:
        """Start it, again after an end, and wait until it says so."""
        command = [sys.executable, "-m", "sidecar", "run", "-c", str(self.file), "--log-level", self._level]
        if self.descriptors is not None:
            command = ["/bin/sh", "-c", f'ulimit -S -n {self.descriptors}; exec "$@"', "sh", *command]
        with self.log.open("wb") as log, self.out.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=log, env=self._environ, cwd=self.folder, start_new_session=self.own_group
            )
        if self._wait:
            told = self.told("started")
            self.listeners, self.admin = told["listeners"], told["admin"]

    def told(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait for the log line of `event` (the `count`th) and return it."""
        end = time.monotonic() + DEADLINE
        while True:
            found = [line for line in self.lines() if line.get("event") == event]
            if len(found) >= count:
                return found[count - 1]
            assert self.process.poll() is None, f"the sidecar ended: {self.log.read_text()}"
            assert time.monotonic() < end, f"no {event} in: {self.log.read_text()}"
            time.sleep(0.01)

    def lines(self) -> list[dict[str, Any]]:
        """Return the log lines so far, whole ones."""
        whole = self.log.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(DEADLINE)

    def terminate(self) -> int:
        """Ask it to end, and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        """Kill it without notice."""
        self.process.kill()
        self.process.wait(DEADLINE)

    @property
    def proxy(self) -> str:
        """HOST:PORT of the first listener."""
        return self.listeners[0]

    def ask(
        self,
        target: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: bytes | None = None,
        at: str = "",
    ) -> Answer:
        """Send one request to the proxy, or to another listener `at`."""
        connection = http.client.HTTPConnection(at or self.proxy, timeout=DEADLINE)
        try:
            connection.request(method, target, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def manage(self, method: str, path: str, document: object = None, token: str = ADMIN_TOKEN) -> Answer:
        """Send one request to the admin listener."""
        headers = {"Authorization": f"Bearer {token}", "Host": "127.0.0.1"}
        body = None
        if document is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(document).encode()
        return self.ask(path, headers, method=method, body=body, at=self.admin)

    def sign_in(self, backdrop: Backdrop, user: str, session: str, scope: str = "profiles.read") -> dict[str, Any]:
        """Sign a user in and hand the tokens over as `session`; return them."""
        tokens = backdrop.do(lambda: backdrop.server.issue(user, scope, LEGACY.client_id))
        answer = self.manage("PUT", f"/v1/sessions/{session}", {**tokens, "provider": "idp"})
        assert answer.status == 200, answer
        return tokens

    def refuses_connections(self) -> bool:
        """Say whether nobody listens at the proxy's address any more."""
        host, _, port = self.proxy.rpartition(":")
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), 2):
            return False
        return True


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
