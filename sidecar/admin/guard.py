"""Who may use the admin listener. Decides from a request's headers alone; no aiohttp, no configuration.

Three attacks are refused. A page in a browser on the same machine that calls us (CSRF): it carries Origin or
Sec-Fetch-Site. A page whose name now resolves to our address (DNS rebinding): its Host is that foreign name. A
process without the token: RFC 6750 section 3, compared in constant time.
"""

from __future__ import annotations

import hmac
import ipaddress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.model import Secret

_SAME_SITE = ("", "none", "same-origin")
_OPEN = ("/", "/healthz", "/readyz", "/metrics")
"""What anybody who reaches the listener may read. Every other path is guarded, whether it exists or not."""


class Denied(NamedTuple):
    """Why a request is refused: a code of `problems`, and what to tell the caller."""

    code: str
    detail: str


def check(path: str, headers: Mapping[str, str], *, token: Secret | None, local: bool) -> Denied | None:
    """Return why the request is refused, None where it is allowed.

    The names in `headers` are lower case. `local` says that the request arrived on loopback: only there is a
    foreign Host a sign of DNS rebinding, since elsewhere every name of the machine is its own.
    """
    if local and not is_own_host(headers.get("host", "")):
        return Denied("caller_not_allowed", "The Host of this request is not this machine's loopback address.")
    if path in _OPEN:
        return None
    if "origin" in headers or headers.get("sec-fetch-site", "") not in _SAME_SITE:
        return Denied("caller_not_allowed", "The session API does not answer web pages.")
    if token is None:
        return None if local else Denied("caller_not_allowed", "Set admin.token to use this beyond loopback.")
    if not _is_bearer(headers.get("authorization", ""), token):
        return Denied("caller_unknown", "Send the admin token as Authorization: Bearer.")
    return None


def is_own_host(host: str) -> bool:
    """Whether `host` cannot be a name that somebody else's DNS gave us: localhost or an address."""
    name = host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdigit() and not host.endswith("]") else host
    if name.lower() == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def is_local(sockname: Any) -> bool:
    """Whether our end of a connection (`socket.getsockname()`) is loopback or a unix socket; unknown counts as it."""
    if not isinstance(sockname, tuple):
        return True
    address = ipaddress.ip_address(str(sockname[0]).partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _is_bearer(authorization: str, token: Secret) -> bool:
    scheme, _, value = authorization.partition(" ")
    presented = value.strip().encode("utf-8", "surrogateescape")
    return scheme.lower() == "bearer" and hmac.compare_digest(presented, token.reveal().encode())
