"""The cookies of sign-ins: the session's own, and a short-lived sealed one for each sign-in that was begun.

Pure; sealing is an argument. Both are HttpOnly, SameSite=Lax and, over https, Secure with the prefix `__Host-`, which
keeps other hosts of the domain from planting one (RFC 6265bis section 4.1.3). Nothing is stored on this side before a
sign-in is complete: what the callback is judged by travels in the browser, sealed and bound to the cookie's name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import orjson

from sidecar.errors import SealError
from sidecar.oauth.authorization import Pending

if TYPE_CHECKING:
    from collections.abc import Iterable

PENDING_LIFE = 600
"""Seconds that a user may take at the authorization server."""
MOST_PENDING = 8
"""Sign-ins under way in one browser: the tabs of a user."""
MOST_BYTES = 4096
"""Their names and values together: half of what many servers and proxies take as one Cookie line."""
MOST_SESSIONS = 32
"""Different session ids that one browser may send: each costs the store, and anybody may write a Cookie line."""
_PENDING = "sidecar_login_"
_SEAL_VERSION = 1
_LONGEST = 4096


class Sealer(Protocol):
    """What is asked of `credentials.vault.Vault`."""

    def seal(self, name: str, version: int, plaintext: bytes) -> bytes:
        """Return the plaintext sealed under a name."""

    def open(self, name: str, version: int, sealed: bytes) -> bytes:
        """Return what was sealed under this name; raise `SealError`."""


def pending_name(state: str, *, secure: bool) -> str:
    """Return the name of the cookie of the sign-in with this `state`."""
    tag = hashlib.sha256(b"login\0" + state.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return _pending_prefix(secure) + tag


def seal(sealer: Sealer, name: str, pending: Pending) -> str:
    """Return the value of the cookie `name`."""
    sealed = sealer.seal(f"cookie:{name}", _SEAL_VERSION, orjson.dumps(list(pending)))
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")


def unseal(sealer: Sealer, name: str, value: str, now: float) -> Pending | None:
    """Return the sign-in that the cookie `name` holds; None for one that is not ours, not its own, or too old."""
    if len(value) > _LONGEST:
        return None
    try:
        sealed = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        pending = Pending(*orjson.loads(sealer.open(f"cookie:{name}", _SEAL_VERSION, sealed)))
    except (SealError, binascii.Error, ValueError, TypeError):
        return None
    return pending if pending.begun_at - 60 <= now < pending.begun_at + PENDING_LIFE else None


def read(lines: Iterable[str]) -> list[tuple[str, str]]:
    """Return the cookies of the Cookie lines of a request, in their order (RFC 6265 section 4.2).

    Nothing but a blank or a tab is taken off a name, as browsers do: to them a name behind a no-break space has no
    prefix, so any host of the domain may set it.
    """
    pairs = (pair.strip(" \t").partition("=") for line in lines for pair in line.split(";"))
    return [(name, value.strip('"')) for name, equals, value in pairs if equals]


def values(cookies: Iterable[tuple[str, str]], name: str) -> list[str]:
    """Return the different values of the cookie `name`: more than one where another host or path planted one."""
    return list(dict.fromkeys(value for found, value in cookies if found == name))


def surplus(cookies: Iterable[tuple[str, str]], sealer: Sealer, now: float, coming: int, *, secure: bool) -> list[str]:
    """Return the names of pending cookies to drop, so that one more sign-in stays within `MOST_PENDING`.

    `coming` is the length of its cookie, name and value: all together stay within `MOST_BYTES`.
    """
    prefix = _pending_prefix(secure)
    held = {name: value for name, value in cookies if name.startswith(prefix)}
    begun = {name: pending.begun_at for name, value in held.items() if (pending := unseal(sealer, name, value, now))}
    newest_first = sorted(begun, key=lambda name: (begun[name], name), reverse=True)
    lengths = accumulate((len(name) + len(held[name]) for name in newest_first), initial=coming)
    kept = sum(length <= MOST_BYTES for length in lengths) - 1
    dropped = newest_first[max(0, min(kept, MOST_PENDING - 1)) :]
    return [name for name in held if name not in begun] + dropped[::-1]


def set_cookie(name: str, value: str, seconds: int, *, secure: bool) -> str:
    """Return the value of a Set-Cookie line; 0 seconds takes the cookie away."""
    guarded = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{guarded}"


def _pending_prefix(secure: bool) -> str:
    return f"__Host-{_PENDING}" if secure else _PENDING
