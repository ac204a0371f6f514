"""`{header: NAME, key: KEY}`: the application proves itself by a key in a header line."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import ClassVar

from sidecar.message import Peer, RequestHead
from sidecar.model import Secret


@dataclass(frozen=True, slots=True)
class KeyHeader:
    """The header line `header` holds the application's `key`."""

    keyword: ClassVar[str] = "header"
    header: str
    key: Secret
    app: str = field(default="", kw_only=True)

    @property
    def carriers(self) -> frozenset[bytes]:
        """The line that holds the key."""
        return frozenset([self.header.lower().encode("ascii")])

    def check(self, head: RequestHead, _peer: Peer) -> bool | None:
        """Compare the key in constant time; two lines are no proof."""
        values = head.all(self.header.lower().encode("ascii"))
        if not values:
            return None
        return len(values) == 1 and hmac.compare_digest(values[0].strip(), self.key.reveal().encode())
