"""What each answer of a token endpoint means."""

from __future__ import annotations

import json
import re
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.model import ClientRefused, Granted, GrantRefused, Invalid, Outcome, Secret, Token, Unavailable
from sidecar.oauth.token_response import MAX_LIFE, MAX_TOKEN, judge

SENT = 1_800_000_000.0
NOW = SENT + 0.5
ABSENT = object()


def answer(**members: object) -> bytes:
    """Make a good token response with some members changed; ABSENT removes one."""
    document = {"access_token": "at", "token_type": "Bearer", "expires_in": 3600, **members}
    return json.dumps({name: value for name, value in document.items() if value is not ABSENT}).encode()


def error(code: object, **members: object) -> bytes:
    """Make an error response of RFC 6749 section 5.2."""
    return json.dumps({"error": code, **members}).encode()


def judged(status: int, body: bytes, headers: dict[str, str] | None = None, asked: str = "") -> Outcome:
    """Judge an answer that took half a second."""
    return judge(status, headers or {}, body, requested_at=SENT, asked=frozenset(asked.split()), now=NOW)


def granted(life: float = 3600, *, value: str = "at", scopes: frozenset[str] | None = None, **more: Secret) -> Granted:
    """Make the outcome of a good answer."""
    return Granted(Token(Secret(value), SENT, SENT + life, scopes), **more)


GOOD = {
    "as RFC 6749 section 5.1": (answer(), granted()),
    "with every member": (
        answer(refresh_token="rt", id_token="a.b.c", scope="a b", more={"x": [1]}),
        granted(scopes=frozenset("ab"), refresh_token=Secret("rt"), id_token=Secret("a.b.c")),
    ),
    "with empty tokens": (answer(refresh_token="", id_token="", error=""), granted()),
    "with null members": (answer(refresh_token=None, id_token=None, scope=None, error=None), granted()),
    "with a byte order mark": (b"\xef\xbb\xbf" + answer(), granted()),
    "with space around": (b"\r\n " + answer() + b"\n", granted()),
    "[IDP-10] token_type bearer": (answer(token_type="bearer"), granted()),
    "[IDP-10] token_type BEARER": (answer(token_type="BEARER"), granted()),
    "[IDP-11] expires_in missing": (answer(expires_in=ABSENT), granted(300)),
    "[IDP-11] expires_in null": (answer(expires_in=None), granted(300)),
    "[IDP-11] expires_in '3600'": (answer(expires_in="3600"), granted(3600)),
    "[IDP-11] expires_in '59.5'": (answer(expires_in="59.5"), granted(59.5)),
    "[IDP-11] expires_in 3": (answer(expires_in=3), granted(3)),
    "[IDP-11] expires_in 1": (answer(expires_in=1), granted(1)),
    "[IDP-11] expires_in 3599.9": (answer(expires_in=3599.9), granted(3599.9)),
    "[IDP-11] expires_in 24 h": (answer(expires_in=86400), granted(86400)),
    "[IDP-11] expires_in a year": (answer(expires_in=31536000), granted(86400)),
    "[IDP-11] expires_in 1e99": (answer().replace(b"3600", b"1e99"), granted(86400)),
    "[IDP-11] expires_in 1e999": (answer().replace(b"3600", b"1e999"), granted(86400)),
    "[IDP-11] expires_in 400 digits": (answer().replace(b"3600", b"9" * 400), granted(86400)),
    "[IDP-11] expires_in '999999999999'": (answer(expires_in="9" * 12), granted(86400)),
    "a token with every b64token character": (
        answer(access_token="aZ09-._~+/=="),
        granted(value="aZ09-._~+/=="),
    ),
    "a token with ! | :": (answer(access_token="00D!x|y:z"), granted(value="00D!x|y:z")),
    "a token of the longest length": (answer(access_token="a" * MAX_TOKEN), granted(value="a" * MAX_TOKEN)),
    "a scope of URLs": (answer(scope="https://x/a.b api:r"), granted(scopes=frozenset({"https://x/a.b", "api:r"}))),
    "a scope with two spaces": (answer(scope="a  b"), granted(scopes=frozenset("ab"))),
    "an empty scope, none asked": (answer(scope=""), granted()),
}


@pytest.mark.parametrize(("body", "expected"), GOOD.values(), ids=GOOD)
@pytest.mark.parametrize("status", [200, 201])
def test_a_valid_token_response_is_granted(status: int, body: bytes, expected: Granted) -> None:
    """A token comes out exactly as the response gave it, its life counted from the sending of the request."""
    assert judged(status, body) == expected


def test_an_empty_scope_where_some_was_asked_grants_nothing() -> None:
    """A server that names no scope at all has not granted the one asked for."""
    assert judged(200, answer(scope=""), asked="a") == granted(scopes=frozenset())


BAD_MEMBER = {
    "[IDP-09] access_token missing": ({"access_token": ABSENT}, "access_token"),
    "[IDP-09] access_token null": ({"access_token": None}, "access_token"),
    "[IDP-09] access_token empty": ({"access_token": ""}, "access_token"),
    "[IDP-09] access_token a number": ({"access_token": 7}, "access_token"),
    "[IDP-09] access_token a list": ({"access_token": ["at"]}, "access_token"),
    "[IDP-09] access_token with LF at the end": ({"access_token": "at\n"}, "access_token"),
    "[IDP-09] access_token with CR LF and a header": ({"access_token": "at\r\nX-Admin: 1"}, "access_token"),
    "[IDP-09] access_token with NUL": ({"access_token": "a\0t"}, "access_token"),
    "[IDP-09] access_token with a space": ({"access_token": "a t"}, "access_token"),
    "[IDP-09] access_token with a comma": ({"access_token": "a,t"}, "access_token"),
    "[IDP-09] access_token with a quote": ({"access_token": 'a"t'}, "access_token"),
    "[IDP-09] access_token non-ASCII": ({"access_token": "tök"}, "access_token"),
    "[IDP-09] access_token a lone surrogate": ({"access_token": "\ud800"}, "access_token"),
    "[IDP-09] access_token a non-ASCII digit": ({"access_token": "٣"}, "access_token"),
    "[IDP-09] access_token too long": ({"access_token": "a" * (MAX_TOKEN + 1)}, "access_token"),
    "[IDP-10] token_type missing": ({"token_type": ABSENT}, "token_type"),
    "[IDP-10] token_type null": ({"token_type": None}, "token_type"),
    "[IDP-10] token_type empty": ({"token_type": ""}, "token_type"),
    "[IDP-10] token_type DPoP": ({"token_type": "DPoP"}, "token_type"),
    "[IDP-10] token_type mac": ({"token_type": "mac"}, "token_type"),
    "[IDP-10] token_type N_A": ({"token_type": "N_A"}, "token_type"),
    "[IDP-10] token_type a list": ({"token_type": ["Bearer"]}, "token_type"),
    "[IDP-10] token_type with a space": ({"token_type": "Bearer "}, "token_type"),
    "[IDP-11] expires_in 0": ({"expires_in": 0}, "expired_on_arrival"),
    "[IDP-11] expires_in '0'": ({"expires_in": "0"}, "expired_on_arrival"),
    "[IDP-11] expires_in -1": ({"expires_in": -1}, "expired_on_arrival"),
    "[IDP-11] expires_in '-1'": ({"expires_in": "-1"}, "expired_on_arrival"),
    "[IDP-11] expires_in 0.9": ({"expires_in": 0.9}, "expired_on_arrival"),
    "[IDP-11] expires_in -1e999": ({"expires_in": "RAW -1e999"}, "expired_on_arrival"),
    "[IDP-11] expires_in true": ({"expires_in": True}, "expires_in"),
    "[IDP-11] expires_in 'abc'": ({"expires_in": "abc"}, "expires_in"),
    "[IDP-11] expires_in ''": ({"expires_in": ""}, "expires_in"),
    "[IDP-11] expires_in '1e9'": ({"expires_in": "1e9"}, "expires_in"),
    "[IDP-11] expires_in 'nan'": ({"expires_in": "nan"}, "expires_in"),
    "[IDP-11] expires_in '٣٦٠٠'": ({"expires_in": "٣٦٠٠"}, "expires_in"),
    "[IDP-11] expires_in a date": ({"expires_in": "2030-01-01T00:00:00Z"}, "expires_in"),
    "[IDP-11] expires_in a list": ({"expires_in": [3600]}, "expires_in"),
    "scope a list": ({"scope": ["a", "b"]}, "scope"),
    "scope a number": ({"scope": 1}, "scope"),
    "scope with LF": ({"scope": "a\nb"}, "scope"),
    "scope with a quote": ({"scope": 'a "b"'}, "scope"),
    "scope with a leading space": ({"scope": " a"}, "scope"),
    "scope non-ASCII": ({"scope": "ä"}, "scope"),
    "refresh_token a number": ({"refresh_token": 1}, "refresh_token"),
    "refresh_token with LF": ({"refresh_token": "r\nt"}, "refresh_token"),
    "refresh_token non-ASCII": ({"refresh_token": "r\u00ff"}, "refresh_token"),
    "refresh_token too long": ({"refresh_token": "r" * (MAX_TOKEN + 1)}, "refresh_token"),
    "id_token an object": ({"id_token": {}}, "id_token"),
    "id_token with a space": ({"id_token": "a b"}, "id_token"),
}


def raw(body: bytes) -> bytes:
    """Turn a marked string into the JSON literal in it."""
    return re.sub(rb'"RAW ([^"]*)"', rb"\1", body)


@pytest.mark.parametrize(("members", "reason"), BAD_MEMBER.values(), ids=BAD_MEMBER)
def test_a_member_at_fault_makes_the_answer_invalid(members: dict[str, object], reason: str) -> None:
    """A response is granted whole or not at all, and the reason is the member's name."""
    assert judged(200, raw(answer(**members))) == Invalid(reason)


@pytest.mark.parametrize("member", ["access_token", "token_type", "expires_in", "scope", "id_token"])
def test_an_invalid_answer_keeps_its_refresh_token(member: str) -> None:
    """The refresh token that was spent may be dead: its successor is handed on though the rest is unusable."""
    assert judged(200, answer(refresh_token="rt-2", **{member: [0]})) == Invalid(member, Secret("rt-2"))


def test_a_token_that_expired_on_its_way_is_invalid() -> None:
    """A response slower than the token's life brings no usable token."""
    late = judge(200, {}, answer(expires_in=3), requested_at=SENT, asked=frozenset(), now=SENT + 3)
    assert late == Invalid("expired_on_arrival")


NOT_A_DOCUMENT = {
    "[IDP-07] empty": (b"", "empty"),
    "[IDP-07] white space": (b" \r\n", "empty"),
    "[IDP-08] HTML": (b"<!doctype html><title>Sign in</title>", "not_json"),
    "[IDP-08] truncated": (answer()[:-5], "not_json"),
    "[IDP-08] two documents": (answer() + answer(), "not_json"),
    "[IDP-08] an array": (b"[" + answer() + b"]", "not_an_object"),
    "[IDP-08] a string": (b'"at"', "not_an_object"),
    "[IDP-08] null": (b"null", "not_an_object"),
    "[IDP-08] NaN": (answer().replace(b"3600", b"NaN"), "not_json"),
    "[IDP-08] Infinity": (answer().replace(b"3600", b"Infinity"), "not_json"),
    "[IDP-08] a duplicate access_token": (answer().replace(b"{", b'{"access_token":"x",'), "duplicate_member"),
    "[IDP-08] a duplicate name below": (answer().replace(b"{", b'{"x":{"a":1,"a":2},'), "duplicate_member"),
    "[IDP-08] a duplicate name by an escape": (
        answer().replace(b"{", b'{"access_\\u0074oken":"x",'),
        "duplicate_member",
    ),
    "[IDP-08] deep arrays": (b"[" * 200_000 + b"]" * 200_000, "not_json"),
    "[IDP-08] deep objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not_json"),
    "[IDP-08] 5000 digits": (answer().replace(b"3600", b"9" * 5000), "not_json"),
    "[IDP-08] too large": (b'{"a":"' + b"x" * 1024 * 1024 + b'"}', "too_large"),
    "[IDP-08] a form": (b"access_token=at&token_type=bearer", "not_json"),
    "[IDP-08] UTF-16": (answer().decode().encode("utf-16"), "not_json"),
    "[IDP-08] not UTF-8": (b'{"access_token":"\xff"}', "not_json"),
    "[IDP-08] gzip": (b"\x1f\x8b\x08\x00", "not_json"),
    "[IDP-08] a single quoted object": (b"{'access_token': 'at'}", "not_json"),
}


@pytest.mark.parametrize(("body", "reason"), NOT_A_DOCUMENT.values(), ids=NOT_A_DOCUMENT)
def test_a_body_that_is_no_object_is_invalid(body: bytes, reason: str) -> None:
    """Only one unambiguous JSON object can be a token response."""
    assert judged(200, body) == Invalid(reason)
    assert judged(400, body) == Invalid("http_400")


DATE_IN_90_S = formatdate(NOW + 90, usegmt=True)
ASCTIME_IN_90_S = "Fri Jan 15 08:01:30 2027"
ERRORS: dict[str, tuple[int, bytes, dict[str, str], Outcome]] = {
    "invalid_grant under 400": (400, error("invalid_grant"), {}, GrantRefused()),
    "invalid_grant under 401": (401, error("invalid_grant"), {}, GrantRefused()),
    "invalid_grant under 403": (403, error("invalid_grant"), {}, GrantRefused()),
    "[IDP-14] invalid_grant under 200": (200, error("invalid_grant"), {}, GrantRefused()),
    "[IDP-14] an error beside a token": (200, answer(error="invalid_grant"), {}, GrantRefused()),
    "[IDP-14] incorrect_client_credentials under 200": (
        200,
        error("incorrect_client_credentials"),
        {},
        ClientRefused("incorrect_client_credentials"),
    ),
    "invalid_grant under 404": (404, error("invalid_grant"), {}, Invalid("http_404")),
    "[IDP-05] invalid_grant under 500": (500, error("invalid_grant"), {}, Unavailable("http_500")),
    "[IDP-05] invalid_grant under 503": (503, error("invalid_grant"), {}, Unavailable("http_503")),
    "[IDP-06] invalid_grant under 429": (429, error("invalid_grant"), {}, Unavailable("http_429")),
    "[IDP-12] invalid_grant under 302": (302, error("invalid_grant"), {}, Invalid("redirect")),
    "INVALID_GRANT": (400, error("INVALID_GRANT"), {}, ClientRefused("INVALID_GRANT")),
    "[IDP-13] invalid_client": (401, error("invalid_client"), {}, ClientRefused("invalid_client")),
    "[IDP-13] unauthorized_client": (400, error("unauthorized_client"), {}, ClientRefused("unauthorized_client")),
    "[IDP-13] invalid_scope": (400, error("invalid_scope"), {}, ClientRefused("invalid_scope")),
    "invalid_target": (400, error("invalid_target"), {}, ClientRefused("invalid_target")),
    "temporarily_unavailable": (400, error("temporarily_unavailable"), {}, Unavailable("temporarily_unavailable")),
    "slow_down with Retry-After": (400, error("slow_down"), {"retry-after": "7"}, Unavailable("slow_down", 7)),
    "server_error under 200": (200, error("server_error"), {}, Unavailable("server_error")),
    "error empty": (400, error(""), {}, Invalid("http_400")),
    "error a number": (400, error(42), {}, Invalid("error")),
    "error an object": (400, error({"code": "invalid_grant"}), {}, Invalid("error")),
    "error null": (400, error(None), {}, Invalid("http_400")),
    "error with control characters": (400, error("bad\r\nX: 1\x1b[2J"), {}, ClientRefused("badX: 1[2J")),
    "error with quotes, trap 6": (400, error('it\'s "so" \\ so'), {}, ClientRefused("it's so  so")),
    "error of 1000 characters": (400, error("e" * 1000), {}, ClientRefused("e" * 64)),
    "error without a readable character": (400, error("ü\n"), {}, ClientRefused("unreadable")),
    "error_description is not told": (
        400,
        error("invalid_request", error_description="secret-canary\n", error_uri="https://x"),
        {},
        ClientRefused("invalid_request"),
    ),
    "error_description with a quote, trap 6": (
        400,
        error("invalid_grant", error_description='quote " and \n line'),
        {},
        GrantRefused(),
    ),
    "400 without error": (400, b"{}", {}, Invalid("http_400")),
    "401 with a token response": (401, answer(), {}, Invalid("http_401")),
    "404 HTML": (404, b"<h1>Not found</h1>", {}, Invalid("http_404")),
    "405 empty": (405, b"", {}, Invalid("http_405")),
    "204 empty": (204, b"", {}, Invalid("empty")),
    "101": (101, b"", {}, Invalid("http_101")),
    "[IDP-12] 302": (302, b"", {"location": "https://evil.example/"}, Invalid("redirect")),
    "[IDP-12] 307": (307, b"", {"location": "https://evil.example/"}, Invalid("redirect")),
    "[IDP-12] 308 with a token": (308, answer(), {}, Invalid("redirect")),
    "[IDP-05] 500 with a token": (500, answer(), {}, Unavailable("http_500")),
    "[IDP-05] 502 HTML": (502, b"<html>", {}, Unavailable("http_502")),
    "[IDP-05] 503 with Retry-After": (503, b"", {"retry-after": "20"}, Unavailable("http_503", 20)),
    "[IDP-05] 599": (599, b"", {}, Unavailable("http_599")),
    "408": (408, b"", {}, Unavailable("http_408")),
    "[IDP-06] 429 without Retry-After": (429, b"", {}, Unavailable("http_429")),
    "[IDP-06] 429, seconds": (429, b"", {"retry-after": " 30 "}, Unavailable("http_429", 30)),
    "[IDP-06] 429, a date": (429, b"", {"retry-after": DATE_IN_90_S}, Unavailable("http_429", 89.5)),
    "[IDP-06] 429, a date of asctime": (429, b"", {"retry-after": ASCTIME_IN_90_S}, Unavailable("http_429", 89.5)),
    "[IDP-06] 429, a past date": (429, b"", {"retry-after": formatdate(0, usegmt=True)}, Unavailable("http_429")),
    "[IDP-06] 429, a year": (429, b"", {"retry-after": "31536000"}, Unavailable("http_429", 3600)),
    "[IDP-06] 429, 5000 digits": (429, b"", {"retry-after": "9" * 5000}, Unavailable("http_429", 3600)),
    "[IDP-06] 429, a date far away": (
        429,
        b"",
        {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"},
        Unavailable("http_429", 3600),
    ),
    "[IDP-06] 429, zero": (429, b"", {"retry-after": "0"}, Unavailable("http_429")),
    "[IDP-06] 429, negative": (429, b"", {"retry-after": "-5"}, Unavailable("http_429")),
    "[IDP-06] 429, a word": (429, b"", {"retry-after": "soon"}, Unavailable("http_429")),
    "[IDP-06] 429, non-ASCII digits": (429, b"", {"retry-after": "٣"}, Unavailable("http_429")),
}


@pytest.mark.parametrize(("status", "body", "headers", "expected"), ERRORS.values(), ids=ERRORS)
def test_a_refusal_is_told_apart_from_trouble(
    status: int, body: bytes, headers: dict[str, str], expected: Outcome
) -> None:
    """Only a confirmed invalid_grant ends a session; a client's fault, trouble and nonsense each have their outcome."""
    outcome = judged(status, body, headers)
    assert outcome == expected
    assert type(outcome) is type(expected)


MEMBERS = ("access_token", "token_type", "expires_in", "scope", "refresh_token", "id_token", "error", "x")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["Bearer", "bearer", "3600", "0", "at", "a b", "invalid_grant"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NEAR_MISSES = st.dictionaries(st.sampled_from(MEMBERS), VALUES).map(
    lambda changed: json.dumps({"access_token": "at", "token_type": "Bearer", **changed}).encode()
)
HEADERS = st.fixed_dictionaries({}, optional={"retry-after": st.text() | st.integers().map(str)})


@given(
    status=st.integers(100, 599) | st.just(200),
    headers=HEADERS,
    body=NEAR_MISSES | st.binary(),
    requested_at=st.floats(0, 1e10),
    took=st.floats(0, 1e6),
)
def test_judge_never_raises_and_grants_only_what_is_safe(
    status: int, headers: dict[str, str], body: bytes, requested_at: float, took: float
) -> None:
    """Whatever arrives has an outcome; a granted token can stand in a header and dies after it came, within a day."""
    now = requested_at + took
    outcome = judge(status, headers, body, requested_at=requested_at, asked=frozenset(), now=now)
    match outcome:
        case Granted(token):
            assert re.fullmatch(rb"[!-~]{1,32768}", token.value.reveal().encode("ascii"))
            assert max(requested_at, now) < token.expires_at <= requested_at + MAX_LIFE
            assert 200 <= status < 300
        case Unavailable(_, retry_after):
            assert retry_after is None or 0 < retry_after <= 3600
        case ClientRefused(name):
            assert re.fullmatch(r"[ !#-\[\]-~]{1,64}", name)
        case GrantRefused():
            assert status in (200, 400, 401, 403)
        case Invalid(reason):
            assert re.fullmatch(r"[a-z_0-9]+", reason)
