"""Callers: connections on asyncio protocols that send one small request and read one small answer at a time."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from soak.fleet import HOST, session

if TYPE_CHECKING:
    from soak.fleet import Instance

CONNECT = 10.0


class Answer(NamedTuple):
    """What a caller got. `status` 0: the connection broke. `code` is of a refusal, `text` the upstream's words."""

    status: int
    text: str = ""
    code: str = ""

    @property
    def subject(self) -> str:
        """Whose token the upstream saw."""
        return self.text.split(" ")[0] if self.status == 200 else ""


class Caller(asyncio.Protocol):
    """One keep-alive connection to an instance, opened again when it has broken."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._data = b""

    async def ask(self, user: str, within: float = 60.0) -> Answer:
        """Send a request for a user and return the answer."""
        if self._transport is None:
            try:
                async with asyncio.timeout(CONNECT):
                    await asyncio.get_running_loop().create_connection(lambda: self, HOST, self.instance.port)
            except (OSError, TimeoutError):
                return Answer(0, code="connect")
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request(user))
        try:
            async with asyncio.timeout(within):
                return await self._waiting
        except TimeoutError:
            self.close()
            return Answer(0, code="no answer")

    def close(self) -> None:
        """Leave at once."""
        if self._transport is not None:
            self._transport.abort()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._data = b""

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._settle(Answer(0, code="broken"))

    def data_received(self, data: bytes) -> None:
        self._data += data
        found = answer(self._data)
        if found is None:
            return
        closing = b"connection: close" in self._data.lower()
        one, self._data = found
        if closing:
            self.close()
        self._settle(one)

    def _settle(self, answer: Answer) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


class Batch(asyncio.Protocol):
    """One connection on which many requests are sent at once; their answers come in the same order."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.answers: list[Answer] = []
        self._transport: asyncio.Transport | None = None
        self._wanted = 0
        self._over: asyncio.Future[None] | None = None
        self._data = b""

    async def ask(self, users: list[str]) -> list[Answer]:
        """Send a request for each user; return the answers, fewer where the connection ended before.

        Who is cancelled finds those that have come in `answers`.
        """
        self.answers = []
        if self._transport is None:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, HOST, self.instance.port)
            except OSError:
                return self.answers
        assert self._transport is not None
        self._wanted, self._over = len(users), asyncio.get_running_loop().create_future()
        self._transport.write(b"".join(map(request, users)))
        await self._over
        return self.answers

    def close(self) -> None:
        """Leave at once."""
        if self._transport is not None:
            self._transport.abort()
        self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._data = b""

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._end()

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (found := answer(self._data)) is not None:
            one, self._data = found
            self.answers.append(one)
        if len(self.answers) >= self._wanted:
            self._end()

    def _end(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)


@cache
def request(user: str) -> bytes:
    """Return a request for a user, who is named in the target too, for the upstream to compare."""
    return f"GET /{user} HTTP/1.1\r\nHost: profiles.internal\r\nX-Session-Id: {session(user)}\r\n\r\n".encode()


def answer(data: bytes) -> tuple[Answer, bytes] | None:
    """Return the first answer in `data` and what follows it, None where it is not whole."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    lower = head.lower()
    length = int(lower.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or b"0")
    if len(body) < length:
        return None
    code = body.partition(b'"code":"')[2].partition(b'"')[0].decode() if b"problem+json" in lower else ""
    return Answer(int(head[9:12]), body[:length].decode("latin-1"), code), body[length:]


class Tally:
    """Answers by kind, for one line of figures."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.wrong: list[str] = []
        self.worst = 0.0
        self.again = 0

    def note(self, user: str, answer: Answer, seconds: float) -> None:
        """Count an answer; a 200 for another subject than the session's is wrong."""
        kind = answer.code or str(answer.status)
        if answer.status == 200 and answer.subject != user:
            self.wrong.append(f"{user} got {answer.text}")
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        self.worst = max(self.worst, seconds)

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items())) or "nothing"


async def one(caller: Caller, user: str, tally: Tally, again: bool = False) -> Answer:
    """Ask once and count it. `again`: on a connection that was closed while it was idle, as every client does."""
    began = time.monotonic()
    answer = await caller.ask(user)
    if again and answer.code == "broken":
        tally.again += 1
        answer = await caller.ask(user)
    tally.note(user, answer, time.monotonic() - began)
    return answer
