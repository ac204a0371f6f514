"""Which header lines go on, which stay behind, which are written anew (RFC 9110 sections 7.6.1, 7.7 and 11.7).

The declared changes of a request: the request target's form, Host, hop-by-hop lines and those that Connection names,
what identified the caller, an inbound Authorization on a token route, and the credential. Of a response: hop-by-hop
lines, and anything that would set our own identifiers. Every other line goes on as the bytes that came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.callers.cookie import without
from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.message import Headers, RequestHead

HOP_BY_HOP = frozenset(
    [
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings",
        b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
    ]
)  # fmt: skip
_FRAMING = frozenset([b"host", b"content-length", b"transfer-encoding"])  # Connection cannot take these away
_NEVER_TRAILERS = HOP_BY_HOP | frozenset(
    [
        b"host", b"content-length", b"content-encoding", b"content-type", b"content-range", b"trailer",
        b"authorization", b"cookie", b"set-cookie", b"expect", b"cache-control", b"max-forwards", b"range",
    ]
)  # fmt: skip
_USUAL = frozenset(
    [
        b"accept", b"accept-encoding", b"accept-language", b"cache-control", b"content-encoding", b"content-length",
        b"content-type", b"date", b"etag", b"expect", b"if-match", b"if-modified-since", b"if-none-match",
        b"last-modified", b"location", b"origin", b"pragma", b"range", b"referer", b"server", b"traceparent",
        b"user-agent", b"vary", b"x-request-id",
    ]
)  # fmt: skip

_KEEP, _DROP, _HOST, _COOKIE, _CODING, _CONNECTION, _UPGRADE, _SET_COOKIE = range(8)
_SPECIAL = {
    b"host": _HOST,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
}
_CHUNKED = b"Transfer-Encoding: chunked"


class RequestRules:
    """What one route does to header lines. `dropped` and `cookies` identify the caller; names are lower case."""

    __slots__ = ("_actions", "_cookies", "_dropped", "_via")

    def __init__(self, dropped: Iterable[bytes], cookies: frozenset[bytes], via: str = "") -> None:
        self._via = via.encode("ascii")
        self._dropped = frozenset(dropped)
        self._cookies = cookies
        self._actions = {
            **dict.fromkeys(_USUAL, _KEEP),
            **dict.fromkeys(HOP_BY_HOP | self._dropped, _DROP),
            b"cookie": _COOKIE if cookies else _KEEP,
            **{name: action for name, action in _SPECIAL.items() if name not in self._dropped},
        }

    def lines(self, headers: Headers, authority: bytes, *, upgrade: bool, minor: int = 1) -> list[bytes]:
        """Return the lines that go on, in their order, and Via where it is configured (RFC 9110 section 7.6.3)."""
        actions = self._actions
        nominated = connection_tokens(headers) - _FRAMING
        kept: list[bytes] = []
        for name, line in zip(headers.names, headers.lines, strict=True):
            action = actions.get(name)
            if name in nominated and not (upgrade and name == b"upgrade"):
                continue
            if action == _KEEP or (action is None and not self._looks_like_ours(name)):
                kept.append(line)
            elif action == _HOST:
                kept.append(line[:5] + b" " + authority)
            elif action is not None and action > _HOST:
                self._special(action, line, kept, upgrade)
        if minor == 0 and b"host" not in headers.names:
            kept.insert(0, b"Host: " + authority)  # what goes on is HTTP/1.1
        if self._via:
            _check_via(headers, self._via)
            kept.append(b"Via: 1.%d %b" % (minor, self._via))
        return kept

    def _special(self, action: int, line: bytes, kept: list[bytes], upgrade: bool) -> None:
        if action == _COOKIE:
            value = without(line[7:].strip(b" \t"), self._cookies) if self._names_ours(line) else None
            if value is None:
                kept.append(line)
            elif value:
                kept.append(line[:7] + b" " + value)
        elif action == _CODING:
            kept.append(_CHUNKED)
        elif upgrade:
            kept.append(b"Connection: Upgrade" if action == _CONNECTION else line)

    def _names_ours(self, line: bytes) -> bool:
        return any(name in line for name in self._cookies)

    def _looks_like_ours(self, name: bytes) -> bool:
        """X_Session_Id, Content_Length: CGI-like applications take _ for -, so these may not pass either."""
        return b"_" in name and ((like := name.replace(b"_", b"-")) in self._dropped or like in _FRAMING)

    def trailers(self, trailers: list[tuple[bytes, bytes]]) -> list[bytes]:
        """Return the trailer lines that may go on: none that frame, route, authenticate or identify."""
        return [
            name + b": " + value
            for name, value in trailers
            if (lower := name.lower()) not in _NEVER_TRAILERS
            and lower not in self._dropped
            and not self._looks_like_ours(lower)
        ]


class ResponseRules:
    """What happens to the lines of every response. `carriers` and `cookies` are our own identifiers."""

    __slots__ = ("_actions", "_cookies", "_via")

    def __init__(self, carriers: Iterable[bytes], cookies: frozenset[bytes], via: str = "") -> None:
        self._via = via.encode("ascii")
        self._cookies = cookies
        self._actions = {
            **dict.fromkeys(HOP_BY_HOP | frozenset(carriers), _DROP),
            b"transfer-encoding": _CODING,
            b"connection": _CONNECTION,
            b"upgrade": _UPGRADE,
            b"set-cookie": _SET_COOKIE,
        }

    def section(self, headers: Headers, *, chunked: bool, upgrade: bool) -> bytes:
        """Return the lines that go on, each with its line end; `chunked` says that the body goes on in chunks."""
        name = (self, chunked, upgrade)
        section: bytes | None = headers.memo.get(name)
        if section is None:
            lines = self._lines(headers, chunked=chunked, upgrade=upgrade)
            section = headers.memo[name] = b"".join(line + b"\r\n" for line in lines)
        return section

    def _lines(self, headers: Headers, *, chunked: bool, upgrade: bool) -> list[bytes]:
        actions = self._actions
        nominated = connection_tokens(headers) - _FRAMING
        kept: list[bytes] = []
        for name, line in zip(headers.names, headers.lines, strict=True):
            action = actions.get(name)
            if action is None:
                if name not in nominated:
                    kept.append(line)
            elif action == _SET_COOKIE:
                if line[11:].partition(b"=")[0].strip() not in self._cookies:
                    kept.append(line)
            elif (action == _CODING and chunked) or (action > _CODING and upgrade):
                kept.append(line)
        if self._via:
            kept.append(b"Via: 1.1 " + self._via)
        return kept


def _check_via(headers: Headers, pseudonym: bytes) -> None:
    """Raise `Refusal` where the request has come through us before."""
    hops = b",".join(headers.all(b"via")).split(b",")
    if any(hop.split()[1:2] == [pseudonym] for hop in hops):
        raise Refusal("loop", close=True)


def connection_tokens(headers: Headers) -> frozenset[bytes]:
    """Return the lower-case tokens of Connection (RFC 9110 section 7.6.1)."""
    if b"connection" not in headers.names:
        return _NO_TOKENS
    tokens: frozenset[bytes] | None = headers.memo.get(_TOKENS)
    if tokens is None:
        values = b",".join(headers.all(b"connection")).lower().split(b",")
        tokens = headers.memo[_TOKENS] = frozenset(token for value in values if (token := value.strip(b" \t")))
    return tokens


_TOKENS = "connection tokens"
_NO_TOKENS: frozenset[bytes] = frozenset()


RETURNING = frozenset([b"OPTIONS", b"TRACE"])
"""The methods that Max-Forwards is for; others keep it as it came (RFC 9110 section 7.6.2)."""


def one_hop_less(lines: list[bytes]) -> list[bytes]:
    """Return the lines of a request with Max-Forwards counted down."""
    start = b"max-forwards:"
    size = len(start)
    return [
        line[:size] + b" %d" % (max_forwards(line[size:]) - 1) if line[:size].lower() == start else line
        for line in lines
    ]


def max_forwards(value: bytes) -> int:
    """Return Max-Forwards (RFC 9110 section 7.6.2); raise `Refusal` where it is no number."""
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > 9:  # noqa: PLR2004 - more digits than any hop count has
        raise Refusal("bad_request", "Max-Forwards is not a number.")
    return int(digits)


def wants_upgrade(head: RequestHead) -> bool:
    """Say whether the request asks for another protocol that a tunnel can carry: not HTTP/2 (RFC 9113 dropped h2c)."""
    names = head.names
    if b"upgrade" not in names or head.minor == 0 or b"content-length" in names or b"transfer-encoding" in names:
        return False  # with a body, nobody could say where the tunnel begins
    protocols = b",".join(head.all(b"upgrade")).lower()
    if b"content-length" in head.names or b"transfer-encoding" in head.names:
        return False  # a body would have to end before the tunnel begins; nobody upgrades that way
    return b"upgrade" in connection_tokens(head.headers) and b"h2c" not in protocols
