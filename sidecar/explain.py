"""What would happen to a request, without sending it: the corridor's decisions as plain values, never a token.

Pure but for `held`, which tells what is in memory for a key (None where no sidecar is running).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.assembly import marks_of, request_rules
from sidecar.callers.recognise import admit, recognise
from sidecar.errors import Refusal
from sidecar.message import Headers, Peer, RequestHead, section_of
from sidecar.model import APPLICATION, Secret, TokenKey
from sidecar.routing import Router
from sidecar.target import read_target

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.credentials.key_state import KeyState
    from sidecar.model import Caller, Target
    from sidecar.settings import Match, Route, Settings


class _Candidate(NamedTuple):
    route: Route

    @property
    def match(self) -> Match:
        return self.route.match


def explain(
    settings: Settings,
    method: str,
    url: str,
    session: str | None,
    headers: list[tuple[str, str]],
    held: Callable[[TokenKey], KeyState] | None = None,
) -> dict[str, Any]:
    """Return route, caller, grant, scope, token state and the head that would be sent; or the refusal."""
    head = _head(settings, method, url, session, headers)
    try:
        target = read_target(head)
        found = Router([_Candidate(route) for route in settings.routes]).find(target, head.method)
        if found is None:
            return {"outcome": _unmatched(settings, target)}
        route = found.route
        caller = recognise(settings.apps, settings.sessions, head, Peer(), route.as_)
        admit(caller, Peer(), route.allow, bool(settings.apps))
    except Refusal as refusal:
        return {"outcome": f"refused: {refusal.row.status} {refusal.code}", "detail": refusal.detail}
    return {"outcome": "forwarded", **_told(settings, route, caller, head, target, held)}


def _head(
    settings: Settings, method: str, url: str, session: str | None, headers: list[tuple[str, str]]
) -> RequestHead:
    pairs = list(headers)
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("Host", url.partition("://")[2].partition("/")[0] or "sidecar"))
    if session is not None and settings.sessions:
        kind = settings.sessions[0]
        cookie = next(iter(kind.cookies), None)
        name = "Cookie" if cookie else next(iter(kind.carriers)).decode()
        pairs.append((name, f"{cookie.decode()}={session}" if cookie else session))
    lines = [f"{name}: {value}".encode("latin-1") for name, value in pairs]
    return RequestHead(method.encode("ascii"), url.encode("ascii"), 1, Headers(section_of(lines), [], {}))


def _unmatched(settings: Settings, target: Target) -> str:
    if settings.unmatched == "forward" and target.form == "absolute":
        return "forwarded without a token: no route matches, and `unmatched: forward`"
    return "refused: 403 no_route"


def _told(
    settings: Settings,
    route: Route,
    caller: Caller,
    head: RequestHead,
    target: Target,
    held: Callable[[TokenKey], KeyState] | None,
) -> dict[str, Any]:
    spec = route.spec
    told: dict[str, Any] = {
        "route": route.name,
        "as": route.as_,
        "application": caller.app,
        "session": "recognised" if caller.session else None,
        "upstream": f"{route.upstream}{route.base_path}",
        "sent": _sent(settings, route, head, target),
    }
    if spec is not None:
        told |= {"provider": spec.provider, "grant": spec.grant, "scope": " ".join(sorted(spec.scopes))}
        told |= {"audience": spec.audience, "resource": list(spec.resources)}
        identity = caller.session or Secret(APPLICATION)
        told["token"] = _state(held(TokenKey(spec.fingerprint, identity.reveal()))) if held else "unknown (not running)"
    return told


def _state(state: KeyState) -> str:
    return f"{state.state}, {state.seconds_left:.0f} s left" if state.seconds_left else state.state


def _sent(settings: Settings, route: Route, head: RequestHead, target: Target) -> list[str]:
    rules = request_rules(route, marks_of(settings))
    lines = rules.lines(head.headers, route.upstream.authority.encode(), upgrade=False)
    sent = [f"{head.method.decode()} {route.base_path}{target.path.decode('latin-1')} HTTP/1.1"]
    sent += [line.decode("latin-1") for line in lines]
    return sent + ([f"{route.header}: {route.scheme} (the token)"] if route.as_ != "none" else [])
