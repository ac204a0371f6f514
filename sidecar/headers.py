"""Which header lines go on, which stay behind, which are written anew (RFC 9110 sections 7.6.1, 7.7 and 11.7).

The declared changes of a request: the request target's form, Host, hop-by-hop lines and those that Connection names,
what identified the caller, an inbound Authorization on a token route, and the credential. Of a response: hop-by-hop
lines, and anything that would set our own identifiers. Every other line goes on as the bytes that came.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.callers.cookie import AROUND, without
from sidecar.errors import Refusal
from sidecar.message import as_some_read_it, lines_of, section_of
from sidecar.wire.hearing import Hearing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.message import Headers, RequestHead, ResponseHead

HOP_BY_HOP: Final = frozenset(
    [
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings",
        b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
    ]
)  # fmt: skip
_FRAMING: Final = frozenset([b"host", b"content-length", b"transfer-encoding"])  # Connection cannot take these away
_EXPECT: Final = frozenset([b"expect"])
_NEVER_TRAILERS: Final = HOP_BY_HOP | frozenset(
    [
        b"host", b"content-length", b"content-encoding", b"content-type", b"content-range", b"trailer",
        b"authorization", b"cookie", b"set-cookie", b"expect", b"cache-control", b"max-forwards", b"range",
    ]
)  # fmt: skip
_KEEP: Final = 0
_DROP: Final = 1
_HOST: Final = 2
_COOKIE: Final = 3
_CODING: Final = 4
_CONNECTION: Final = 5
_UPGRADE: Final = 6
_SET_COOKIE: Final = 7
_SPECIAL: Final = {
    b"host": _HOST,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"upgrade": _UPGRADE,
}
_CHUNKED: Final = b"Transfer-Encoding: chunked"
_OF_A_CONNECTION: Final = re.compile(  # some readers take more than white space off a value
    rb"\r\nauthorization:[^!-~\r]*(?:ntlm|negotiate|nego2|kerberos|credssp)\b", re.IGNORECASE
)
_HARMLESS: Final = frozenset([b"close", b"keep-alive"])  # Connection's own options: they name no line


@dataclass(frozen=True, slots=True)
class Changes:
    """What becomes of the header section of a message: each edit is a line with its line ends, and what goes on of it.

    An edit stands for one line, so a line that came twice has two; no edit makes what another one looks for. `shared`:
    this holds for every message with equal speaking lines, since Connection names none of the others, nor an upgrade
    beside a length.
    """

    edits: list[tuple[bytes, bytes]]
    first: bytes
    last: bytes
    shared: bool

    def apply(self, section: bytes) -> bytes:
        """Return the section that goes on."""
        for line, instead in self.edits:
            before, _, after = section.partition(line)
            section = before + instead + after
        return self.first + section + self.last if self.first or self.last else section


def _edit(line: bytes, instead: bytes | None) -> tuple[bytes, bytes]:
    """Return the edit of one whole line; None takes it out."""
    return b"\r\n%b\r\n" % line, b"\r\n" if instead is None else b"\r\n%b\r\n" % instead


class RequestRules:
    """What one route does to header lines. `dropped` and `cookies` identify the caller; names are lower case."""

    __slots__ = ("_actions", "_alike", "_dropped", "_via", "cookies")

    def __init__(self, dropped: Iterable[bytes], cookies: frozenset[bytes], via: str = "") -> None:
        self._via = via.encode("ascii")
        self._dropped = frozenset(dropped)
        self._alike = frozenset(map(as_some_read_it, self._dropped | _FRAMING))
        self.cookies = cookies
        self._actions = {
            **dict.fromkeys(HOP_BY_HOP | self._dropped, _DROP),
            b"cookie": _COOKIE if cookies else _KEEP,
            **{name: action for name, action in _SPECIAL.items() if name not in self._dropped},
        }

    @property
    def speaking(self) -> frozenset[bytes]:
        """The names of the lines that this route does not just pass on, or that say how to pass the others on."""
        via = frozenset([b"via"]) if self._via else frozenset[bytes]()
        return HOP_BY_HOP | _FRAMING | _EXPECT | self._dropped | via

    def changes(self, headers: Headers, authority: bytes, *, upgrade: bool, minor: int) -> Changes:
        """Return what becomes of the lines; equal for all messages whose speaking lines are equal."""
        nominated = connection_tokens(headers) - _FRAMING - _HARMLESS
        if minor == 0:
            nominated |= _EXPECT  # HTTP/1.0 knows no 100 and no 417: we may not ask for them (RFC 9110 section 10.1.1)
        edits: list[tuple[bytes, bytes]] = []
        for name, line in zip(headers.names, headers.lines, strict=True):
            action = self._actions.get(name)
            if action == _DROP or (name in nominated and name != b"upgrade") or self._looks_like_ours(name):
                edits.append(_edit(line, None))
            elif action and (instead := self._one(action, line, authority, upgrade=upgrade)) != line:
                edits.append(_edit(line, instead))
        first = b"\r\nHost: " + authority if minor == 0 and b"host" not in headers.names else b""
        last = b""
        if self._via:
            _check_via(headers, self._via)
            last = b"Via: 1.%d %b\r\n" % (minor, self._via)
        by_length = b"upgrade" in nominated and headers.lengths  # whether there is a body says whether that line stays
        return Changes(edits, first, last, shared=not (nominated - HOP_BY_HOP - _EXPECT or by_length))

    def lines(self, headers: Headers, authority: bytes, *, upgrade: bool, minor: int = 1) -> list[bytes]:
        """Return the lines that go on, in their order, and Via where it is configured (RFC 9110 section 7.6.3)."""
        return lines_of(self.changes(headers, authority, upgrade=upgrade, minor=minor).apply(headers.section))

    def _one(self, action: int, line: bytes, authority: bytes, *, upgrade: bool) -> bytes | None:
        if action == _HOST:
            return line[:5] + b" " + authority
        if action == _COOKIE:
            if not self._names_ours(line):
                return line
            value = without(line[7:].strip(b" \t"), self.cookies)
            return line[:7] + b" " + value if value else None
        if action == _CODING:
            return _CHUNKED
        if not upgrade:
            return None
        return b"Connection: Upgrade" if action == _CONNECTION else line

    def _names_ours(self, line: bytes) -> bool:
        return any(name in line for name in self.cookies)

    def _looks_like_ours(self, name: bytes) -> bool:
        """X_Session_Id, Content.Length: CGI-like applications take these for -, so such names may not pass either."""
        return as_some_read_it(name) in self._alike and name not in _FRAMING

    def trailers(self, trailers: list[tuple[bytes, bytes]], nominated: frozenset[bytes]) -> list[bytes]:
        """Return the trailer lines that may go on: none that frame, route, authenticate or identify.

        And none that are `nominated` by Connection (RFC 9110 section 7.6.1).
        """
        return [
            name + b": " + value
            for name, value in trailers
            if (lower := name.lower()) not in _NEVER_TRAILERS
            and lower not in self._dropped
            and lower not in nominated
            and not self._looks_like_ours(lower)
        ]


class ResponseRules:
    """What happens to the lines of every response. `carriers` and `cookies` are our own identifiers.

    `hearing` reads the responses that these rules are for: a line that is mute to other rules' ears could be one that
    these take out, and what they remember would then be done to responses that do not have it.
    """

    __slots__ = ("_actions", "_cookies", "_via", "hearing")

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
        self.hearing = Hearing(self.speaking, cookies)

    @property
    def speaking(self) -> frozenset[bytes]:
        """The names of the lines that do not just go on, or that say how the others do."""
        return frozenset(self._actions) - {b"set-cookie"}

    def section(self, headers: Headers, *, chunked: bool, upgrade: bool) -> bytes:
        """Return the section that goes on; `chunked` says that the body goes on in chunks."""
        name = (self, chunked, upgrade)
        changes: Changes | None = headers.memo.get(name)
        if changes is None:
            changes = self._changes(headers, chunked=chunked, upgrade=upgrade)
            if changes.shared:
                headers.memo[name] = changes
        return changes.apply(headers.section)

    def _changes(self, headers: Headers, *, chunked: bool, upgrade: bool) -> Changes:
        nominated = connection_tokens(headers) - _FRAMING - _HARMLESS
        edits: list[tuple[bytes, bytes]] = []
        for name, line in zip(headers.names, headers.lines, strict=True):
            action = self._actions.get(name)
            if action is None or action == _SET_COOKIE:
                if name in nominated or (action and _cookie_name(line) in self._cookies):
                    edits.append(_edit(line, None))
            elif action == _CODING and chunked:
                if line != line.rstrip(b" \t"):  # some clients compare the value with its trailing white space
                    edits.append(_edit(line, _CHUNKED))
            elif not (action > _CODING and upgrade):
                edits.append(_edit(line, None))
        last = b"Via: 1.1 %b\r\n" % self._via if self._via else b""
        return Changes(edits, b"", last, shared=not nominated - HOP_BY_HOP)


def _cookie_name(line: bytes) -> bytes:
    """Return the name under which a cookie comes back: browsers send one without a name as its bare value."""
    return line[11:].lstrip(AROUND + b"=").partition(b"=")[0].strip(AROUND)


def _check_via(headers: Headers, pseudonym: bytes) -> None:
    """Raise `Refusal` where the request has come through us before."""
    hops = b",".join(headers.all(b"via")).split(b",")
    if any(hop.split()[1:2] == [pseudonym] for hop in hops):
        raise Refusal("loop", close=True)


def connection_tokens(headers: Headers) -> frozenset[bytes]:
    """Return the lower-case tokens of Connection (RFC 9110 section 7.6.1)."""
    tokens: frozenset[bytes] | None = headers.memo.get(_TOKENS)
    if tokens is None:
        values = b",".join(headers.all(b"connection")).lower().split(b",")
        found = frozenset(token for value in values if (token := value.strip(b" \t")))
        tokens = headers.memo[_TOKENS] = found or _NO_TOKENS  # one for all that have none: 200 bytes each
    return tokens


_TOKENS: Final = "connection tokens"
_NO_TOKENS: Final = frozenset[bytes]()
_PERSISTS: Final = "persists"


def persists(headers: Headers, minor: int) -> bool:
    """Say whether the sender of a message of version HTTP/1.`minor` keeps the connection (RFC 9112 section 9.3)."""
    stays: bool | None = headers.memo.get(_PERSISTS)
    if stays is None:
        tokens = connection_tokens(headers)
        stays = headers.memo[_PERSISTS] = b"close" not in tokens and (minor == 1 or b"keep-alive" in tokens)
    return stays


RETURNING: Final = frozenset([b"OPTIONS", b"TRACE"])
"""The methods that Max-Forwards is for; others keep it as it came (RFC 9110 section 7.6.2)."""


def check_returning(head: RequestHead, *, token: bool, body: bool) -> None:
    """Raise `Refusal` for TRACE with a token, which would come back in the body, and at the last hop of a method.

    And for TRACE with a body, which may hold secrets as well (RFC 9110 section 9.3.8).
    """
    if head.method == b"TRACE" and token:
        raise Refusal("method_refused", "TRACE would send the token back to the caller.")
    if head.method == b"TRACE" and body:
        raise Refusal("bad_request", "TRACE carries no body.", close=True)
    if any(max_forwards(value) == 0 for value in head.all(b"max-forwards")):
        raise Refusal("method_refused", "Max-Forwards is 0: the request ends at this sidecar.")


def one_hop_less(section: bytes) -> bytes:
    """Return the header section of a request with Max-Forwards counted down."""
    start = b"max-forwards:"
    size = len(start)
    return section_of(
        [
            line[:size] + b" %d" % (max_forwards(line[size:]) - 1) if line[:size].lower() == start else line
            for line in lines_of(section)
        ]
    )


def max_forwards(value: bytes) -> int:
    """Return Max-Forwards (RFC 9110 section 7.6.2); raise `Refusal` where it is no number."""
    digits = value.strip(b" \t")
    if not digits.isdigit() or len(digits) > 9:  # noqa: PLR2004 - more digits than any hop count has
        raise Refusal("bad_request", "Max-Forwards is not a number.")
    return int(digits)


def binds(headers: Headers) -> bool:
    """Say whether a request speaks for the connection that it goes on rather than for itself (RFC 4559 section 6)."""
    return _OF_A_CONNECTION.search(headers.section) is not None


def wants_upgrade(head: RequestHead) -> bool:
    """Say whether the request asks for another protocol that a tunnel can carry: not HTTP/2 (RFC 9113 dropped h2c)."""
    names = head.names
    if b"upgrade" not in names or head.minor == 0:
        return False
    if b"transfer-encoding" in names or any(length.strip(b"0") for length in head.all(b"content-length")):
        return False  # with a body, nobody could say where the tunnel begins
    protocols = b",".join(head.all(b"upgrade")).lower()
    return b"upgrade" in connection_tokens(head.headers) and b"h2c" not in protocols


def switches_as_offered(request: RequestHead, response: ResponseHead) -> bool:
    """Say whether a 101 changes to protocols that the request offered, and to no other (RFC 9110 section 7.8)."""
    offered = {token.strip(b" \t") for token in b",".join(request.all(b"upgrade")).lower().split(b",")}
    chosen = {token.strip(b" \t") for token in b",".join(response.all(b"upgrade")).lower().split(b",")} - {b""}
    return response.minor == 1 and bool(chosen) and chosen <= offered
