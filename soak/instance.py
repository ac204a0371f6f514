"""Runs the sidecar with a shorter lease of its locks, or with a trace of its renewals: `python -m soak.instance`.

    LEASE TRACE run -c FILE …

LEASE is in seconds, 0 leaves it alone. TRACE is a file (`-`: none) with a line for each refresh token that is about to
be sent and one for each renewal that the store has taken: what happened, a hash of the token, the monotonic time. A
line is with the kernel before the next step is taken, so SIGKILL loses none. Nothing else differs from
`python -m sidecar`.
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
    """Write down which refresh token is about to be spent, and when the store has taken a renewed chain."""
    from sidecar.credentials.records import Records
    from sidecar.credentials.renewal import Renewals

    ask, save, file = Renewals._ask, Records.save, path.open("a", buffering=1)  # noqa: SLF001

    async def asking(self: Renewals, trip: Any, sight: Any, *arguments: Any) -> Any:
        if sight.held.refresh_token is not None:
            file.write(f"asked {digest(sight.held.refresh_token.reveal())} {time.monotonic()}\n")
        return await ask(self, trip, sight, *arguments)

    async def saving(self: Records, name: str, record: Any, *arguments: Any, **named: Any) -> bool:
        stored = await save(self, name, record, *arguments, **named)
        now = time.monotonic()
        for chain in record.chains.values():
            if stored and chain.tokens:
                file.write(f"stored {digest(chain.tokens[-1].token.value.reveal())} {now}\n")
        return stored

    Renewals._ask = asking  # type: ignore[method-assign]  # noqa: SLF001
    Records.save = saving  # type: ignore[method-assign]


def run(arguments: list[str]) -> None:
    """Be an instance, with the arguments of this program."""
    lease, path = float(arguments[0]), arguments[1]
    if lease:
        shorten(lease)
    if path != "-":
        trace(Path(path))
    sys.argv[1:] = arguments[2:]
    from sidecar.cli import main

    main()


if __name__ == "__main__":
    run(sys.argv[1:])
