"""What a 401 means for a token that the sidecar put there (RFC 6750 section 3, RFC 9110 section 11.6.1).

Pure: from the challenges, the method and the route's policy to one of three verdicts.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING

from sidecar.message import IDEMPOTENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Verdict(enum.Enum):
    """What to do about a 401."""

    PASS = "pass"  # noqa: S105 - the response is not about our token
    RENEW = "renew"  # the token is rejected, but the request may have been acted on: renew for the next one
    REPLAY = "replay"  # renew, then send the request again


_ITEM = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:[ \t]*=[ \t]*(\"(?:[^\"\\]|\\.)*\"|[^ \t,\"]+))?")


def judge(challenges: Iterable[bytes], method: bytes, unsafe: str) -> Verdict:
    """Return the verdict on a 401 with these WWW-Authenticate values; `unsafe` as in `Replay`."""
    errors = [error for scheme, error in _bearer(challenges) if scheme]
    if errors == [] and any(challenges):
        return Verdict.PASS  # challenges, but none for a bearer token
    error = errors[0] if errors else ""
    if error not in ("", "invalid_token"):
        return Verdict.PASS  # insufficient_scope, use_dpop_nonce, …: another token would not help
    if method in IDEMPOTENT or unsafe == "always" or (unsafe == "invalid_token" and error):
        return Verdict.REPLAY
    return Verdict.RENEW


def _bearer(challenges: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield ("bearer", its error attribute or "") for each Bearer challenge."""
    for value in challenges:
        scheme, error = "", ""
        for name, given in _ITEM.findall(value.decode("latin-1")):
            if given and scheme:
                error = given.strip('"') if name.lower() == "error" else error
            elif not given:
                if scheme:
                    yield scheme, error
                scheme, error = ("bearer" if name.lower() == "bearer" else ""), ""
        if scheme:
            yield scheme, error
