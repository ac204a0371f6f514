"""Where things are built and written, and which ports are free. Decides nothing about what is measured."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = HERE / ".build"
RESULTS = HERE / "results"
PROGRAMS = HERE / "peers" / "programs"
LOOPBACK = "127.0.0.1"
_candidates = iter(random.sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on, and that was not given out before.

    It is below the range that the kernel takes outgoing ports from, so that no connection of the load occupies it.
    """
    for port in _candidates:
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)):
                return port
    raise OSError("no free port left")


def fill(template: Path, target: Path, values: Mapping[str, object]) -> Path:
    """Write `template` to `target` with each `@NAME@` replaced; an unfilled or unknown name is an error."""
    text = template.read_text()
    for name, value in values.items():
        if f"@{name}@" not in text:
            raise KeyError(f"{template.name} has no @{name}@")
        text = text.replace(f"@{name}@", str(value))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target
