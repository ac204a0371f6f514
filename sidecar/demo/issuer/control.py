"""`/_faults`: fault switches and policy over HTTP, for people at the demo. Loopback only, JSON only.

GET shows them, POST changes those it names, DELETE puts the fault switches back. JSON as the content type keeps web
pages out: a browser asks before it sends that elsewhere, and nobody here says yes.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from sidecar.demo.issuer.state import Policy, State

_POLICY = {"access_life": int | float, "rotate": bool, "leeway": int | float, "skew": int | float}


def routes(state: State) -> list[web.RouteDef]:
    """Return the routes of this endpoint for one server."""

    async def show(request: web.Request) -> web.Response:
        _loopback(request)
        return web.json_response(_shown(state))

    async def change(request: web.Request) -> web.Response:
        _loopback(request)
        return web.json_response(_change(state, await _object(request)) | _shown(state))

    async def reset(request: web.Request) -> web.Response:
        _loopback(request)
        state.faults.clear()
        return web.json_response(_shown(state))

    return [web.get("/_faults", show), web.post("/_faults", change), web.delete("/_faults", reset)]


def _loopback(request: web.Request) -> None:
    if not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:  # noqa: S104 - stands for "unknown"
        raise web.HTTPForbidden(text="only from this machine\n")


async def _object(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="the body is application/json\n")
    try:
        body = json.loads(await request.text())
    except ValueError:
        raise web.HTTPBadRequest(text="the body is not JSON\n") from None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text="the body is a JSON object\n")
    return body


def _change(state: State, body: dict[str, Any]) -> dict[str, Any]:
    """Carry out a body: `revoke` and `kill` act at once, the rest are switches. Return what the acts hit."""
    acts = {name: str(body.pop(name)) for name in ("revoke", "kill") if name in body}
    policy = {name: body.pop(name) for name in _POLICY if name in body}
    try:
        _check_policy(policy)
        state.faults.change(**body)
    except ValueError as error:
        raise web.HTTPBadRequest(text=f"unknown switch, or a value of the wrong type: {error}\n") from None
    _set(state.policy, policy)
    return {
        "access_tokens_revoked": state.ledger.revoke_access(acts["revoke"]) if "revoke" in acts else 0,
        "families_ended": state.ledger.kill_families(acts["kill"]) if "kill" in acts else 0,
    }


def _check_policy(policy: dict[str, Any]) -> None:
    for name, value in policy.items():
        if not isinstance(value, _POLICY[name]):
            raise ValueError(name)  # noqa: TRY004 - told to the caller together with unknown names


def _set(policy: Policy, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(policy, name, value)


def _shown(state: State) -> dict[str, Any]:
    switches = asdict(state.faults) | {"paths": sorted(state.faults.paths)}
    return switches | {name: getattr(state.policy, name) for name in _POLICY}
