"""What a peer is: how to get it and how to start it. A new one is a file and a line in `peers/__init__.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.scene import Scene


def _nothing() -> None:
    """Nothing to do once the port answers."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command that serves on 127.0.0.1:`port`; `prime` runs once it accepts connections (to put sessions in)."""

    argv: Sequence[str | Path]
    port: int
    env: Mapping[str, str] = field(default_factory=dict)
    prime: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy to measure.

    `prepare` installs and builds, returns the version, and raises NotAvailableError with the reason.
    `acts_as` says whose token the upstream must see: the application's, or that of the session in the cookie.
    """

    name: str
    title: str
    prepare: Callable[[], str]
    launch: Callable[[Scene], Launch]
    acts_as: Literal["app", "user"] = "app"
