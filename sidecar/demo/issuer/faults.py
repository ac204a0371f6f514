"""The fault switches: what the server does wrong on purpose, for the next N requests or until it is told otherwise.

Two sorts. `down`, `status`, `html`, `empty`, `truncated`, `line_feed` and `error` answer instead of the endpoint, so
nothing is spent or issued. `lost`, `late` and `expires_in` spoil a real answer: the tokens exist, the client does not
learn it, or not soon.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from aiohttp import web

KEEP = "keep"
MISSING = "missing"
_HTML = "<!doctype html><title>Maintenance</title><h1>We will be back soon</h1>"
_LINE_FEED = {"access_token": "good-until\nhere", "token_type": "Bearer", "expires_in": 300}
_TRUNCATED = '{"access_token": "cut-off", "token_type": "Bea'


@dataclass(slots=True)
class Faults:
    """All switches, off by default. Set attributes, or use `change` with names and values from outside."""

    slow: float = 0.0  # seconds before anything else happens
    down: bool = False  # the connection is closed without an answer, nothing was done
    lost: bool = False  # the same, after everything was done
    late: float = 0.0  # seconds after everything was done, before the answer
    status: int = 0  # 500, 503, 429 …
    retry_after: str = ""  # goes with `status`
    html: bool = False  # 200 and a page
    empty: bool = False  # 200 and nothing
    truncated: bool = False  # 200 and half of a JSON object
    line_feed: bool = False  # 200 and an access token that cannot stand in a header
    error: str = ""  # an OAuth error: invalid_grant, invalid_client, temporarily_unavailable …
    expires_in: Any = KEEP  # any JSON value; MISSING leaves it out
    next: int | None = None  # how many more requests; then all switches go back. None: no limit
    paths: frozenset[str] = frozenset({"/token"})

    def change(self, **switches: Any) -> None:
        """Set several switches, all or none; raise ValueError for an unknown one or a wrong type."""
        for name, value in switches.items():
            if name not in _KINDS or not isinstance(value, _KINDS[name]):
                raise ValueError(name)
        for name, value in switches.items():
            setattr(self, name, frozenset(value) if name == "paths" else value)

    def clear(self) -> None:
        """Put all switches back."""
        for switch in fields(self):
            setattr(self, switch.name, switch.default)

    def take(self, path: str) -> Faults:
        """Return the faults for one request to `path`, and count it."""
        if path not in self.paths:
            return Faults()
        taken = replace(self)
        if self.next is not None:
            self.next -= 1
            if self.next <= 0:
                self.clear()
        return taken


_KINDS: dict[str, Any] = {
    "slow": int | float,
    "down": bool,
    "lost": bool,
    "late": int | float,
    "status": int,
    "retry_after": str,
    "html": bool,
    "empty": bool,
    "truncated": bool,
    "line_feed": bool,
    "error": str,
    "expires_in": object,
    "next": int | None,
    "paths": list | frozenset,
}


class Canned(NamedTuple):
    """An answer given instead of the endpoint's own, and its name in the record."""

    name: str
    response: web.Response


def instead(faults: Faults) -> Canned | None:
    """Return the answer that the switches prescribe in place of the endpoint's own."""
    if faults.error:
        body = {"error": faults.error, "error_description": "forced by a fault switch"}
        return Canned(faults.error, web.json_response(body, status=_error_status(faults.error)))
    if faults.status:
        headers = {"Retry-After": faults.retry_after} if faults.retry_after else {}
        return Canned(f"status {faults.status}", web.Response(status=faults.status, headers=headers))
    for name in ("html", "empty", "truncated", "line_feed"):
        if getattr(faults, name):
            return Canned(name, _strange(name))
    return None


def _error_status(error: str) -> int:
    return {"invalid_client": 401, "temporarily_unavailable": 503, "server_error": 500}.get(error, 400)


def _strange(name: str) -> web.Response:
    if name == "html":
        return web.Response(text=_HTML, content_type="text/html")
    text = {"truncated": _TRUNCATED, "line_feed": json.dumps(_LINE_FEED)}.get(name, "")
    return web.Response(text=text, content_type="application/json")


def spoiled(faults: Faults, answer: dict[str, Any]) -> dict[str, Any]:
    """Return a token response with the `expires_in` that the switch prescribes."""
    kept = {name: value for name, value in answer.items() if name != "expires_in"}
    if isinstance(faults.expires_in, str) and faults.expires_in == KEEP:
        return answer
    if isinstance(faults.expires_in, str) and faults.expires_in == MISSING:
        return kept
    return {**kept, "expires_in": faults.expires_in}
