"""Word of changed files: an in-place write, a rename, a Kubernetes ConfigMap's `..data` swap.

Watches directories, since a watched file goes silent once it is replaced, and compares contents, since directories
speak of much else. The one window to watchfiles. It decides nothing about what the files hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import watchfiles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

DEBOUNCE = 400  # milliseconds of quiet that a burst of changes is waited for
LOOK_ANYWAY = 5.0  # seconds after which contents are compared without a word from the system (network mounts)


def digest(files: Sequence[str]) -> str:
    """Return a hash over the names and contents of the files. A file that cannot be read counts as absent."""
    total = hashlib.sha256()
    for name in files:
        try:
            content = hashlib.sha256(Path(name).read_bytes()).hexdigest()
        except OSError as error:
            content = f"errno {error.errno}"
        total.update(f"{name}\0{content}\0".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


async def changes(files: Sequence[str], seen: str | None = None) -> AsyncIterator[None]:
    """Yield once for each change of what the files hold, until closed or cancelled.

    `seen` is `digest(files)` from before the configuration was read: what changed since is then not missed.
    """
    last = digest(files) if seen is None else seen
    while True:
        await _something(_directories(files), seconds=LOOK_ANYWAY if seen is None else 0.0)
        seen = None
        now = digest(files)
        if now != last:
            last = now
            yield


def _directories(files: Sequence[str]) -> list[str]:
    """Return the folders of the files and of what their links lead to, as far as they exist."""
    folders = {os.path.dirname(way(name)) for name in files for way in (os.path.abspath, os.path.realpath)}  # noqa: PTH120
    return sorted(folder for folder in folders if Path(folder).is_dir())


async def _something(directories: Sequence[str], *, seconds: float) -> None:
    """Return when something happened in one of the directories, or after so many seconds."""
    if not directories or not seconds:
        await asyncio.sleep(seconds)
        return
    words = watchfiles.awatch(
        *directories,
        watch_filter=None,
        debounce=DEBOUNCE,
        rust_timeout=int(seconds * 1000),
        yield_on_timeout=True,
        recursive=False,
        ignore_permission_denied=True,
    )
    async for _ in words:
        break
    await words.aclose()
