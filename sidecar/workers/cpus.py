"""How many workers `auto` is: the CPUs that this process may use, by its affinity and its control group's quota.

The window to both; what the kernel's texts mean is decided by pure functions.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def number(workers: int | Literal["auto"]) -> int:
    """Return the number of workers that the configuration means on this machine, at least 1."""
    return usable() if workers == "auto" else workers


def usable(groups: Path = GROUPS, own_group: Path = OWN_GROUP) -> int:
    """Return the number of CPUs that may be used; a part of one counts as one."""
    quotas = [math.ceil(quota) for quota in _quotas(groups, own_group) if quota is not None]
    return max(1, min([affinity(), *quotas]))


def affinity() -> int:
    """Return the number of CPUs that the scheduler may put us on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota_v2(text: str) -> float | None:
    """Return the CPUs that a `cpu.max` allows, None for no limit."""
    quota, _, period = text.strip().partition(" ")
    return _ratio(quota, period or "100000")


def quota_v1(quota: str, period: str) -> float | None:
    """Return the CPUs that `cpu.cfs_quota_us` and `cpu.cfs_period_us` allow, None for no limit (-1)."""
    return _ratio(quota.strip(), period.strip())


def group_of(text: str, controller: str) -> str:
    """Return the path of our control group in a `/proc/self/cgroup`; `controller` is "" for version 2."""
    for line in text.splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controller in controllers.split(","):
            return path.strip("/")
    return ""


def _ratio(quota: str, period: str) -> float | None:
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _quotas(groups: Path, own_group: Path) -> Iterator[float | None]:
    """Yield what our control group and each one around it allow. What cannot be read limits nothing."""
    own = _text(own_group)
    for folder in _upwards(groups, group_of(own, "")):
        yield quota_v2(_text(folder / "cpu.max"))
    for folder in _upwards(groups / "cpu", group_of(own, "cpu")):
        yield quota_v1(_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us"))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    parts = [part for part in path.split("/") if part not in ("", "..")]
    yield from (root.joinpath(*parts[:end]) for end in range(len(parts), -1, -1))


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, ValueError):
        return ""
