"""`{header: NAME}`: the session id stands in a header line of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidecar.callers import session_id
from sidecar.message import RequestHead


@dataclass(frozen=True, slots=True)
class SessionHeader:
    """The session id is the value of the header line of this name."""

    keyword: ClassVar[str] = "header"
    header: str

    @property
    def carriers(self) -> frozenset[bytes]:
        """The line that holds the id."""
        return frozenset([self.header.lower().encode("ascii")])

    @property
    def cookies(self) -> frozenset[bytes]:
        """No cookie."""
        return frozenset()

    def find(self, head: RequestHead) -> str | None:
        """Return the id in our header line; two lines that differ are refused."""
        return session_id.only([value.strip() for value in head.all(self.header.lower().encode("ascii"))])
