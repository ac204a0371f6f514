"""Who is asking (the application) and for whom (the session), and whether that caller may use a route.

Pure decisions on one message head. The first source that recognises something decides; what is presented and wrong is
a refusal, never "try the next".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sidecar.errors import Refusal
from sidecar.message import Peer, RequestHead
from sidecar.model import As, Caller, Secret

if TYPE_CHECKING:
    from sidecar.callers import AppKind, SessionKind


def find_app(kinds: Sequence[AppKind], head: RequestHead, peer: Peer) -> str | None:
    """Return the application's name, None where no proof is presented; raise `Refusal` for a wrong one."""
    if peer.app is not None:
        return peer.app
    wrong: AppKind | None = None
    for kind in kinds:
        verdict = kind.check(head, peer)
        if verdict and (wrong is None or wrong.carriers == kind.carriers):  # one line proves one of several apps
            return kind.app
        if verdict is False and wrong is None:
            wrong = kind
    if wrong is not None:
        raise Refusal("caller_unknown", "The application's proof was not recognised.")
    return None


def find_session(kinds: Sequence[SessionKind], head: RequestHead) -> str | None:
    """Return the session id from the first source that holds one."""
    for kind in kinds:
        found = kind.find(head)
        if found is not None:
            return found
    return None


def recognise(
    apps: Sequence[AppKind], sessions: Sequence[SessionKind], head: RequestHead, peer: Peer, as_: As
) -> Caller:
    """Return the caller of a request on a route with this `as`: a session is looked for only where one is used."""
    app = find_app(apps, head, peer) if apps or peer.app is not None else None
    if as_ != "user":
        return Caller(app)
    session = find_session(sessions, head)
    if session is None:
        raise Refusal("login_required", "The request names no session.")
    return Caller(app, Secret(session))


def admit(caller: Caller, peer: Peer, allow: frozenset[str] | None, apps_configured: bool) -> None:
    """Raise `Refusal` unless the caller may use the route.

    Without `allow`: any recognised caller, and anyone on loopback where no apps are configured.
    """
    if caller.app is not None:
        if allow is not None and caller.app not in allow:
            raise Refusal("caller_not_allowed", "This application may not use this route.")
        return
    if allow is None and not apps_configured and (peer.loopback or caller.session is not None):
        return
    raise Refusal("caller_unknown", "The calling application has to prove which one it is.")
