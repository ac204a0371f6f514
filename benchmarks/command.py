"""What the benchmark programs have in common on the command line: types of arguments, progress lines, a clean end."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
from typing import TYPE_CHECKING

from benchmarks.install import NotAvailableError
from benchmarks.peers import PEERS
from benchmarks.progress import say

if TYPE_CHECKING:
    from collections.abc import Callable


def numbers(text: str) -> list[int]:
    """`170,65536` as numbers."""
    return [int(part) for part in text.split(",")]


def names(text: str) -> list[str]:
    """`nginx,envoy` as names of peers."""
    found = text.split(",")
    if unknown := [name for name in found if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return found


def enter(work: Callable[[], int]) -> int:
    """Run a program: as many open files as allowed (children inherit it), SIGTERM unwinds and ends what was started."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return work()
    except NotAvailableError as reason:
        say(f"cannot measure: {reason}")
        return 1
