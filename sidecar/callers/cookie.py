"""`{cookie: NAME}`: the session id stands in one cookie (RFC 6265 section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidecar.callers import session_id
from sidecar.message import RequestHead


@dataclass(frozen=True, slots=True)
class Cookie:
    """The session id is the value of the cookie of this name. The other cookies of the request are kept."""

    keyword: ClassVar[str] = "cookie"
    cookie: str

    @property
    def carriers(self) -> frozenset[bytes]:
        """No header line as a whole."""
        return frozenset()

    @property
    def cookies(self) -> frozenset[bytes]:
        """Our cookie."""
        return frozenset([self.cookie.encode("ascii")])

    def find(self, head: RequestHead) -> str | None:
        """Return the id in our cookie; browsers send one, and two that differ are refused."""
        start = self.cookie.encode("ascii") + b"="
        found = [
            pair.strip()[len(start) :].strip(b'"')
            for line in head.all(b"cookie")
            if start in line
            for pair in line.split(b";")
            if pair.strip().startswith(start)
        ]
        return session_id.only(found)


AROUND = b' \t"\x85\xa0'
"""What some readers take off a cookie's name: white space of Latin-1, and quotes."""


def without(value: bytes, names: frozenset[bytes]) -> bytes:
    """Return a Cookie value without the cookies called `names`; the others keep their bytes and their order.

    Lines that somebody has joined by commas are taken apart too (RFC 2965 section 3.3.4).
    """
    pairs = ([part for part in pair.split(b",") if _name(part) not in names] for pair in value.split(b";"))
    return b";".join(b",".join(parts) for parts in pairs if parts).strip()


def _name(pair: bytes) -> bytes:
    return pair.split(b"=", 1)[0].strip(AROUND)
