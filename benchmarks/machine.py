"""What the figures were taken on, and how busy it was. Nothing that names the machine or its user."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def describe() -> dict[str, str]:
    """Facts for the head of a report."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release().partition("-")[0],
        "Python": platform.python_version(),
        "load average before": f"{os.getloadavg()[0]:.1f}",
    }
