"""The admin listener's view of all workers, from whichever of them serves the request. Shows; decides nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sidecar import observing
from sidecar.admin import prometheus
from sidecar.admin.state import AdminState, Check, Readiness, RefusalStatus, Status
from sidecar.metrics import RECENT
from sidecar.workers import merging

if TYPE_CHECKING:
    from sidecar.program import Program
    from sidecar.workers.link import Link


def admin_state(link: Link, number: int, program: Program) -> AdminState:
    """Return the view of worker `number`, which asks the others by `link`."""

    async def metrics_text() -> bytes:
        return prometheus.write((await link.ask())["metrics"])

    async def readiness() -> Readiness:
        told = (await link.ask("readiness"))["readiness"]
        checks = {name: Check(*check) for name, check in told["checks"].items()}
        return Readiness(told["ready"], checks, told["tokens_last"])

    async def status() -> Status:
        return _together(observing.shown(program), await link.ask("recent"))

    def explain(method: str, url: str, session: str | None, headers: list[tuple[str, str]]) -> dict[str, Any]:
        return observing.explained(program, method, url, session, headers) | {"worker": number}

    return replace(
        observing.admin_state(program),
        metrics_text=metrics_text,
        readiness=readiness,
        status=status,
        explain=explain,
        quit=(lambda: link.tell("quit")) if program.settings.admin.quit else None,
    )


def _together(status: Status, told: dict[str, Any]) -> Status:
    """Return one worker's status with the numbers and the latest refusals of all."""
    requests = merging.by_route(told["metrics"], "sidecar_requests_total")
    refusals = merging.by_route(told["metrics"], "sidecar_refusals_total")
    recent = sorted(told["recent"], reverse=True)[:RECENT]
    for route in status["routes"]:
        route["requests"], route["refusals"] = requests[route["name"]], refusals[route["name"]]
    status["refusals"] = [RefusalStatus(at=at, route=route, code=code) for at, route, code in recent]
    return status
