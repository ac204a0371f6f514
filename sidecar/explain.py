"""What would happen to a request, without sending it: the corridor's own decisions as plain values, never a token.

The question is made a head and read as the wire reads one; each step is the one that `proxy` takes, in its order, so
that what is told here is what happens. Pure but for `held`, which tells what is in memory for a key (None where no
sidecar is running). What only the run itself knows is not told: limits of time and number, addresses, the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sidecar.assembly import marks_of, request_rules
from sidecar.callers.recognise import admit, find_app, recognise
from sidecar.elsewhere import takes
from sidecar.errors import Refusal
from sidecar.headers import RETURNING, check_returning, one_hop_less, wants_upgrade
from sidecar.lane import challenge, without_segments
from sidecar.message import Peer, RequestHead, lines_of, section_of
from sidecar.model import APPLICATION, Caller, Secret, TokenKey
from sidecar.proxy import check_path, check_readings
from sidecar.routing import Router
from sidecar.target import read_target
from sidecar.wire.framing import request_framing
from sidecar.wire.head import parse_request
from sidecar.wire.hearing import Hearing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.credentials.key_state import KeyState
    from sidecar.model import Target
    from sidecar.settings import Match, Route, Settings

_CONTROL = str.maketrans(dict.fromkeys("\r\n", "\0"))  # never a line of its own: the reader refuses a NUL


class _Candidate(NamedTuple):
    route: Route

    @property
    def match(self) -> Match:
        return self.route.match

    @property
    def token(self) -> bool:
        return self.route.as_ != "none"


def explain(
    settings: Settings,
    method: str,
    url: str,
    session: str | None,
    headers: list[tuple[str, str]],
    held: Callable[[TokenKey], KeyState] | None = None,
) -> dict[str, Any]:
    """Return route, caller, grant, scope, token state and the head that would be sent; or the refusal.

    The request is one of a caller on this machine, to the first listener.
    """
    peer = Peer(app=settings.listeners[0].app)
    found: _Candidate | None = None
    target: Target | None = None
    try:
        head = _head(settings, method, url, session, headers)
        target = read_target(head)
        if head.method == b"CONNECT":
            return {"outcome": _tunnel(settings, head, target, peer)}
        router = Router([_Candidate(route) for route in settings.routes])
        found = router.find(target, head.method)
        if found is None:
            return {"outcome": _unmatched(settings, head, target, peer, router)}
        caller = _admitted(settings, found, head, target, peer, router)
    except Refusal as refusal:
        route = {"route": found.route.name} if found else {}
        status, _ = challenge(refusal, target, None)
        return {"outcome": f"refused: {status} {refusal.code}", "detail": refusal.detail, **route}
    return {"outcome": "forwarded", **_told(settings, found.route, caller, head, target, held)}


def _admitted(
    settings: Settings, found: _Candidate, head: RequestHead, target: Target, peer: Peer, router: Router[_Candidate]
) -> Caller:
    caller = recognise(settings.apps, settings.sessions, head, peer, found.route.as_)
    admit(caller, peer, found.route.allow, bool(settings.apps))
    check_path(target, found.route, found.token)
    check_readings(router, target, head.method, found)
    if head.method in RETURNING:
        check_returning(head, token=found.token, body=request_framing(head).length != 0)
    return caller


def _head(
    settings: Settings, method: str, url: str, session: str | None, headers: list[tuple[str, str]]
) -> RequestHead:
    pairs = list(headers)
    if not any(name.lower() == "host" for name, _ in pairs):
        pairs.insert(0, ("Host", _authority(url)))
    if session is not None and settings.sessions:
        kind = settings.sessions[0]
        cookie = next(iter(kind.cookies), None)
        name = "Cookie" if cookie else next(iter(kind.carriers)).decode()
        pairs.append((name, f"{cookie.decode()}={session}" if cookie else session))
    lines = [_line(f"{method} {url} HTTP/1.1"), *(_line(f"{name}: {value}") for name, value in pairs)]
    marks = marks_of(settings)
    speaking = frozenset[bytes]().union(*(request_rules(route, marks).speaking for route in settings.routes))
    head = parse_request(b"\r\n".join([*lines, b"", b""]), settings.limits, Hearing(speaking, marks.cookies))
    request_framing(head)
    return head


def _authority(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    authority = rest if mark else scheme
    authority = authority.partition("/")[0].partition("?")[0]
    return authority if mark or ":" in authority else "sidecar"


def _line(text: str) -> bytes:
    return text.translate(_CONTROL).encode("utf-8", "surrogateescape")


def _unmatched(settings: Settings, head: RequestHead, target: Target, peer: Peer, router: Router[_Candidate]) -> str:
    if settings.unmatched == "forward":
        check_readings(router, target, head.method, None)
    admit(Caller(find_app(settings.apps, head, peer)), peer, None, bool(settings.apps))
    if settings.unmatched == "forward" and target.form == "absolute":
        return "forwarded without a token: no route matches, and `unmatched: forward`"
    return "refused: 403 no_route"


def _tunnel(settings: Settings, head: RequestHead, target: Target, peer: Peer) -> str:
    admit(Caller(find_app(settings.apps, head, peer)), peer, None, bool(settings.apps))
    if any(takes(tunnel, target) for tunnel in settings.tunnels):
        return "tunnelled untouched, without a token: `tunnels.allow` names the destination"
    return "refused: 403 tunnel_refused"


def _told(
    settings: Settings,
    route: Route,
    caller: Caller,
    head: RequestHead,
    target: Target,
    held: Callable[[TokenKey], KeyState] | None,
) -> dict[str, Any]:
    spec = route.spec
    sent = _sent(settings, route, head)
    told: dict[str, Any] = {
        "route": route.name,
        "as": route.as_,
        "application": caller.app,
        "session": "recognised" if caller.session else None,
        "upstream": f"{route.upstream}{route.base_path}",
        "removed": _removed(settings, head, sent),
        "sent": [_request_line(route, head, target), *(line.decode("utf-8", "replace") for line in sent)],
    }
    if spec is not None:
        told["sent"].append(f"{route.header}: {route.scheme} (the token)")
        told |= {"provider": spec.provider, "grant": spec.grant, "scope": " ".join(sorted(spec.scopes))}
        told |= {"audience": spec.audience, "resource": list(spec.resources)}
        identity = caller.session or Secret(APPLICATION)
        told["token"] = _state(held(TokenKey(spec.fingerprint, identity.reveal()))) if held else "unknown (not running)"
    return told


def _state(state: KeyState) -> str:
    if state.state == "none":
        return "none in memory: the request looks in the store, then asks the authorization server"
    return f"{state.state}, {state.seconds_left:.0f} s left" if state.seconds_left else state.state


def _request_line(route: Route, head: RequestHead, target: Target) -> str:
    strip = route.match.path.rstrip("/").count("/") if route.strip_prefix else 0
    path = without_segments(target.path, strip) if strip else target.path
    base = route.base_path.encode("ascii") if path != b"*" else b""
    return (head.method + b" " + base + path + b" HTTP/1.1").decode("latin-1")


def _sent(settings: Settings, route: Route, head: RequestHead) -> list[bytes]:
    rules = request_rules(route, marks_of(settings))
    lines = rules.lines(head.headers, route.upstream.authority.encode(), upgrade=wants_upgrade(head))
    return lines_of(one_hop_less(section_of(lines))) if head.method in RETURNING else lines


def _removed(settings: Settings, head: RequestHead, sent: list[bytes]) -> list[str]:
    """Return the names of the lines that stay behind, and of our cookies; never a value."""
    going = [line[: line.find(b":")].lower() for line in sent]
    removed = [line[: line.find(b":")].decode() for line in head.headers.lines]
    names = [name for name in removed if name.lower().encode() not in going and name.lower() != "host"]
    cookies = [
        cookie.decode()
        for cookie in sorted(marks_of(settings).cookies)
        if any(pair.strip().startswith(cookie + b"=") for line in head.all(b"cookie") for pair in line.split(b";"))
    ]
    return [*(name for name in names if name.lower() != "cookie"), *(f"Cookie: {cookie}" for cookie in cookies)]
