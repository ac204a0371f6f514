"""The soak programs in their short form, side by side: they mostly wait."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]


@contextmanager
def programs(commands: Mapping[str, str]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Start `python -m soak.COMMAND` for each; kill what is left at the end, and the kernel kills its processes."""
    started = {
        name: subprocess.Popen(
            [sys.executable, "-m", *f"soak.{command}".split()],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for name, command in commands.items()
    }  # fmt: skip
    try:
        yield started
    finally:
        for program in started.values():
            program.kill()
            program.communicate()
