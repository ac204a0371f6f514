"""What a request is for (RFC 9112 sections 3.2 and 3.3, RFC 3986).

Decides the host, port and path that routes are matched on. The request target rules; Host is consulted for origin-form
only, though it must always be there once and well formed. The bytes of the path are never changed here: `compared` is
for matching, `path` for the wire, and `plain` says whether every reader takes them for the same thing.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from sidecar.errors import Refusal
from sidecar.model import DEFAULT_PORTS, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.message import Headers, RequestHead

_MOST_REMEMBERED: Final = 1024  # targets of each form
_LONGEST_REMEMBERED: Final = 1024  # bytes
_HOST: Final = "host"  # the memo's name
TOKEN_PARAMETER: Final = b"access_token="
_AUTHORITY: Final = re.compile(rb"(?:([A-Za-z0-9_.-]{1,255})|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{0,5}))?\Z")
_ABSOLUTE: Final = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?#]*)([/?].*)?\Z")
_PLAIN_PATH: Final = re.compile(rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9_~!$&'()*+,=:@.-]*)*/?\Z")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_PARAMETERS: Final = re.compile(r";[^/]*")
_SLASHES: Final = re.compile(r"//+")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# %2f and %5c, a backslash, a dot segment with parameters, an escaped NUL: some upstreams read these as path syntax
_READ_DIFFERENTLY: Final = re.compile(r"%2f|%5c|%00|\\|(?:^|/)\.{1,2};", re.IGNORECASE)


def read_target(head: RequestHead) -> Target:
    """Return the target of a request; raise `Refusal` (bad_request) where it is not one unambiguous target."""
    headers = head.headers
    host: tuple[str, int] | None = headers.memo.get(_HOST)
    if host is None:
        host = headers.memo[_HOST] = _host(headers, head.minor)
    raw = head.target
    if head.method == b"CONNECT":
        return _authority_form(raw)
    if not host[0] and head.minor and raw[:1] in (b"/", b"*"):
        raise Refusal("bad_request", "The request names no host.", close=True)  # RFC 9110 section 4.2.1
    if raw[:1] == b"/":
        return (_known_origin_form if len(raw) <= _LONGEST_REMEMBERED else _origin_form)(raw, host)
    if raw == b"*" and head.method == b"OPTIONS":
        return Target("asterisk", "http", host[0], host[1], raw, "*", True)
    target = (_known_absolute_form if len(raw) <= _LONGEST_REMEMBERED else _absolute_form)(raw)
    if head.method == b"OPTIONS" and target.path == b"/" and raw[-1:] != b"/":
        return replace(target, path=b"*", compared="*")  # RFC 9112 section 3.2.4: no path stands for the server itself
    return target


def _origin_form(raw: bytes, host: tuple[str, int]) -> Target:
    compared, plain = _path(raw)
    return Target("origin", "http", host[0], host[1], raw, compared, plain, plain and _harmless(raw))


def _absolute_form(raw: bytes) -> Target:
    match = _ABSOLUTE.match(raw)
    if match is None:
        raise Refusal("bad_request", "The request target is neither a path nor an http:// or https:// URL.", close=True)
    scheme = match[1].decode("ascii").lower()
    name, port = _authority(match[2], DEFAULT_PORTS[scheme])
    path = match[3] or b"/"
    if path[:1] == b"?":
        path = b"/" + path
    compared, plain = _path(path)
    harmless = plain and scheme == "http" and _harmless(path)
    return Target("absolute", scheme, name, port, path, compared, plain, harmless)


def _harmless(raw: bytes) -> bool:
    """Say whether no parameter of the query can be a token, not even under an escaped name, and no segment is odd."""
    path, _, query = raw.partition(b"?")
    return TOKEN_PARAMETER not in raw and b"%" not in query and b"//" not in path and b";" not in path


def _authority_form(raw: bytes) -> Target:
    name, port = _authority(raw, 0)
    if not port:
        raise Refusal("bad_request", "CONNECT needs HOST:PORT.", close=True)
    return Target("authority", "https", name, port, raw, "", True)


def _host(headers: Headers, minor: int) -> tuple[str, int]:
    """Read Host, which must be there once and well formed even where it is not used (RFC 9112 section 3.2)."""
    hosts = headers.all(b"host")
    if len(hosts) > 1 or (not hosts and minor):
        raise Refusal("bad_request", "The request needs exactly one Host header.", close=True)
    host = hosts[0].strip(b" \t") if hosts else b""
    return _authority(host, DEFAULT_PORTS["http"]) if host else ("", DEFAULT_PORTS["http"])


@lru_cache(maxsize=1024)
def _authority(value: bytes, default_port: int) -> tuple[str, int]:
    """Return host (lower case, without brackets and trailing dot) and port; userinfo and the like are refused."""
    match = _AUTHORITY.match(value)
    if match is None:
        raise Refusal("bad_request", "The host is not HOST or HOST:PORT.", close=True)
    name = match[1].decode("ascii").lower() if match[1] else _ipv6(match[2].decode("ascii"))
    port = int(match[3]) if match[3] else default_port
    if port > 65535 or (match[3] and port == 0):  # noqa: PLR2004 - the largest port
        raise Refusal("bad_request", "The port is out of range.", close=True)
    name = name.removesuffix(".")
    if not name:
        raise Refusal("bad_request", "The host is not HOST or HOST:PORT.", close=True)
    return name, port


def _ipv6(text: str) -> str:
    """Return the one spelling of an IPv6 address (RFC 5952), which the configuration's hosts have as well."""
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise Refusal("bad_request", "The brackets of the host hold no IPv6 address.", close=True) from None


def _path(raw: bytes) -> tuple[str, bool]:
    """Return the path as routes compare it, and whether it has one reading."""
    path = raw.partition(b"?")[0]
    if b"#" in raw:
        raise Refusal("bad_request", "The request target has a fragment.", close=True)
    if _PLAIN_PATH.match(path):
        return path.decode("ascii"), True
    decoded = _ESCAPE.sub(_decode_unreserved, path.decode("ascii"))
    compared = _without_dot_segments(decoded)
    return compared, compared == decoded and not _READ_DIFFERENTLY.search(decoded)


def _decode_unreserved(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return char if char in _UNRESERVED else match[0]


def _without_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4, on whole segments."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def other_readings(compared: str) -> Iterator[str]:
    """Yield what some upstreams take a path for: they merge slashes, or leave out parameters (RFC 3986 section 3.3)."""
    if ";" not in compared:
        bare = [compared]
    else:
        bare = [compared, _PARAMETERS.sub("", compared)]
        yield bare[1]
    if "//" in bare[-1]:
        yield from (_SLASHES.sub("/", path) for path in bare)


_known_origin_form = lru_cache(maxsize=_MOST_REMEMBERED)(_origin_form)
_known_absolute_form = lru_cache(maxsize=_MOST_REMEMBERED)(_absolute_form)
