"""The admin listener: health, readiness, metrics, the status page, the session API, explain.

Says which handler answers which method and path, and who may ask. Decides nothing about tokens or requests. Nothing of
a request is logged: its path may hold a session id.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from sidecar.admin import guard, text_format
from sidecar.admin.problems import HEADERS, Problem, document, meaning
from sidecar.admin.sessions import SessionApi, read_object, show
from sidecar.settings import KIB
from sidecar.wire.service import Asked, Told
from sidecar.wire.service import serving as serving  # noqa: PLC0414 - the server that a desk is for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.admin.state import AdminState
    from sidecar.errors import Refusal

    Handler = Callable[[Asked], Awaitable[Told]]

_SESSION = "/v1/sessions/"
_OWN = tuple(HEADERS.items())


class Desk:
    """Answers the requests of the admin listener from `state`, which may change while it runs."""

    body_limit = 256 * KIB

    def __init__(self, state: AdminState) -> None:
        self._state = state
        views, api = _Views(state), SessionApi(state)
        self._paths: dict[str, dict[str, Handler]] = {
            "/healthz": _read(views.healthz),
            "/readyz": _read(views.readyz),
            "/metrics": _read(views.metrics),
            "/": _read(views.page),
            "/v1/sessions": _read(api.list),
            _SESSION: {**_read(api.get), "PUT": api.put, "DELETE": api.delete},
            "/v1/explain": {"POST": views.explain},
            "/quit": {"POST": views.quit},
        }

    async def answer(self, request: Asked) -> Told:
        """Answer a request; whatever is raised becomes a problem here."""
        try:
            self._guard(request)
            told = await self._handler(request)(request)
        except Exception as error:  # noqa: BLE001 - the last line: named in the log, never told to the caller
            told = _told(meaning(error))
        return told._replace(headers=(*_OWN, *told.headers))

    def refuse(self, refusal: Refusal) -> Told:
        """Answer what could not be read, without an echo."""
        told = _told(meaning(refusal))
        return told._replace(headers=(*_OWN, *told.headers))

    def _guard(self, request: Asked) -> None:
        local = guard.is_local(request.sockname)
        denied = guard.check(request.path, request.headers, token=self._state.token, local=local)
        if denied is not None:
            challenge = {"WWW_Authenticate": 'Bearer realm="sidecar admin"'} if denied.code == "caller_unknown" else {}
            raise Problem(denied.code, denied.detail, **challenge)

    def _handler(self, request: Asked) -> Handler:
        session, identifier = request.path[: len(_SESSION)], request.path[len(_SESSION) :]
        one = session == _SESSION and identifier and "/" not in identifier
        methods = self._paths.get(_SESSION if one else request.path)
        if methods is None or request.path == _SESSION:
            raise Problem("not_found")
        if request.method not in methods:
            raise Problem("method_refused", Allow=",".join(sorted(methods)))
        return methods[request.method]


def _read(handler: Handler) -> dict[str, Handler]:
    return {"GET": handler, "HEAD": handler}


def _told(problem: Problem) -> Told:
    status, body = document(problem)
    return Told(status, body, (("Content-Type", "application/problem+json"), *problem.headers.items()))


def make_application(state: AdminState) -> Desk:
    """Return who answers for `state`."""
    return Desk(state)


class _Views:
    def __init__(self, state: AdminState) -> None:
        self._state = state

    async def healthz(self, _request: Asked) -> Told:
        return show({"status": "ok"})

    async def readyz(self, _request: Asked) -> Told:
        readiness = await _value(self._state.readiness())
        checks = {name: check._asdict() for name, check in readiness.checks.items()}
        told = {"ready": readiness.ready, "tokens_last_seconds": readiness.tokens_last, "checks": checks}
        return show(told, 200 if readiness.ready else 503)

    async def metrics(self, _request: Asked) -> Told:
        return Told(200, await _value(self._state.metrics_text()), (("Content-Type", text_format.CONTENT_TYPE),))

    async def page(self, _request: Asked) -> Told:
        status = await _value(self._state.status())
        from sidecar.admin import page  # noqa: PLC0415 - html's table of entities takes 0.4 MB

        html = page.render(status, await _value(self._state.readiness()))
        return Told(200, html.encode(), (("Content-Type", "text/html; charset=utf-8"), *page.HEADERS.items()))

    async def explain(self, request: Asked) -> Told:
        question = _question(read_object(request))
        return show(await _value(self._state.explain(*question)))

    async def quit(self, _request: Asked) -> Told:
        if self._state.quit is None:
            raise Problem("not_found", "POST /quit is not enabled.")
        self._state.quit()
        return Told(202)


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
