"""The admin listener's refusals as problem details (RFC 9457), in the shape that the proxy's own have.

Holds the rows that only a server of resources needs; all others are `errors.REFUSALS`. Never repeats what a request
said.
"""

from __future__ import annotations

import secrets
from typing import Any

import orjson
import structlog

from sidecar.errors import PUBLIC_CODE, REFUSALS, Refusal, StoreBrokenError, StoreUnavailableError
from sidecar.wire.problem import TYPE

OWN = {
    "not_found": (404, "There is nothing here"),
    "method_refused": (405, "This method is not allowed here"),
    "unsupported_media_type": (415, "The body must be JSON"),
    "caller_unknown": (401, "The admin token is needed"),
    "caller_not_allowed": (403, "This caller may not use the admin listener"),
}
HEADERS = {"Server": "sidecar", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""What every answer of the admin listener has."""

_log = structlog.get_logger()


class Problem(Exception):  # noqa: N818 - an answer, not a fault of the program
    """An answer to this request that is a problem: `code` is a row of `OWN` or of `errors.REFUSALS`."""

    def __init__(self, code: str, detail: str = "", **headers: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def document(problem: Problem) -> tuple[int, bytes]:
    """Return the status and the body of the answer that `problem` is."""
    status, title = OWN.get(problem.code) or REFUSALS[problem.code][:2]
    body: dict[str, Any] = {
        "type": TYPE.format(code=problem.code),
        "title": title,
        "status": status,
        "detail": problem.detail or f"{title}.",
        "code": PUBLIC_CODE.get(problem.code, problem.code),
        "request_id": secrets.token_hex(8),
    }
    return status, orjson.dumps(body)


def meaning(error: Exception) -> Problem:
    """Return the problem that an exception of a handler comes to; what nobody foresaw is logged, and never told."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, Refusal):
        return Problem("bad_request" if error.name == "login_required" else error.name, error.detail)
    if isinstance(error, (StoreUnavailableError, StoreBrokenError)):
        return Problem("store_unavailable", Retry_After="1")
    _log.error("admin_request_failed", error=type(error).__name__, exc_info=error)
    return Problem("internal")
