"""The authorization request, the judge of the callback, and the small decisions around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sidecar.login import flow, pages
from sidecar.login.flow import TROUBLE, SignInError
from sidecar.model import ClientRefused, Granted, GrantRefused, Invalid, Secret, Token, Unavailable
from sidecar.oauth import authorization
from sidecar.oauth.authorization import CallbackError, Pending, judge_callback, read_parameters, read_push
from sidecar.oauth.metadata import Metadata
from sidecar.settings import Login

PENDING = Pending("state-of-this", "nonce", "v" * 43, "idp", "https://idp.example", "https://app.example.com/", 1)
GOOD = {"state": PENDING.state, "code": "the-code", "iss": PENDING.issuer}
META = Metadata("https://idp.example", "https://idp.example/token", "https://idp.example/authorize")
PAR = replace(META, pushed_authorization_request_endpoint="https://idp.example/par")
LOGIN = Login(
    "https://app.example.com", ("idp", "other"), "__Host-sid", ("https://app.example.com/", "https://b.example/x")
)


def without(*names: str, **changed: str) -> dict[str, str]:
    return {name: value for name, value in {**GOOD, **changed}.items() if name not in names}


@pytest.mark.parametrize(
    ("parameters", "required", "reason", "told"),
    [
        pytest.param(without(), True, "", False, id="good"),
        pytest.param(without("iss"), False, "", False, id="no-iss-where-none-is-promised"),
        pytest.param(without(session_state="x"), True, "", False, id="unknown-parameters-are-ignored"),
        pytest.param(without("state"), True, "state", False, id="ID-12-no-state"),
        pytest.param(without(state="state-of-that"), True, "state", False, id="ID-12-another-state"),
        pytest.param(without(state=""), True, "state", False, id="ID-12-empty-state"),
        pytest.param(without(state="\ud800"), True, "state", False, id="ID-12-state-that-is-no-text"),
        pytest.param(without(state="x", error="access_denied"), True, "state", False, id="ID-12-error-with-another-state"),
        pytest.param(without("iss"), True, "issuer_missing", False, id="ID-12-iss-left-out"),
        pytest.param(without(iss="https://evil.example"), True, "issuer_mixed_up", False, id="ID-12-mixed-up"),
        pytest.param(without(iss="https://evil.example"), False, "issuer_mixed_up", False, id="ID-12-mixed-up-though-none-is-promised"),
        pytest.param(without(iss="https://idp.example/"), True, "issuer_mixed_up", False, id="ID-12-iss-with-a-slash-more"),
        pytest.param(without(iss=""), True, "issuer_mixed_up", False, id="ID-12-empty-iss"),
        pytest.param(without(iss="https://evil.example", error="access_denied"), True, "issuer_mixed_up", False, id="ID-12-error-of-another-server"),
        pytest.param(without("code", error="access_denied"), True, "access_denied", True, id="error"),
        pytest.param(without(error="server_error"), True, "server_error", True, id="error-beside-a-code"),
        pytest.param(without("code", error="<script>\n"), True, "malformed_error", True, id="error-with-line-end"),
        pytest.param(without("code", error="x" * 65), True, "malformed_error", True, id="error-too-long"),
        pytest.param(without("code", error=""), True, "malformed_error", True, id="error-empty"),
        pytest.param(without("code"), True, "code", False, id="no-code"),
        pytest.param(without(code=""), True, "code", False, id="empty-code"),
        pytest.param(without(code="a\nb"), True, "code", False, id="code-with-line-end"),
        pytest.param(without(code="ä"), True, "code", False, id="code-beyond-ascii"),
        pytest.param(without(code="c" * 4097), True, "code", False, id="code-too-long"),
        pytest.param(without(id_token="x"), True, "response_type", False, id="tokens-that-were-not-asked-for"),
        pytest.param(without(access_token="x"), True, "response_type", False, id="access-token-in-the-url"),
        pytest.param(without(response="x"), True, "response_type", False, id="a-response-in-a-jwt"),
    ],
)  # fmt: skip
def test_callback_is_judged(parameters: dict[str, str], required: bool, reason: str, told: bool) -> None:
    """First that it is ours, then whose it is, then what it says."""
    if not reason:
        assert judge_callback(parameters, PENDING, iss_required=required).reveal() == "the-code"
        return
    with pytest.raises(CallbackError) as caught:
        judge_callback(parameters, PENDING, iss_required=required)
    assert (caught.value.reason, caught.value.told) == (reason, told)


def test_repeated_parameter_is_refused() -> None:
    """RFC 6749 section 3.1: each at most once, or two readers could take different ones."""
    assert read_parameters([("a", "1"), ("b", "2")]) == {"a": "1", "b": "2"}
    with pytest.raises(CallbackError):
        read_parameters([("code", "1"), ("state", "s"), ("code", "2")])


def test_authorization_request_holds_what_keeps_it_safe() -> None:
    """Code flow, S256 of the verifier (RFC 7636 appendix B), state and nonce; never the verifier itself."""
    pending = PENDING._replace(verifier="dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
    form = authorization.authorization_request(pending, "id", "https://a/cb", ("openid", "x"), [("prompt", "login")])
    assert dict(form) == {
        "response_type": "code", "client_id": "id", "redirect_uri": "https://a/cb", "scope": "openid x", "state": pending.state,
        "nonce": "nonce", "code_challenge": "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "code_challenge_method": "S256",
        "prompt": "login",
    }  # fmt: skip
    url = authorization.with_query("https://idp.example/authorize?tenant=x", form)
    assert parse_qs(urlsplit(url).query)["tenant"] == ["x"]
    assert pending.verifier not in url
    exchange = dict(authorization.token_request(pending, Secret("c"), "https://a/cb"))
    assert exchange == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": "https://a/cb",
        "code_verifier": pending.verifier,
    }


@pytest.mark.parametrize("endpoint", ["https://i/a", "https://i/a?", "https://i/a?x=1", "https://i/a?x=1&"])
def test_query_is_added_to_what_the_endpoint_has(endpoint: str) -> None:
    """RFC 6749 section 3.1: the endpoint's own query is kept."""
    query = parse_qs(urlsplit(authorization.with_query(endpoint, [("y", "2")])).query, strict_parsing=True)
    assert query == {**({"x": ["1"]} if "x=" in endpoint else {}), "y": ["2"]}


@pytest.mark.parametrize(
    ("status", "body", "found"),
    [
        (201, b'{"request_uri": "urn:x:1", "expires_in": 60}', "urn:x:1"),
        (200, b'{"request_uri": "urn:x:1"}', "urn:x:1"),
        (201, b'{"request_uri": 5}', None),
        (201, b'{"request_uri": "a b"}', None),
        (201, b"{}", None),
        (201, b"<html>", None),
        (400, b'{"request_uri": "urn:x:1"}', None),
        (302, b'{"request_uri": "urn:x:1"}', None),
    ],
)
def test_answer_of_a_push_is_read(status: int, body: bytes, found: str | None) -> None:
    """RFC 9126 section 2.2."""
    assert read_push(status, body) == found


@pytest.mark.parametrize(
    ("par", "metadata", "pushed"),
    [
        ("auto", META, False),
        ("auto", PAR, True),
        ("auto", replace(PAR, par_required=True), True),
        ("require", PAR, True),
        ("never", PAR, False),
        ("require", META, None),
        ("never", replace(PAR, par_required=True), None),
        ("auto", replace(META, par_required=True), None),
    ],
)
def test_request_is_pushed_where_offered_or_asked_for(par: Any, metadata: Metadata, pushed: bool | None) -> None:
    """What the two sides cannot agree on is refused before the browser leaves."""
    login = replace(LOGIN, par=par)
    if pushed is not None:
        assert flow.pushes(login, metadata) is pushed
        return
    with pytest.raises(SignInError):
        flow.pushes(login, metadata)


TOKEN = Token(Secret("t"), 0, 1)


@pytest.mark.parametrize(
    ("outcome", "name", "scopes"),
    [
        (Granted(TOKEN, None, Secret("i")), "", {"openid", "a"}),
        (Granted(replace(TOKEN, scopes=frozenset({"a"})), Secret("r")), "", {"a"}),
        (Granted(replace(TOKEN, scopes=frozenset())), "", frozenset()),
        (GrantRefused(), "state", None),
        (ClientRefused("invalid_client"), "refused", None),
        (ClientRefused("anything"), "refused", None),
        (Unavailable("timeout"), "unavailable", None),
        (Invalid("not_json"), "invalid", None),
    ],
)
def test_outcome_of_the_exchange_is_told(outcome: Any, name: str, scopes: set[str] | None) -> None:
    """In the words of `TROUBLE`; a response that names no scope granted what was asked for."""
    if not name:
        token, *others = flow.granted(outcome, frozenset({"openid", "a"}))
        assert (token.scopes, others) == (scopes, list(outcome[1:]))
        return
    with pytest.raises(SignInError) as caught:
        flow.granted(outcome, frozenset({"openid", "a"}))
    assert caught.value.name == name
    assert "anything" not in caught.value.reason


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("access_denied", "denied"),
        ("login_required", "denied"),
        ("temporarily_unavailable", "unavailable"),
        ("server_error", "unavailable"),
        ("invalid_scope", "refused"),
        ("anything", "refused"),
    ],
)
def test_error_of_the_authorization_server_is_told(error: str, name: str) -> None:
    """By a text of ours: nothing that a server wrote is shown, and logged are the specifications' own codes alone."""
    assert flow.told(error).name == name
    assert flow.told(error).reason == ("another error" if error == "anything" else error)


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://app.example.com"}, True),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "null"}, True),
        ({"Origin": "https://app.example.com"}, True),
        ({"Origin": "https://b.example", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Origin": "https://sub.app.example.com", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://app.example.com"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Origin": ""}, False),
    ],
)
def test_sign_out_is_asked_for_by_our_own_pages(headers: dict[str, str], allowed: bool) -> None:
    """Nobody is signed out by a stranger's form, a sibling's included."""
    assert flow.from_here(headers, LOGIN) is allowed


def test_provider_is_chosen_by_name() -> None:
    """The first is the default; what is not in the list signs nobody in."""
    assert (flow.chosen(None, LOGIN), flow.chosen("other", LOGIN)) == ("idp", "other")
    for name in ("", "Idp", "stats"):
        with pytest.raises(SignInError):
            flow.chosen(name, LOGIN)


def test_provider_is_told_of_the_sign_out() -> None:
    """RP-Initiated Logout section 2; without an ID token, or where it is not offered, the browser goes straight back."""
    end = replace(META, end_session_endpoint="https://idp.example/end")
    url = flow.logout_url(end, "id", Secret("i.d.t"), "https://app.example.com/")
    assert url is not None
    assert parse_qs(urlsplit(url).query) == {
        "id_token_hint": ["i.d.t"],
        "client_id": ["id"],
        "post_logout_redirect_uri": ["https://app.example.com/"],
    }
    assert flow.logout_url(end, "id", None, "https://a/") is None
    assert flow.logout_url(META, "id", Secret("i"), "https://a/") is None


@pytest.mark.parametrize("name", TROUBLE)
def test_page_of_every_trouble_is_whole(name: str) -> None:
    """A language, one heading, an alert; the address of another try is escaped."""
    trouble = TROUBLE[name]
    page = pages.trouble(trouble.title, trouble.text, '/oauth2/login?x="><script>' if trouble.again else None)
    assert page.startswith('<!doctype html><html lang="en">')
    assert page.count("<h1>") == 1
    assert 'role="alert"' in page
    assert "<script" not in page
    assert 400 <= trouble.status < 600


def test_confirmation_escapes_the_subject() -> None:
    """A subject is the provider's text, an address the application's."""
    page = pages.confirm("<b>", 'https://a/?"><script>')
    assert "&lt;b&gt;" in page
    assert "<script" not in page
