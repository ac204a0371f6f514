"""What a session id may look like, wherever it comes from."""

from __future__ import annotations

import re

from sidecar.errors import Refusal

LONGEST = 512  # characters
_ID = re.compile(rb"[!#-+\--:<-\[\]-~]{1,512}\Z")  # cookie-octets of RFC 6265 section 4.1.1


def read(value: bytes) -> str:
    """Return the id as text; raise `Refusal` for one that no application of ours can have made."""
    if not _ID.match(value):
        raise Refusal("login_required", "The session id is malformed.")
    return value.decode("ascii")


def only(values: list[bytes]) -> str | None:
    """Return the one id among `values`; two that differ are refused, since nobody can say which is meant."""
    if not values:
        return None
    if len(values) > 1 and len(set(values)) > 1:
        raise Refusal("bad_request", "The request names two different sessions.")
    return read(values[0])
