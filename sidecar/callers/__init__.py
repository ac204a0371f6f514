"""The door of the callers: who is asking, and for which session. A new kind is one file and one line here.

A kind is a frozen dataclass whose fields are its YAML keys (`{cookie: NAME}`, `{header: NAME, key: …}`); its first
field is its keyword. Kinds decide about one message head: no I/O. What a kind reads is removed before forwarding,
whichever kind recognised the caller: that is what `carriers` and `cookies` are for.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from sidecar.callers import basic, cookie, key_header, session_header
from sidecar.message import Peer, RequestHead


class SessionKind(Protocol):
    """A place where the application puts the session's id."""

    keyword: ClassVar[str]

    @property
    def carriers(self) -> frozenset[bytes]:
        """Lower-case names of the header lines to remove."""

    @property
    def cookies(self) -> frozenset[bytes]:
        """Names of the cookies to take out of Cookie."""

    def find(self, head: RequestHead) -> str | None:
        """Return the session id that the head presents, None where there is none; raise `Refusal` on two."""


class AppKind(Protocol):
    """A proof of which application is calling."""

    keyword: ClassVar[str]
    app: str

    @property
    def carriers(self) -> frozenset[bytes]:
        """Lower-case names of the header lines to remove."""

    def check(self, head: RequestHead, peer: Peer) -> bool | None:
        """Return True for this app, False for a proof that is not this app's, None where none is presented."""


SESSION_KINDS: dict[str, type] = {
    "cookie": cookie.Cookie,
    "header": session_header.SessionHeader,
}
APP_KINDS: dict[str, type] = {
    "basic": basic.Basic,
    "header": key_header.KeyHeader,
}
