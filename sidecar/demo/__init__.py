"""`sidecar demo`: an authorization server, an API, a legacy application, and the story they tell with the sidecar."""

from __future__ import annotations

import asyncio
import os
import sys


def run(once: bool) -> int:
    """Tell the story on stdout and return the exit code; Ctrl-C before its end counts as a failure.

    The sidecar's own log is kept to errors, on stderr: the story shows what the other sides saw.
    """
    from sidecar import logs  # noqa: PLC0415 - tests use the servers of this package without the story
    from sidecar.demo import story  # noqa: PLC0415

    sink = logs.configure("error", environ=os.environ, stream=sys.stderr)
    try:
        return asyncio.run(story.run(once, sys.stdout))
    except KeyboardInterrupt:
        return 1
    finally:
        sink.close()
