"""Gives the sessions of each test module ids of their own: tests like to say `a-session`, and so do other tests.

Callers and operators of the tests say an id in a header line, a cookie, a path or a JSON member; nothing of the product
ever says it back. So what they say is changed on its way, always in the same manner within a module.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tests.support import process, program
from tests.support.canary_record import SESSION_PATH

if TYPE_CHECKING:
    from collections.abc import Iterable

AS_IT_IS = frozenset(
    {
        "test_clients.py",
        "test_canary.py",
        "test_explain.py",
        "test_fuzz_short.py",
        "test_login.py",
        "test_login_browser.py",
        "test_tunnels_end.py",
        "test_workers.py",
    }
)
"""Modules whose sessions go by other ways as well, under ids of their own: commands, questions, browsers, internals."""
_ID = re.compile(r"[a-z][a-z0-9-]{2,60}")
_COOKIE = re.compile(r"(?<=sidecar_session=)[a-z][a-z0-9-]{2,60}(?=$|;)")


def own_sessions(_record: object) -> None:
    """Change the ids that are sent from now on."""
    head, ask, ask_process = program.head, program.Caller.ask, process.Process.ask

    def own_head(method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None) -> bytes:
        return head(method, _target(target), _headers(headers), body)

    async def own_ask(
        self: Any, method: str, target: str, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> Any:
        return await ask(self, method, _target(target), _headers(headers), _body(body))

    def own_ask_process(self: Any, target: str, headers: Any = None, *, body: bytes | None = None, **how: Any) -> Any:
        lines = dict(_headers(dict(headers or {}).items()))
        return ask_process(self, _target(target), lines, body=_body(body), **how)

    program.head = own_head
    program.Caller.ask = own_ask  # type: ignore[method-assign]
    process.Process.ask = own_ask_process  # type: ignore[method-assign]


def _own(session: str) -> str:
    module = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[0].rpartition("/")[2]
    mark = "-" + hashlib.sha256(module.encode()).hexdigest()[:10]
    if module in AS_IT_IS or session.endswith(mark) or not _ID.fullmatch(session):
        return session
    return session + mark


def _target(target: str) -> str:
    return SESSION_PATH.sub(lambda found: f"/v1/sessions/{_own(found[1])}", target)


def _headers(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, _header(name.lower(), value)) for name, value in headers]


def _header(name: str, value: str) -> str:
    if name == "x-session-id":
        return _own(value)
    return _COOKIE.sub(lambda found: _own(found[0]), value) if name == "cookie" else value


def _body(body: bytes | None) -> bytes | None:
    with suppress(ValueError):
        document = json.loads(body or b"")
        if isinstance(document, dict) and isinstance(document.get("session"), str):
            return json.dumps({**document, "session": _own(document["session"])}).encode()
    return body
