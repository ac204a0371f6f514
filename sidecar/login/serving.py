"""The sign-in listener's server, which is aiohttp's, and its errors as problem documents.

Decides nothing about sign-ins. aiohttp's access log is off: its lines would hold codes. What cannot be parsed is
answered without an echo.
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog
from aiohttp import http_parser, web

from sidecar.admin.problems import HEADERS, Problem, document, meaning
from sidecar.listening import accepting
from sidecar.login.patience import IDLE, Crowd
from sidecar.settings import KIB

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sidecar.settings import Address

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BY_STATUS = {404: "not_found", 405: "method_refused", 413: "too_large", 415: "unsupported_media_type"}
# Requests are read by llhttp everywhere: two readers of one message may differ, and nobody tests the other one.
_ANOTHER_READER = "aiohttp has no C parser here (AIOHTTP_NO_EXTENSIONS, or built without it), and sign-in needs it"
LINE = 16 * KIB
FIELD = 64 * KIB
"""Bytes of one header line: what the data path takes. Browsers put all cookies of an origin into one line."""
MOST_WAITING = 256 * KIB
"""Bytes that may come without completing a request: a head, or what is left of a body that nobody reads."""
_log = structlog.get_logger()


@asynccontextmanager
async def serving(application: web.Application, where: Address | socket.socket) -> AsyncIterator[Address]:
    """Serve `application` at an address, or on a socket that listens, and yield the address in use.

    Raises OSError where the address is taken or not ours, and where aiohttp came without its C parser.
    """
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        raise OSError(errno.ENOPKG, _ANOTHER_READER)
    runner = web.AppRunner(application, shutdown_timeout=2.0)
    await runner.setup()
    loop = asyncio.get_running_loop()
    crowd = Crowd(loop)
    factory = partial(_Connection, runner.server, crowd, loop=loop)
    try:
        async with accepting(factory, where) as address:
            yield address
    finally:
        crowd.stop()
        await runner.cleanup()


class _Connection(web.RequestHandler):
    """A connection whose parse errors are problems: aiohttp would send the malformed bytes back, and log them."""

    __slots__ = ("_counted", "_crowd", "_waiting")

    def __init__(self, server: web.Server | None, crowd: Crowd, *, loop: asyncio.AbstractEventLoop) -> None:
        assert server is not None  # noqa: S101 - the runner is set up
        sizes = {"max_line_size": LINE, "max_field_size": FIELD}
        super().__init__(server, loop=loop, access_log=None, keepalive_timeout=IDLE, **sizes)  # type: ignore[arg-type]
        self._crowd = crowd
        self._counted = self._waiting = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._crowd.join(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound what is kept of a head: aiohttp bounds its lines alone, each by itself."""
        self._waiting = len(data) + (self._waiting if self._request_count == self._counted else 0)
        self._counted = self._request_count
        if self._waiting > MOST_WAITING and self._current_request is None:
            self.give_up()
        else:
            super().data_received(data)

    def progress(self) -> tuple[int, bool]:
        """Return how many requests have come, and whether one is under way."""
        return self._request_count, self._current_request is not None

    def give_up(self) -> None:
        """Break the connection off: it took too long, or makes room."""
        if self.transport is not None:
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what was received
    ) -> web.StreamResponse:
        """Answer what could not be parsed, and close."""
        _log.info("sign_in_request_malformed", status=status, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of a response is sent already")
        response = _answer(_of_status(status))
        response.force_close()
        return response


def _of_status(status: int, **headers: str) -> Problem:
    """Return the problem that stands for an answer of aiohttp's own."""
    fallback = "internal" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "bad_request"
    return Problem(_BY_STATUS.get(status, fallback), **headers)


def _answer(problem: Problem) -> web.Response:
    status, body = document(problem)
    headers = HEADERS | problem.headers
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn everything that a handler raises into a problem: the border of the listener."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return _answer(_of_status(error.status, **allowed))
    except Exception as error:  # noqa: BLE001 - the last line: named in the log, never told to the caller
        return _answer(meaning(error))
