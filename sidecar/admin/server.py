"""The admin listener: health, readiness, metrics, the status page, the session API, explain.

Wires the handlers to an aiohttp application and an address. Decides nothing about tokens or requests. aiohttp's access
log is off: its lines would hold session ids.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web

from sidecar.admin import guard, page, prometheus
from sidecar.admin.problems import HEADERS, Problem, answer, of_status, problems
from sidecar.admin.sessions import SessionApi, read_object, show
from sidecar.settings import KIB, Address

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from sidecar.admin.problems import Handler
    from sidecar.admin.state import AdminState

BODY_LIMIT = 256 * KIB
_log = structlog.get_logger()


def make_application(state: AdminState) -> web.Application:
    """Return the application that shows and serves `state`, which may change while it runs."""
    application = web.Application(client_max_size=BODY_LIMIT, middlewares=[problems, _guarding(state)])
    views = _Views(state)
    api = SessionApi(state)
    application.router.add_get("/healthz", views.healthz)
    application.router.add_get("/readyz", views.readyz)
    application.router.add_get("/metrics", views.metrics)
    application.router.add_get("/", views.page)
    application.router.add_get("/v1/sessions", api.list)
    application.router.add_get("/v1/sessions/{id}", api.get)
    application.router.add_put("/v1/sessions/{id}", api.put)
    application.router.add_delete("/v1/sessions/{id}", api.delete)
    application.router.add_post("/v1/explain", views.explain)
    application.router.add_post("/quit", views.quit)
    application.on_response_prepare.append(_own_headers)
    return application


@asynccontextmanager
async def serving(application: web.Application, address: Address) -> AsyncIterator[Address]:
    """Serve `application` at `address` and yield the address in use (port 0 becomes the port that was given).

    Raises OSError where the address is taken or not ours.
    """
    runner = web.AppRunner(application, shutdown_timeout=2.0)
    await runner.setup()
    loop = asyncio.get_running_loop()
    try:
        sock = _bind(address)
        with closing(await loop.create_server(partial(_Connection, runner.server, loop=loop), sock=sock)):
            yield address if address.path else Address(address.host, sock.getsockname()[1])
    finally:
        await runner.cleanup()
        _remove(address)


class _Connection(web.RequestHandler):
    """A connection whose parse errors are problems: aiohttp would send the malformed bytes back, and log them."""

    __slots__ = ()

    def __init__(self, server: web.Server | None, *, loop: asyncio.AbstractEventLoop) -> None:
        assert server is not None  # noqa: S101 - the runner is set up
        super().__init__(server, loop=loop, access_log=None, keepalive_timeout=75.0)  # type: ignore[arg-type]

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - it repeats what was received
    ) -> web.StreamResponse:
        """Answer what could not be parsed, and close."""
        _log.info("admin_request_malformed", status=status, error=type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("a part of a response is sent already")
        response = answer(of_status(status))
        response.force_close()
        return response


def _remove(address: Address) -> None:
    if address.path:
        Path(address.path).unlink(missing_ok=True)


def _bind(address: Address) -> socket.socket:
    if address.path:
        return _bind_unix(Path(address.path))
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=128)


def _bind_unix(path: Path) -> socket.socket:
    if path.is_socket():
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)  # nobody can connect before listen()
        sock.listen(128)
    except OSError:
        sock.close()
        raise
    return sock


class _Views:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def healthz(self, _request: web.Request) -> web.Response:
        return show({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        readiness = await _value(self._state.readiness())
        response = show(
            {
                "ready": readiness.ready,
                "tokens_last_seconds": readiness.tokens_last,
                "checks": {name: check._asdict() for name, check in readiness.checks.items()},
            }
        )
        response.set_status(200 if readiness.ready else 503)
        return response

    async def metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._state.metrics_text(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def page(self, _request: web.Request) -> web.Response:
        status = await _value(self._state.status())
        readiness = await _value(self._state.readiness())
        html = page.render(status, readiness)
        return web.Response(text=html, content_type="text/html", headers=page.HEADERS)

    async def explain(self, request: web.Request) -> web.Response:
        question = _question(await read_object(request))
        return show(await _value(self._state.explain(*question)))

    async def quit(self, _request: web.Request) -> web.Response:
        if self._state.quit is None:
            raise Problem("not_found", "POST /quit is not enabled.")
        self._state.quit()
        return web.Response(status=202)


def _question(body: dict[str, Any]) -> tuple[str, str, str | None, list[tuple[str, str]]]:
    method, url, session = body.get("method", "GET"), body.get("url"), body.get("session")
    headers = body.get("headers", [])
    if not (isinstance(method, str) and isinstance(url, str) and isinstance(session, str | None)):
        raise _unreadable()
    if not isinstance(headers, list) or not all(_is_pair(pair) for pair in headers):
        raise _unreadable()
    return method, url, session, [(name, value) for name, value in headers]


def _unreadable() -> Problem:
    return Problem("bad_request", 'Send {"method": …, "url": …, "session": …, "headers": [[name, value], …]}.')


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and [type(part) for part in value] == [str, str]


async def _value(given: Any | Awaitable[Any]) -> Any:
    return await given if inspect.isawaitable(given) else given


def _guarding(state: AdminState) -> Any:
    @web.middleware
    async def guarding(request: web.Request, handler: Handler) -> web.StreamResponse:
        denied = guard.check(request.path, request.headers, token=state.token, local=_is_local(request))
        if denied is None:
            return await handler(request)
        challenge = {"WWW_Authenticate": 'Bearer realm="sidecar admin"'} if denied.code == "caller_unknown" else {}
        raise Problem(denied.code, denied.detail, **challenge)

    return guarding


def _is_local(request: web.Request) -> bool:
    return request.transport is None or guard.is_local(request.transport.get_extra_info("sockname"))


async def _own_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in HEADERS.items():
        response.headers[name] = value
