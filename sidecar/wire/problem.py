"""The answers that we give ourselves: problem details (RFC 9457) with Proxy-Status (RFC 9209).

The body holds no byte of the request and no internal address; `detail` comes from the program's own texts.
"""

from __future__ import annotations

import math
import os
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from sidecar.errors import Refusal

TYPE = "urn:sidecar:problem:{code}"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def new_request_id() -> str:
    """Return an id for a request that brought none."""
    return os.urandom(8).hex()


def problem(
    refusal: Refusal,
    *,
    status: int | None = None,
    request_id: str = "",
    headers: tuple[tuple[str, str], ...] = (),
    members: dict[str, str] | None = None,
    close: bool = False,
    head_only: bool = False,
) -> bytes:
    """Return the whole response to a refused request. `headers` and `members` are added to those of the refusal.

    Without `request_id`, as where the request could not be read, a new one is made.
    """
    code = refusal.code
    number = status or refusal.row.status
    document = {
        "type": TYPE.format(code=code),
        "title": refusal.row.title,
        "status": number,
        "detail": refusal.detail,
        "code": code,
        "request_id": request_id or new_request_id(),
        **(members or {}),
    }
    content = orjson.dumps(document)
    lines = [
        f"HTTP/1.1 {number} {HTTPStatus(number).phrase}",
        f"Date: {_date(time.time())}",  # RFC 9110 section 6.6.1: of these answers we are the origin server
        "Content-Type: application/problem+json",
        f"Content-Length: {len(content)}",
        f"Proxy-Status: sidecar; error={refusal.row.proxy_error}",
        "Cache-Control: no-store",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if refusal.retry_after is not None:
        lines.append(f"Retry-After: {max(1, math.ceil(refusal.retry_after))}")
    if close:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + (b"" if head_only else content)


def _date(now: float) -> str:
    """Return an IMF-fixdate (RFC 9110 section 5.6.7); strftime would speak the locale's language."""
    year, month, day, hour, minute, second, weekday, *_ = time.gmtime(now)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{second:02} GMT"
