"""An end in order while the provider takes its time."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

from tests.support.authorization_server import LEGACY
from tests.support.process import Backdrop, Process
from tests.support.program import BOTH, head, text

if TYPE_CHECKING:
    from pathlib import Path

PROFILES = "http://profiles.internal/x"
SLOW = 6.0  # longer than an end takes that waits for nothing


def test_answer_that_is_late_when_the_process_ends_is_stored_before_it_does(backdrop: Backdrop, tmp_path: Path) -> None:
    """[RF-12] The callers have gone, the refresh token has been rotated: the end waits for it, and nothing is lost."""
    store = f'store: {{url: "sqlite:{tmp_path}/store.db"}}'
    configuration = text(backdrop.server, backdrop.upstream, BOTH, store, patience="10s")
    with Process(tmp_path, configuration) as sidecar:
        tokens = backdrop.do(lambda: backdrop.server.issue("alice", "profiles.read", LEGACY.client_id))
        sidecar.manage("PUT", "/v1/sessions/alice-0123456789abcdef", {**tokens, "expires_in": 1, "provider": "idp"})
        time.sleep(1)
        backdrop.server.faults.late = SLOW
        caller = threading.Thread(target=_ask, args=(sidecar,), daemon=True)
        caller.start()
        time.sleep(1)
        backdrop.server.faults.clear()
        assert sidecar.terminate() == 0
        caller.join(5)
        sidecar.start()
        assert sidecar.ask(PROFILES, {"X-Session-Id": "alice-0123456789abcdef"}).status == 200
    assert [one.outcome for one in backdrop.server.token_requests(subject="alice")] == ["ok"]


def _ask(sidecar: Process) -> None:
    """Ask, and leave before there is an answer."""
    host, _, port = sidecar.proxy.rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 0.5) as connection:
        connection.sendall(head("GET", PROFILES, [("X-Session-Id", "alice-0123456789abcdef")]))
        connection.recv(1)
