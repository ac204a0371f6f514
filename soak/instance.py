"""Runs the sidecar with a shorter lease of its locks, or with a trace of its writes: `python -m soak.instance`.

    LEASE TRACE run -c FILE …

LEASE is in seconds, 0 leaves it alone. TRACE is a file (`-`: none) to which each stored renewal is written: the hash of
the access token and the monotonic time at which the store had it. Nothing else differs from `python -m sidecar`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from soak.far_side import digest


def shorten(lease: float) -> None:
    """Let locks be leased for `lease` seconds."""
    from sidecar.credentials import records

    records.LOCK_LEASE = lease


def trace(path: Path) -> None:
    """Write down when the store has taken a renewed chain."""
    from sidecar.credentials.records import Records

    save, file = Records.save, path.open("a", buffering=1)

    async def traced(self: Records, name: str, record: Any, *arguments: Any) -> bool:
        stored = await save(self, name, record, *arguments)
        now = time.monotonic()
        for chain in record.chains.values():
            if stored and chain.tokens:
                file.write(f"{digest(chain.tokens[-1].token.value.reveal())} {now}\n")
        return stored

    Records.save = traced  # type: ignore[method-assign]


if __name__ == "__main__":
    lease, path = float(sys.argv[1]), sys.argv[2]
    if lease:
        shorten(lease)
    if path != "-":
        trace(Path(path))
    sys.argv[1:] = sys.argv[3:]
    from sidecar.__main__ import main

    main()
