"""`{header: NAME}`: the session id stands in a header line of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sidecar.callers import session_id
from sidecar.message import RequestHead


@dataclass(frozen=True)
class SessionHeader:
    """The session id is the value of the header line of this name."""

    keyword: ClassVar[str] = "header"
    header: str

    def __post_init__(self) -> None:
        name = self.header.lower().encode("ascii")
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "carriers", frozenset([name]))
        object.__setattr__(self, "cookies", frozenset())

    def find(self, head: RequestHead) -> str | None:
        """Return the id in our header line; two lines that differ are refused."""
        return session_id.only([value.strip() for value in head.all(self._name)])  # type: ignore[attr-defined]
