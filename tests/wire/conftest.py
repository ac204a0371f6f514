"""What the tests with real sockets share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.authorization_server import authorization_server
from tests.support.corridor import Corridor, corridors
from tests.support.judge import strictly_read

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["authorization_server", "both"]


@pytest.fixture(scope="session")
def running() -> Iterator[dict[str, Corridor]]:
    """The proxy on each kind of event loop, for all tests that need no settings of their own."""
    with corridors() as found:
        yield found


@pytest.fixture
def both(running: dict[str, Corridor]) -> Iterator[dict[str, Corridor]]:
    """Those proxies; whatever the test was about, two strict readers read what they forwarded."""
    yield running
    for corridor in running.values():
        strictly_read(corridor)
