"""Hosts, ports, binds, URLs, path prefixes and header names from the text of a scalar. Pure; nothing is resolved.

RFC 3986 section 3 (URLs), RFC 9110 sections 5.1 and 5.6.2 (field names, tokens), RFC 5890 (IDNA, by Python's codec).
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from sidecar.config.problems import Misfit, near
from sidecar.model import DEFAULT_PORTS, Origin
from sidecar.settings import Address, Tunnel

BIND = "an address such as 127.0.0.1:8080, [::1]:8080 or unix:/run/sidecar/proxy.sock"
HOST = "a host such as api.internal, *.internal or api.internal:8080"
UPSTREAM = "a URL such as https://api.example.com or https://api.example.com/base"
URL = "a URL such as https://login.example.com"
PREFIX = "an absolute path such as /api"
HEADER = "a header name such as Authorization or X-Api-Token"
TUNNEL = "a host and port such as api.example.com:443 or *.example.com:443"

_DEVIATING = re.compile("[\u00df\u03c2\u200c\u200d]")  # browsers keep these (UTS 46 section 7), Python's codec does not
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMERIC = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?\Z")
_PATH = re.compile(r"(?:/|[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*\Z")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?\Z")
_LONGEST_HOST = 253
_LONGEST_SOCKET = 107  # bytes: sockaddr_un
_UNUSABLE = frozenset(
    ["connection", "host", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "keep-alive", "cookie",
     "expect", "via", "x-request-id", "traceparent"]
)  # fmt: skip


class Place(NamedTuple):
    """A host (`*.suffix` where that is allowed) and a port, 0 where none was written."""

    host: str
    port: int


class Upstream(NamedTuple):
    """Where a route's requests go, and the path put before theirs (no trailing slash)."""

    origin: Origin
    base_path: str


def host(text: str) -> str:
    """Return a host in lower case, in ASCII, without brackets and without its trailing dot."""
    if text.startswith("["):
        return _ipv6(text[1:-1])
    name = _ascii(text).lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _LONGEST_HOST or not all(_LABEL.match(label) for label in labels):
        raise Misfit(hint="a host is made of letters, digits, hyphens and dots; an IPv6 address stands in brackets")
    if _NUMERIC.match(labels[-1]):
        return _ipv4(name)
    return name


def _ascii(text: str) -> str:
    if text.isascii():
        return text
    if _DEVIATING.search(text):
        raise Misfit(hint="this name is written in ASCII (IDNA) in two ways, for two domains; write its xn-- form")
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        raise Misfit(hint="this name cannot be written in ASCII (IDNA); write its xn-- form") from None


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ipaddress.AddressValueError:
        raise Misfit(hint="a host that ends in a number is an IPv4 address: four decimal numbers") from None


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ipaddress.AddressValueError:
        raise Misfit(hint="the brackets hold no IPv6 address") from None
    if address.scope_id:
        raise Misfit(hint="an address with a zone (%eth0) is not supported")
    return str(address)


def is_loopback(name: str) -> bool:
    """Whether a host as `host()` returns it is this machine alone, judged by its spelling."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_everywhere(name: str) -> bool:
    """Whether a bind to this host listens on every address of the machine."""
    return name in {"0.0.0.0", "::"}  # noqa: S104


def _place(text: str, *, lowest: int = 1) -> tuple[str, int | None]:
    if "://" in text:
        raise Misfit(hint="a host has no scheme: leave out what ends in ://")
    found = _AUTHORITY.match(text)
    if not found:
        raise Misfit(hint="write an IPv6 address in brackets" if text.count(":") > 1 else "")
    written = found[2]
    if written is None:
        return found[1], None
    if not re.fullmatch("[0-9]{1,5}", written) or not lowest <= int(written) <= 65535:  # noqa: PLR2004
        raise Misfit(hint=f"a port is a number from {lowest} to 65535")
    return found[1], int(written)


def bind(text: str) -> Address:
    """Return where to listen. Port 0 lets the system choose one."""
    if text.startswith("unix:"):
        return _socket(text.removeprefix("unix:"))
    name, port = _place(text, lowest=0)
    if port is None:
        raise Misfit(hint="the port is missing" if not text.isdigit() else f"the host is missing: 127.0.0.1:{text}")
    if name in {"", "*"}:
        raise Misfit(hint="the host is missing: 127.0.0.1 for this machine alone, 0.0.0.0 for every address")
    return Address(host(name), port)


def _socket(path: str) -> Address:
    if path.startswith("//"):  # unix:///run/x.sock, as other programs write it
        path = "/" + path.lstrip("/")
    if not path.startswith("/") or path.endswith("/"):
        raise Misfit(hint="unix: is followed by the socket's absolute path")
    if len(path.encode()) > _LONGEST_SOCKET:
        raise Misfit(hint=f"the path of a unix socket has at most {_LONGEST_SOCKET} bytes")
    return Address(path=path)


def pattern(text: str) -> Place:
    """Return the host of a route: exact or `*.suffix`, with its port or 0."""
    name, port = _place(text)
    if name == "*":
        raise Misfit(hint="a route for any host has no host: leave it out and write a path")
    return Place(_wildcard(name), port or 0)


def _wildcard(name: str) -> str:
    if name.startswith("*."):
        suffix = host(name[2:])
        if ":" in suffix or _NUMERIC.match(suffix.rsplit(".", 1)[-1]):
            raise Misfit(hint="*. goes before a name, not before an address")
        return "*." + suffix
    if "*" in name:
        raise Misfit(hint="a wildcard is a whole first label: *.example.com")
    return host(name)


def tunnel(text: str) -> Tunnel:
    """Return one entry of `tunnels.allow`."""
    name, port = _place(text)
    if port is None:
        raise Misfit(hint="the port is missing: tunnels are allowed by host and port")
    return Tunnel(_wildcard(name), port)


def upstream(text: str) -> Upstream:
    """Return the origin and base path of a route's upstream."""
    scheme, authority, path, query, fragment = _split(text)
    if query or fragment:
        raise Misfit(hint="an upstream has no query and no fragment")
    if any(segment in {".", ".."} for segment in re.sub("%2[eE]", ".", path).split("/")):
        raise Misfit(hint="an upstream's path has no dot segments")
    name, port = _place(authority)
    return Upstream(Origin(scheme, host(name), port or DEFAULT_PORTS[scheme]), path.rstrip("/"))


def url(text: str) -> str:
    """Return the URL of an endpoint as written (its host is checked)."""
    _scheme, authority, _path, _query, fragment = _split(text)
    if fragment:
        raise Misfit(hint="an endpoint has no fragment")
    if not authority.isascii():
        raise Misfit(hint="a provider's URLs are compared letter by letter: write the host in its xn-- form")
    host(_place(authority)[0])
    return text


def issuer(text: str) -> str:
    """Return an issuer identifier as written (RFC 8414 section 2: no query, no fragment)."""
    _scheme, _authority, path, query, fragment = _split(text)
    if query or fragment:
        raise Misfit(hint="an issuer has no query and no fragment")
    if "/.well-known/" in path:
        raise Misfit(hint="write the issuer alone: its metadata under /.well-known/ are found from it")
    return url(text)


def public_origin(text: str) -> str:
    """Return an origin as browsers write it: lower case, without the scheme's own port and without a slash."""
    _scheme, _authority, path, query, fragment = _split(text)
    if path not in ("", "/") or query or fragment:
        raise Misfit(hint="an origin has no path: the sidecar's pages are under /oauth2 of it")
    return str(origin_of(text))


def landing(text: str) -> str:
    """Return an origin and path prefix under which a browser may land."""
    _scheme, _authority, path, query, fragment = _split(text)
    if query or fragment:
        raise Misfit(hint="a place to return to has no query and no fragment; what is below it is allowed as well")
    if "%" in path or any(segment in {".", ".."} for segment in path.split("/")) or "//" in path:
        raise Misfit(hint="no percent signs, no empty and no dot segments")
    return f"{origin_of(text)}{path or '/'}"


def origin_of(text: str) -> Origin:
    """Return the origin of a URL that `url()` accepted."""
    scheme, authority, *_ = _split(text)
    name, port = _place(authority)
    return Origin(scheme, host(name), port or DEFAULT_PORTS[scheme])


def _split(text: str) -> tuple[str, str, str, str, str]:
    found = _URL.match(text)
    if not found:
        raise Misfit(hint="it starts with https:// or http://")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if scheme not in DEFAULT_PORTS:
        raise Misfit(hint=near(scheme, DEFAULT_PORTS) or "the scheme is https or http")
    if "@" in authority:
        raise Misfit(hint="a URL has no user name or password here; credentials have keys of their own")
    if not authority or authority.startswith(":"):
        raise Misfit(hint="the host is missing")
    if not _PATH.match(path):
        raise Misfit(hint="the path holds a character that must be percent-encoded")
    return scheme, authority, path, found[4] or "", found[5] or ""


def resource(text: str) -> str:
    """Return an absolute URI without a fragment (RFC 8707 section 2)."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!$-;=?-Z\[\]_a-z~]+", text):
        raise Misfit(hint="a resource is an absolute URI without a fragment (RFC 8707)")
    return text


def prefix(text: str) -> str:
    """Return a path prefix without its trailing slash (`/` alone stays)."""
    if not text.startswith("/"):
        raise Misfit(hint="it starts with /")
    if "?" in text or "#" in text:
        raise Misfit(hint="a route matches paths alone, not queries")
    if "{" in text:
        raise Misfit(hint="a path takes all below it: write what stands before the {")
    if "%" in text or not _PATH.match(text):
        raise Misfit(hint="write the path decoded, in plain ASCII without percent signs")
    segments = text.split("/")[1:]
    if any(segment in {".", ".."} for segment in segments) or "" in segments[:-1]:
        raise Misfit(hint="no empty and no dot segments")
    return text.rstrip("/") or "/"


def header(text: str) -> str:
    """Return a field name that may carry a value end to end."""
    if not _TOKEN.match(text):
        raise Misfit(hint="a header name is one word without spaces or colons")
    if text.lower() in _UNUSABLE or text.lower().startswith("proxy-"):
        raise Misfit(hint="this header belongs to the connection, to HTTP itself or to the log; choose another")
    return text


def token(text: str) -> str:
    """Return an RFC 9110 token."""
    if not _TOKEN.match(text):
        raise Misfit
    return text
