"""Every refusal of the table, provoked for real: what the caller gets, and what becomes of its connection."""

from __future__ import annotations

import asyncio
import re
import socket
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from structlog.testing import capture_logs

from sidecar.admin.problems import OWN
from sidecar.errors import PUBLIC_CODE, REFUSALS
from sidecar.stores import sqlite_file
from tests.support.program import BOTH, Caller, head, whole
from tests.support.recording_upstream import Fin, Wait, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.program import Reply, Whole

ROUTES = (
    BOTH
    + """
  - {name: small, match: {host: small.internal}, upstream: "UPSTREAM", as: app, allow: [billing]}
  - {name: dead, match: {host: dead.internal}, upstream: "http://127.0.0.1:1", as: none}
  - {name: metadata, match: {host: metadata.internal}, upstream: "http://169.254.169.254", as: none}
  - {name: slow, match: {host: slow.internal}, upstream: "UPSTREAM", as: none, timeout: {response: 200ms}}
"""
)
MORE = """callers:
  session: [{header: X-Session-Id}]
  apps: {billing: {header: X-Api-Key, key: billing-key}, reports: {header: X-Api-Key, key: reports-key}}
limits: {head_timeout: 300ms, idle_timeout: 500ms, target: 1KiB, headers: 4KiB, header_count: 20}
"""
IP_LOCAL_PORT_RANGE = 51  # Linux 6.3; the socket module does not name it
KEY, OTHER_KEY = ("X-Api-Key", "billing-key"), ("X-Api-Key", "reports-key")
NOT_PROVOKED = {"too_large"}  # 413 waits for a limit on bodies
STATS, PROFILES = "http://stats.internal/x", "http://profiles.internal/x"
MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}


class Case(NamedTuple):
    """One way to a refusal: a row, the bytes that lead to it, and whether the connection stays usable."""

    row: str
    request: bytes
    usable: bool
    headers: dict[str, str]
    before: Callable[[Whole], Any] | None = None


def case(
    row: str,
    target: str,
    *headers: tuple[str, str],
    method: str = "GET",
    usable: bool = True,
    key: tuple[str, str] | None = KEY,
    before: Callable[[Whole], Any] | None = None,
    **expected: str,
) -> Case:
    """Return a case; `expected` are headers of the answer."""
    lines = [*([key] if key else []), *headers]
    told = {name.replace("_", "-"): value for name, value in expected.items()}
    return Case(row, head(method, target, lines), usable, told, before)


def fault(**switches: object) -> Callable[[Whole], Any]:
    """Set the provider's fault switches."""
    return lambda run: run.server.faults.change(**switches)


def upstream(*steps: Any) -> Callable[[Whole], Any]:
    """Let the upstream answer this."""
    return lambda run: run.upstream.play(list(steps))


def fail_inside(run: Whole) -> None:
    """Break the program where nobody foresees it."""

    async def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    run.program.broker.obtain = broken


async def drain(run: Whole) -> None:
    """Let the broker refuse new work, as in the last moments of a process."""
    await run.program.broker.close(0.0)


CASES = {
    "bad_request: encoded slash [HD-23]": case("bad_request", "http://stats.internal/a%2fb"),
    "bad_request: dot segments": case("bad_request", "http://stats.internal/a/../b"),
    "bad_request: token in the query [HD-05]": case("bad_request", f"{STATS}?access_token=t"),
    "bad_request: two sessions [ID-06]": case(
        "bad_request", PROFILES, ("X-Session-Id", "a"), ("X-Session-Id", "b")
    ),
    "bad_request: userinfo [SS-04]": case("bad_request", "http://u:p@stats.internal/x", usable=False),
    "bad_request: no URL [SS-07]": case("bad_request", "ftp://stats.internal/x", usable=False),
    "bad_request: two framings [SM-01]": case(
        "bad_request", STATS, ("Content-Length", "3"), ("Transfer-Encoding", "chunked"), method="POST", usable=False
    ),
    "bad_request: Max-Forwards": case("bad_request", STATS, ("Max-Forwards", "many"), method="OPTIONS"),
    "caller_unknown: forward form": case(
        "caller_unknown", STATS, key=None, Proxy_Authenticate='Basic realm="sidecar"'
    ),
    "caller_unknown: wrong key": case(
        "caller_unknown", STATS, ("X-Api-Key", "wrong"), key=None, Proxy_Authenticate='Basic realm="sidecar"'
    ),
    "caller_unknown: base-URL form": case(
        "caller_unknown", "/x", ("Host", "stats.internal"), key=None, WWW_Authenticate='Sidecar realm="application"'
    ),
    "caller_unknown: CONNECT": case(
        "caller_unknown", "stats.internal:443", method="CONNECT", key=None, usable=False, Proxy_Authenticate='Basic realm="sidecar"'
    ),
    "login_required: no session": case("login_required", PROFILES, WWW_Authenticate='Sidecar realm="session"'),
    "login_required: unknown session": case(
        "login_required", PROFILES, ("X-Session-Id", "unknown"), WWW_Authenticate='Sidecar realm="session"'
    ),
    "no_route [SS-01]": case("no_route", "http://nowhere.internal/x"),
    "no_route: HEAD": case("no_route", "http://nowhere.internal/x", method="HEAD"),
    "no_route: OPTIONS *": case("no_route", "*", ("Host", "nowhere.internal"), method="OPTIONS"),
    "caller_not_allowed [ID-07]": case("caller_not_allowed", "http://small.internal/x", OTHER_KEY, key=None),
    "tunnel_refused [SM-28, SS-08]": case("tunnel_refused", "stats.internal:443", method="CONNECT", usable=False),
    "destination_refused": case("destination_refused", "http://metadata.internal/x"),
    "method_refused: TRACE [LK-05]": case("method_refused", STATS, method="TRACE"),
    "method_refused: Max-Forwards 0 [HD-11]": case("method_refused", STATS, ("Max-Forwards", "0"), method="OPTIONS"),
    "target_too_large [OV-01]": case("target_too_large", STATS + "x" * 1100, usable=False),
    "headers_too_large: bytes [OV-01]": case("headers_too_large", STATS, ("X", "x" * 5000), usable=False),
    "headers_too_large: lines [OV-01]": case("headers_too_large", STATS, *[("X", "x")] * 25, usable=False),
    "timeout: head [SL-01]": Case("timeout", b"GET http://stats.internal/x HTTP/1.1\r\nHost", False, {}),
    "timeout: body [SL-02]": case("timeout", STATS, ("Content-Length", "9"), method="POST", usable=False),
    "upstream_unreachable [UP-01]": case("upstream_unreachable", "http://dead.internal/x"),
    "upstream_invalid: no HTTP [UP-11]": case("upstream_invalid", STATS, before=upstream(b"SSH-2.0-x\r\n\r\n")),
    "upstream_invalid: closed [UP-03]": case("upstream_invalid", STATS, before=upstream(Fin)),
    "upstream_invalid: two framings [SM-19]": case(
        "upstream_invalid", STATS,
        before=upstream(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"),
    ),
    "upstream_timeout [UP-02]": case("upstream_timeout", "http://slow.internal/x", before=upstream(Wait(2.0))),
    "provider_refused [IDP-13]": case("provider_refused", STATS, before=fault(error="invalid_client")),
    "provider_invalid [IDP-08]": case("provider_invalid", STATS, before=fault(html=True)),
    "provider_unavailable [IDP-02]": case("provider_unavailable", STATS, before=fault(down=True)),
    "overloaded: the last moments [LC-01]": case("overloaded", STATS, before=drain),
    "internal [LK-06]": case("internal", STATS, before=fail_inside, usable=False),
}  # fmt: skip


def check(reply: Reply, row: str, headers: dict[str, str], *, bodiless: bool = False) -> None:
    """The answer is the row's: status, type, Proxy-Status, members; challenges and Retry-After where they are due."""
    expected = REFUSALS[row]
    status = 401 if "WWW-Authenticate" in headers else expected.status
    assert reply.status == status, reply
    assert reply.one("content-type") == "application/problem+json"
    assert reply.one("proxy-status") == f"sidecar; error={expected.proxy_error}"
    assert reply.one("cache-control") == "no-store"
    for name in ("WWW-Authenticate", "Proxy-Authenticate"):
        assert reply.one(name) == headers.get(name, "")
    assert bool(reply.one("retry-after")) == (status == 503)
    if status == 503:
        assert int(reply.one("retry-after")) >= 1
    if bodiless:
        assert reply.body == b""
        return
    document = reply.document
    assert set(document) == MEMBERS
    code = PUBLIC_CODE.get(row, row)
    assert (document["status"], document["code"], document["title"]) == (status, code, expected.title)
    assert document["type"].endswith(f":{code}")
    assert document["detail"]
    assert document["request_id"]
    for leak in (b"127.0.0.1", b"169.254", b"billing", b"Error", b"Traceback", b"X-Api-Key"):
        assert leak not in reply.body


@pytest.mark.parametrize("one", [pytest.param(one, id=name) for name, one in CASES.items()])
async def test_refusal_is_the_tables(one: Case, tmp_path: Path) -> None:
    """Its answer is a problem document of its row, nothing is left over, and the connection does what it says."""
    async with whole(tmp_path, ROUTES, MORE) as run:
        if one.before is not None:
            done = one.before(run)
            if asyncio.iscoroutine(done):
                await done
        caller = await run.caller()
        caller.writer.write(one.request)
        method = one.request.partition(b" ")[0].decode()
        reply = await caller.reply("GET" if method == "CONNECT" else method)
        check(reply, one.row, one.headers, bodiless=method == "HEAD")
        assert (reply.one("connection") == "close") == (not one.usable)
        await check_connection(run, caller, usable=one.usable)
        assert run.refused(PUBLIC_CODE.get(one.row, one.row)) >= 1


async def check_connection(run: Whole, caller: Caller, *, usable: bool) -> None:
    """A connection that stays serves the next request; one that goes ends soon, whatever is still sent on it."""
    if not usable:
        caller.writer.write(head("GET", "http://slow.internal/smuggled", [KEY]))
        assert await caller.ended()
        assert not any(b"smuggled" in stream for stream in run.upstream.streams())
        return
    again = await caller.ask("GET", "http://nowhere.internal/x", [KEY])
    assert again.code == "no_route"


@pytest.mark.parametrize("error", ["invalid_client", "invalid_grant", "invalid_scope"])
async def test_refusal_of_our_client_says_by_which_error(error: str, tmp_path: Path) -> None:
    """[IDP-13] What to mend differs; an app's token may be refused by invalid_grant as well, and no session ends."""
    async with whole(tmp_path) as run:
        run.server.faults.change(error=error)
        reply = await run.ask(STATS, [KEY])
        assert (reply.code, error in reply.document["detail"]) == ("provider_refused", True)


async def test_request_id_is_the_requests_own_or_a_new_one(tmp_path: Path) -> None:
    """A usable X-Request-Id comes back in the problem document; others are replaced."""
    async with whole(tmp_path) as run:
        for given, kept in (("id-1.2:3", True), ("a b", False), ('"><script>', False), ("x" * 200, False)):
            reply = await run.ask("http://nowhere.internal/", [("X-Request-Id", given)])
            assert (reply.document["request_id"] == given) == kept
            assert re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", reply.document["request_id"])


async def test_loop_through_the_sidecar_itself_ends_at_once(tmp_path: Path) -> None:
    """[HD-10, SS-02] By the address of its own listeners, and by a name that leads there: 508, no storm."""
    async with whole(tmp_path, more="unmatched: forward") as run:
        for port in (run.program.proxy_port, run.program.admin_port):
            for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"):
                reply = await run.ask(f"http://{host}:{port}/metrics")
                check(reply, "loop", {})
        assert run.program.wire.accepted == 8


async def test_own_listener_that_is_bound_by_its_name_is_known_by_its_address(tmp_path: Path) -> None:
    """[SS-02] It is a loop by number and name, and another machine's door at the same port is none."""
    more = 'unmatched: forward\nlisteners: [{bind: "localhost:0"}]\nadmin: {bind: "localhost:0", token: "${ADMIN_TOKEN}"}\n'
    async with whole(tmp_path, more=more) as run:
        for port in (run.program.proxy_port, run.program.admin_port):
            for host in ("127.0.0.1", "localhost"):
                check(await run.ask(f"http://{host}:{port}/metrics"), "loop", {})
            check(await run.ask(f"http://127.0.0.2:{port}/metrics"), "upstream_unreachable", {})


async def test_caller_with_the_port_number_of_an_upstream_connection_is_no_loop(tmp_path: Path) -> None:
    """[HD-10] The system gives one local port to two connections with different destinations: that caller is not us."""
    async with whole(tmp_path) as run:
        assert (await run.ask(STATS)).status == 200
        (port,) = {connection.transport.get_extra_info("peername")[1] for connection in run.upstream.connections}
        with socket.socket() as sock:
            try:
                sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port | port << 16))
            except OSError:
                pytest.skip("this system cannot be told which local port to take")
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", run.program.proxy_port))
            assert sock.getsockname()[1] == port
            caller = Caller(*await asyncio.open_connection(sock=sock))
            assert (await caller.ask("GET", STATS)).status == 200
            caller.close()


async def test_too_many_connections_are_refused_and_those_that_are_there_served(tmp_path: Path) -> None:
    """[OV-03] The connection past `limits.connections` is told so and closed; when one leaves, the next is served."""
    async with whole(tmp_path, more="limits: {connections: 2}") as run:
        first, second = await run.caller(), await run.caller()
        assert (await first.ask("GET", "http://nowhere.internal/")).status == 403
        assert (await second.ask("GET", "http://nowhere.internal/")).status == 403
        third = await run.caller()
        third.writer.write(head("GET", STATS))
        reply = await third.reply()
        check(reply, "overloaded", {})
        assert reply.one("connection") == "close"
        assert await third.ended()
        assert (await first.ask("GET", STATS)).status == 200
        second.close()
        third.close()
        await asyncio.sleep(0.05)
        assert (await run.ask(STATS)).status == 200


async def test_store_that_is_away_refuses_users_without_a_valid_token_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[RD-02, RD-03] Somebody else holds the database: valid tokens and the application's go on, the rest gets 503."""
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.2)
    store = f'store: {{url: "sqlite:{tmp_path}/sidecar.db"}}\n'
    async with whole(tmp_path, more=store) as run:
        await run.sign_in("alice", "a-session", expires_in=1)
        await run.sign_in("bob", "b-session")
        assert (await run.ask(PROFILES, session="b-session")).status == 200
        run.clock.ahead = 5.0
        run.forget()
        with closing(sqlite3.connect(tmp_path / "sidecar.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            reply = await run.ask(PROFILES, session="a-session")
            check(reply, "store_unavailable", {})
            assert run.upstream.streams() == []
            assert (await run.ask(PROFILES, session="b-session")).document["subject"] == "bob"
            assert (await run.ask(STATS)).document["subject"] == "legacy-app"
            put = await run.admin(
                "PUT", "/v1/sessions/c-session", run.server.issue("carol", "profiles.read", "legacy-app")
            )
            assert (put.status, put.code) == (503, "store_unavailable")
            other.execute("ROLLBACK")
        run.clock.ahead += 10.0
        assert (await run.ask(PROFILES, session="a-session")).document["subject"] == "alice"


async def test_upstream_that_breaks_off_after_its_head_breaks_the_answer_off(tmp_path: Path) -> None:
    """[UP-03] Too late for a refusal: the caller's connection is reset, so that it takes nothing for the whole."""
    async with whole(tmp_path) as run:
        for body in (b"Content-Length: 10\r\n\r\npart", b"Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n"):
            run.upstream.play([b"HTTP/1.1 200 OK\r\n" + body, Wait(0.05), Fin])
            caller = await run.caller()
            caller.writer.write(head("GET", STATS))
            with capture_logs() as lines, pytest.raises(ConnectionResetError):
                await caller.reader.read()
            told = [(line["code"], line["status"], line["log_level"]) for line in lines if line["event"] == "refused"]
            assert told == [("upstream_invalid", 200, "warning")]


@pytest.mark.parametrize("path", ["//admin/x", "/admin;v=1/x", "/;v=1/admin", "//admin;v=1"])
async def test_path_that_some_upstreams_take_for_another_route_is_refused(tmp_path: Path, path: str) -> None:
    """[SS-09] Who may not use /admin does not get there by another spelling of it, with the token of the rest."""
    below = '\n  - {name: below, match: {host: stats.internal, path: /admin}, upstream: "UPSTREAM", as: app, allow: [billing]}\n'
    async with whole(tmp_path, ROUTES + below, MORE) as run:
        assert (await run.ask("http://stats.internal/admin/x", [OTHER_KEY])).code == "caller_not_allowed"
        for key in (KEY, OTHER_KEY):
            assert (await run.ask(f"http://stats.internal{path}", [key])).code == "bad_request"
        assert not run.seen
        for same in ("/x//y", "/x;v=1", "//", "/admins;v=1", "/x?a=//admin;"):
            assert (await run.ask(f"http://stats.internal{same}", [OTHER_KEY])).status == 200
        assert [one.target.decode() for one in run.seen] == ["/x//y", "/x;v=1", "//", "/admins;v=1", "/x?a=//admin;"]


async def test_path_that_some_upstreams_take_for_a_route_is_not_forwarded_without_its_token(tmp_path: Path) -> None:
    """[SS-09] With `unmatched: forward` another spelling of a token route's path would go on, silently without a token."""
    routes = '\n  - {name: below, match: {host: 127.0.0.1, path: /admin}, upstream: "UPSTREAM", as: app}\n'
    async with whole(tmp_path, routes, "unmatched: forward") as run:
        run.upstream.default = lambda _seen: [response(b"ok")]
        host = f"127.0.0.1:{run.upstream.port}"
        for path in ("//admin/x", "/admin;v=1/x"):
            assert (await run.ask(f"http://{host}{path}")).code == "bad_request"
            question = {"method": "GET", "url": f"http://{host}{path}"}
            told = (await run.admin("POST", "/v1/explain", question)).document
            assert told["outcome"] == "refused: 400 bad_request"
        assert not run.seen
        assert (await run.ask(f"http://{host}//other;v=1")).status == 200
        assert run.tokens == [""]


async def test_private_address_that_tunnels_allow_by_its_number_is_meant(tmp_path: Path) -> None:
    """[SS-06] As on a route: `deny_private` looks at what names resolve to, not at addresses that the file spells out."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    more = f'destinations: {{deny_private: true}}\ntunnels: {{allow: ["127.0.0.1:{port}", "localhost:{port}"]}}\n'
    async with server, whole(tmp_path, more=more) as run:
        for host, status in (("127.0.0.1", b" 200 "), ("localhost", b" 403 ")):
            caller = await run.caller()
            caller.writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert status in await caller.reader.readline()


async def test_refusals_are_not_counted_as_answers_of_the_upstream(tmp_path: Path) -> None:
    """[LG-02] Each request is one or the other, whether it was refused before the upstream was asked or after."""
    async with whole(tmp_path, ROUTES, MORE) as run:
        for target in (PROFILES, "http://dead.internal/", "http://slow.internal/", STATS):
            run.upstream.play([Wait(0.4)]) if "slow" in target else None
            await run.ask(target, [KEY])
        page = (await run.admin("GET", "/metrics")).body.decode()
    told = {line.rpartition(" ")[0] for line in page.splitlines() if line.startswith("sidecar_requests_total{")}
    assert told == {'sidecar_requests_total{route="stats",status_class="2xx"}'}


async def test_idle_connections_of_many_pools_leave_descriptors_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[OV-03] Each way to an upstream has connections of its own: together no more than descriptors are not for callers."""
    monkeypatch.setattr("sidecar.wire.capacity.descriptors", lambda: 64)
    route = '\n  - {{match: {{host: r{n}.internal}}, upstream: "UPSTREAM", as: none, timeout: {{connect: {n}s}}}}'
    many = "".join(route.format(n=n) for n in range(1, 41)) + "\n"
    async with whole(tmp_path, many) as run:
        run.upstream.default = lambda _seen: [response(b"ok")]
        caller, most = await run.caller(), 0
        for n in range(1, 41):
            assert (await caller.ask("GET", f"http://r{n}.internal/")).status == 200
            most = max(most, run.program.wire.upstreams)
        assert 8 < most <= 16  # (64 - 32) / 2
        assert (await caller.ask("GET", "http://r40.internal/")).status == 200
        assert sum(len(connection.saw) > 0 for connection in run.upstream.connections) == 40


async def test_idle_connections_that_callers_have_for_themselves_leave_descriptors_for_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[OV-03] As many callers as there may be have authenticated connections: where more are needed some of these end."""
    monkeypatch.setattr("sidecar.wire.capacity.descriptors", lambda: 64)
    routes = "".join(
        f'\n  - {{match: {{host: r{n}.internal}}, upstream: "UPSTREAM", as: none, timeout: {{connect: {n}s}}}}'
        for n in (1, 2)
    )
    async with whole(tmp_path, routes + "\n") as run:
        run.upstream.default = lambda _seen: [response(b"ok")]
        callers = [await run.caller() for _ in range(16)]  # (64 - 32) / 2
        for caller in callers:
            answer = await caller.ask("GET", "http://r1.internal/", [("Authorization", "NTLM TlRMTVNTUAADAAAA")])
            assert answer.status == 200
        assert run.program.wire.upstreams == 16
        for caller in callers:
            assert (await caller.ask("GET", "http://r2.internal/")).status == 200
            assert run.program.wire.upstreams <= 16
        assert (await callers[0].ask("GET", "http://r1.internal/")).status == 200


# -- the documentation ---------------------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "refusals.md"
LINE = re.compile(r"\| `(\w+)` \| (\d+) \| ([^|]+) \| `(\w+)` \| ([^|]+) \|")


def test_documentation_has_each_row_of_the_table_and_no_other() -> None:
    """[LG-02] Code, status, title and Proxy-Status of docs/refusals.md are those of `errors.REFUSALS`."""
    documented = [match[:4] for match in LINE.findall(DOCUMENT.read_text())]
    table = [
        (PUBLIC_CODE.get(name, name), str(row.status), row.title, row.proxy_error) for name, row in REFUSALS.items()
    ]
    assert documented == table


def test_documentation_has_the_admin_listener_s_own_rows() -> None:
    """[LG-02] Code and status of `admin.problems.OWN` stand in docs/admin.md."""
    documented = re.findall(r"`(\w+)` \((\d{3})", (DOCUMENT.parent / "admin.md").read_text())
    assert dict(documented) == {code: str(status) for code, (status, _) in OWN.items()}


def test_each_row_of_the_table_is_provoked_here() -> None:
    """A row that cannot happen is a row too many: all but the named ones are in the tests above."""
    alone = {"loop", "store_unavailable"}
    assert {one.row for one in CASES.values()} | alone | NOT_PROVOKED == set(REFUSALS)


def test_example_in_the_documentation_is_what_is_sent() -> None:
    """The header lines and members of the example are those of a real answer."""
    example = DOCUMENT.read_text().partition("    HTTP/1.1 401")[2].partition("\n\n`code`")[0]
    for name in (*MEMBERS, "Content-Type", "Proxy-Status", "WWW-Authenticate"):
        assert name in example
