"""The admin listener's refusals as problem details (RFC 9457), in the shape that the proxy's own have.

Holds the rows that only a server of resources needs; all others are `errors.REFUSALS`. Never repeats what a request
said.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from aiohttp import web

from sidecar.errors import REFUSALS, Refusal, StoreBrokenError, StoreUnavailableError
from sidecar.wire.problem import TYPE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

OWN = {
    "not_found": (404, "There is nothing here"),
    "method_refused": (405, "This method is not allowed here"),
    "unsupported_media_type": (415, "The body must be JSON"),
    "caller_unknown": (401, "The admin token is needed"),
    "caller_not_allowed": (403, "This caller may not use the admin listener"),
}
HEADERS = {"Server": "sidecar", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""What every answer of the admin listener has."""

_BY_STATUS = {404: "not_found", 405: "method_refused", 413: "too_large", 415: "unsupported_media_type"}
_log = structlog.get_logger()


class Problem(Exception):  # noqa: N818 - an answer, not a fault of the program
    """An answer to this request that is a problem: `code` is a row of `OWN` or of `errors.REFUSALS`."""

    def __init__(self, code: str, detail: str = "", **headers: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def of_status(status: int, **headers: str) -> Problem:
    """Return the problem that stands for an answer of aiohttp's own."""
    fallback = "internal" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "bad_request"
    return Problem(_BY_STATUS.get(status, fallback), **headers)


def answer(problem: Problem) -> web.Response:
    """Return the response for `problem`."""
    status, title = OWN.get(problem.code) or REFUSALS[problem.code][:2]
    body: dict[str, Any] = {
        "type": TYPE.format(code=problem.code),
        "title": title,
        "status": status,
        "detail": problem.detail or f"{title}.",
        "code": problem.code,
        "request_id": secrets.token_hex(8),
    }
    return web.Response(
        status=status,
        body=orjson.dumps(body),
        content_type="application/problem+json",
        headers=HEADERS | problem.headers,
    )


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn everything that a handler raises into a problem; the border of the admin listener."""
    try:
        return await handler(request)
    except Problem as problem:
        return answer(problem)
    except Refusal as refusal:
        code = "bad_request" if refusal.name == "login_required" else refusal.name
        return answer(Problem(code, refusal.detail))
    except (StoreUnavailableError, StoreBrokenError):
        return answer(Problem("store_unavailable", Retry_After="1"))
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return answer(of_status(error.status, **allowed))
    except Exception as error:  # noqa: BLE001 - the last line: named in the log, never told to the caller
        _log.exception("admin_request_failed", error=type(error).__name__)
        return answer(Problem("internal"))
