"""What the figures were taken on, and how busy it was. Nothing that names the machine or its user."""

from __future__ import annotations

import os
import platform
import sys
import sysconfig
from pathlib import Path

DISTRIBUTION = Path("/usr")  # where a distribution's Python lives


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def optimised() -> bool:
    """Say whether the running Python was built with profile-guided optimisation, as far as it tells."""
    return Path(sys.base_prefix) == DISTRIBUTION or "--enable-optimizations" in (
        sysconfig.get_config_var("CONFIG_ARGS") or ""
    )


def describe() -> dict[str, str]:
    """Facts for the head of a report."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release().partition("-")[0],
        "Python": platform.python_version() + ("" if optimised() else ", built without optimisation"),
        "load average before": f"{os.getloadavg()[0]:.1f}",
    }
