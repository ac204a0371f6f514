"""`{house: KEY}`: an application is recognised by the key of its house."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import ClassVar

from sidecar.message import Peer, RequestHead
from sidecar.model import Secret


@dataclass(frozen=True, slots=True)
class House:
    """The header line X-House holds the house's key."""

    keyword: ClassVar[str] = "house"
    house: Secret
    app: str = field(default="", kw_only=True)

    @property
    def carriers(self) -> frozenset[bytes]:
        return frozenset([b"x-house"])

    def check(self, head: RequestHead, _peer: Peer) -> bool | None:
        values = head.all(b"x-house")
        return hmac.compare_digest(values[0], self.house.reveal().encode()) if values else None
