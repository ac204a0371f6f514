"""Token requests to one provider that behaves, misbehaves, or is not there. IDP cases."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import subprocess
import sys
import time
import tracemalloc
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from sidecar.model import ClientRefused, Form, Granted, GrantRefused, Invalid, Outcome, Secret, Token, Unavailable
from sidecar.oauth.metadata import MetadataError
from sidecar.provider import AuthorizationServer, ProviderState
from sidecar.provider_http import NOT_SENT
from sidecar.settings import ProviderLimit, ProviderSettings, ProviderTimeout
from tests.support.authorization_server import LEGACY, POST, PUBLIC
from tests.support.scripted_server import Received, ScriptedServer, always, response, token, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.authorization_server import AuthorizationServer as RealServer

FORM: Form = [
    ("grant_type", "client_credentials"),
    ("scope", "a"),
    ("resource", "https://r1"),
    ("resource", "https://r2"),
]
ASKED = frozenset("a")
AT_ONCE = ProviderLimit().at_once
CANARY = "canary-s3cret"


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return self.now


def settings(url: str, *, total: float = 5, **more: object) -> ProviderSettings:
    """Register a client with the token endpoint by hand."""
    known = {"token_endpoint": f"{url}/token", "client_secret": Secret(CANARY), "timeout": ProviderTimeout(1, total)}
    return ProviderSettings("idp", "app", **{**known, **more})  # type: ignore[arg-type]


@asynccontextmanager
async def client(
    registration: ProviderSettings, clock: Callable[[], float] = time.time
) -> AsyncIterator[AuthorizationServer]:
    """Run the code under test, without jitter."""
    server = AuthorizationServer(registration, clock, lambda: 0)
    try:
        yield server
    finally:
        await server.close()


async def ask(server: AuthorizationServer, form: Form = FORM) -> Outcome:
    """Ask for a token, in bounded time."""
    async with asyncio.timeout(10):
        return await server.token(form, asked=ASKED)


async def test_a_token_request_is_exactly_these_bytes() -> None:
    """The server sees the form in its order, repeated parameters too, and no header that nobody asked for."""
    async with ScriptedServer(always(token())) as scripted:
        registration = settings(scripted.url, token_endpoint=f"{scripted.url}/%7etoken?tenant=%61")
        async with client(registration) as idp:
            outcome = await ask(idp)
    (request,) = scripted.requests
    assert isinstance(outcome, Granted)
    assert request.line == "POST /%7etoken?tenant=%61 HTTP/1.1"
    assert request.form == FORM
    assert dict(request.headers) == {
        "Host": f"127.0.0.1:{scripted.port}",
        "Accept": "application/json",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": "sidecar",
        "Content-Type": "application/x-www-form-urlencoded",
        "Authorization": "Basic YXBwOmNhbmFyeS1zM2NyZXQ=",
        "Content-Length": str(len(request.body)),
    }


async def test_a_life_counts_from_the_sending_of_the_request() -> None:
    """A slow answer does not lengthen the token's life."""
    clock = Clock()

    async def slow(_request: Received, writer: asyncio.StreamWriter) -> None:
        clock.now += 7
        writer.write(token(expires_in=60))

    async with ScriptedServer(slow) as scripted, client(settings(scripted.url), clock) as idp:
        outcome = await ask(idp)
    assert outcome == Granted(Token(Secret("at"), clock.now - 7, clock.now + 53))


@pytest.mark.parametrize("registered", [LEGACY, POST, PUBLIC], ids=lambda registered: registered.auth)
async def test_a_real_server_grants_renews_and_revokes(
    authorization_server: RealServer, registered: type[LEGACY]
) -> None:
    """Discovery, client authentication with awkward characters, rotation and revocation against a strict server."""
    registration = ProviderSettings(
        "idp",
        registered.client_id,
        issuer=authorization_server.issuer,
        client_secret=Secret(registered.secret) if registered.secret else None,
        client_auth=registered.auth,
    )
    first = authorization_server.issue("alice", "a b", registered.client_id)["refresh_token"]
    async with client(registration) as idp:
        renewed = await ask(idp, [("grant_type", "refresh_token"), ("refresh_token", first), ("scope", "a")])
        assert isinstance(renewed, Granted)
        assert renewed.refresh_token not in (None, Secret(first))
        assert await idp.revoke(renewed.refresh_token or Secret(""), "refresh_token")
        dead = [("grant_type", "refresh_token"), ("refresh_token", (renewed.refresh_token or Secret("")).reveal())]
        assert await ask(idp, dead) == GrantRefused()
        assert idp.state() == ProviderState("idp", reachable=True, last_error="", retry_at=None, metadata_loaded=True)


# -- nobody there, or too slow -------------------------------------------------------------------------------------


async def test_a_refused_connection_is_unavailable_then_fails_fast(unused_tcp_port: int) -> None:
    """[IDP-01] [IDP-02] The first caller learns it from the network, the next ones at once, with the time to wait."""
    clock = Clock()
    async with client(settings(f"http://127.0.0.1:{unused_tcp_port}"), clock) as idp:
        assert idp.state() == ProviderState("idp", None, "", None, metadata_loaded=True)
        assert await ask(idp) == Unavailable("connect", 1.0)
        started = time.perf_counter()
        again = [await ask(idp) for _ in range(100)]
        assert (time.perf_counter() - started) / 100 < 0.005
        assert again == [Unavailable("backing_off", 1.0)] * 100
        assert idp.state() == ProviderState(
            "idp", reachable=False, last_error="connect", retry_at=clock.now + 1, metadata_loaded=True
        )
        assert (idp.requests["unavailable"], idp.requests["backed_off"]) == (1, 100)


async def test_who_would_be_turned_away_is_told_so_without_asking(unused_tcp_port: int) -> None:
    """[IDP-18] While the provider is held back everybody, and with too many in line whoever has just come."""
    clock = Clock()
    async with client(settings(f"http://127.0.0.1:{unused_tcp_port}"), clock) as idp:
        assert idp.turned_away(urgent=True) is None
        await ask(idp)
        assert idp.turned_away(urgent=False) == Unavailable("backing_off", 1.0)
        assert idp.requests["backed_off"] == 1
        clock.now += 2
        assert idp.turned_away(urgent=True) is None
        idp._gate.expected_wait = lambda: 60.0  # type: ignore[method-assign]
        assert idp.turned_away(urgent=True) == Unavailable("busy", 60.0)
        assert idp.turned_away(urgent=False) is None


async def test_a_name_that_does_not_resolve_is_unavailable() -> None:
    """[IDP-01] The reason is a class, not the resolver's words."""
    async with client(settings("http://no-such-host.invalid")) as idp:
        outcome = await ask(idp)
    assert isinstance(outcome, Unavailable)
    assert outcome.reason in {"dns", "timeout"}  # a resolver may think longer than the connect timeout


async def silence(_request: Received, _writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.sleep(30)


async def drip(_request: Received, writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, each well within any read timeout."""
    for byte in token():
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def drip_body(_request: Received, writer: asyncio.StreamWriter) -> None:
    """Send the head at once and the body a byte at a time."""
    head, _, body = token().partition(b"\r\n\r\n")
    writer.write(head + b"\r\n\r\n")
    for byte in body:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.05)


async def endless_1xx(_request: Received, writer: asyncio.StreamWriter) -> None:
    """Send interim responses for ever."""
    while True:
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "script",
    [silence, drip, drip_body, endless_1xx],
    ids=["[IDP-03] silence", "[IDP-04] byte by byte", "[IDP-04] body byte by byte", "[IDP-04] 1xx for ever"],
)
async def test_a_slow_provider_is_unavailable_within_the_total_timeout(script: Callable[..., Awaitable[None]]) -> None:
    """One deadline covers connection, head and body, whatever trickles in."""
    async with ScriptedServer(script) as scripted, client(settings(scripted.url, total=0.4)) as idp:
        started = time.perf_counter()
        outcome = await ask(idp)
    assert outcome == Unavailable("timeout", pytest.approx(1, abs=0.1))
    assert 0.3 < time.perf_counter() - started < 2


async def test_a_full_accept_queue_is_unavailable_within_the_connect_timeout() -> None:
    """[IDP-03] A provider that takes no connection is given up long before the total timeout."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        timeout = ProviderTimeout(connect=0.2, total=5)
        async with client(settings(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=timeout)) as idp:
            started = time.perf_counter()
            assert await ask(idp) == Unavailable("timeout", pytest.approx(1, abs=0.1))
            assert time.perf_counter() - started < 3


# -- answers that are wrong ----------------------------------------------------------------------------------------

GRANT = b'{"access_token":"at","token_type":"Bearer","expires_in":3600}'
ANSWERS: dict[str, tuple[bytes, Outcome]] = {
    "[IDP-05] 500": (response(b"oops", 500), Unavailable("http_500", 1.0)),
    "[IDP-05] 502 HTML": (response(b"<html>", 502), Unavailable("http_502", 1.0)),
    "[IDP-05] 503 and Retry-After": (response(b"", 503, "Retry-After: 40"), Unavailable("http_503", 40.0)),
    "[IDP-05] 503 and invalid_grant": (response(b'{"error":"invalid_grant"}', 503), Unavailable("http_503", 1.0)),
    "[IDP-06] 429, seconds": (response(b"", 429, "Retry-After: 30"), Unavailable("http_429", 30.0)),
    "[IDP-06] 429, a date": (
        response(b"", 429, "Retry-After: Fri, 15 Jan 2027 08:02:00 GMT"),
        Unavailable("http_429", 120.0),
    ),
    "[IDP-06] 429, a year": (response(b"", 429, "Retry-After: 31536000"), Unavailable("http_429", 3600.0)),
    "[IDP-07] empty 200": (response(), Invalid("empty")),
    "[IDP-08] HTML": (response(b"<!doctype html>"), Invalid("not_json")),
    "[IDP-08] truncated JSON": (response(GRANT[:-9]), Invalid("not_json")),
    "[IDP-08] an array": (response(b"[" + GRANT + b"]"), Invalid("not_an_object")),
    "[IDP-08] a duplicate name": (response(GRANT[:-1] + b',"access_token":"x"}'), Invalid("duplicate_member")),
    "[IDP-08] deep nesting": (response(b'{"a":' + b"[" * 300_000), Invalid("not_json")),
    "[IDP-08] broken off": (response(GRANT)[:-9] + b"CLOSE", Unavailable("broken_off", 1.0)),
    "[IDP-08] no answer at all": (b"CLOSE", Unavailable("broken_off", 1.0)),
    "[IDP-08] half a head": (b"HTTP/1.1 200 OK\r\nContent-TyCLOSE", Unavailable("broken_off", 1.0)),
    "[IDP-08] not HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\nCLOSE", Invalid("not_http")),
    "[IDP-08] a head without end": (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"CLOSE", Invalid("not_http")),
    "[IDP-08] not gzip": (response(b"plain", 200, "Content-Encoding: gzip"), Unavailable("broken_off", 1.0)),
    "[IDP-08] broken chunks": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nCLOSE",
        Invalid("not_http"),
    ),
    "[IDP-09] a line feed in the token": (token(access_token="at\nX: 1"), Invalid("access_token")),
    "[IDP-10] DPoP": (token(token_type="DPoP"), Invalid("token_type")),
    "[IDP-11] expires_in 0, rotated": (
        token(expires_in=0, refresh_token="rt2"),
        Invalid("expired_on_arrival", Secret("rt2")),
    ),
    "[IDP-13] invalid_client": (response(b'{"error":"invalid_client"}', 401), ClientRefused("invalid_client")),
    "[IDP-13] 401 with a challenge": (
        response(b'{"error":"invalid_client"}', 401, 'WWW-Authenticate: Basic realm="x"'),
        ClientRefused("invalid_client"),
    ),
    "[IDP-14] error in 200": (response(b'{"error":"bad_verification_code"}'), ClientRefused("bad_verification_code")),
    "invalid_grant": (response(b'{"error":"invalid_grant"}', 400), GrantRefused()),
}


def script_of(answer: bytes) -> Callable[[Received, asyncio.StreamWriter], Awaitable[None]]:
    """Give an answer; the mark CLOSE at its end closes the connection."""

    async def script(_request: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(answer.removesuffix(b"CLOSE"))
        if answer.endswith(b"CLOSE"):
            writer.close()

    return script


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.values(), ids=ANSWERS)
async def test_a_wrong_answer_has_its_outcome_and_is_not_asked_for_again(answer: bytes, expected: Outcome) -> None:
    """Every fault has a name, the request is sent once, and the next caller does not send another."""
    async with ScriptedServer(script_of(answer)) as scripted, client(settings(scripted.url), Clock()) as idp:
        outcome = await ask(idp)
        assert outcome == expected
        assert type(outcome) is type(expected)
        again = await ask(idp)
        assert isinstance(again, type(expected) if isinstance(expected, ClientRefused | GrantRefused) else Unavailable)
    assert len(scripted.requests) == 1
    assert idp.requests["backed_off"] == 1


async def test_an_answer_that_broke_off_on_a_kept_connection_is_not_sent_again() -> None:
    """The server may have spent the refresh token: only the caller can know what to do."""
    clock = Clock()
    async with ScriptedServer(always(token())) as scripted, client(settings(scripted.url), clock) as idp:
        assert isinstance(await ask(idp), Granted)
        scripted.script = script_of(b"CLOSE")
        assert await ask(idp) == Unavailable("broken_off", 1.0)
    assert (len(scripted.requests), scripted.connections) == (2, 1)


@pytest.mark.parametrize(
    ("line", "connections"),
    [("Connection: keep-alive, Close", 2), ("Connection: enclosed", 1), ("Connection: keep-alive", 1)],
)
async def test_connection_ends_where_its_server_names_close_and_by_no_other_word(line: str, connections: int) -> None:
    """Connection is a list of tokens (RFC 9110 section 7.6.1): `enclosed` is another one."""
    answer = token().replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % line.encode(), 1)
    async with ScriptedServer(always(answer)) as idp, client(settings(idp.url)) as server:
        for _ in range(2):
            assert isinstance(await ask(server), Granted)
        assert idp.connections == connections


async def flood(_request: Received, writer: asyncio.StreamWriter) -> None:
    """Send 100 MB, as far as it is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(1600):
        writer.write(b"x" * 62500)
        await writer.drain()


BOMB = response(gzip.compress(b'{"a":"' + b"x" * 50_000_000 + b'"}'), 200, "Content-Encoding: gzip")


@pytest.mark.parametrize("script", [flood, always(BOMB)], ids=["[IDP-08] 100 MB", "[IDP-08] gzip bomb"])
async def test_a_huge_body_is_refused_within_bounded_memory(script: Callable[..., Awaitable[None]]) -> None:
    """No more than a megabyte is kept, whether it came as such or unfolded."""
    async with ScriptedServer(script) as scripted, client(settings(scripted.url)) as idp:
        tracemalloc.start()
        try:
            outcome = await ask(idp)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert outcome == Invalid("too_large")
    assert peak < 12_000_000


async def test_a_compressed_answer_is_read() -> None:
    """Content codings are for the window, not for the judge."""
    answer = response(gzip.compress(GRANT), 200, "Content-Encoding: gzip")
    async with ScriptedServer(always(answer)) as scripted, client(settings(scripted.url)) as idp:
        assert isinstance(await ask(idp), Granted)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """[IDP-12] The client's secret goes nowhere but to the token endpoint."""
    async with ScriptedServer(always(token())) as elsewhere:
        answer = response(b"", status, f"Location: {elsewhere.url}/token")
        async with ScriptedServer(always(answer)) as scripted, client(settings(scripted.url)) as idp:
            assert await ask(idp) == Invalid("redirect")
    assert elsewhere.connections == 0


# -- back-off ------------------------------------------------------------------------------------------------------


async def test_a_client_that_is_refused_does_not_storm() -> None:
    """[IDP-13] A wrong secret costs a few requests an hour, not one per caller."""
    clock = Clock()
    answer = response(b'{"error":"invalid_client"}', 401)
    async with ScriptedServer(always(answer)) as scripted, client(settings(scripted.url), clock) as idp:
        for _ in range(600):
            clock.now += 1
            assert await ask(idp) == ClientRefused("invalid_client")
    assert 10 <= len(scripted.requests) <= 20
    assert idp.state().last_error == "client_refused"


async def test_what_ails_a_provider_is_logged_once_and_its_recovery_too() -> None:
    """[IDP-13] The log names provider and cause; an error in the provider's own words is not repeated."""
    clock, answers = Clock(), [response(b'{"error":"invalid_client"}', 401)]

    async def now(request: Received, writer: asyncio.StreamWriter) -> None:
        await always(answers[0])(request, writer)

    async with ScriptedServer(now) as scripted, client(settings(scripted.url), clock) as idp:
        with capture_logs() as lines:
            for _ in range(3):
                clock.now += 3600
                await ask(idp)
            answers[0] = token()
            clock.now += 3600
            await ask(idp)
            answers[0] = response(b'{"error":"s3cr3t"}', 400)
            await ask(idp)
    assert [(line["event"], line["provider"], line.get("error")) for line in lines] == [
        ("provider_failing", "idp", "invalid_client"),
        ("provider_recovered", "idp", None),
        ("provider_failing", "idp", "another error"),
    ]


async def test_an_answer_that_expires_at_once_makes_no_hot_loop() -> None:
    """[IDP-11] expires_in 0 for ten minutes and a caller every second: a handful of requests."""
    clock = Clock()
    async with ScriptedServer(always(token(expires_in=0))) as scripted, client(settings(scripted.url), clock) as idp:
        for _ in range(600):
            clock.now += 1
            await ask(idp)
    assert len(scripted.requests) <= 20


async def test_one_success_ends_the_back_off() -> None:
    """[IDP-05] After the hold one probe goes out; its success lets everyone through again."""
    clock = Clock()
    async with ScriptedServer(always(response(b"", 503))) as scripted, client(settings(scripted.url), clock) as idp:
        await ask(idp)
        scripted.script = always(token())
        clock.now += 0.9
        assert isinstance(await ask(idp), Unavailable)
        clock.now += 0.2
        assert isinstance(await ask(idp), Granted)
        assert isinstance(await ask(idp), Granted)
        assert idp.state() == ProviderState("idp", reachable=True, last_error="", retry_at=None, metadata_loaded=True)


async def test_a_request_that_is_not_wanted_any_more_is_not_sent_and_no_failure() -> None:
    """[RF-04] It is asked when the connection stands, which then serves the next request."""
    async with ScriptedServer(always(token())) as scripted, client(settings(scripted.url)) as idp:
        answers = iter([False, True])
        for expected in (NOT_SENT, None):
            outcome = await idp.token(FORM, asked=ASKED, wanted=lambda: next(answers))
            assert outcome is expected or isinstance(outcome, Granted)
    assert len(scripted.requests) == 1
    assert idp.state().retry_at is None


async def test_a_provider_that_comes_back_is_not_fallen_upon() -> None:
    """[IDP-18] Of many waiting sessions one probes; then no more than the cap are under way at once."""
    clock, under_way, most = Clock(), itertools.count(), 0
    busy = 0

    async def counting(_request: Received, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, most
        busy, most = busy + 1, max(most, busy + 1)
        await asyncio.sleep(0.02)
        busy -= 1
        writer.write(token())

    def session() -> Form:
        return [("grant_type", "refresh_token"), ("refresh_token", f"rt-{next(under_way)}")]

    async with ScriptedServer(script_of(b"CLOSE")) as scripted, client(settings(scripted.url), clock) as idp:
        assert isinstance(await ask(idp, session()), Unavailable)
        scripted.script = counting
        clock.now += 600
        returned = await asyncio.gather(*(ask(idp, session()) for _ in range(300)))
        assert [type(outcome) for outcome in returned].count(Granted) == 1
        assert most == 1
        served = await asyncio.gather(*(ask(idp, session()) for _ in range(300)))
        assert all(isinstance(outcome, Granted) for outcome in served)
    assert 2 <= most <= AT_ONCE


async def test_requests_behind_a_failure_do_not_each_find_out() -> None:
    """[IDP-02] Those that wait for a slot while the provider falls are told at once when it has fallen."""
    async with ScriptedServer(silence) as scripted, client(settings(scripted.url, total=0.5)) as idp:
        started = time.perf_counter()
        outcomes = await asyncio.gather(*(ask(idp) for _ in range(200)))
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
    assert len(scripted.requests) <= AT_ONCE
    assert time.perf_counter() - started < 3
    assert idp.state().last_error == "timeout"


async def test_provider_is_not_blamed_for_the_time_that_a_request_waits_in_line() -> None:
    """[IDP-18] The last to get a turn have as long for their answer as the first; the rest hear that it is busy."""

    async def steady(_request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(token())

    limit = ProviderLimit(at_once=1)
    async with ScriptedServer(steady) as scripted, client(settings(scripted.url, total=1.0, limit=limit)) as idp:
        outcomes = await asyncio.gather(*(ask(idp) for _ in range(20)))
        assert {type(outcome) for outcome in outcomes} == {Granted, Unavailable}
        assert {outcome for outcome in outcomes if isinstance(outcome, Unavailable)} == {Unavailable("busy")}
        assert idp.state() == ProviderState("idp", reachable=True, last_error="", retry_at=None, metadata_loaded=True)
        assert isinstance(await ask(idp), Granted)


async def test_nobody_waits_for_a_slot_to_hear_a_known_refusal() -> None:
    """[IDP-02] [IDP-13] With every slot taken by hanging requests, what is known already is answered at once."""
    refused = response(b'{"error":"invalid_scope"}', 400)
    async with ScriptedServer(always(refused)) as scripted, client(settings(scripted.url), Clock()) as idp:
        assert await ask(idp) == ClientRefused("invalid_scope")
        scripted.script = silence
        other = [("grant_type", "client_credentials"), ("scope", "b")]
        waiting = [asyncio.create_task(ask(idp, other)) for _ in range(AT_ONCE)]
        await until(lambda: len(scripted.requests) == AT_ONCE + 1)
        started = time.perf_counter()
        assert await ask(idp) == ClientRefused("invalid_scope")
        assert time.perf_counter() - started < 0.5
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


async def test_a_slow_provider_leaves_another_alone() -> None:
    """[IDP-17] Each provider has its own slots: one that hangs with all of them taken does not slow the next."""
    async with (
        ScriptedServer(silence) as slow,
        ScriptedServer(always(token())) as fast,
        client(settings(slow.url)) as hanging,
        client(settings(fast.url)) as quick,
    ):
        waiting = [asyncio.create_task(ask(hanging)) for _ in range(AT_ONCE + 10)]
        await asyncio.sleep(0.1)
        started = time.perf_counter()
        assert isinstance(await ask(quick), Granted)
        assert time.perf_counter() - started < 0.5
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


# -- cancellation, closing, revocation -----------------------------------------------------------------------------


async def test_a_cancelled_request_passes_the_cancellation_on_and_frees_its_slot() -> None:
    """A leaving caller is not an outcome, and costs nobody else a slot."""
    async with ScriptedServer(silence) as scripted, client(settings(scripted.url)) as idp:
        tasks = [asyncio.create_task(ask(idp)) for _ in range(AT_ONCE)]
        await until(lambda: len(scripted.requests) == AT_ONCE)
        for task in tasks:
            task.cancel()
        gone = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in gone)
        scripted.script = always(token())
        assert isinstance(await ask(idp), Granted)
    assert idp.requests == {**dict.fromkeys(idp.requests, 0), "granted": 1}


async def test_closing_ends_what_is_under_way() -> None:
    """A request in flight ends as unavailable at once, and none starts after."""
    async with ScriptedServer(silence) as scripted, client(settings(scripted.url), Clock()) as idp:
        task = asyncio.create_task(ask(idp))
        await until(lambda: len(scripted.requests) == 1)
        await idp.close()
        outcome = await asyncio.wait_for(task, 1)
        assert isinstance(outcome, Unavailable)
        assert outcome.reason == "broken_off"
        other = [("grant_type", "client_credentials"), ("scope", "b")]
        assert isinstance(await ask(idp, other), Unavailable)
    assert len(scripted.requests) == 1


REVOKED = {
    "200": (response(), True),
    "200 with a page": (response(b"<html>"), True),
    "204": (response(b"", 204), False),
    "302": (response(b"", 302, "Location: /"), False),
    "400": (response(b'{"error":"unsupported_token_type"}', 400), False),
    "503": (response(b"", 503), False),
    "no answer": (b"CLOSE", False),
}


@pytest.mark.parametrize(("answer", "confirmed"), REVOKED.values(), ids=REVOKED)
async def test_a_revocation_is_confirmed_by_200_alone(answer: bytes, confirmed: bool) -> None:
    """RFC 7009 section 2.2: the status says it; the client authenticates as at the token endpoint."""
    async with ScriptedServer(script_of(answer)) as scripted:
        registration = settings(scripted.url, revocation_endpoint=f"{scripted.url}/revoke")
        async with client(registration) as idp:
            assert await idp.revoke(Secret("rt"), "refresh_token") is confirmed
    (request,) = scripted.requests
    assert request.path == "/revoke"
    assert request.form == [("token", "rt"), ("token_type_hint", "refresh_token")]
    assert dict(request.headers)["Authorization"].startswith("Basic ")


async def test_a_revocation_without_endpoint_or_answer_is_not_confirmed() -> None:
    """What cannot be revoked is said so, in bounded time."""
    async with ScriptedServer(silence) as scripted:
        async with client(settings(scripted.url)) as idp:
            assert not await idp.revoke(Secret("rt"), "refresh_token")
        assert not scripted.requests
        slow = settings(scripted.url, revocation_endpoint=f"{scripted.url}/revoke", total=0.2)
        async with client(slow) as idp:
            assert not await asyncio.wait_for(idp.revoke(Secret("rt"), "refresh_token"), 1)


async def test_a_revocation_at_a_provider_that_is_away_fails_fast() -> None:
    """A sign-out does not wait for a provider that is known to be away."""
    async with ScriptedServer(always(response(b"", 503))) as scripted:
        registration = settings(scripted.url, revocation_endpoint=f"{scripted.url}/revoke")
        async with client(registration, Clock()) as idp:
            await ask(idp)
            assert not await idp.revoke(Secret("rt"), "refresh_token")
    assert [request.path for request in scripted.requests] == ["/token"]


# -- nothing from the environment, nothing to the log --------------------------------------------------------------


async def test_the_environment_and_netrc_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[CF-10] [CF-12] No proxy variable diverts a token request, no .netrc adds a password to it."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login x password y\n")
    async with ScriptedServer(always(token())) as proxy, ScriptedServer(always(token())) as scripted:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with client(settings(scripted.url, client_auth="none")) as idp:
            assert isinstance(await ask(idp), Granted)
    assert proxy.connections == 0
    assert "Authorization" not in dict(scripted.requests[0].headers)


async def test_a_cookie_is_not_kept() -> None:
    """A provider cannot tie one user's token request to another's."""
    answer = token().replace(b"\r\n\r\n", b"\r\nSet-Cookie: sid=1; Path=/\r\n\r\n")
    async with ScriptedServer(always(answer)) as scripted, client(settings(scripted.url)) as idp:
        await ask(idp)
        await ask(idp)
    assert [name for request in scripted.requests for name, _ in request.headers if name == "Cookie"] == []


@pytest.mark.parametrize("member", ["token_endpoint", "revocation_endpoint", "issuer"])
def test_userinfo_in_a_url_is_refused_without_being_quoted(member: str) -> None:
    """[LK-07] A password in a URL would be sent and logged by others: refused when the provider is made."""
    urls = {"token_endpoint": None, "issuer": "https://idp.example", member: "https://user:canary@idp.example/x"}
    with pytest.raises(MetadataError) as raised:
        AuthorizationServer(ProviderSettings("idp", "app", **urls), time.time, lambda: 0)
    assert "canary" not in f"{raised.value!r}"


async def test_no_secret_is_in_log_state_or_outcome(caplog: pytest.LogCaptureFixture, unused_tcp_port: int) -> None:
    """[LK-07] Whatever goes wrong, neither the client's secret nor a token is shown."""
    caplog.set_level(0)
    shown: list[object] = []
    form = [("grant_type", "refresh_token"), ("refresh_token", "canary-rt")]
    echo = b'{"error":"invalid_request","error_description":"canary-s3cret canary-rt"}'
    for answer in (token(access_token="canary-at\n"), response(echo, 400), b"canary-at not http\r\n\r\nCLOSE", BOMB):
        async with ScriptedServer(script_of(answer)) as scripted, client(settings(scripted.url)) as idp:
            shown += [await ask(idp, form), idp.state(), idp]
    async with client(settings(f"http://127.0.0.1:{unused_tcp_port}")) as idp:
        shown += [await ask(idp, form), idp.state(), idp.requests]
    assert "canary" not in f"{shown!r} {caplog.text}"


def test_the_module_is_imported_without_aiohttp_and_authlib() -> None:
    """A command that asks no provider does not pay for them."""
    code = "import sys, sidecar.provider; print([m for m in ('aiohttp', 'authlib', 'ssl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert "aiohttp" not in done.stdout
    assert "authlib" not in done.stdout


# -- late answers ------------------------------------------------------------------------------------------------------


async def test_an_answer_after_the_timeout_is_given_to_who_waits_for_it() -> None:
    """[RF-08] It may hold the only refresh token that is left; and the provider answers, so nothing is held back."""
    total = 0.3

    async def slow(_request: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3 * total)
        writer.write(token(refresh_token="next"))

    late: list[asyncio.Task[Outcome]] = []
    async with ScriptedServer(slow) as scripted, client(settings(scripted.url, total=total)) as idp:
        began = time.monotonic()
        assert await idp.token(FORM, asked=ASKED, late=late.append) == Unavailable("timeout", pytest.approx(1, abs=0.1))
        assert time.monotonic() - began < 2 * total
        assert (await ask(idp)).reason == "backing_off"
        outcome = await asyncio.wait_for(late[0], 5)
        assert isinstance(outcome, Granted)
        assert outcome.refresh_token == Secret("next")
        scripted.script = always(token())
        assert isinstance(await ask(idp), Granted)


async def test_an_answer_that_never_comes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """[IDP-03] The connection is closed in the end."""
    monkeypatch.setattr("sidecar.provider.LATE", 1)

    async def silent(_request: Received, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)

    late: list[asyncio.Task[Outcome]] = []
    async with ScriptedServer(silent) as scripted, client(settings(scripted.url, total=0.2)) as idp:
        await idp.token(FORM, asked=ASKED, late=late.append)
        assert await asyncio.wait_for(late[0], 5) == Unavailable("timeout")
