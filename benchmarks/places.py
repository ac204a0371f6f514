"""Where things are built and written, and which ports are free. Decides nothing about what is measured."""

from __future__ import annotations

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


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


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
