"""`sidecar demo`: an authorization server, an API, a legacy application, and the story they tell with the sidecar."""

from __future__ import annotations

import asyncio
import os
import signal
import sys


def run(once: bool) -> int:
    """Tell the story on stdout and return the exit code; a signal before its end counts as a failure.

    The sidecar's own log is kept to errors, on stderr: the story shows what the other sides saw.
    """
    from sidecar import logs  # noqa: PLC0415 - tests use the servers of this package without the story

    sink = logs.configure("error", environ=os.environ, stream=sys.stderr)
    try:
        return asyncio.run(_told(once))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 1
    finally:
        sink.close()


async def _told(once: bool) -> int:
    """Tell the story; SIGTERM before its end stops everything in order, as SIGINT does."""
    from sidecar.demo import story  # noqa: PLC0415

    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await story.run(once, sys.stdout)
