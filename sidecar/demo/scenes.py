"""The steps of the demo: each does one thing on the stage, and returns what was sent, what arrived and if it is right.

Every fact is taken from what the API and the authorization server recorded, none from what the sidecar says of itself.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from typing import TYPE_CHECKING

from sidecar.demo.heads import shown
from sidecar.demo.layout import Check, Scene
from sidecar.demo.stage import LEGACY_APP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from sidecar.demo.api import Received
    from sidecar.demo.stage import Stage, Turn

STATS, PROFILE = "http://stats.internal/stats", "http://profiles.internal/profile"
OK, UNAUTHORIZED = 200, 401
SHORT_LIFE = 4  # seconds
PAUSE = 0.2  # seconds between two requests


def _scene(title: str, intro: str, turn: Turn, *checks: Check) -> Scene:
    last = turn.received[-1].head if turn.received else b"(nothing)"
    return Scene(title, intro, shown(turn.exchange.sent), shown(last), checks)


def _served(turn: Turn, subject: str, scope: str, whose: str) -> Check:
    """Check that the application got 200 and the API saw exactly this subject and scope."""
    last = turn.received[-1] if turn.received else None
    right = last is not None and last.subject == subject and last.scopes == {scope} and turn.exchange.status == OK
    seen = f"subject {last.subject or '-'}, scope {' '.join(sorted(last.scopes)) or '-'}" if last else "no request"
    return Check(f"{turn.exchange.status}: the API verified {whose} ({seen})", right)


def _hidden(turn: Turn, session: str) -> Check:
    """Check that no byte of the session id reached the API, and that the other cookie did."""
    right = bool(turn.received) and all(session.encode() not in received.head for received in turn.received)
    return Check(
        "the session id stayed with the sidecar; the other cookie arrived", right and _theme(turn.received[-1])
    )


def _theme(received: Received) -> bool:
    return b"theme=dark" in received.head


def _cookie(session: str) -> dict[str, str]:
    return {"Cookie": f"theme=dark; sidecar_session={session}"}


async def without(stage: Stage) -> Scene:
    """Show that the API refuses the application that asks it directly."""
    turn = await stage.ask(f"{stage.api.url}/stats", {})
    challenge = turn.exchange.headers.get("www-authenticate", "")
    refused = turn.exchange.status == UNAUTHORIZED and challenge.startswith("Bearer")
    return _scene(
        "Without the sidecar",
        "The application asks the API directly. It was written before tokens, so it sends none.",
        turn,
        Check(f"{turn.exchange.status}: the API asks for a token ({challenge})", refused),
    )


async def application(stage: Stage) -> Scene:
    """Show `as: app` by HTTP_PROXY."""
    turn = await stage.ask(STATS, {}, stage.proxy)
    asked = stage.server.token_requests(grant_type="client_credentials", outcome="ok")
    return _scene(
        "as: app, the application's own token",
        f"The same application, with HTTP_PROXY=http://{stage.proxy} in its environment. Nothing else changed.",
        turn,
        _served(turn, LEGACY_APP, "stats.read", "the application's own token"),
        Check(f"{_requests(len(asked))} (client_credentials); the token is kept for the next time", len(asked) == 1),
    )


async def user_by_proxy(stage: Stage) -> Scene:
    """Show `as: user` for alice, by HTTP_PROXY, with the session in a cookie."""
    status = await stage.sign_in("alice")
    session = stage.sessions["alice"]
    turn = await stage.ask(PROFILE, _cookie(session), stage.proxy)
    return _scene(
        "as: user, alice's token, by HTTP_PROXY",
        "Alice signed in; the application handed her tokens over once (PUT /v1/sessions/ID on the admin listener). "
        "From then on her session cookie is all that it sends.",
        turn,
        Check(f"{status}: the sidecar took the session over", status == OK),
        _served(turn, "alice", "profiles.read", "alice's token"),
        _hidden(turn, session),
    )


async def user_by_base_url(stage: Stage) -> Scene:
    """Show `as: user` for bob, by base URL, with the session in a header line."""
    await stage.sign_in("bob")
    headers = {"X-Session-Id": stage.sessions["bob"], "Cookie": "theme=dark"}
    turn = await stage.ask(f"http://{stage.proxy}/profiles/profile", headers)
    return _scene(
        "as: user, bob's token, by base URL",
        "Where HTTP_PROXY does not fit, the sidecar is the API's base URL, and a route strips the prefix. "
        "Bob's session comes in a header line this time.",
        turn,
        _served(turn, "bob", "profiles.read", "bob's token, not alice's"),
        _hidden(turn, stage.sessions["bob"]),
    )


async def renewal(stage: Stage) -> Scene:
    """Show that a token is renewed in the background before it expires, and that no request fails."""
    stage.server.policy.access_life = SHORT_LIFE
    await stage.sign_in("alice")
    stage.server.policy.access_life = 300
    start = time.monotonic()
    turns = [await _alice(stage)]
    while len(_tokens(_all(turns))) == 1 and time.monotonic() - start < SHORT_LIFE:
        await asyncio.sleep(PAUSE)
        turns.append(await _alice(stage))
    return _renewal_scene(stage, turns, time.monotonic() - start)


def _renewal_scene(stage: Stage, turns: list[Turn], took: float) -> Scene:
    received = _all(turns)
    tokens = _tokens(received)
    first_try = [turn.exchange.status for turn in turns] == [one.status for one in received] == [OK] * len(turns)
    renewed = stage.server.token_requests(grant_type="refresh_token", subject="alice", outcome="ok")
    replaced = f"token {tokens[0]} was replaced by {tokens[-1]} after {took:.1f} seconds of its {SHORT_LIFE}"
    return Scene(
        "A token is renewed before it expires",
        f"Alice signs in again, and this token lives {SHORT_LIFE} seconds. The application asks every {PAUSE} s and "
        "notices nothing.",
        [f"{len(turns)} x GET {PROFILE}"],
        [f"{_count(received, token)} x GET /profile, token {token}" for token in tokens],
        (
            Check(f"{len(turns)} requests, each answered 200 at the first try", first_try),
            Check(replaced, len(tokens) > 1 and took < SHORT_LIFE),
            Check(f"{_requests(len(renewed))}, in the background (refresh_token, rotated)", len(renewed) == 1),
        ),
        compare=False,
    )


async def _alice(stage: Stage) -> Turn:
    return await stage.ask(PROFILE, _cookie(stage.sessions["alice"]), stage.proxy)


def _all(turns: Iterable[Turn]) -> list[Received]:
    return [one for turn in turns for one in turn.received]


def _tokens(received: Iterable[Received]) -> list[str]:
    return list(dict.fromkeys(one.token for one in received))


def _count(received: Iterable[Received], token: str) -> int:
    return sum(one.token == token for one in received)


def _requests(number: int) -> str:
    return "one token request" if number == 1 else f"{number} token requests"


async def revoked(stage: Stage) -> Scene:
    """Show that a revoked token is renewed after the API rejected it, and the request sent again."""
    stage.server.revoke("bob")
    turn = await stage.ask(PROFILE, _cookie(stage.sessions["bob"]), stage.proxy)
    renewed = stage.server.token_requests(grant_type="refresh_token", subject="bob", outcome="ok")
    replayed = [one.status for one in turn.received] == [UNAUTHORIZED, OK] and len(_tokens(turn.received)) > 1
    return Scene(
        "A revoked token is replaced after a 401",
        "Bob's token is revoked, and nobody tells the sidecar. The API says invalid_token; the sidecar renews once and "
        "sends the request once more.",
        shown(turn.exchange.sent),
        [line for one in turn.received for line in _brief(one)][:-1],
        (
            Check("the API refused the old token and took the new one", replayed),
            Check(f"{_requests(len(renewed))} (refresh_token)", len(renewed) == 1),
            _served(turn, "bob", "profiles.read", "bob's new token, and the application never saw the 401"),
        ),
        compare=False,
    )


def _brief(one: Received) -> list[str]:
    lines = shown(one.head)
    token = [line for line in lines if line.lower().startswith("authorization:")]
    return [lines[0], *token, f"→ {one.status}", ""]


async def stranger(stage: Stage) -> Scene:
    """Show that a user route without a session is refused, whatever tokens the application has of its own."""
    turn = await stage.ask(PROFILE, {"Cookie": "theme=dark"}, stage.proxy)
    code = _problem(turn).get("code", "no problem document")
    return Scene(
        "A user without a session is refused",
        "There is no falling back to the application's own token, and nothing is sent without one.",
        shown(turn.exchange.sent),
        _answer(turn),
        (
            Check(f"{turn.exchange.status} {code}: the sidecar's own answer, and it says so", _refused(turn, code)),
            Check("the API received nothing", not turn.received),
        ),
        heads=("what the app sent", "what the app got"),
        compare=False,
    )


def _problem(turn: Turn) -> dict[str, object]:
    is_problem = turn.exchange.headers.get("content-type", "").startswith("application/problem+json")
    return dict(json.loads(turn.exchange.body)) if is_problem else {}


def _answer(turn: Turn) -> list[str]:
    headers = [f"{name.title()}: {turn.exchange.headers.get(name, '-')}" for name in ("content-type", "proxy-status")]
    status = f"HTTP/1.1 {turn.exchange.status} {http.client.responses.get(turn.exchange.status, '')}"
    return [status, *headers, *json.dumps(_problem(turn), indent=2).splitlines()]


def _refused(turn: Turn, code: object) -> bool:
    told = turn.exchange.headers.get("proxy-status", "").startswith("sidecar")
    return turn.exchange.status == UNAUTHORIZED and code == "login_required" and told


SCENES: tuple[Callable[[Stage], Awaitable[Scene]], ...] = (
    without,
    application,
    user_by_proxy,
    user_by_base_url,
    renewal,
    revoked,
    stranger,
)
