"""What `/readyz` and the status page say of a provider."""

from __future__ import annotations

from typing import cast

import pytest

from sidecar.metrics import Metrics
from sidecar.provider import AuthorizationServer, ProviderState
from sidecar.status import readiness
from sidecar.stores.memory import MemoryStore
from tests.support.credentials import Bench


class _Provider:
    def __init__(self, *, reachable: bool | None, last_error: str) -> None:
        self._state = ProviderState("idp", reachable, last_error, None, metadata_loaded=True)

    def state(self) -> ProviderState:
        return self._state


@pytest.mark.parametrize(
    ("reachable", "last_error", "told"),
    [
        (None, "", "unknown"),
        (True, "", "ok"),
        (True, "client_refused", "failing"),
        (False, "timeout", "failing"),
    ],
)
async def test_provider_that_gives_no_tokens_is_told_and_does_not_take_the_readiness(
    reachable: bool | None, last_error: str, told: str
) -> None:
    """[IDP-13] A wrong client secret is no "ok"; valid tokens go on all the same."""
    bench = Bench()
    provider = cast("AuthorizationServer", _Provider(reachable=reachable, last_error=last_error))
    found = await readiness(Metrics(), MemoryStore(bench.clock), {"idp": provider}, bench.broker, 0.0, draining=False)
    assert found.checks["provider idp"][:2] == (told, last_error)
    assert found.ready
    await bench.broker.close(1)
