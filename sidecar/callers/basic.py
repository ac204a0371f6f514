"""`{basic: KEY}`: the application proves itself by Proxy-Authorization: Basic (RFC 9110 section 11.7, RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass, field
from typing import ClassVar

from sidecar.message import Peer, RequestHead
from sidecar.model import Secret


@dataclass(frozen=True, slots=True)
class Basic:
    """`HTTP_PROXY=http://APP:KEY@…`: the user name is the app's name, the password its key."""

    keyword: ClassVar[str] = "basic"
    basic: Secret
    app: str = field(default="", kw_only=True)

    @property
    def carriers(self) -> frozenset[bytes]:
        """Proxy-Authorization, which is hop-by-hop anyway."""
        return frozenset([b"proxy-authorization"])

    def check(self, head: RequestHead, _peer: Peer) -> bool | None:
        """Compare name and key in constant time; a broken or foreign proof is not this app's."""
        values = head.all(b"proxy-authorization")
        if not values:
            return None
        expected = f"{self.app}:{self.basic.reveal()}".encode()
        return len(values) == 1 and hmac.compare_digest(_credentials(values[0]), expected)


def _credentials(value: bytes) -> bytes:
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return b""
