"""Request heads as people see them: every credential shortened to a fingerprint, so that none is ever printed.

Pure. Decides nothing about requests.
"""

from __future__ import annotations

import hashlib
import re

_CREDENTIAL = re.compile(rb"(?im)^((?:proxy-)?authorization: *)(\S+) +([^\r\n]+)")


def fingerprint(token: bytes | str) -> str:
    """Return six hexadecimal digits that tell tokens apart and give nothing away."""
    data = token.encode() if isinstance(token, str) else token
    return hashlib.sha256(data).hexdigest()[:6]


def shown(head: bytes) -> list[str]:
    """Return the lines of a request head without its credentials."""
    safe = _CREDENTIAL.sub(lambda found: b"%b%b <token %b>" % (found[1], found[2], _mark(found[3])), head)
    return safe.decode("latin-1").rstrip("\r\n").split("\r\n")


def _mark(credential: bytes) -> bytes:
    return fingerprint(credential).encode()
