"""Header rules: what goes on, what stays behind, what is written anew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.headers import RequestRules, connection_tokens, max_forwards, one_hop_less, wants_upgrade
from sidecar.settings import Limits
from sidecar.wire.head import parse_request
from sidecar.wire.hearing import Hearing
from tests.support.heads import PLAIN_RULES, RESPONSE_RULES, TOKEN_RULES, get, request_head, response_head

HOST = b"Host: up.test"


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        pytest.param([b"a: 1", b"A:2", b"b:"], [b"a: 1", b"A:2", b"b:"], id="HD-12-order-and-case"),
        pytest.param([b"Connection: x, Y", b"X: 1", b"y: 2", b"Z: 3"], [b"Z: 3"], id="HD-01-nominated"),
        pytest.param([b"Connection: host, content-length"], [], id="HD-02-framing-is-not-nominated"),
        pytest.param([b"Authorization: a", b"DPoP: b", b"X-Session-Id: c"], [], id="HD-04-credentials"),
        pytest.param([b"X_Session_Id: c", b"Content_Length: 1", b"Host_: x"], [b"Host_: x"], id="HD-07-look-alikes"),
        pytest.param([b"TE: a", b"Keep-Alive: b", b"Proxy-Authorization: c"], [], id="HD-03-hop-by-hop"),
        pytest.param([b"TE: a", b"TE: a", b"A: 1", b"TE: a"], [b"A: 1"], id="HD-03-the-same-line-again"),
        pytest.param([b"Cookie: sidecar_session=x; b"] * 2, [b"Cookie: b"] * 2, id="HD-08-the-same-cookies-again"),
        pytest.param([b"Cookie: a=1; sidecar_session=x;b=2"], [b"Cookie: a=1;b=2"], id="HD-08-cookie"),
        pytest.param([b"Cookie: sidecar_session=x"], [], id="HD-08-cookie-alone"),
        pytest.param([b"Max-Forwards: 0"], [b"Max-Forwards: 0"], id="HD-11-not-counted-here"),
        pytest.param([b"Upgrade: x", b"Connection: upgrade"], [], id="SM-26-upgrade"),
    ],
)  # fmt: skip
def test_request_lines_that_go_on(lines: list[bytes], kept: list[bytes]):
    """The declared changes and no others."""
    assert TOKEN_RULES.lines(get(b"/", *lines).headers, b"up.test", upgrade=False) == [HOST, *kept]


@pytest.mark.parametrize("name", [b"X-Token", b"x_TOKEN", b"X.Token", b"X_Token"])
def test_look_alikes_of_a_configured_name_with_an_underscore_stay_behind(name: bytes):
    """[HD-07] Where the configuration says X_Token, CGI-like applications take X-Token for it as well."""
    rules = RequestRules([b"x_token"], frozenset())
    hearing = Hearing(rules.speaking, frozenset())
    kept = []
    for lines in ([b"A: 1"], [b"A: 1", name + b": evil"]):
        headers = parse_request(
            b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines, b"", b""]), Limits(), hearing
        ).headers
        changes = headers.memo.setdefault("changes", rules.changes(headers, b"up.test", upgrade=False, minor=1))
        kept.append(changes.apply(headers.section))
    assert kept == [b"\r\nHost: up.test\r\nA: 1\r\n"] * 2
    assert rules.trailers([(name, b"evil")], frozenset()) == []


def test_host_is_rewritten_in_its_place_and_added_where_http_1_0_had_none():
    """[HD-22] The line keeps its spelling; what goes on is HTTP/1.1, which needs one."""
    head = request_head(b"GET / HTTP/1.1\r\nA: 1\r\nhOsT:x\r\nB: 2\r\n\r\n")
    assert TOKEN_RULES.lines(head.headers, b"up", upgrade=False) == [b"A: 1", b"hOsT: up", b"B: 2"]
    old = request_head(b"GET / HTTP/1.0\r\nA: 1\r\n\r\n")
    assert TOKEN_RULES.lines(old.headers, b"up", upgrade=False, minor=0) == [b"Host: up", b"A: 1"]


def test_route_without_token_keeps_authorization_but_no_identity():
    """[HD-04, HD-08] What identifies the caller goes nowhere, whatever the route."""
    head = get(b"/", b"Authorization: a", b"X-Session-Id: b")
    assert PLAIN_RULES.lines(head.headers, b"up.test", upgrade=False) == [HOST, b"Authorization: a"]


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([b"Connection: Upgrade", b"Upgrade: websocket"], True),
        ([b"connection: keep-alive, uPGRADE", b"upgrade: foo/2"], True),
        ([b"Upgrade: websocket"], False),
        ([b"Connection: Upgrade"], False),
        ([b"Connection: Upgrade", b"Upgrade: h2c"], False),
        ([b"Connection: Upgrade", b"Upgrade: websocket, H2C"], False),
        ([b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5"], False),
        ([b"Connection: Upgrade", b"Upgrade: tcp", b"Content-Length: 0"], True),
    ],
)
def test_upgrade_is_wanted_only_where_a_tunnel_can_carry_it(lines: list[bytes], wanted: bool):
    """[SM-26] Named by Connection, not HTTP/2, and without a body."""
    head = get(b"/", *lines)
    assert wants_upgrade(head) is wanted
    if wanted:
        kept = TOKEN_RULES.lines(head.headers, b"up.test", upgrade=True)
        assert kept == [HOST, b"Connection: Upgrade", *lines[1:]]


@pytest.mark.parametrize(
    ("trailers", "kept"),
    [
        ([(b"X", b"1"), (b"x-sum", b"")], [b"X: 1", b"x-sum: "]),
        ([(b"Host", b"a"), (b"Content-Length", b"1"), (b"Transfer-Encoding", b"x"), (b"Cookie", b"y")], []),
        ([(b"AUTHORIZATION", b"a"), (b"X-Session-Id", b"b"), (b"X_Session-Id", b"b"), (b"Set-Cookie", b"c")], []),
    ],
)  # fmt: skip
def test_trailers_that_go_on(trailers: list[tuple[bytes, bytes]], kept: list[bytes]):
    """[HD-18, HD-07] None that frame, route, authenticate or identify."""
    assert TOKEN_RULES.trailers(trailers, frozenset()) == kept


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"Set-Cookie: a=1", True), (b"Set-Cookie: sidecar_session=1", False), (b"set-cookie:\tsidecar_session =1; Path=/", False),
        (b"Set-Cookie: xsidecar_session=1", True), (b"Set-Cookie: a=sidecar_session=1", True), (b"X-Session-Id: a", False),
        (b"Set-Cookie: =sidecar_session=1", False), (b"Set-Cookie:  = sidecar_session=1", False), (b"Set-Cookie: =a", True),
        (b"Keep-Alive: 5", False), (b"Date: x", True), (b"WWW-Authenticate: Basic", True), (b"Proxy-Authenticate: Basic", False),
    ],
)  # fmt: skip
def test_response_lines_that_go_on(line: bytes, kept: bool):
    """[LK-15, HD-14] Nothing that sets our own identifiers; the rest as it came."""
    head = response_head(b"HTTP/1.1 200 OK\r\nA: 1\r\n" + line + b"\r\nB: 2\r\n\r\n")
    section = RESPONSE_RULES.section(head.headers, chunked=True, upgrade=False)
    assert section == b"\r\nA: 1\r\n" + (line + b"\r\n" if kept else b"") + b"B: 2\r\n"


@given(values=st.lists(st.text(" \t,abcABC-", max_size=12), max_size=3))
def test_connection_tokens_are_the_list_of_the_rfc(values: list[str]):
    """[HD-01] Repeated lines are one list; empty members and white space mean nothing."""
    lines = [b"Connection:" + value.encode() for value in values]
    expected = {part.strip(" \t").lower().encode() for value in values for part in value.split(",")} - {b""}
    assert connection_tokens(get(b"/", *lines).headers) == expected


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"1 1", b"1234567890", b"0x1"])
def test_max_forwards_that_is_no_number_is_refused(value: bytes):
    """[HD-11] A hop count that cannot be counted down is a bad request."""
    with pytest.raises(Refusal):
        max_forwards(value)
    assert one_hop_less(b"\r\nmAX-forwards:\t7 \r\nA: 1\r\n") == b"\r\nmAX-forwards: 6\r\nA: 1\r\n"
