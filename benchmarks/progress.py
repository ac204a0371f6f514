"""What is told while something is built or measured."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """A progress line; results alone go to standard output."""
    print(text, file=sys.stderr, flush=True)
