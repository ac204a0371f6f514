"""HTTP clients as legacy applications use them, through a real sidecar process to an API that verifies tokens.

Each client goes both ways: with the sidecar as its HTTP proxy (taken from the environment where the client does that),
and with the sidecar as its base URL. It knows nothing of tokens.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import httpx
import pytest
import requests

from tests.support.process import Process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.support.process import Backdrop

BODY = b"a=1&b=\xc3\xbc" * 3000
KEY = "k3y-of:billing"
ENVIRON = {"BILLING_KEY": KEY, "REPORTS_KEY": "key-of-reports"}
CONFIGURATION = """
providers:
  idp: {{issuer: "{issuer}", client_id: legacy-app, client_secret: "${{CLIENT_SECRET}}"}}
routes:
  - {{match: {{host: stats.internal}},    upstream: "{api}", as: app,  scope: stats.read}}
  - {{match: {{host: profiles.internal}}, upstream: "{api}", as: user, scope: profiles.read}}
  - {{match: {{path: /as-app}},  strip_prefix: true, upstream: "{api}", as: app,  scope: stats.read}}
  - {{match: {{path: /as-user}}, strip_prefix: true, upstream: "{api}", as: user, scope: profiles.read}}
listeners:
  - {{bind: "127.0.0.1:0", app: billing}}
  - {{bind: "127.0.0.1:0"}}
  - {{bind: "unix:{folder}/proxy.sock", app: reports}}
callers:
  session: [{{header: X-Session-Id}}, {{cookie: sidecar_session}}]
  apps:
    billing: {{basic: "${{BILLING_KEY}}"}}
    reports: {{header: X-Api-Key, key: "${{REPORTS_KEY}}"}}
admin: {{bind: "127.0.0.1:0", token: "${{ADMIN_TOKEN}}"}}
store: {{url: "memory:"}}
"""


class Call(NamedTuple):
    """What the application wants. `proxy` is the URL of an HTTP proxy, `unix` a socket to connect to instead."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    proxy: str = ""
    unix: str = ""


class Got(NamedTuple):
    status: int
    body: bytes


@pytest.fixture(scope="module")
def sidecar(backdrop: Backdrop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A sidecar with three listeners: for one application, for those that prove themselves, and a unix socket."""
    folder = tmp_path_factory.mktemp("clients")
    text = CONFIGURATION.format(issuer=backdrop.server.issuer, api=backdrop.api.url, folder=folder)
    with Process(folder, text, environ={**ENVIRON, "CLIENT_SECRET": "s+cr%t: ü", "ADMIN_TOKEN": "admin"}) as running:
        tokens = backdrop.do(lambda: backdrop.server.issue("alice", "profiles.read", "legacy-app"))
        assert running.manage("PUT", "/v1/sessions/alices-session", tokens, token="admin").status == 200
        yield running


# -- the clients ---------------------------------------------------------------------------------------------------


def with_curl(call: Call, env: Mapping[str, str]) -> Got:
    """curl, which takes its proxy from `http_proxy`."""
    command = ["curl", "--silent", "--show-error", "--max-time", "10", "--request", call.method]
    command += ["--write-out", "\n%{http_code}", "--data-binary", "@-"] if call.body is not None else [
        "--write-out", "\n%{http_code}"]  # fmt: skip
    for name, value in call.headers.items():
        command += ["--header", f"{name}: {value}"]
    command += ["--unix-socket", call.unix] if call.unix else []
    done = subprocess.run([*command, call.url], input=call.body, capture_output=True, env=dict(env), check=True)
    body, _, status = done.stdout.rpartition(b"\n")
    return Got(int(status), body)


def with_requests(call: Call, _env: Mapping[str, str]) -> Got:
    """requests, which takes its proxy from `http_proxy`."""
    answer = requests.request(call.method, call.url, headers=call.headers, data=call.body, timeout=10)
    return Got(answer.status_code, answer.content)


def with_httpx(call: Call, _env: Mapping[str, str]) -> Got:
    """httpx, which takes its proxy from `http_proxy`."""
    transport = httpx.HTTPTransport(uds=call.unix, verify=False) if call.unix else None
    with httpx.Client(transport=transport, timeout=10, verify=False) as client:  # noqa: S501 - no TLS here; it is slow to load
        answer = client.request(call.method, call.url, headers=call.headers, content=call.body)
    return Got(answer.status_code, answer.content)


def with_urllib(call: Call, _env: Mapping[str, str]) -> Got:
    """The standard library's opener, which takes its proxy from `http_proxy`."""
    request = urllib.request.Request(call.url, call.body, call.headers, method=call.method)  # noqa: S310 - http only
    opener = urllib.request.build_opener()
    try:
        with opener.open(request, timeout=10) as answer:
            return Got(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Got(error.code, error.read())


def with_aiohttp(call: Call, _env: Mapping[str, str]) -> Got:
    """aiohttp, which takes its proxy from `http_proxy` with `trust_env`."""

    async def ask() -> Got:
        connector = aiohttp.UnixConnector(call.unix) if call.unix else None
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(trust_env=not call.unix, connector=connector, timeout=timeout) as session,
            session.request(call.method, call.url, headers=call.headers, data=call.body) as answer,
        ):
            return Got(answer.status, await answer.read())

    return asyncio.run(ask())


def with_http_client(call: Call, _env: Mapping[str, str]) -> Got:
    """The standard library's own: it knows no proxies, so the application writes the whole URL and the credentials."""
    headers, authority = dict(call.headers), call.url.split("/")[2]
    target = call.url if call.proxy else "/" + call.url.split("/", 3)[3]
    if call.proxy:
        headers["Host"] = authority
        user, _, authority = call.proxy.removeprefix("http://").rpartition("@")
        if user:
            pair = urllib.request.unquote(user).encode()
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    connection = http.client.HTTPConnection(authority, timeout=10)
    if call.unix:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(call.unix)
    try:
        connection.request(call.method, target, call.body, headers)
        answer = connection.getresponse()
        return Got(answer.status, answer.read())
    finally:
        connection.close()


CLIENTS: list[Any] = [
    pytest.param(
        with_curl, id="curl", marks=pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
    ),
    pytest.param(with_requests, id="requests"),
    pytest.param(with_httpx, id="httpx"),
    pytest.param(with_urllib, id="urllib"),
    pytest.param(with_aiohttp, id="aiohttp"),
    pytest.param(with_http_client, id="http.client"),
]
SPEAK_UNIX = [client for client in CLIENTS if client.id not in ("requests", "urllib")]
REQUESTS = [pytest.param("GET", None, id="GET"), pytest.param("POST", BODY, id="POST")]
WHO = [
    pytest.param("app", "legacy-app", {}, id="as app"),
    pytest.param("user", "alice", {"X-Session-Id": "alices-session"}, id="as user"),
    pytest.param("user", "alice", {"Cookie": "theme=dark; sidecar_session=alices-session"}, id="as user by cookie"),
]
PATHS = {"app": "/stats", "user": "/profile"}
HOSTS = {"app": "stats.internal", "user": "profiles.internal"}


def ask(client: Callable[[Call, Mapping[str, str]], Got], monkeypatch: pytest.MonkeyPatch, call: Call) -> Got:
    """Let the client ask, with the proxy in the environment as an operator sets it."""
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    env = {"PATH": "/usr/bin:/bin:/usr/local/bin"}
    if call.proxy:
        monkeypatch.setenv("http_proxy", call.proxy)
        env["http_proxy"] = call.proxy
    return client(call, env)


def check(got: Got, subject: str, body: bytes | None) -> None:
    """The API verified the token: it says whose it was, and how much of a body came."""
    assert got.status == 200, got
    document = json.loads(got.body)
    assert (document["subject"], document.get("body_bytes", 0)) == (subject, len(body or b""))


# -- the tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("as_", "subject", "headers"), WHO)
@pytest.mark.parametrize(("method", "body"), REQUESTS)
@pytest.mark.parametrize("client", CLIENTS)
def test_client_with_the_sidecar_as_http_proxy_is_served(
    client: Any, method: str, body: bytes | None, as_: str, subject: str, headers: dict[str, str], sidecar: Process,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The application asks for the API's own name, its environment names the proxy, the API sees the right subject."""
    url = f"http://{HOSTS[as_]}{PATHS[as_]}"
    got = ask(client, monkeypatch, Call(method, url, headers, body, proxy=f"http://{sidecar.listeners[0]}"))
    check(got, subject, body)


@pytest.mark.parametrize(("as_", "subject", "headers"), WHO)
@pytest.mark.parametrize(("method", "body"), REQUESTS)
@pytest.mark.parametrize("client", CLIENTS)
def test_client_with_the_sidecar_as_base_url_is_served(
    client: Any, method: str, body: bytes | None, as_: str, subject: str, headers: dict[str, str], sidecar: Process,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The application asks the sidecar itself, the first path segment says for what."""
    url = f"http://{sidecar.listeners[0]}/as-{as_}{PATHS[as_]}"
    check(ask(client, monkeypatch, Call(method, url, headers, body)), subject, body)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("user", "status"),
    [
        pytest.param(f"billing:{KEY.replace(':', '%3A')}@", 200, id="name and key"),
        pytest.param("billing:wrong@", 407, id="wrong key"),
        pytest.param("reports:key-of-reports@", 407, id="the key of an app that proves itself otherwise"),
        pytest.param("", 407, id="no credentials"),
    ],
)
def test_proxy_credentials_in_the_url_prove_the_application(
    client: Any, user: str, status: int, sidecar: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`HTTP_PROXY=http://billing:<key>@…` is all that an application needs; anything else is asked for by 407."""
    call = Call("GET", "http://stats.internal/stats", {}, None, proxy=f"http://{user}{sidecar.listeners[1]}")
    got = ask(client, monkeypatch, call)
    assert got.status == status
    if status == 407:
        assert json.loads(got.body)["code"] == "caller_unknown"
    else:
        check(got, "legacy-app", None)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("key", "status"), [("key-of-reports", 200), ("wrong", 401), ("", 401)], ids=["key", "wrong key", "empty key"]
)
def test_key_header_proves_the_application(
    client: Any, key: str, status: int, sidecar: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application may prove itself by a header line, where it uses the sidecar as its base URL."""
    call = Call("GET", f"http://{sidecar.listeners[1]}/as-app/stats", {"X-Api-Key": key}, None)
    got = ask(client, monkeypatch, call)
    assert got.status == status
    assert (got.status == 200) == (b"legacy-app" in got.body)


@pytest.mark.parametrize(("as_", "subject", "headers"), WHO[:2])
@pytest.mark.parametrize(("method", "body"), REQUESTS)
@pytest.mark.parametrize("client", SPEAK_UNIX)
def test_client_on_a_unix_socket_is_served(
    client: Any, method: str, body: bytes | None, as_: str, subject: str, headers: dict[str, str], sidecar: Process,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A socket file is a listener like any other; the application on it needs no other proof."""
    unix = sidecar.listeners[2].removeprefix("unix:")
    call = Call(method, f"http://sidecar/as-{as_}{PATHS[as_]}", headers, body, unix=unix)
    check(ask(client, monkeypatch, call), subject, body)


def test_no_request_of_the_clients_showed_the_api_who_called(sidecar: Process, backdrop: Backdrop) -> None:
    """Whatever client and proof were used, the API saw one bearer token and nothing that identifies the caller."""
    ask_once = sidecar.ask("http://stats.internal/stats", {"X-Api-Key": "key-of-reports"}, at=sidecar.listeners[1])
    assert ask_once.status == 200
    heads = [received.head for received in backdrop.api.received]
    assert len(heads) >= 1
    for secret in (b"alices-session", b"key-of-reports", b"roxy-", KEY.encode(), b"X-Api-Key", b"X-Session-Id"):
        assert [head for head in heads if secret in head] == []
    assert {head.count(b"Authorization: Bearer ") for head in heads} == {1}
