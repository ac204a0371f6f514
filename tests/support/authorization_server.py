"""The demo's authorization server as the suite's real one.

A conftest.py that imports the fixture `authorization_server` gives it to its folder: a running server with the clients
below. Change `faults` and `policy` at will, count with `token_requests`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.demo.authorization_server import AuthorizationServer
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


@pytest.fixture
async def authorization_server() -> AsyncIterator[AuthorizationServer]:
    """Run an authorization server that knows `CLIENTS`, alice and bob."""
    async with AuthorizationServer(CLIENTS) as server:
        yield server
