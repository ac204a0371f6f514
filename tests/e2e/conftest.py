"""What the tests of the whole program share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.process import Backdrop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def backdrop() -> Iterator[Backdrop]:
    """An authorization server, an API and a recording upstream for the processes of one module."""
    with Backdrop() as running:
        yield running
