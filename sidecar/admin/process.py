"""What the system says of this process, under the names that Prometheus's own clients give it. Linux; else nothing."""

from __future__ import annotations

import os
import resource
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Reading(NamedTuple):
    """One metric of the process: its name, kind and one-line help."""

    name: str
    kind: str  # "counter" | "gauge"
    help: str


READINGS = (
    Reading("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes."),
    Reading("process_resident_memory_bytes", "gauge", "Resident memory size in bytes."),
    Reading("process_start_time_seconds", "gauge", "Start time of the process since the epoch in seconds."),
    Reading("process_cpu_seconds_total", "counter", "Total user and system CPU time in seconds."),
    Reading("process_open_fds", "gauge", "Number of open file descriptors."),
    Reading("process_max_fds", "gauge", "Maximum number of open file descriptors."),
)
_PROC = Path("/proc")


def values() -> dict[str, float]:
    """Return the readings that can be had, by name."""
    try:
        fields = (_PROC / "self/stat").read_text("ascii").rpartition(")")[2].split()  # from the third on: proc(5)
        numbers = (
            float(fields[20]),
            float(fields[21]) * resource.getpagesize(),
            _booted() + float(fields[19]) / _ticks(),
            (float(fields[11]) + float(fields[12])) / _ticks(),
            float(sum(1 for _ in (_PROC / "self/fd").iterdir()) - 1),  # without the one that looks
            float(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        )
    except (OSError, ValueError, IndexError):
        return {}
    return dict(zip((reading.name for reading in READINGS), numbers, strict=True))


@cache
def _ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


@cache
def _booted() -> float:
    lines = (_PROC / "stat").read_text("ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("btime "))
