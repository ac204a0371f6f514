"""What was obtained for a session that is gone by then: its refresh token is revoked (RFC 7009).

Not where the same user has another session: many servers end with one refresh token all that they have granted to a
user and client, the tokens of that one too. Stores nothing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sidecar.errors import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.credentials.registry import AuthorizationServer
    from sidecar.credentials.session_record import Chain


async def _nobody(_chain: Chain) -> bool:
    return False


class Orphans:
    """`succeeded` is set from outside: whether whom a chain was of has another session."""

    def __init__(self) -> None:
        self.succeeded: Callable[[Chain], Awaitable[bool]] = _nobody

    async def end(self, server: AuthorizationServer, chain: Chain) -> None:
        """Revoke the refresh token of `chain`; where the store cannot say who has signed in, too."""
        with suppress(Refusal):
            if await self.succeeded(chain):
                return
        if chain.refresh_token is not None:
            await server.revoke(chain.refresh_token, "refresh_token")
