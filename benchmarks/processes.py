"""Starts programs, ends them, and reads what they used from /proc: CPU seconds and resident memory of a process tree.

CPU is utime + stime of the process, its threads and its living descendants, and of the children they have reaped.
The kernel counts it in ticks of 10 ms (`SC_CLK_TCK`): over a window of 3 s the rounding is below 1 %.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TICK = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Program:
    """A running program: its process and the file that collects what it prints."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def died(self) -> str | None:
        """Why it no longer runs, with its last words; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        words = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        return f"exited with {code}: {' / '.join(words) or 'no output'}"


@contextmanager
def running(
    argv: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None, cpus: frozenset[int] = frozenset()
) -> Iterator[Program]:
    """Run `argv` as a process group of its own, on `cpus` if any; on leaving end it: SIGTERM, after 5 s SIGKILL."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **(env or {})}
    with log.open("wb") as output, _affinity(cpus):
        process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        yield Program(process, log)
    finally:
        _end(process)


@contextmanager
def _affinity(cpus: frozenset[int]) -> Iterator[None]:
    """What this thread starts inside the block runs on `cpus`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
            return


def _fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from `state` on (the name before them may hold spaces)."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """`root` and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                children.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def cpu_seconds(root: int) -> float:
    """User plus system time so far of the tree under `root`."""
    ticks = 0
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            ticks += sum(int(field) for field in _fields(pid)[11:15])
    return ticks / TICK


def _status(pid: int, name: str) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in (PROC / str(pid) / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def rss_bytes(root: int) -> int:
    """Resident memory of the tree under `root`, shared pages counted in each process."""
    return sum(_status(pid, "VmRSS") for pid in tree(root))


def forget_peak(root: int) -> None:
    """Let `peak_rss_bytes` begin anew (Linux: `5` to /proc/PID/clear_refs)."""
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):
            (PROC / str(pid) / "clear_refs").write_text("5")


def peak_rss_bytes(root: int) -> int:
    """The most resident memory that each process of the tree had since `forget_peak`, summed."""
    return sum(_status(pid, "VmHWM") for pid in tree(root))


def wait_until(ready: Callable[[], object], seconds: float, step: float = 0.05) -> bool:
    """Call `ready()` until it is true, at most for `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if ready():
            return True
        time.sleep(step)
    return False
