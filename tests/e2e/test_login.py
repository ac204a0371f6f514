"""A user signs in through the sidecar, the application calls an API, the user signs out: all parts real."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aiohttp import web
from joserfc.jwk import ECKey

from sidecar.demo.issuer import endpoints
from sidecar.demo.issuer.signing import Signer
from sidecar.demo.issuer.state import State
from sidecar.errors import StoreUnavailableError
from sidecar.provider import AuthorizationServer as Provider
from tests.support.authorization_server import LEGACY
from tests.support.jwts import part, unsigned, with_mac
from tests.support.program import ENVIRON, subject_of
from tests.support.recording_upstream import response as upstream_response
from tests.support.sign_in import COOKIE, Browser, SignIn, query_of, signing_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PENDING = "sidecar_login_"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[SignIn]:
    async with signing_in(tmp_path) as parts:
        yield parts


@pytest.fixture
async def browser(running: SignIn) -> AsyncIterator[Browser]:
    async with running.browser() as made:
        yield made


def exchanges(running: SignIn) -> int:
    """Return how many codes the authorization server was asked to exchange."""
    return len(running.server.token_requests(grant_type="authorization_code"))


def refused(response: httpx.Response, status: int = 400) -> None:
    """See that a sign-in ended in a page without a session."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["cache-control"] == "no-store"
    assert not any(line.startswith(COOKIE) for line in response.headers.get_list("set-cookie"))


# -- the whole way -------------------------------------------------------------------------------------------------


async def test_signed_in_user_is_served_until_the_sign_out(running: SignIn, browser: Browser) -> None:
    """Sign-in, API call, renewal, sign-out: the cookie is dead at once and the refresh token is revoked."""
    back = await browser.sign_in("alice", f"{running.public}/app/page?x=1#top")
    assert (back.status_code, back.headers["location"]) == (303, f"{running.public}/app/page?x=1#top")
    assert (await running.call(browser)).document["subject"] == "alice"
    running.clock.ahead += 310
    assert (await running.call(browser)).document["subject"] == "alice"
    assert len(running.server.token_requests(grant_type="refresh_token", outcome="ok")) == 1
    ledger = running.server.state.ledger.refresh
    assert [token.family.dead for token in ledger.values()] == [False, False]
    session = browser.session
    gone = await browser.post("/oauth2/logout")
    assert (gone.status_code, gone.headers["location"]) == (303, f"{running.public}/app")
    assert browser.session == ""
    assert all(token.family.dead for token in ledger.values())
    dead = await running.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={session}")])
    assert dead.code == "login_required"
    assert {subject_of(running.server, token) for token in running.tokens} == {"alice"}


async def test_sign_in_without_a_proxy_in_front_ends_on_a_page(browser: Browser) -> None:
    """The root of the sign-in listener says who is signed in, and leads on."""
    before = await browser.get("/")
    refused(before, 200)
    assert "/oauth2/login" in before.text
    await browser.sign_in("alice")
    after = await browser.get("/")
    assert (after.status_code, "alice" in after.text, "/oauth2/logout" in after.text) == (200, True, True)
    assert browser.session not in after.text


async def test_two_users_have_their_own_tokens(running: SignIn) -> None:
    """Signed in at the same time, served at the same time, one signed out: the other stays."""
    async with running.browser() as one, running.browser() as two:
        await asyncio.gather(one.sign_in("alice"), two.sign_in("bob"))
        assert one.session != two.session
        for _ in range(3):
            answers = await asyncio.gather(*(running.call(who) for who in (one, two, one, two)))
            assert [answer.document["subject"] for answer in answers] == ["alice", "bob", "alice", "bob"]
        await one.post("/oauth2/logout")
        assert (await running.call(one)).code == "login_required"
        assert (await running.call(two)).document["subject"] == "bob"


async def test_request_without_a_session_is_told_where_to_sign_in(running: SignIn) -> None:
    """By a member and in the challenge; a browser's navigation gets the same 401, never a redirect."""
    navigation = [("Accept", "text/html"), ("Sec-Fetch-Mode", "navigate"), ("Cookie", f"{COOKIE}=unknown")]
    for headers in ([], [("Cookie", f"{COOKIE}=unknown")], navigation):
        answer = await running.ask("http://profiles.internal/me", headers)
        url = f"{running.public}/oauth2/login"
        assert (answer.status, answer.code, answer.document["login_url"]) == (401, "login_required", url)
        assert answer.one("www-authenticate") == f'Sidecar realm="session", login_url="{url}"'
    other = await running.ask("http://nowhere.internal/")
    assert "login_url" not in other.document


async def test_route_of_another_provider_names_its_own_sign_in(tmp_path: Path) -> None:
    """The default needs no name; a provider that signs nobody in has no address to tell."""
    more = """
  second: {issuer: "https://second.example", client_id: x, client_secret: "y"}
  third: {issuer: "https://third.example", client_id: x, client_secret: "y"}"""
    async with signing_in(tmp_path, providers=more, login=", provider: [idp, second]") as running:
        settings = running.program.settings.login
        assert settings is not None
        base = f"{running.public}/oauth2/login"
        assert [settings.url(name) for name in ("idp", "second", "third")] == [base, f"{base}?provider=second", None]


async def test_sign_in_asks_for_what_it_should(running: SignIn, browser: Browser) -> None:
    """Code, S256, state, nonce, the configured scope; and a cookie that scripts and other sites cannot use."""
    response = await browser.get("/oauth2/login")
    asked = query_of(response.headers["location"])
    assert response.headers["location"].startswith(f"{running.server.issuer}/authorize?")
    assert asked["scope"] == "openid offline_access profiles.read"
    assert asked["redirect_uri"] == f"{running.public}/oauth2/callback"
    assert (asked["response_type"], asked["code_challenge_method"], asked["client_id"]) == (
        "code",
        "S256",
        "legacy-app",
    )
    assert all(len(asked[name]) == 43 for name in ("state", "nonce", "code_challenge"))
    [line] = response.headers.get_list("set-cookie")
    assert re.fullmatch(rf"{PENDING}[0-9a-f]{{16}}=[\w-]+; Path=/; Max-Age=600; HttpOnly; SameSite=Lax", line)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    again = query_of(await browser.begin())
    assert not {asked[name] for name in ("state", "nonce", "code_challenge")} & set(again.values())


async def test_sign_in_without_a_named_scope_serves_no_route_that_wants_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 6749 section 5.1: without `scope` the token has what was asked for, and no other scope of a route."""
    name_no_scope(monkeypatch)
    for scope, code in (("profiles.read", None), ("admin.write", "provider_refused")):
        async with signing_in(tmp_path, scope=scope) as running, running.browser() as browser:
            await browser.sign_in("alice")
            answer = await running.call(browser)
            assert (answer.document.get("subject"), answer.document.get("code")) == (None if code else "alice", code)
            assert len(running.tokens) == (0 if code else 1)


async def test_sign_in_without_a_named_scope_has_what_was_asked_for_before_a_reload(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scopes of `login.scope` may have grown while the user signed in: the code is for the former ones."""
    name_no_scope(monkeypatch)
    running.rewrite("openid profiles.read", "openid")
    assert await running.program.reload(ENVIRON)
    callback = await browser.choose(await browser.begin(), "alice")
    running.rewrite("scope: openid", "scope: openid profiles.read")
    assert await running.program.reload(ENVIRON)
    assert (await browser.client.get(callback)).status_code == 303
    assert (await running.call(browser)).code == "provider_refused"
    assert running.tokens == []


def name_no_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the authorization server leave `scope` out of its token responses."""
    real = State.token_response

    def unnamed(self: State, *given: Any, **more: Any) -> dict[str, Any]:
        return {name: value for name, value in real(self, *given, **more).items() if name != "scope"}

    monkeypatch.setattr(State, "token_response", unnamed)


async def test_code_is_exchanged_with_the_parameters_of_the_provider(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`providers.*.params` go with every token request: a server that needs them signs in nobody without."""
    real, seen = endpoints.issue, []

    def noting(state: State, client: Any, parameters: Any) -> Any:
        seen.append((parameters.one("grant_type"), parameters.one("tenant")))
        return real(state, client, parameters)

    monkeypatch.setattr(endpoints, "issue", noting)
    async with signing_in(tmp_path, provider=", params: {tenant: example}") as running, running.browser() as browser:
        await browser.sign_in("alice")
        assert (await running.call(browser)).document["subject"] == "alice"
        assert seen == [("authorization_code", "example")]
        running.clock.ahead += 310
        assert (await running.call(browser)).document["subject"] == "alice"
    assert seen == [("authorization_code", "example"), ("refresh_token", "example")]


async def test_route_with_parameters_of_its_own_has_its_own_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign-in's token was bought without them: a renewal that names them comes before the first request."""
    real, seen = endpoints.issue, []

    def noting(state: State, client: Any, parameters: Any) -> Any:
        seen.append((parameters.one("grant_type"), parameters.one("tenant"), parameters.one("mode")))
        return real(state, client, parameters)

    monkeypatch.setattr(endpoints, "issue", noting)
    provider, scope = ", params: {tenant: a}", "profiles.read, params: {mode: b}"
    async with signing_in(tmp_path, provider=provider, scope=scope) as running, running.browser() as browser:
        await browser.sign_in("alice")
        assert (await running.call(browser)).document["subject"] == "alice"
    assert seen == [("authorization_code", "a", ""), ("refresh_token", "a", "b")]


async def test_session_tells_the_application_who_is_signed_in(running: SignIn, browser: Browser) -> None:
    """No token, no id; not signed in is an answer like another."""
    nobody = (await browser.get("/oauth2/session")).json()
    assert nobody == {"signed_in": False, "login_url": f"{running.public}/oauth2/login"}
    await browser.sign_in("alice")
    response = await browser.get("/oauth2/session")
    found = response.json()
    assert (found["signed_in"], found["subject"], found["provider"]) == (True, "alice", "idp")
    assert found["expires_at"] == pytest.approx(running.clock() + 7 * 86400, abs=60)
    assert response.headers["cache-control"] == "no-store"
    assert set(found) == {"signed_in", "subject", "provider", "since", "expires_at", "logout_url"}
    for value in ("unknown", "x" * 600, "ä"):
        answer = await running_get(running, "/oauth2/session", f"{COOKIE}={value}")
        assert answer.json()["signed_in"] is False
    planted = await running_get(running, "/oauth2/session", f"{COOKIE}=planted; {COOKIE}={browser.session}")
    assert planted.json()["signed_in"] is False


async def running_get(running: SignIn, path: str, cookie: str) -> httpx.Response:
    """Fetch a page with a Cookie header as it is written."""
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        return await client.get(running.public + path, headers={"Cookie": cookie.encode()})


# -- a new session at each sign-in ---------------------------------------------------------------------------------


async def test_second_sign_in_ends_the_first_session(running: SignIn, browser: Browser) -> None:
    """[ID-03] A new id; the old one is dead at once and its refresh token is revoked."""
    await browser.sign_in("alice")
    old = browser.session
    [first] = running.server.state.ledger.refresh.values()
    await browser.sign_in("bob")
    assert browser.session not in ("", old)
    assert first.family.dead
    dead = await running.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={old}")])
    assert dead.code == "login_required"
    assert (await running.call(browser)).document["subject"] == "bob"


async def test_second_sign_in_of_a_user_survives_where_a_revocation_ends_the_whole_grant(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ID-03] The old id is dead, its refresh token only forgotten: many servers revoke all of a user and client."""
    ledger = running.server.state.ledger
    monkeypatch.setattr(ledger.__class__, "revoke", lambda self, *_: self.kill_families("alice"))
    await browser.sign_in("alice")
    old = browser.session
    await browser.sign_in("alice")
    assert browser.session not in ("", old)
    dead = await running.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={old}")])
    assert dead.code == "login_required"
    running.clock.ahead += 310
    assert (await running.call(browser)).document["subject"] == "alice"
    await browser.post("/oauth2/logout")
    assert all(token.family.dead for token in ledger.refresh.values())


async def test_planted_session_id_is_ignored(running: SignIn, browser: Browser) -> None:
    """[ID-02] Whatever id the browser brought: unknown ones are not taken, live ones end."""
    await running.sign_in("bob", "attackers-session")
    for planted in ("attackers-choice", "attackers-session"):
        browser.client.cookies.clear()
        browser.client.cookies.set(COOKIE, planted, domain="127.0.0.1", path="/")
        back = await browser.sign_in("alice")
        [line] = [line for line in back.headers.get_list("set-cookie") if line.startswith(COOKIE)]
        made = line.split(";")[0].partition("=")[2]
        assert made != planted
        assert len(made) == 43
        dead = await running.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={planted}")])
        assert dead.code == "login_required"


async def test_session_cookie_is_guarded(browser: Browser) -> None:
    """HttpOnly, Lax, the whole site; and the cookie of the sign-in goes with it."""
    back = await browser.sign_in("alice")
    gone, line = sorted(back.headers.get_list("set-cookie"), key=lambda text: text.startswith(COOKIE))
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{43}}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax", line)
    assert gone.startswith(PENDING)
    assert "Max-Age=0" in gone


# -- what is refused -----------------------------------------------------------------------------------------------


async def test_replayed_callback_is_refused(running: SignIn, browser: Browser) -> None:
    """[ID-12] Neither the used state nor, with the cookie kept by hand, the used code signs anybody in again."""
    callback = await browser.choose(await browser.begin(), "alice")
    kept = "; ".join(f"{cookie.name}={cookie.value}" for cookie in browser.client.cookies.jar)
    assert (await browser.client.get(callback)).status_code == 303
    assert exchanges(running) == 1
    refused(await browser.client.get(callback))
    async with httpx.AsyncClient(timeout=10, trust_env=False) as thief:
        refused(await thief.get(callback, headers={"Cookie": kept}))
    assert exchanges(running) == 1
    assert (await running.call(browser)).document["subject"] == "alice"


async def test_same_callback_twice_at_once_signs_in_once(running: SignIn, browser: Browser) -> None:
    """[ID-12] The first to take the state has it."""
    callback = await browser.choose(await browser.begin(), "alice")
    answers = await asyncio.gather(*(browser.client.get(callback) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [303, 400, 400, 400]
    assert exchanges(running) == 1


async def test_sign_ins_get_no_more_than_half_of_what_a_provider_may_be_asked(tmp_path: Path) -> None:
    """Anybody can begin them and make up codes; those who are signed in need the rest for their renewals."""
    async with (
        signing_in(tmp_path, provider=", limit: {at_once: 2}") as running,
        running.browser() as one, running.browser() as two, running.browser() as three,
    ):  # fmt: skip
        begun = [(browser, query_of(await browser.begin())["state"]) for browser in (one, two, three)]
        running.server.faults.change(slow=0.3)
        forged = {"iss": running.server.issuer, "code": "forged"}
        await asyncio.gather(
            *(browser.get("/oauth2/callback", params={**forged, "state": state}) for browser, state in begun)
        )
        first, second, third = (asked.time for asked in running.server.token_requests(grant_type="authorization_code"))
        assert second - first > 0.25
        assert third - second > 0.25


async def test_callback_in_another_browser_is_refused(running: SignIn, browser: Browser) -> None:
    """[ID-12] A victim who is given the attacker's callback is not signed in as the attacker."""
    callback = await browser.choose(await browser.begin(), "bob")
    async with running.browser() as victim:
        refused(await victim.client.get(callback))
        await victim.begin()
        refused(await victim.client.get(callback))
    assert exchanges(running) == 0


@pytest.mark.parametrize("before", ["\u00a0", "\u2000", "\u0085"])
async def test_cookie_that_another_host_may_plant_begins_nothing(
    before: str, running: SignIn, browser: Browser
) -> None:
    """[ID-12] Only to a loose reader does it have the name that browsers guard: no sign-in, and no session."""
    callback = await browser.choose(await browser.begin(), "alice")
    [begun] = browser.client.cookies.jar
    async with running.browser() as victim:
        planted = {"Cookie": f"{before}{begun.name}={begun.value}".encode()}
        refused(await victim.get(callback, headers=planted))
    await browser.client.get(callback)
    async with running.browser() as victim:
        planted = {"Cookie": f"{before}{COOKIE}={browser.session}".encode()}
        assert (await victim.get("/oauth2/session", headers=planted)).json()["signed_in"] is False


CHANGES: dict[str, Callable[[dict[str, str]], dict[str, str]]] = {
    "state-changed": lambda query: {**query, "state": query["state"][:-1] + "_"},
    "state-left-out": lambda query: {name: value for name, value in query.items() if name != "state"},
    "mixed-up-issuer": lambda query: {**query, "iss": "https://evil.example"},
    "issuer-left-out": lambda query: {name: value for name, value in query.items() if name != "iss"},
    "code-left-out": lambda query: {name: value for name, value in query.items() if name != "code"},
    "code-of-nobody": lambda query: {**query, "code": "made-up"},
    "with-tokens": lambda query: {**query, "access_token": "x"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_changed_callback_is_refused(change: Any, running: SignIn, browser: Browser) -> None:
    """[ID-12] And the code of a mixed-up answer is sent nowhere."""
    callback = await browser.choose(await browser.begin(), "alice")
    base, _, _ = callback.partition("?")
    refused(await browser.client.get(base, params=change(query_of(callback))))
    assert exchanges(running) == (change is CHANGES["code-of-nobody"])
    assert browser.session == ""


async def test_repeated_parameter_of_a_callback_is_refused(running: SignIn, browser: Browser) -> None:
    """Two codes: two readers could take different ones."""
    callback = await browser.choose(await browser.begin(), "alice")
    refused(await browser.client.get(f"{callback}&code=another"))
    assert exchanges(running) == 0


async def test_code_of_another_sign_in_is_refused(running: SignIn, browser: Browser) -> None:
    """[ID-12] An injected code fails at its PKCE challenge, even with state and iss right."""
    async with running.browser() as thief:
        stolen = query_of(await thief.choose(await thief.begin(), "bob"))["code"]
        callback = await browser.choose(await browser.begin(), "alice")
        base, _, _ = callback.partition("?")
        refused(await browser.client.get(base, params={**query_of(callback), "code": stolen}))
    assert running.server.token_requests(grant_type="authorization_code")[0].outcome == "invalid_grant"


@pytest.mark.parametrize(
    ("error", "status"),
    [("access_denied", 403), ("server_error", 503), ("invalid_scope", 502), ("<script>alert(1)</script>", 502)],
)
async def test_error_of_the_authorization_server_is_shown_safely(
    error: str, status: int, running: SignIn, browser: Browser
) -> None:
    """A page of ours, another try that keeps the place to return to, nothing of what was sent."""
    state = query_of(await browser.begin("/app/deep"))["state"]
    query = {"error": error, "error_description": "<b>boo</b>", "state": state, "iss": running.server.issuer}
    response = await browser.get("/oauth2/callback", params=query)
    refused(response, status)
    assert error not in response.text
    assert "boo" not in response.text
    assert "return_to=http%3A%2F%2F127.0.0.1" in response.text
    assert any(line.startswith(PENDING) and "Max-Age=0" in line for line in response.headers.get_list("set-cookie"))


@pytest.mark.parametrize(
    "return_to",
    ["//evil.example", "/\\evil.example", "%09//evil.example", "https://evil.example/app", "http://127.0.0.1:1/app",
     "https://127.0.0.1/app", "http://user@127.0.0.1/app", "/application", "/app/../x", "/", "", "javascript:alert(1)"],
)  # fmt: skip
@pytest.mark.parametrize("page", ["/oauth2/login", "/oauth2/logout"])
async def test_foreign_place_to_return_to_is_refused(page: str, return_to: str, browser: Browser) -> None:
    """[ID-13] Before the browser leaves, and without repeating it."""
    response = await browser.client.get(f"{browser.public}{page}?return_to={return_to}")
    refused(response)
    assert "location" not in response.headers
    assert "evil" not in response.text


async def test_unknown_provider_and_page_are_refused(browser: Browser) -> None:
    """By pages; programs get problems."""
    refused(await browser.get("/oauth2/login", params={"provider": "nobody"}), 404)
    refused(await browser.get("/oauth2/nothing"), 404)
    posted = await browser.post("/oauth2/login")
    refused(posted, 405)
    assert posted.headers["allow"] == "GET"
    head = await browser.client.head(f"{browser.public}/oauth2/callback?code=x&state=y")
    assert head.status_code == 405
    problem = await browser.get("/oauth2/backchannel-logout")
    assert (problem.status_code, problem.json()["code"]) == (405, "method_refused")


# -- ID tokens -----------------------------------------------------------------------------------------------------


def with_id_token(monkeypatch: pytest.MonkeyPatch, make: Callable[[State, dict[str, Any]], str | None]) -> None:
    """Let the authorization server give ID tokens that `make` makes of it and of the right claims."""
    real = State._id_token

    def made(state: State, grant: Any) -> Any:
        text = real(state, grant)
        payload = text.split(".")[1]
        claims = json.loads(unpadded(payload))
        return make(state, claims)

    monkeypatch.setattr(State, "_id_token", made)


def unpadded(text: str) -> bytes:
    """Return the bytes of base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def claims_changed(**changed: Any) -> Callable[[State, dict[str, Any]], str]:
    return lambda state, claims: state.signer.sign({**claims, **changed})


WRONG_ID_TOKENS: dict[str, Callable[[State, dict[str, Any]], str | None]] = {
    "nonce": claims_changed(nonce="another"),
    "nonce-left-out": lambda state, claims: state.signer.sign({n: v for n, v in claims.items() if n != "nonce"}),
    "audience": claims_changed(aud="another-client"),
    "issuer": claims_changed(iss="https://evil.example"),
    "authorized-party": claims_changed(azp="another-client"),
    "expired": claims_changed(exp=1),
    "from-the-future": claims_changed(iat=4_000_000_000, exp=4_000_000_100),
    "at-hash": claims_changed(at_hash="wrong"),
    "nobody": claims_changed(sub=""),
    "none-at-all": lambda _state, _claims: None,
    "unsigned": lambda _state, claims: unsigned(claims),
    "mac-by-the-clients-secret": lambda _state, claims: with_mac(claims, LEGACY.secret.encode()),
    "key-of-another": lambda _state, claims: Signer().sign(claims),
    "an-access-token": lambda state, claims: state.signer.sign(claims, "at+jwt"),
    "not-a-token": lambda _state, _claims: "not-a-token",
}


@pytest.mark.parametrize("make", WRONG_ID_TOKENS.values(), ids=WRONG_ID_TOKENS)
async def test_wrong_id_token_signs_nobody_in(
    make: Any, running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ID-12] And the tokens that came with it are revoked."""
    with_id_token(monkeypatch, make)
    refused(await browser.sign_in("alice"), 502)
    assert browser.session == ""
    assert all(token.family.dead for token in running.server.state.ledger.refresh.values())
    assert await running.program.broker.sessions.all() == []


async def test_sign_in_that_is_older_than_was_asked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`max_age` is judged here too: a user may take it out of the request's address."""
    async with signing_in(tmp_path, login=', params: {max_age: "60"}') as running, running.browser() as browser:
        assert (await browser.sign_in("alice")).status_code == 303
        with_id_token(monkeypatch, claims_changed(auth_time=int(running.clock()) - 600))
        refused(await browser.sign_in("alice"), 502)


async def test_renewal_for_another_user_ends_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[ID-14] The refreshed ID token says bob: alice's session is over, on no request was the token used."""
    async with signing_in(tmp_path, scope="openid profiles.read") as running, running.browser() as browser:
        await browser.sign_in("alice")
        with_id_token(monkeypatch, claims_changed(sub="bob"))
        running.clock.ahead += 310
        answer = await running.call(browser)
        assert (answer.status, answer.code) == (401, "login_required")
        assert (await browser.get("/oauth2/session")).json()["signed_in"] is False
        assert running.tokens == []
        assert all(token.family.dead for token in running.server.state.ledger.refresh.values())


@pytest.mark.parametrize("name", ["a new name", "the old one's name"])
async def test_rotated_key_of_the_server_is_found(name: str, running: SignIn, browser: Browser) -> None:
    """[IDP-16] The first token by a new key costs one look at the keys, whatever the new one is called."""
    former, signer = running.server.state.signer, Signer()
    if name != "a new name":
        signer._key = ECKey.import_key({**signer._key.as_dict(private=True), "kid": former._key.kid})
    await browser.sign_in("alice")
    running.clock.ahead += 60
    running.server.state.signer = signer
    assert (await browser.sign_in("bob")).status_code == 303
    assert [entry.endpoint for entry in running.server.requests].count("/jwks") == 2


# -- tabs, restarts, outages ---------------------------------------------------------------------------------------


async def test_several_tabs_sign_in_at_once(running: SignIn, browser: Browser) -> None:
    """Each has its own state; in whatever order they come back, the last one's session is the browser's."""
    urls = [await browser.begin(f"/app/{number}") for number in range(4)]
    callbacks = [await browser.choose(url, "alice") for url in urls]
    for number in (2, 0, 3, 1):
        back = await browser.client.get(callbacks[number])
        assert back.headers["location"] == f"{running.public}/app/{number}"
    assert (await running.call(browser)).document["subject"] == "alice"
    assert len(await running.program.broker.sessions.all()) == 1


async def test_endless_tabs_do_not_fill_the_cookie_header(browser: Browser) -> None:
    """The oldest of too many sign-ins is given up."""
    for _ in range(12):
        await browser.begin()
    assert len([cookie for cookie in browser.client.cookies.jar if cookie.name.startswith(PENDING)]) == 8


async def test_browser_with_long_addresses_in_many_tabs_can_still_sign_in(running: SignIn, browser: Browser) -> None:
    """Whatever another site lets it begin: the Cookie line stays short enough for every server on its way."""
    for number in range(8):
        url = await browser.begin(f"/app/{number}?" + "x" * 1400)
    assert sum(len(cookie.name) + len(cookie.value or "") for cookie in browser.client.cookies.jar) <= 4096
    assert (await browser.client.get(await browser.choose(url, "alice"))).status_code == 303
    assert (await running.call(browser)).document["subject"] == "alice"


async def test_browser_with_many_cookies_of_the_application_signs_in_and_out(running: SignIn, browser: Browser) -> None:
    """All of an origin's cookies come in one line: as many as an API call may bring."""
    callback = await browser.choose(await browser.begin(), "alice")
    for number in range(15):
        browser.client.cookies.set(f"app{number}", "x" * 4000)
    assert (await browser.get(callback)).status_code == 303
    assert (await browser.get("/oauth2/session")).json()["subject"] == "alice"
    cookie = "; ".join(f"{name}={value}" for name, value in browser.client.cookies.items())
    assert (await running.ask("http://profiles.internal/me", [("Cookie", cookie)])).status == 200
    assert (await browser.post("/oauth2/logout")).status_code == 303


async def test_endless_head_is_broken_off(running: SignIn, browser: Browser) -> None:
    """Lines that are each short enough fill no memory, neither on a new connection nor after a request."""
    where = urlsplit(running.public)
    for before in (b"", b"GET /oauth2/session HTTP/1.1\r\nHost: x\r\n\r\n"):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        writer.write(before)
        if before:
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /oauth2/session HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(20):
                writer.write(b"X-%d: %s\r\n" % (number, b"x" * 60_000))
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                assert await reader.read() == b""
        writer.close()
    assert (await browser.get("/oauth2/session")).status_code == 200


async def test_sign_in_and_session_survive_a_restart(tmp_path: Path) -> None:
    """What was begun before can be ended after; who was signed in stays so."""
    store = f"sqlite:{tmp_path}/sidecar.db"
    async with signing_in(tmp_path, store=store) as running, running.browser() as browser:
        await browser.sign_in("alice")
        callback = await browser.choose(await browser.begin(), "bob")
        await running.restart()
        assert (await running.call(browser)).document["subject"] == "alice"
        assert (await browser.client.get(callback)).status_code == 303
        assert (await running.call(browser)).document["subject"] == "bob"


async def test_sign_in_that_took_too_long_is_refused(running: SignIn, browser: Browser) -> None:
    """Ten minutes."""
    callback = await browser.choose(await browser.begin(), "alice")
    running.clock.ahead += 601
    refused(await browser.client.get(callback))
    assert exchanges(running) == 0


@pytest.mark.parametrize("stumbles", [{"status": 500}, {"status": 502}, {"down": True}], ids=["500", "502", "cut off"])
async def test_forged_code_that_the_provider_stumbles_over_stops_no_renewal(
    stumbles: dict[str, Any], running: SignIn, browser: Browser
) -> None:
    """[IDP-05] Anybody can begin a sign-in and make up its code: users with a session are served all the same."""
    await browser.sign_in("alice")
    running.clock.ahead += 310
    async with running.browser() as stranger:
        begun = query_of(await stranger.begin())
        running.server.state.faults.change(**stumbles, next=1)
        forged = {"state": begun["state"], "iss": running.server.issuer, "code": "forged"}
        refused(await stranger.get("/oauth2/callback", params=forged), 503)
    assert (await running.call(browser)).document["subject"] == "alice"


async def test_sign_in_while_the_provider_is_away_says_so(running: SignIn, browser: Browser) -> None:
    """A page with another try; then it works again."""
    await running.server.stop()
    refused(await browser.get("/oauth2/login"), 503)
    await running.server.start()
    running.clock.ahead += 1
    callback = await browser.choose(await browser.begin(), "alice")
    running.server.faults.change(status=503)
    refused(await browser.client.get(callback), 503)
    running.server.faults.clear()
    running.clock.ahead += 120
    assert (await browser.sign_in("alice")).status_code == 303


async def test_sign_in_while_the_store_is_away_says_so(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is signed in without a place for the session; the sign-out does not pretend."""

    async def away(*_args: object, **_named: object) -> Any:
        raise StoreUnavailableError

    callback = await browser.choose(await browser.begin(), "alice")
    with monkeypatch.context() as broken:
        broken.setattr(running.program.store, "put", away)
        refused(await browser.client.get(callback), 503)
    await browser.sign_in("alice")
    with monkeypatch.context() as broken:
        broken.setattr(running.program.store, "get", away)
        response = await browser.get("/oauth2/session")
        assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
        refused(await browser.post("/oauth2/logout"), 503)
    assert browser.session
    assert (await running.call(browser)).document["subject"] == "alice"


async def test_changed_configuration_holds_for_the_next_sign_in(running: SignIn, browser: Browser) -> None:
    """Scope and places are read again; another address of the listener needs a restart."""
    running.rewrite("openid profiles.read offline_access", "openid")
    assert await running.program.reload(ENVIRON)
    assert query_of(await browser.begin())["scope"] == "openid"
    running.rewrite('login: {bind: "127.0.0.1:', 'login: {bind: "127.0.0.2:')
    assert not await running.program.reload(ENVIRON)
    assert "login.bind" in running.program.error


@pytest.mark.parametrize("changed", ["issuer", "client_id"])
async def test_tokens_of_a_provider_that_a_reload_replaced_are_not_anothers(
    changed: str, running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name stands for another server or client while the code is exchanged: no session, the tokens revoked."""
    callback = await browser.choose(await browser.begin(), "alice")
    real = Provider.token

    async def slowly(self: Provider, *given: Any, **more: Any) -> Any:
        outcome = await real(self, *given, **more)
        if changed == "issuer":
            running.rewrite(running.server.issuer, running.server.issuer.replace("127.0.0.1", "localhost"))
        else:
            running.rewrite("client_id: legacy-app", "client_id: another")
        assert await running.program.reload(ENVIRON)
        return outcome

    monkeypatch.setattr(Provider, "token", slowly)
    refused(await browser.client.get(callback))
    assert [token.family.dead for token in running.server.state.ledger.refresh.values()] == [True]
    assert await running.program.broker.sessions.all() == []


# -- signing out ---------------------------------------------------------------------------------------------------


async def test_sign_out_is_asked_for_first(running: SignIn, browser: Browser) -> None:
    """A link signs nobody out; the page's button does, and leads where it was asked for."""
    await browser.sign_in("alice")
    page = await browser.get("/oauth2/logout", params={"return_to": "/app/bye"})
    assert page.status_code == 200
    assert "alice" in page.text
    assert "form-action 'self'" in page.headers["content-security-policy"]
    assert (await running.call(browser)).status == 200
    [(name, value)] = re.findall(r'name="(\w+)" value="([^"]+)"', page.text)
    gone = await browser.post("/oauth2/logout", data={name: value}, headers={"Origin": running.public})
    assert gone.headers["location"] == f"{running.public}/app/bye"
    nobody = await browser.get("/oauth2/logout")
    assert (nobody.status_code, nobody.headers["location"]) == (303, f"{running.public}/app")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://evil.127.0.0.1"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
async def test_strangers_form_signs_nobody_out(headers: dict[str, str], running: SignIn, browser: Browser) -> None:
    """CSRF: from another site, a sibling, or another port."""
    await browser.sign_in("alice")
    refused(await browser.post("/oauth2/logout", headers=headers), 403)
    assert (await running.call(browser)).document["subject"] == "alice"


async def test_sign_out_goes_on_at_the_provider(tmp_path: Path) -> None:
    """With the ID token as hint and the place to return to; a script gets the address instead of a redirect."""
    async with (
        signing_in(tmp_path, provider=', end_session_endpoint: "http://127.0.0.1:1/end?x=1"') as running,
        running.browser() as browser,
    ):
        for accept in ("text/html", "application/json"):
            await browser.sign_in("alice")
            gone = await browser.post("/oauth2/logout", headers={"Accept": accept}, data={"return_to": "/app/bye"})
            url = gone.headers.get("location") or gone.json()["logout_url"]
            asked = query_of(url)
            assert url.startswith("http://127.0.0.1:1/end?x=1&")
            assert asked["post_logout_redirect_uri"] == f"{running.public}/app/bye"
            assert json.loads(unpadded(asked["id_token_hint"].split(".")[1]))["sub"] == "alice"
            assert browser.session == ""
        nobody = await browser.post("/oauth2/logout")
        assert nobody.headers["location"] == f"{running.public}/app"


async def test_id_token_of_a_former_client_is_no_hint_at_the_sign_out(tmp_path: Path) -> None:
    """A reload has given the provider's name to another registration: the browser carries no token there."""
    provider = ', end_session_endpoint: "https://idp.example/end"'
    async with signing_in(tmp_path, provider=provider) as running, running.browser() as browser:
        await browser.sign_in("alice")
        running.rewrite("client_id: legacy-app", "client_id: another")
        assert await running.program.reload(ENVIRON)
        gone = await browser.post("/oauth2/logout")
        assert (gone.status_code, gone.headers["location"]) == (303, f"{running.public}/app")


async def test_sign_out_of_more_sessions_than_a_browser_has_asks_the_store_for_none(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[ID-15] A Cookie line of 50 kB took the store for seconds, and needed nobody to be signed in."""
    await browser.sign_in("alice")
    asked: list[str] = []
    real = running.program.broker.sessions.erase

    async def counted(name: str, **named: Any) -> bool:
        asked.append(name)
        return await real(name, **named)

    monkeypatch.setattr(running.program.broker.sessions, "erase", counted)
    for number, status in ((33, 400), (32, 303)):
        cookie = "; ".join(f"{COOKIE}={n}" for n in range(number))
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            response = await client.post(f"{running.public}/oauth2/logout", headers={"Cookie": cookie})
        assert (response.status_code, len(asked)) == (status, 0 if status == 400 else 32)
    assert (await running.call(browser)).status == 200


async def test_sign_out_works_while_the_provider_is_away(running: SignIn, browser: Browser) -> None:
    """Here the session ends; that the provider could not be told is not the user's trouble."""
    await browser.sign_in("alice")
    session = browser.session
    await running.server.stop()
    assert (await browser.post("/oauth2/logout")).status_code == 303
    dead = await running.ask("http://profiles.internal/me", [("Cookie", f"{COOKIE}={session}")])
    assert dead.code == "login_required"


async def test_session_ends_before_the_provider_is_asked_for_its_sign_out(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that hangs, and whose metadata is not known yet, does not keep a session alive."""
    await browser.sign_in("alice")
    real, left = Provider.metadata, []

    async def asked(provider: Provider) -> Any:
        left.append(await running.program.broker.sessions.all())
        return await real(provider)

    monkeypatch.setattr(Provider, "metadata", asked)
    assert (await browser.post("/oauth2/logout")).status_code == 303
    assert left == [[]]


# -- back-channel logout -------------------------------------------------------------------------------------------


async def told(browser: Browser, token: str) -> httpx.Response:
    """Send a logout token as the authorization server does."""
    return await browser.post("/oauth2/backchannel-logout", data={"logout_token": token})


async def signed_in_with_sid(running: SignIn, monkeypatch: pytest.MonkeyPatch, user: str, sid: str) -> Browser:
    browser = running.browser()
    with monkeypatch.context() as patched:
        with_id_token(patched, claims_changed(sid=sid))
        assert (await browser.sign_in(user)).status_code == 303
    return browser


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ({"sid": "sid-1"}, ["second", "bob"]),
        ({"sub": "alice", "sid": "sid-1"}, ["second", "bob"]),
        ({"sub": "alice"}, ["bob"]),
        ({"sub": "bob", "sid": "sid-1"}, ["first", "second", "bob"]),
        ({"sid": "sid-9"}, ["first", "second", "bob"]),
    ],
    ids=["by-sid", "by-sid-and-sub", "by-sub", "by-sid-of-another", "by-unknown-sid"],
)
async def test_issuer_signs_out_whom_it_names(
    named: dict[str, str], left: list[str], running: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One session by `sid`, all of a user by `sub`; at once, and nobody else."""
    browsers = {
        "first": await signed_in_with_sid(running, monkeypatch, "alice", "sid-1"),
        "second": await signed_in_with_sid(running, monkeypatch, "alice", "sid-2"),
        "bob": await signed_in_with_sid(running, monkeypatch, "bob", "sid-3"),
    }
    for browser in browsers.values():
        assert (await running.call(browser)).status == 200
    response = await told(browsers["first"], running.logout_token(**named))
    assert (response.status_code, response.headers["cache-control"], response.content) == (200, "no-store", b"")
    served = [name for name, browser in browsers.items() if (await running.call(browser)).status == 200]
    assert served == left
    for browser in browsers.values():
        await browser.client.aclose()


async def test_replayed_logout_token_is_refused(running: SignIn, browser: Browser) -> None:
    """Somebody who kept it cannot sign the user out again and again."""
    await browser.sign_in("alice")
    token = running.logout_token(sub="alice")
    assert (await told(browser, token)).status_code == 200
    await browser.sign_in("alice")
    response = await told(browser, token)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert (await running.call(browser)).document["subject"] == "alice"
    running.clock.ahead += 500  # the record of the replay is gone by now, and the token has expired
    assert (await told(browser, token)).status_code == 400


async def test_logout_while_a_sign_in_is_under_way_ends_it(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokens were on their way when their issuer signed the user out: no session outlives that."""
    real = Provider.token

    async def overtaken(*args: Any, **named: Any) -> Any:
        outcome = await real(*args, **named)
        assert (await told(browser, running.logout_token(sub="alice"))).status_code == 200
        return outcome

    with monkeypatch.context() as patched:
        patched.setattr(Provider, "token", overtaken)
        refused(await browser.sign_in("alice"), 409)
    assert await running.program.broker.sessions.all() == []
    assert all(token.family.dead for token in running.server.state.ledger.refresh.values())
    assert (await browser.sign_in("alice")).status_code == 303


WRONG_LOGOUT: dict[str, dict[str, Any]] = {
    "issuer": {"iss": "https://evil.example"},
    "audience": {"aud": "another-client"},
    "no-event": {"events": None},
    "nonce": {"nonce": "x"},
    "no-jti": {"jti": None},
    "no-exp": {"exp": None},
    "expired": {"exp": 1},
    "old": {"iat": 1},
    "nobody": {"sub": None},
    "foreign-key": {"sign": Signer()},
}


@pytest.mark.parametrize("changed", WRONG_LOGOUT.values(), ids=WRONG_LOGOUT)
async def test_wrong_logout_token_is_refused(changed: dict[str, Any], running: SignIn, browser: Browser) -> None:
    """400, not to be stored, and everybody stays signed in."""
    await browser.sign_in("alice")
    response = await told(browser, running.logout_token(**{"sub": "alice", **changed}))
    assert (response.status_code, response.headers["cache-control"]) == (400, "no-store")
    assert response.json()["error"] == "invalid_request"
    assert (await running.call(browser)).document["subject"] == "alice"


@pytest.mark.parametrize("body", [{}, {"logout_token": ""}, {"logout_token": "x.y.z"}, {"logout_token": part({})}])
async def test_request_without_a_logout_token_is_refused(body: dict[str, str], browser: Browser) -> None:
    """Nothing, junk, half a token."""
    assert (await browser.post("/oauth2/backchannel-logout", data=body)).status_code == 400
    assert (await browser.post("/oauth2/backchannel-logout", json=body)).status_code == 400
    too_large = await browser.post("/oauth2/backchannel-logout", data={"logout_token": "x" * 100_000})
    assert too_large.status_code == 413


@pytest.mark.parametrize("path", ["/oauth2/logout", "/oauth2/backchannel-logout"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("; charset=nonsense", b"logout_token=x&return_to=/app"),
        ("; charset=utf-16", b"logout_token=x"),
        ("", b"logout_token=\xff"),
        ("", b"&".join([b"a=1"] * 50)),
        ("", b"logout_token=a&logout_token=b"),
    ],
)
async def test_form_that_cannot_be_read_is_an_empty_one(path: str, kind: str, body: bytes, browser: Browser) -> None:
    """No charset, byte or number of fields is a fault of ours."""
    headers = {"Content-Type": f"application/x-www-form-urlencoded{kind}"}
    response = await browser.post(path, content=body, headers=headers)
    assert response.status_code == (303 if path.endswith("/logout") else 400)


@pytest.mark.parametrize("path", ["/oauth2/callback", "/oauth2/login", "/oauth2/logout"])
@pytest.mark.parametrize(
    "query", ["state=%ff&code=%00", "return_to=%ff", "provider=%ed%a0%80", "%", "state=" + "x" * 7000]
)
async def test_query_that_is_no_text_is_refused_or_ignored(path: str, query: str, browser: Browser) -> None:
    """Whatever the bytes, a page or a redirect of ours."""
    response = await browser.client.get(f"{browser.public}{path}?{query}")
    assert response.status_code in (303, 400, 404)


async def test_api_cannot_set_the_session_cookie(running: SignIn, browser: Browser) -> None:
    """[LK-15] Fixation by the upstream: its other cookies pass."""
    await browser.sign_in("alice")
    lines = b"Set-Cookie: theme=dark\r\nSet-Cookie: sidecar_session=planted; Path=/"
    running.upstream.default = lambda _one: [upstream_response(b"x", 200, lines)]
    answer = await running.call(browser)
    assert answer.all("set-cookie") == ["theme=dark"]


async def test_sessions_of_a_provider_that_signs_in_nobody_any_more_still_end_there(tmp_path: Path) -> None:
    """While users move on to the next provider, the former one's logout tokens and sign-out page hold."""
    next_one = '  next: {issuer: "https://next.example", client_id: x, client_secret: "${CLIENT_SECRET}"}'
    login, end = ", provider: [idp]", ', end_session_endpoint: "http://127.0.0.1:1/end"'
    async with (
        signing_in(tmp_path, provider=end, providers=next_one, login=login) as running,
        running.browser() as one,
        running.browser() as two,
    ):
        await one.sign_in("alice")
        await two.sign_in("bob")
        running.rewrite(login, ", provider: [next]")
        assert await running.program.reload(ENVIRON)
        assert (await running.call(one)).status == 200
        assert (await told(one, running.logout_token(sub="alice"))).status_code == 200
        assert (await running.call(one)).code == "login_required"
        assert (await two.post("/oauth2/logout")).headers["location"].startswith("http://127.0.0.1:1/end?")


async def test_failed_logout_may_be_tried_again(
    running: SignIn, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was away for a moment: the issuer is told, and the same token works later."""
    await browser.sign_in("alice")
    token = running.logout_token(sub="alice")
    calls = 0
    real = running.program.store.delete

    async def away_once(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreUnavailableError
        return await real(*args, **named)

    monkeypatch.setattr(running.program.store, "delete", away_once)
    assert (await told(browser, token)).status_code == 400
    assert (await told(browser, token)).status_code == 200
    assert (await running.call(browser)).code == "login_required"


# -- pushed requests, https, secrecy -------------------------------------------------------------------------------


async def test_pushed_request_shows_nothing_to_the_browser(tmp_path: Path) -> None:
    """RFC 9126: the client authenticates and pushes; the browser carries a reference, and errors come before it."""
    got: list[tuple[str, dict[str, str]]] = []
    answers = [
        web.json_response({"request_uri": "urn:ietf:params:oauth:request_uri:1", "expires_in": 60}, status=201),
        web.json_response({"error": "invalid_request", "error_description": "<b>"}, status=400),
        web.Response(status=503),
        web.Response(text="<html>"),
    ]

    async def push(request: web.Request) -> web.Response:
        form = await request.post()
        got.append((request.headers.get("Authorization", ""), {name: str(value) for name, value in form.items()}))
        return answers[len(got) - 1]

    application = web.Application()
    application.router.add_post("/par", push)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    provider = f', pushed_authorization_request_endpoint: "http://127.0.0.1:{port}/par"'
    async with (
        signing_in(tmp_path, provider=provider, login=", params: {prompt: login}") as running,
        running.browser() as browser,
    ):
        url = await browser.begin()
        assert query_of(url) == {"client_id": "legacy-app", "request_uri": "urn:ietf:params:oauth:request_uri:1"}
        authorization, form = got[0]
        assert authorization.startswith("Basic ")
        assert form["client_id"] == "legacy-app"
        assert (form["prompt"], form["code_challenge_method"]) == ("login", "S256")
        assert form["redirect_uri"] == f"{running.public}/oauth2/callback"
        for status in (502, 503, 502):
            refused(await browser.get("/oauth2/login"), status)
    await runner.cleanup()


async def test_authorization_request_names_every_resource_of_the_file(tmp_path: Path) -> None:
    """RFC 8707 section 2.1: a parameter for each, so that a renewal may ask for any of them later."""
    login = ", resource: [https://a.example.com, https://b.example.com/x]"
    async with signing_in(tmp_path, login=login) as running, running.browser() as browser:
        query = parse_qs(urlsplit(await browser.begin()).query)
        assert query["resource"] == ["https://a.example.com", "https://b.example.com/x"]


async def test_authorization_request_names_the_audience_of_the_file(tmp_path: Path) -> None:
    """Some providers make an API's tokens only so; the sign-in's token serves the routes that name none."""
    login = ", audience: 'https://api.example.com/'"
    async with signing_in(tmp_path, login=login) as running, running.browser() as browser:
        begun = await browser.begin()
        assert query_of(begun)["audience"] == "https://api.example.com/"
        await browser.get(await browser.choose(begun, "alice"))
        assert (await running.call(browser)).document["subject"] == "alice"
        assert running.server.token_requests(grant_type="refresh_token") == []


async def test_push_that_is_required_and_not_offered_is_refused(tmp_path: Path) -> None:
    """`par: require` never falls back to the browser."""
    async with signing_in(tmp_path, login=", par: require") as running, running.browser() as browser:
        refused(await browser.get("/oauth2/login"), 502)


async def test_https_origin_has_guarded_cookies_and_one_name_for_all(tmp_path: Path) -> None:
    """`__Host-`, Secure; callers are looked for under the same name, and it stays off the upstream."""
    async with signing_in(tmp_path, public="https://app.test") as running:
        name = f"__Host-{COOKIE}"
        port = running.program.login_address.port  # type: ignore[union-attr]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client:
            begun = await client.get("/oauth2/login")
            [line] = begun.headers.get_list("set-cookie")
            assert line.startswith(f"__Host-{PENDING}")
            assert line.endswith("; HttpOnly; SameSite=Lax; Secure")
            helper = Browser("https://app.test")
            callback = await helper.choose(begun.headers["location"], "alice")
            assert callback.startswith("https://app.test/oauth2/callback?")
            back = await client.get(callback.removeprefix("https://app.test"), headers={"Cookie": line.split(";")[0]})
            assert back.headers["location"] == "https://app.test/app"
            [session] = [text for text in back.headers.get_list("set-cookie") if text.startswith(name)]
            assert session.endswith("; HttpOnly; SameSite=Lax; Secure")
            await helper.client.aclose()
        cookie = session.split(";")[0]
        answer = await running.ask("http://profiles.internal/me", [("Cookie", f"theme=dark; {cookie}")])
        assert answer.document["subject"] == "alice"
        assert [one.all(b"cookie") for one in running.seen] == [[b"theme=dark"]]
        plain = await running.ask("http://profiles.internal/me", [("Cookie", cookie.removeprefix("__Host-"))])
        assert plain.code == "login_required"


async def test_nothing_secret_is_logged(
    running: SignIn, browser: Browser, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """State, nonce, verifier, code, tokens and session ids: in no line of any logger, through success and failure."""
    caplog.set_level(logging.DEBUG)
    url = await browser.begin()
    callback = await browser.choose(url, "alice")
    await browser.client.get(callback)
    await browser.client.get(callback)
    session = browser.session
    await running.call(browser)
    logout = running.logout_token(sub="alice")
    await told(browser, logout)
    await told(browser, logout)
    await browser.post("/oauth2/logout")
    state = query_of(await browser.begin())["state"]
    spoken = {"error": "no-such-code-7f3a", "state": state, "iss": running.server.issuer}
    refused(await browser.get("/oauth2/callback", params=spoken), 502)
    ledger = running.server.state.ledger
    secret = {session, logout, spoken["error"], query_of(callback)["code"], *ledger.refresh, *ledger.access}
    secret |= {query_of(url)[name] for name in ("state", "nonce", "code_challenge")}
    written = capfd.readouterr()
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    everything = written.out + written.err + "".join(record.getMessage() + repr(record.__dict__) for record in ours)
    assert "sign_in_refused" in everything
    assert [text for text in secret if text in everything] == []


async def test_lifetimes_of_the_configuration_hold(tmp_path: Path) -> None:
    """The cookie goes with the session; idle ends it earlier."""
    async with (
        signing_in(tmp_path, more="sessions: {idle: 10m, absolute: 1h}") as running,
        running.browser() as browser,
    ):
        back = await browser.sign_in("alice")
        assert any("Max-Age=3600;" in line for line in back.headers.get_list("set-cookie"))
        running.clock.ahead += 599
        assert (await browser.get("/oauth2/session")).json()["signed_in"] is True
        running.clock.ahead += 2
        assert (await browser.get("/oauth2/session")).json()["signed_in"] is False
        assert (await running.call(browser)).code == "login_required"


async def test_sign_ins_beyond_the_limit_are_asked_to_try_again(tmp_path: Path) -> None:
    """A flood of beginnings asks nothing of the provider and stores nothing; what came of each is counted."""
    async with signing_in(tmp_path, login=", per_second: 2") as running, running.browser() as browser:
        answers = [await browser.get("/oauth2/login") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [303, 303, 503, 503]
        refused(answers[-1], 503)
        assert answers[-1].headers["retry-after"]
        running.clock.ahead += 2
        assert (await browser.sign_in("alice")).status_code == 303
        metrics = (await running.admin("GET", "/metrics")).body.decode()
        counted = dict(re.findall(r'^sidecar_sign_ins_total{result="(\w+)"} (\d+)', metrics, re.MULTILINE))
        assert counted == {"begun": "3", "busy": "2", "signed_in": "1"}
        assert re.search(r'^sidecar_tokens{state="fresh"} \d', metrics, re.MULTILINE)
