"""The admin listener over real sockets: session API, health, metrics, status page, and who may use them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import socket
from typing import NamedTuple
from urllib.parse import quote

import aiohttp
import pytest

from sidecar.admin import AdminState, Check, Readiness, exposition, guard, make_application, serving
from sidecar.errors import Refusal, StoreUnavailableError
from sidecar.metrics import Metrics
from sidecar.model import Secret
from sidecar.settings import Address

TOKEN = "admin-token-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
CANARY = "canary-access-token"
RESPONSE = {"access_token": CANARY, "token_type": "Bearer", "expires_in": 300, "refresh_token": "canary-refresh-token"}


class Info(NamedTuple):
    handle: str
    provider: str


class KeptSessions:
    """Sessions in a dictionary; `broken` is raised by every method instead."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, dict]] = {}
        self.broken: Exception | None = None

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def put(self, session_id, provider, response):
        self._check()
        self.kept[session_id] = (provider, dict(response))
        return Info("h1", provider)

    async def info(self, session_id):
        self._check()
        return Info("h1", self.kept[session_id][0]) if session_id in self.kept else None

    async def all(self, limit):
        self._check()
        return [Info(f"h{number}", provider) for number, (provider, _) in enumerate(self.kept.values())][:limit]

    async def delete(self, session_id):
        self._check()
        return self.kept.pop(session_id, None) is not None


def _status():
    return {
        "started_at": 0.0,
        "configuration": "sidecar.yaml",
        "configuration_error": "",
        "store": "sqlite",
        "sessions": 2,
        "routes": [
            {"name": "<script>alert(1)</script>", "match": "a.internal/", "upstream": "https://a.example.com", "as_": "user",
             "provider": "idp", "scope": "a b", "requests": 7, "refusals": 1},
        ],
        "providers": [{"name": "idp", "address": "https://login.example.com", "state": "ok", "detail": ""}],
        "refusals": [{"at": 0.0, "route": "", "code": "no_route"}],
    }  # fmt: skip


class Running(NamedTuple):
    state: AdminState
    sessions: KeptSessions
    address: Address
    client: aiohttp.ClientSession


@pytest.fixture
async def admin():
    """Run an admin listener without a token, on loopback."""
    sessions = KeptSessions()
    metrics = Metrics()
    metrics.route("stats").answered(200, 0.004)
    state = AdminState(
        sessions=sessions,
        readiness=lambda: Readiness(ready=True, checks={"store": Check("ok")}, tokens_last=42.0),
        metrics_text=exposition(metrics),
        status=_status,
        explain=lambda method, url, session, headers: {"asked": [method, url, session, headers]},
        providers=("idp",),
    )
    async with serving(make_application(state), Address("127.0.0.1", 0)) as address:
        timeout = aiohttp.ClientTimeout(total=5)
        async with aiohttp.ClientSession(f"http://{address}", timeout=timeout) as client:
            yield Running(state, sessions, address, client)


@pytest.fixture
async def locked(admin):
    """Give the running listener an admin token."""
    admin.state.token = Secret(TOKEN)
    return admin


async def _problem(response, status, code):
    assert (response.status, response.content_type) == (status, "application/problem+json")
    body = await response.json(content_type=None)
    assert set(body) == {"type", "title", "status", "detail", "code", "request_id"}
    assert (body["status"], body["code"]) == (status, code)
    return body


async def _raw(address, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


# -- sessions ----------------------------------------------------------------------------------------------------


async def test_session_put_then_shown_then_deleted(admin):
    """A token response goes in whole, comes out as metadata only, and is gone after DELETE."""
    async with admin.client.put("/v1/sessions/s1", json=RESPONSE) as response:
        assert (response.status, await response.json()) == (200, {"handle": "h1", "provider": "idp"})
    assert admin.sessions.kept == {"s1": ("idp", RESPONSE)}
    for path in ("/v1/sessions/s1", "/v1/sessions"):
        async with admin.client.get(path) as response:
            text = await response.text()
            assert response.status == 200
            assert "canary" not in text
            assert '"s1"' not in text
    async with admin.client.delete("/v1/sessions/s1") as response:
        assert (response.status, await response.read()) == (204, b"")
    for method in ("GET", "DELETE"):
        await _problem(await admin.client.request(method, "/v1/sessions/s1"), 404, "not_found")


@pytest.mark.parametrize(
    "identifier", ["plain", "a/b", "a%b", "50%25", "%2F", "a+b=c", "~!#$&'()*:@[]", "..", "x" * 512]
)
async def test_session_id_percent_encoded_arrives_decoded_once(admin, identifier):
    """The id in the path is decoded exactly once, whatever cookie characters it has."""
    request = f"GET /v1/sessions/{quote(identifier, safe='')} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    admin.sessions.kept[identifier] = ("idp", {})
    assert (await _raw(admin.address, request.encode())).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "identifier", ["a b", "a\r\nX: y", "a;b", 'a"b', "a,b", "a\\b", "é", "\x00", "x" * 513, "\udc80"], ids=ascii
)
async def test_session_id_that_no_cookie_can_hold_is_refused(admin, identifier):
    """Ids outside RFC 6265's cookie characters answer 400 and are not repeated."""
    path = quote(identifier.encode("utf-8", "surrogateescape"), safe="")
    request = f"PUT /v1/sessions/{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = await _raw(admin.address, request.encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"bad_request"' in answer
    assert admin.sessions.kept == {}


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        pytest.param(b"{", "application/json", 400, "bad_request", id="broken JSON"),
        pytest.param(b"[]", "application/json", 400, "bad_request", id="not an object"),
        pytest.param(b"\xff", "application/json", 400, "bad_request", id="not UTF-8"),
        pytest.param(b"[" * 5000, "application/json", 400, "bad_request", id="deep"),
        pytest.param(b'{"provider":7}', "application/json", 400, "bad_request", id="provider not a string"),
        pytest.param(b'{"provider":"other"}', "application/json", 400, "bad_request", id="provider unknown"),
        pytest.param(b"access_token=x", "application/x-www-form-urlencoded", 415, "unsupported_media_type", id="form"),
        pytest.param(b"{}", "text/plain", 415, "unsupported_media_type", id="simple request of a browser"),
        pytest.param(b" " * (256 * 1024 + 1), "application/json", 413, "too_large", id="over 256 KiB"),
    ],
)
async def test_session_put_unreadable_is_refused_without_an_echo(admin, body, content_type, status, code):
    """What is not a JSON object of a fair size is refused, and nothing is stored."""
    response = await admin.client.put("/v1/sessions/s1", data=body, headers={"Content-Type": content_type})
    await _problem(response, status, code)
    assert admin.sessions.kept == {}


async def test_session_put_with_two_providers_needs_the_name(admin):
    """Where several providers are configured none is guessed."""
    admin.state.providers = ("idp", "other")
    await _problem(await admin.client.put("/v1/sessions/s1", json=RESPONSE), 400, "bad_request")
    async with admin.client.put("/v1/sessions/s1", json={**RESPONSE, "provider": "other"}) as response:
        assert response.status == 200
    assert admin.sessions.kept["s1"] == ("other", RESPONSE)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refusal("bad_request", "`access_token` is missing."), 400, "bad_request"),
        (Refusal("login_required"), 400, "bad_request"),
        (StoreUnavailableError("disk full at /secret/place"), 503, "store_unavailable"),
        (RuntimeError("canary"), 500, "internal"),
    ],
    ids=["refusal", "refusal of the proxy", "store away", "LK-06 unforeseen"],
)
async def test_session_error_answers_a_problem_without_its_text(admin, error, status, code):
    """Every failure is a problem with a code; the text of a foreign exception never leaves."""
    admin.sessions.broken = error
    body = await _problem(await admin.client.put("/v1/sessions/s1", json=RESPONSE), status, code)
    assert "secret" not in json.dumps(body)
    assert "canary" not in json.dumps(body)


@pytest.mark.parametrize(
    ("limit", "status"),
    [("1", 200), ("1000", 200), ("0", 400), ("1001", 400), ("-1", 400), ("²", 400), ("0000000019999", 400)],
)
async def test_session_list_limit_is_bounded(admin, limit, status):
    """`limit` is a plain number from 1 to 1000."""
    admin.sessions.kept = {"s1": ("idp", {}), "s2": ("idp", {})}
    async with admin.client.get("/v1/sessions", params={"limit": limit}) as response:
        assert response.status == status
        if status == 200:
            assert len((await response.json())["sessions"]) == min(2, int(limit))


# -- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer é",
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/sessions"),
        ("PUT", "/v1/sessions/s1"),
        ("POST", "/v1/explain"),
        ("POST", "/quit"),
        ("GET", "/other"),
    ],
)
async def test_guarded_path_without_the_token_is_refused(locked, method, path, authorization):
    """With a token configured, everything but health, metrics and the page needs exactly it (RFC 6750 section 3)."""
    headers = {"Authorization": authorization} if authorization else {}
    response = await locked.client.request(method, path, headers=headers, json={})
    await _problem(response, 401, "caller_unknown")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    assert locked.sessions.kept == {}


@pytest.mark.parametrize(
    "path", ["//v1/sessions", "/%761/sessions", "/v1%2Fsessions", "/v1/./sessions", "/x/../v1/sessions"]
)
async def test_guarded_path_in_another_spelling_stays_guarded(locked, path):
    """No spelling of a path walks around the token."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert (await _raw(locked.address, request.encode())).startswith(b"HTTP/1.1 401 ")


async def test_guarded_path_with_the_token_is_served(locked):
    """The configured bearer opens the session API, whatever the case of the scheme."""
    for scheme in ("Bearer", "bearer"):
        async with locked.client.get("/v1/sessions", headers={"Authorization": f"{scheme} {TOKEN}"}) as response:
            assert response.status == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/"])
async def test_open_path_without_the_token_is_served(locked, path):
    """Probes, scrapes and the page need no token."""
    async with locked.client.get(path) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("credentials", [{}, BEARER], ids=["bare", "with token"])
async def test_browser_page_is_refused(admin, headers, credentials):
    """A page in a browser cannot put or read sessions, not even where loopback needs no token (CSRF)."""
    response = await admin.client.put("/v1/sessions/s1", json=RESPONSE, headers=headers | credentials)
    await _problem(response, 403, "caller_not_allowed")
    assert admin.sessions.kept == {}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8081", 200),
        ("127.0.0.1:8081", 200),
        ("[::1]:8081", 200),
        ("[::1]", 200),
        ("10.1.2.3", 200),
        ("evil.example", 403),
        ("evil.example:8081", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("2130706433", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("path", ["/", "/v1/sessions", "/metrics"])
async def test_foreign_host_on_loopback_is_refused(admin, path, host, status):
    """A name that somebody's DNS points at loopback does not open the listener (DNS rebinding)."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    assert (await _raw(admin.address, request.encode())).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("token", "headers", "code"),
    [
        (None, {}, "caller_not_allowed"),
        (Secret(TOKEN), {}, "caller_unknown"),
        (Secret(TOKEN), BEARER, None),
        (Secret(TOKEN), {**BEARER, "Origin": "https://evil.example"}, "caller_not_allowed"),
    ],
    ids=["no token configured", "no token sent", "token", "token from a page"],
)
def test_beyond_loopback_every_name_is_answered_and_the_token_needed(token, headers, code):
    """A listener beyond loopback answers to every name of its machine, and guards itself by the token."""
    sent = {"host": "sidecar.svc"} | {name.lower(): value for name, value in headers.items()}
    denied = guard.check("/v1/sessions", sent, token=token, local=False)
    assert (denied.code if denied else None) == code
    assert guard.check("/metrics", {"host": "sidecar.svc"}, token=token, local=False) is None


@pytest.mark.parametrize(
    ("sockname", "local"),
    [
        (("127.0.0.1", 8081), True),
        (("127.8.8.8", 8081), True),
        (("::1", 8081, 0, 0), True),
        (("::ffff:127.0.0.1", 8081, 0, 0), True),
        ("/run/sidecar.sock", True),
        (None, True),
        (("10.0.0.7", 8081), False),
        (("fe80::1%eth0", 8081, 0, 2), False),
        (("::ffff:10.0.0.7", 8081, 0, 0), False),
    ],
    ids=str,
)
def test_request_is_local_by_the_address_it_arrived_on(sockname, local):
    """A listener on every address is local to those who reach it over loopback."""
    assert guard.is_local(sockname) is local


# -- health, metrics, page -------------------------------------------------------------------------------------------


async def test_readyz_tells_the_state_of_each_dependency(admin):
    """Readiness is 200 or 503 with the reasons; an asynchronous check works as well."""
    async with admin.client.get("/readyz") as response:
        assert (response.status, (await response.json())["tokens_last_seconds"]) == (200, 42.0)

    async def away():
        return Readiness(ready=False, checks={"store": Check("failing", "refused"), "provider idp": Check("ok")})

    admin.state.readiness = away
    async with admin.client.get("/readyz") as response:
        body = await response.json()
    assert response.status == 503
    assert body["checks"]["store"] == {"state": "failing", "detail": "refused", "required": True}
    async with admin.client.get("/healthz") as response:
        assert response.status == 200


async def test_metrics_are_prometheus_text(admin):
    """A scrape reads the counters in Prometheus's text format."""
    async with admin.client.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'sidecar_requests_total{route="stats",status_class="2xx"} 1.0' in await response.text()


async def test_page_shows_the_state_and_escapes_it(admin):
    """Every value on the page is escaped, and the policy allows its own style only."""
    async with admin.client.get("/") as response:
        html = await response.text()
        policy = response.headers["Content-Security-Policy"]
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    for shown in ("https://a.example.com", "no_route", "2 sessions", "valid tokens last 42 s"):
        assert shown in html
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL).group(1)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"'sha256-{digest}'" in policy


async def test_page_says_when_the_file_is_refused(admin):
    """A configuration file that was refused on reload is named on the page."""
    admin.state.status = lambda: {**_status(), "configuration_error": "sidecar.yaml:3:5: <unknown> key"}
    async with admin.client.get("/") as response:
        assert "sidecar.yaml:3:5: &lt;unknown&gt; key" in await response.text()


# -- explain, quit, the rest ----------------------------------------------------------------------------------------


async def test_explain_passes_the_question_on(admin):
    """The request to explain arrives as it was asked."""
    question = {"method": "POST", "url": "http://a.internal/x", "session": "s1", "headers": [["A", "1"], ["A", "2"]]}
    async with admin.client.post("/v1/explain", json=question) as response:
        assert await response.json() == {"asked": ["POST", "http://a.internal/x", "s1", [["A", "1"], ["A", "2"]]]}


@pytest.mark.parametrize(
    "question",
    [{}, {"url": 1}, {"url": "x", "method": 1}, {"url": "x", "session": 1}, {"url": "x", "headers": {"a": "b"}},
     {"url": "x", "headers": [["a"]]}, {"url": "x", "headers": [["a", 1]]}, {"url": "x", "headers": ["ab"]}],
    ids=json.dumps,
)  # fmt: skip
async def test_explain_unreadable_is_refused(admin, question):
    """A question of the wrong shape is a 400 that shows the right one."""
    await _problem(await admin.client.post("/v1/explain", json=question), 400, "bad_request")


async def test_quit_works_only_where_enabled(admin):
    """POST /quit is not there until the configuration enables it."""
    await _problem(await admin.client.post("/quit"), 404, "not_found")
    asked = []
    admin.state.quit = lambda: asked.append(True)
    async with admin.client.post("/quit") as response:
        assert (response.status, asked) == (202, [True])


async def test_unknown_path_and_method_are_problems(admin):
    """What does not exist answers 404, what is not allowed 405 with Allow."""
    await _problem(await admin.client.get("/nothing"), 404, "not_found")
    response = await admin.client.post("/healthz")
    await _problem(response, 405, "method_refused")
    assert response.headers["Allow"] == "GET,HEAD"


async def test_every_answer_is_private_and_anonymous(admin):
    """No answer may be cached, sniffed, or tell which server software runs."""
    for path in ("/healthz", "/", "/v1/sessions", "/nothing"):
        async with admin.client.get(path) as response:
            assert response.headers["Cache-Control"] == "no-store"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            assert response.headers["Server"] == "sidecar"


async def test_malformed_request_is_answered_without_an_echo(admin):
    """[LK-08] A request that cannot be parsed answers 400 and none of its bytes come back."""
    answer = await _raw(admin.address, b"GET / HTTP/1.1\r\nHost: localhost\r\ncanary-header\x01: canary-value\r\n\r\n")
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b'"code":"bad_request"' in answer
    assert b"canary" not in answer


async def test_unix_socket_is_for_its_owner_only(admin, tmp_path):
    """A unix socket replaces a stale one, is mode 0600, answers, and is removed at the end."""
    path = tmp_path / "admin.sock"
    for _ in range(2):
        async with serving(make_application(admin.state), Address(path=str(path))):
            assert path.stat().st_mode & 0o777 == 0o600
            connector = aiohttp.UnixConnector(str(path))
            async with (
                aiohttp.ClientSession(connector=connector) as client,
                client.get("http://localhost/healthz") as response,
            ):
                assert response.status == 200
        assert not path.exists()


async def test_unix_socket_in_use_is_not_taken_away(admin, tmp_path):
    """Where another process listens, ours does not start, as at a port; what a dead one left behind is replaced."""
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        with pytest.raises(OSError, match="in use"):
            async with serving(make_application(admin.state), Address(path=str(path))):
                pass
        assert path.is_socket()
    async with serving(make_application(admin.state), Address(path=str(path))):
        assert path.is_socket()


async def test_unknown_name_to_listen_at_is_an_os_error(admin):
    """A name that resolves to nothing is told as that."""
    with pytest.raises(OSError, match=r"cannot listen on nosuch\.invalid:0: .*(not known|resolution|No address)"):
        async with serving(make_application(admin.state), Address("nosuch.invalid", 0)):
            pass


async def test_taken_port_is_an_os_error(admin):
    """Starting on a port in use raises OSError and leaves nothing running."""
    with pytest.raises(OSError, match="in use"):
        async with serving(make_application(admin.state), admin.address):
            pass
