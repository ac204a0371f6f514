"""What operators see of one program: the admin listener's view of it, and the log lines of its requests.

Shows names, numbers and states; decides nothing.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog

from sidecar import logs, status
from sidecar.admin.prometheus import exposition
from sidecar.admin.state import AdminState
from sidecar.explain import explain
from sidecar.lane import challenge, request_id

if TYPE_CHECKING:
    from sidecar.admin.state import Readiness, Status
    from sidecar.errors import Refusal
    from sidecar.program import Program
    from sidecar.settings import Settings
    from sidecar.wire.exchange import Exchange

_log = structlog.get_logger()
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def admin_state(program: Program) -> AdminState:
    """Return the admin listener's view of a program that serves alone."""
    show = exposition(program.metrics)

    def metrics_text() -> bytes:
        count_connections(program)
        return show()

    return AdminState(
        sessions=program.broker.sessions,
        readiness=lambda: readiness(program),
        metrics_text=metrics_text,
        status=lambda: shown(program),
        explain=lambda *question: explained(program, *question),
        providers=tuple(program.settings.providers),
        token=program.settings.admin.token,
        quit=program.stopped.set if program.settings.admin.quit else None,
    )


def count_connections(program: Program) -> None:
    """Bring the gauges of connections up to date: nobody does while requests are served."""
    program.metrics.connections = len(program.wire.downstreams)
    program.metrics.connections_total = program.wire.accepted


async def readiness(program: Program) -> Readiness:
    """Return whether the program can serve."""
    now, draining = program.clock(), program.wire.draining
    return await status.readiness(
        program.metrics, program.store, program.providers, program.broker, now, draining=draining
    )


def shown(program: Program) -> Status:
    """Return what the status page shows."""
    return status.status(program.settings, program.path, program.error, program.metrics, program.providers)


def explained(
    program: Program, method: str, url: str, session: str | None, headers: list[tuple[str, str]]
) -> dict[str, Any]:
    """Return what would happen to a request."""
    now = program.clock()
    return explain(program.settings, method, url, session, headers, lambda key: program.broker.peek(key, now))


def warned(settings: Settings) -> None:
    """Write what the configuration is allowed and deserves a second look."""
    for warning in settings.warnings:
        _log.warning("configuration_warning", warning=warning)


def refused(exchange: Exchange, refusal: Refusal, route: str) -> None:
    """Write why a request was answered by us: the caller has the same request id in its problem document.

    Where a response had begun already, and is broken off, the caller has seen the status of that.
    """
    code, _ = challenge(refusal, exchange.target, None)
    status = exchange.status if exchange.responded else code
    tell = _log.warning if code >= HTTPStatus.INTERNAL_SERVER_ERROR else _log.info
    more = {"detail": refusal.detail, **_trace(exchange)}
    tell("refused", request_id=request_id(exchange), route=route, code=refusal.code, status=status, **more)


def access(exchange: Exchange, route: str, identifier: str) -> None:
    """Write the line of a finished request."""
    logs.access(
        request_id=identifier,
        method=exchange.head.method.decode("ascii"),
        path=exchange.target.path.decode("latin-1") if exchange.target else "",
        route=route,
        status=exchange.status,
        seconds=time.perf_counter() - exchange.began if exchange.began else 0.0,
        **_trace(exchange),
    )


def _trace(exchange: Exchange) -> dict[str, str]:
    """Return the trace that the request belongs to, where it names one (W3C Trace Context section 3.2)."""
    values = exchange.head.all(b"traceparent")
    return {"traceparent": values[0].decode("ascii")} if len(values) == 1 and _TRACEPARENT.match(values[0]) else {}
