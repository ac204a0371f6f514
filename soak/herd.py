"""A provider that is back after ten minutes, with ten thousand sessions waiting: one sidecar's broker, a real server.

The clock of tokens leaps, that of the limits does not. All sessions are signed in within a moment and used.
Then the provider answers 503 for ten minutes of the tokens' time, in which half of the tokens expire; then it is back,
and a caller comes for every session at once: half of them have to wait. Shown: how many requests the provider got in
any second, before and after, and whether callers were served before what is renewed ahead of need.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson

from sidecar.credentials.broker import Broker
from sidecar.credentials.vault import Vault, generate_key
from sidecar.errors import Refusal
from sidecar.model import Secret, TokenKey, TokenSpec
from sidecar.provider import AuthorizationServer
from sidecar.settings import ProviderLimit, ProviderSettings, ProviderTimeout
from sidecar.stores.memory import MemoryStore
from soak.command import main, options, progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator

LIFE = 3600.0


class Provider(asyncio.Protocol):
    """A token endpoint: 503 while it is down, else a new token and a rotated refresh token. Notes when it was asked."""

    down = False
    asked: list[tuple[float, bool]] = []  # noqa: RUF012 - one for all connections
    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, mark, body = self.buffer.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if not mark or len(body) < length:
            return
        self.buffer = b""
        Provider.asked.append((time.monotonic(), Provider.down))
        if Provider.down:
            self.transport.write(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
            return
        Provider.served += 1
        token = {"access_token": f"a{Provider.served}", "token_type": "Bearer", "expires_in": LIFE}
        told = orjson.dumps({**token, "refresh_token": f"r{Provider.served}"})
        lines = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        asyncio.get_running_loop().call_later(0.05, self.transport.write, lines % len(told) + told)


def most_in_a_second(times: list[float]) -> int:
    """Return the most requests that fell into any second."""
    window: deque[float] = deque()
    most = 0
    for at in times:
        window.append(at)
        while window[0] <= at - 1:
            window.popleft()
        most = max(most, len(window))
    return most


class Herd:
    """The broker, its clock and its sessions."""

    def __init__(self, port: int, arguments: argparse.Namespace) -> None:
        self.leaps = 1_800_000_000.0 - time.monotonic()
        self.random = random.Random(arguments.seed)
        limit = ProviderLimit(per_second=arguments.per_second)
        settings = ProviderSettings(
            "idp", "herd", token_endpoint=f"http://127.0.0.1:{port}/token", client_secret=Secret("s"), limit=limit,
            timeout=ProviderTimeout(total=float(arguments.patience)),
        )  # fmt: skip
        self.server = AuthorizationServer(settings, self.clock, self.random.random)
        self.spec = TokenSpec("idp", settings.token_endpoint or "", "herd", "session", scopes=frozenset({"a"}))
        specs, servers = {self.spec.fingerprint: self.spec}, {"idp": self.server}
        store = MemoryStore(self.clock)
        vault = Vault([Secret(generate_key())])
        self.broker = Broker(specs, servers, store, vault, clock=self.clock)
        self.keys = [TokenKey(self.spec.fingerprint, f"session-{number}") for number in range(arguments.sessions)]
        self.sent: list[float] = []
        self._watch_gate()
        self.answers: Counter[str] = Counter()
        self.waits: list[float] = []

    def _watch_gate(self) -> None:
        """Note when requests are let go: when they arrive depends on the machine as well."""
        gate = self.server._gate  # noqa: SLF001 - looked at, not changed
        turn = gate.turn

        @asynccontextmanager
        async def watched(urgency: Any = None) -> AsyncIterator[None]:
            async with turn(urgency):
                self.sent.append(time.monotonic())
                yield

        gate.turn = watched  # type: ignore[method-assign]

    def clock(self) -> float:
        """Return the tokens' time: the real one, with leaps."""
        return time.monotonic() + self.leaps

    async def sign_in(self) -> None:
        """Sign all in; half of them with half of their tokens' life over."""
        for number, key in enumerate(self.keys):
            response = {"access_token": f"s{number}", "token_type": "Bearer", "refresh_token": f"t{number}"}
            await self.broker.sessions.put(key.identity, "idp", {**response, "expires_in": LIFE})
            if number == len(self.keys) // 2:
                self.leaps += LIFE / 2
        for key in self.keys:
            await self.broker.obtain(key)

    async def ask(self, key: TokenKey) -> None:
        """Be a caller that comes again for as long as it is told to."""
        began = time.monotonic()
        while True:
            credential = self.broker.ready(key, self.clock())
            try:
                credential = credential or await self.broker.obtain(key)
            except Refusal as refusal:
                self.answers[refusal.name] += 1
                await asyncio.sleep(min(refusal.retry_after or 1.0, 5.0) * self.random.uniform(0.5, 1.5))
                continue
            self.answers["token"] += 1
            self.waits.append(time.monotonic() - began)
            return


async def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run it once."""
    listening = await asyncio.get_running_loop().create_server(Provider, "127.0.0.1", 0, backlog=1024)
    herd = Herd(listening.sockets[0].getsockname()[1], arguments)
    await herd.sign_in()
    progress(f"{len(herd.keys)} sessions signed in; the provider goes down")
    Provider.down = True
    herd.leaps += LIFE / 2 - 300
    for _ in range(arguments.outage):  # ten minutes of the tokens' time
        herd.leaps += 600 / arguments.outage
        await asyncio.sleep(1)
    asked_down = len(Provider.asked)
    Provider.down = False
    cpu, back = time.process_time(), time.monotonic()
    await asyncio.gather(*(herd.ask(key) for key in herd.keys))
    served_callers, took = Provider.served, time.monotonic() - back
    cpu = time.process_time() - cpu
    times = [at for at, _ in Provider.asked]
    waited = sorted(wait for wait in herd.waits if wait > 0.5)  # those that had to
    peak = most_in_a_second(herd.sent)
    await herd.broker.close(5)
    await herd.server.close()
    listening.close()
    expired = len(herd.keys) // 2
    return {
        "sessions": len(herd.keys), "per_second": arguments.per_second, "asked_while_down": asked_down,
        "peak_sent_in_any_second": peak,
        "peak_arrived_in_any_second": most_in_a_second(times), "answers": dict(herd.answers), "waited": len(waited),
        "longest_wait": round(waited[-1], 1) if waited else 0, "seconds_until_all_served": round(took, 1),
        "cpu_seconds": round(cpu, 1), "token_requests_until_then": served_callers,
        "failures": {
            "above_the_limit": peak > arguments.per_second * 1.2,  # measured a moment after
            "callers_without_token": herd.answers["token"] != len(herd.keys),
            "not_after_callers": served_callers > expired * 1.1 + 50,
        },
    }  # fmt: skip


if __name__ == "__main__":
    main(
        run,
        options(
            "A provider that comes back to ten thousand waiting sessions.",
            sessions=(10_000, "how many"),
            outage=(60, "real seconds that stand for ten minutes"),
            per_second=(100, "limit of the provider"),
            patience=(10, "seconds that a caller waits for its turn"),
        ),
    )
