"""A share of one CPU for each process, by a control group of its own: what more CPUs would show, on few of them.

Needs root and a writable hierarchy of control groups with the `cpu` controller, version 1 or 2.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.install import NotAvailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PERIOD = 10_000  # microseconds: short, so that a process that has used its share does not stop for long
_V1, _V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


@contextmanager
def shares(pids: Sequence[int], share: float) -> Iterator[None]:
    """Give each process `share` of one CPU for as long as the block lasts; raise `NotAvailableError`."""
    first = (_V1 if _V1.is_dir() else _V2) / "cgroup.procs"
    made: list[Path] = []
    try:
        try:
            for pid in pids:
                made.append(_group(f"benchmark-{pid}", int(share * PERIOD)))
                (made[-1] / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            raise NotAvailableError(f"no CPU shares can be set here: {error}") from None
        yield
    finally:
        for pid, group in zip(pids, made, strict=False):
            with suppress(OSError):  # a process that has ended is in no group
                first.write_text(str(pid))
            with suppress(OSError):  # one that does not empty is the machine's to keep
                group.rmdir()


def _group(name: str, quota: int) -> Path:
    if _V1.is_dir():
        group = _V1 / name
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text(str(PERIOD))
        (group / "cpu.cfs_quota_us").write_text(str(quota))
        return group
    (_V2 / "cgroup.subtree_control").write_text("+cpu")
    group = _V2 / name
    group.mkdir()
    (group / "cpu.max").write_text(f"{quota} {PERIOD}")
    return group
