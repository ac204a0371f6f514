"""Word of changed files: an in-place write, a rename, a Kubernetes ConfigMap's `..data` swap.

Looks twice a second at what the names lead to (`stat`, links followed): that needs no thread, no descriptor and no
word from the system, so network mounts and folders that appear later are no special case. Compares contents when
something moved, since times change without them. It decides nothing about what the files hold.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from sidecar.config.contents import digest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LOOK = 0.5  # seconds between two looks
QUIET = 0.2  # seconds without a change that a burst of changes is waited for
LONGEST_BURST = 10  # such pauses; then contents are compared all the same
LOOK_ANYWAY = 5.0  # seconds after which contents are compared though nothing moved (coarse clocks)

Marks = tuple[tuple[int, ...], ...]


async def changes(files: Sequence[str], seen: str | None = None) -> AsyncIterator[None]:
    """Yield once for each change of what the files hold, until closed or cancelled.

    `seen` is `digest(files)` from before the configuration was read: what changed since is then not missed.
    """
    marks = _marks(files)
    last = digest(files) if seen is None else seen
    clock = asyncio.get_running_loop().time
    due = clock() + (LOOK_ANYWAY if seen is None else 0.0)
    while True:
        await asyncio.sleep(min(LOOK, LOOK_ANYWAY))
        if marks != (marks := await _settled(files, marks)) or clock() >= due:
            due = clock() + LOOK_ANYWAY
            now = digest(files)
            if now != last:
                last = now
                yield


async def _settled(files: Sequence[str], before: Marks) -> Marks:
    """Return the files' marks; where they are changing, those of when it is over."""
    marks = _marks(files)
    for _ in range(LONGEST_BURST):
        if marks == before:
            break
        await asyncio.sleep(QUIET)
        before, marks = marks, _marks(files)
    return marks


def _marks(files: Sequence[str]) -> Marks:
    """Return for each file what changes whenever it is written or replaced."""
    return tuple(_mark(name) for name in files)


def _mark(name: str) -> tuple[int, ...]:
    try:
        found = os.stat(name)  # noqa: PTH116 - twice a second
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
