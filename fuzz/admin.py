"""The admin listener's own HTTP server under mutated requests: the real `service.Connection` before the real desk.

What it asks: nothing escapes, nothing hangs, h11 reads the same requests, nobody acts without the admin token, and no
secret comes back. The limits are small, so that they are reached.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from fuzz.case import Case, collected
from fuzz.clockwork import Clockwork
from fuzz.mutate import LINES, TARGETS, Kind, caller_steps, numbered, seeds
from fuzz.reading import Request, StrictError, h11_requests, read_responses
from fuzz.transport import EOF, FakeTransport
from sidecar.admin import AdminState, Readiness, make_application
from sidecar.admin.guard import is_own_host
from sidecar.model import Secret
from sidecar.settings import Limits
from sidecar.wire import service

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sidecar.errors import Refusal
    from sidecar.wire.service import Asked, Told

TOKEN = b"canary-admin"
LONG = 1000.0  # seconds: longer than any deadline
LIMITS = Limits(headers=2048, target=512, head_timeout=3.0, idle_timeout=3.0)
BODY_LIMIT = 300
_CANARIES = (b"canary",)
_LINES = [
    b"Authorization: Bearer " + TOKEN, b"Authorization: Bearer canary", b"authorization:bearer " + TOKEN, b"Authorization: Basic " + TOKEN,
    b"Authorization: " + TOKEN, b"Host: localhost", b"Host: [::1]:8081", b"Host: evil.example", b"Host: localhost.evil.example", b"Host:",
    b"Origin: null", b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Site: none", b"Content-Type: application/json", b"Content-Type: text/plain",
]  # fmt: skip
_TARGETS = [
    b"/v1/sessions", b"/v1/sessions/", b"/v1/sessions/alice", b"/v1/sessions/a/b", b"/v1/sessions/%2e%2e", b"/v1/sessions/%00", b"/v1/sessions?limit=1",
    b"/v1/sessions?limit=999999999999", b"/v1/sessions?limit=-1&limit=1", b"/v1/explain", b"/quit", b"/metrics", b"/readyz", b"//v1/sessions", b"/healthz/../v1/sessions",
    b"/V1/sessions", b"http://localhost/v1/sessions", b"http://evil.example/v1/sessions", b"http://localhost@evil.example/quit", b"http:///quit", b"ftp://localhost/quit",
    b"http://localhost?x", b"localhost:8081", b"http://localhost/v1/sessions/x://y",
]  # fmt: skip
KIND = Kind(False, seeds("admin"), [*_LINES * 3, *LINES], [*_TARGETS * 2, *TARGETS])


def make(seed: int, number: int) -> Case:
    """Return case `number` of `seed`: what one client of the admin listener does."""
    return Case(caller_steps(numbered(seed, number), KIND))


class _Info(NamedTuple):
    handle: str
    provider: str


class _Sessions:
    """Sessions that take note of every call: it needs the admin token."""

    def __init__(self, acted: list[str]) -> None:
        self._acted = acted

    async def put(self, _session_id: str, provider: str, _response: Mapping[str, Any]) -> Any:
        await asyncio.sleep(0)
        self._acted.append("put")
        return _Info("h1", provider)

    async def info(self, session_id: str) -> Any | None:
        self._acted.append("info")
        return _Info("h1", "idp") if session_id == "alice" else None

    async def all(self, limit: int) -> Sequence[Any]:
        self._acted.append("all")
        return [_Info("h1", "idp")] * min(limit, 3)

    async def delete(self, session_id: str) -> bool:
        self._acted.append("delete")
        return session_id == "alice"


class _Office:
    """The real desk, and what it was asked: each request with what was done for it."""

    body_limit = BODY_LIMIT

    def __init__(self) -> None:
        self.asked: list[tuple[Asked, list[str]]] = []
        self.refused = 0
        self._acted: list[str] = []
        self._desk = make_application(
            AdminState(
                _Sessions(self._acted),
                lambda: Readiness(True, {}),
                lambda: b"sidecar_up 1\n",
                _status,
                self._explain,
                ("idp",),
                Secret(TOKEN.decode()),
                lambda: self._acted.append("quit"),
            )
        )

    def fresh(self) -> None:
        self.asked = []
        self.refused = 0

    async def answer(self, request: Asked) -> Told:
        self._acted.clear()
        told = await self._desk.answer(request)
        self.asked.append((request, list(self._acted)))
        return told

    def refuse(self, refusal: Refusal) -> Told:
        self.refused += 1
        return self._desk.refuse(refusal)

    def _explain(self, *_question: object) -> dict[str, Any]:
        self._acted.append("explain")
        return {"route": "r"}


def _status() -> Any:
    return {"started_at": 0.0, "configuration": "x", "configuration_error": "", "store": "memory:", "sessions": None,
            "routes": [], "providers": [], "refusals": []}  # fmt: skip


class Door:
    """One admin listener after the other, on a loop without sockets."""

    def __init__(self) -> None:
        self.tally: Counter[str] = Counter()
        self._loop = Clockwork()
        asyncio._set_running_loop(self._loop)
        self._office = _Office()
        self._connections: set[service.Connection] = set()
        service._LIMITS = LIMITS

    def close(self) -> None:
        """Leave the loop."""
        asyncio._set_running_loop(None)

    def problems(self, case: Case) -> list[str]:
        """Play a case; return what is wrong with the outcome."""
        return collected(self._problems(case))

    def _problems(self, case: Case) -> Iterator[str]:
        self._office.fresh()
        self._loop.faults.clear()
        connection = service.Connection(self._office, self._connections)
        transport = FakeTransport(self._loop, connection, {"sockname": ("127.0.0.1", 8081)}, lambda _data: None)
        self._play(case, transport)
        yield from self._end(transport, connection)
        self.tally["requests answered"] += len(self._office.asked)
        self.tally["refused"] += self._office.refused
        self.tally["acted upon"] += sum(bool(acted) for _, acted in self._office.asked)
        yield from self._read(case)
        yield from self._told(case, transport)
        if self._loop.faults:
            yield f"the loop was told of {self._loop.faults}"

    def _play(self, case: Case, transport: FakeTransport) -> None:
        for step in case.caller:
            match step:
                case bytes():
                    transport.deliver(step)
                case "eof":
                    transport.deliver(EOF)
                case "reset":
                    transport.deliver(ConnectionResetError())
                case "wait":
                    self._loop.advance(LONG)
                case "slow":
                    transport.slow = True
                case "read":
                    transport.read_on()
                case _:
                    self._loop.run()
        self._loop.run()
        if transport.slow:
            transport.read_on()
        self._loop.run()

    def _end(self, transport: FakeTransport, connection: service.Connection) -> Iterator[str]:
        """Wait longer than any deadline: nothing may be left."""
        for _ in range(4):
            self._loop.advance(LONG)
        if not transport.lost:
            yield "the connection hangs: no deadline ends it"
            transport.break_off()
            self._loop.run()
        left = [timer for _, _, timer in self._loop._timers if not timer.cancelled()]
        if self._connections or connection.task or left:
            yield f"left behind: {len(self._connections)} connections, task {connection.task}, timers {left}"
        if len(connection._body) > BODY_LIMIT + max(map(len, KIND.seeds)) * 8 or len(connection._buffer) > 1 << 16:
            yield "more was kept than is allowed"
        self._connections.clear()

    def _read(self, case: Case) -> Iterator[str]:
        """Compare each request that was answered with what h11 reads in the client's own bytes."""
        heard = h11_requests(case.sent)
        for number, (asked, acted) in enumerate(self._office.asked):
            if number >= len(heard.requests):
                yield f"h11 does not read the request that was answered as number {number}: {heard} · {asked}"
                return
            theirs = heard.requests[number]
            target = asked.path + ("?" + asked.query if asked.query else "")
            same = theirs.target.decode("latin-1").rstrip("?").endswith(target.lstrip("/").rstrip("?"))
            if not same or (theirs.method, theirs.body) != (asked.method.encode(), asked.body):
                yield f"h11 reads request number {number} differently: {theirs} · {asked}"
            if acted and not _may_act(theirs):
                yield f"{acted} was done for who may not: {theirs}"

    def _told(self, case: Case, transport: FakeTransport) -> Iterator[str]:
        written = bytes(transport.written)
        if any(canary in written for canary in _CANARIES):
            yield f"a secret was written: {written!r}"
        methods = [asked.method.encode() for asked, _ in self._office.asked]
        try:
            responses, _ = read_responses(written, methods)
        except StrictError as error:
            yield f"the client gets what is no response: {error}"
            return
        most = len(methods) + self._office.refused
        if len(responses) > most or self._office.refused > 1:
            yield f"{len(responses)} responses to {len(methods)} requests, {self._office.refused} refused"
        went = any(step in ("eof", "reset", "slow", "wait") for step in case.caller)
        if not went and (len(responses) < most or not all(response.whole for response in responses)):
            yield f"{responses} to {len(methods)} requests and {self._office.refused} refused: broken off"


def _may_act(request: Request) -> bool:
    """Say whether a request shows the admin token, comes from this machine's own name, and from no web page."""
    tokens, hosts = request.all(b"authorization"), request.all(b"host")
    scheme, _, token = tokens[0].partition(b" ") if len(tokens) == 1 else (b"", b"", b"")
    absolute = request.target.partition(b"://")[2] if not request.target.startswith(b"/") else b""
    host = absolute.partition(b"/")[0] or (hosts[0] if len(hosts) == 1 else b"")
    foreign = request.all(b"origin") or any(
        site not in (b"", b"none", b"same-origin") for site in request.all(b"sec-fetch-site")
    )
    return (
        scheme.lower() == b"bearer" and token.strip() == TOKEN and is_own_host(host.decode("latin-1")) and not foreign
    )
