"""The demo's authorization server as the suite's real one.

A conftest.py that imports the fixture `authorization_server` gives it to its folder: a running server with the clients
below. Change `faults` and `policy` at will, count with `token_requests`.
"""

from __future__ import annotations

import socket
import weakref
from typing import TYPE_CHECKING

import pytest

from sidecar.demo import authorization_server as demo
from sidecar.demo.issuer.clients import Client
from sidecar.demo.issuer.faults import KEEP, MISSING, Faults
from sidecar.demo.issuer.grants import challenge
from sidecar.demo.issuer.state import Policy, Received

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["KEEP", "MISSING", "AuthorizationServer", "Client", "Faults", "Policy", "Received", "challenge"]

CALLBACK = "http://127.0.0.1:1/callback"
LEGACY = Client("legacy-app", "s+cr%t: ü", redirect_uris=frozenset({CALLBACK}))
"""Basic authentication with a secret that must be form-encoded; any scope."""
POST = Client("post-app", "post-secret", auth="client_secret_post", scopes=frozenset({"a", "b"}))
PUBLIC = Client("public-app", auth="none", redirect_uris=frozenset({CALLBACK}))
RESOURCE = Client("demo-api", "api-secret", grants=frozenset())
CLIENTS = (LEGACY, POST, PUBLIC, RESOURCE)


class AuthorizationServer(demo.AuthorizationServer):
    """Whose port nobody else gets between `stop` and `start`: tests run side by side, with servers on any port."""

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        await super().start(host, port)
        self._release()

    async def stop(self) -> None:
        await super().stop()
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind(self._address)  # and does not listen: whoever connects is refused
        except OSError:
            held.close()  # who has it now was faster
        else:
            self._release = weakref.finalize(self, held.close)

    @staticmethod
    def _release() -> None:
        """Nothing is held yet."""


@pytest.fixture
async def authorization_server() -> AsyncIterator[AuthorizationServer]:
    """Run an authorization server that knows `CLIENTS`, alice and bob."""
    async with AuthorizationServer(CLIENTS) as server:
        yield server
