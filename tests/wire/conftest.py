"""What the tests with real sockets share."""

from __future__ import annotations

from tests.support.authorization_server import authorization_server

__all__ = ["authorization_server"]
