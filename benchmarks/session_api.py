"""Puts sessions into a running sidecar through its admin listener, as an application does after a sign-in."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from typing import TYPE_CHECKING

from benchmarks.places import LOOPBACK
from benchmarks.processes import wait_until
from benchmarks.scene import REFRESH_LENGTH, SCOPE, Session, make_token
from benchmarks.wire import send

if TYPE_CHECKING:
    from collections.abc import Iterable


class SessionApiError(Exception):
    """The sidecar's session API did not accept a session."""


def _token_response(session: Session) -> bytes:
    answer = {
        "access_token": session.token,
        "token_type": "Bearer",
        "expires_in": 86400,
        "refresh_token": make_token("refresh", REFRESH_LENGTH),
        "scope": SCOPE,
        "provider": "idp",
    }
    return json.dumps(answer).encode()


def put_sessions(admin_port: int, sessions: Iterable[Session]) -> None:
    """`PUT /v1/sessions/{id}` for each, one after another on one connection."""
    if not wait_until(lambda: send(admin_port, "GET", "/healthz", {}, timeout=2).status == 200, 15):
        raise SessionApiError("the admin listener does not answer /healthz with 200")
    headers = {"Content-Type": "application/json"}
    with closing(http.client.HTTPConnection(LOOPBACK, admin_port, timeout=30)) as connection:
        for session in sessions:
            connection.request("PUT", f"/v1/sessions/{session.id}", _token_response(session), headers)
            response = connection.getresponse()
            words = response.read(300)
            if response.status not in {200, 201, 204}:
                raise SessionApiError(f"PUT /v1/sessions answered {response.status}: {words.decode(errors='replace')}")
