"""The sidecar of `soak.slopes`: its time of day runs faster, and it counts its event loop's tasks.

    python -m soak.slopes_side SCALE TASKS run -c FILE …

Everything that goes by the time of day (tokens, sessions, records) lives SCALE times as fast, and so does the broker's
housekeeping; timers of connections and of the limits of a provider do not. TASKS is a file with the number of tasks as
it was within the last second. Nothing else differs from `python -m sidecar`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

SHORTEST = 0.5  # seconds of real time between two rounds of housekeeping


def hasten(scale: float) -> None:
    """Let the time of day run `scale` times as fast from now on; before anything of the sidecar is imported."""
    true, began = time.time, time.time()
    time.time = lambda: began + (true() - began) * scale
    from sidecar.credentials import broker

    broker.HOUSEKEEPING_EVERY = max(broker.HOUSEKEEPING_EVERY / scale, SHORTEST)


def count_tasks(path: Path) -> None:
    """Write down the number of tasks, once a second."""
    from sidecar import process

    factory = process.loop_factory() or asyncio.new_event_loop

    def make() -> asyncio.AbstractEventLoop:
        loop = factory()

        def look() -> None:
            path.write_text(str(len(asyncio.all_tasks(loop))))
            loop.call_later(1.0, look)

        loop.call_soon(look)
        return loop

    process.loop_factory = lambda: make


def main() -> None:
    hasten(float(sys.argv[1]))
    count_tasks(Path(sys.argv[2]))
    del sys.argv[1:3]
    from sidecar.cli import main as sidecar

    sidecar()


if __name__ == "__main__":
    main()
