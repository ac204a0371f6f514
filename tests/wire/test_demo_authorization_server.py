"""The demo's authorization server is as strict as a real one: the other tests lean on it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, quote_plus, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from sidecar.demo.api import Api
from tests.support.authorization_server import (
    CALLBACK,
    CLIENTS,
    LEGACY,
    MISSING,
    POST,
    PUBLIC,
    RESOURCE,
    AuthorizationServer,
    Client,
    challenge,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

VERIFIER = "v" * 43
CODE_REQUEST = {
    "response_type": "code",
    "client_id": LEGACY.client_id,
    "redirect_uri": CALLBACK,
    "scope": "openid profiles.read",
    "state": "the-state",
    "nonce": "the-nonce",
    "code_challenge": challenge(VERIFIER),
    "code_challenge_method": "S256",
}


@pytest.fixture
async def http(authorization_server: AuthorizationServer) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client whose base URL is the issuer and whose waits are bounded."""
    async with caller(authorization_server) as client:
        yield client


def caller(server: AuthorizationServer) -> httpx.AsyncClient:
    """Return a client for one server, whatever the environment says about proxies."""
    return httpx.AsyncClient(base_url=server.issuer, timeout=5, trust_env=False)


def basic(client: Client) -> httpx.BasicAuth:
    """Return Basic authentication as RFC 6749 section 2.3.1 writes it."""
    return httpx.BasicAuth(quote_plus(client.client_id), quote_plus(client.secret))


async def token(http: httpx.AsyncClient, client: Client = LEGACY, **form: Any) -> httpx.Response:
    """Ask the token endpoint as `client`, authenticated in its own way."""
    if client.auth == "client_secret_basic":
        return await http.post("/token", data=form, auth=basic(client))
    secret = {"client_secret": client.secret} if client.secret else {}
    return await http.post("/token", data=form | {"client_id": client.client_id} | secret)


async def refresh(http: httpx.AsyncClient, refresh_token: str, **form: Any) -> httpx.Response:
    """Use a refresh token of the legacy application."""
    return await token(http, grant_type="refresh_token", refresh_token=refresh_token, **form)


async def sign_in(http: httpx.AsyncClient, user: str = "alice", **changes: str) -> dict[str, str]:
    """Press a button of the sign-in page and return the parameters of the redirect."""
    answer = await http.post("/authorize", params=CODE_REQUEST | changes, data={"user": user})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(CALLBACK + "?")
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


async def redeem(http: httpx.AsyncClient, text: str, **changes: str) -> httpx.Response:
    """Redeem a code as the legacy application."""
    form = {"code": text, "redirect_uri": CALLBACK, "code_verifier": VERIFIER} | changes
    return await token(http, grant_type="authorization_code", **form)


async def active(http: httpx.AsyncClient, access_token: str) -> bool:
    """Ask by introspection whether a token is good."""
    answer = await http.post("/introspect", data={"token": access_token}, auth=basic(RESOURCE))
    return bool(answer.json()["active"])


async def claims(http: httpx.AsyncClient, text: str) -> dict[str, Any]:
    """Verify a JWT against the published keys and return its claims."""
    keys = KeySet.import_key_set((await http.get("/jwks")).json())
    return jwt.decode(text, keys, algorithms=["ES256"]).claims


# -- metadata ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", ["openid-configuration", "oauth-authorization-server"])
async def test_metadata_names_its_own_issuer_and_living_endpoints(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient, document: str
) -> None:
    """Discovery gives the issuer that was asked and endpoints below it."""
    metadata = (await http.get(f"/.well-known/{document}")).json()
    assert metadata["issuer"] == authorization_server.issuer
    for name in ("token_endpoint", "authorization_endpoint", "revocation_endpoint", "jwks_uri"):
        assert metadata[name].startswith(authorization_server.issuer + "/")
    assert list((await http.get(metadata["jwks_uri"])).json()["keys"][0]) == [
        "crv",
        "x",
        "y",
        "use",
        "alg",
        "kty",
        "kid",
    ]


# -- client authentication -----------------------------------------------------------------------------------------

CC = {"grant_type": "client_credentials", "scope": "a"}


@pytest.mark.parametrize("client", [LEGACY, POST], ids=lambda client: client.auth)
async def test_client_with_its_registered_method_gets_a_token(http: httpx.AsyncClient, client: Client) -> None:
    """Basic (form-decoded) and post both work for the client that registered them."""
    answer = await token(http, client, **CC)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = await claims(http, answer.json()["access_token"])
    assert (found["sub"], found["client_id"], found["scope"], found["aud"]) == (client.client_id,) * 2 + (
        "a",
        "demo-api",
    )


@pytest.mark.parametrize(
    ("data", "auth", "error"),
    [
        (CC, httpx.BasicAuth(LEGACY.client_id, LEGACY.secret), "invalid_client"),
        (CC, httpx.BasicAuth("nobody", "x"), "invalid_client"),
        (CC, basic(POST), "invalid_client"),
        (CC | {"client_id": LEGACY.client_id, "client_secret": LEGACY.secret}, None, "invalid_client"),
        (CC | {"client_id": POST.client_id}, None, "invalid_client"),
        (CC | {"client_secret": LEGACY.secret}, basic(LEGACY), "invalid_request"),
        (CC | {"client_id": "other"}, basic(LEGACY), "invalid_request"),
        (CC | {"client_id": PUBLIC.client_id}, None, "unauthorized_client"),
        (CC, basic(RESOURCE), "unauthorized_client"),
        ({"grant_type": "password"}, basic(LEGACY), "unsupported_grant_type"),
        ({"scope": "a"}, basic(LEGACY), "invalid_request"),
        ({"grant_type": ["client_credentials"] * 2}, basic(LEGACY), "invalid_request"),
        (CC | {"scope": 'a "b"'}, basic(LEGACY), "invalid_scope"),
        (CC | {"scope": "a  b"}, basic(LEGACY), "invalid_scope"),
        (CC | {"scope": "c", "client_id": POST.client_id, "client_secret": POST.secret}, None, "invalid_scope"),
        (CC | {"resource": "relative"}, basic(LEGACY), "invalid_target"),
        (CC | {"resource": "https://api.test/#x"}, basic(LEGACY), "invalid_target"),
    ],
)
async def test_token_request_with_one_thing_wrong_is_refused(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient, data: dict[str, Any], auth: Any, error: str
) -> None:
    """Each fault gives its code of RFC 6749 section 5.2, 401 with a challenge for the client's own, and is recorded."""
    answer = await http.post("/token", data=data, auth=auth)
    assert answer.json()["error"] == error
    assert answer.status_code == (401 if error == "invalid_client" else 400)
    assert ("www-authenticate" in answer.headers) == (error == "invalid_client")
    assert [record.outcome for record in authorization_server.requests] == [error]


async def test_form_in_the_query_or_as_json_is_refused(http: httpx.AsyncClient) -> None:
    """Parameters of the token endpoint stand in a form body only."""
    for answer in (
        await http.post("/token", params=CC, auth=basic(LEGACY)),
        await http.post("/token", params={"x": "y"}, data=CC, auth=basic(LEGACY)),
        await http.post("/token", json=CC, auth=basic(LEGACY)),
    ):
        assert answer.json()["error"] == "invalid_request"


@pytest.mark.parametrize(
    ("targets", "audience"),
    [
        ({"audience": "billing"}, "billing"),
        ({"resource": "https://api.test/"}, "https://api.test/"),
        (
            {"resource": ["https://a.test", "https://b.test"], "audience": "c"},
            ["https://a.test", "https://b.test", "c"],
        ),
    ],
)
async def test_resource_and_audience_become_the_aud_claim(http: httpx.AsyncClient, targets: Any, audience: Any) -> None:
    """RFC 8707: every resource asked for, and no other, is the token's audience."""
    answer = await token(http, **CC, **targets)
    assert (await claims(http, answer.json()["access_token"]))["aud"] == audience


# -- code flow -----------------------------------------------------------------------------------------------------


async def test_code_flow_gives_tokens_of_the_chosen_user(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """Code, PKCE, state, iss and nonce come out as they went in."""
    back = await sign_in(http, "bob")
    assert (back["state"], back["iss"]) == ("the-state", authorization_server.issuer)
    answer = (await redeem(http, back["code"])).json()
    access, identity = await claims(http, answer["access_token"]), await claims(http, answer["id_token"])
    assert (access["sub"], access["scope"], answer["scope"]) == ("bob", "openid profiles.read", "openid profiles.read")
    assert (identity["sub"], identity["aud"], identity["nonce"]) == ("bob", LEGACY.client_id, "the-nonce")
    userinfo = await http.get("/userinfo", headers={"Authorization": f"Bearer {answer['access_token']}"})
    assert userinfo.json() == {"sub": "bob", "name": "Bob Cratchit"}


@pytest.mark.parametrize(
    "changes",
    [{"code_verifier": "w" * 43}, {"code_verifier": "short"}, {"redirect_uri": CALLBACK + "/"}, {"code": "unknown"}],
)
async def test_code_with_one_thing_wrong_is_refused_and_spent(http: httpx.AsyncClient, changes: dict[str, str]) -> None:
    """[ID-12] A wrong verifier, redirect_uri or code gives invalid_grant, and a failed try uses the code up."""
    code = (await sign_in(http))["code"]
    assert (await redeem(http, code, **changes)).json()["error"] == "invalid_grant"
    again = await redeem(http, code)
    assert (again.status_code == 200) == ("code" in changes)


async def test_code_of_another_client_is_refused_and_stays_good(http: httpx.AsyncClient) -> None:
    """A code works for the client it was issued to only."""
    code = (await sign_in(http))["code"]
    form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER, "grant_type": "authorization_code"}
    assert (await token(http, PUBLIC, **form)).json()["error"] == "invalid_grant"
    assert (await redeem(http, code)).status_code == 200


async def test_replayed_code_kills_what_it_bought(http: httpx.AsyncClient) -> None:
    """[ID-12] RFC 6749 section 4.1.2: the second use is refused and revokes the tokens of the first."""
    code = (await sign_in(http))["code"]
    bought = (await redeem(http, code)).json()
    assert await active(http, bought["access_token"])
    assert (await redeem(http, code)).json()["error"] == "invalid_grant"
    assert not await active(http, bought["access_token"])
    assert (await refresh(http, bought["refresh_token"])).json()["error"] == "invalid_grant"


async def test_code_after_a_minute_is_refused() -> None:
    """The life of a code ends by the server's clock."""
    now = time.time()
    async with AuthorizationServer(CLIENTS, clock=lambda: now) as server, caller(server) as http:
        code = (await sign_in(http))["code"]
        now += 60
        assert (await redeem(http, code)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"scope": "a\tb"}, "invalid_scope"),
        ({"resource": "relative"}, "invalid_target"),
    ],
)
async def test_bad_authorization_request_goes_back_with_its_error(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient, changes: dict[str, str], error: str
) -> None:
    """An error goes to the registered redirect_uri, with state and iss, and never with a code."""
    back = await sign_in(http, **changes)
    assert (back["error"], back["state"], back["iss"]) == (error, "the-state", authorization_server.issuer)
    assert "code" not in back


async def test_prompt_none_and_unknown_user_get_no_code(http: httpx.AsyncClient) -> None:
    """Nobody is signed in without pressing a button that exists."""
    silent = await http.get("/authorize", params=CODE_REQUEST | {"prompt": "none"})
    assert "error=login_required" in silent.headers["location"]
    assert (await sign_in(http, "mallory"))["error"] == "access_denied"


@pytest.mark.parametrize(
    "changes", [{"client_id": "nobody"}, {"redirect_uri": "https://evil.test/"}, {"redirect_uri": ""}]
)
async def test_unregistered_client_or_address_is_never_redirected_to(
    http: httpx.AsyncClient, changes: dict[str, str]
) -> None:
    """RFC 6749 section 4.1.2.1: such an error is a page."""
    answer = await http.post("/authorize", params=CODE_REQUEST | changes, data={"user": "alice"})
    assert answer.status_code == 400
    assert "location" not in answer.headers


async def test_sign_in_page_escapes_and_allows_no_script(http: httpx.AsyncClient) -> None:
    """The page shows what it was given as text, and its policy allows nothing but its own style and form."""
    page = await http.get("/authorize", params=CODE_REQUEST | {"scope": "a<script>", "state": '"><script>'})
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert "Sign in as Alice" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
    assert page.headers["content-security-policy"].endswith("form-action 'self' http://127.0.0.1:1")


# -- refresh, rotation, reuse --------------------------------------------------------------------------------------


async def test_refresh_rotates_and_a_reuse_kills_the_family(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """RFC 9700 section 4.14.2: the old token buys nothing, and using it revokes the access tokens bought since."""
    first = authorization_server.issue("alice", "a b", LEGACY.client_id)
    second = (await refresh(http, first["refresh_token"])).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert await active(http, first["access_token"])
    assert await active(http, second["access_token"])
    assert (await refresh(http, first["refresh_token"])).json()["error"] == "invalid_grant"
    assert not await active(http, first["access_token"])
    assert not await active(http, second["access_token"])
    assert (await refresh(http, second["refresh_token"])).json()["error"] == "invalid_grant"


async def test_two_concurrent_refreshes_of_one_token_end_the_session(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """One of them wins, and the winner's tokens are dead as well."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)
    authorization_server.faults.slow = 0.05
    answers = await asyncio.gather(*(refresh(http, held["refresh_token"]) for _ in range(2)))
    assert sorted(answer.status_code for answer in answers) == [200, 400]
    winner = next(answer.json() for answer in answers if answer.status_code == 200)
    assert not await active(http, winner["access_token"])
    assert (await refresh(http, winner["refresh_token"])).json()["error"] == "invalid_grant"


async def test_leeway_lets_a_spent_token_work_until_it_is_over() -> None:
    """Within the leeway a second use is a retry, after it a theft."""
    now = time.time()
    async with AuthorizationServer(CLIENTS, clock=lambda: now) as server:
        server.policy.leeway = 10
        held = server.issue("alice", "a", LEGACY.client_id)["refresh_token"]
        async with caller(server) as http:
            assert [(await refresh(http, held)).status_code for _ in range(2)] == [200, 200]
            now += 10
            assert (await refresh(http, held)).status_code == 400


async def test_refresh_without_rotation_keeps_the_token(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """With rotation off the answer holds no refresh token and the old one works again."""
    authorization_server.policy.rotate = False
    held = authorization_server.issue("alice", "a", LEGACY.client_id)["refresh_token"]
    for _ in range(2):
        answer = await refresh(http, held)
        assert answer.status_code == 200
        assert "refresh_token" not in answer.json()


async def test_refresh_narrows_scope_and_audience_and_never_widens(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """RFC 6749 section 6, RFC 8707 section 2.2; the whole grant can be asked for again afterwards."""
    authorization_server.policy.rotate = False
    held = authorization_server.issue("alice", "a b", LEGACY.client_id, ["x", "y"])["refresh_token"]
    narrow = (await refresh(http, held, scope="b", audience="y")).json()
    found = await claims(http, narrow["access_token"])
    assert (found["scope"], found["aud"], narrow["scope"]) == ("b", "y", "b")
    whole = await claims(http, (await refresh(http, held)).json()["access_token"])
    assert (whole["scope"], whole["aud"]) == ("a b", ["x", "y"])
    assert (await refresh(http, held, scope="a c")).json()["error"] == "invalid_scope"
    assert (await refresh(http, held, audience="z")).json()["error"] == "invalid_target"


async def test_refresh_token_of_another_client_is_unknown(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """A refresh token is bound to its client, and the wrong client's try does not kill it."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)["refresh_token"]
    stolen = await token(http, POST, grant_type="refresh_token", refresh_token=held)
    assert stolen.json()["error"] == "invalid_grant"
    assert (await refresh(http, held)).status_code == 200


# -- revocation, introspection -------------------------------------------------------------------------------------


async def test_revoked_access_token_leaves_the_family_alive(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """RFC 7009: one access token, by its client; anything unknown is 200 as well."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)
    for text in (held["access_token"], "unknown"):
        assert (await http.post("/revoke", data={"token": text}, auth=basic(LEGACY))).status_code == 200
    assert not await active(http, held["access_token"])
    assert (await refresh(http, held["refresh_token"])).status_code == 200


async def test_revoked_refresh_token_ends_the_family(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """RFC 7009 section 2.1: the access tokens of the grant go with it; another client cannot do it."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)
    other = await http.post("/revoke", data={"token": held["refresh_token"]}, auth=basic(RESOURCE))
    assert other.status_code == 400
    assert await active(http, held["access_token"])
    await http.post("/revoke", data={"token": held["refresh_token"]}, auth=basic(LEGACY))
    assert not await active(http, held["access_token"])


async def test_introspection_tells_only_clients_that_authenticate(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """RFC 7662 section 2: a public client or none is refused; refresh tokens and garbage are inactive."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)
    public = {"token": held["access_token"], "client_id": PUBLIC.client_id}
    for form in ({"token": held["access_token"]}, public):
        assert (await http.post("/introspect", data=form)).status_code == 401
    assert not await active(http, held["refresh_token"])
    assert not await active(http, "garbage")
    good = await http.post("/introspect", data={"token": held["access_token"]}, auth=basic(RESOURCE))
    assert (good.json()["active"], good.json()["sub"], good.json()["scope"]) == (True, "alice", "a")


async def test_access_token_dies_with_its_life() -> None:
    """`access_life` is what expires_in says and what introspection keeps."""
    now = time.time()
    async with AuthorizationServer(CLIENTS, clock=lambda: now) as server:
        server.policy.access_life = 5
        held = server.issue("alice", "a", LEGACY.client_id)
        assert held["expires_in"] == 5
        async with caller(server) as http:
            now += 4.9
            assert await active(http, held["access_token"])
            now += 0.1
            assert not await active(http, held["access_token"])


# -- fault switches ------------------------------------------------------------------------------------------------


async def test_revoke_and_kill_hit_the_named_user_only(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """`revoke` rejects what was issued so far and leaves refreshing; `kill` ends the chain; new sign-ins are good."""
    held = {user: authorization_server.issue(user, "a", LEGACY.client_id) for user in ("alice", "bob")}
    assert authorization_server.revoke("alice") == 1
    assert [await active(http, held[user]["access_token"]) for user in held] == [False, True]
    assert (await refresh(http, held["alice"]["refresh_token"])).status_code == 200
    assert authorization_server.kill("bob") == 1
    assert (await refresh(http, held["bob"]["refresh_token"])).json()["error"] == "invalid_grant"
    assert await active(http, authorization_server.issue("bob", "a", LEGACY.client_id)["access_token"])


class Fault(NamedTuple):
    switches: dict[str, Any]
    status: int
    body: str  # its beginning
    outcome: str


@pytest.mark.parametrize(
    "fault",
    [
        Fault({"status": 500}, 500, "", "status 500"),
        Fault({"status": 503, "retry_after": "7"}, 503, "", "status 503"),
        Fault({"status": 429, "retry_after": "7"}, 429, "", "status 429"),
        Fault({"html": True}, 200, "<!doctype html>", "html"),
        Fault({"empty": True}, 200, "", "empty"),
        Fault({"truncated": True}, 200, '{"access_token": "cut-off", ', "truncated"),
        Fault({"line_feed": True}, 200, '{"access_token": "good-until\\n', "line_feed"),
        Fault({"error": "invalid_grant"}, 400, '{"error": "invalid_grant"', "invalid_grant"),
        Fault({"error": "invalid_client"}, 401, '{"error": "invalid_client"', "invalid_client"),
        Fault({"error": "temporarily_unavailable"}, 503, '{"error": "temp', "temporarily_unavailable"),
    ],
)
async def test_fault_switch_answers_instead_and_spends_nothing(
    authorization_server: AuthorizationServer,
    http: httpx.AsyncClient,
    fault: Fault,
) -> None:
    """Set over HTTP for one request, the switch does what it says, is recorded, and the refresh token works after it."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)["refresh_token"]
    await http.post("/_faults", json=fault.switches | {"next": 1})
    answer = await refresh(http, held)
    assert answer.status_code == fault.status
    assert answer.text.startswith(fault.body)
    assert bool(answer.text) == bool(fault.body)
    assert answer.headers.get("retry-after") == fault.switches.get("retry_after")
    assert (await refresh(http, held)).status_code == 200
    records = authorization_server.token_requests(grant_type="refresh_token", client_id=LEGACY.client_id)
    assert [record.outcome for record in records] == [fault.outcome, "ok"]
    assert [record.subject for record in records] == ["", "alice"]


@pytest.mark.parametrize(("switch", "spent"), [("down", False), ("lost", True)])
async def test_closed_connection_before_or_after_the_work(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient, switch: str, spent: bool
) -> None:
    """[RF-08] `down` does nothing, `lost` rotates and does not say so: the client cannot tell them apart."""
    held = authorization_server.issue("alice", "a", LEGACY.client_id)["refresh_token"]
    authorization_server.faults.change(**{switch: True}, next=1)
    with pytest.raises(httpx.TransportError):
        await refresh(http, held)
    assert ((await refresh(http, held)).status_code == 400) == spent


@pytest.mark.parametrize("value", [0, -1, "3600", 1e99, None, MISSING])
async def test_expires_in_is_whatever_the_switch_says(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient, value: Any
) -> None:
    """The rest of the response is real."""
    authorization_server.faults.expires_in = value
    answer = (await token(http, **CC)).json()
    assert answer.get("expires_in", MISSING) == value
    assert await active(http, answer["access_token"])


async def test_slow_switch_delays_and_counts_down(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """`next` limits a fault to that many token requests, other endpoints not counted."""
    authorization_server.faults.change(slow=0.2, next=2)
    took = []
    for _ in range(3):
        before = time.monotonic()
        assert (await token(http, **CC)).status_code == 200
        await http.get("/jwks")
        took.append(time.monotonic() - before >= 0.2)
    assert took == [True, True, False]


async def test_faults_can_be_put_on_other_paths(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """Discovery can fail while the token endpoint works."""
    authorization_server.faults.change(status=500, paths=["/.well-known/openid-configuration"])
    assert (await http.get("/.well-known/openid-configuration")).status_code == 500
    assert (await token(http, **CC)).status_code == 200


async def test_skew_moves_what_is_signed(authorization_server: AuthorizationServer, http: httpx.AsyncClient) -> None:
    """A server whose clock is an hour behind signs tokens that are over, and says that they last."""
    authorization_server.policy.skew = -3600
    answer = (await token(http, **CC)).json()
    assert answer["expires_in"] == 300
    assert (await claims(http, answer["access_token"]))["exp"] < time.time()


async def test_stopped_server_comes_back_as_itself(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """`stop` refuses connections, `start` serves the same issuer, keys and families."""
    held, issuer = authorization_server.issue("alice", "a", LEGACY.client_id), authorization_server.issuer
    await authorization_server.stop()
    with pytest.raises(httpx.ConnectError):
        await refresh(http, held["refresh_token"])
    await authorization_server.start()
    assert authorization_server.issuer == issuer
    assert (await refresh(http, held["refresh_token"])).status_code == 200


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        ({"json": {"unknown": 1}}, 400),
        ({"json": {"down": "yes"}}, 400),
        ({"json": {"rotate": 1}}, 400),
        ({"json": []}, 400),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"data": {"down": "true"}}, 415),
    ],
)
async def test_control_endpoint_refuses_what_it_does_not_know(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient, request_body: dict[str, Any], status: int
) -> None:
    """Nothing is changed by a body with a mistake in it, and a form of a web page never gets in."""
    before = (await http.get("/_faults")).json()
    assert (await http.post("/_faults", **request_body)).status_code == status
    assert (await http.get("/_faults")).json() == before
    assert not authorization_server.faults.down


async def test_control_endpoint_sets_policy_acts_and_resets(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """One POST can set the token life, revoke, and put switches on; DELETE puts them off."""
    authorization_server.issue("alice", "a", LEGACY.client_id)
    answer = await http.post("/_faults", json={"access_life": 7, "revoke": "alice", "kill": "bob", "down": True})
    assert answer.json()["access_tokens_revoked"] == 1
    assert answer.json()["families_ended"] == 0
    assert (authorization_server.policy.access_life, authorization_server.faults.down) == (7, True)
    assert (await http.delete("/_faults")).json()["down"] is False


# -- records -------------------------------------------------------------------------------------------------------


async def test_records_tell_keys_apart_and_hold_no_secret(
    authorization_server: AuthorizationServer, http: httpx.AsyncClient
) -> None:
    """What was asked, by whom, for whom, with which outcome; no token and no client secret."""
    held = authorization_server.issue("alice", "a b", LEGACY.client_id)
    await refresh(http, held["refresh_token"], scope="b", resource="https://api.test")
    (record,) = authorization_server.token_requests(subject="alice", scope="b")
    assert (record.targets, record.grant_type, record.outcome) == (("https://api.test",), "refresh_token", "ok")
    for secret in (held["refresh_token"], held["access_token"], LEGACY.secret):
        assert secret not in repr(authorization_server.requests)
        assert secret not in repr(authorization_server.state)


# -- the API -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def api(authorization_server: AuthorizationServer) -> AsyncIterator[Api]:
    """Run the demo's API, trusting the fixture's server."""
    async with Api(authorization_server.issuer, RESOURCE) as running:
        yield running


@pytest.mark.parametrize(
    ("issued", "asked", "error"),
    [
        (("alice", "profiles.read", ()), ("/profile", 200), ""),
        (("alice", "other", ()), ("/profile", 403), "insufficient_scope"),
        (("alice", "profiles.read", ("elsewhere",)), ("/profile", 401), "invalid_token"),
        (("alice", "stats.read", ()), ("/stats", 403), "insufficient_scope"),
        ((LEGACY.client_id, "stats.read", ()), ("/stats", 200), ""),
        ((LEGACY.client_id, "profiles.read", ()), ("/profile", 403), "insufficient_scope"),
    ],
)
async def test_api_serves_only_the_right_token(
    authorization_server: AuthorizationServer, api: Api, issued: Any, asked: tuple[str, int], error: str
) -> None:
    """Scope, audience and whose token it is all count; the answer and the record name the subject."""
    (user, scope, audience), (path, status) = issued, asked
    held = authorization_server.issue(user, scope, LEGACY.client_id, audience)["access_token"]
    answer = await ask(api, path, held)
    assert answer.status_code == status
    assert (f'error="{error}"' in answer.headers.get("www-authenticate", "")) == bool(error)
    assert api.received[-1].subject == (user if status == 200 else "")
    assert answer.json().get("subject", "") == api.received[-1].subject


@pytest.mark.parametrize("spoil", ["none", "revoked", "expired", "tampered", "identity", "other key"])
async def test_api_rejects_a_token_that_is_not_good(
    authorization_server: AuthorizationServer, api: Api, spoil: str
) -> None:
    """RFC 6750 section 3.1: invalid_token, and no error attribute where no token came."""
    if spoil == "expired":
        authorization_server.policy.skew = -3600
    held = authorization_server.issue("alice", "openid profiles.read", LEGACY.client_id)
    text = held["id_token"] if spoil == "identity" else held["access_token"]
    if spoil == "revoked":
        authorization_server.revoke("alice")
    if spoil == "tampered":
        text = text[:-8] + ("A" * 8)
    if spoil == "other key":
        text = AuthorizationServer().issue("alice", "profiles.read", LEGACY.client_id)["access_token"]
    answer = await ask(api, "/profile", "" if spoil == "none" else text)
    assert answer.status_code == 401
    assert ('error="invalid_token"' in answer.headers["www-authenticate"]) == (spoil != "none")
    assert answer.headers["www-authenticate"].startswith("Bearer ")


async def test_api_without_its_issuer_says_503(authorization_server: AuthorizationServer, api: Api) -> None:
    """A token that cannot be verified is neither good nor bad."""
    held = authorization_server.issue("alice", "profiles.read", LEGACY.client_id)["access_token"]
    await authorization_server.stop()
    assert (await ask(api, "/profile", held)).status_code == 503


async def ask(api: Api, path: str, access_token: str) -> httpx.Response:
    """Ask the API, with a token where there is one."""
    headers = {"Authorization": f"Bearer {access_token}"} if access_token else {}
    async with httpx.AsyncClient(base_url=api.url, timeout=5, trust_env=False) as http:
        return await http.get(path, headers=headers)
