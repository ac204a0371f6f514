"""The far side in a process of its own: the authorization server with rotation and no leeway, and the upstream.

Both in one process, so that order needs no clocks: the upstream knows of every token whose it is, of which rotation,
and whether its family lives. Commands come as lines of JSON on standard input, answers go to standard output.

`reuse` of refresh token n is told apart at once: where a token of the rotation that spent it has already been seen by
the upstream, the rotation was acknowledged and an acknowledged refresh token was lost; else nobody ever had its result.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from sidecar.demo.authorization_server import AuthorizationServer
from sidecar.demo.issuer.clients import Client
from sidecar.demo.issuer.faults import Faults
from sidecar.demo.issuer.ledger import Family, Ledger, RefreshToken
from soak.losses import Reuse

CLIENT = Client("legacy-app", "soak-client-secret")
SCOPE = "profiles.read"
KEEPS = bool(os.environ.get("CANARY"))  # whether every token is remembered, for a search
OVERTIME = 5.0
"""Seconds after the expiry for which the upstream takes a token, more than most would: the machine may be that slow."""


@dataclass(slots=True)
class Latency(Faults):
    """Fault switches whose `slow` and `late` are upper bounds: each request draws its own."""

    draw: random.Random = field(default_factory=random.Random)
    taken: int = 0

    def take(self, path: str) -> Faults:
        self.taken += 1
        taken = Faults.take(self, path)
        return replace(taken, slow=self.draw.uniform(0, taken.slow), late=self.draw.uniform(0, taken.late))


class Register(Ledger):
    """The ledger, counting rotations."""

    def __init__(self) -> None:
        super().__init__()
        self.rotations: dict[int, int] = {}  # by family
        self.rotation_of_refresh: dict[str, int] = {}
        self.rotation_of_access: dict[str, int] = {}
        self.seen: dict[int, int] = {}  # the newest rotation that the upstream saw, by family
        self.reuses: list[Reuse] = []
        self.rotated_at: dict[str, float] = {}  # by hash of the access token; monotonic, which processes share
        self.bought: dict[tuple[int, int], str] = {}  # hash of the access token by family and rotation

    def add_refresh(self, family: Family) -> str:
        text = super().add_refresh(family)
        rotation = self.rotations[id(family)] = self.rotations.get(id(family), -1) + 1
        self.rotation_of_refresh[text] = rotation
        access = next(reversed(self.access))  # issued a line before
        self.rotation_of_access[access] = rotation
        self.rotated_at[digest(access)] = time.monotonic()
        self.bought[id(family), rotation] = digest(access)
        return text

    def find_refresh(self, text: str, client_id: str, now: float, leeway: float) -> RefreshToken:
        found = self.refresh.get(text)
        forgiven = found is not None and found.spent_at is not None and now < found.spent_at + leeway
        if found is not None and found.spent_at is not None and not found.family.dead and not forgiven:
            self._note_reuse(text, found.family)
        return super().find_refresh(text, client_id, now, leeway)

    def _note_reuse(self, text: str, family: Family) -> None:
        rotation = self.rotation_of_refresh[text]
        bought = self.bought[id(family), rotation + 1]
        acknowledged = self.seen.get(id(family), -1) > rotation
        rotated, again = self.rotated_at[bought], time.monotonic()
        self.reuses.append(Reuse(family.grant.subject, rotation, digest(text), bought, rotated, again, acknowledged))


def digest(token: str) -> str:
    """Return a name for a token that does not give it away."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


class FarSide:
    """The two servers and their books."""

    def __init__(self, seed: int) -> None:
        self.server = AuthorizationServer([CLIENT])
        self.register = Register()
        self.server.state.ledger = self.register
        self.server.state.faults = Latency(draw=random.Random(seed))
        self.uses: Counter[tuple[str, str]] = Counter()  # (expected subject, what was wrong)
        self.last_use: dict[str, float] = {}  # by subject; monotonic
        self.watched: dict[str, list[float]] = defaultdict(list)
        self.strict = False
        self.cleared = 0  # requests in earlier books
        self.forgotten: list[str] = []
        self.subjects: set[str] = set()
        self.port = 0

    @property
    def under_way(self) -> int:
        faults = self.server.state.faults
        return faults.taken - len(self.server.requests) - self.cleared if isinstance(faults, Latency) else 0

    async def start(self) -> dict[str, Any]:
        await self.server.start()
        loop = asyncio.get_running_loop()
        listening = await loop.create_server(lambda: Upstream(self), "127.0.0.1", 0, backlog=4096)
        self.port = listening.sockets[0].getsockname()[1]
        return {"issuer": self.server.issuer, "upstream": f"http://127.0.0.1:{self.port}"}

    def judge(self, token: str, expected: str) -> tuple[str, str]:
        """Return whose token it is and what is wrong with it: "", other, expired, dead, unknown, none."""
        found = self.register.access.get(token)
        if found is None:
            return "", "unknown" if token else "none"
        subject = str(found.claims["sub"])
        self.last_use[subject] = time.monotonic()
        if found.family is not None:
            family = id(found.family)
            self.register.seen[family] = max(
                self.register.seen.get(family, -1), self.register.rotation_of_access[token]
            )
        if subject != expected:
            return subject, "other"
        if found.revoked or (found.family and found.family.dead):
            return subject, "dead"
        if self.server.state.clock() >= found.expires_at + OVERTIME:
            return subject, "expired"
        return subject, ""

    # -- commands -----------------------------------------------------------------------------------------------

    def command(self, name: str, arguments: dict[str, Any]) -> Any:
        return getattr(self, "do_" + name)(**arguments)

    def do_issue(self, users: list[str]) -> list[dict[str, Any]]:
        self.subjects.update(users if KEEPS else ())
        return [self.server.issue(user, SCOPE, CLIENT.client_id) for user in users]

    def do_set(self, life: float | None = None, strict: bool | None = None, leeway: float = 0.0, **faults: Any) -> None:
        self.server.policy.leeway = leeway
        if life is not None:
            self.server.policy.access_life = life
        if strict is not None:
            self.strict = strict
        self.server.faults.change(**faults)

    def do_books(self) -> dict[str, Any]:
        """What was asked and seen since the last time."""
        requests = [record for record in self.server.requests if record.endpoint == "/token"]
        by_user = Counter(record.subject for record in requests if record.outcome == "ok")
        arrivals = [record.time for record in requests]
        books = {
            "token_requests": len(requests),
            "outcomes": Counter(record.outcome for record in requests),
            "by_user": by_user,
            "last_arrival": max(arrivals, default=0.0),
            "revocations": sum(record.endpoint == "/revoke" for record in self.server.requests),
            "wrong": self._wrong(),
            "uses": sum(self.uses.values()),
            "reuses": [reuse._asdict() for reuse in self.register.reuses],
        }
        self.cleared += len(self.server.requests)
        self.server.requests.clear()
        self.uses.clear()
        self.register.reuses.clear()
        return books

    def _wrong(self) -> Counter[str]:
        wrong: Counter[str] = Counter()
        for (_, fault), count in self.uses.items():
            wrong.update({fault: count} if fault else {})
        return wrong

    def do_dead(self) -> list[str]:
        families = {id(token.family): token.family for token in self.register.refresh.values()}
        return sorted({family.grant.subject for family in families.values() if family.dead})

    def do_revoke(self, users: list[str]) -> int:
        """Make the access tokens of some users worthless; return how many there were."""
        return sum(map(self.server.revoke, users))

    def do_forget(self) -> None:
        """Let go of what is over: of tokens that were revoked, spent or expired long ago, or whose family is dead."""
        now, book = self.server.state.clock(), self.register
        if KEEPS:
            self.forgotten += [*book.access, *book.refresh]
        for text, found in list(book.access.items()):
            if found.revoked or now >= found.expires_at or (found.family and found.family.dead):
                del book.access[text]
                book.rotated_at.pop(digest(text), None)
                book.rotation_of_access.pop(text, None)
        for text, token in list(book.refresh.items()):
            if token.family.dead or token.spent_at is not None:
                del book.refresh[text]
                book.rotation_of_refresh.pop(text, None)
        self.last_use.clear()

    def do_secrets(self) -> dict[str, list[str]]:
        """Return every token that was issued, and whose they were."""
        book = self.register
        return {"tokens": [*self.forgotten, *book.access, *book.refresh], "subjects": sorted(self.subjects)}

    def do_under_way(self) -> int:
        """Return how many token requests are being answered."""
        return self.under_way

    def do_rotated(self) -> dict[str, float]:
        return self.register.rotated_at

    def do_last_use(self) -> dict[str, float]:
        return self.last_use


class Upstream(asyncio.Protocol):
    """Answers each request with the subject of its token. Requests are small and come whole or in few pieces."""

    def __init__(self, far: FarSide) -> None:
        self._far = far
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head, self._data = self._data[:end], self._data[end + 4 :]
            self._answer(head)

    def _answer(self, head: bytes) -> None:
        expected = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        _, found, rest = head.partition(b"\r\nAuthorization: Bearer ")
        token = rest.partition(b"\r\n")[0].decode() if found else ""
        subject, fault = self._far.judge(token, expected)
        self._far.uses[expected, fault] += 1
        body = f"{subject} {fault}".encode()
        if self._far.strict and fault in {"dead", "expired", "unknown"}:
            start = b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer error="invalid_token"\r\n'
        else:
            start = b"HTTP/1.1 200 OK\r\n"
        self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (start, len(body), body))


async def serve(seed: int) -> None:
    """Serve until standard input ends."""
    far = FarSide(seed)
    print(json.dumps(await far.start()), flush=True)
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        name, arguments = json.loads(line)
        print(json.dumps(far.command(name, arguments)), flush=True)
    await far.server.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends us by closing our input
    asyncio.run(serve(int(sys.argv[1])))
