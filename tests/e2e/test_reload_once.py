"""A change of the file that a signal announces: read once, its warnings in the log."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.program import ENVIRON, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.program import Whole


def append(run: Whole, line: str) -> None:
    """Write one more line to the configuration file."""
    with Path(run.program.path).open("a") as file:
        file.write(line)


async def word_of_a_change(_files: object, _seen: object) -> AsyncIterator[None]:
    """Yield once, as the watch does when the files were written."""
    yield
    await asyncio.Event().wait()


async def watched(run: Whole) -> int:
    """Return how often the watch asks for a reload upon that word."""
    asked: list[None] = []

    async def reload() -> None:
        asked.append(None)

    with suppress(TimeoutError):
        await asyncio.wait_for(run.program.watch(reload), 0.05)
    return len(asked)


@pytest.mark.parametrize("signalled", [True, False])
async def test_change_that_a_signal_had_read_is_not_read_again(
    signalled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[HR-05] SIGHUP after a write: one reload; without it the watch asks for the one."""
    monkeypatch.setattr("sidecar.program.changes", word_of_a_change)
    async with whole(tmp_path) as run:
        append(run, "# changed\n")
        if signalled:
            assert await run.program.reload(ENVIRON)
        assert await watched(run) == (0 if signalled else 1)


async def test_warnings_of_a_reload_are_logged(tmp_path: Path) -> None:
    """What `check` warns of is in the log after a reload, as after a start."""
    async with whole(tmp_path) as run:
        append(run, "limits: {headers: 512}\n")
        with capture_logs() as lines:
            assert await run.program.reload(ENVIRON)
        assert ["limits.headers of 512" in line["warning"] for line in lines if "warning" in line] == [True]
